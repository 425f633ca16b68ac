"""How far what is computed in floating point about a query's scores can be from the real numbers meant."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from jmlv.bounds import CROWN, Interval
from jmlv.bounds.rounding import (
    FLOAT64,
    Arithmetic,
    Rounded,
    bounded_operations,
    rounding_errors,
)
from jmlv.compilation import one_off
from jmlv.graph import Variable
from jmlv.graph.fuse import fuse_relu_max_pool
from jmlv.numerics import (
    PROOF_TOLERANCE,
    SOLVER_TOLERANCE,
    as_float64,
    certificate_precision,
)
from jmlv.oracles.oracle import Query
from jmlv.oracles.per_box import inner_intervals, once_per_box


@once_per_box
def score_errors(query: Query, arithmetic: Arithmetic) -> Rounded:
    """The errors of the scores, anywhere in the box, and their sizes, each (label,) in float64."""
    return _errors(query, arithmetic, {})


@once_per_box
def _score_errors_by_crown(query: Query) -> Rounded:
    """The same for float64, with CROWN's intervals of inner neurons: dearer, and less in deep networks."""
    return _errors(query, FLOAT64, inner_intervals(query, CROWN()))


def _errors(query: Query, arithmetic: Arithmetic, known: Mapping[Variable, Interval]) -> Rounded:
    with certificate_precision():
        box = (jnp.asarray(as_float64(side))[None] for side in (query.lower, query.upper))
        graph = fuse_relu_max_pool(query.graph64)
        found = _rounded(graph, Interval(*box), known, arithmetic)
    return jax.tree.map(lambda scores: np.asarray(scores[0], np.float64), found)


_rounded = one_off(3)(rounding_errors)


def margin_rounding(query: Query, bound: float, needed: float) -> float:
    """How far a float64 bound on the property's margin can be from a true one; infinite: nobody knows.

    A bound is the network's own evaluation (of interval arithmetic), or that of linear functions that are
    pulled back from the scores to the input (:class:`jmlv.bounds.rounding.Rounded`). Intervals of inner values
    are such bounds too: where one is off by ``e``, lines through its ends are, which reaches the
    scores as an error of the value itself would. So every operation that reads them adds as much once more.

    Args:
        query: the network, the box and the property.
        bound, needed: where the error found at first would take a bound below what is needed, it is
            looked for again with tighter intervals.
    """
    rounding = _of_rows(query, score_errors(query, FLOAT64))
    if bound - rounding > needed or bound <= needed:
        return rounding
    return min(rounding, _of_rows(query, _score_errors_by_crown(query)))


def margin_needed(query: Query) -> float:
    """What a float64 bound on the property's margin has to exceed to prove it, rounding taken off.

    Where nothing is known of that no bound proves anything, and the least number is returned.
    """
    rounding = margin_rounding(query, SOLVER_TOLERANCE, PROOF_TOLERANCE)
    return PROOF_TOLERANCE + (rounding if np.isfinite(rounding) else 0.0)


def _of_rows(query: Query, scores: Rounded) -> float:
    """The largest error of a row of the property: the margin is one of them."""
    coefficients, offsets = query.property.rows(query.label_count)
    coefficients, offsets = np.abs(coefficients), np.abs(offsets)
    own = (coefficients.shape[1] + 2) * FLOAT64.unit * (coefficients @ scores.sizes + offsets)
    with np.errstate(invalid="ignore"):
        off = scores.errors + scores.pulled
        rows = bounded_operations(query.graph) * (coefficients @ off) + own
    largest = float(rows.max(initial=0.0))
    return largest if np.isfinite(largest) else np.inf
