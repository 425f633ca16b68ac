"""A network as what compiled code is made for and the weights that it is given."""

from __future__ import annotations

from typing import Any

from jaxtyping import Array, Float, PyTree

from jmlv.functions import merged, nnx_parts, require_callable
from jmlv.graph.ir import Graph


def scores_of(network: Any, weights: PyTree, x: Float[Array, "batch ..."]) -> Array:
    """The scores of a split network: of a graph, an NNX graph definition, or a function."""
    if weights is None:
        return network(x)
    return weights.scores(x) if network is Graph else merged(network, weights)(x)


def split_network(f: Any) -> tuple[Any, PyTree]:
    """A hashable description of the network and its weights, so that compiled code is found again.

    Functions keep their weights inside, and None is returned for them.

    Raises:
        TypeError: it cannot be called.
    """
    if isinstance(f, Graph):
        return Graph, f
    parts = nnx_parts(f)
    if parts is not None:
        return parts
    require_callable(f)
    try:
        hash(f)
    except TypeError:
        return lambda x: f(x), None
    return f, None
