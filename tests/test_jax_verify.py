"""jax_verify through the facade: loaded without a trace, its unsound rules replaced."""

import dataclasses
import importlib
import importlib.util
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx
from jax import lax

from jmlv.bounds.crown_ibp import CROWNIBP
from jmlv.bounds.ibp import IBP
from jmlv.bounds.interval import interval_step
from jmlv.bounds.jax_verify_rules import crown_rules, ibp_rules
from jmlv.bounds.method import Interval
from jmlv.errors import UnsupportedOperation
from jmlv.graph import Equation, Graph, Structure, Variable, as_function, trace
from jmlv.graph import jax_verify as facade
from jmlv.graph.fuse import fuse_relu_max_pool
from jmlv.numerics import certificate_precision

SHAPE = (6, 6, 2)
LABELS = 3
NHWC = ("NHWC", "HWIO", "NHWC")


# --------------------------------------------------------------------------- the facade


def test_loading_changes_nothing_global():
    namespaces = [jax, jax.core, jax.lax, jax.numpy, jax.custom_derivatives, jax.interpreters.ad]
    before = [dict(vars(module)) for module in namespaces]
    importlib.import_module("urllib.request")  # jax_verify imports it, of the standard library
    modules = set(sys.modules)
    loader = facade._Loader(facade._source_folder())
    crown_ibp = loader.module("crown_ibp")
    assert set(sys.modules) - modules == set()
    assert not any(name.startswith("jax_verify") for name in sys.modules)
    assert [dict(vars(module)) for module in namespaces] == before
    assert crown_ibp.__file__.endswith("jax_verify/src/crown_ibp.py")


def test_rules_leave_the_originals_alone():
    jv = facade.load()
    before = dict(jv.ibp._primitive_transform), dict(jv.crown_ibp._primitive_transform)
    assert lax.neg_p in ibp_rules() and lax.reduce_window_max_p in crown_rules()
    assert (jv.ibp._primitive_transform, jv.crown_ibp._primitive_transform) == before
    assert lax.neg_p not in jv.ibp._primitive_transform


def test_threads_share_one_copy():
    with ThreadPoolExecutor(4) as pool:
        assert len({id(copy) for copy in pool.map(lambda _: facade.load(), range(8))}) == 1


def test_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="pip install jax_verify"):
        facade._source_folder()


# --------------------------------------------------------------------------- planted unsoundness


def by_hand(equations, constants=()):
    """A graph on two inputs from (primitive, operands) pairs; operand i is variable i."""
    v = [Variable(i, (1, 2)) for i in range(1 + len(constants) + len(equations))]
    first = 1 + len(constants)
    eqns = [
        Equation(primitive, tuple(v[i] for i in operands), (v[first + n],))
        for n, (primitive, operands) in enumerate(equations)
    ]
    structure = Structure((v[0],), tuple(v[1:first]), tuple(eqns), (v[-1],))
    return Graph(structure, tuple(constants))


ONES = jnp.ones((1, 2))
PLANTED = {
    "difference with a constant": by_hand([(lax.sub_p, (0, 1))], [ONES]),
    "residual": by_hand([(lax.add_p, (0, 0)), (lax.add_p, (2, 1))], [ONES]),
    "residual of two branches": by_hand(
        [(lax.add_p, (0, 1)), (lax.add_p, (2, 0)), (lax.add_p, (3, 1))], [ONES]
    ),
}


@pytest.mark.parametrize("name", PLANTED)
def test_stock_rule_is_unsound_and_ours_is_not(name):
    """The stock lower bound is above a value that the network takes at a corner of the box."""
    graph, jv = PLANTED[name], facade.load()
    lower, upper = jnp.zeros(2), jnp.ones(2)
    box = jv.ibp.IntervalBound(lower[None], upper[None])
    stock = jv.crown_ibp.crownibp_bound_propagation(graph, box)
    reached = graph(lower[None])[0]
    assert np.all(stock.lower[0] >= reached + 1)
    ours = CROWNIBP().rows(graph, lower, upper, jnp.eye(2), jnp.zeros(2))
    np.testing.assert_allclose(ours.lower, reached, atol=1e-6)
    np.testing.assert_allclose(ours.upper, graph(upper[None])[0], atol=1e-6)


def test_two_identical_relu_calls_stay_apart():
    """They share one inner jaxpr; merging them would give -0.09 where -1.79 is reached."""
    relu = jax.jit(lambda x: jnp.maximum(x, 0))
    graph = trace(lambda x: relu(x) - 2 * relu(x - 0.5) - 3 * relu(1 - x), (2,))
    lower, upper = jnp.full(2, -0.5), jnp.ones(2)
    reached = graph.scores(jnp.linspace(lower, upper, 31)).min(0)
    for method in (IBP(), CROWNIBP()):
        assert np.all(method.rows(graph, lower, upper, jnp.eye(2), jnp.zeros(2)).lower <= reached)


