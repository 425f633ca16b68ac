"""What a question comes to: values for a row of a table, and arrays beside them."""

from __future__ import annotations

import dataclasses
import enum
import math
from collections.abc import Mapping
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class Answer:
    """One answered question.

    Attributes:
        values: what JSON can hold; see :func:`plain`.
        arrays: by name; kept in a file of their own.
    """

    values: Mapping[str, Any]
    arrays: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", plain(dict(self.values)))
        arrays = {name: np.asarray(a) for name, a in self.arrays.items() if a is not None}
        object.__setattr__(self, "arrays", arrays)


def plain(value: Any) -> Any:
    """A value as JSON holds it: infinities and NaN become None, whatever has no other form its text.

    >>> plain({"lower": -np.inf, "labels": (np.int64(3), 0.5)})
    {'lower': None, 'labels': [3, 0.5]}
    """
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, enum.Enum):
        return value.name
    if isinstance(value, (np.generic, np.ndarray)):
        return plain(value.tolist())
    if isinstance(value, int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(name): plain(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(inner) for inner in value]
    return str(value)
