"""Reads ARFF files, the format of MULAN's tables: dense and sparse rows, numbers and nominal values."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from jmlv.errors import DamagedFile

_REMEDY = "Fetch the file again, whole."
_NUMERIC = ("numeric", "real", "integer")
_QUOTED = r"'(?:\\.|[^'\\])*'|\"(?:\\.|[^\"\\])*\""
_FIELD = re.compile(rf"\s*({_QUOTED}|[^,'\"]*?)\s*(,|$)")
_SPARSE = re.compile(rf"\s*(\d+)\s+({_QUOTED}|[^,'\"]*?)\s*(,|$)")
_DECLARED = re.compile(rf"@attribute\s+({_QUOTED}|[^\s{{]+)\s*(\{{.*\}}|\S+)\s*$", re.IGNORECASE)


@dataclass(frozen=True)
class Attribute:
    """One column.

    Attributes:
        name: without quotes.
        values: of a nominal attribute, in the order of the file; ``None`` for numbers.
    """

    name: str
    values: tuple[str, ...] | None = None


@dataclass(frozen=True, eq=False)
class Arff:
    """A table.

    Attributes:
        attributes: the columns.
        values: (row, attribute): numbers as they are, nominal values as their place in the
            attribute's list, NaN where the file has ``?``.
        lines: (row,) number of each row's line in the file, from 1.
    """

    attributes: tuple[Attribute, ...]
    values: Float[np.ndarray, "row attribute"]
    lines: tuple[int, ...]


def read_arff(path: Path) -> Arff:
    """The table of one ARFF file.

    A dense row has a value for every attribute, a sparse one ``{place value, ...}``: what it leaves
    out is 0, or the first value of a nominal attribute. Names and values may be quoted.

    Raises:
        FileNotFoundError: there is no such file.
        DamagedFile: an attribute or a row is not what its format says, a name or a place is there
            twice, or there are no rows; the message has the line's number.

    Source: the ARFF format of Weka (Witten and Frank), numeric and nominal attributes.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "tiny.arff"
    >>> text = "@relation r\\n@attribute a numeric\\n@attribute 'b c' {no,yes}\\n@data\\n0.5,yes\\n{}"
    >>> _ = path.write_text(text)
    >>> read_arff(path).values.tolist()
    [[0.5, 1.0], [0.0, 0.0]]
    """
    lines = _lines(path)
    attributes = tuple(_attributes(lines, path))
    _refuse_repeated([attribute.name for attribute in attributes], path)
    parsers = [_Parser(attribute) for attribute in attributes]
    numbers, rows = [], []
    for number, line in lines:
        numbers.append(number)
        rows.append(_row(line, parsers, f"{path.name}, line {number}"))
    if not rows:
        raise DamagedFile(f"folder: {path.name} has no rows after @data. {_REMEDY}")
    return Arff(attributes, np.array(rows, np.float64), tuple(numbers))


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Lines that are neither empty nor comments, with their numbers."""
    if not path.is_file():
        raise FileNotFoundError(f"folder: got no file {path.name} in {path.parent}.")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DamagedFile(f"folder: {path.name} is not text ({error}). {_REMEDY}") from error
    numbered = ((i, line.strip()) for i, line in enumerate(text.splitlines(), 1))
    return ((i, line) for i, line in numbered if line and not line.startswith("%"))


def _attributes(lines: Iterator[tuple[int, str]], path: Path) -> Iterator[Attribute]:
    """The declarations; leaves the iterator at the first row."""
    for number, line in lines:
        word = line.split(None, 1)[0].lower()
        if word == "@data":
            return
        if word == "@attribute":
            yield _attribute(line, f"{path.name}, line {number}")
        elif word != "@relation":
            raise DamagedFile(
                f"folder: {path.name}, line {number}: got {line[:40]!r} before @data; expected "
                f"@relation or @attribute. {_REMEDY}"
            )
    raise DamagedFile(f"folder: {path.name} has no @data: it is cut off. {_REMEDY}")


