"""Interval bound propagation, by jax_verify up to the last layers."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from jmlv.bounds.jax_verify_rules import ibp_transform, interval_bound
from jmlv.bounds.last_layers import rows_from_intervals
from jmlv.bounds.method import BoundMethod, Interval
from jmlv.graph import Graph
from jmlv.graph.jax_verify import load


@dataclasses.dataclass(frozen=True)
class IBP(BoundMethod):
    """Interval arithmetic through every operation: the cheapest bound, and the loosest.

    Rows are folded into the affine operations that end the network (elision of the last layer).
    Source: Gowal et al. 2018, arXiv:1810.12715, Eq. (6)-(7) and section 3. Intervals by jax_verify.

    >>> import jax.numpy as jnp, jmlv
    >>> graph = jmlv.trace(lambda x: jnp.abs(x.reshape(1, -1)), (2, 1, 1))
    >>> zeros, ones = jnp.zeros((2, 1, 1)), jnp.ones((2, 1, 1))
    >>> bound = IBP().rows(graph, zeros, ones, jnp.array([[1.0, -1.0]]), jnp.zeros(1))
    >>> print(bound.lower, bound.upper)
    [-1.] [1.]
    """

    @property
    def name(self) -> str:
        return "IBP"

    def rows(self, graph, lower, upper, coefficients, offsets) -> Interval:
        graph, (lower, upper, coefficients, offsets) = in_one_precision(
            graph, lower, upper, coefficients, offsets
        )
        propagation = propagate(graph, lower, upper)
        return rows_from_intervals(graph, propagation.read, coefficients, offsets)


def in_one_precision(graph: Graph, *values: Any) -> tuple[Graph, list[Array]]:
    """Graph and arrays in the widest floating-point type among the graph's and the box's."""
    lower, upper = map(jnp.asarray, values[:2])
    dtype = str(jnp.result_type(graph.dtype, lower, upper))
    return graph.astype(dtype), [jnp.asarray(v, dtype) for v in values]


def propagate(graph: Graph, lower: Float[Array, "*image"], upper: Float[Array, "*image"]) -> Any:
    """jax_verify's record of an interval propagation; ``read(variable)`` is a variable's bound."""
    box = interval_bound(Interval(lower[None], upper[None]))
    return load().bound_propagation.bound_propagation(ibp_transform(), graph, box)[1]
