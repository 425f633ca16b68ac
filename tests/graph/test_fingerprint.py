"""A network's fingerprint: another for another network; tests/campaigns asks other processes too."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jmlv
from jmlv.graph.fingerprint import fingerprint

SHAPE = (2, 2, 1)
WEIGHTS = np.arange(12, dtype=np.float32).reshape(4, 3)


def dense(weights, activation=jax.nn.relu):
    return lambda x: activation(x.reshape(x.shape[0], 4) @ weights)


def softmaxed(weights):
    return lambda x: jax.nn.softmax(jnp.exp(x.reshape(x.shape[0], 4)) @ weights)


def rounded(weights):
    """Has no sound rule, so that there is no graph of it."""
    return lambda x: jnp.round(x.reshape(x.shape[0], 4) @ weights)


@pytest.mark.parametrize("make", [dense, softmaxed, rounded])
def test_the_same_network_has_one_name_and_another_network_another(make):
    nudged = WEIGHTS.copy()
    nudged[3, 2] = np.nextafter(nudged[3, 2], np.float32(np.inf))
    name = fingerprint(make(WEIGHTS), SHAPE)
    assert name == fingerprint(make(WEIGHTS.copy()), SHAPE)
    assert name != fingerprint(make(nudged), SHAPE)
    assert name != fingerprint(lambda x: make(WEIGHTS)(1 - x), SHAPE)


def test_weights_of_inner_calls_count():
    def f(weights):
        inner = jax.jit(lambda x: jnp.exp(x.reshape(x.shape[0], 4)) @ weights)
        return lambda x: jnp.round(inner(x))

    assert fingerprint(f(WEIGHTS), SHAPE) != fingerprint(f(WEIGHTS + 1), SHAPE)


def test_settings_count():
    def pooled(width):
        def f(x):
            h = jax.lax.reduce_window(
                x, -np.inf, jax.lax.max, (1, width, 1, 1), (1, 1, 1, 1), "SAME"
            )
            return h.reshape(x.shape[0], 4)

        return f

    assert fingerprint(pooled(1), SHAPE) != fingerprint(pooled(2), SHAPE)


def test_a_graph_is_named_as_its_function():
    f = dense(WEIGHTS)
    assert fingerprint(jmlv.trace(f, SHAPE)) == fingerprint(f, SHAPE)


def test_a_function_needs_a_shape():
    with pytest.raises(ValueError, match="image_shape"):
        fingerprint(dense(WEIGHTS))
