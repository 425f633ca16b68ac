"""Scores with the terms of every sum in an order drawn by chance: what other machines may compute."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Key

from jmlv.graph.ir import Equation, Graph, read


@jax.jit
def reordered_scores(
    graph: Graph, x: Float[Array, "*image"], key: Key[Array, ""]
) -> Float[Array, " label"]:
    """The scores of one input in the graph's precision, each sum in an order of its own.

    Reordered are the terms of matrix products and sums, and the channels that a convolution adds up
    (not its places). Up to rounding the scores stay as they are.

    >>> import numpy as np, jmlv
    >>> w = np.float32([[1e8], [1], [-1e8]])
    >>> graph = jmlv.trace(lambda x: x.reshape(-1, 3) @ w, (3,))
    >>> keys = jax.random.split(jax.random.key(0), 20)
    >>> sorted({float(reordered_scores(graph, jnp.ones(3), key)[0]) for key in keys})
    [0.0, 1.0]
    """
    values = graph.constants() | {graph.input: x[None]}
    for number, eqn in enumerate(graph.eqns):
        operands = [read(values, v) for v in eqn.invars]
        own = jax.random.fold_in(key, number)
        values[eqn.outvar] = eqn.bind(*_reordered(eqn, operands, own))
    return values[graph.output][0]


def _reordered(eqn: Equation, operands: list[Any], key: Key[Array, ""]) -> list[Any]:
    """The operands, with the axes that are summed over shuffled alike."""
    for number, axes in enumerate(_summed(eqn)):
        size = operands[0].shape[axes[0]]
        order = jax.random.permutation(jax.random.fold_in(key, number), size)
        operands = [jnp.take(v, order, axis) for v, axis in zip(operands, axes)] + operands[
            len(axes) :
        ]
    return operands


def _summed(eqn: Equation) -> list[tuple[int, ...]]:
    """Axes of the operands, one of each, that are summed over together."""
    params = eqn.params
    if eqn.primitive is lax.dot_general_p:
        return list(zip(*params["dimension_numbers"][0]))
    if eqn.primitive is lax.conv_general_dilated_p:
        grouped = params["feature_group_count"] > 1 or params["batch_group_count"] > 1
        numbers = params["dimension_numbers"]
        return [] if grouped else [(numbers.lhs_spec[1], numbers.rhs_spec[1])]
    if eqn.primitive is lax.reduce_sum_p:
        return [(axis,) for axis in params["axes"]]
    return []
