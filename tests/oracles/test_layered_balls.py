"""Balls of one radius for each layer: points, bounds, verdicts and counts, against brute force."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_networks import predicted
from zoo import mostly_slow

import jmlv
from jmlv.bounds.balls import minimum_over, minimum_over_ball
from jmlv.bounds.functionals import Whole, Window, whole
from jmlv.graph import Variable
from jmlv.labels.store import query_key
from jmlv.numerics import certificate_precision
from jmlv.oracles import PGD, Bounds, BranchAndBound, Cascade, InputSplitting, Query

NORMS = 2, 1
ORACLE = Cascade((Bounds(), PGD(restarts=4, steps=12), InputSplitting(batch=16)))
SHAPE = (4, 5, 2)


def layered(norm, seed=0, weighted=False, shape=SHAPE):
    """Layers around a corner; one of them cannot move, a third of the entries are at the domain's edge."""
    rng = np.random.default_rng(seed)
    mask = np.zeros(shape[:2], bool)
    mask[0, 0] = True
    layers = jmlv.Layers.around(mask)
    x = rng.random(shape) * (rng.random(shape) < 0.7)
    radius = rng.choice([0.1, 0.4, 0.9], layers.count) * (1 + (norm == 1))
    radius[1] = 0
    weights = rng.choice([0.5, 1.0, 2.0], shape) if weighted else None
    return jmlv.Ball(x.astype(np.float32), radius, norm, weights, layers=layers)


def points_of(ball, count=400, seed=0):
    rng = np.random.default_rng(seed)
    change = rng.normal(size=(count, *ball.shape)) * 10.0 ** rng.uniform(-2, 1, (count, 1, 1, 1))
    return ball.clip(ball.exact().x + change)


def alone(ball, layer):
    """The ball in which one layer moves and the others do not, as one of a single radius."""
    still = np.broadcast_to(ball.layers.places != layer, ball.shape)
    weights = np.where(still, 1e9, ball.exact().weights)
    return jmlv.Ball(ball.x, float(ball.radius[layer]), ball.norm, weights, ball.domain)


@pytest.mark.parametrize("weighted", (False, True))
@pytest.mark.parametrize("norm", NORMS)
def test_points_are_clipped_into_every_layer(norm, weighted):
    ball = layered(norm, weighted=weighted)
    points = points_of(ball)
    assert all(map(ball.contains, points)) and np.array_equal(ball.clip(points), points)
    assert ball.share(points).max() > 0.999 and ball.length(points).shape == (len(points), 5)
    assert np.array_equal(points[..., ball.layers.index == 1, :], np.broadcast_to(ball.exact().x[ball.layers.index == 1], points[..., ball.layers.index == 1, :].shape))  # fmt: skip
    change = ball.exact().weights * (points - ball.exact().x)
    for layer in range(ball.layers.count):
        part = change[..., ball.layers.index == layer, :].reshape(len(points), -1)
        lengths = np.linalg.norm(part, norm, axis=1)
        assert np.all(lengths <= ball.radius[layer])
        moved = points[np.argmax(lengths)].copy()
        moved[ball.layers.index == layer] += 0.01 + ball.radius[layer]
        assert not ball.contains(moved)


@pytest.mark.parametrize("norm", NORMS)
def test_what_is_pulled_and_the_steepest_way_keep_every_radius(norm):
    ball = layered(norm, weighted=True)
    inside = ball.astype("float32")
    moved = jnp.asarray(np.random.default_rng(1).normal(size=(7, *SHAPE)), "float32")
    pulled = np.asarray(inside.pulled(moved))
    way = np.asarray(inside.steepest(moved))
    assert ball.share(pulled).max() < 1 + 1e-5 and ball.share(ball.exact().x + way).max() < 1 + 1e-5
    free = ball.radius > 0
    assert np.allclose((ball.length(ball.exact().x + way) / np.where(free, ball.radius, 1))[:, free], 1, atol=1e-5)  # fmt: skip


def least(ball, functional, box=None):
    box = ball.box() if box is None else box
    with certificate_precision():
        ends = (jnp.asarray(end)[None] for end in (box.lower, box.upper))
        return np.asarray(minimum_over(functional, *ends, ball.astype("float64")))


