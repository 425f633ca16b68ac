"""Full backward CROWN: windows, chunks, tightness, and the pieces it is made of."""

import jax
import jax.numpy as jnp
import numpy as np
import published
import pytest
from zoo import FAST_BUILD, NETS, SHAPE, Weights, boxes, conv, max_pool, rows_of

import jmlv
import jmlv.bounds.crown as crown_module
from jmlv.bounds import Interval
from jmlv.bounds.crown import preactivation_bounds, sources
from jmlv.bounds.functionals import Window, crop, drop_outside, one_hot, whole
from jmlv.bounds.loop import masked_map
from jmlv.graph import Variable
from jmlv.graph.fuse import fuse_relu_max_pool
from jmlv.graph.reads import pixels_read
from jmlv.numerics import certificate_precision

MAP = Variable(0, (1, 5, 7, 2))


def test_windows_are_functionals():
    """A window, made whole, has the same value on every map; cropping is the transpose of placing."""
    rng = np.random.default_rng(0)
    window = Window(
        jnp.asarray(rng.normal(size=(9, 3, 2, 2))), jnp.asarray(rng.integers(-4, 8, (9, 2)))
    )
    values = jnp.asarray(rng.normal(size=MAP.shape))
    by_window = (drop_outside(window, MAP).rows * crop(values[0], window)).sum((1, 2, 3))
    by_whole = (whole(window, MAP).rows * values).sum((1, 2, 3, 4))
    np.testing.assert_allclose(by_window, by_whole, atol=1e-5)
    dropped = (whole(drop_outside(window, MAP), MAP).rows * values).sum((1, 2, 3, 4))
    np.testing.assert_allclose(dropped, by_whole, atol=1e-5)


def test_one_hot_reads_single_entries():
    values = jnp.arange(MAP.size, dtype=jnp.float32).reshape(MAP.shape)
    indices = jnp.arange(MAP.size)
    read = (whole(one_hot(MAP, indices), MAP).rows * values).sum((1, 2, 3, 4))
    np.testing.assert_array_equal(read, indices)
    flat = Variable(1, (1, 6))
    np.testing.assert_array_equal(one_hot(flat, jnp.arange(6)).rows[:, 0], np.eye(6))


@pytest.mark.parametrize("count", [0, 1, 5, 12, 13])
def test_masked_map_computes_what_is_wanted_and_its_gradient(count):
    mask = np.zeros(13, bool)
    mask[np.random.default_rng(count).permutation(13)[:count]] = True
    weights = jnp.linspace(1, 2, 13)

    def entries(operands, indices):
        return Interval(operands[indices] ** 2, operands.sum() * operands[indices])

    def total(operands):
        found = masked_map(entries, 4, jnp.asarray(mask), operands)
        return jnp.where(mask, found.lower + weights * found.upper, 0).sum(), found

    def direct(operands):
        return jnp.where(mask, operands**2 + weights * operands.sum() * operands, 0).sum()

    operands = jnp.arange(13.0)
    (value, found), gradient = jax.jit(jax.value_and_grad(total, has_aux=True))(operands)
    np.testing.assert_allclose(value, direct(operands), rtol=1e-6)
    np.testing.assert_allclose(gradient, jax.grad(direct)(operands), rtol=1e-6)
    assert np.all(np.isinf(found.lower[~mask])) and np.all(np.isinf(found.upper[~mask]))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pool", "residual"])
def test_chunks_do_not_matter(name):
    rng = np.random.default_rng(0)
    graph = jmlv.trace(NETS[name](Weights(2)), SHAPE)
    low, high = (jnp.asarray(side[11], "float32") for side in boxes(rng, 18))
    coefficients, offsets = (jnp.asarray(v, "float32") for v in rows_of(rng))
    found = [
        jax.jit(jmlv.CROWN(chunk=chunk).rows, compiler_options=FAST_BUILD)(
            graph, low, high, coefficients, offsets
        )
        for chunk in (3, 200)
    ]
    np.testing.assert_allclose(found[0], found[1], rtol=1e-4, atol=1e-4)


