"""Growing with cutting weights, complete oracles and dynamic weights: certified, and as specified."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import problem_of
from zoo import mostly_slow

import jmlv
from jmlv.neighborhoods.problem import Problem
from jmlv.neighborhoods.strategies.cutting import shrink
from jmlv.neighborhoods.strategies.oracle_guided import level_slopes
from jmlv.neighborhoods.strategies.sensitivity import layer_sensitivity
from jmlv.verdict import Status

SHAPE = (4, 4, 1)
ASCENT = jmlv.Ascent(step=0.2, shrinks=3, least=0.02, rounds=12)
QUICK = jmlv.Cascade((jmlv.PGD(restarts=4, steps=15), jmlv.Bounds()))
"""Not complete, but in this process: a weak point from PGD, a proof from CROWN."""
DYNAMIC = dataclasses.replace(ASCENT, weights=jmlv.SensitivityWeights())
CUTS = [jmlv.FixedCut(), jmlv.SensitivityCut(), jmlv.SensitivityCut("keep_sensitive")]
STRATEGIES = {
    **{
        f"gradient, {cut.name}": jmlv.GradientGuided(cut=cut, ascent=ASCENT, starts=2)
        for cut in CUTS
    },
    **{
        f"oracle, {cut.name}": jmlv.OracleGuided(cut, QUICK, ASCENT, raise_alone=0.2)
        for cut in CUTS
    },
    "gradient, no cut": jmlv.GradientGuided(cut=None, starts=2),
    "oracle, dynamic weights": jmlv.OracleGuided(oracle=QUICK, ascent=DYNAMIC, raise_alone=0.0),
    "gradient, dynamic weights": jmlv.GradientGuided(cut=CUTS[0], starts=2, ascent=DYNAMIC),
    "reweighted": jmlv.Reweighted(jmlv.GradientGuided(cut=None, starts=2), rounds=1),
}


@pytest.fixture(scope="module")
def task():
    """A random network, an image, and the layers around a corner object."""
    rng = np.random.default_rng(5)
    a, b = (jnp.asarray(rng.normal(size=s) / np.sqrt(s[0]), "float32") for s in ((16, 6), (6, 4)))
    graph = jmlv.trace(lambda x: jax.nn.relu(x.reshape(x.shape[0], 16) @ a + 0.1) @ b, SHAPE)
    x = np.random.default_rng(1).random(SHAPE).astype("float32")
    mask = np.zeros(SHAPE[:2], bool)
    mask[:2, :2] = True
    return graph, x, jmlv.Layers.around(mask)


def ranking(graph, x):
    return [int(label) for label in np.argsort(-np.asarray(graph.scores(x[None])[0]))]


@pytest.mark.parametrize("name", STRATEGIES)
def test_result_is_certified_and_survives_attack(name, task):
    graph, x, layers = task
    prop = jmlv.InTopK(ranking(graph, x)[0], 2)
    grown = jmlv.grow(graph, x, layers, prop, STRATEGIES[name], oracle=QUICK, maximality=None)
    assert grown.verdict.status is Status.ROBUST and grown.verdict.lower > 0
    assert grown.size > 0.05 and np.all((grown.epsilon >= 0) & (grown.epsilon <= 1))
    attacked = jmlv.verify(graph, grown.region, prop, jmlv.PGD(restarts=64, steps=50, seed=3))
    assert attacked.status is Status.UNKNOWN
    again = jmlv.grow(graph, x, layers, prop, STRATEGIES[name], oracle=QUICK, maximality=None)
    np.testing.assert_array_equal(again.epsilon, grown.epsilon)
    assert again.queries == grown.queries


KEPT = {
    "k = 1": lambda order: jmlv.InTopK(order[0], 1),
    "k = 3": lambda order: jmlv.InTopK(order[0], 3),
    "two labels, k = 2": lambda order: jmlv.KeepsLabels(tuple(order[:2]), k=2),
    "two labels, k = 3": lambda order: jmlv.KeepsLabels((order[0], order[2]), k=3),
    "one of three labels": lambda order: jmlv.KeepsLabels(tuple(order[:3]), k=3, at_least=1),
}


@pytest.mark.parametrize(
    "name, strategy",
    [(name, "oracle, fixed cut") for name in KEPT]
    + [(name, "gradient, fixed cut") for name in ("k = 1", "two labels, k = 3")],
)
def test_several_labels_and_other_k(name, strategy, task):
    graph, x, layers = task
    prop = KEPT[name](ranking(graph, x))
    grown = jmlv.grow(graph, x, layers, prop, STRATEGIES[strategy], oracle=QUICK, maximality=None)
    assert grown.verdict.robust and grown.size > 0
    attacked = jmlv.verify(graph, grown.region, prop, jmlv.PGD(restarts=32, steps=40, seed=3))
    assert attacked.status is Status.UNKNOWN


@pytest.mark.parametrize("strategy", ["gradient, fixed cut", "oracle, fixed cut"])
def test_several_perturbed_objects(strategy, task):
    """The mask is the union of two objects: layer 0 has the pixels of both."""
    graph, x, _ = task
    first, second = np.zeros((2, *SHAPE[:2]), bool)
    first[0, 0] = second[2:, 2:] = True
    layers = jmlv.Layers.around(first | second)
    assert layers.counts()[0] == 5
    prop = jmlv.InTopK(ranking(graph, x)[0], 2)
    grown = jmlv.grow(graph, x, layers, prop, STRATEGIES[strategy], oracle=QUICK, maximality=None)
    assert grown.verdict.robust and grown.size > 0
    radius = np.asarray(grown.region.upper) - np.asarray(grown.region.lower)
    for mask in (first, second):
        assert radius[mask].max() <= 2 * grown.epsilon[0] + 1e-6


def tiny(x):
    """Three pixels, two hidden units, two labels."""
    h = jax.nn.relu(
        x.reshape(x.shape[0], 3) @ jnp.array([[1.0, -2.0], [-1.5, 0.5], [0.4, 1.0]]) + 0.1
    )
    return h @ jnp.array([[1.2, -0.4], [-0.7, 0.9]]) + jnp.array([0.0, -0.1])


COMPLETE = jmlv.OracleGuided(ascent=jmlv.Ascent(step=0.3, shrinks=1, least=0.2), raise_alone=0.0)


BRUTE = {**STRATEGIES, "oracle, MILP": COMPLETE}


@pytest.mark.parametrize("name", mostly_slow(BRUTE, *list(BRUTE)[::2]))
def test_brute_force_agrees_with_every_proof(name, monkeypatch):
    """The margin is piecewise linear in three pixels: a fine grid with the corners must hold."""
    offered = []
    plain = Problem.offer

    def spying(self, epsilon, oracle=None):
        verdict = plain(self, epsilon, oracle)
        offered.append((self.full(epsilon), verdict.robust))
        return verdict

    monkeypatch.setattr(Problem, "offer", spying)
    x = np.array([[[0.8], [0.2], [0.3]]], np.float32)
    layers, prop = jmlv.Layers.around(np.array([[True, False, False]])), jmlv.InTopK(0, 1)
    jmlv.grow(tiny, x, layers, prop, BRUTE[name], oracle=QUICK, maximality=None)
    proven = [epsilon for epsilon, robust in offered if robust]
    assert len(proven) > 1
    for epsilon in proven:
        assert grid_margin(x, epsilon) > 0
    largest = max(proven, key=np.sum)
    assert grid_margin(x, np.minimum(1, largest + 0.3)) < 0


def grid_margin(x, epsilon):
    lower, upper = (np.clip(x.ravel() + sign * epsilon, 0, 1) for sign in (-1, 1))
    axes = [np.linspace(a, b, 13) for a, b in zip(lower, upper)]
    points = np.array(list(itertools.product(*axes)), "float32").reshape(-1, *x.shape)
    return float(jmlv.InTopK(0, 1).margin(tiny(points)).min())


@pytest.mark.slow
def test_weakest_points_reach_the_known_optimum():
    """Margin = 0.6 - 2 eps_0 - eps_1: all on layer 1."""

    def f(x):
        return jnp.stack([x[:, 0, 1, 0] - 2 * x[:, 0, 0, 0], 0 * x[:, 0, 0, 0]], -1)

    x = np.array([[[0.2], [1.0]]], np.float32)
    layers = jmlv.Layers.around(np.array([[True, False]]))
    complete = jmlv.MILP(weakest_point=True, time_limit=5.0)
    ascent = jmlv.Ascent(step=0.29, shrinks=1, least=0.2)
    strategy = jmlv.OracleGuided(jmlv.SensitivityCut(), complete, ascent, raise_alone=0.02)
    grown = jmlv.grow(f, x, layers, jmlv.InTopK(0, 1), strategy, maximality=None)
    assert grown.size == pytest.approx(0.6, abs=0.02)
    np.testing.assert_allclose(grown.epsilon, [0.0, 0.6], atol=0.02)
    assert grown.complete_queries > 3


def test_level_slopes_match_finite_differences(task):
    """At ``x + epsilon s`` with ``s`` fixed and inside [0, 1]; and at epsilon 0 along the weakest ``s``."""
    graph, _, layers = task
    x = np.random.default_rng(2).uniform(0.3, 0.7, SHAPE).astype("float32")
    prop = jmlv.InTopK(ranking(graph, x)[0], 2)
    problem = problem_of(graph, x, layers, prop)
    signs = np.random.default_rng(3).uniform(-1, 1, SHAPE).astype("float32")
    epsilon = np.full(layers.count, 0.1)
    spread = lambda e: np.asarray(layers.spread(e))  # noqa: E731
    margin = lambda e: problem.query.margin_exact(x + spread(e) * signs)  # noqa: E731
    slopes = level_slopes(problem, epsilon, x + spread(epsilon).astype("float32") * signs)
    for d in range(layers.count):
        step = 1e-3 * np.eye(layers.count)[d]
        numeric = (margin(epsilon + step) - margin(epsilon - step)) / 2e-3
        assert slopes[d] == pytest.approx(numeric, rel=0.02, abs=1e-3)
    at_zero = level_slopes(problem, 0 * epsilon, x)
    sums = layer_sensitivity(problem, x[None])[0] * layers.counts()
    np.testing.assert_allclose(at_zero, -sums, rtol=1e-4)


def test_a_pixel_at_its_limit_moves_no_further(task):
    graph, _, layers = task
    black = np.zeros(SHAPE, np.float32)
    prop = jmlv.InTopK(ranking(graph, black)[0], 2)
    problem = problem_of(graph, black, layers, prop)
    gradient = problem.input_gradients(black[None])[0][..., 0]
    rising = np.where(gradient < 0, -gradient, 0)
    expected = [-rising[layers.mask(d)].sum() for d in range(layers.count)]
    np.testing.assert_allclose(
        level_slopes(problem, np.zeros(layers.count), black), expected, rtol=1e-5
    )


def test_fixed_cut_is_the_sources_vector():
    np.testing.assert_allclose(jmlv.FixedCut.vector(6), np.array([5, 4, 3, 2, 1, 0]) / 6)
    r = 40
    vector = jmlv.FixedCut.vector(r + 1)
    assert vector[0] == pytest.approx(r / (r + 1)) and vector[1] == pytest.approx((r - 1) / (r + 1))
    assert vector[2] == pytest.approx((r - 2) / (r + 1)) and vector[-1] == 0


def test_cutting_weights_follow_sensitivity(task):
    graph, x, layers = task
    problem = problem_of(graph, x, layers, jmlv.InTopK(ranking(graph, x)[0], 2))
    sensitivity = layer_sensitivity(problem, x[None])[0]
    cut = jmlv.SensitivityCut("cut_sensitive").weights(problem, x[None])[0]
    keep = jmlv.SensitivityCut("keep_sensitive").weights(problem, x[None])[0]
    assert np.all(np.diff(cut[np.argsort(sensitivity)]) <= 0)
    assert np.all(np.diff(keep[np.argsort(sensitivity)]) >= 0)
    r = layers.count - 1
    np.testing.assert_allclose(cut + keep, r / (r + 1))
    assert cut[sensitivity.argmax()] == 0 and keep.max() == pytest.approx(r / (r + 1))
    fixed = jmlv.FixedCut().weights(problem, x[None])[0]
    np.testing.assert_allclose(fixed, jmlv.FixedCut.vector(layers.count)[problem.movable])


def test_layer_sensitivity_is_the_mean_gradient():
    def f(x):
        first = 3 * x[:, 0, 0, 0] + x[:, 0, 1, 0] - 2 * x[:, 0, 2, 0]
        return jnp.stack([first, 0 * first], -1)

    x = np.full((1, 3, 1), 0.5, np.float32)
    graph = jmlv.trace(f, x.shape)
    layers = jmlv.Layers.around(np.array([[False, True, False]]))
    problem = problem_of(graph, x, layers, jmlv.InTopK(0, 1))
    np.testing.assert_allclose(layer_sensitivity(problem, x[None]), [[1.0, 2.5]])


def test_shrink_moves_between_candidate_and_robust():
    candidate, robust = np.array([[0.8, 0.4, 1.0]]), np.array([[0.2, 0.4, 0.0]])
    cut = np.array([[0.25, 0.5, 0.0]])
    np.testing.assert_allclose(shrink(candidate, robust, cut), [[0.35, 0.4, 0.0]])
    np.testing.assert_allclose(shrink(candidate, robust, np.ones((1, 3))), candidate)
    np.testing.assert_allclose(shrink(candidate, robust, np.zeros((1, 3))), robust)


def test_dynamic_weights_favour_what_matters_least():
    own, sensitivity = np.array([1.0, 1.0, 2.0]), np.array([[1.0, 4.0, 1.0]])
    weights = jmlv.SensitivityWeights(strength=1.0).weights(own, sensitivity)[0]
    assert weights.sum() == pytest.approx(own.sum()) and weights[0] == pytest.approx(4 * weights[1])
    assert weights[2] == pytest.approx(2 * weights[0])
    same = jmlv.SensitivityWeights(strength=0.0).weights(own, sensitivity)[0]
    np.testing.assert_allclose(same, own)
    dead = jmlv.SensitivityWeights().weights(own, np.array([[0.0, 0.0, 0.0]]))[0]
    assert np.all(np.isfinite(dead))
    memory = jmlv.SensitivityWeights(memory=0.75)
    np.testing.assert_allclose(
        memory.remember(memory.remember(None, sensitivity), 0 * sensitivity), 0.75 * sensitivity
    )


def test_reweighted_is_judged_under_the_users_weights(task):
    """It never ends smaller than the plain strategy, and its sizes use the user's weights."""
    graph, x, layers = task
    prop = jmlv.InTopK(ranking(graph, x)[0], 2)
    plain = jmlv.GradientGuided(cut=None, starts=2)
    weights = np.linspace(2.0, 0.5, layers.count)
    settings = dict(weights=weights, oracle=QUICK, maximality=None)
    first = jmlv.grow(graph, x, layers, prop, plain, **settings)
    second = jmlv.grow(graph, x, layers, prop, jmlv.Reweighted(plain), **settings)
    assert second.size >= first.size and second.size == pytest.approx(weights @ second.epsilon)
    assert sum(second.queries.values()) > 2 * sum(first.queries.values())
    assert second.trace[-1][1] == pytest.approx(second.size)


