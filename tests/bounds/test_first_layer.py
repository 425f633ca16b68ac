"""Planes above first ReLUs: valid for any shares, exact on the hull, and no looser than the chord."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jmlv
from jmlv.bounds import first_layer
from jmlv.bounds.backward import sweep
from jmlv.bounds.crown import CROWN
from jmlv.bounds.first_layer import first_layers
from jmlv.bounds.functionals import Whole
from jmlv.bounds.method import Interval


def _convolutional(x):
    kernel = jax.random.normal(jax.random.key(0), (3, 3, 2, 4))
    x = jax.lax.conv_general_dilated(
        (x - 0.4) / 0.3,
        kernel,
        (2, 2),
        ((1, 1), (1, 0)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    x = jax.nn.relu(x * jnp.array([1.0, -2.0, 0.5, 1.5]) + jnp.array([0.1, 0.0, -0.2, 0.3]))
    return x.reshape(x.shape[0], -1) @ jax.random.normal(jax.random.key(1), (24, 5))


def _dense(x):
    x = jax.nn.relu(x.reshape(x.shape[0], -1) @ jax.random.normal(jax.random.key(2), (50, 6)) - 0.2)
    return x @ jax.random.normal(jax.random.key(3), (6, 5))


NETS = {"convolutional": _convolutional, "dense": _dense}
SHAPE = (5, 5, 2)


def _case(name, radius=0.2):
    graph = jmlv.trace(NETS[name], SHAPE)
    x = np.random.default_rng(4).random(SHAPE, np.float32)
    x = np.clip(x, radius, 1 - radius)
    return graph, Interval(jnp.asarray(x - radius)[None], jnp.asarray(x + radius)[None])


def _rows(graph):
    return Whole(jax.random.normal(jax.random.key(5), (8, 1, graph.label_count)))


def _values(graph, box, rows, count=3000):
    """Rows at random points and corners: (point, row)."""
    share = np.random.default_rng(6).random((count, *SHAPE)).astype(np.float32)
    share[::2] = share[::2].round()
    points = box.lower + share * (box.upper - box.lower)
    return np.asarray(graph.scores(points) @ rows.rows[:, 0].T)


@jax.jit
def _crown(graph, box, rows):
    """CROWN's bound without planes, the same through planes, and with random shares: (seed, row)."""
    planes = first_layers(graph, box)
    _, lines = CROWN().relax(graph, box)
    chords, _ = sweep(graph, rows, lines, *box)
    found, used = sweep(graph, rows, lines, *box, planes=planes)

    def varied(seed):
        keys = jax.random.split(jax.random.key(seed), len(jax.tree.leaves(used)))
        keys = jax.tree.unflatten(jax.tree.structure(used), list(keys))
        wanted = jax.tree.map(
            lambda v, key: jax.random.uniform(key, v.shape, minval=-0.5, maxval=1.5), used, keys
        )
        return sweep(graph, rows, lines, *box, wanted, planes=planes)[0]

    return chords, found, jax.vmap(varied)(jnp.arange(8))


@pytest.mark.parametrize("name", NETS)
def test_any_shares_give_a_valid_bound_and_equal_ones_are_crown(name):
    graph, box = _case(name)
    rows = _rows(graph)
    least = _values(graph, box, rows).min(0)
    chords, found, varied = _crown(graph, box, rows)
    np.testing.assert_allclose(found, chords, rtol=1e-4, atol=1e-4)
    assert np.all(varied <= least + 1e-4)


@partial(jax.jit, static_argnums=0)
def _alpha(method, *arguments):
    return method.rows(*arguments)


@pytest.mark.slow
@pytest.mark.parametrize("name", NETS)
def test_optimised_planes_are_tighter_than_optimised_chords(name):
    graph, box = _case(name)
    rows = _rows(graph)
    least = _values(graph, box, rows).min(0)
    ends = box.lower[0], box.upper[0]
    arguments = graph, *ends, rows.rows[:, 0], jnp.zeros(8)
    chords, planes = (
        np.asarray(_alpha(jmlv.AlphaCROWN(steps=60, learning_rate=0.2, planes=p), *arguments).lower)
        for p in (False, True)
    )
    assert np.all(planes <= least + 1e-4)
    assert np.mean(planes - chords) > 0.03 * np.mean(least - chords)


def _envelope(x):
    """0.6 a + 0.4 b - relu(a + b - 1): over the unit square relu(a + b - 1) <= min(a, b)."""
    x = x.reshape(-1, 2)
    return x @ jnp.array([[0.6], [0.4]]) - jax.nn.relu(x @ jnp.ones((2, 1)) - 1)


def _least_of_envelope(planes, steps=20):
    box = jmlv.Box.between(jnp.zeros((2, 1, 1)), jnp.ones((2, 1, 1)))
    method = jmlv.AlphaCROWN(steps, planes=planes)
    return float(jmlv.bound(_envelope, box, jmlv.AboveThreshold(0), method).lower)


def test_the_hull_of_one_neuron_is_reached():
    assert _least_of_envelope(planes=False) < -0.08
    assert -0.02 < _least_of_envelope(planes=True) <= 1e-6


def test_a_plane_with_a_wrong_constant_is_caught(monkeypatch):
    monkeypatch.setattr(first_layer, "_constant", lambda total, most: jnp.maximum(0, most - total))
    with pytest.raises(jmlv.SoundnessError, match="do not hold at a point"):
        _least_of_envelope(planes=True, steps=21)  # steps that nothing else compiles


def test_which_first_layers_are_known():
    def depth(f):
        box = Interval(jnp.zeros((1, *SHAPE)), jnp.ones((1, *SHAPE)))
        return len(first_layers(jmlv.trace(f, SHAPE), box))

    assert depth(_convolutional) == depth(_dense) == 1
    assert depth(lambda x: jax.nn.relu(x - 0.5).reshape(-1, 50)) == 0
    assert depth(lambda x: _dense(jax.nn.relu(x - 0.5))) == 0
    varied = jnp.arange(9.0).reshape(1, 3, 3, 1)
    convolution = nnx.Conv(2, 4, (3, 3), 2, rngs=nnx.Rngs(0))
    assert depth(lambda x: jax.nn.relu(convolution(x)).reshape(-1, 36)) == 1
    assert depth(lambda x: jax.nn.relu(varied * convolution(x)).reshape(-1, 36)) == 0
