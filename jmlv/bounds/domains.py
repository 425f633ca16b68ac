"""Where a function may be given numbers that it has no value for: then there is no bound at all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from jmlv.bounds.method import Interval
from jmlv.bounds.softmax import softmax_undefined
from jmlv.graph import Equation, Graph, Variable
from jmlv.graph.operations import is_smooth, is_softmax


def undefined(graph: Graph, interval_of: Callable[[Variable], Any]) -> str | None:
    """The first operation whose operand may leave its domain, in words; None if there is none.

    Args:
        graph: the network.
        interval_of: bounds, with ``lower`` and ``upper``, on what smooth functions read.

    >>> import jax.numpy as jnp, jmlv
    >>> graph = jmlv.trace(lambda x: 1 / x, (2,))
    >>> undefined(graph, lambda _: jmlv.bounds.Interval(-jnp.ones((1, 2)), jnp.ones((1, 2))))
    'reciprocal of what may be anything from -1 to 1'
    """
    for eqn in graph.eqns:
        if not _is_guarded(eqn):
            continue
        interval = interval_of(eqn.invars[0])
        outside = np.asarray(_outside(eqn, Interval(interval.lower, interval.upper)))
        if outside.any():
            low, high = (
                float(np.asarray(side)[outside][0]) for side in (interval.lower, interval.upper)
            )
            return f"{eqn.primitive.name} of what may be anything from {low:.4g} to {high:.4g}"
    return None


def _is_guarded(eqn: Equation) -> bool:
    if is_softmax(eqn):
        return eqn.params.get("within") is not None
    return is_smooth(eqn) and eqn.primitive.guarded


def _outside(eqn: Equation, interval: Interval) -> Any:
    """Which entries of the operand may be where there is no value."""
    if is_softmax(eqn):
        return softmax_undefined(eqn, interval)
    return ~eqn.primitive.defined(*interval)
