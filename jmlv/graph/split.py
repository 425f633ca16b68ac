"""A network as what compiled code is made for and the weights that it is given."""

from __future__ import annotations

import sys
from typing import Any

from jaxtyping import Array, Float, PyTree

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


def require_callable(f: Any) -> None:
    """Raises TypeError for what is no network at all."""
    if not callable(f):
        raise TypeError(f"module: expected a Flax module or a callable f(x), got {f!r}.")


def nnx_parts(module: Any) -> tuple[Any, PyTree] | None:
    """Definition and state of an NNX module as it is at inference; None for anything else.

    The module is left alone. Whoever has one has imported Flax; nobody else needs to.
    """
    nnx = sys.modules.get("flax.nnx")
    if nnx is None or not isinstance(module, nnx.Module):
        return None
    evaluation = nnx.clone(module)
    evaluation.eval()
    return nnx.split(evaluation)


def merged(definition: Any, state: PyTree) -> Any:
    """The NNX module of two parts."""
    from flax import nnx  # dear to import, and there already

    return nnx.merge(definition, state)
