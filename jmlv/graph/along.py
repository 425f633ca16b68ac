"""A network on a parallelepiped of inputs, as a network in the coordinates of that body."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jmlv.graph.ir import Graph, Variable, read
from jmlv.graph.operations import is_affine
from jmlv.graph.trace import read_function


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
    count = len(edges)
    affine = _affine(graph)
    corners = jnp.concatenate([origin[None], origin + edges])
    values = jax.vmap(lambda x: _values(graph, x[None], affine))(corners)
    start = {v: at[0] for v, at in values.items()}
    slopes = {v: (at[1:] - at[0]).reshape(count, -1) for v, at in values.items()}

    def function(t: Float[Array, "1 edge"]) -> Float[Array, "1 label"]:
        env = graph.constants()
        env |= {v: start[v] + (t @ slopes[v]).reshape(v.shape) for v in affine}
        for eqn in graph.eqns:
            if eqn.outvar not in affine:
                env[eqn.outvar] = eqn.bind(*(read(env, v) for v in eqn.invars))
        return env[graph.output]

    return read_function(function, (1, count), graph.dtype)


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
    return {v: value for v, value in graph.environment(x).items() if v in wanted}
