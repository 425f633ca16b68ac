"""Smooth activations: which are read, the lines around them, and every bound on small networks."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy import special
from zoo import FAST_BUILD, SHAPE, Weights, boxes, conv, max_pool, mostly_slow, rows_of

import jmlv
from jmlv.bounds import Interval
from jmlv.bounds.tangents import lines_at, smooth_interval, touching_lines
from jmlv.errors import UnsupportedOperation
from jmlv.graph.smooth import (
    CUBE,
    ELU,
    EXP,
    FINITE,
    GELU,
    GELU_TANH,
    GELU_TANH_64,
    GELU_TANH_CUBIC,
    GELU_TANH_CUBIC_64,
    GELU_TANH_SCALE,
    GELU_TANH_SCALE_64,
    HARD_SWISH,
    LOG,
    RECIPROCAL,
    RSQRT,
    SIGMOID,
    SILU,
    SMOOTH,
    SOFTPLUS,
    SQRT,
    SQUARE,
    TANH,
)
from jmlv.graph.trace import _examined
from jmlv.interop import write_onnx
from jmlv.numerics import certificate_precision

ACTIVATIONS = {
    SIGMOID: jax.nn.sigmoid,
    TANH: jnp.tanh,
    SOFTPLUS: jax.nn.softplus,
    GELU: partial(jax.nn.gelu, approximate=False),
    SILU: jax.nn.silu,
    GELU_TANH: jax.nn.gelu,
    ELU: jax.nn.elu,
    SQUARE: jnp.square,
    HARD_SWISH: jax.nn.hard_swish,
}


# ------------------------------------------------------------------------------ what is recognised


def written_out(x):
    return 0.5 * x * (1 + jnp.tanh(np.sqrt(2 / np.pi) * x * (1 + 0.044715 * x * x)))


READ = {
    "linen's and NNX's GELU": (nnx.gelu, GELU_TANH),
    "GELU written out": (written_out, GELU_TANH),
    "GELU of a scaled input": (lambda x: jax.nn.gelu((x - 0.3) / -0.7), GELU_TANH),
    "GELU by erf": (lambda x: x * 0.5 * (1 + jax.lax.erf(x / np.sqrt(2))), GELU),
    "the other half": (lambda x: x * 0.5 * jax.lax.erfc(x / np.sqrt(2)), GELU),
    "quick GELU": (lambda x: x * jax.nn.sigmoid(1.702 * x), SILU),
    "SiLU by tanh": (lambda x: x - x * (jnp.tanh(-x / 2) + 1) / 2, SILU),
    "sigmoid written out": (lambda x: 1 / (1 + jnp.exp(-x)), SIGMOID),
    "SiLU written out": (lambda x: x / (jnp.exp(-1.5 * x) + 1), SILU),
    "log-sigmoid": (jax.nn.log_sigmoid, SOFTPLUS),
    "ELU, turned round": (lambda x: jnp.where(x <= 0, jnp.expm1(x), x), ELU),
    "CELU": (partial(jax.nn.celu, alpha=0.7), ELU),
    "CELU, its terms turned": (
        lambda x: 2 * jnp.expm1(jnp.minimum(x, 0) / 2) + jax.nn.relu(x),
        ELU,
    ),
    "ELU, flat": (partial(jax.nn.elu, alpha=0.3), ELU),
    "a power": (lambda x: x**2, SQUARE),
    "a product with itself": (lambda x: (2 * x) * (x / 3), SQUARE),
    "hard swish of ONNX": (lambda x: x * jnp.clip(x * (1 / 6) + 0.5, 0, 1), HARD_SWISH),
    "hard swish, scaled": (lambda x: (-x * jnp.minimum(jax.nn.relu(2 * x + 1), 2)) * 3, HARD_SWISH),
}


@pytest.mark.parametrize("name", READ)
def test_one_operation_however_it_is_written(name):
    function, expected = READ[name]
    x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 3, 1, 1)) * 3, "float32")
    graph = jmlv.trace(lambda x: function(x.reshape(x.shape[0], -1)), x.shape[1:])
    assert [e.primitive for e in graph.eqns if e.primitive in SMOOTH] == [expected]
    np.testing.assert_allclose(graph.scores(x), function(x)[..., 0, 0], rtol=1e-5, atol=1e-6)


def test_gelu_of_a_float64_network():
    """Its constants are those of float64, which are others than float32's."""
    with jax.enable_x64(True):
        weights = jnp.asarray(np.random.default_rng(0).normal(size=(3, 4)))
        f = lambda x: jax.nn.gelu(x.reshape(x.shape[0], -1) @ weights)  # noqa: E731
        graph = jmlv.trace(f, (3, 1, 1))
        x = np.random.default_rng(1).normal(size=(9, 3, 1, 1)) * 2
        np.testing.assert_allclose(graph.scores(x), f(x), rtol=1e-13, atol=1e-15)
    assert GELU_TANH_64 in {e.primitive for e in graph.eqns}


