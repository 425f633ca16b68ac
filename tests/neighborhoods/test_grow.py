"""Growing: every result is certified, within its limits, and survives what should stop it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jmlv
from jmlv.models import CNNConfig, MultiLabelCNN
from jmlv.neighborhoods.optimum.knapsack import knapsack_step
from jmlv.neighborhoods.strategies.gradient_guided import scale_to_certified, start_directions
from jmlv.neighborhoods.strategies.strategy import Strategy
from jmlv.verdict import Status

SHAPE = (8, 8, 1)
CONFIG = CNNConfig(input_shape=SHAPE, channels=(3, 4), pool=2, labels=4)
STRATEGIES = [
    jmlv.Uniform(),
    jmlv.LayerByLayer("outward"),
    jmlv.LayerByLayer("inward"),
    jmlv.GradientGuided(),
    jmlv.GradientGuided(steps=jmlv.LinearSteps(gradient=jmlv.CROWNIBP()), starts=2),
    jmlv.LayerSearch(rounds=3, tighter=None, complete=None),
]
ORACLES = [jmlv.LayerByLayer("inward", steps=1, oracle=jmlv.MILP(tighter=None))]


@pytest.fixture(scope="module")
def task():
    """A random network, an image, layers around a corner object, and a label of its top two."""
    graph = jmlv.trace(MultiLabelCNN(CONFIG, rngs=nnx.Rngs(3)), SHAPE)
    x = np.random.default_rng(0).random(SHAPE).astype("float32")
    mask = np.zeros(SHAPE[:2], bool)
    mask[:3, :2] = True
    target = int(np.argmax(graph.scores(x[None])[0]))
    return graph, x, jmlv.Layers.around(mask), jmlv.InTopK(target, 2)


DEAR = [pytest.param(strategy, marks=pytest.mark.slow) for strategy in (*STRATEGIES[2:4], *ORACLES)]


@pytest.mark.parametrize("strategy", [*STRATEGIES[:2], *STRATEGIES[4:], *DEAR], ids=repr)
def test_result_is_certified_and_survives_sampling_and_attack(strategy, task):
    graph, x, layers, prop = task
    grown = jmlv.grow(graph, x, layers, prop, strategy, budget=60)
    assert grown.verdict.status is Status.ROBUST and grown.verdict.lower > 0
    assert grown.size > 0 and np.all((grown.epsilon >= 0) & (grown.epsilon <= 1))
    region = grown.region.box()
    points = _points(np.asarray(region.lower), np.asarray(region.upper))
    assert float(prop.margin(graph.scores(points)).min()) > 0
    attacked = jmlv.verify(graph, region, prop, jmlv.PGD(restarts=32, steps=50, seed=7))
    assert attacked.status is Status.UNKNOWN
    sizes = [size for _, size in grown.trace]
    assert sizes == sorted(sizes) and sizes[-1] == pytest.approx(grown.size)


def _points(lower, upper):
    rng = np.random.default_rng(1)
    t = rng.random((400, *lower.shape))
    t[::2] = np.round(t[::2])
    return (lower + t * (upper - lower)).astype("float32")


def test_linear_network_reaches_the_known_optimum():
    """Two pixels decide: margin = 0.6 - 2 eps_0 - eps_1, so eps_1 first, then eps_0 = 0."""

    def f(x):
        return jnp.stack([x[:, 0, 1, 0] - 2 * x[:, 0, 0, 0], 0 * x[:, 0, 0, 0]], -1)

    x = np.array([[[0.2], [1.0]]], np.float32)
    layers = jmlv.Layers.around(np.array([[True, False]]))
    inward = jmlv.grow(f, x, layers, jmlv.InTopK(0, 1), jmlv.LayerByLayer("inward", steps=12))
    np.testing.assert_allclose(inward.epsilon, [0.0, 0.6], atol=1e-3)
    for strategy in (
        jmlv.GradientGuided(steps=jmlv.LinearSteps(use=0.9999)),
        jmlv.LayerSearch(complete=None),
    ):
        grown = jmlv.grow(f, x, layers, jmlv.InTopK(0, 1), strategy)
        assert grown.size == pytest.approx(0.6, abs=5e-3)
        weighted = jmlv.grow(
            f, x, layers, jmlv.InTopK(0, 1), strategy, weights=np.array([3.0, 1.0])
        )
        assert weighted.size == pytest.approx(0.9, abs=5e-3)
        np.testing.assert_allclose(weighted.epsilon, [0.3, 0.0], atol=5e-3)


def test_free_layers_are_found_and_reported_apart():
    """Stride two, kernel one: odd rows and columns are never read; so is layer 1 of a point."""

    def f(x):
        h = x[:, ::3, ::3, :].reshape(x.shape[0], -1)
        return jnp.stack([h.sum(-1), jnp.zeros(x.shape[0])], -1)

    x = np.full((4, 4, 1), 0.5, np.float32)
    mask = np.zeros((4, 4), bool)
    mask[0, 0] = True
    grown = jmlv.grow(f, x, jmlv.Layers.around(mask), jmlv.InTopK(0, 1), jmlv.Uniform())
    assert list(grown.free) == [False, True, True, False]
    assert list(grown.epsilon[1:3]) == [1.0, 1.0]
    assert grown.size_without_free == pytest.approx(grown.size - 2)
    assert grown.region.upper.max() <= 1


def test_maximal_layers_have_a_witness_just_beyond(task):
    """Margin = 0.6 - eps_1 exactly: at eps_1 = 0.599 one grey level more breaks; eps_0 is free to grow."""

    def f(x):
        return jnp.stack([x[:, 0, 1, 0] - 0.4, 0.05 * (x[:, 0, 0, 0] - 1)], -1)

    x = np.array([[[0.5], [1.0]]], np.float32)
    layers = jmlv.Layers.around(np.array([[True, False]]))
    grown = jmlv.grow(f, x, layers, jmlv.InTopK(0, 1), jmlv.LayerByLayer("outward", steps=12))
    assert [s.name for s in grown.statuses] == ["FULL", "MAXIMAL"]
    halved = jmlv.grow(f, x, layers, jmlv.InTopK(0, 1), Interrupted())
    assert [s.name for s in halved.statuses] == ["UNDECIDED", "UNDECIDED"]
    unasked = jmlv.grow(f, x, layers, jmlv.InTopK(0, 1), Interrupted(), maximality=None)
    assert [s.name for s in unasked.statuses] == ["UNDECIDED", "UNDECIDED"]


def test_budget_ends_the_search_and_keeps_the_best(task):
    graph, x, layers, prop = task
    jmlv.grow(graph, x, layers, prop, jmlv.LayerByLayer(steps=1))  # compiles
    long = jmlv.LayerByLayer(steps=2000)
    grown = jmlv.grow(graph, x, layers, prop, long, budget=2.5)
    assert grown.reason == "the budget ended" and grown.seconds < 6
    assert grown.verdict.status is Status.ROBUST


@dataclasses.dataclass(frozen=True)
class Interrupted(Strategy):
    """Finds something, then the user presses Ctrl-C."""

    name = "interrupted"

    def search(self, problem):
        problem.offer(np.full(len(problem.movable), 1e-3))
        raise KeyboardInterrupt


def test_interrupt_keeps_the_best(task):
    graph, x, layers, prop = task
    grown = jmlv.grow(graph, x, layers, prop, Interrupted())
    assert grown.reason == "interrupted" and grown.verdict.robust
    assert grown.epsilon.min() > 0.03, "what was in hand is larger than what the strategy found"
    sizes = [size for _, size in grown.trace]
    assert sizes == sorted(sizes) and sizes[-1] == pytest.approx(grown.size)


@dataclasses.dataclass(frozen=True)
class Greedy(Strategy):
    """Offers everything at once, which is not robust."""

    name = "greedy"

    def search(self, problem):
        assert not problem.offer(np.ones(len(problem.movable))).robust


def test_what_is_not_certified_is_not_kept(task):
    graph, x, layers, prop = task
    grown = jmlv.grow(graph, x, layers, prop, Greedy())
    assert grown.size == 0 and grown.verdict.robust


def test_gradients_match_finite_differences(task):
    """Of the certified margin with respect to every pixel's epsilon, in float64."""
    from jmlv.numerics import certificate_precision

    graph, x, _, prop = task
    with certificate_precision():
        graph = graph.astype("float64")
        form = prop.form(graph.label_count)
        image = jnp.asarray(x, "float64")

        @jax.jit
        def margin(epsilon):
            low, high = jnp.clip(image - epsilon, 0, 1), jnp.clip(image + epsilon, 0, 1)
            return form.combine(jmlv.CROWN().rows(graph, low, high, *form_rows(form)).lower)

        rng = np.random.default_rng(2)
        epsilon = jnp.asarray(0.02 * rng.random(SHAPE) + 0.01)
        direction = jnp.asarray(rng.normal(size=SHAPE))
        slope = jnp.vdot(jax.jit(jax.grad(margin))(epsilon), direction)
        step = 1e-7
        numeric = (margin(epsilon + step * direction) - margin(epsilon - step * direction)) / (
            2 * step
        )
        assert float(slope) == pytest.approx(float(numeric), rel=1e-5)


