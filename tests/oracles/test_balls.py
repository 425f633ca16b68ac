"""Balls in l2 and l1: bounds against points of the ball, verdicts against brute force, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_networks import Tiny, predicted
from zoo import mostly_slow

import jmlv
from jmlv.bounds.balls import minimum_over, minimum_over_ball
from jmlv.bounds.functionals import Whole, Window, minimum_over_box
from jmlv.interop import write_vnnlib
from jmlv.labels.store import query_key
from jmlv.numerics import certificate_precision
from jmlv.oracles import (
    PGD,
    Bounds,
    BranchAndBound,
    Cascade,
    Evidence,
    InputSplitting,
    Query,
    judge,
)

NORMS = 2, 1
ORACLE = Cascade((Bounds(), PGD(restarts=4, steps=12), InputSplitting(batch=16)))


def random_ball(seed, norm, shape=(6,)):
    """Centres on the domain's edge, weights and radii of several sizes."""
    rng = np.random.default_rng(seed)
    x = rng.random(shape) * (rng.random(shape) < 0.7)
    weights = rng.choice([1.0, 0.5, 3.0], shape)
    return jmlv.Ball(x.astype(np.float32), rng.choice([0.05, 0.3, 1.5]), norm, weights)


def points_of(ball, count=4000, seed=0):
    """Points of ball and domain, half of them on the ball's edge where the domain lets them."""
    rng = np.random.default_rng(seed)
    box = ball.box()
    far = rng.uniform(-1, 1, (count, *ball.shape)) ** rng.choice(
        [1, 3, 9], (count, *[1] * len(ball.shape))
    )
    reach = ball.radius / ball.exact().weights
    moved = ball.exact().x + 3 * far * reach
    return ball.clip(np.clip(moved, box.lower, box.upper))


@pytest.mark.parametrize("norm", NORMS)
def test_points_are_clipped_into_the_ball_and_the_domain(norm):
    for seed in range(8):
        ball = random_ball(seed, norm)
        points = points_of(ball, 200)
        assert all(map(ball.contains, points))
        assert np.all((points >= 0) & (points <= 1)) and not ball.contains(ball.x + 2.0)
        assert np.all(ball.box().lower <= points) and np.all(points <= ball.box().upper)
        assert np.array_equal(ball.clip(points), points)


@pytest.mark.parametrize("norm", NORMS)
def test_the_least_value_of_a_functional_is_a_bound_and_nearly_reached(norm):
    rng = np.random.default_rng(3)
    for seed in range(6):
        ball, rows = random_ball(seed, norm), rng.normal(size=(5, 6))
        points = np.concatenate([points_of(ball), on_the_edge(ball, rows)])
        least, halved = least_over(ball, rows), least_over(ball, rows, 0.5)
        reached = (points @ rows.T).min(0)
        scale = np.abs(rows).sum(1) * ball.radius
        assert np.all(least <= reached + 1e-9) and np.all(reached - least < 0.08 * scale)
        assert np.all(least >= dual_norm_or_box(ball, rows) - 1e-3 * scale)
        moves = reached < rows @ ball.exact().x - 1e-3 * scale
        assert np.any(halved[moves] > reached[moves] + 1e-6)  # a broken twin is caught


def least_over(ball, rows, share=1.0):
    box = ball.box()
    smaller = jmlv.Ball(ball.x, ball.radius * share, ball.norm, ball.weights)
    with certificate_precision():
        ends = (jnp.asarray(end)[None] for end in (box.lower, box.upper))
        whole = Whole(jnp.asarray(rows)[:, None])
        return np.asarray(minimum_over(whole, *ends, smaller.astype("float64")))


def dual_norm_or_box(ball, rows):
    """The better of two simple bounds: the dual norm of the entries that the domain lets move, and the box."""
    box, x, weights = ball.box(), ball.exact().x, ball.exact().weights
    moves = np.where(rows > 0, box.lower < x, box.upper > x)
    dual = np.linalg.norm(
        np.where(moves, rows / weights, 0), 2 if ball.norm == 2 else np.inf, axis=1
    )
    over_box = (rows * np.where(rows > 0, box.lower, box.upper)).sum(1)
    return np.maximum(rows @ x - ball.radius * dual, over_box)


