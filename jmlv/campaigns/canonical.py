"""Digests of values: equal values give equal digests, in every process and on every machine."""

from __future__ import annotations

import dataclasses
import enum
import functools
import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np


def digest(value: Any, name: str = "value") -> str:
    """SHA-256 of a value's canonical form.

    Values are numbers, texts, arrays, sequences, mappings, enum members, dataclasses (strategies,
    oracles, properties, regions), classes, and functions that a module has by name. Numbers that are
    equal in Python have one form: ``digest(60) == digest(60.0)``.

    Args:
        value: what to name.
        name: what an error calls it.

    Raises:
        TypeError: a part of the value has no form that another process would find too.

    >>> import jmlv
    >>> digest(jmlv.CROWN()) == digest(jmlv.CROWN()) != digest(jmlv.IBP())
    True
    """
    found = hashlib.sha256()
    for part in _parts(value, name):
        found.update(b"%d:" % len(part) + part)
    return found.hexdigest()


def _parts(value: Any, name: str) -> Iterator[bytes]:
    if value is None or isinstance(value, (bool, np.bool_)):
        yield repr(value if value is None else bool(value)).encode()
    elif isinstance(value, (int, float, np.integer, np.floating)):
        yield _number(value).encode()
    elif isinstance(value, str):
        yield b"str " + value.encode()
    elif isinstance(value, bytes):
        yield b"bytes " + value
    elif isinstance(value, enum.Enum):
        yield f"enum {_place(type(value), name)} {value.name}".encode()
    elif isinstance(value, (np.ndarray, jax.Array)):
        yield from _array(np.asarray(value))
    elif isinstance(value, (tuple, list)):
        yield b"sequence %d" % len(value)
        for i, item in enumerate(value):
            yield from _parts(item, f"{name}[{i}]")
    elif isinstance(value, Mapping):
        yield b"mapping %d" % len(value)
        for key in sorted(value):
            yield from _parts(key, f"{name} key")
            yield from _parts(value[key], f"{name}[{key!r}]")
    elif isinstance(value, functools.partial):
        yield b"partial"
        yield from _parts((value.func, value.args, value.keywords), name)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        yield f"dataclass {_place(type(value), name)}".encode()
        for field in dataclasses.fields(value):
            yield field.name.encode()
            yield from _parts(getattr(value, field.name), f"{name}.{field.name}")
    else:
        yield f"named {_place(value, name)}".encode()


def _number(value: Any) -> str:
    whole = float(value).is_integer() if isinstance(value, (float, np.floating)) else True
    return f"number {int(value) if whole else float(value)!r}"


def _array(value: np.ndarray) -> Iterator[bytes]:
    yield f"array {value.dtype.str} {value.shape}".encode()
    yield np.ascontiguousarray(value).tobytes()


def _place(value: Any, name: str) -> str:
    """Module and name of a class or function that can be found there."""
    module, found = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
    if module in (None, "__main__") or found is None or "<" in found:
        raise TypeError(
            f"{name}: got {value!r}, which other processes cannot find by name; expected numbers, "
            "arrays, dataclasses, or functions and classes at the top of a module that can be imported."
        )
    return f"{module}:{found}"