def form_rows(form):
    return form.coefficients, form.offsets


@pytest.mark.parametrize("seed", range(50))
def test_knapsack_step_is_optimal(seed):
    """Against the linear program, by scipy."""
    from scipy.optimize import linprog

    rng = np.random.default_rng(seed)
    n = rng.integers(1, 9)
    gain, cost = rng.random(n), np.maximum(rng.normal(size=n), 0)
    low, high = -rng.random(n), rng.random(n)
    budget = float(rng.normal() + cost @ low / 2)
    step = knapsack_step(gain, cost, budget, low, high)
    best = linprog(-gain, cost[None], [budget], bounds=list(zip(low, high)))
    assert np.all((step >= low - 1e-12) & (step <= high + 1e-12))
    if best.status == 2:
        assert cost @ low > budget - 1e-9
    else:
        assert cost @ step <= budget + 1e-9 and gain @ step == pytest.approx(-best.fun)


def test_starts_are_scaled_to_just_inside(task):
    directions = start_directions(6, 5, seed=0)
    assert directions.shape == (5, 6) and np.all(directions.max(1) == 1)
    assert np.all(start_directions(6, 5, seed=0) == directions)

    class Toy:
        def margins(self, candidates):
            return 1 - candidates.sum(1)

        def certified(self, margin):
            return margin > 0

    epsilon, margin = scale_to_certified(Toy(), directions, steps=12)
    assert np.all(margin > 0) and np.all(margin < 0.01)
    np.testing.assert_allclose(margin, 1 - epsilon.sum(1))


