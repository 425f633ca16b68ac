"""What a question comes to: values for a row of a table, and arrays beside them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from jmlv.oracles.aside import COMPILING
from jmlv.records import plain


@dataclasses.dataclass(frozen=True, eq=False)
class Answer:
    """One answered question.

    Attributes:
        values: as JSON holds them (:func:`jmlv.records.plain`).
        arrays: by name; kept in a file of their own. None is left out.
        cold: the budget ended while programs that would have been needed were still compiling.

    >>> Answer({"lower": -np.inf, "sizes": np.arange(2)}, {"witness": None})
    Answer(values={'lower': None, 'sizes': [0, 1]}, arrays={}, cold=False)
    """

    values: Mapping[str, Any]
    arrays: Mapping[str, np.ndarray | None] = dataclasses.field(default_factory=dict)
    cold: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", plain(dict(self.values)))
        arrays = {name: np.asarray(a) for name, a in self.arrays.items() if a is not None}
        object.__setattr__(self, "arrays", arrays)


def was_cold(*reasons: str) -> bool:
    """Whether one of the reasons says that programs were still compiling when the time was up."""
    return any(_COMPILING in reason for reason in reasons)


_COMPILING = f"still {COMPILING}"