OTHERS = {
    "another coefficient": lambda x: 0.5 * x * (1 + jnp.tanh(0.7978845834 * (x + 0.05 * x**3))),
    "another power": lambda x: x * jax.nn.sigmoid(x**3),
    "half a gate": lambda x: x * (0.4 + 0.5 * jnp.tanh(x)),
    "no gate": lambda x: x * jax.lax.erf(x),
    "a gate that is shifted": lambda x: x * jax.nn.sigmoid(x + 1),
    "the gate of another": lambda x: x * jax.nn.sigmoid(x[:, ::-1]),
    "one gate for all": lambda x: x * jax.nn.sigmoid(x[:, :1]),
    "a cube": lambda x: x * x * x,
    "a product of two": lambda x: x * x[:, ::-1],
    "a gate that is a step": lambda x: x * jax.nn.sigmoid(1e9 * x),
    "half a ramp": lambda x: x * jnp.clip(x / 6 + 0.4, 0, 1),
    "an open ramp": lambda x: x * jax.nn.relu(x / 6 + 0.5),
    "exp alone": lambda x: jnp.expm1(x),
    "a step": lambda x: jnp.where(x > 0, x, jnp.expm1(x) + 0.1),
    "another knee": lambda x: jnp.where(x > 0.1, x, jnp.expm1(x)),
    "mish": jax.nn.mish,
    "a sum in logarithms": lambda x: jnp.logaddexp(x, 1.0),
}


GATED = {GELU, GELU_TANH, SILU, HARD_SWISH, ELU}


@pytest.mark.parametrize("name", OTHERS)
def test_what_only_resembles_them_is_not_taken_for_them(name):
    graph, _ = _examined(lambda x: OTHERS[name](x.reshape(x.shape[0], -1)), (3, 1, 1), None)
    assert not GATED & {eqn.primitive for eqn in graph.eqns}


# --------------------------------------------------------------------------------------- the lines


PLAIN = {
    EXP: np.exp,
    FINITE: lambda x: x,
    LOG: np.log,
    SQRT: np.sqrt,
    RECIPROCAL: lambda x: 1 / x,
    RSQRT: lambda x: 1 / np.sqrt(x),
}


def reference(f, x):
    """The function in extended precision (the error function in float64)."""
    x = np.asarray(x, np.longdouble)
    tail = np.exp(-np.abs(x))
    if f is SIGMOID:
        return np.where(x >= 0, 1, tail) / (1 + tail)
    if f is TANH:
        return np.tanh(x)
    if f is SOFTPLUS:
        return np.maximum(x, 0) + np.log1p(tail)
    if f is ELU:
        return np.where(x > 0, x, np.expm1(np.minimum(x, 0)))
    if f is SQUARE:
        return x * x
    if f is CUBE:
        return x**3
    if f in PLAIN:
        with np.errstate(all="ignore"):  # what it is not defined for is looked at by the caller
            return PLAIN[f](x)
    if f is HARD_SWISH:
        return x * np.clip(x / 6 + np.longdouble(0.5), 0, 1)
    if f is GELU:
        return x * special.erfc(-x.astype(float)) / 2
    scale, cubic = GELU_TANH_SCALE, GELU_TANH_CUBIC
    if f is GELU_TANH_64:
        scale, cubic = GELU_TANH_SCALE_64, GELU_TANH_CUBIC_64
    inner = 2 * np.longdouble(scale) * (x + np.longdouble(cubic) * x**3)
    return x * reference(SIGMOID, x if f is SILU else inner)


def intervals(count, dtype, seed=0):
    """Tiny, huge and degenerate intervals around everything from zero to saturation."""
    rng = np.random.default_rng(seed)
    centre = rng.normal(size=count) * rng.choice([0.01, 0.5, 2, 5, 30, 1e4], count)
    width = np.abs(rng.normal(size=count)) * rng.choice([0, 1e-9, 1e-4, 0.1, 1, 4, 20, 1e4], count)
    share = rng.random(count)
    return (centre - share * width).astype(dtype), (centre + (1 - share) * width).astype(dtype)