def _ascended(graph, box, coefficients, offsets):
    """Alpha-CROWN's lower bounds on rows, and of how many inner entries it ascends on the bounds."""
    method, real, wanted = jmlv.AlphaCROWN(steps=3, intermediate_steps=3), crown_module._tighten, []

    def counted(*arguments):
        if arguments[-1] is not crown_module.plain:
            wanted.append(arguments[3].sum())
        return real(*arguments)

    def found(box):
        wanted.clear()
        relaxed = method.relax(graph, box)
        return method.least(graph, box, relaxed, coefficients, offsets), sum(wanted)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(crown_module, "_tighten", counted)
        return jax.jit(found, compiler_options=FAST_BUILD)(box)


@pytest.mark.parametrize("pooled", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_what_crown_decides_needs_no_ascent(pooled, monkeypatch):
    """The bounds are those that come of ascending for every entry that interval arithmetic leaves open,
    up to where Adam goes where a slope is nearly zero: by its sign, which rounding decides."""
    rng = np.random.default_rng(0)
    first, *inner, last = (
        jnp.asarray(rng.normal(size=size) / 4) for size in ((72, 16), (16, 16), (16, 16), (16, 3))
    )

    def f(x):
        x = conv(x, jnp.ones((1, 1, 2, 2)) / 2) if pooled else x
        y = max_pool(jax.nn.relu(x - 0.5), 2, 1, "SAME") if pooled else x
        y = y.reshape(-1, 72) @ first
        for weights in inner:
            y = jax.nn.relu(y) @ weights
        return jax.nn.relu(y) @ last

    graph = fuse_relu_max_pool(jmlv.trace(f, SHAPE))
    x = jnp.asarray(rng.uniform(size=(1, *SHAPE)), "float32")
    box, rows = Interval(x - 0.03, x + 0.03), (jnp.eye(3), jnp.zeros(3))
    fewer, few = _ascended(graph, box, *rows)
    monkeypatch.setattr(crown_module, "_passes", lambda readers, least: (least,))
    all_of_them, many = _ascended(graph, box, *rows)
    np.testing.assert_allclose(fewer, all_of_them, atol=0.02)
    assert 0 < few < many


def _lower_bounds(graph, frozen):
    x, rows = jnp.full(SHAPE, 0.5), jnp.concatenate([jnp.eye(3), -jnp.eye(3)])
    method = jmlv.CROWN(frozen=frozen)
    return jax.jit(lambda e: method.rows(graph, x - e, x + e, rows, jnp.zeros(6)).lower)


@pytest.mark.slow
def test_frozen_changes_the_gradient_only():
    graph = jmlv.trace(NETS["residual"](Weights(2)), SHAPE)
    free, frozen = (_lower_bounds(graph, frozen) for frozen in (False, True))
    np.testing.assert_allclose(free(0.1), frozen(0.1), atol=1e-5)
    slopes = jax.jacrev(free)(0.1), jax.jacrev(frozen)(0.1)
    assert np.all(slopes[1] < 0) and not np.allclose(*slopes)


@pytest.mark.parametrize("seed", range(3))
def test_the_frozen_gradient_is_that_of_the_bound_that_is_attained(seed):
    """One convolution, then a pool: the intervals of the last layers are as tight as any bound, and
    the lines around the pool, flat where they are frozen, say nothing of how the bound moves."""
    with certificate_precision():
        graph = jmlv.trace(NETS["pool"](Weights(seed)), SHAPE).astype("float64")
        lower, h = _lower_bounds(graph, frozen=True), 1e-6
        differences = (lower(0.1 + h) - lower(0.1 - h)) / (2 * h)
        np.testing.assert_allclose(jax.jacrev(lower)(0.1), differences, rtol=1e-5)


@pytest.mark.slow
def test_preactivation_bounds_hold_at_sampled_points():
    rng = np.random.default_rng(4)
    for name in ("pool", "conv", "linen"):
        graph = fuse_relu_max_pool(jmlv.trace(NETS[name](Weights(5)), SHAPE))
        low, high = (jnp.asarray(side[13], "float32") for side in boxes(rng, 18))
        found = preactivation_bounds(graph, low, high)
        assert found
        for t in rng.random((64, *SHAPE)).round(1):
            env = graph.environment((low + t * (high - low))[None])
            for variable, interval in found.items():
                assert np.all(interval.lower <= env[variable] + 1e-4)
                assert np.all(interval.upper >= env[variable] - 1e-4)


@pytest.mark.parametrize("name", NETS)
def test_fusing_does_not_change_the_function(name):
    graph = jmlv.trace(NETS[name](Weights(1)), SHAPE)
    x = jnp.asarray(np.random.default_rng(0).random((3, *SHAPE)), "float32")
    np.testing.assert_allclose(fuse_relu_max_pool(graph).scores(x), graph.scores(x), atol=1e-5)


@pytest.mark.parametrize("name", NETS)
def test_pixels_read_are_those_that_gradients_reach(name):
    """No gradient reaches a pixel that is not read (weights are random, so the rest is reached)."""
    graph = jmlv.trace(NETS[name](Weights(1)), SHAPE)
    x = jnp.asarray(np.random.default_rng(0).random((8, *SHAPE)), "float32")
    slopes = jax.vmap(jax.jacrev(lambda image: graph(image[None])[0]))(x)
    reached = np.any(np.asarray(slopes) != 0, (0, 1))
    assert not np.any(reached & ~pixels_read(graph))


needs_published = pytest.mark.skipif(
    not published.FOLDER.exists(), reason="the published Double-MNIST networks are not here"
)


@needs_published
def test_tightness_on_the_published_networks():
    """Mean lower bound over the two true labels' pairs, as tight as what auto_LiRPA 0.7.1 gives."""
    data = published.images()
    expected = {"linf": (0.32, 1.18), "x2": (-4.9, -2.16)}
    for name, (crown_ibp, crown) in expected.items():
        graph = jmlv.trace(published.network(name), (64, 64, 1))
        means = {method: [] for method in (jmlv.CROWNIBP(), jmlv.CROWN())}
        for image, digits in list(zip(data.images, data.digits))[:3]:
            box = jmlv.Box.around(image, 0.01)
            for method, values in means.items():
                for digit in digits:
                    rows = jmlv.bound(graph, box, jmlv.InTopK(int(digit), 2), method).rows_lower
                    values.append(float(rows.mean()))
        assert np.mean(means[jmlv.CROWNIBP()]) > crown_ibp - 1
        assert np.mean(means[jmlv.CROWN()]) > crown - 1
        assert np.mean(means[jmlv.CROWN()]) > np.mean(means[jmlv.CROWNIBP()]) + 0.3


def test_known_intervals_must_be_those_of_the_sources():
    graph = jmlv.trace(lambda x: jax.nn.relu(x.reshape(-1, 2)), (2, 1, 1))
    side = jnp.zeros((1, 3))
    arguments = graph, jnp.zeros((2, 1, 1)), jnp.ones((2, 1, 1)), jnp.eye(2), jnp.zeros(2)
    with pytest.raises(ValueError, match="known"):
        jmlv.CROWN().rows_within(*arguments, {sources(graph)[0]: Interval(side, side)})
    with pytest.raises(ValueError, match="known"):
        jmlv.CROWN().rows_within(*arguments, {graph.output: Interval(side, side)})


@pytest.mark.parametrize("oracle", [jmlv.Bounds(jmlv.CROWN()), jmlv.BranchAndBound()])
def test_what_overflows_proves_nothing(oracle):
    """A neuron whose lower end became plus infinity would be a proof of anything."""
    with jax.enable_x64(True):
        weights = jnp.asarray([[1.2e308], [-1.7e308]])

        def f(x):
            return jnp.maximum(x.reshape(-1, 2) @ weights, 0.0)

        box = jmlv.Box(np.array([2.0, 0.0]), np.array([2.1, 1.0]))
        verdict = jmlv.verify(f, box, jmlv.BelowThreshold(0, 0.5), oracle, budget=20)
    assert not verdict.robust