@pytest.mark.parametrize("name", ["gradient, fixed cut", "oracle, fixed cut", "reweighted"])
def test_a_single_layer(name):
    """The object fills the image, so r = 0."""
    layers = jmlv.Layers.around(np.ones((1, 2), bool))
    x = np.array([[[0.9], [0.1]]], np.float32)
    settings = dict(strategy=STRATEGIES[name], oracle=QUICK, maximality=None)
    grown = jmlv.grow(lambda x: x[:, 0, :, 0], x, layers, jmlv.InTopK(0, 1), **settings)
    assert grown.verdict.robust and 0.35 < grown.size < 0.4


def test_budget_is_honoured(task):
    graph, x, layers = task
    prop = jmlv.InTopK(ranking(graph, x)[0], 2)
    endless = jmlv.Ascent(step=0.02, least=1e-9, rounds=10**6)
    for strategy in (
        jmlv.OracleGuided(oracle=QUICK, ascent=endless),
        jmlv.GradientGuided(cut=jmlv.FixedCut(), ascent=endless, starts=2),
    ):
        grown = jmlv.grow(
            graph, x, layers, prop, strategy, budget=1.0, oracle=QUICK, maximality=None
        )
        assert grown.reason in ("the budget ended", "the strategy ended") and grown.seconds < 4
        assert grown.verdict.robust


BAD = {
    "direction": (lambda: jmlv.SensitivityCut("sideways"), "direction: expected"),
    "least above step": (lambda: jmlv.Ascent(step=0.1, least=0.2), "step, least"),
    "penalty": (lambda: jmlv.Ascent(penalty=-1.0), "penalty: must"),
    "shrinks": (lambda: jmlv.Ascent(shrinks=0), "shrinks, rounds"),
    "raise alone": (lambda: jmlv.OracleGuided(raise_alone=-0.1), "raise_alone: must"),
    "memory": (lambda: jmlv.SensitivityWeights(memory=1.0), "memory: must"),
    "strength": (lambda: jmlv.SensitivityWeights(strength=np.nan), "strength: must"),
    "rounds": (lambda: jmlv.Reweighted(jmlv.Uniform(), rounds=0), "rounds: must"),
    "starts": (lambda: jmlv.GradientGuided(starts=0), "starts: must"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_arguments_are_named(name):
    make, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        make()