# --------------------------------------------------------------------------- random networks


def conv(x, kernel, strides=1, padding="SAME", **settings):
    strides = (strides, strides)
    return lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=NHWC, **settings)


def max_pool(x, size, stride, padding="VALID"):
    window, strides = (1, size, size, 1), (1, stride, stride, 1)
    return lax.reduce_window(x, -jnp.inf, lax.max, window, strides, padding)


class Weights:
    """Hands out random arrays and dense layers."""

    def __init__(self, seed):
        self.rng = np.random.default_rng(seed)

    def __call__(self, *shape):
        fan_in = max(1, np.prod(shape[:-1]))
        return jnp.asarray(self.rng.normal(size=shape) * 1.5 / np.sqrt(fan_in), "float32")

    def head(self, size):
        kernel, bias = self(size, LABELS), self(LABELS)
        return lambda h: h.reshape(h.shape[0], -1) @ kernel + bias


def net_dense(w):
    a, b, head = w(72, 12), w(12), w.head(12)
    return lambda x: head(jax.nn.relu(x.reshape(x.shape[0], -1) @ a + b))


def net_conv(w):
    a, b, head = w(3, 3, 2, 4), w(3, 3, 2, 4), w.head(36)

    def f(x):
        h = jax.nn.relu(conv((x - 0.4) / 0.3, a, 2, ((1, 0), (2, 1))))
        h = conv(h, b, 1, "SAME", feature_group_count=2)
        return head(jax.nn.leaky_relu(h[:, :3, :3], 0.1))

    return f


def net_dilated(w):
    a, b, head = w(2, 2, 2, 3), w(3, 2, 3, 2), w.head(220)

    def f(x):
        h = jax.nn.relu(conv(x, a, 1, "VALID", rhs_dilation=(2, 1)))
        return head(conv(h, b, 1, ((3, 3), (1, 1)), lhs_dilation=(2, 2)))

    return f


def net_batch_groups(w):
    a, head = w(3, 3, 1, 4), w.head(144)

    def f(x):
        h = conv(x.transpose(3, 1, 2, 0), a, 1, "SAME", batch_group_count=2)
        return head(jax.nn.relu(h.reshape(1, -1)))

    return f


def net_pool(w):
    a, head = w(3, 3, 2, 4), w.head(16)
    return lambda x: head(max_pool(jax.nn.relu(conv(x - 0.5, a)), 3, 2))


def net_padded_pools(w):
    a, b, head = w(3, 3, 2, 3), w(2, 2, 3, 3), w.head(27)

    def f(x):
        h = max_pool(conv(x, a), 3, 1, "SAME")
        h = max_pool(conv(h, b), 2, 2, ((0, 0), (1, 1), (0, 1), (0, 0)))
        return head(h[:, :3, :3])

    return f


def net_average_pools(w):
    a, head = w(3, 3, 2, 4), w.head(4)

    def f(x):
        h = linen.avg_pool(jax.nn.relu(conv(x, a)), (3, 2), (2, 1), "SAME")
        return head(h.mean((1, 2)) + h.max((1, 2)))

    return f


def net_residual(w):
    a, b, c, head = w(3, 3, 2, 2), w(3, 3, 2, 2), w(2), w.head(72)

    def f(x):
        x = (x - c) / 0.5
        h = x + conv(jax.nn.relu(conv(x, a) + c), b)
        h = jax.nn.relu(h) + h
        return head(h + conv(jax.nn.relu(h), a) - c)

    return f


def net_odds_and_ends(w):
    a, constant, head = w(4, 3), w(1, 6, 6, 1), w.head(28 * 3)

    def f(x):
        h = jnp.concatenate([x, constant, 1.0 - x[..., ::-1]], -1)
        h = lax.slice(h, (0, 1, 0, 1), (1, 6, 6, 5), (1, 1, 2, 1))
        h = jnp.pad(
            jnp.transpose(h, (0, 2, 1, 3)), ((0, 0), (1, 0), (0, 2), (0, 0)), constant_values=0.3
        )
        return head(jax.nn.relu(h @ a) / jnp.array([2.0, -3.0, 0.5]))

    return f


def net_clipped(w):
    a, b, head = w(72, 8), w(8), w.head(8)

    def f(x):
        h = jnp.clip(x.reshape(x.shape[0], -1) @ a, -0.3, b + 1)
        return head(jnp.minimum(h, b) + jnp.abs(h) + jnp.maximum(0.2, h))

    return f


