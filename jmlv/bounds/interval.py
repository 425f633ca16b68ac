"""Interval arithmetic for one equation of the graph, by jax_verify's IBP rules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jaxtyping import Array

from jmlv.bounds.jax_verify_rules import exact_bound, ibp_rules
from jmlv.bounds.method import Interval
from jmlv.graph import Equation


def interval_step(eqn: Equation, operands: Sequence[Any]) -> Interval | Array:
    """Bounds on an equation's output.

    Args:
        eqn: the equation.
        operands: one for each of its inputs, an :class:`Interval` if it depends on the network's
            input, else an array. What a function with a domain reads is taken as it is: it was moved
            outward already (:mod:`jmlv.bounds.sizes`).

    Returns:
        An interval, or the value itself if no operand is an interval.

    >>> import jax.numpy as jnp, jmlv
    >>> graph = jmlv.trace(lambda x: -x.reshape(1, -1), (2, 1, 1))
    >>> x = Interval(jnp.zeros((1, 2, 1, 1)), jnp.ones((1, 2, 1, 1)))
    >>> for eqn in graph.eqns:
    ...     x = interval_step(eqn, [x])
    >>> print(x.lower, x.upper)
    [[-1. -1.]] [[-0. -0.]]
    """
    if not any(isinstance(x, Interval) for x in operands):
        return eqn.bind(*operands)
    operands = [exact_bound(x) if isinstance(x, Interval) else x for x in operands]
    bound = ibp_rules()[eqn.primitive](0, *operands, **eqn.params)
    return Interval(bound.lower, bound.upper)
