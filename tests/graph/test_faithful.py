"""Functions that no graph of one input can stand for, graphs that are wrong, and precisions."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jmlv
from jmlv.errors import SoundnessError
from jmlv.graph import normalise
from jmlv.graph.rules.arithmetic import add, subtract
from jmlv.graph.rules.maxima import relu
from jmlv.oracles import Query
from jmlv.verdict import Status

WEIGHTS = np.random.default_rng(0).normal(size=(4, 3))
SHAPE = (2, 2, 1)
BOX = jmlv.Box.between(np.full(SHAPE, 0.2, np.float32), np.full(SHAPE, 0.8, np.float32))


def _net(x):
    return jax.nn.relu(x.reshape(x.shape[0], -1) @ WEIGHTS - 0.1)


DEPENDENT = {
    "the mean of the batch": lambda x: _net(x) - _net(x).mean(0),
    "the mean, without a slope": lambda x: _net(x) - lax.stop_gradient(_net(x).mean(0)),
    "a little of the sum": lambda x: _net(x) + 1e-6 * _net(x).sum(0),
    "the largest": lambda x: jnp.maximum(_net(x), _net(x).max(0, keepdims=True) - 9),
    "the rows turned": lambda x: _net(x)[::-1],
    "the rows before": lambda x: jnp.cumsum(_net(x), 0),
    "the first row": lambda x: _net(x) + _net(x)[:1],
    "the size of the batch": lambda x: _net(x) * x.shape[0],
    "the first place": lambda x: _net(x).at[0].add(jnp.arange(3.0)) if len(x) > 1 else _net(x),
}


@pytest.mark.parametrize("name", DEPENDENT)
def test_rows_that_depend_on_the_batch_are_refused(name):
    f = DEPENDENT[name]
    for verb in (
        lambda: jmlv.check(f, np.zeros(SHAPE, np.float32)),
        lambda: jmlv.trace(f, SHAPE),
        lambda: jmlv.bound(f, BOX, jmlv.InTopK(0, 1), jmlv.IBP()),
        lambda: Query.of(f, BOX, jmlv.InTopK(0, 1)),
    ):
        with pytest.raises(ValueError, match="of the batch|the batch has"):
            verb()


def test_a_batch_that_loses_its_rows_is_refused():
    """Wrong in shape and in silence: not what refuses a batch."""
    for f in (lambda x: _net(x)[:1], lambda x: _net(x).sum(0, keepdims=True)):
        with pytest.raises(ValueError, match="would not hold for a batch"):
            jmlv.trace(f, SHAPE)


def test_functions_of_one_input_alone_are_read():
    """There is no batch on which their rows could depend on one another."""
    graph = jmlv.trace(lambda x: x.reshape(1, 4) @ WEIGHTS, SHAPE)
    assert graph.label_count == 3


def test_chance_is_refused():
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="chance"):
        jmlv.trace(lambda x: _net(x) + rng.normal(size=3), SHAPE)


def test_inside_jit_the_function_is_compared_too():
    @jax.jit
    def lowest(epsilon):
        box = jmlv.Box(BOX.lower - epsilon, BOX.upper + epsilon)
        return jmlv.bound(DEPENDENT["the mean of the batch"], box, jmlv.InTopK(0, 1), jmlv.IBP())

    with pytest.raises(ValueError, match="of the batch"):
        lowest(0.1)


BROKEN = {
    "a maximum that cancels": ("max", lambda b, x, c: add(b, c, relu(b, subtract(b, x, c)))),
    "a sign": ("neg", lambda b, x: x),
    "a clip without its upper end": (
        "clamp",
        lambda b, low, x, high: normalise.RULES["max"](b, x, low),
    ),
    "a product that drops a type": ("mul", lambda b, x, y, **_: add(b, x, y)),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_rules_are_caught_by_every_verb(name, monkeypatch):
    primitive, rule = BROKEN[name]
    monkeypatch.setitem(normalise.RULES, primitive, rule)

    def f(x):
        return lax.clamp(-9.0, -jnp.maximum(-0.7 * _net(x), -1e5), 0.05)

    for verb in (
        lambda: jmlv.check(f, np.zeros(SHAPE, np.float32)),
        lambda: jmlv.bound(f, BOX, jmlv.InTopK(0, 1), jmlv.IBP()),
        lambda: jmlv.verify(f, BOX, jmlv.InTopK(0, 1)),
        lambda: jmlv.classify_labels(f, BOX, 1),
    ):
        with pytest.raises(SoundnessError, match="its score"):
            verb()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_no_numbers(value):
    weights = np.where(WEIGHTS == WEIGHTS.max(), value, WEIGHTS)
    with pytest.raises(ValueError, match="1 of the 12 numbers .* NaN or infinite"):
        jmlv.trace(lambda x: x.reshape(x.shape[0], -1) @ weights, SHAPE)
    if value > 0:
        with pytest.raises(ValueError, match="max with the constant inf"):
            jmlv.trace(lambda x: jnp.maximum(_net(x), value), SHAPE)


def _wide():
    """A float64 network that float32 would prove wrong: its scores differ by 1e-9 of their size."""
    scale, shift = jnp.asarray([1.0, 1.0]), jnp.asarray([0.0, 1e-9])
    assert scale.dtype == "float64"
    return lambda x: x.reshape(x.shape[0], -1).sum(1, keepdims=True) * scale + shift


def test_float64_networks_are_verified_as_float64():
    with jax.enable_x64(True):
        f = _wide()
        graph = jmlv.trace(f, SHAPE)
        assert graph.dtype == "float64" and f(jnp.ones((1, *SHAPE)))[0, 1] > 4
        query = Query.of(f, BOX, jmlv.AboveThreshold(1, 0.8))
        assert query.graph64 is query.own and query.dtype == "float64"
        above = query.margin_exact(BOX.lower), query.margin_deployed(BOX.lower)
        np.testing.assert_allclose(above, 4 * np.float64(np.float32(0.2)) + 1e-9 - 0.8, atol=1e-15)
        bounds = jmlv.bound(f, BOX, jmlv.AboveThreshold(1, 0.8), jmlv.CROWN())
        assert bounds.lower.dtype == "float64" and abs(float(bounds.lower) - above[0]) < 1e-12
        assert jmlv.verify(f, BOX, jmlv.AboveThreshold(1, 0.7)).robust
        assert jmlv.LabelStatus.ALWAYS not in jmlv.classify_labels(f, BOX, 1, budget=1).status


def test_float64_weights_are_not_rounded_in_silence():
    with jax.enable_x64(True):
        weights = jnp.asarray(WEIGHTS.copy())
    with pytest.raises(ValueError, match="JAX_ENABLE_X64"):
        jmlv.trace(lambda x: lax.dot(x.reshape(x.shape[0], -1), weights), SHAPE)


def test_float32_networks_stay_float32_where_float64_is_on():
    weights = np.float32(WEIGHTS)
    with jax.enable_x64(True):
        graph = jmlv.trace(lambda x: jax.nn.gelu(x.reshape(x.shape[0], -1) @ weights), SHAPE)
    assert graph.dtype == "float32"


class Shifted(jmlv.CROWN):
    """A broken bound: both ends too high, so that they do not cross."""

    def rows(self, *arguments):
        found = super().rows(*arguments)
        return type(found)(found.lower + 3, found.upper + 3)


def test_bounds_that_miss_a_point_of_the_box_are_a_defect():
    with pytest.raises(SoundnessError, match="do not hold at a point"):
        jmlv.bound(_net, BOX, jmlv.InTopK(0, 1), Shifted())


class Failed(jmlv.CROWN):
    """Lower bounds that came out as NaN."""

    def rows(self, *arguments):
        found = super().rows(*arguments)
        return type(found)(found.lower * jnp.nan, found.upper)


def test_a_failed_bound_stays_one():
    assert not jmlv.bound(_net, BOX, jmlv.AboveThreshold(0), Failed()).lower > -np.inf


def test_bounds_of_a_point_are_in_order_and_keep_their_slopes():
    """Where both ends meet, each has its own derivative with respect to the radius."""
    f = lambda x: x.reshape(x.shape[0], -1) @ np.float32(WEIGHTS)  # noqa: E731

    def ends(radius):
        found = jmlv.bound(
            f, jmlv.Box(BOX.lower - radius, BOX.lower + radius), jmlv.InTopK(0, 1), jmlv.CROWN()
        )
        return jnp.stack([found.lower, found.upper])

    low, high = ends(0.0)
    fall, rise = jax.jacobian(ends)(0.0)
    assert low <= high and fall < -0.1 and rise > 0.1


def test_points_are_those_of_the_box():
    """A graph that is wrong there alone is found: between 0.99 and 1 of one pixel."""

    def f(x):
        return jnp.maximum(x.reshape(x.shape[0], -1), 0.99)

    faithful = sys.modules["jmlv.graph.faithful"]
    wrong = jmlv.trace(lambda x: jnp.maximum(x.reshape(x.shape[0], -1), 0.9905), SHAPE)
    with pytest.raises(SoundnessError):
        faithful.require_same_function(f, wrong, (np.full(SHAPE, 0.98), np.full(SHAPE, 0.991)))


SIGNS = np.tile(np.float32([1, -1]), 20)
"""Of 40 inputs, whose mean times these is 1 at one corner only, where no point of a comparison lies."""


def _of_the_corner(logits):
    def f(x):
        x = x.reshape(-1, len(SIGNS))
        return logits(2 * jnp.mean(x * SIGNS, -1, keepdims=True))

    return f


def _not_robust(f, asked):
    box = jmlv.Box(np.zeros(len(SIGNS), np.float32), np.ones(len(SIGNS), np.float32))
    return jmlv.verify(f, box, asked, jmlv.Bounds()).status is not Status.ROBUST


def test_a_maximum_that_leaves_an_entry_out_is_not_the_maximum():
    """Padding and stride take the last of four entries out of the window: its exponential overflows."""

    def shares(t):
        z = jnp.concatenate([0 * t, 0.1 * t, 0 * t - 1, 95 * t], -1)
        most = lax.reduce_window(z, -jnp.inf, lax.max, (1, 4), (1, 2), ((0, 0), (1, 0)))
        e = jnp.exp(z - most)
        return e / e.sum(-1, keepdims=True)

    assert _not_robust(_of_the_corner(shares), jmlv.AboveThreshold(3, -0.5))


def test_shares_that_vanish_are_not_there_to_be_proven():
    """The second of two has a fifth in real numbers, and nothing where its exponential is flushed."""

    def shares(t):
        e = jnp.exp(jnp.concatenate([-86.2 + 0 * t, -86.7 - 0.8 * t], -1))
        return e / e.sum(-1, keepdims=True)

    assert _not_robust(_of_the_corner(shares), jmlv.AboveThreshold(1, 0.2))