class NNXNet(nnx.Module):
    def __init__(self, rngs):
        self.conv = nnx.Conv(2, 4, (3, 3), strides=2, padding=1, rngs=rngs)
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.norm.mean[...] = jnp.array([0.1, -0.2, 0.3, 0.0])
        self.norm.var[...] = jnp.array([0.2, 1.5, 0.7, 2.0])
        self.dense = nnx.Linear(4, LABELS, rngs=rngs)

    def __call__(self, x):
        h = nnx.max_pool(nnx.relu(self.norm(self.conv(x))), (3, 3))
        return self.dense(h.reshape(h.shape[0], -1))


class LinenNet(linen.Module):
    @linen.compact
    def __call__(self, x):
        h = linen.relu(linen.Conv(4, (3, 3))(x))
        h = h + linen.BatchNorm(use_running_average=True)(linen.Conv(4, (3, 3))(h))
        h = linen.max_pool(linen.leaky_relu(h), (2, 2), (2, 2))
        return linen.Dense(LABELS)(h.reshape(h.shape[0], -1))


def net_nnx(w):
    return as_function(NNXNet(nnx.Rngs(0)))


def net_linen(w):
    module = LinenNet()
    return as_function(module, jax.jit(module.init)(jax.random.key(0), jnp.zeros((1, *SHAPE))))


NETS = {
    name.removeprefix("net_"): f for name, f in dict(globals()).items() if name.startswith("net_")
}
BOXES = 18


def boxes(rng, count):
    """Random boxes of many sizes, one of them a point.

    In every second box only two entries vary, much: there samples come close to the extremes, so
    that a bound that is a little wrong shows.
    """
    x = rng.random((count, *SHAPE))
    radius = rng.random(x.shape) * np.geomspace(0.003, 1, count).reshape(-1, 1, 1, 1)
    radius *= rng.random(x.shape) < 0.8
    radius[::2] = 0
    for i in range(2, count, 2):
        radius[i].flat[rng.choice(x[i].size, 2, replace=False)] = 1
    return np.clip(x - radius, 0, 1), np.clip(x + radius, 0, 1)


def rows_of(rng):
    coefficients = np.concatenate([np.eye(LABELS), rng.normal(size=(2, LABELS))])
    return coefficients, rng.normal(size=len(coefficients))


FAST_BUILD = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


@partial(jax.jit, compiler_options=FAST_BUILD)
def bounds_and_values(graph, low, high, coefficients, offsets, t):
    """Both bounds on each box, and the rows at points in it: sampled, corners, and descended to."""

    def one(low, high):
        def rows(x):
            return coefficients @ graph(x[None])[0] + offsets

        slopes = jax.jacrev(rows)((low + high) / 2)
        down, up = jnp.where(slopes > 0, low, high), jnp.where(slopes > 0, high, low)
        points = jnp.concatenate([low + t * (high - low), down, up])
        bounds = [m.rows(graph, low, high, coefficients, offsets) for m in (IBP(), CROWNIBP())]
        return bounds, jax.vmap(rows)(points)

    return jax.vmap(one)(low, high)


IN_FLOAT64 = ("conv", "pool", "residual", "odds_and_ends")


@pytest.mark.parametrize("name", NETS)
def test_bounds_hold(name):
    """Every net on 18 boxes, in float32."""
    graph, arguments = _case(name)
    _check(bounds_and_values(graph, *(jnp.asarray(a, "float32") for a in arguments)), 1e-5)


@pytest.mark.parametrize("name", IN_FLOAT64)
def test_bounds_hold_in_float64(name):
    graph, arguments = _case(name)
    with certificate_precision():
        _check(bounds_and_values(graph.astype("float64"), *map(jnp.asarray, arguments)), 1e-9)


@cache
def _graph(name):
    return trace(NETS[name](Weights(1)), SHAPE)


def _case(name):
    rng = np.random.default_rng(len(name))
    t = rng.random((48, *SHAPE))
    t[:24] = np.round(t[:24])
    return _graph(name), (*boxes(rng, BOXES), *rows_of(rng), t)


def _check(found, tolerance):
    (ibp, crown), values = jax.tree.map(np.asarray, found)
    slack = tolerance * (1 + np.abs(values).max())
    assert values.dtype == (np.float32 if tolerance > 1e-8 else np.float64)
    for bound in (ibp, crown):
        assert np.all(bound.lower[:, None] <= values + slack)
        assert np.all(bound.upper[:, None] >= values - slack)
    assert np.all(crown.lower >= ibp.lower) and np.all(crown.upper <= ibp.upper)
    np.testing.assert_allclose(crown.lower[0], values[0].min(0), atol=10 * slack)


# --------------------------------------------------------------------------- transformations


@pytest.fixture(scope="module")
def pooled_net():
    return _graph("pool")