@pytest.mark.parametrize("weighted", mostly_slow((False, True), True))
@pytest.mark.parametrize("norm", NORMS)
def test_functionals_are_bounded_as_the_sum_of_the_layers_alone(norm, weighted):
    ball = layered(norm, 2, weighted)
    rows = np.random.default_rng(3).normal(size=(5, *SHAPE))
    with certificate_precision():
        functional = Whole(jnp.asarray(rows)[:, None])
        found = least(ball, functional)
        ends = [jnp.asarray(end)[None] for end in (ball.box().lower, ball.box().upper)]
        parts = [
            minimum_over_ball(functional, *ends, alone(ball, layer).astype("float64"))
            for layer in range(ball.layers.count)
        ]
    at_centre = (rows * ball.exact().x).reshape(5, -1).sum(1)
    together = at_centre + sum(np.asarray(part) - at_centre for part in parts)
    assert np.all(found >= together - 1e-6)
    values = np.tensordot(points_of(ball, 2000), rows, ((1, 2, 3), (1, 2, 3)))
    assert np.all(found <= values.min(0) + 1e-9)
    swapped = jmlv.Ball(ball.x, ball.radius[::-1] * 0.3, norm, ball.weights, layers=ball.layers)
    reached = np.min(values, 0) < at_centre - 0.3 * (at_centre - found)
    assert reached.any() and np.any(least(swapped, functional, ball.box()) > values.min(0))


@pytest.mark.parametrize("weighted", mostly_slow((False, True), True))
@pytest.mark.parametrize("norm", NORMS)
def test_a_window_is_bounded_as_the_same_functional_written_out(norm, weighted):
    ball, rng = layered(norm, 4, weighted), np.random.default_rng(5)
    with certificate_precision():
        corner = jnp.asarray([[0, 0], [1, 2], [2, 3]])
        rows = jnp.asarray(rng.normal(size=(3, 2, 2, 2)))
        window = Window(rows, corner)
        written = whole(window, Variable(0, (1, *SHAPE), "float64"))
        ends = [jnp.asarray(end)[None] for end in (ball.box().lower, ball.box().upper)]
        found = minimum_over_ball(written, *ends, ball.astype("float64"))
    np.testing.assert_allclose(least(ball, window), found, atol=1e-9)


def test_one_layer_is_a_ball():
    ball = layered(2)
    one = jmlv.Layers(np.zeros(SHAPE[:2], np.int32), 1)
    plain, same = (
        jmlv.Ball(ball.x, 0.4),
        jmlv.Ball(ball.x, np.array([0.4]), layers=one),
    )
    points = points_of(plain)
    np.testing.assert_allclose(same.share(points), plain.share(points), rtol=1e-12)
    rows = Whole(jnp.asarray(np.random.default_rng(0).normal(size=(3, 1, *SHAPE)), "float32"))
    np.testing.assert_allclose(least(same, rows), least(plain, rows), rtol=1e-6)
    graph = jmlv.trace(lambda x: x.reshape(len(x), -1)[:, :2], SHAPE)
    keys = {query_key(Query.of(graph, b, jmlv.InTopK(0, 1)), 1) for b in (plain, same, ball)}
    assert len(keys) == 3


class Small:
    """Two pixels of two channels, each pixel a layer: four numbers move."""

    def __init__(self, seed):
        rng = np.random.default_rng(seed)
        self.first, self.last = rng.normal(size=(4, 5)) * 2, rng.normal(size=(5, 4))
        self.x = rng.random((1, 2, 2)).astype(np.float32)
        self.radius = rng.choice([0.05, 0.2, 0.4], 2)
        first, last = (jnp.asarray(w, "float32") for w in (self.first, self.last))
        self.graph = jmlv.trace(
            lambda x: jax.nn.relu(x.reshape(len(x), 4) @ first) @ last, (1, 2, 2)
        )
        self.layers = jmlv.Layers.around(np.array([[True, False]]))

    def ball(self, norm):
        return jmlv.Ball(self.x, self.radius, norm, layers=self.layers)

    def scores(self, points):
        first, last = (np.float32(w).astype(float) for w in (self.first, self.last))
        return np.maximum(points.reshape(-1, 4) @ first, 0) @ last

    def grid(self, ball, count=9):
        ends = (e.reshape(-1) for e in (ball.box().lower, ball.box().upper))
        axes = [np.linspace(low, high, count) for low, high in zip(*ends)]
        points = np.array(list(itertools.product(*axes))).reshape(-1, 1, 2, 2)
        return np.concatenate([points[ball.share(points) <= 1], ball.clip(points)])


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("seed", mostly_slow(range(8), 3))
def test_verdicts_and_counts_agree_with_brute_force(seed, norm):
    small = Small(seed)
    ball = small.ball(norm)
    now = predicted(small.scores(small.grid(ball)), 2)
    here = predicted(small.scores(ball.exact().x), 2)[0]
    present = tuple(np.flatnonzero(here).tolist())
    label = present[0]
    verdict = jmlv.verify(small.graph, ball, jmlv.InTopK(label, 2), ORACLE, budget=20)
    assert verdict.status is not jmlv.Status.UNKNOWN
    assert not (verdict.robust and not now[:, label].all())
    assert verdict.robust or ball.contains(verdict.witness)
    options = {"oracle": ORACLE, "budget": 20, "attacks": () if seed == 3 else None}
    found = jmlv.flips(small.graph, ball, jmlv.TopK(2), **options)
    lost = 2 - now[:, present].sum(1).min()
    assert lost <= found.removed.upper and found.removed.exact
    kept = jmlv.kept(small.graph, ball, present, 2, **options)
    assert kept.lower == 2 - found.removed.upper and kept.exact