@partial(jax.jit, static_argnums=0, compiler_options=FAST_BUILD)
def everything(functions, lower, upper, t):
    """The range, and the lines of least area and of any numbers, for each function."""
    found = []
    for f in functions:
        family = touching_lines(f, Interval(lower, upper))
        lines = [lines_at(f, family, number) for number in (family.start, t)]
        found.append((smooth_interval(f, Interval(lower, upper)), lines))
    return found


HUGE = 1e30
"""What is larger than this, or near it, overflows in float32; it may have no finite bound."""


def least_slack(f, lower, upper, found, points=60):
    """By how much the range and the lines clear the function: negative where they cut it."""
    bounds, lines = found
    known = np.asarray(f.defined(lower, upper))
    for array in (bounds.lower, bounds.upper, *(v for line in lines for v in line)):
        assert np.isnan(np.asarray(array)[..., ~known]).all()  # no number where it has no values
    known &= reference(f, np.stack([lower, upper])).max(0) < HUGE
    lower, upper, (bounds, lines) = jax.tree.map(
        lambda v: np.asarray(v)[..., known], (lower, upper, found)
    )
    t = np.linspace(0, 1, points).astype(np.longdouble)[:, None]
    lower, upper = lower.astype(np.longdouble), upper.astype(np.longdouble)
    x = np.concatenate(
        [lower + t * (upper - lower), *(np.clip(k, lower, upper)[None] for k in f.knots)]
    )
    y = reference(f, x)
    clearances = [y - bounds.lower, bounds.upper - y]
    for slope, constant in lines:
        below, above = slope[:, None].astype(np.longdouble) * x + constant[:, None]
        clearances += [y - below, above - y]
    return min(c.min() for c in clearances)


COUNT = 3000


def found_by(functions, dtype, few=None):
    """:func:`everything` on a few intervals, or on random ones; always as many, to compile once."""
    lower, upper = (np.resize(v, COUNT).astype(dtype) for v in few or intervals(COUNT, dtype))
    t = np.random.default_rng(1).random((2, COUNT)).astype(dtype)
    t[:, ::3] = np.round(t[:, ::3])
    with jax.enable_x64(dtype == "float64"):
        found = jax.tree.map(np.asarray, everything(functions, lower, upper, t))
    assert found[0][0].lower.dtype == dtype
    return lower, upper, found


@pytest.mark.parametrize("dtype", mostly_slow(["float32", "float64"], "float32"))
def test_lines_and_ranges_enclose(dtype):
    """Without a tolerance: in extended precision, for the numbers that they are."""
    lower, upper, found = found_by(SMOOTH, dtype)
    for f, own in zip(SMOOTH, found):
        assert least_slack(f, lower, upper, own) >= 0, f


BROKEN = {
    "an inflection that is not there": dataclasses.replace(TANH, knots=(0.8,)),
    "bends taken for their opposites": dataclasses.replace(SIGMOID, bends=(-1, 1)),
    "a middle part that reaches too far": dataclasses.replace(SILU, knots=(-3.0, 3.0)),
    "a minimum forgotten": dataclasses.replace(SILU, minimum=None),
    "convex beyond its knots": dataclasses.replace(HARD_SWISH, knots=(), bends=(1,)),
    "a square that bends down": dataclasses.replace(SQUARE, bends=(-1,)),
}


def test_broken_functions_are_caught():
    functions = tuple(BROKEN.values())
    lower, upper, found = found_by(functions, "float64")
    for (name, f), own in zip(BROKEN.items(), found):
        true = SMOOTH[[g.name for g in SMOOTH].index(f.name)]
        assert least_slack(true, lower, upper, own) < -1e-6, name


def test_lines_are_the_envelopes_in_the_middle():
    """No line is higher there than the lowest chord between sampled points on its two sides."""
    lower, upper = np.array(
        [(-3, -1), (-4, 0.5), (-1, 2), (-0.5, 7), (0.2, 3), (-6, 5), (2, 4.0)]
    ).T
    _, _, found = found_by(SMOOTH, "float64", few=(lower, upper))
    for f, (_, ((slope, constant), _)) in zip(SMOOTH, found):
        for i, (l, u) in enumerate(zip(lower, upper)):
            if not f.defined(l, u):
                continue
            x = np.linspace(l, u, 401)
            y, m = reference(f, x).astype(float), x[200]
            left, right = np.s_[:200, None], np.s_[None, 201:]
            share = (m - x[left]) / (x[right] - x[left])
            chords = y[left] + share * (y[right] - y[left])
            lowest, highest = min(chords.min(), y[200]), max(chords.max(), y[200])
            here = slope[:, i] * m + constant[:, i]
            np.testing.assert_allclose(
                here,
                [lowest, highest],
                atol=2e-4 * max(1, np.abs(y).max() / 50),
                err_msg=f"{f} {l} {u}",
            )


