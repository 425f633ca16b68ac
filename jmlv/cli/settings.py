"""Sections of a TOML file as the frozen values that the library takes; every error names its key."""

from __future__ import annotations

import dataclasses
import inspect
import tomllib
import types
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

Table = Mapping[str, Any]
Kinds = Mapping[str, Callable[..., Any]]
NOTHING: Table = types.MappingProxyType({})


def read_toml(path: Path) -> dict[str, Any]:
    """The file's content.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not TOML.
    """
    if not path.is_file():
        raise FileNotFoundError(f"config: there is no file {str(path)!r}.")
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"config: {str(path)!r} is not TOML ({error}).") from error


def require_known(section: str, values: Table, known: typing.Iterable[str]) -> None:
    """All keys are among the known ones.

    Raises:
        ValueError: one is not.
    """
    known = sorted(known)
    for key in values:
        if key not in known:
            place = f"{section}.{key}" if section else key
            raise ValueError(f"{place}: unknown; expected one of {known}.")


def choose(
    section: str, values: Any, kinds: Kinds, default: str | None = None, **given: Any
) -> Any:
    """What the table's ``kind`` makes of its other keys.

    Args:
        section: the table's name, for errors.
        kinds: by name, what to call.
        default: the kind of a table that names none; ``None`` where one must be named.
        given: arguments that the file need not have.

    Raises:
        ValueError: the kind or a key is unknown, a key is missing or has a value of another type,
            or the values are impossible.

    >>> from jmlv.training import Cosine
    >>> choose("schedule", {"kind": "cosine", "end": 0.1}, {"cosine": Cosine})
    Cosine(end=0.1)
    """
    rest = dict(_table(section, values))
    kind = rest.pop("kind", default)
    if kind not in kinds:
        raise ValueError(f"{section}.kind: got {kind!r}; expected one of {sorted(kinds)}.")
    return build(section, rest, kinds[kind], **given)


def build(
    section: str, values: Any, make: Callable[..., Any], fixed: Table = NOTHING, **given: Any
) -> Any:
    """``make`` called with the table's keys, which are checked against its signature first.

    Args:
        section: the table's name, for errors.
        values: the table.
        make: a dataclass or a function with annotations.
        fixed: arguments that the table cannot have.
        given: arguments that the table need not have.

    Raises:
        ValueError: as in :func:`choose`.
    """
    values, function = _table(section, values), getattr(make, "func", make)
    parameters = inspect.signature(make).parameters
    require_known(section, values, set(parameters) - set(fixed))
    hints = typing.get_type_hints(function.__init__ if inspect.isclass(function) else function)
    read = {k: _converted(f"{section}.{k}", v, hints.get(k, Any)) for k, v in values.items()}
    arguments = {k: v for k, v in given.items() if k in parameters} | read | dict(fixed)
    for name, parameter in parameters.items():
        if parameter.default is parameter.empty and name not in arguments:
            raise ValueError(f"{section}.{name}: missing; expected it in [{section}].")
    try:
        return make(**arguments)
    except FileNotFoundError:
        raise
    except (ValueError, TypeError) as error:
        raise ValueError(f"{section}.{error}") from error


def _table(section: str, values: Any) -> Table:
    if not isinstance(values, Mapping):
        raise ValueError(f"{section}: got {values!r}; expected a table, [{section}].")
    return values


def _converted(place: str, value: Any, hint: Any) -> Any:
    """The value as a parameter of that type takes it."""
    if dataclasses.is_dataclass(hint):
        return build(place, value, hint)
    if not _fits(value, hint):
        name = getattr(hint, "__name__", str(hint)) if not typing.get_args(hint) else str(hint)
        raise ValueError(f"{place}: got {value!r}; expected {name.replace('typing.', '')}.")
    return _as_tuples(value)


def _as_tuples(value: Any) -> Any:
    return tuple(map(_as_tuples, value)) if isinstance(value, list) else value


def _fits(value: Any, hint: Any) -> bool:
    """Whether a TOML value is of the type; types that TOML does not have are left to the callee."""
    origin, members = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, member) for member in members)
    if origin is typing.Literal:
        return value in members
    if origin is tuple:
        inner = members[0] if len(members) == 2 and members[1] is Ellipsis else None
        kinds = (
            members if inner is None else [inner] * len(value) if isinstance(value, list) else ()
        )
        same = isinstance(value, list) and len(value) == len(kinds)
        return same and all(map(_fits, value, kinds))
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is int:
        return type(value) is int
    if hint in (str, Path):
        return isinstance(value, str)
    return isinstance(value, hint) if hint in (bool, types.NoneType) else True
