"""What a network is to those that only call it: a pure function of a batch."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from jaxtyping import PyTree


def as_function(module: Any, variables: Any = None) -> Callable[[Any], Any]:
    """A Flax module as the pure function ``f(x) -> scores`` that it computes at inference.

    Args:
        module: an ``nnx.Module`` (its evaluation mode is used, the module itself is left alone), a
            Linen module together with its ``variables``, or any callable, returned as it is.
        variables: the variables of a Linen module, ``{"params": ...}``.

    >>> import jax, jmlv
    >>> from flax import linen as nn
    >>> dense = nn.Dense(3)
    >>> f = jmlv.as_function(dense, dense.init(jax.random.key(0), jax.numpy.ones((1, 2))))
    >>> f(jax.numpy.ones((5, 2))).shape
    (5, 3)
    """
    parts = nnx_parts(module)
    if parts is not None:
        return lambda x: merged(*parts)(x)
    linen = sys.modules.get("flax.linen")
    if linen is not None and isinstance(module, linen.Module) and variables is not None:
        return lambda x: module.apply(variables, x)
    require_callable(module)
    return module


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
