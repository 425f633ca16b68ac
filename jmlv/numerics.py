"""Precision and tolerances: every number that a verdict depends on has its name and home here.

Search runs in float32 with matmul precision ``highest`` (recent GPUs would use TF32 otherwise);
certificates run in float64, inside :func:`certificate_precision`, never by a switch at import.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import jax
import numpy as np

PROOF_TOLERANCE = 1e-6
"""A bound proves a property when its float64 lower bound on the margin exceeds this."""

SOLVER_TOLERANCE = 1e-5
"""A solver proves a property when it finds the property relaxed by this infeasible.

Ten times the solvers' feasibility tolerance: at 1e-6 two solvers call an infeasible model feasible.
"""

SOLVER_FEASIBILITY = 1e-6
"""Primal feasibility tolerance asked of every mixed-integer solver."""

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


def as_float64(value) -> np.ndarray:
    """A NumPy float64 copy of any array, whatever JAX's precision is now."""
    return np.asarray(value, dtype=np.float64)