def on_the_edge(ball, rows):
    """Where each row is least: by projected descent in l2, entry after entry in l1."""
    exact, box = ball.exact(), ball.box()
    points = np.repeat(exact.x[None], len(rows), 0)
    if ball.norm == 2:
        for step in 0.3 * 0.97 ** np.arange(250):
            moved = points - step * ball.radius * rows / exact.weights**2 / np.abs(rows).max()
            points = ball.clip(moved)
        return points
    ends = np.where(rows > 0, box.lower, box.upper)
    for point, row, end in zip(points, rows, ends):
        left = ball.radius * (1 - 1e-6)
        for i in np.argsort(-np.abs(row / exact.weights)):
            move = np.clip(end[i] - point[i], -left / exact.weights[i], left / exact.weights[i])
            point[i] += move
            left -= exact.weights[i] * abs(move)
    return ball.clip(points)


def test_without_a_domain_the_least_value_is_that_of_the_dual_norm():
    rows, x = np.array([[3.0, -4.0]]), np.array([0.25, 0.5])
    for norm, dual in ((2, 5.0), (1, 4.0)):
        ball = jmlv.Ball(x, 0.1, norm, domain=None)
        assert least_over(ball, rows)[0] == pytest.approx(rows[0] @ x - 0.1 * dual, abs=1e-4)


@pytest.mark.parametrize("norm", NORMS)
def test_a_box_that_touches_the_ball_in_one_point_proves_nothing_there(norm):
    """The multiplier is huge where the box nearly misses the ball: rounding is not multiplied."""
    x = np.random.default_rng(0).random(40)
    ball = jmlv.Ball(x, 0.1, norm, domain=None)
    rows = np.random.default_rng(1).normal(size=(50, 40))
    for away in (0.0, 1e-16, -1e-16, -1e-12, -1e-8):
        touched = x.copy()
        touched[0] += 0.1 + away
        lower, upper = x - 0.05, x + 0.05
        lower[0], upper[0] = touched[0], touched[0] + 0.05
        with certificate_precision():
            ends = (jnp.asarray(end)[None] for end in (lower, upper))
            whole = Whole(jnp.asarray(rows)[:, None])
            least = np.asarray(minimum_over_ball(whole, *ends, ball.astype("float64")))
        assert np.all(least <= rows @ touched + 1e-7)


@pytest.mark.parametrize("norm", NORMS)
def test_windows_in_small_parts_of_a_ball_are_bounded_as_over_their_box(norm):
    """In its middle, at its edge, and where some entries are at the domain's end."""
    rng = np.random.default_rng(0)
    ball = jmlv.Ball(np.full((4, 4, 1), 0.5), 0.3, norm)
    away = np.zeros((4, 4, 1))
    away[1, 1], away[2, 2] = 1, 0.5
    with certificate_precision():
        window = Window(jnp.asarray(rng.normal(size=(8, 2, 2, 1))), jnp.ones((8, 2), int))
        for share in (0.0, 0.5, 1.0):
            point = ball.clip(ball.x + share * away)
            ends = [jnp.asarray(point + side)[None] for side in (-1e-3, 1e-3)]
            found = minimum_over(window, *ends, ball.astype("float64"))
            assert np.all(found >= minimum_over_box(window, *ends) - 1e-12), share
        whole = [jnp.asarray(end)[None] for end in (ball.box().lower, ball.box().upper)]
        found = minimum_over(window, *whole, ball.astype("float64"))
        assert np.all(found > minimum_over_box(window, *whole) + 0.01)