def test_derivatives_of_the_lines():
    """Against differences, at the numbers that lines of least area have and at others."""
    lower, upper = np.array(
        [(-3, -1.1), (-4, 0.5), (-0.9, 2.2), (-0.5, 7), (0.2, 3), (-6, 5), (3, 4.0)]
    ).T
    functions = (SIGMOID, SILU)

    def total(f, ends):
        family = touching_lines(f, Interval(*ends))
        t = jnp.full((2, 7), 0.7)
        found = [lines_at(f, family, family.start), lines_at(f, family, t)]
        found.append(smooth_interval(f, Interval(*ends)))
        return sum(jnp.vdot(jnp.cos(jnp.arange(v.size)), v) for v in jax.tree.leaves(found))

    @partial(jax.jit, compiler_options=FAST_BUILD)
    def differentiated(ends, direction):
        along = [jax.jvp(partial(total, f), (ends,), (direction,)) for f in functions]
        return jnp.array(along).T

    step = 1e-6
    with jax.enable_x64(True):
        for direction in np.random.default_rng(2).normal(size=(3, 2, 7)):
            ends = np.stack([lower, upper])
            ahead, here, behind = (
                differentiated(ends + s * direction, direction) for s in (step, 0, -step)
            )
            difference = (ahead[0] - behind[0]) / (2 * step)
            np.testing.assert_allclose(here[1], difference, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("end", [np.nan, np.inf])
def test_a_failed_bound_is_seen(end):
    _, _, found = found_by(SMOOTH, "float32", few=([0.5, 0.5], [end, 2.0]))
    for bounds, lines in found:
        for slope, constant in lines:
            assert np.isnan(slope[:, 0]).all() and np.isnan(constant[:, 0]).all()
            assert np.isfinite(slope[:, 1]).all() and np.isfinite(constant[:, 1]).all()
        assert np.isnan(bounds.lower[0]) or not np.isnan(end)
        assert np.isfinite(bounds.lower[1])


# ------------------------------------------------------------------------------- bounds on networks


def dense(activation):
    w = Weights(2)
    a, b, head = 2 * w(72, 8), w(8), w.head(8)
    return lambda x: head(activation(x.reshape(x.shape[0], -1) @ a + b))


def convolutional():
    """GELU on a convolution, a max pool, a residual branch with tanh."""
    w = Weights(3)
    a, b, head = w(3, 3, 2, 2), w(3, 3, 2, 2), w.head(18)

    def f(x):
        h = max_pool(jax.nn.gelu(conv((x - 0.4) / 0.3, a)), 2, 2)
        return head(h + jnp.tanh(conv(h, b)))

    return f


CHEAP = (jmlv.IBP(), jmlv.CROWNIBP(), jmlv.CROWN(chunk=16))
ALPHA = jmlv.AlphaCROWN(steps=6, intermediate_steps=3, chunk=16)
CASES = {f.name: (dense(activation), CHEAP) for f, activation in ACTIVATIONS.items()}
CASES["tanh"] = (CASES["tanh"][0], (*CHEAP, ALPHA))
SHARED = dataclasses.replace(ALPHA, learning_rate=0.1, intermediate="shared")
CASES["convolutional"] = (convolutional(), (CHEAP[0], CHEAP[2], SHARED))


@partial(jax.jit, static_argnums=0, compiler_options=FAST_BUILD)
def bounds_and_values(methods, graph, low, high, coefficients, offsets, t):
    """Every bound on each box, and the rows at points in it: sampled, and on a way down each row."""

    def one(low, high):
        def rows(x):
            return coefficients @ graph(x[None])[0] + offsets

        def down(x, _):
            slopes = jax.vmap(lambda c, x: jax.grad(lambda x: c @ graph(x[None])[0])(x))
            return jnp.clip(
                x - 0.2 * (high - low) * jnp.sign(slopes(coefficients, x)), low, high
            ), x

        start = jnp.broadcast_to((low + high) / 2, (len(coefficients), *low.shape))
        _, path = jax.lax.scan(down, start, None, 12)
        points = jnp.concatenate([low + t * (high - low), path.reshape(-1, *low.shape)])
        bounds = [m.rows(graph, low, high, coefficients, offsets) for m in methods]
        return bounds, jax.vmap(rows)(points)

    return jax.vmap(one)(low, high)


@pytest.mark.parametrize("name", mostly_slow(CASES, "gelu_tanh", "square"))
def test_bounds_hold(name):
    """On twelve boxes; every method at least as tight as intervals, alpha-CROWN as CROWN."""
    net, methods = CASES[name]
    in_float64 = name == "gelu_tanh"
    rng, dtype = np.random.default_rng(0), "float64" if in_float64 else "float32"
    t = rng.random((32, *SHAPE))
    arguments = (*boxes(rng, 12), *rows_of(rng), t)
    graph = jmlv.trace(net, SHAPE)
    with jax.enable_x64(in_float64):
        found = bounds_and_values(
            methods, graph.astype(dtype), *(jnp.asarray(a, dtype) for a in arguments)
        )
        bounds, values = jax.tree.map(np.asarray, found)
    slack = (1e-12 if in_float64 else 1e-5) * (1 + np.abs(values).max())
    assert values.dtype == dtype
    for bound in bounds:
        assert np.all(bound.lower[:, None] <= values + slack)
        assert np.all(bound.upper[:, None] >= values - slack)
        np.testing.assert_allclose(bound.lower[0], values[0].min(0), atol=20 * slack)
    with_alpha = isinstance(methods[-1], jmlv.AlphaCROWN)
    pairs = [(bounds[0], b) for b in bounds[1:]] + (
        [(bounds[-2], bounds[-1])] if with_alpha else []
    )
    for loose, tight in pairs:
        assert np.all(tight.lower >= loose.lower - slack)
        assert np.all(tight.upper <= loose.upper + slack)
    if name == "tanh":
        assert np.sum(bounds[-1].lower - bounds[-2].lower) > 0.05


@pytest.mark.slow
def test_gradient_with_respect_to_epsilon():
    rng = np.random.default_rng(5)
    x, direction = rng.random(SHAPE), rng.random(SHAPE)
    graph = jmlv.trace(dense(jnp.tanh), SHAPE)
    with certificate_precision():
        graph, coefficients = graph.astype("float64"), jnp.asarray(rng.normal(size=(1, 3)))

        def lower(epsilon):
            box = x - epsilon, x + epsilon
            return jmlv.CROWN(chunk=16).rows(graph, *box, coefficients, jnp.zeros(1)).lower[0]

        epsilon, h = jnp.full(SHAPE, 0.05), 1e-6
        value = jax.jit(jax.value_and_grad(lower), compiler_options=FAST_BUILD)
        slope = (value(epsilon + h * direction)[0] - value(epsilon - h * direction)[0]) / (2 * h)
        np.testing.assert_allclose(jnp.vdot(value(epsilon)[1], direction), slope, rtol=1e-5)


# ------------------------------------------------------------------------- oracles and other formats


def tilted(x):
    """Two scores with two kinds of smooth activations."""
    x = x.reshape(x.shape[0], -1)
    return jnp.stack([jax.nn.sigmoid(x[:, 0] + 0.6), jnp.tanh(x[:, 1])], -1)


def box(radius):
    return jmlv.Box.around(jnp.full((1, 2, 1), 0.5), radius)


@pytest.mark.parametrize("oracle", [jmlv.MILP(), jmlv.MILP(weakest_point=True)])
def test_exact_oracles_refuse(oracle):
    with pytest.raises(UnsupportedOperation, match="sigmoid, tanh"):
        jmlv.verify(tilted, box(0.01), jmlv.InTopK(0, 1), oracle)


def test_cascade_leaves_out_what_cannot_be_asked():
    property = jmlv.InTopK(0, 1)
    assert jmlv.verify(tilted, box(0.01), property).robust
    broken = jmlv.verify(tilted, box(0.4), property)
    assert broken.status.name == "NOT_ROBUST"
    only = jmlv.verify(tilted, box(0.01), property, jmlv.Cascade((jmlv.MILP(),)))
    assert only.status.name == "UNKNOWN" and "sigmoid, tanh" in only.reason
    assert only.stats["asked"] == ()


def test_written_as_onnx(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")

    def net(x):
        x = 6 * x.reshape(x.shape[0], -1) - 3
        return jnp.concatenate([activation(x) for activation in ACTIVATIONS.values()], -1)

    path = tmp_path / "net.onnx"
    write_onnx(net, (2, 3, 1), path)
    x = np.random.default_rng(0).random((1, 2, 3, 1)).astype("float32")
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (scores,) = session.run(None, {session.get_inputs()[0].name: x})
    np.testing.assert_allclose(scores, net(jnp.asarray(x)), rtol=1e-5, atol=1e-5)
