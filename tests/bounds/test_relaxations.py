"""The lines of ReLU and max pooling against dense samples, in every sign case."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jmlv
from jmlv.bounds.lines import lines_of, undecided
from jmlv.bounds.method import Interval
from jmlv.bounds.relaxations import max_pool_lines, maximum_lines, patches, patches_transpose
from jmlv.graph.fuse import fuse_relu_max_pool
from jmlv.graph.ir import Equation, Variable
from jmlv.graph.operations import is_affine, relu_max_pool_p

SIGNS = [-2.0, -1.0, -1e-7, 0.0, 1e-7, 0.5, 1.0]
INTERVALS = [(l, u) for l in SIGNS for u in SIGNS if l <= u]

FLOORS = (-np.inf, 0.0)

POOLS = {
    "plain": ((1, 2, 2, 1), (1, 2, 2, 1), ((0, 0),) * 4),
    "overlapping": ((1, 3, 2, 1), (1, 1, 1, 1), ((0, 0),) * 4),
    "padded": ((1, 3, 3, 1), (1, 2, 2, 1), ((0, 0), (1, 1), (1, 1), (0, 0))),
    "gaps": ((1, 2, 1, 2), (1, 3, 2, 1), ((0, 0), (0, 1), (0, 0), (1, 1))),
    "global": ((1, 5, 6, 1), (1, 1, 1, 1), ((0, 0),) * 4),
}


def pool_params(name):
    window, strides, padding = POOLS[name]
    return {
        "window_dimensions": window,
        "window_strides": strides,
        "padding": padding,
        "base_dilation": (1,) * 4,
        "window_dilation": (1,) * 4,
    }


def make_lines(params, floor):
    """``max_pool_lines`` compiled as one function."""
    return jax.jit(lambda low, high: max_pool_lines(low, high, params, floor))


def values_of(lines, x, params, floor):
    """The lower line, the pooled value and the upper line at one input."""
    elements = patches(x, params)
    under = (lines.lower_weights * elements).sum(0) + lines.lower_constant
    over = (lines.upper_weights * elements).sum(0) + lines.upper_constant
    return under, pooled(x, params, floor), over


def pooled(x, params, floor):
    value = jax.lax.reduce_window_max_p.bind(x, **params)
    return jnp.maximum(value, floor)


def test_maximum_lines_enclose():
    low, high = np.array(INTERVALS).T
    with jax.enable_x64(True):
        lines = jax.tree.map(np.asarray, jax.jit(maximum_lines)(low, high))
    stable = (low >= 0) | (high <= 0)
    for t in np.linspace(0, 1, 101):
        x = low + t * (high - low)
        y = np.maximum(x, 0)
        under, over = lines.lower_slope * x, lines.upper_slope * x + lines.upper_intercept
        assert np.all(under <= y + 1e-15) and np.all(over >= y - 1e-15)
        np.testing.assert_array_equal(under[stable], y[stable])
        np.testing.assert_array_equal(over[stable], y[stable])


def test_maximum_lines_have_finite_gradients():
    low, high = jnp.array(INTERVALS).T
    gradients = jax.grad(lambda l, u: sum(jnp.sum(v) for v in maximum_lines(l, u)), (0, 1))
    assert np.all(np.isfinite(jax.jit(gradients)(low, high)))


@pytest.mark.parametrize("l, u", [(np.nan, 1.0), (-1.0, np.nan), (np.nan, np.nan)])
def test_maximum_lines_show_nan(l, u):
    assert all(np.isnan(v) for v in maximum_lines(jnp.float32(l), jnp.float32(u)))


@pytest.mark.parametrize("floor", FLOORS)
@pytest.mark.parametrize("intervals", [2, 3])
def test_pool_lines_enclose_every_sign_case(intervals, floor):
    """Every window of two (and many of three) intervals, in one array of windows."""
    rng = np.random.default_rng(0)
    grid = np.array(INTERVALS)
    choice = rng.integers(len(grid), size=(4000, intervals))
    if intervals == 2:
        choice = np.stack(np.meshgrid(*[np.arange(len(grid))] * 2), -1).reshape(-1, 2)
    low, high = grid[choice, 0], grid[choice, 1]
    ones = (1, intervals)
    params = {"window_dimensions": ones, "window_strides": ones, "padding": ((0, 0),) * 2}
    with jax.enable_x64(True):
        lines = jax.tree.map(np.asarray, make_lines(params, floor)(low, high))
    corners = np.stack(np.meshgrid(*[[0, 0.3, 1]] * intervals), -1).reshape(-1, intervals)
    for t in [*corners, *rng.random((30, intervals))]:
        x = low + t * (high - low)
        y = np.maximum(x.max(1), floor)
        under = np.sum(lines.lower_weights[..., 0] * x.T, 0) + lines.lower_constant[:, 0]
        over = np.sum(lines.upper_weights[..., 0] * x.T, 0) + lines.upper_constant[:, 0]
        assert np.all(under <= y + 1e-14)
        assert np.all(over >= y - 1e-14)


@pytest.mark.parametrize("name", POOLS)
def test_pool_lines_enclose_windows(name):
    params, rng = pool_params(name), np.random.default_rng(1)
    low = rng.normal(size=(1, 5, 6, 2))
    width = rng.random(low.shape) * rng.integers(0, 2, low.shape)
    t = rng.random((60, *low.shape))
    t[:20] = np.round(t[:20])

    @jax.jit
    def compare(low, high, xs):
        lines = [(f, max_pool_lines(low, high, params, f)) for f in FLOORS]
        return jax.vmap(lambda x: [values_of(line, x, params, f) for f, line in lines])(xs)

    with jax.enable_x64(True):
        found = jax.tree.map(np.asarray, compare(low, low + width, low + t * width))
    for under, y, over in found:
        assert np.all(under <= y + 1e-12)
        assert np.all(over >= y - 1e-12)


@pytest.mark.parametrize("floor", FLOORS)
def test_pool_lines_on_points_are_exact_and_smooth(floor):
    params = pool_params("padded")
    x = jnp.asarray(np.random.default_rng(2).normal(size=(1, 5, 6, 2)), "float32")

    def total(low, high):
        lines = max_pool_lines(low, high, params, floor)
        return sum(jnp.sum(v) for v in lines), values_of(lines, x, params, floor)

    differentiate = jax.jit(jax.grad(total, (0, 1), has_aux=True))
    gradients, (under, y, over) = differentiate(x, x)
    np.testing.assert_allclose(under, y, rtol=1e-6)
    np.testing.assert_allclose(over, y, rtol=1e-6)
    ties, _ = differentiate(jnp.round(x), jnp.round(x) + 1)
    assert all(np.all(np.isfinite(g)) for g in (*gradients, *ties))


def test_pool_lines_show_nan():
    low, high = np.zeros((1, 4, 4, 1), "float32"), np.ones((1, 4, 4, 1), "float32")
    find = make_lines(pool_params("plain"), -np.inf)
    for side, place in [(0, (0, 0, 0, 0)), (1, (0, 1, 1, 0))]:
        sides = [low.copy(), high.copy()]
        sides[side][place] = np.nan
        lines = find(*sides)
        assert np.isnan(lines.lower_constant[0, 0, 0, 0])
        assert np.isnan(lines.upper_constant[0, 0, 0, 0])
        assert np.isfinite(lines.upper_constant[0, 1:]).all()


def test_window_that_lies_in_the_padding():
    params = {"window_dimensions": (1,), "window_strides": (1,), "padding": ((1, 0),)}
    x = jnp.ones((2,))
    merged = make_lines(params, 0.0)(x, x)
    assert merged.lower_constant[0] == merged.upper_constant[0] == 0
    bare = make_lines(params, -np.inf)(x, x)
    assert bare.lower_constant[0] == bare.upper_constant[0] == -np.inf
    assert bare.upper_weights[0, 0] == 0


@pytest.mark.parametrize("merged", [False, True])
def test_undecided_entries_are_those_that_may_be_the_maximum(merged):
    params = {
        "window_dimensions": (3,),
        "window_strides": (3,),
        "padding": ((0, 0),),
        "base_dilation": (1,),
        "window_dilation": (1,),
    }
    primitive = relu_max_pool_p if merged else jax.lax.reduce_window_max_p
    x, y = Variable(0, (9,)), Variable(1, (3,))
    eqn = Equation(primitive, (x,), (y,), tuple(params.items()))
    low = jnp.array([0.0, 0.5, 0.9, 2.0, 0.0, 0.0, -3.0, -2.0, -9.0])
    high = jnp.array([0.8, 1.5, 2.0, 3.0, 1.0, 2.0, -1.0, -1.5, -8.0])
    expected = [False, True, True] + [False] * 3 + [not merged] * 2 + [False]
    np.testing.assert_array_equal(undecided(None, eqn, Interval(low, high)), expected)


@pytest.mark.parametrize("name", POOLS)
def test_patches_are_the_windows_and_transpose(name):
    params, rng = pool_params(name), np.random.default_rng(4)
    x = rng.random((1, 5, 6, 2)).astype("float32") + 1

    @jax.jit
    def compare(x):
        stack = patches(x, params)
        a = jnp.cos(jnp.arange(stack.size, dtype="float32")).reshape(stack.shape)
        back = patches_transpose(a, params, x.shape)
        return stack.max(0), pooled(x, params, 0.0), jnp.vdot(a, stack), jnp.vdot(back, x)

    best, y, left, right = compare(x)
    np.testing.assert_array_equal(best, y)
    np.testing.assert_allclose(left, right, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("merged", (False, True), ids=("pool", "relu and pool"))
def test_every_window_whose_lines_lie_apart_wants_a_tighter_interval(merged):
    """Also where the winner is a constant, which no interval can be tighter for."""

    def pool(x):
        x = jax.nn.relu(x) if merged else x
        return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")

    graph = fuse_relu_max_pool(jmlv.trace(lambda x: pool(x - 0.5).reshape(-1, 64), (16, 16, 1)))
    (eqn,) = (e for e in graph.eqns if not is_affine(graph, e))
    rng = np.random.default_rng(0)
    apart = 0
    for _ in range(8):
        low = rng.uniform(-1, 1, (1, 16, 16, 1))
        high = low + rng.uniform(0, 1, low.shape) * (rng.random(low.shape) < 0.6)
        interval = Interval(jnp.asarray(low), jnp.asarray(high))
        lines, wanted = (
            lines_of(graph, eqn, [interval]),
            np.asarray(undecided(graph, eqn, interval)),
        )
        same = (lines.lower_weights == lines.upper_weights).all(0)
        same &= lines.lower_constant == lines.upper_constant
        some = wanted.reshape(8, 2, 8, 2).any((1, 3))
        assert np.array_equal(some, ~np.asarray(same).reshape(8, 8))
        assert not np.any(wanted & (low == high))
        apart += int(some.sum())
    assert apart > 100
