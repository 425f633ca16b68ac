"""The normalised graph: what it evaluates to, what it refuses, and what it shares."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax
from zoo import NETS, SHAPE, Weights, conv, mostly_slow

import jmlv
from jmlv.graph import Literal, Variable
from jmlv.graph.affine import pull_back
from jmlv.graph.fuse import fuse_relu_max_pool
from jmlv.graph.independent import independent
from jmlv.graph.operations import is_affine, is_relu, is_supported
from jmlv.models import CNNConfig, MultiLabelCNN
from jmlv.numerics import certificate_precision

X = np.random.default_rng(0).random((4, *SHAPE)).astype("float32")


USUAL = ("dense", "dilated", "pool", "odds_and_ends", "nnx")


@pytest.mark.parametrize("name", mostly_slow(NETS, *USUAL))
def test_graph_computes_the_network(name):
    f = NETS[name](Weights(1))
    graph = jmlv.trace(f, SHAPE)
    expected = jnp.concatenate([f(x[None]) for x in X])
    np.testing.assert_allclose(graph.scores(X), expected, rtol=1e-4, atol=1e-5)
    assert all(is_supported(graph, eqn) for eqn in graph.eqns)
    with certificate_precision():
        exact = graph.astype("float64")
        assert exact.dtype == "float64" and exact.scores(X.astype("float64")).dtype == "float64"
        np.testing.assert_allclose(
            exact.scores(X.astype("float64")), expected, rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize("name", mostly_slow(NETS, *USUAL))
def test_pulling_back_an_affine_equation_is_exact(name):
    """rows . y = sum of pulled rows . x + offset, at a random input of every affine equation."""
    graph = jmlv.trace(NETS[name](Weights(1)), SHAPE)
    env = graph.environment(jnp.asarray(X[:1]))
    rng = np.random.default_rng(1)
    for eqn in graph.eqns:
        if is_affine(graph, eqn):
            rows = jnp.asarray(rng.normal(size=(2, *eqn.outvar.shape)), "float32")
            pulled, offset = pull_back(graph, eqn, rows, graph.constants())
            found = offset + sum((r * env[v]).reshape(2, -1).sum(1) for v, r in pulled.items())
            expected = (rows * env[eqn.outvar]).reshape(2, -1).sum(1)
            np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)


def test_same_architecture_has_the_same_structure():
    """So one compiled bound serves every network of an architecture."""
    config = CNNConfig(input_shape=(8, 8, 1), channels=(2, 2))
    first, second = (
        jmlv.trace(MultiLabelCNN(config, rngs=nnx.Rngs(seed)), (8, 8, 1)) for seed in (0, 1)
    )
    assert first.structure == second.structure and hash(first.structure) == hash(second.structure)
    assert jax.tree.structure(first) == jax.tree.structure(second)
    other = jmlv.trace(MultiLabelCNN(CNNConfig(input_shape=(8, 8, 1)), rngs=nnx.Rngs(0)), (8, 8, 1))
    assert other.structure != first.structure


def test_graphs_of_one_structure_have_one_in_the_other_precision_too():
    first = jmlv.trace(lambda x: jax.nn.relu(x - jnp.ones(3)), (3,))
    second = jmlv.graph.Graph(first.structure, tuple(2 * c for c in first.consts))
    with certificate_precision():
        exact = [graph.astype("float64") for graph in (first, second)]
    assert exact[0].structure is exact[1].structure
    assert {exact[0].dtype, exact[0].output.dtype} == {"float64"} and first.dtype == "float32"


def test_every_inlined_call_has_fresh_variables():
    relu = jax.jit(lambda x: jnp.maximum(x, 0))
    graph = jmlv.trace(lambda x: relu(x) - relu(-x), (3,))
    outputs = [eqn.outvar for eqn in graph.eqns]
    assert len(set(outputs)) == len(outputs) and sum(map(is_relu, graph.eqns)) == 2


REWRITTEN = {
    "column-major reshape": lambda x: jnp.ravel(x, order="F")[None],
    "maximum with an initial value": lambda x: jnp.max(x, axis=(1, 2), initial=-jnp.inf),
    "stack": lambda x: jnp.stack([x[:, 0, 0, 0], x[:, 1, 2, 1]], -1),
    "clip": lambda x: jnp.clip(x, 0.2, 0.6).reshape(1, -1),
    "prelu": lambda x: jnp.where(x > 0, x, jnp.array([-2.0, 3.0]) * x).reshape(1, -1) - 0.5,
    "relu6": lambda x: jax.nn.relu6(9 * x - 1).reshape(1, -1),
    "split": lambda x: jnp.split(x, 3, axis=1)[1].reshape(1, -1),
    "twice": lambda x: jnp.concatenate([x, x + x, x], -1).reshape(1, -1),
    "batched convolution": lambda x: jax.nn.relu(
        conv(jax.nn.relu(x.reshape(2, 3, 6, 2)), jnp.ones((2, 2, 2, 1)))
    ).reshape(1, -1),
}


@pytest.mark.parametrize("name", REWRITTEN)
def test_rewriting_keeps_the_function_and_its_bounds_hold(name):
    f = REWRITTEN[name]
    graph = jmlv.trace(f, SHAPE)
    expected = jnp.concatenate([f(x[None]) for x in jnp.asarray(X)])
    np.testing.assert_allclose(graph.scores(X), expected, atol=1e-5)
    rows = np.eye(graph.label_count, dtype="float32")
    for method in (jmlv.IBP(), jmlv.CROWNIBP(), jmlv.CROWN()):
        low, high = X.min(0), X.max(0)
        found = jax.jit(method.rows)(graph, low, high, rows, np.zeros(len(rows), "float32"))
        assert np.all(found.lower <= expected + 1e-4) and np.all(found.upper >= expected - 1e-4)


PADDED = {
    "(2, 0) of 2": ((2, 0), 2, 1, True),
    "(1, 1) of 2": ((1, 1), 2, 1, False),
    "(2, 2) of 3": ((2, 2), 3, 1, False),
    "(0, 4) of 2, steps of 3": ((0, 4), 2, 3, True),
    "(0, 1) of 2, steps of 3": ((0, 1), 2, 3, False),
}


@pytest.mark.parametrize("name", PADDED)
def test_pool_windows_in_padding_alone_are_refused(name):
    """Their maximum is minus infinity; merged with a ReLU it would be taken for 0."""
    pads, size, stride, empty = PADDED[name]

    def f(x):
        window, strides = (1, size, 1, 1), (1, stride, 1, 1)
        z = lax.reduce_window(
            jax.nn.relu(x), -jnp.inf, lax.max, window, strides, ((0, 0), pads) + ((0, 0),) * 2
        )
        return z.reshape(x.shape[0], -1)

    problems = jmlv.check(f, np.zeros((4, 1, 1), np.float32))
    assert bool(problems) == empty and all("in its padding altogether" in p for p in problems)
    assert bool(np.isinf(f(jnp.zeros((1, 4, 1, 1)))).any()) == empty


def test_padding_with_minus_infinity_becomes_that_of_the_pool():
    def f(x):
        padded = jnp.pad(x, ((0, 0), (1, 1), (1, 0), (0, 0)), constant_values=-jnp.inf)
        return jax.nn.relu(nnx.max_pool(padded, (2, 2), (1, 1))).reshape(x.shape[0], -1)

    graph = jmlv.trace(f, SHAPE)
    assert "pad" not in {eqn.primitive.name for eqn in graph.eqns}
    np.testing.assert_array_equal(graph.scores(X), f(jnp.asarray(X)))


def test_dead_code_and_constants_are_gone():
    def f(x):
        jnp.exp(x)
        return x @ (jnp.exp(jnp.ones((3, 2))) / jnp.sqrt(2.0))

    graph = jmlv.trace(f, (3,))
    assert [eqn.primitive.name for eqn in graph.eqns] == ["dot_general"]


def test_weights_may_be_traced():
    """A graph can be read inside jit and grad, for certified training."""

    @jax.jit
    def greatest_scores(kernel):
        graph = jmlv.trace(lambda x: jax.nn.relu(x @ kernel), (3,))
        bounds = jmlv.CROWNIBP().rows(graph, jnp.zeros(3), jnp.ones(3), jnp.eye(2), jnp.zeros(2))
        return bounds.upper.sum()

    kernel = jnp.array([[1.0, -1.0], [0.5, 2.0], [-1.0, 1.0]])
    slopes = jax.grad(greatest_scores)(kernel)
    assert slopes.shape == kernel.shape and np.isfinite(slopes).all() and np.any(slopes != 0)


UNSUPPORTED = {
    "rounding": (lambda x: jnp.floor(jnp.round(x)).reshape(1, -1), ["round", "floor"]),
    "sine": (lambda x: jnp.sin(x.reshape(1, -1)), ["sin"]),
    "computed exponent": (lambda x: 2 ** x.reshape(1, -1), ["pow"]),
    "half precision": (lambda x: x.astype("bfloat16").reshape(1, -1), ["convert_element_type"]),
    "selection": (lambda x: jnp.where(x > 0.5, x, 2.0).reshape(1, -1), ["gt", "select_n"]),
    "dynamic kernel": (
        lambda x: conv(x, x[0, :2, :2, :, None]).reshape(1, -1),
        ["conv_general_dilated"],
    ),
    "computed places": (
        lambda x: x.reshape(1, -1)[:, jnp.argsort(x.reshape(-1))],
        ["sort", "gather at computed places"],
    ),
    "places outside": (
        lambda x: jnp.take(x.reshape(1, -1), np.array([0, 99]), axis=1, mode="fill"),
        ["gather at places outside"],
    ),
    "a place written twice": (
        lambda x: x.reshape(1, -1).at[:, np.array([1, 1])].set(0.0),
        ["scatter at places"],
    ),
    "division by zero": (lambda x: (x / np.array([0.0, 1.0])).reshape(1, -1), ["div by zero"]),
}


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_unsupported_operations_are_all_listed_before_any_work(name):
    f, expected = UNSUPPORTED[name]
    problems = jmlv.check(f, X[0])
    assert all(any(p.startswith(e) for p in problems) for e in expected), problems
    with pytest.raises(jmlv.UnsupportedOperation, match="no sound rule"):
        jmlv.trace(f, SHAPE)


@pytest.mark.slow
def test_supported_networks_have_nothing_to_list():
    for name, net in NETS.items():
        assert jmlv.check(net(Weights(1)), X[0]) == [], name


def test_selection_that_only_looks_like_leaky_relu_is_refused():
    def f(x):
        return jnp.where(x >= 0.1, x, 0.5 * x).reshape(1, -1)

    assert jmlv.check(f, X[0])


def test_bad_functions_are_named():
    with pytest.raises(ValueError, match="do not depend"):
        jmlv.trace(lambda x: jnp.zeros((1, 3)), SHAPE)
    with pytest.raises(ValueError, match="one array of scores"):
        jmlv.trace(lambda x: (x, x), SHAPE)
    with pytest.raises(TypeError, match="module: expected"):
        jmlv.as_function(3)
    graph = jmlv.trace(lambda x: x.reshape(1, -1), SHAPE)
    with pytest.raises(ValueError, match="the graph takes images"):
        jmlv.trace(graph, (1, 2, 3))


def test_modules_are_read_in_evaluation_mode_and_left_alone():
    module = nnx.Sequential(nnx.Linear(3, 3, rngs=nnx.Rngs(0)), nnx.Dropout(0.5, rngs=nnx.Rngs(1)))
    module.train()
    graph = jmlv.trace(module, (3,))
    assert [eqn.primitive.name for eqn in graph.eqns] == ["dot_general", "add"]
    assert module.layers[1].deterministic is False


def test_values_print():
    graph = jmlv.trace(lambda x: x @ jnp.eye(3), (3,))
    assert "dot_general" in repr(graph) and repr(Variable(0, (2,))) == "v0:float32[2]"
    assert repr(Literal(0.0)) == "0.0" and lax.add_p.name == "add"


def _pool_of_relus(x):
    h = jax.nn.relu(jax.nn.relu(x - 0.5))
    h = jax.lax.reduce_window(h, -jnp.inf, jax.lax.max, (1, 1, 1, 1), (1, 1, 1, 1), "VALID")
    return (1 - jax.nn.relu(6 * h - 0.1)).reshape(-1, 1)


def test_fusing_twice_is_fusing_once():
    fused = fuse_relu_max_pool(jmlv.trace(_pool_of_relus, (1, 1, 1)))
    assert fuse_relu_max_pool(fused).structure == fused.structure


def test_intervals_of_a_twice_fused_pool_go_to_their_own_neurons():
    """The minimum is -1.9: a complete oracle that mixes neurons up proves it positive."""
    box = jmlv.Box.between(jnp.zeros((1, 1, 1)), jnp.ones((1, 1, 1)))
    for oracle in (jmlv.MILP(), jmlv.Bounds(), jmlv.BranchAndBound(jmlv.CROWN())):
        verdict = jmlv.verify(_pool_of_relus, box, jmlv.AboveThreshold(0), oracle)
        assert not verdict.robust and verdict.lower <= -1.9 + 1e-6


@pytest.mark.parametrize("slope", (0.01, 0.05, 0.15, 0.2, np.array([[0.01, 0.3]], np.float32)))
def test_leaky_relu_is_the_identity_above_zero_in_float64(slope):
    graph = jmlv.trace(lambda x: jax.nn.leaky_relu(x.reshape(-1, 2), slope), (2, 1, 1))
    x = np.random.default_rng(0).uniform(1, 300, (1, 2, 1, 1))
    with certificate_precision():
        found = graph.astype("float64")(jnp.asarray(x))
        np.testing.assert_allclose(found, x.reshape(1, 2), rtol=1e-15)


def test_copies_of_a_padding_value_that_is_computed_are_not_independent():
    pad = lambda x: jax.lax.pad(jnp.zeros((1, 2)), x.reshape(()), ((0, 0, 0), (1, 1, 0)))  # noqa: E731
    graph = jmlv.trace(pad, (1, 1, 1))
    assert graph.output not in independent(graph)


def divided_by_its_sum(shift):
    """``exp(x - shift)`` over its sum along the last axis, of 3 x 4 values."""

    def f(x):
        x = x.reshape(-1, 3, 4)
        p = jnp.exp(x - shift(x))
        return (p / p.sum(2, keepdims=True)).reshape(-1, 12)

    return f


OWN_MAXIMUM = {
    "alone": divided_by_its_sum(lambda x: x.max(2, keepdims=True)),
    "by JAX, two axes": lambda x: jax.nn.softmax(x, (1, 2)).reshape(-1, 12),
    "mapped": lambda x: jax.vmap(lambda y: jax.nn.softmax(y.T, 0))(x[..., 0]).reshape(-1, 12),
    "attention": lambda x: jax.nn.dot_product_attention(*[x.reshape(-1, 3, 2, 2)] * 3).reshape(
        -1, 12
    ),
}
OTHER_SHIFTS = {
    "none": lambda x: 0,
    "along another axis": lambda x: x.max(1, keepdims=True),
    "along more axes": lambda x: x.max((1, 2), keepdims=True),
    "of some entries": lambda x: x[..., :3].max(2, keepdims=True),
    "of other rows": lambda x: x[:, ::-1].max(2, keepdims=True),
    "in another order": lambda x: x.max(2, keepdims=True)[:, ::-1],
    "added": lambda x: -x.max(2, keepdims=True),
    "the minimum": lambda x: x.min(2, keepdims=True),
}


@pytest.mark.parametrize("name", OWN_MAXIMUM | OTHER_SHIFTS)
def test_softmax_is_safe_where_its_own_maximum_is_taken_off(name):
    f = OWN_MAXIMUM.get(name) or divided_by_its_sum(OTHER_SHIFTS[name])
    (found,) = (e for e in jmlv.trace(f, (3, 4, 1)).eqns if e.primitive.name == "softmax")
    assert ("within" in found.params) == (name in OTHER_SHIFTS)
