"""Branching on epsilon: what it rules out is broken, and its bound closes on a known optimum."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import zoo

import jmlv
from jmlv.bounds import CROWN, IBP
from jmlv.bounds.minorant import minorants
from jmlv.clauses import weakest_clause, width
from jmlv.graph.along import along
from jmlv.neighborhoods.arguments import layer_query
from jmlv.neighborhoods.optimum import fixed_patterns
from jmlv.neighborhoods.optimum.counterexamples import Counterexamples
from jmlv.neighborhoods.optimum.fixed_patterns import FixedPatterns
from jmlv.neighborhoods.optimum.half_spaces import HalfSpaces
from jmlv.numerics import PROOF_TOLERANCE, certificate_precision
from jmlv.oracles import PGD, Deadline

ATTACK = PGD(restarts=4, steps=20)


def _body(rng, edges):
    origin = rng.random(zoo.SHAPE)
    return origin, (rng.random((edges, *zoo.SHAPE)) - origin) / edges


SMOOTH = {
    act.__name__: lambda w, act=act: (
        lambda x, a=w(72, 8), head=w.head(8): head(act(x.reshape(x.shape[0], -1) @ a))
    )
    for act in (jax.nn.gelu, jax.nn.silu, jnp.tanh)
}
KINDS = "dense", "conv", "pool", "residual", "odds_and_ends", "nnx"
NETS = {name: zoo.NETS[name] for name in KINDS} | SMOOTH


@pytest.mark.parametrize("name", zoo.mostly_slow(NETS, *list(NETS)[::3]))
def test_a_network_along_edges_is_the_network_and_lies_above_its_minorants(name):
    rng = np.random.default_rng(0)
    graph = jmlv.trace(NETS[name](zoo.Weights(1)), zoo.SHAPE)
    origin, edges = _body(rng, 3)
    coefficients, offsets = zoo.rows_of(rng)
    shares = np.concatenate([rng.random((40, 3)), list(itertools.product((0.0, 1.0), repeat=3))])
    with certificate_precision():
        graph = graph.astype("float64")
        images = jnp.asarray(origin + np.tensordot(shares, edges, 1))
        body = jax.jit(along)(graph, jnp.asarray(origin), jnp.asarray(edges))
        scores = np.asarray(graph.scores(images))
        np.testing.assert_allclose(body.scores(jnp.asarray(shares)), scores, atol=1e-9)
        rows = jnp.asarray(coefficients), jnp.asarray(offsets)
        found = jax.jit(minorants)(body, *rows)
        box = jnp.zeros(3), jnp.ones(3)
        crown, ibp = (jax.jit(m.rows)(body, *box, *rows).lower for m in (CROWN(), IBP()))
    constants, slopes = map(np.asarray, found)
    values = scores @ coefficients.T + offsets
    assert np.all(values >= constants + shares @ slopes.T - 1e-9)
    least = constants + np.minimum(slopes, 0).sum(1)
    np.testing.assert_allclose(np.maximum(least, ibp), crown, atol=1e-9)


def test_minorants_of_an_affine_network_are_the_network():
    graph = jmlv.trace(lambda x: x.reshape(-1, 4) @ jnp.arange(8.0).reshape(4, 2) - 1, (2, 2, 1))
    edges = np.random.default_rng(1).normal(size=(2, 2, 2, 1))
    body = along(graph, jnp.zeros((2, 2, 1)), jnp.asarray(edges, jnp.float32))
    constants, slopes = minorants(body, jnp.eye(2), jnp.array([0.0, 5.0]))
    np.testing.assert_allclose(constants, [-1, 4], atol=1e-6)
    expected = edges.reshape(2, 4) @ np.arange(8.0).reshape(4, 2)
    np.testing.assert_allclose(slopes, expected.T, rtol=1e-5)


@pytest.mark.parametrize(
    "prop",
    [
        jmlv.InTopK(0, 2),
        jmlv.NotInTopK(1, 2),
        jmlv.KeepsLabels((0, 3), 3),
        jmlv.InTopK(2, 1) & jmlv.AboveThreshold(2, 0.1),
    ],
    ids=str,
)
def test_the_weakest_clause_has_the_margin(prop):
    tree = prop.tree(5)
    coefficients, offsets = prop.rows(5)
    for scores in np.random.default_rng(0).normal(size=(50, 5)):
        rows = coefficients @ scores + offsets
        clause = weakest_clause(tree, rows)
        assert rows[clause].max() == pytest.approx(float(prop.margin(scores)), abs=1e-6)
        assert len(clause) <= width(tree)


@pytest.mark.parametrize("seed", range(6))
def test_half_spaces_against_a_grid(seed):
    rng = np.random.default_rng(seed)
    lower = 0.5 * rng.random(3)
    upper = lower + rng.random(3) * np.array([1, 1, seed % 2])
    half = HalfSpaces.of_shares(rng.normal(size=2), 2 * rng.normal(size=(2, 3)), lower, upper)
    weights = rng.random(3)
    grid = lower + np.array(list(itertools.product(np.linspace(0, 1, 21), repeat=3))) * (
        upper - lower
    )
    inside = grid[(half.constants + grid @ half.slopes.T >= 0).any(1)]
    largest = half.largest(weights, lower, upper)
    assert largest is None or (half.constants + half.slopes @ largest >= -1e-12).any()
    for epsilon in inside:
        assert weights @ largest >= weights @ epsilon - 1e-12
        assert np.all(half.reach(lower, upper) >= epsilon - 1e-12)


def test_a_function_that_overflowed_rules_nothing_out():
    constants, slopes = np.array([np.nan, -np.inf, -1.0]), np.zeros((3, 2))
    for row in range(2):
        half = HalfSpaces.of_shares(constants[[row]], slopes[[row]], np.zeros(2), np.ones(2))
        assert np.all(half.largest(np.ones(2), np.zeros(2), np.ones(2)) == 1)
        assert np.all(half.reach(np.zeros(2), np.ones(2)) >= 1)
    half = HalfSpaces.of_shares(constants[[2]], slopes[[2]], np.zeros(2), np.ones(2))
    assert half.largest(np.ones(2), np.zeros(2), np.ones(2)) is None


def _splitting(f, x, layers, prop, weights, cuts=()):
    query = layer_query(f, x, layers, prop)
    known = Counterexamples(query, layers, ATTACK, Deadline(None))
    return FixedPatterns(known, weights, np.array(cuts).reshape(-1, layers.count))


def _task(seed):
    rng = np.random.default_rng(seed)
    f = zoo.NETS[("conv", "pool", "residual")[seed]](zoo.Weights(2 * seed))
    x = rng.random(zoo.SHAPE).astype(np.float32)
    mask = np.zeros(zoo.SHAPE[:2], bool)
    mask[2, 2] = True
    best = int(np.argmax(f(x[None])[0]))
    props = jmlv.InTopK(best, 1), jmlv.KeepsLabels((best,), 1), jmlv.InTopK(best, 2)
    return f, x, jmlv.Layers.around(mask), props[seed]


@pytest.mark.parametrize("seed", zoo.mostly_slow(range(3), 2))
def test_what_is_ruled_out_is_broken(seed, monkeypatch):
    """Every epsilon sampled that half-spaces rule out has a counterexample on the box's pattern."""
    f, x, layers, prop = _task(seed)
    weights = np.array([1.0, 2.0, 0.5, 1.0])
    splitting = _splitting(f, x, layers, prop, weights)
    query, places = splitting.known.query, splitting.known.places
    rng, checked = np.random.default_rng(seed), []
    cuts = FixedPatterns._cuts

    def checking(self, nodes, patterns, rows):
        found = cuts(self, nodes, patterns, rows)
        for node, pattern, half in zip(nodes, patterns, found):
            start, end = (self.known.points(e, pattern) for e in (node.lower, node.upper))
            for t in [*rng.random((6, 4)), np.zeros(4), np.ones(4)]:
                epsilon = node.lower + t * (node.upper - node.lower)
                if (half.constants + half.slopes @ epsilon < 0).all():
                    point = start + t[places] * (end - start)
                    assert np.all(np.abs(point - x) <= epsilon[places] + 1e-12)
                    checked.append(query.margin_exact(point))
        return found

    monkeypatch.setattr(FixedPatterns, "_cuts", checking)
    bounds = [splitting.bound]
    for _ in range(6):
        splitting.split()
        bounds.append(splitting.bound)
    assert len(checked) > 20 and max(checked) <= PROOF_TOLERANCE
    assert bounds == sorted(bounds, reverse=True) and bounds[-1] < bounds[0]