BAD = {
    "property fails at x": (
        dict(property=jmlv.NotInTopK(0, 1) & jmlv.InTopK(0, 1)),
        "does not hold at x",
    ),
    "weights count": (dict(weights=np.ones(2)), "weights: expected one per layer"),
    "negative weights": (dict(weights=-np.ones(7)), "weights: must be"),
    "all zero weights": (dict(weights=np.zeros(7)), "weights: must be"),
    "budget": (dict(budget=-1.0), "budget: must be"),
    "image range": (dict(x=np.full(SHAPE, 2.0)), "x: values must lie"),
    "image shape": (dict(x=np.zeros((5, 5, 1))), "layers: made for"),
    "label": (dict(property=jmlv.InTopK(9, 2)), "label: must be"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_named(name, task):
    changes, message = BAD[name]
    graph, x, layers, prop = task
    if name == "property fails at x":
        f = lambda x: jnp.zeros((x.shape[0], 3)) * x.sum((1, 2, 3))[:, None]  # noqa: E731
        graph = jmlv.trace(f, SHAPE)
    arguments = dict(f=graph, x=x, layers=layers, property=prop) | changes
    if "weights" in changes and len(changes["weights"]) == 7:
        arguments["weights"] = np.resize(changes["weights"], layers.count)
    with pytest.raises(ValueError, match=message):
        jmlv.grow(**arguments)


def test_other_weights_and_properties(task):
    graph, x, layers, _ = task
    top = np.argsort(-np.asarray(graph.scores(x[None])[0]))[:2]
    keeps = jmlv.KeepsLabels(tuple(top), k=2)
    for weights in (jmlv.decaying, jmlv.by_pixel_count):
        grown = jmlv.grow(graph, x, layers, keeps, jmlv.Uniform(), weights=weights)
        assert grown.verdict.robust and grown.size == pytest.approx(weights(layers) @ grown.epsilon)
    assert jmlv.by_pixel_count(layers).sum() == pytest.approx(layers.count)
