"""A mixed-integer linear model as a plain value, independent of any solver, and its builder."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import scipy
from jaxtyping import Bool, Float, Int


@dataclasses.dataclass(frozen=True, eq=False)
class MixedIntegerModel:
    """Maximise ``objective . c`` over ``lower <= c <= upper``, ``row_lower <= A c <= row_upper``.

    Attributes:
        lower, upper: finite bounds of the columns.
        integer: which columns take whole values only.
        matrix: ``A``, sparse rows.
        row_lower, row_upper: bounds of the rows, infinite where there is none.
        objective: one coefficient for each column.
    """

    lower: Float[np.ndarray, " column"]
    upper: Float[np.ndarray, " column"]
    integer: Bool[np.ndarray, " column"]
    matrix: scipy.sparse.csr_array
    row_lower: Float[np.ndarray, " row"]
    row_upper: Float[np.ndarray, " row"]
    objective: Float[np.ndarray, " column"]

    def __post_init__(self) -> None:
        rows, columns = self.matrix.shape
        if not all(
            len(v) == columns for v in (self.lower, self.upper, self.integer, self.objective)
        ):
            raise ValueError(f"MixedIntegerModel: column arrays must have {columns} entries.")
        if not len(self.row_lower) == len(self.row_upper) == rows:
            raise ValueError(f"MixedIntegerModel: row arrays must have {rows} entries.")
        finite = (self.lower, self.upper, self.objective, self.matrix.data)
        if not all(np.isfinite(v).all() for v in finite):
            raise ValueError(
                "MixedIntegerModel: bounds of columns and coefficients must be finite."
            )
        if np.isnan(self.row_lower).any() or np.isnan(self.row_upper).any():
            raise ValueError("MixedIntegerModel: a row's bound is not a number.")

    @property
    def rows(self) -> int:
        return self.matrix.shape[0]

    @property
    def columns(self) -> int:
        return self.matrix.shape[1]

    @property
    def binaries(self) -> int:
        return int(self.integer.sum())

    def violation(self, values: Float[np.ndarray, " column"]) -> float:
        """The largest amount by which a bound, a row or integrality is broken."""
        rows = self.matrix @ values
        fraction = np.abs(values - np.round(values))[self.integer]
        gaps = (self.lower - values, values - self.upper, self.row_lower - rows,
                rows - self.row_upper, fraction)  # fmt: skip
        return max(0.0, max((float(gap.max()) for gap in gaps if gap.size), default=0.0))

    def __repr__(self) -> str:
        return (
            f"MixedIntegerModel({self.columns} columns, {self.binaries} binary, "
            f"{self.rows} rows, {self.matrix.nnz} coefficients)"
        )


@dataclasses.dataclass(frozen=True, eq=False)
class Affine:
    """Affine expressions of a model's columns, one a row: ``matrix @ c + constant``."""

    matrix: scipy.sparse.csr_array
    constant: Float[np.ndarray, " row"]

    def terms(self, row: int) -> tuple[Int[np.ndarray, " term"], Float[np.ndarray, " term"]]:
        """Column numbers and coefficients of one expression."""
        span = slice(self.matrix.indptr[row], self.matrix.indptr[row + 1])
        return self.matrix.indices[span], self.matrix.data[span]

    def interval(
        self, lower: Float[np.ndarray, " column"], upper: Float[np.ndarray, " column"]
    ) -> tuple[Float[np.ndarray, " row"], Float[np.ndarray, " row"]]:
        """The expressions' range where every column has its own range."""
        positive, negative = self.matrix.maximum(0), self.matrix.minimum(0)
        return (
            positive @ lower + negative @ upper + self.constant,
            positive @ upper + negative @ lower + self.constant,
        )


class ModelBuilder:
    """A mixed-integer model under construction, column by column and row by row."""

    def __init__(self) -> None:
        self._lower: list[float] = []
        self._upper: list[float] = []
        self._integer: list[bool] = []
        self._entries: list[tuple[np.ndarray, np.ndarray]] = []
        self._row_bounds: list[tuple[float, float]] = []

    @property
    def columns(self) -> int:
        return len(self._lower)

    def bounds(self) -> tuple[Float[np.ndarray, " column"], Float[np.ndarray, " column"]]:
        """Bounds of the columns so far."""
        return np.array(self._lower, float), np.array(self._upper, float)

    def add_columns(
        self, lower: Sequence[float], upper: Sequence[float]
    ) -> Int[np.ndarray, " new"]:
        """Continuous columns; returns their numbers."""
        first = self.columns
        self._lower.extend(map(float, lower))
        self._upper.extend(map(float, upper))
        self._integer.extend([False] * (len(self._lower) - first))
        return np.arange(first, self.columns)

    def add_binaries(self, count: int) -> Int[np.ndarray, " new"]:
        """Columns that are 0 or 1; returns their numbers."""
        numbers = self.add_columns([0.0] * count, [1.0] * count)
        self._integer[len(self._integer) - count :] = [True] * count
        return numbers

    def add_row(
        self,
        terms: Sequence[tuple[int, float]],
        lower: float = -np.inf,
        upper: float = np.inf,
        expression: tuple[np.ndarray, np.ndarray] | None = None,
    ) -> None:
        """``lower <= sum of terms (and of the sparse expression) <= upper``."""
        columns = np.array([column for column, _ in terms], int)
        coefficients = np.array([coefficient for _, coefficient in terms], float)
        if expression is not None:
            columns = np.concatenate([columns, expression[0]])
            coefficients = np.concatenate([coefficients, expression[1]])
        self._entries.append((columns, coefficients))
        self._row_bounds.append((float(lower), float(upper)))

    def finish(self, maximised: int) -> MixedIntegerModel:
        """The model that maximises one column."""
        lower, upper = self.bounds()
        counts = [len(columns) for columns, _ in self._entries]
        indices = np.concatenate([np.zeros(0, int), *(c for c, _ in self._entries)])
        values = np.concatenate([np.zeros(0), *(v for _, v in self._entries)])
        pointers = np.concatenate([[0], np.cumsum(counts, dtype=int)])
        shape = (len(counts), self.columns)
        limits = np.array(self._row_bounds, float).reshape(-1, 2)
        matrix = scipy.sparse.csr_array((values, indices, pointers), shape=shape)
        matrix.sum_duplicates()
        objective = np.zeros(self.columns)
        objective[maximised] = 1.0
        integer = np.array(self._integer, bool)
        return MixedIntegerModel(
            lower, upper, integer, matrix, limits[:, 0], limits[:, 1], objective
        )
