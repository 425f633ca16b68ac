"""Precision and tolerances: every number that a verdict depends on has its name and home here.

Search runs in float32 with matmul precision ``highest`` (recent GPUs would use TF32 otherwise);
certificates run in float64, inside :func:`certificate_precision`, never by a switch at import.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import jax
import numpy as np
from jaxtyping import Float64

PROOF_TOLERANCE = 1e-6
"""A bound proves a property when its float64 lower bound on the margin exceeds this."""

SOLVER_TOLERANCE = 1e-5
"""A solver proves a property when it finds the property relaxed by this infeasible.

Ten times the solvers' feasibility tolerance: at 1e-6 two solvers call an infeasible model feasible.
"""

SOLVER_FEASIBILITY = 1e-6
"""Primal feasibility tolerance asked of every mixed-integer solver."""

EXTRA = 2
"""Roundings that are allowed to every operation beyond those of its sums."""

CONTRADICTION = 1e-4
"""A proven bound this far above a margin that was reached is a defect, not rounding; relative to the
margin where that exceeds 1. (Proofs by solvers are off by their tolerances at most.)"""

CROSSING = {"float32": 1e-3, "float64": 1e-6}
"""A lower bound this far above the upper one is a defect, not rounding; relative to the larger of the
two where that exceeds 1."""

GREY_LEVEL = 1.0 / 255.0
"""One grey level of an eight-bit image: the step at which maximality is judged."""


@contextlib.contextmanager
def certificate_precision() -> Iterator[None]:
    """float64 and full matmul precision, for this block only."""
    with jax.enable_x64(True), jax.default_matmul_precision("highest"):
        yield


@contextlib.contextmanager
def search_precision() -> Iterator[None]:
    """float32 with full matmul precision, for this block only."""
    with jax.enable_x64(False), jax.default_matmul_precision("highest"):
        yield


def own_copy(value, dtype) -> np.ndarray:
    """A NumPy copy that nobody can change: what a result says must not move with a caller's buffer."""
    copy = np.array(value, dtype)
    copy.setflags(write=False)
    return copy


def as_float64(value) -> np.ndarray:
    """A NumPy float64 copy of any array, whatever JAX's precision is now."""
    return np.asarray(value, dtype=np.float64)


def outward(
    lower: Float64[np.ndarray, "*shape"], upper: Float64[np.ndarray, "*shape"], dtype: str
) -> tuple[np.ndarray, np.ndarray]:
    """The least box of a precision's numbers around one of float64 numbers.

    >>> import numpy as np
    >>> low, high = outward(np.float64([0.1]), np.float64([0.1]), "float32")
    >>> print(low < np.float64(0.1), high > np.float64(0.1))
    [ True] [ True]
    """
    return _rounded(lower, -np.inf, dtype), _rounded(upper, np.inf, dtype)


def inward(
    lower: Float64[np.ndarray, "*shape"], upper: Float64[np.ndarray, "*shape"], dtype: str
) -> tuple[np.ndarray, np.ndarray]:
    """The greatest box of a precision's numbers inside of one of float64 numbers.

    Where an interval has no such number, its float64 ends stay as they are, and so the result is
    float64: a network of lower precision is then fed the number nearest to the input, as anybody
    who asks it about that input would.

    >>> import numpy as np
    >>> inward(np.float64([0.1]), np.float64([0.2]), "float32")[0].dtype
    dtype('float32')
    >>> inward(np.float64([0.1, 0.1]), np.float64([0.2, 0.1]), "float32")[1]
    array([0.19999999, 0.1       ])
    """
    low, high = _rounded(lower, np.inf, dtype), _rounded(upper, -np.inf, dtype)
    empty = low > high
    if not empty.any():
        return low, high
    return np.where(empty, lower, low), np.where(empty, upper, high)


def _rounded(end: np.ndarray, toward: float, dtype: str) -> np.ndarray:
    """The nearest numbers of a precision that are not short of ``end`` in that direction."""
    with np.errstate(over="ignore"):
        found = end.astype(dtype)
    short = found < end if toward > 0 else found > end
    return np.where(short, np.nextafter(found, found.dtype.type(toward)), found)