def test_its_bound_closes_on_a_known_optimum():
    """A linear network: the largest neighbourhood is a fractional knapsack."""
    slopes, weights = np.array([1.0, 2.0, 4.0, 3.0]), np.array([1.0, 1.0, 3.0, 0.0])

    def f(images):
        moved = images.reshape(images.shape[0], -1) @ slopes
        return jnp.stack([1.5 - moved, jnp.zeros_like(moved)], -1)

    layers = jmlv.Layers.around(np.eye(1, 4, dtype=bool))
    splitting = _splitting(f, np.zeros((1, 4, 1), np.float32), layers, jmlv.InTopK(0, 1), weights)
    for _ in range(8):
        splitting.split()
    assert 1.375 <= splitting.bound < 1.375 + 1e-4
    np.testing.assert_allclose(splitting.largest, [1, 0, 0.125, 0], atol=1e-4)


@pytest.mark.parametrize(
    "wide, slack", [(0.0, (1e-6, 1e-6)), (1e9, (1e-5, 1e-1)), (1e300, (1e9, np.inf))]
)
def test_what_float64_rounds_rules_nothing_out(wide, slack):
    """Sums that cancel: their rounding is added to every function, and where nobody knows it all stays."""
    slopes = np.array([1.0, 2.0, 4.0, 3.0])

    def f(images):
        x = images.reshape(images.shape[0], -1)
        moved = jnp.stack([x @ slopes + x @ (wide * slopes), -x @ (wide * slopes)], -1)
        moved = jax.nn.relu(moved + wide * 20) @ jnp.ones(2) - 2 * wide * 20
        return jnp.stack([1.5 - moved, jnp.zeros_like(moved)], -1)

    layers, x = jmlv.Layers.around(np.eye(1, 4, dtype=bool)), np.zeros((1, 4, 1), np.float32)
    with jax.enable_x64(True):
        splitting = _splitting(f, x, layers, jmlv.InTopK(0, 1), np.array([1.0, 1.0, 3.0, 0.0]))
        assert slack[0] <= splitting.slack <= slack[1]
        for _ in range(4):
            splitting.split()
    assert splitting.bound >= 1.375


