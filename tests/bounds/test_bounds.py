"""Soundness of every bound: 13 networks x 18 boxes, points sampled, corners and descended to."""

import dataclasses
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from zoo import BOXES, FAST_BUILD, LABELS, NETS, SHAPE, Weights, boxes, rows_of

from jmlv.bounds import CROWN, CROWNIBP, IBP, AlphaCROWN
from jmlv.graph import Graph, trace
from jmlv.numerics import certificate_precision

METHODS = (IBP(), CROWNIBP(), CROWN(chunk=7), AlphaCROWN(steps=3, intermediate_steps=3, chunk=7))
WITHOUT_PLANES = (*METHODS[:-1], dataclasses.replace(METHODS[-1], planes=False))
"""Planes follow epsilon, where the gradient holds them fixed, and the signs of rounded numbers; other
choices are vertices."""
WITH_ALPHA = ("dense", "conv", "pool", "padded_pools", "residual", "odds_and_ends", "clipped")
"""Between them these nets have every operation that alpha-CROWN treats in a way of its own."""


@partial(jax.jit, static_argnums=0, compiler_options=FAST_BUILD)
def bounds_and_values(methods, graph, low, high, coefficients, offsets, t):
    """Every bound on each box, and the rows at points in it: sampled, corners, and descended to."""

    def one(low, high):
        def rows(x):
            return coefficients @ graph(x[None])[0] + offsets

        slopes = jax.jacrev(rows)((low + high) / 2)
        down, up = jnp.where(slopes > 0, low, high), jnp.where(slopes > 0, high, low)
        points = jnp.concatenate([low + t * (high - low), down, up])
        bounds = [m.rows(graph, low, high, coefficients, offsets) for m in methods]
        return bounds, jax.vmap(rows)(points)

    return jax.vmap(one)(low, high)


IN_FLOAT64 = ("conv", "pool", "residual", "odds_and_ends")


DEAR = {"clipped", "padded_pools", "linen", "nnx", "batch_groups", "conv", "residual", "rearranged"}
"""Nets whose operations others, :mod:`test_maximum`, or this module in float64 have too."""


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n in DEAR else n for n in NETS]
)
def test_bounds_hold(name):
    """Every net on 18 boxes, in float32."""
    graph, arguments = _case(name)
    methods = METHODS if name in WITH_ALPHA else METHODS[:-1]
    _check(bounds_and_values(methods, graph, *(jnp.asarray(a, "float32") for a in arguments)), 1e-5)


@pytest.mark.parametrize("name", IN_FLOAT64)
def test_bounds_hold_in_float64(name):
    graph, arguments = _case(name)
    with certificate_precision():
        methods = METHODS if name == "pool" else METHODS[:-1]
        _check(
            bounds_and_values(methods, graph.astype("float64"), *map(jnp.asarray, arguments)), 1e-9
        )


@cache
def _graph(name):
    return trace(NETS[name](Weights(1)), SHAPE)


def _case(name):
    rng = np.random.default_rng(len(name))
    t = rng.random((48, *SHAPE))
    t[:24] = np.round(t[:24])
    return _graph(name), (*boxes(rng, BOXES), *rows_of(rng), t)


def _check(found, tolerance):
    found, values = jax.tree.map(np.asarray, found)
    slack = tolerance * (1 + np.abs(values).max())
    assert values.dtype == (np.float32 if tolerance > 1e-8 else np.float64)
    for bound in found:
        assert np.all(bound.lower[:, None] <= values + slack)
        assert np.all(bound.upper[:, None] >= values - slack)
    ibp, *tighter = found
    for loose, tight in zip(tighter[1:], tighter[2:]):  # CROWN, alpha-CROWN
        assert np.all(tight.lower >= loose.lower - slack)
        assert np.all(tight.upper <= loose.upper + slack)
    for bound in tighter:
        assert np.all(bound.lower >= ibp.lower - slack) and np.all(bound.upper <= ibp.upper + slack)
        np.testing.assert_allclose(bound.lower[0], values[0].min(0), atol=10 * slack)


# --------------------------------------------------------------------------- transformations


@pytest.fixture(scope="module")
def pooled_net():
    return _graph("pool")


@pytest.mark.parametrize("method", WITHOUT_PLANES, ids=lambda m: m.name)
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


@pytest.mark.parametrize("method", WITHOUT_PLANES, ids=lambda m: m.name)
def test_vmap_is_a_loop_and_jit_is_eager(method):
    rng = np.random.default_rng(6)
    graph = trace(NETS["dense"](Weights(3)), SHAPE)
    low, high = (jnp.asarray(side[-3:], "float32") for side in boxes(rng, 6))
    coefficients = jnp.asarray(rng.normal(size=(3, 2, LABELS)), "float32")

    def bound(low, high, coefficients):
        return method.rows(graph, low, high, coefficients, jnp.zeros(2))

    batched = jax.jit(jax.vmap(bound))(low, high, coefficients)
    single = jax.jit(bound)
    for i in range(3):
        for a, b in zip(batched, single(low[i], high[i], coefficients[i])):
            np.testing.assert_allclose(a[i], b, rtol=1e-4, atol=1e-5)
    for a, b in zip(bound(low[0], high[0], coefficients[0]), batched):
        np.testing.assert_allclose(a, b[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
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


@pytest.mark.parametrize("method", METHODS[:2], ids=lambda m: m.name)
def test_the_box_decides_the_precision(method, pooled_net):
    with certificate_precision():
        low, high = jnp.zeros(SHAPE, "float64"), jnp.ones(SHAPE, "float64")
        rows = partial(method.rows, pooled_net)
        found = jax.eval_shape(rows, low, high, jnp.eye(3), jnp.zeros(3))
    assert {str(side.dtype) for side in found} == {"float64"}
