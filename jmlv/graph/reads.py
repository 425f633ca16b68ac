"""Which pixels a network reads at all: the others may change freely."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool

from jmlv.graph.affine import pull_back
from jmlv.graph.ir import Equation, Graph, Variable
from jmlv.graph.operations import is_affine, is_maximum, is_product, is_smooth, is_softmax


def pixels_read(graph: Graph) -> Bool[np.ndarray, "*image"]:
    """Which entries of the input some score is computed from, whatever the weights.

    A convolution with a stride longer than its kernel skips pixels; so do cropping and valid
    padding. A weight that happens to be zero counts as a read.

    >>> import jax, jmlv
    >>> graph = jmlv.trace(lambda x: x[:, ::2, 0, :].reshape(x.shape[0], -1), (3, 2, 1))
    >>> print(pixels_read(graph)[..., 0].astype(int))
    [[1 0]
     [0 0]
     [1 0]]
    """
    ones = tuple(np.ones(v.shape, v.dtype) for v in graph.constvars)
    with jax.enable_x64(graph.dtype == "float64"):
        return np.asarray(_read(Graph(graph.structure, ones)))


@jax.jit
def _read(graph: Graph) -> Bool[Array, "*image"]:
    """One program for the whole graph, whose constants are ones."""
    ones = graph.constants()
    pending: dict[Variable, Array] = {graph.output: jnp.ones((1, *graph.output.shape), graph.dtype)}
    for eqn in reversed(graph.eqns):
        rows = pending.pop(eqn.outvar)
        for variable, part in _readers(graph, eqn, rows, ones).items():
            reached = (part != 0).astype(graph.dtype)
            pending[variable] = jnp.maximum(pending.get(variable, 0), reached)
    return pending[graph.input][0, 0] > 0


def _readers(graph: Graph, eqn: Equation, rows: Array, ones: dict) -> dict[Variable, Any]:
    """Which entries of the operands the marked entries of the output are computed from."""
    if is_affine(graph, eqn):
        return pull_back(graph, eqn, rows, ones)[0]
    if is_product(graph, eqn):
        return _factors(eqn, rows)
    source = eqn.invars[0]
    if is_maximum(eqn) or is_smooth(eqn):
        return {source: rows}
    if is_softmax(eqn):
        return {
            source: jnp.broadcast_to(
                rows.sum([a + 1 for a in eqn.params["axes"]], keepdims=True), rows.shape
            )
        }
    return {source: _pooled_from(eqn, source, rows)}


def _factors(eqn: Equation, rows: Array) -> dict[Variable, Any]:
    """Of both factors of a product: what it would read if the other were ones."""
    x, y = eqn.invars
    ones = {v: jnp.ones(v.shape, v.dtype) for v in (x, y)}
    (left,) = jax.linear_transpose(lambda v: eqn.bind(v, ones[y]), x.aval)(rows[0])
    (right,) = jax.linear_transpose(lambda v: eqn.bind(ones[x], v), y.aval)(rows[0])
    return {x: left[None] + right[None]} if x == y else {x: left[None], y: right[None]}


def _pooled_from(eqn: Equation, source: Variable, rows: Array) -> Array:
    def summed(x: Array) -> Array:
        return lax.reduce_window_sum_p.bind(x, **eqn.params)

    return jax.linear_transpose(summed, source.aval)(rows[0])[0][None]