def network(seed=0):
    rng = np.random.default_rng(seed)
    kernel = jnp.asarray(rng.normal(size=(3, 3, 1, 3)) / 3, "float32")
    head = jnp.asarray(rng.normal(size=(108, 3)) / 6, "float32")

    def f(x):
        h = jax.lax.conv_general_dilated(
            x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return jax.nn.relu(h - 0.1).reshape(len(x), -1) @ head

    return jmlv.trace(f, (6, 6, 1))


ALPHA = jmlv.AlphaCROWN(steps=4, intermediate_steps=2)


@pytest.mark.parametrize(
    "method, norm",
    [
        (jmlv.CROWN(), 2),
        pytest.param(jmlv.CROWN(), 1, marks=pytest.mark.slow),
        pytest.param(ALPHA, 1, marks=pytest.mark.slow),
        pytest.param(ALPHA, 2, marks=pytest.mark.slow),
    ],
)
def test_bounds_hold_on_the_ball_and_are_tighter_than_on_its_box(method, norm):
    graph = network()
    x = np.random.default_rng(1).random((6, 6, 1)) * (np.arange(36) % 3 > 0).reshape(6, 6, 1)
    ball = jmlv.Ball(x.astype(np.float32), 0.4 * 3 ** (norm == 1), norm)
    property = jmlv.InTopK(0, 2)
    inside = jmlv.bound(graph, ball, property, method)
    around = jmlv.bound(graph, ball.box(), property, method)
    points = points_of(ball, 500)
    margins = property.margin(np.asarray(graph.scores(jnp.asarray(points, jnp.float32))))
    assert float(inside.lower) <= margins.min() and margins.max() <= float(inside.upper)
    assert inside.upper - inside.lower < 0.8 * (around.upper - around.lower)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("seed", mostly_slow(range(4), 0, 2))
def test_verdicts_agree_with_brute_force(seed, norm):
    """Two pixels: every label in the top two, decided by input splitting where bounds do not."""
    tiny = Tiny(seed)
    ball = jmlv.Ball(tiny.x, tiny.radius, norm, np.array([[[1.0], [2.0]]]))
    grid = tiny.grid(81).reshape(-1, 1, 2, 1)
    grid = grid[ball.length(grid) <= ball.radius].reshape(-1, 2)
    label = int(tiny.scores(tiny.x.reshape(1, 2)).argmax())
    verdict = jmlv.verify(tiny.graph, ball, jmlv.InTopK(label, 2), ORACLE)
    lost = ~predicted(tiny.scores(grid), 2)[:, label]
    assert verdict.status is not jmlv.Status.UNKNOWN
    assert not (verdict.robust and lost.any())
    if verdict.witness is not None:
        assert ball.contains(verdict.witness)


def test_flips_and_kept_in_a_ball():
    tiny = Tiny(3)
    ball = jmlv.Ball(tiny.x, tiny.radius, 2)
    options = {"oracle": ORACLE, "attacks": (), "budget": 20}
    found = jmlv.flips(tiny.graph, ball, jmlv.TopK(2), **options)
    grid = tiny.grid(81).reshape(-1, 1, 2, 1)
    grid = grid[ball.length(grid) <= ball.radius].reshape(-1, 2)
    now = predicted(tiny.scores(grid), 2)
    lost = len(found.present) - now[:, list(found.present)].sum(1).min()
    assert found.removed.lower <= found.removed.upper and lost <= found.removed.upper
    assert found.removed.exact and ball.contains(found.removed.witness)
    kept = jmlv.kept(tiny.graph, ball, found.present, 2, **options)
    assert (kept.lower, kept.upper) == (2 - found.removed.upper, 2 - found.removed.lower)


def corner_case():
    """A property that is lost in the box's corner alone: the ball keeps it."""
    f = jmlv.trace(lambda x: jnp.stack([1 + 0 * x[:, 0], x[:, 0] + x[:, 1]], -1), (2,))
    return f, jmlv.Ball(np.float32([0.4, 0.4]), 0.13), jmlv.InTopK(0, k=1)


def test_a_ball_is_not_taken_for_its_box_nor_the_box_for_the_ball():
    """One after the other and back: nothing that was bounded for one serves the other."""
    f, ball, property = corner_case()
    for region, robust in ((ball, True), (ball.box(), False), (ball, True), (ball.box(), False)):
        assert jmlv.verify(f, region, property, ORACLE).robust is robust
    over = Query.of(f, ball, property).over(ball.box())
    assert over.ball is None and over.graph64_inside is over.graph64
    keys = {
        query_key(Query.of(f, region, property), 1)
        for region in (
            ball,
            ball.box(),
            jmlv.Ball(ball.x, 0.13, 1),
            jmlv.Ball(ball.x, 0.13, 2, np.full(2, 2.0)),
        )
    }
    assert len(keys) == 4


@pytest.mark.parametrize(
    "oracle",
    [Bounds(jmlv.IBP()), Bounds(jmlv.CROWNIBP()), BranchAndBound(), Bounds(jmlv.JointBounds())],
    ids=lambda o: o.name,
)
def test_other_oracles_never_take_a_point_outside_of_the_ball(oracle):
    f, ball, property = corner_case()
    assert jmlv.verify(f, ball, property, oracle).status is not jmlv.Status.NOT_ROBUST


def test_what_knows_boxes_only_says_so(tmp_path):
    f, ball, property = corner_case()
    with pytest.raises(jmlv.UnsupportedOperation, match="boxes only"):
        jmlv.verify(f, ball, property, jmlv.MILP())
    hard = jmlv.verify(f, ball, property, Cascade((Bounds(jmlv.IBP()), jmlv.MILP())))
    assert hard.status is jmlv.Status.UNKNOWN and "boxes only" in hard.reason
    with pytest.raises(ValueError, match="VNN-LIB knows boxes only"):
        write_vnnlib(ball, property, 2, tmp_path / "q.vnnlib")


def test_labels_of_a_ball():
    f, ball, _ = corner_case()
    inside, around = (jmlv.classify_labels(f, r, 1).status for r in (ball, ball.box()))
    assert [s.value for s in inside] == ["always", "never"]
    assert [s.value for s in around] == ["both", "both"]


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"norm": 3}, "norm: expected 2 or 1"),
        ({"radius": -1.0}, "radius: must not be negative"),
        ({"radius": np.array([1.0, 2.0])}, "radius: expected one number"),
        ({"x": np.array([0.5, 1.5])}, r"x: values must lie in"),
        ({"weights": np.array([1.0, 0.0])}, "weights: must be positive"),
        ({"weights": np.ones(3)}, "weights: shape|broadcast"),
        ({"weights": np.array([1.0, np.inf])}, "weights: holds NaN"),
    ],
)
def test_bad_balls_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        jmlv.Ball(**{"x": np.array([0.5, 0.5]), "radius": 0.1, **arguments})


