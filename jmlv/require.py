"""What arguments must be, said before any work: one sentence that names them and the way out."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import numbers
import operator
import types
import typing
from typing import Any


def require_kind(name: str, value: Any, kind: type, example: str) -> None:
    """The value is an object of that kind.

    Args:
        name: the argument's name.
        example: how to write one.

    Raises:
        TypeError: it is something else, a class in place of an object among others.

    >>> from jmlv.bounds import CROWN, BoundMethod
    >>> require_kind("method", CROWN, BoundMethod, "CROWN()")
    Traceback (most recent call last):
    TypeError: method: expected an object such as CROWN(), got the class CROWN; write CROWN().
    """
    if isinstance(value, kind):
        return
    if inspect.isclass(value) and issubclass(value, kind):
        raise TypeError(f"{name}: expected an object such as {example}, got {_got(value)}.")
    raise TypeError(f"{name}: expected {_with_article(kind)} such as {example}, got {value!r}.")


def integer(name: str, value: Any) -> int:
    """The value as an integer; nothing is cut off.

    Raises:
        TypeError: it is no integer.

    >>> integer("k", 2.0)
    Traceback (most recent call last):
    TypeError: k: expected an integer, got 2.0.
    """
    try:
        whole = operator.index(value)
    except TypeError:
        raise TypeError(f"{name}: expected an integer, got {value!r}.") from None
    if isinstance(value, bool):
        raise TypeError(f"{name}: expected an integer, got {value!r}.")
    return whole


def require_fields(instance: Any) -> None:
    """Every field of a dataclass is of its annotation: what options do first in ``__post_init__``.

    Numbers, strings, literals, tuples, options that may be None, and the roles of this package are
    looked at; other annotations are left to the class.

    Raises:
        TypeError: one is not; a class in place of an object among others.

    >>> import jmlv
    >>> jmlv.GradientGuided(jmlv.LinearSteps)
    Traceback (most recent call last):
    TypeError: cut: expected CuttingWeights or None, got the class LinearSteps; write LinearSteps()...
    """
    for name, hint in _hints(type(instance)).items():
        value = getattr(instance, name)
        if not _fits(value, hint):
            raise TypeError(f"{name}: expected {_written(hint)}, got {_got(value)}.")


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    hints = typing.get_type_hints(kind)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


def _fits(value: Any, hint: Any) -> bool:
    origin, members = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, member) for member in members)
    if origin is typing.Literal:
        return isinstance(value, tuple(map(type, members)))  # which of them, the class checks
    if origin is tuple and len(members) == 2 and members[1] is Ellipsis:
        return isinstance(value, (tuple, list)) and all(_fits(v, members[0]) for v in value)
    if hint is int:
        return isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if hint is float:
        return isinstance(value, numbers.Real) and not isinstance(value, bool)
    if hint is bool:
        return isinstance(value, bool)
    ours = inspect.isclass(hint) and hint.__module__.split(".")[0] == "jmlv"
    return isinstance(value, hint) if ours or hint in (str, types.NoneType) else True


def _written(hint: Any) -> str:
    """The annotation as people write it."""
    origin, members = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(map(_written, members))
    if origin is typing.Literal:
        return " or ".join(map(repr, members))
    if origin is tuple:
        return f"a tuple of {_written(members[0])}"
    if hint is types.NoneType:
        return "None"
    names = {int: "an integer", float: "a number", str: "a string", bool: "True or False"}
    return names.get(hint) or hint.__name__


def _got(value: Any) -> str:
    if not inspect.isclass(value):
        return repr(value)
    required = any(p.default is p.empty for p in inspect.signature(value).parameters.values())
    return f"the class {value.__name__}; write {value.__name__}({'...' if required else ''})"


def _with_article(kind: type) -> str:
    name = kind.__name__
    return f"{'an' if name[0] in 'AEIOU' else 'a'} {name}"
