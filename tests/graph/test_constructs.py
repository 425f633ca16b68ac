"""The graph against the function on everything that users write, in both precisions."""

import functools
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from constructs import GROUPS, REFUSED, SHAPE, scores
from zoo import FAST_BUILD

import jmlv
from jmlv.graph.trace import _examined

TRACE = sys.modules["jmlv.graph.trace"]

SLACK = {"float32": 1e-5, "float64": 1e-13}


def _points(dtype):
    """Between the corners of the unit cube, at some of them, and beyond."""
    rng = np.random.default_rng(0)
    ends = np.stack([np.zeros(SHAPE), np.ones(SHAPE), *(rng.random((6, *SHAPE)) > 0.5)])
    inside, around = rng.random((16, *SHAPE)), rng.normal(size=(8, *SHAPE))
    return np.concatenate([inside, ends, around]).astype(dtype)


def _graphs(group):
    """Without the comparison that tracing makes, so that one program compares them all."""
    found = {}
    for name, f in GROUPS[group].items():
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(TRACE, "require_same_function", lambda *_: None)
            graph, problems = _examined(scores(f), SHAPE, None)
        assert not problems, (name, problems)
        found[name] = graph
    return found


@functools.partial(jax.jit, static_argnums=(0, 1), compiler_options=FAST_BUILD)
def _both(group, names, graphs, x):
    """Functions and graphs at the points, each in its own precision, and intervals around them."""

    def one(name, graph):
        points = x.astype(graph.dtype)
        low, high = points.min(0), points.max(0)
        eye = jnp.eye(graph.label_count, dtype=graph.dtype)
        found = jmlv.IBP().rows(graph, low, high, eye, eye[0] * 0)
        return scores(GROUPS[group][name])(points), graph.scores(points), found

    return [one(*pair) for pair in zip(names, graphs)]


WIDE = [pytest.param(group, "float64", marks=pytest.mark.slow) for group in GROUPS]


@pytest.mark.parametrize(
    "group, dtype",
    [*((group, "float32") for group in GROUPS), *WIDE],
)
def test_graph_computes_what_users_write(group, dtype):
    """Entry by entry, relative to the largest value of each score."""
    if dtype == "float64":
        jax.clear_caches()  # JAX takes indices that it has converted in the other mode for its own
    with jax.enable_x64(dtype == "float64"):
        graphs = _graphs(group)
        found = _both(group, tuple(graphs), list(graphs.values()), _points(dtype))
        found = jax.tree.map(np.asarray, found)
    assert dtype in {graph.dtype for graph in graphs.values()}
    for (name, graph), (expected, read, bounds) in zip(graphs.items(), found):
        expected, read = np.asarray(expected), np.asarray(read)
        size = np.abs(expected).max(0) + 1e-3 * np.abs(expected).max()
        assert read.dtype == graph.dtype and np.isfinite(expected).all(), name
        slack = SLACK[min(graph.dtype, str(expected.dtype))] * size
        assert np.all(np.abs(read - expected) <= slack), (name, np.abs(read - expected).max())
        assert np.all(bounds.lower <= expected.min(0) + 10 * slack), name
        assert np.all(bounds.upper >= expected.max(0) - 10 * slack), name


def test_negative_padding_of_a_convolution_is_cut_off():
    """XLA on CPUs reads beyond the array there, so the function itself cannot be compared."""
    kernel, numbers = jnp.ones((2, 2, 2, 1)), ("NHWC", "HWIO", "NHWC")

    def f(x, pads, dilation):
        z = jax.lax.conv_general_dilated(
            x, kernel, (1, 1), pads, dilation, dimension_numbers=numbers
        )
        return z.reshape(x.shape[0], -1)

    x = jnp.asarray(_points("float32"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TRACE, "require_same_function", lambda *_: None)
        cut = jmlv.trace(lambda x: f(x, ((-1, 1), (0, -2)), (1, 1)), SHAPE)
        holes = jmlv.trace(lambda x: f(x, ((-3, 1), (0, 0)), (2, 1)), SHAPE)
    np.testing.assert_allclose(cut.scores(x), f(x[:, 1:, :2], ((0, 1), (0, 0)), (1, 1)), rtol=1e-5)
    np.testing.assert_allclose(
        holes.scores(x), f(x[:, 2:], ((1, 1), (0, 0)), (2, 1)), rtol=1e-5, atol=1e-6
    )


def test_there_are_enough_of_them():
    assert sum(map(len, GROUPS.values())) + len(REFUSED) >= 250


@pytest.mark.parametrize("name", REFUSED)
def test_refused_by_name(name):
    f, named = REFUSED[name]
    problems = jmlv.check(scores(f), np.zeros(SHAPE, np.float32))
    assert any(named in p for p in problems), problems
