"""Upper bounds on robust sizes: the hitting set against brute force, and cuts against the truth."""

import importlib
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from zoo import mostly_slow

import jmlv
from jmlv.neighborhoods.optimum import upper_bound
from jmlv.neighborhoods.optimum.hitting_set import largest_uncut
from jmlv.neighborhoods.optimum.upper_bound import _implies
from jmlv.oracles import SoundnessError


@pytest.mark.parametrize("seed", range(8))
def test_hitting_set_equals_brute_force(seed):
    rng = np.random.default_rng(seed)
    layers, count = rng.integers(1, 5), rng.integers(0, 7)
    cuts = rng.choice([0.0, 0.1, 0.25, 0.6, 1.0], (count, layers))
    cuts = cuts[(cuts > 0).any(1)]
    weights = rng.random(layers)
    values = [sorted({1.0, *cuts[:, d][cuts[:, d] > 0]}) for d in range(layers)]
    best = max(
        float(weights @ np.array(e))
        for e in itertools.product(*values)
        if all(any(e[d] <= r[d] for d in range(layers) if r[d] > 0) for r in cuts)
    )
    epsilon, bound = largest_uncut(cuts, weights, 10.0)
    assert bound == pytest.approx(best, abs=1e-5) and bound >= best - 1e-12
    assert weights @ epsilon == pytest.approx(best, abs=1e-5)


@pytest.mark.parametrize("seed", range(4))
def test_a_needless_cut_is_one_that_another_implies(seed):
    rng = np.random.default_rng(seed)
    grid = np.array(list(itertools.product([0.05, 0.3, 0.8, 0.95], repeat=3)))
    respects = lambda cut: ((grid <= cut) & (cut > 0)).any(1)  # noqa: E731
    cuts = rng.choice([0.0, 0.1, 0.5, 0.9], (30, 3))
    for cut, other in itertools.permutations(cuts[(cuts > 0).any(1)], 2):
        assert _implies(cut, other) == bool(np.all(~respects(cut) | respects(other)))


def _linear(slopes, threshold):
    """Label 0 loses exactly when the weighted change of the pixels exceeds the threshold."""
    slopes = jnp.asarray(slopes, jnp.float32)

    def f(x):
        change = (x[:, 0, :, 0] * slopes).sum(-1)
        return jnp.stack([threshold - change, jnp.zeros_like(change)], -1)

    x = np.zeros((1, len(slopes), 1), np.float32)
    mask = np.zeros((1, len(slopes)), bool)
    mask[0, 0] = True
    return f, x, jmlv.Layers.around(mask)


@pytest.mark.parametrize("few", mostly_slow([0, upper_bound.FEW], 0))
def test_bound_encloses_a_known_optimum(few, monkeypatch):
    """A fractional knapsack: the optimum spends the threshold where slopes are small."""
    monkeypatch.setattr(upper_bound, "FEW", few)
    f, x, layers = _linear([1.0, 2.0, 4.0], 1.5)
    found = jmlv.size_upper_bound(f, x, layers, jmlv.InTopK(0, 1), budget=60)
    assert 1.25 - 1e-6 <= found.value < 1.5
    assert found.trace[-1][1] == found.value <= found.trace[0][1]
    assert (found.boxes > 0) == (few > 0) and (few > 0 or len(found.cuts))
    assert all(np.array([1.0, 2.0, 4.0]) @ cut >= 1.5 - 1e-5 for cut in found.cuts)


@pytest.mark.slow
def test_every_cut_is_a_counterexample_and_sizes_stay_below():
    rng = np.random.default_rng(0)
    a, b = (jnp.asarray(rng.normal(size=s), jnp.float32) for s in ((16, 8), (8, 3)))
    f = lambda x: jnp.maximum(x.reshape(-1, 16) @ a, 0) @ b  # noqa: E731
    x = rng.uniform(size=(4, 4, 1)).astype(np.float32)
    mask = np.zeros((4, 4), bool)
    mask[0, 0] = True
    layers, prop = jmlv.Layers.around(mask), jmlv.InTopK(int(f(x[None])[0].argmax()), 1)
    weights = np.array([1.0, 0.5, 2.0, 1.0])
    grown = jmlv.grow(
        f, x, layers, prop, jmlv.LayerSearch(width=4, rounds=2, tighter=None, complete=None),
        weights=weights, optimality=4,
    )  # fmt: skip
    assert grown.size <= grown.upper_bound.value + 1e-9 and grown.gap >= 1
    assert grown.as_dict()["gap"] == grown.gap
    for cut in grown.upper_bound.cuts[:20]:
        region = jmlv.LayeredNeighborhood(x, layers, np.minimum(cut, 1).astype(np.float32))
        assert not jmlv.verify(f, region, prop, budget=20).robust


