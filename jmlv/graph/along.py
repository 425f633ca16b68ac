"""A network on a parallelepiped of inputs, as a network in the coordinates of that body."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jmlv.graph.builder import Builder
from jmlv.graph.ir import Equation, Graph, Variable
from jmlv.graph.normalise import interpret
from jmlv.graph.operations import is_affine


def along(
    graph: Graph, origin: Float[Array, "*image"], edges: Float[Array, "edge *image"]
) -> Graph:
    """The network at ``origin + t @ edges``, as a graph of ``t``.

    What is affine in the image is affine in ``t``: the first layers, up to the first nonlinear
    operations, become one dense layer, whose interval bounds over a box of ``t`` are exact.

    Args:
        graph: the network.
        origin: one image, of the graph's shape and dtype.
        edges: what one unit of each coordinate adds to it.

    Returns:
        A graph whose input is (edge,), in the same dtype. Pure: goes through ``jit`` and ``vmap``.

    >>> import jax.numpy as jnp, jmlv
    >>> graph = jmlv.trace(lambda x: jnp.maximum(x.reshape(-1, 2), 0.5), (2, 1, 1))
    >>> line = along(graph, jnp.zeros((2, 1, 1)), jnp.array([[[[1.0]], [[0.25]]]]))
    >>> print(line(jnp.array([[3.0]])))
    [[3.   0.75]]
    """
    affine = _affine(graph)
    others = [eqn for eqn in graph.eqns if eqn.outvar not in affine]
    read = affine & {graph.output, *(v for eqn in others for v in eqn.invars)}
    corners = jnp.concatenate([origin[None], origin + edges])
    values = jax.vmap(lambda x: _values(graph, x[None], read))(corners)
    builder = Builder(graph.dtype)
    t = builder.variable((1, len(edges)), graph.dtype)
    found = graph.constants() | {v: _dense(builder, t, values[v]) for v in sorted(read)}
    for eqn in others:
        found[eqn.outvar] = _copy(builder, eqn, found)
    return builder.finish(t, found[graph.output])


def _affine(graph: Graph) -> set[Variable]:
    """The variables that are affine functions of the input."""
    found = {graph.input}
    for eqn in graph.eqns:
        if is_affine(graph, eqn) and found.issuperset(graph.inputs_of(eqn)):
            found.add(eqn.outvar)
    return found


def _values(
    graph: Graph, x: Float[Array, "1 *image"], wanted: set[Variable]
) -> dict[Variable, Array]:
    env = graph.environment(x)
    return {v: env[v] for v in wanted}


def _dense(builder: Builder, t: Variable, corners: Float[Array, "corner 1 ..."]) -> Variable:
    """The affine function of ``t`` with these values at the origin and at the ends of the edges."""
    start, slopes = corners[0], (corners[1:] - corners[0]).reshape(len(corners) - 1, -1)
    closed = jax.make_jaxpr(lambda t: start + (t @ slopes).reshape(start.shape))(t.aval)
    return interpret(builder, closed.jaxpr, closed.consts, [t])[0]


def _copy(builder: Builder, eqn: Equation, values: Mapping[Variable, Any]) -> Variable:
    """The same operation on what its operands have become."""
    operands = [values[v] if isinstance(v, Variable) else v for v in eqn.invars]
    out = eqn.outvar
    return builder.record(eqn.primitive, operands, eqn.params, out.shape, out.dtype)