def test_a_radius_of_zero_is_a_point():
    f, ball, property = corner_case()
    assert jmlv.verify(f, jmlv.Ball(ball.x, 0.0), property).robust


def test_where_a_ball_ends_between_numbers_its_centre_is_the_witness():
    """Of radius 0.7 units in the last place: the next number is outside, and the property is not lost."""
    with jax.enable_x64(True):
        centre = 2.0**24
        unit = np.spacing(centre)
        ball = jmlv.Ball(np.array([centre]), 0.7 * unit, 2, None, None)
        query = Query.of(lambda x: (centre + unit) - x, ball, jmlv.AboveThreshold(0, 0.0))
        outside = np.array([centre + unit])
        assert ball.contains(query.settle(outside))
        assert judge(query, Evidence(point=outside), "test").status is jmlv.Status.UNKNOWN


@pytest.mark.parametrize(
    "region", [jmlv.Box.between(*np.array([[0.15], [0.35]])), jmlv.Ball(np.array([0.25]), 0.1)]
)
def test_input_splitting_keeps_what_it_knows_where_nothing_can_be_halved(region):
    def f(x):
        return jnp.abs(x.reshape(-1, 1) - 0.25) + 5e-7

    asked = jmlv.AboveThreshold(0, 0.0)
    verdict = jmlv.verify(f, region, asked, InputSplitting(batch=16), budget=3)
    assert verdict.status is jmlv.Status.UNKNOWN and 0 < verdict.lower and verdict.upper < 1e-6


@pytest.mark.parametrize("norm", NORMS)
def test_a_first_layer_of_tiny_weights_moves_as_far_as_another(norm):
    """Their squares are no numbers of the precision."""

    def f(x):
        return jax.nn.relu(x.reshape(-1, 4) @ jnp.full((4, 1), 1e-20)) * 1e20

    ball = jmlv.Ball(np.full(4, 0.5, np.float32), 0.4, norm)
    found = jmlv.bound(f, ball, jmlv.AboveThreshold(0, 0.0), jmlv.CROWN())
    exact = 2 - 0.4 * 4 ** (1 - 1 / norm)
    assert exact - 0.01 < found.lower <= exact + 1e-5
