"""How much of a network's scores is rounding: every value on the way is nudged, and what moves is seen."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jmlv.graph.ir import Graph, read


@jax.jit
def nudged_scores(
    graph: Graph, x: Float[Array, "*image"], nudge: Float[Array, ""]
) -> Float[Array, " label"]:
    """The scores of one input, with the output of every operation off by so much of itself.

    Each entry is larger or smaller by a pattern without order, another in each operation. With a
    nudge of 0 they are the scores: one program serves both.

    >>> import jmlv
    >>> graph = jmlv.trace(lambda x: x.reshape(-1, 9) * 1e6 + 1 - x.reshape(-1, 9) * 1e6, (9,))
    >>> scores, moved = (nudged_scores(graph, jnp.ones(9), nudge) for nudge in (0.0, 1e-3))
    >>> print(scores, bool(jnp.abs(moved - scores).max() > 100))
    [1. 1. 1. 1. 1. 1. 1. 1. 1.] True
    """
    values = graph.constants() | {graph.input: x[None]}
    for number, eqn in enumerate(graph.eqns, 1):
        value = eqn.bind(*(read(values, v) for v in eqn.invars))
        if jnp.issubdtype(value.dtype, jnp.floating):
            value = value * (1 + jnp.asarray(nudge, value.dtype) * _signs(value, number))
        values[eqn.outvar] = value
    return values[graph.output][0]


def _signs(like: Array, number: int) -> Array:
    """1 and -1 by the highest bit of a hash of each entry's place and the operation's number."""
    place = lax.iota(jnp.uint32, like.size).reshape(like.shape)
    mixed = place * jnp.uint32(_ODD) + jnp.uint32(number * _ODD**2 % 2**32)
    mixed = (mixed ^ (mixed >> 15)) * jnp.uint32(_ODD)
    return 1 - 2 * (mixed >> 31).astype(like.dtype)


_ODD = 2654435769
"""2 ** 32 over the golden ratio."""