@pytest.mark.parametrize(
    "seed, label, norm, status",
    [(7, 1, 2, "ROBUST"), (4, 3, 1, "NOT_ROBUST"), (9, 1, 1, "NOT_ROBUST")],
)
def test_branch_and_bound_decides_what_bounds_leave_open(seed, label, norm, status):
    small, split = Small(seed), BranchAndBound(jmlv.CROWN(), batch=8, few=0, parts=None)
    ball, property = small.ball(norm), jmlv.InTopK(label, 2)
    assert jmlv.verify(small.graph, ball, property, Bounds()).status is jmlv.Status.UNKNOWN
    verdict = jmlv.verify(small.graph, ball, property, split, budget=20)
    assert verdict.status.name == status and verdict.stats["subdomains"] > 0
    margins = property.margin(small.scores(small.grid(ball)))
    assert verdict.lower <= margins.min() and verdict.robust == bool(margins.min() > 0)
    assert verdict.robust or ball.contains(verdict.witness)


@pytest.mark.parametrize("norm", mostly_slow(NORMS, 2))
def test_a_radius_in_a_direction(norm):
    """The margin is 0.4 less the changes: each layer's is the dual norm of its two slopes."""
    f = jmlv.trace(
        lambda x: jnp.stack([0.4 + 0 * x[:, 0, 0, 0], (x - 0.5).sum((1, 2, 3))], -1), (1, 2, 2)
    )
    layers, x = jmlv.Layers.around(np.array([[True, False]])), np.full((1, 2, 2), 0.5, np.float32)
    options = {"norm": norm, "layers": layers, "oracle": ORACLE}
    dual = np.sqrt(2) if norm == 2 else 1
    for direction, total in ((None, 2), (np.array([1.0, 0.5]), 1.5)):
        found = jmlv.robust_radius(f, x, jmlv.InTopK(0, 1), direction=direction, **options)
        expected = 0.4 / (dual * total)
        assert found.lower <= expected + 1e-6 and found.lower == pytest.approx(expected, rel=5e-3)
        assert found.upper >= expected - 1e-6 and found.upper == pytest.approx(expected, rel=3e-2)
    with pytest.raises(ValueError, match="in the maximum norm give weights"):
        jmlv.robust_radius(f, x, jmlv.InTopK(0, 1), layers=layers)
    with pytest.raises(ValueError, match="largest: expected a positive radius"):
        jmlv.robust_radius(f, x, jmlv.InTopK(0, 1), direction=np.array([1.0, 0.0]), **options)


def test_a_bound_has_a_gradient_with_respect_to_the_radii():
    """Through the loop over inner neurons, whose operands the layers are among."""
    rng = np.random.default_rng(0)
    first, last = (jnp.asarray(rng.normal(size=n) / 3, "float32") for n in ((40, 6), (6, 3)))
    graph = jmlv.trace(lambda x: jax.nn.relu(x.reshape(len(x), 40) @ first) @ last, SHAPE)
    form, ball = jmlv.InTopK(0, 2).form(3).astype("float32"), layered(2)
    ends = [jnp.asarray(end, "float32") for end in (ball.box().lower, ball.box().upper)]

    @jax.jit
    def least(radius):
        inside = graph.within(dataclasses.replace(ball.astype("float32"), radius=radius))
        rows = jmlv.CROWN().rows(inside, *ends, form.coefficients, form.offsets)
        return form.combine(rows.lower)

    radius, step = jnp.asarray(ball.radius, "float32"), 1e-2 * jnp.eye(5)[2]
    slope = jax.grad(least)(radius)
    difference = (least(radius + step) - least(radius - step)) / 2e-2
    assert slope.shape == (5,) and np.all(slope <= 0)
    np.testing.assert_allclose(slope[2], difference, rtol=0.1)


def test_bad_layers_are_refused():
    ball = layered(2)
    with pytest.raises(ValueError, match=r"radius: expected one number for each layer \(5,\)"):
        jmlv.Ball(ball.x, 0.1, layers=ball.layers)
    with pytest.raises(ValueError, match="layers: made for inputs of"):
        jmlv.Ball(ball.x[:2], ball.radius, layers=ball.layers)
    assert repr(ball) == "Ball(shape=(4, 5, 2), l2 radii of up to 0.9 on 5 layers)"
