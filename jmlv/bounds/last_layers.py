"""Rows of the scores, folded into the affine operations that end the network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from jmlv.bounds.method import Interval
from jmlv.graph import Graph, Variable
from jmlv.graph.affine import Rows, pull_back
from jmlv.graph.operations import is_affine


def rows_from_intervals(
    graph: Graph,
    interval_of: Callable[[Variable], Any],
    coefficients: Float[Array, "row label"],
    offsets: Float[Array, " row"],
) -> Interval:
    r"""Bounds on ``coefficients @ scores + offsets`` from intervals of what the last layers read.

    A row $c^T F$ with $F = W h + b$ is bounded as $(c^T W) h + c^T b$ over the interval of $h$.
    Intervals of the scores would forget that all scores read the same $h$: they are looser for
    differences of scores, and the same for single ones.

    Args:
        graph: the network.
        interval_of: bounds, with ``lower`` and ``upper``, on the input and on every variable that
            an operation makes which is not affine.

    Source: Gowal et al., *On the Effectiveness of Interval Bound Propagation for Training Verifiably
    Robust Models*, 2018, section 3 (elision of the last layer).

    >>> import jmlv
    >>> graph = jmlv.trace(lambda x: x.reshape(1, 1) @ jnp.ones((1, 2)), (1, 1, 1))
    >>> x = Interval(jnp.zeros((1, 1, 1, 1)), jnp.ones((1, 1, 1, 1)))
    >>> rows_from_intervals(graph, lambda _: x, jnp.array([[1.0, -1.0]]), jnp.zeros(1)).upper
    Array([0.], dtype=float32)
    """
    functionals, constant = _pulled_back(graph, coefficients)
    low = high = constant + offsets
    for variable, rows in functionals.items():
        least, most = _range(rows, interval_of(variable))
        low, high = low + least, high + most
    return Interval(low, high)


def _pulled_back(
    graph: Graph, coefficients: Float[Array, "row label"]
) -> tuple[dict[Variable, Rows], Float[Array, " row"]]:
    """The rows as functionals of the input and of outputs that are not affine, and a constant."""
    pending, ends = {graph.output: coefficients[:, None, :]}, {}
    constant, constants = jnp.zeros(len(coefficients), coefficients.dtype), graph.constants()
    for eqn in reversed(graph.eqns):
        rows = pending.pop(eqn.outvar, None)
        if rows is None:
            continue
        if not is_affine(graph, eqn):
            ends[eqn.outvar] = rows
            continue
        pulled, offset = pull_back(graph, eqn, rows, constants)
        constant = constant + offset
        for variable, part in pulled.items():
            pending[variable] = pending[variable] + part if variable in pending else part
    return ends | pending, constant


def _range(rows: Rows, interval: Any) -> tuple[Float[Array, " row"], Float[Array, " row"]]:
    """The least and the largest value of functionals over an interval."""
    flat = rows.reshape(rows.shape[0], -1)
    low, high = interval.lower.reshape(-1), interval.upper.reshape(-1)
    middle, spread = flat @ ((low + high) / 2), jnp.abs(flat) @ ((high - low) / 2)
    return middle - spread, middle + spread