@pytest.mark.parametrize("method", [IBP(), CROWNIBP()], ids=lambda m: m.name)
def test_gradient_with_respect_to_epsilon_and_weights(method, pooled_net):
    rng = np.random.default_rng(5)
    x, direction = rng.random(SHAPE), rng.random(SHAPE)
    with certificate_precision():
        graph, coefficients = (
            pooled_net.astype("float64"),
            jnp.asarray(rng.normal(size=(1, LABELS))),
        )

        def lower(epsilon, graph):
            bound = method.rows(graph, x - epsilon, x + epsilon, coefficients, jnp.zeros(1))
            return bound.lower[0]

        epsilon, h = jnp.full(SHAPE, 0.05), 1e-6
        gradient = jax.jit(jax.grad(lower, (0, 1)), compiler_options=FAST_BUILD)
        lower = jax.jit(lower, compiler_options=FAST_BUILD)
        by_epsilon, by_graph = gradient(epsilon, graph)
        slope = (lower(epsilon + h * direction, graph) - lower(epsilon - h * direction, graph)) / (
            2 * h
        )
        np.testing.assert_allclose(jnp.vdot(by_epsilon, direction), slope, rtol=1e-6)
        steps = [Graph(graph.structure, tuple(c * (1 + s) for c in graph.consts)) for s in (h, -h)]
        slope = (lower(epsilon, steps[0]) - lower(epsilon, steps[1])) / (2 * h)
        along = sum(jnp.vdot(g, c) for g, c in zip(by_graph.consts, graph.consts))
        np.testing.assert_allclose(along, slope, rtol=1e-6)


def test_vmap_is_a_loop_and_jit_is_eager():
    rng = np.random.default_rng(6)
    graph = trace(net_dense(Weights(3)), SHAPE)
    low, high = (jnp.asarray(side[-3:], "float32") for side in boxes(rng, 6))
    coefficients = jnp.asarray(rng.normal(size=(3, 2, LABELS)), "float32")

    def bound(low, high, coefficients):
        return CROWNIBP().rows(graph, low, high, coefficients, jnp.zeros(2))

    batched = jax.jit(jax.vmap(bound))(low, high, coefficients)
    single = jax.jit(bound)
    for i in range(3):
        for a, b in zip(batched, single(low[i], high[i], coefficients[i])):
            np.testing.assert_allclose(a[i], b, rtol=1e-4, atol=1e-5)
    for a, b in zip(bound(low[0], high[0], coefficients[0]), batched):
        np.testing.assert_allclose(a, b[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", [IBP(), CROWNIBP()], ids=lambda m: m.name)
def test_nan_and_infinity_are_seen(method, pooled_net):
    bound = jax.jit(
        lambda graph, low, high: method.rows(graph, low, high, jnp.eye(3), jnp.zeros(3))
    )
    low, high = jnp.zeros(SHAPE), jnp.ones(SHAPE)
    spoiled = dataclasses.replace(pooled_net, consts=tuple(c * jnp.nan for c in pooled_net.consts))
    assert np.isnan(bound(spoiled, low, high)).all()
    assert np.isnan(bound(pooled_net, low.at[0, 0, 0].set(jnp.nan), high)).all()
    endless = bound(pooled_net, low, high.at[0, 0, 0].set(jnp.inf))
    assert not np.isfinite(endless).any()


def test_the_box_decides_the_precision(pooled_net):
    with certificate_precision():
        low, high = jnp.zeros(SHAPE, "float64"), jnp.ones(SHAPE, "float64")
        rows = partial(CROWNIBP().rows, pooled_net)
        found = jax.eval_shape(rows, low, high, jnp.eye(3), jnp.zeros(3))
    assert {str(side.dtype) for side in found} == {"float64"}


def test_interval_step_takes_merged_pools(pooled_net):
    """One sweep over the fused graph; a constant stays an array."""
    graph = fuse_relu_max_pool(pooled_net)
    values = graph.constants() | {graph.input: Interval(*jnp.zeros((2, 1, *SHAPE)))}
    for eqn in graph.eqns:
        operands = [v.val if not isinstance(v, Variable) else values[v] for v in eqn.invars]
        values[eqn.outvar] = interval_step(eqn, operands)
    exact = graph(jnp.zeros((1, *SHAPE)))
    np.testing.assert_allclose(values[graph.output].lower, exact, atol=1e-5)
    np.testing.assert_allclose(values[graph.output].upper, exact, atol=1e-5)
    eqn = Equation(lax.neg_p, (Variable(0, (2,)),), (Variable(1, (2,)),))
    np.testing.assert_array_equal(interval_step(eqn, [jnp.ones(2)]), -jnp.ones(2))


def test_dilated_max_pool_is_refused():
    def f(x):
        ones, window = (1, 1, 1, 1), (1, 2, 2, 1)
        h = lax.reduce_window(
            x, -jnp.inf, lax.max, window, ones, "VALID", window_dilation=(1, 2, 2, 1)
        )
        return h.reshape(h.shape[0], -1)

    with pytest.raises(UnsupportedOperation, match="reduce_window_max"):
        trace(f, SHAPE)