def test_large_networks_get_small_batches():
    def f(images):
        hidden = jnp.maximum(jnp.repeat(images.reshape(-1, 36), 2**16, 1) - 0.5, 0)
        return jnp.stack([hidden[:, 0] + 1, hidden[:, 1]], -1)

    x, layers = np.zeros((6, 6, 1), np.float32), jmlv.Layers.around(np.eye(6, dtype=bool))
    splitting = _splitting(f, x, layers, jmlv.InTopK(0, 1), np.ones(layers.count))
    assert (splitting.batch, splitting.chunk) == (1, 14)


def test_counterexamples_bound_boxes_too():
    f, x, layers, prop = _task(0)
    cuts = [[0.0, 0.3, 0.0, 0.0], [0.2, 0.5, 0.0, 0.0]]
    splitting = _splitting(f, x, layers, prop, np.ones(4), cuts)
    upper = splitting.heap[0][2].upper
    assert upper[1] == 0.3 and upper[0] == upper[2] == 1
    inside = splitting._outside_cuts(np.array([0.25, 0.1, 0, 0]), np.ones(4))
    assert list(inside) == [1, 0.3, 1, 1]
    assert np.all(splitting._outside_cuts(np.array([0.25, 0.6, 0, 0]), np.ones(4)) < 0)


def test_where_every_neighbourhood_is_ruled_out_nothing_is_left():
    f, x, layers, prop = _task(0)
    splitting = _splitting(f, x, layers, prop, np.ones(4), [[0.0, 0.0, 0.0, 0.0]])
    assert splitting.slack == PROOF_TOLERANCE and splitting.bound < 0


def test_a_broken_relaxation_is_noticed(monkeypatch):
    """The rule broken on purpose: linear functions a little too low rule robust epsilons out."""
    majorants = fixed_patterns._majorants
    monkeypatch.setattr(
        fixed_patterns, "_majorants", lambda *a: (majorants(*a)[0] - 0.5, majorants(*a)[1])
    )
    with pytest.raises(AssertionError):
        test_its_bound_closes_on_a_known_optimum()
