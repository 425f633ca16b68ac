"""The linear functions behind CROWN's lower bounds."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jmlv.bounds.backward import lower_bound
from jmlv.bounds.crown import CROWN, Relaxation
from jmlv.bounds.functionals import Whole
from jmlv.bounds.method import Interval
from jmlv.graph import Graph
from jmlv.graph.fuse import fuse_relu_max_pool


def minorants(
    graph: Graph,
    coefficients: Float[Array, "row label"],
    offsets: Float[Array, " row"],
    method: Relaxation = CROWN(),
) -> tuple[Float[Array, " row"], Float[Array, "row n"]]:
    """Linear functions below rows of the scores, on the unit box of a graph with a flat input.

    A lower bound by linear relaxation is the least value over ``lower <= t <= upper`` of such a
    function: its coefficients' positive part times ``lower``, plus their negative part times
    ``upper``, plus a constant. So the two parts are the bound's derivatives with respect to the ends,
    the relaxation kept as it is.

    Args:
        graph: of ``t``, one image of shape (n,).
        coefficients, offsets: the rows, as for :meth:`jmlv.bounds.BoundMethod.rows`.
        method: relaxes the graph.

    Returns:
        ``constants`` and ``slopes`` with ``coefficients @ f(t) + offsets >= constants + slopes @ t``
        for every ``t`` in [0, 1]^n, but for rounding.

    >>> import jax.numpy as jnp, jmlv
    >>> graph = jmlv.trace(lambda t: jnp.maximum(2 * t - 1, 0), (1,))
    >>> constants, slopes = minorants(graph, -jnp.ones((1, 1)), jnp.zeros(1))
    >>> print(constants + 0, slopes)
    [0.] [[-1.]]
    """
    graph = fuse_relu_max_pool(graph)
    ends = Interval(
        jnp.zeros(graph.input.shape, graph.dtype), jnp.ones(graph.input.shape, graph.dtype)
    )
    _, lines = method.relax(graph, ends)
    rows = Whole(coefficients[:, None, :].astype(graph.dtype))

    def least(lower: Array, upper: Array) -> Float[Array, " row"]:
        return lower_bound(graph, rows, lines, lower, upper)

    positive, negative = (d[:, 0] for d in jax.jacrev(least, (0, 1))(*ends))
    return least(*ends) + offsets - negative.sum(1), positive + negative
