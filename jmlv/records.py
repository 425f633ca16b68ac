"""Results as JSON: real numbers, null where there is none, one spelling for every value."""

from __future__ import annotations

import dataclasses
import enum
import importlib.metadata
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jmlv.errors import DamagedFile
from jmlv.properties import (
    AboveThreshold,
    And,
    AtLeast,
    BelowThreshold,
    InTopK,
    KeepsLabels,
    Linear,
    MeetsTopK,
    Not,
    NotInTopK,
    Or,
    Property,
)
from jmlv.verdict import Verdict

PROPERTIES = {
    kind.__name__: kind
    for kind in (
        InTopK, NotInTopK, KeepsLabels, MeetsTopK, AboveThreshold, BelowThreshold, Linear,
        And, Or, AtLeast, Not,
    )
}  # fmt: skip
"""Properties that a file can hold, by name."""


def plain(value: Any) -> Any:
    """The value in JSON's types; a number that is not finite, or has no JSON form, becomes None or text.

    >>> plain({"lower": np.float32(0.5), "upper": np.inf, "sizes": np.arange(2)})
    {'lower': 0.5, 'upper': None, 'sizes': [0, 1]}
    """
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, (np.generic, np.ndarray)):
        return plain(value.tolist())
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (Sequence, set, frozenset)):
        return [plain(item) for item in value]
    return plain(np.asarray(value)) if hasattr(value, "__array__") else repr(value)


def write_json(path: Path, content: Any) -> None:
    """Writes :func:`plain` content, its folder too if there is none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(plain(content), indent=2, allow_nan=False) + "\n", encoding="utf-8")


def version() -> str:
    """This package's version."""
    return importlib.metadata.version("jmlv")


def property_record(property: Property, names: Sequence[str] = ()) -> dict[str, Any]:
    """A property as JSON: its kind, its numbers, the names of its labels where these are known.

    Raises:
        TypeError: it is of a kind that a file cannot hold.

    >>> property_record(InTopK(1, 2), ["cat", "dog", "cow"])
    {'kind': 'InTopK', 'label': 1, 'k': 2, 'names': ['dog']}
    """
    if PROPERTIES.get(type(property).__name__) is not type(property):
        raise TypeError(f"property: a file can hold {sorted(PROPERTIES)}, got {property!r}.")
    record = {"kind": type(property).__name__}
    for field in dataclasses.fields(property):
        record[field.name] = _entry(getattr(property, field.name))
    return record | ({"names": [names[label] for label in property.labels]} if names else {})


def _entry(value: Any) -> Any:
    if isinstance(value, Property):
        return property_record(value)
    return [_entry(item) for item in value] if isinstance(value, tuple) else plain(value)


def property_of(record: Any) -> Property:
    """The property that :func:`property_record` wrote.

    Raises:
        DamagedFile: it wrote no such thing.

    >>> both = InTopK(1, 2) & ~AboveThreshold(0, 0.5)
    >>> property_of(property_record(both)) == both
    True
    """
    try:
        fields = {key: _value(item) for key, item in record.items() if key not in ("kind", "names")}
        return PROPERTIES[record["kind"]](**fields)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DamagedFile(f"property: {record!r} is none ({error}).") from error


def _value(item: Any) -> Any:
    if isinstance(item, Mapping):
        return property_of(item)
    return tuple(map(_value, item)) if isinstance(item, list) else item


def verdict_record(verdict: Verdict) -> dict[str, Any]:
    """A verdict as JSON, without its witness and its certificate."""
    return plain(
        {
            "status": verdict.status.name,
            "lower": verdict.lower,
            "upper": verdict.upper,
            "method": verdict.method,
            "reason": verdict.reason,
            "about": verdict.about,
            "stats": verdict.stats,
        }
    )
