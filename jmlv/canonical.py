"""Digests of values: equal values give equal digests, in every process and on every machine.

A value is walked: every array goes in by its type, shape and bytes, every dataclass by its fields. What is
of no known type is refused. (A ``repr`` would not do: NumPy shortens that of a long array, and an object's
says nothing of what it holds.)
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import hashlib
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

Reading = Callable[[Any, str], Any]
"""``reading(value, name)``: a value of known types that stands for it, or ``NotImplemented``."""


def digest(value: Any, name: str = "value", reading: Reading | None = None) -> str:
    """SHA-256 of a value's canonical form.

    Values are numbers, texts, arrays, sequences, mappings, enum members, dataclasses (strategies,
    oracles, properties, regions), classes, and functions that a module has by name. Numbers that are
    equal in Python have one form, ``digest(60) == digest(60.0)``, but for zeros of either sign.

    Args:
        value: what to name.
        name: what an error calls it.
        reading: what of further types is taken for; it is asked first, of every part.

    Raises:
        TypeError: a part of the value has no form that another process would find too.

    >>> import jmlv
    >>> digest(jmlv.CROWN()) == digest(jmlv.CROWN()) != digest(jmlv.IBP())
    True
    """
    found = hashlib.sha256()
    for part in _parts(value, name, reading or _unread):
        found.update(b"%d:" % len(part) + part)
    return found.hexdigest()


def _unread(value: Any, name: str) -> Any:
    return NotImplemented


def _parts(value: Any, name: str, reading: Reading) -> Iterator[bytes]:
    read = reading(value, name)
    if read is not NotImplemented:
        yield b"read"
        yield from _parts(read, name, reading)
    elif value is None or isinstance(value, (bool, np.bool_)):
        yield repr(value if value is None else bool(value)).encode()
    elif isinstance(value, enum.Enum):
        yield f"enum {_place(type(value), name)} {value.name}".encode()
    elif isinstance(value, (int, float, np.integer, np.floating)):
        yield _number(value).encode()
    elif isinstance(value, str):
        yield b"str " + value.encode()
    elif isinstance(value, bytes):
        yield b"bytes " + value
    elif isinstance(value, np.dtype):
        yield f"dtype {_described(value, name)}".encode()
    elif type(value) in (np.ndarray, np.memmap) or isinstance(value, (np.generic, jax.Array)):
        yield from _array(value, name)
    elif isinstance(value, (tuple, list)):
        yield b"sequence %d" % len(value)
        for i, item in enumerate(value):
            yield from _parts(item, f"{name}[{i}]", reading)
    elif isinstance(value, Mapping):
        yield b"mapping %d" % len(value)
        for key in sorted(value):
            yield from _parts(key, f"{name} key", reading)
            yield from _parts(value[key], f"{name}[{key!r}]", reading)
    elif isinstance(value, functools.partial):
        yield b"partial"
        yield from _parts((value.func, value.args, value.keywords), name, reading)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        yield f"dataclass {_place(type(value), name)}".encode()
        for field in dataclasses.fields(value):
            yield field.name.encode()
            yield from _parts(getattr(value, field.name), f"{name}.{field.name}", reading)
    else:
        yield f"named {_place(value, name)}".encode()


def _number(value: Any) -> str:
    whole = float(value).is_integer() if isinstance(value, (float, np.floating)) else True
    if value == 0 and np.signbit(value):
        return "number -0"
    return f"number {int(value) if whole else float(value)!r}"


def _array(value: Any, name: str) -> Iterator[bytes]:
    kind = ""
    if jax.numpy.issubdtype(value.dtype, jax.dtypes.prng_key):
        kind, value = f" key {value.dtype.name}", jax.random.key_data(value)
    value = np.asarray(value)
    yield f"array{kind} {_described(value.dtype, name)} {value.shape}".encode()
    yield np.ascontiguousarray(value).tobytes()


def _described(dtype: np.dtype, name: str) -> str:
    """The order of the bytes and the type: either alone is shared by several (``<V2``, ``float32``)."""
    if dtype.hasobject or dtype.fields is not None:
        raise TypeError(
            f"{name}: got an array of {dtype}; expected one of numbers, truths or texts."
        )
    return f"{dtype.str} {dtype.name}"


def _place(value: Any, name: str) -> str:
    """Module and name of a class or function that can be found there, and is what is found."""
    module, found = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
    if module in (None, "__main__") or found is None or _at(module, found) is not value:
        raise TypeError(
            f"{name}: got {value!r}, which other processes cannot find by name; expected numbers, "
            "arrays, dataclasses, or functions and classes at the top of a module that can be imported."
        )
    return f"{module}:{found}"


def _at(module: str, name: str) -> Any:
    """What a module of this process has under a dotted name, if anything."""
    try:
        return functools.reduce(getattr, name.split("."), sys.modules[module])
    except (KeyError, AttributeError):
        return None