def _attribute(line: str, where: str) -> Attribute:
    found = _DECLARED.match(line)
    if not found:
        raise DamagedFile(f"folder: {where}: got {line[:60]!r}; expected @attribute NAME TYPE.")
    name, kind = _unquoted(found[1]), found[2]
    if kind.lower() in _NUMERIC:
        return Attribute(name)
    if not kind.startswith("{"):
        raise DamagedFile(
            f"folder: {where}: attribute {name!r} is of type {kind!r}; expected numbers or a list "
            "{a, b, ...}. Remove the attribute, or write it as one of these."
        )
    values = tuple(_unquoted(value) for (value,) in _fields(kind[1:-1], _FIELD, where))
    if len(set(values)) != len(values):
        raise DamagedFile(f"folder: {where}: attribute {name!r} lists a value twice. {_REMEDY}")
    return Attribute(name, values)


class _Parser:
    """A value of one attribute as a number."""

    def __init__(self, attribute: Attribute) -> None:
        self.attribute = attribute
        self.places = {value: float(i) for i, value in enumerate(attribute.values or ())}

    def __call__(self, field: str) -> float:
        if self.attribute.values is not None:
            return self.places[field] if field != "?" else np.nan
        value = float(field) if field != "?" else np.nan
        if value - value != 0 and field != "?":
            raise ValueError
        return value

    def complaint(self, field: str) -> str:
        expected = self.attribute.values
        return (
            f"attribute {self.attribute.name!r} is {field!r}; expected "
            f"{'a finite number' if expected is None else f'one of {list(expected)}'}"
        )


def _row(line: str, parsers: list[_Parser], where: str) -> list[float]:
    if line.startswith("{"):
        return _sparse(line, parsers, where)
    if "'" in line or '"' in line:
        fields = [_unquoted(value) for (value,) in _fields(line, _FIELD, where)]
    else:
        fields = [field.strip() for field in line.split(",")]
    if len(fields) != len(parsers):
        raise DamagedFile(
            f"folder: {where}: got {len(fields)} values; expected {len(parsers)}, one an "
            f"attribute. {_REMEDY}"
        )
    return [_value(parse, field, where) for parse, field in zip(parsers, fields)]


def _sparse(line: str, parsers: list[_Parser], where: str) -> list[float]:
    if not line.endswith("}"):
        raise DamagedFile(f"folder: {where}: the sparse row has no closing brace. {_REMEDY}")
    row, seen = [0.0] * len(parsers), set()
    for place, field in _fields(line[1:-1], _SPARSE, where):
        index = int(place)
        if index >= len(parsers) or index in seen:
            trouble = "twice" if index in seen else f"of {len(parsers)} attributes"
            raise DamagedFile(f"folder: {where}: got place {index} {trouble}. {_REMEDY}")
        seen.add(index)
        row[index] = _value(parsers[index], _unquoted(field), where)
    return row


def _value(parse: _Parser, field: str, where: str) -> float:
    try:
        return parse(field)
    except (KeyError, ValueError):
        raise DamagedFile(f"folder: {where}: {parse.complaint(field)}. {_REMEDY}") from None


def _fields(text: str, pattern: re.Pattern, where: str) -> list[tuple[str, ...]]:
    """The groups of all comma-separated fields; each must match the pattern, with nothing left over."""
    text, start, fields = text.strip(), 0, []
    while text:
        found = pattern.match(text, start)
        if not found:
            raise DamagedFile(
                f"folder: {where}: cannot read {text[start : start + 40]!r}. {_REMEDY}"
            )
        *groups, separator = found.groups()
        fields.append(tuple(groups))
        start = found.end()
        if not separator:
            break
    return fields


def _unquoted(text: str) -> str:
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        return re.sub(r"\\(.)", r"\1", text[1:-1])
    return text


def _refuse_repeated(names: list[str], path: Path) -> None:
    twice = sorted(name for name, times in Counter(names).items() if times > 1)
    if twice:
        raise DamagedFile(
            f"folder: {path.name} declares {twice} more than once; expected a name for each "
            f"attribute. {_REMEDY}"
        )
