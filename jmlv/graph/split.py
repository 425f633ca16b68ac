"""A network as what compiled code is made for and the weights that it is given."""

from __future__ import annotations

from typing import Any

from flax import nnx
from jaxtyping import Array, Float, PyTree

from jmlv.graph.trace import Classifier, as_function


def scores_of(network: Any, weights: PyTree, x: Float[Array, "batch ..."]) -> Array:
    """The scores of a split network: an NNX graph definition, or a function with its weights inside."""
    return network(x) if weights is None else nnx.merge(network, weights)(x)


def split_network(f: Classifier) -> tuple[Any, PyTree]:
    """A hashable description of the network and its weights, so that compiled code is found again."""
    if isinstance(f, nnx.Module):
        evaluation = nnx.clone(f)
        evaluation.eval()
        return nnx.split(evaluation)
    function = getattr(f, "scores", None) or as_function(f)
    try:
        hash(function)
    except TypeError:
        return lambda x: function(x), None
    return function, None
