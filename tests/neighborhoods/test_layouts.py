"""Growing does not depend on how an input is laid out, once the layers are told."""

import functools

import jax
import numpy as np
import pytest

import jmlv
from jmlv.neighborhoods import GradientGuided, Uniform
from jmlv.neighborhoods.arguments import layer_query
from jmlv.neighborhoods.optimum.counterexamples import Counterexamples
from jmlv.neighborhoods.optimum.fixed_patterns import _one_hot
from jmlv.oracles import PGD, Deadline
from jmlv.plotting import heatmap

HEIGHT, WIDTH, CHANNELS = 4, 5, 3
RNG = np.random.default_rng(5)
HIDDEN = RNG.normal(size=(HEIGHT * WIDTH * CHANNELS, 8)).astype(np.float32) / 6
HEAD = RNG.normal(size=(8, 4)).astype(np.float32)
X = RNG.random((HEIGHT, WIDTH, CHANNELS), np.float32)
MASK = np.zeros((HEIGHT, WIDTH), bool)
MASK[1, 2] = True
BACK = (0, 2, 3, 1)


def net(x):
    return jax.nn.relu(x.reshape(len(x), -1) @ HIDDEN + 0.1) @ HEAD


LAYERS = jmlv.Layers.around(MASK)
FIRST = X.transpose(2, 0, 1)
LAYOUTS = {
    "channel first": (
        lambda x: net(x.transpose(BACK)),
        FIRST,
        LAYERS.on((CHANNELS, HEIGHT, WIDTH), axes=(1, 2)),
    ),
    "flat": (
        lambda x: net(x.reshape(-1, CHANNELS, HEIGHT, WIDTH).transpose(BACK)),
        FIRST.reshape(-1),
        LAYERS.on((CHANNELS, HEIGHT, WIDTH), axes=(1, 2), flat=True),
    ),
}
PROPERTY = jmlv.InTopK(int(np.argmax(net(X[None])[0])), k=2)


def largest(f, x, layers, strategy):
    grown = jmlv.grow(f, x, layers, PROPERTY, strategy, budget=60)
    assert grown.verdict.robust and grown.region.lower.shape == x.shape
    return grown


@functools.cache
def usual(strategy):
    return largest(net, X, LAYERS, strategy)


@pytest.mark.parametrize(
    "name, strategy",
    [
        ("channel first", Uniform()),
        ("flat", Uniform()),
        pytest.param("flat", GradientGuided(), marks=pytest.mark.slow),
    ],
)
def test_the_same_neighbourhood_is_found_in_every_layout(name, strategy, tmp_path):
    expected = usual(strategy)
    grown = largest(*LAYOUTS[name], strategy)
    np.testing.assert_allclose(grown.epsilon, expected.epsilon, atol=2e-3)
    assert len(heatmap(grown).axes) == 3
    grown.save(tmp_path / "grown.npz")
    assert jmlv.GrownNeighborhood.load(tmp_path / "grown.npz") == grown


def test_counterexamples_are_patterns_in_every_layout():
    """Upper bounds speak of ``x + epsilon pattern``: the same points, moved."""
    epsilons = np.linspace(0.4, 0.1, LAYERS.count)[None]
    pattern = np.sign(RNG.normal(size=X.shape)).astype(np.float32)[None]
    deadline = Deadline(None)

    def found(f, x, layers, pattern):
        query = layer_query(f, x, layers, PROPERTY)
        known = Counterexamples(query, layers, PGD(), deadline)
        points = known.points(epsilons, pattern)
        edges = _one_hot(known.places, layers.count)
        return points, known.patterns(points, epsilons), known.free, edges * np.ones_like(x)

    points, patterns, free, edges = found(net, X, LAYERS, pattern)
    assert np.nanmax(np.abs(patterns)) == 1 and not free.any()
    f, x, layers = LAYOUTS["channel first"]
    order = (0, 3, 1, 2)
    moved = found(f, x, layers, pattern.transpose(order))
    for mine, theirs in zip(moved, (points, patterns, free, edges)):
        theirs = theirs.transpose(order) if theirs.ndim == 4 else theirs
        np.testing.assert_allclose(mine, theirs, atol=1e-6)


def test_layers_that_do_not_fit_are_named():
    f, x, _ = LAYOUTS["flat"]
    with pytest.raises(ValueError, match="Say how an input is laid out"):
        jmlv.grow(f, x, LAYERS, PROPERTY)
