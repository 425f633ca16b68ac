"""The base classifier, its input and its key in the form that compiled code takes them."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Key, PyTree

from jmlv.graph import Classifier, as_function


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


def finite_input(x: Any) -> Float[Array, "..."]:
    values = np.asarray(x, np.float32)
    if not np.all(np.isfinite(values)):
        raise ValueError("x: holds NaN or infinite values.")
    return jnp.asarray(values)


def threefry_key(key: Any) -> Key[Array, ""]:
    """A typed scalar key whose numbers do not depend on the batch that they are drawn in."""
    if isinstance(key, (jax.Array, np.ndarray)) and key.dtype == np.uint32 and key.shape == (2,):
        return jax.random.wrap_key_data(jnp.asarray(key), impl="threefry2x32")
    typed = isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    if not (typed and key.shape == () and "fry" in str(key.dtype)):
        raise ValueError(
            f"key: expected one threefry key, got {key!r}. Pass "
            "jax.random.key(0, impl='threefry2x32')."
        )
    return key
