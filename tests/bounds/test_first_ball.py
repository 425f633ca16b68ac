"""Closed forms of first layers over a ball: against points of ball and box, and the box alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from zoo import mostly_slow

import jmlv
from jmlv.bounds.first_ball import has_closed_form, within_ball
from jmlv.bounds.method import Interval
from jmlv.graph.independent import independent

SHAPE = (4, 5, 2)
RNG = np.random.default_rng(0)
KERNEL = jnp.asarray(RNG.normal(size=(3, 3, 2, 3)), "float32")
DENSE = jnp.asarray(RNG.normal(size=(40, 4)), "float32")
NUMBERS = ("NHWC", "HWIO", "NHWC")


def convolution(x):
    h = jax.lax.conv_general_dilated(x, KERNEL, (2, 1), "SAME", dimension_numbers=NUMBERS)
    return jax.nn.relu(h + 0.1).reshape(len(x), -1)[:, :4]


def dense(x):
    return jax.nn.relu((0.5 - 2 * x).reshape(len(x), -1) @ DENSE)


def turned(x):
    """Padded, scaled and turned around before it is read."""
    x = jnp.pad(1 - 3 * x, ((0, 0), (1, 0), (0, 0), (0, 0)), constant_values=0.5)
    h = jax.lax.conv_general_dilated(x, KERNEL, (1, 2), "VALID", dimension_numbers=NUMBERS)
    return jax.nn.relu(h).reshape(len(x), -1)[:, :4]


def ball_of(norm, weighted):
    x = RNG.random(SHAPE) * (RNG.random(SHAPE) < 0.6)
    weights = RNG.choice([0.5, 1.0, 3.0], SHAPE) if weighted else None
    return jmlv.Ball(x.astype(np.float32), 0.6 if norm == 2 else 2.0, norm, weights)


def first(f, ball):
    graph = jmlv.trace(f, SHAPE).within(ball.astype("float32"))
    unmixed = independent(graph)
    (eqn,) = (eqn for eqn in graph.eqns if has_closed_form(graph, eqn, unmixed))
    return graph, eqn


def beside_the_centre(ball):
    """Lower ends of a box that begins beyond the centre in three entries."""
    lower = ball.box().lower.copy()
    first = np.unravel_index(np.flatnonzero((ball.x > 0) & (ball.x < 0.8))[:3], SHAPE)
    reach = ball.radius / ball.exact().weights
    lower[first] = np.minimum(ball.x + 0.15 * reach, 0.9)[first]
    return lower


def points_in(ball, lower, upper, rows, count=400):
    """Points of ball and box, some of them as far as they get along the rows of a matrix."""
    rng = np.random.default_rng(1)
    directions = np.concatenate([rng.normal(size=(count, *ball.shape)), rows, -rows])
    centre = np.clip(ball.exact().x, lower, upper)
    found = []
    for size in 10.0 ** np.linspace(-2, 1, 13):
        moved = np.clip(centre + size * directions / ball.exact().weights ** 2, lower, upper)
        found.append(moved[ball.length(moved) <= ball.radius])
    return np.concatenate(found)


@pytest.mark.parametrize("weighted", (False, True))
@pytest.mark.parametrize("norm", (2, 1))
@pytest.mark.parametrize("f", mostly_slow([convolution, dense, turned], convolution, turned))
def test_every_output_is_enclosed_on_ball_and_box_at_once(f, norm, weighted):
    ball = ball_of(norm, weighted)
    graph, eqn = first(f, ball)
    ends = ball.box()
    for lower, upper in (
        (ends.lower, ends.upper),
        (beside_the_centre(ball), ends.upper),
    ):
        box = Interval(*(jnp.asarray(end, "float32")[None] for end in (lower, upper)))
        found = within_ball(graph, eqn, box)
        value = jax.jit(lambda x: graph.environment(x[None])[eqn.outvar])
        rows = jax.jacobian(value)(jnp.asarray(ball.x))
        rows = np.asarray(rows).reshape(-1, *SHAPE)[:: len(rows.reshape(-1)) // 4000 + 1]
        points = points_in(ball, lower, upper, rows)
        values = np.asarray(jax.vmap(value)(jnp.asarray(points, "float32")))
        assert len(points) > 50 and np.all(found.lower <= values.min(0) + 1e-5)
        assert np.all(values.max(0) <= found.upper + 1e-5)
        if lower is ends.lower:
            short = graph.within(jmlv.Ball(ball.x, ball.radius / 2, norm, ball.weights).astype("float32"))  # fmt: skip
            assert np.any(within_ball(short, eqn, box).lower > values.min(0) + 1e-3)


def test_only_first_convolutions_and_matrix_products_have_one():
    ball = ball_of(2, False)
    grouped = jmlv.trace(
        lambda x: jax.lax.conv_general_dilated(
            x,
            KERNEL[:, :, :1, :2],
            (1, 1),
            "SAME",
            dimension_numbers=NUMBERS,
            feature_group_count=2,
        ).reshape(len(x), -1),
        SHAPE,
    )
    for graph in (grouped.within(ball.astype("float32")), jmlv.trace(convolution, SHAPE)):
        assert not any(has_closed_form(graph, eqn, independent(graph)) for eqn in graph.eqns)


def test_where_nothing_can_move_there_is_a_gradient():
    """A black image whose kernel only ever darkens it: the norm is zero, and its root has a slope."""

    def least(radius):
        ball = jmlv.Ball(jnp.zeros(SHAPE), radius, domain=None)
        graph = jmlv.trace(lambda x: x.reshape(len(x), -1) @ jnp.abs(DENSE), SHAPE).within(ball)
        (eqn,) = (eqn for eqn in graph.eqns if has_closed_form(graph, eqn, independent(graph)))
        ends = Interval(jnp.zeros((1, *SHAPE)), jnp.ones((1, *SHAPE)))
        return within_ball(graph, eqn, ends).lower.sum()

    value, slope = jax.value_and_grad(least)(0.5)
    assert (float(value), float(slope)) == (0.0, 0.0)


@pytest.mark.parametrize("norm", (2, 1))
def test_what_overflows_bounds_nothing(norm):
    """A weight so small that an entry moves infinitely far, at a coefficient of zero: NaN, never narrow."""
    weights = jnp.ones(SHAPE).at[0, 0, 0].set(1e-45)
    ball = jmlv.Ball(jnp.full(SHAPE, 0.5), jnp.float32(0.1), norm, weights, None)
    kernel = DENSE.at[0, 0].set(0.0)
    graph = jmlv.trace(lambda x: x.reshape(len(x), -1) @ kernel, SHAPE).within(ball)
    (eqn,) = (eqn for eqn in graph.eqns if has_closed_form(graph, eqn, independent(graph)))
    ends = Interval(jnp.zeros((1, *SHAPE)), jnp.ones((1, *SHAPE)))
    found = jax.jit(lambda e: within_ball(graph, eqn, e))(ends)
    assert not np.any(found.lower > -1e3) and not np.any(found.upper < 1e3)
