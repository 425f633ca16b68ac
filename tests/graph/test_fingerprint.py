"""A network's fingerprint: another for another network; tests/campaigns asks other processes too."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jmlv
from jmlv.errors import UnsupportedOperation
from jmlv.graph.fingerprint import fingerprint, fingerprint_as_run

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


PLACES = 1200
"""More entries than NumPy prints."""


def taken(swapped, after=lambda x: x):
    """Networks that differ by which of many entries are taken, in the middle of the list alone."""
    places = np.arange(PLACES)
    places[600:602] = (601, 600) if swapped else (600, 601)
    weights = np.linspace(0, 1, 3 * PLACES, dtype=np.float32).reshape(PLACES, 3)
    return lambda x: after(jnp.take(x.reshape(-1, PLACES), places, axis=1) @ weights)


def weighed(swapped, wrap=lambda g: g, after=lambda x: x):
    """Networks whose weights differ by the last bit of one of them."""
    weights = np.ones((PLACES, 2), np.float32)
    weights[601 if swapped else 600] = np.nextafter(np.float32(1), np.float32(2))
    held = jnp.asarray(weights)
    inner = wrap(lambda x: x @ held)
    return lambda x: after(inner(x.reshape(-1, PLACES)))


def in_a_loop(g):
    return lambda x: jax.lax.scan(lambda c, _: (c + g(x), None), jnp.zeros((1, 2)), None, length=2)[
        0
    ]


def in_a_branch(g):
    return lambda x: jax.lax.cond(x.sum() > 0, g, lambda x: -g(x), x)


def while_small(g):
    return lambda x: jax.lax.while_loop(
        lambda c: c.sum() < 9, lambda c: c + g(x) ** 2, jnp.ones((1, 2))
    )


def with_own_slope(g):
    h = jax.custom_vjp(g)
    h.defvjp(lambda x: (g(x), None), lambda _, d: (d,))
    return h


WRAPS = {
    "call": jax.jit,
    "checkpoint": jax.checkpoint,
    "call in a checkpoint": lambda g: jax.checkpoint(jax.jit(g)),
    "checkpoint in a call": lambda g: jax.jit(jax.checkpoint(g)),
    "own slope": with_own_slope,
    "loop": in_a_loop,
    "branch": in_a_branch,
    "while": while_small,
    "map": lambda g: lambda x: jax.lax.map(g, x),
}


@pytest.mark.parametrize("after", [lambda x: x, jnp.round])
def test_no_list_is_too_long_to_count(after):
    names = {fingerprint(taken(swapped, after), (PLACES, 1, 1)) for swapped in (False, True)}
    assert len(names) == 2


@pytest.mark.parametrize("wrap", WRAPS.values(), ids=WRAPS)
def test_weights_count_wherever_they_are_held(wrap):
    one, again, other = (
        fingerprint_as_run(weighed(swapped, wrap, jnp.round), (PLACES,))
        for swapped in (False, False, True)
    )
    assert one == again != other


def called_back(weights):
    def f(x):
        shape = jax.ShapeDtypeStruct((x.shape[0], 3), jnp.float32)
        return jax.pure_callback(lambda v: v.reshape(-1, 4) @ weights, shape, x)

    return f


def test_code_that_cannot_be_seen_has_no_name():
    with pytest.raises(UnsupportedOperation, match=r"told apart.*pure_callback"):
        fingerprint(called_back(WEIGHTS), SHAPE)


def test_what_prints_is_named_as_what_does_not():
    def printing(x):
        jax.debug.print("{}", x)
        return jnp.round(x.reshape(1, 4))

    assert len(fingerprint_as_run(printing, SHAPE)) == 64


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