def test_bands_are_layers_of_equal_epsilon():
    f, x, layers = _linear([1.0, 1.0, 1.0, 1.0], 1.0)
    assert layers.count == 4
    found = jmlv.size_upper_bound(f, x, layers, jmlv.InTopK(0, 1), bands=2, budget=4)
    assert found.layers.count == 2 and np.all(found.weights == 2)
    assert 1.0 - 1e-6 <= found.value < 1.4


def test_an_unread_layer_stays_full():
    f, x, layers = _linear([1.0, 0.0, 1.0], 0.5)
    g = lambda x: f(jnp.concatenate([x[:, :, :1], jnp.zeros_like(x[:, :, :1]), x[:, :, 2:]], 2))  # noqa: E731
    found = jmlv.size_upper_bound(g, x, layers, jmlv.InTopK(0, 1), budget=5)
    assert len(found.cuts) and np.all(found.cuts[:, 1] == 0) and found.epsilon[1] == 1
    assert 1.5 - 1e-6 <= found.value < 1.8


def test_a_property_that_nothing_breaks_has_no_cuts():
    f, x, layers = _linear([1.0, 1.0, 1.0], 9.0)
    found = jmlv.size_upper_bound(f, x, layers, jmlv.InTopK(0, 1), budget=5)
    assert found.value == 3.0 and not len(found.cuts) and "no counterexample" in found.reason


def test_a_witness_that_does_not_replay_is_no_cut(monkeypatch):
    """The rule broken on purpose: an attack that claims success everywhere changes nothing."""
    from jmlv.neighborhoods.optimum import counterexamples as module

    f, x, layers = _linear([1.0, 1.0], 9.0)

    def lying(attack, graph, form, lower, upper, *_):
        return np.asarray(upper), -np.ones(len(upper))

    monkeypatch.setattr(module, "descend", lying)
    found = jmlv.size_upper_bound(f, x, layers, jmlv.InTopK(0, 1), budget=2)
    assert found.value == 2.0 and not len(found.cuts)


def test_a_graph_that_is_the_network_at_the_image_only_is_noticed(monkeypatch):
    """The rule broken on purpose: a reader that forgets what a network does away from the image."""
    f, x, layers = _linear([1.0, 2.0], 1.0)
    wrong = jmlv.trace(lambda y: f(y * 0.5), x.shape)
    reader = importlib.import_module("jmlv.graph.trace")  # the package has a function of that name
    monkeypatch.setattr(reader, "_read", lambda function, shape: (wrong, True))
    with pytest.raises(SoundnessError):
        jmlv.size_upper_bound(f, x, layers, jmlv.InTopK(0, 1), budget=2)
    with pytest.raises(SoundnessError):
        jmlv.grow(f, x, layers, jmlv.InTopK(0, 1), jmlv.Uniform())


@pytest.mark.parametrize("budget", [1e-4, 0.3])
def test_a_budget_that_ends_at_once_leaves_a_valid_bound(budget):
    f, x, layers = _linear([1.0, 2.0, 4.0], 1.5)
    found = jmlv.size_upper_bound(f, x, layers, jmlv.InTopK(0, 1), budget=budget)
    assert 1.25 - 1e-6 <= found.value <= 3.0


@pytest.mark.slow
def test_a_smooth_network_is_branched_on_too():
    g = lambda x: jax.nn.gelu(x.reshape(-1, 3) * jnp.array([1.0, 2.0, 4.0])).sum(-1)  # noqa: E731
    f = lambda x: jnp.stack([1.5 - g(x), 0 * g(x)], -1)  # noqa: E731
    _, x, layers = _linear([1.0, 1.0, 1.0], 1.0)
    found = jmlv.size_upper_bound(f, x, layers, jmlv.InTopK(0, 1), budget=8)
    assert found.boxes > 0
    grid = np.array(list(itertools.product(np.linspace(0, 1, 21), repeat=3)), np.float32)
    robust = np.asarray(g(grid)) < 1.5  # the score falls with every pixel
    assert grid[robust].sum(1).max() <= found.value < grid.sum(1).max()


def test_bad_arguments_name_the_argument():
    f, x, layers = _linear([1.0, 1.0], 0.5)
    with pytest.raises(ValueError, match="bands"):
        jmlv.size_upper_bound(f, x, layers, jmlv.InTopK(0, 1), bands=3)
    with pytest.raises(ValueError, match="budget"):
        jmlv.size_upper_bound(f, x, layers, jmlv.InTopK(0, 1), budget=0)
    with pytest.raises(ValueError, match="property"):
        jmlv.size_upper_bound(f, x, layers, jmlv.InTopK(1, 1))
    with pytest.raises(ValueError, match="optimality"):
        jmlv.grow(f, x, layers, jmlv.InTopK(0, 1), optimality=-1)
    with pytest.raises(ValueError, match="weights"):
        jmlv.size_upper_bound(f, x, layers, jmlv.InTopK(0, 1), weights=np.array([-1.0, 1.0]))
