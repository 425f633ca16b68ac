"""An exact integer relaxation of a mixed-integer model, for a solver that computes in integers.

A continuous column ``c`` becomes the integer ``X = round(S c)``, ``S = 2^20``; a binary stays as it
is (``S = 1`` for it). **If the integer model has no solution, neither has the real one**, because
every real solution, rounded, satisfies it:

* ``lower <= c <= upper`` gives ``floor(S lower) <= X <= ceil(S upper)``.
* ``|c - X / S| <= 1 / (2 S)`` for continuous columns and 0 for binaries, so a row
  ``p <= sum a c <= q`` gives ``p - e <= sum a X / S <= q + e`` with ``e = sum |a| / (2 S)`` over the
  continuous columns.
* Times ``S T`` with a power of two ``T`` for the row: ``sum v X`` lies in ``S T [p - e, q + e]``
  where ``v = T a`` for continuous columns and ``v = S T a`` for binaries, exact in float64.
* With ``A = round(v)``, ``sum A X = sum v X + sum (A - v) X``; the last sum lies between the sums of
  the least and of the largest ``(A - v) X`` over the columns' ranges. ``A - v`` is exact in float64
  too. The limits are widened by these, by float64's rounding in adding them up, and to integers.

The relaxation can be feasible where the real model is not, by about the sum of the rows' widths:
the solver then finds a point that does not replay, which decides nothing.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import scipy
from jaxtyping import Float, Int

from jmlv.oracles.milp.mixed_integer import MixedIntegerModel

SCALE = 2.0**20
"""Steps of a continuous column in one unit."""

LARGEST_BINARIES = 64
LARGEST_COEFFICIENTS = 20_000
"""Larger models are refused: this is a second opinion on small instances."""

_ROW_SCALES = 2.0 ** np.arange(24, -25, -1)
_FINEST_COEFFICIENT = 2.0**10
_LARGEST_SUM = 2.0**58


class TooLarge(Exception):
    """The model does not fit into 64-bit integers, or is too large to be solved that way."""


@dataclasses.dataclass(frozen=True, eq=False)
class IntegerModel:
    """As :class:`MixedIntegerModel` with integers throughout; ``scale`` turns columns into reals."""

    lower: Int[np.ndarray, " column"]
    upper: Int[np.ndarray, " column"]
    matrix: scipy.sparse.csr_array
    row_lower: Int[np.ndarray, " row"]
    row_upper: Int[np.ndarray, " row"]
    objective: Int[np.ndarray, " column"]
    scale: Float[np.ndarray, " column"]

    def reals(self, values: Float[np.ndarray, " column"]) -> Float[np.ndarray, " column"]:
        """The columns' real values."""
        return values / self.scale

    def real_bound(self, bound: float) -> float:
        """An upper bound on the real objective from one on the integer objective column.

        ``c <= (X + 1/2) / S``.
        """
        return (bound + 0.5) / self.scale[int(np.flatnonzero(self.objective)[0])]


def integer_relaxation(model: MixedIntegerModel) -> IntegerModel:
    """The integer model whose infeasibility implies that of the real one.

    Raises:
        TooLarge: the model is not small, or its magnitudes do not fit into 64-bit integers.
        ValueError: the objective is not a single column.
    """
    if sorted(model.objective)[-1:] != [1.0] or np.count_nonzero(model.objective) != 1:
        raise ValueError("model: the objective must be one column with coefficient 1.")
    if model.binaries > LARGEST_BINARIES or model.matrix.nnz > LARGEST_COEFFICIENTS:
        raise TooLarge(
            f"made for at most {LARGEST_BINARIES} binaries and {LARGEST_COEFFICIENTS} "
            f"coefficients, got {model.binaries} and {model.matrix.nnz}"
        )
    scale = np.where(model.integer, 1.0, SCALE)
    lower, upper = np.floor(model.lower * scale), np.ceil(model.upper * scale)
    largest = np.maximum(np.abs(lower), np.abs(upper))
    if largest.max(initial=0.0) > _LARGEST_SUM:
        raise TooLarge(f"a column reaches {largest.max() / SCALE:.3g}")
    rows = [_row(model, i, scale, lower, upper) for i in range(model.rows)]
    matrix = scipy.sparse.csr_array(
        (
            np.concatenate([np.zeros(0, np.int64), *(r[0] for r in rows)]),
            model.matrix.indices,
            model.matrix.indptr,
        ),
        shape=model.matrix.shape,
    )
    limits = np.array([r[1] for r in rows], np.int64).reshape(-1, 2)
    objective = model.objective.astype(np.int64)
    whole = lower.astype(np.int64), upper.astype(np.int64)
    return IntegerModel(*whole, matrix, limits[:, 0], limits[:, 1], objective, scale)


def _row(model, i, scale, lower, upper) -> tuple[np.ndarray, tuple[int, int]]:
    """Integer coefficients and limits of one row, widened as the module's text derives."""
    span = slice(model.matrix.indptr[i], model.matrix.indptr[i + 1])
    columns, real = model.matrix.indices[span], model.matrix.data[span]
    weights = np.where(model.integer[columns], SCALE, 1.0) * real
    low, high = lower[columns], upper[columns]
    row_scale = _row_scale(weights, np.maximum(np.abs(low), np.abs(high)), i)
    exact = row_scale * weights
    coefficients = np.rint(exact)
    rounding = coefficients - exact
    least = np.minimum(rounding * low, rounding * high).sum()
    most = np.maximum(rounding * low, rounding * high).sum()
    width = np.abs(real[~model.integer[columns]]).sum() / (2 * SCALE)
    unit = SCALE * row_scale
    slack = 1 + 1e-12 * (np.abs(exact) * np.maximum(np.abs(low), np.abs(high))).sum()
    start = np.floor(unit * (model.row_lower[i] - width) + least - slack)
    stop = np.ceil(unit * (model.row_upper[i] + width) + most + slack)
    limit = 2 * _LARGEST_SUM
    return coefficients.astype(np.int64), (int(max(start, -limit)), int(min(stop, limit)))


def _row_scale(weights: np.ndarray, largest: np.ndarray, row: int) -> float:
    """The largest power of two with which the row's sums stay within 64-bit integers."""
    total, top = (np.abs(weights) * largest).sum(), np.abs(weights).max(initial=0.0)
    if total == 0:
        return 1.0
    fitting = _ROW_SCALES[_ROW_SCALES * total + largest.sum() <= _LARGEST_SUM]
    if not len(fitting) or fitting[0] * top < _FINEST_COEFFICIENT:
        raise TooLarge(f"row {row} spans too many orders of magnitude for 64-bit integers")
    return float(fitting[0])
