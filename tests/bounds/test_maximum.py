"""``max(x, c)`` with any constant: exact values, lines with their knee at ``c``, complete oracles."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jmlv
from jmlv.bounds.lines import admissible, floor_constant, lines_of, undecided
from jmlv.bounds.method import Interval
from jmlv.graph.operations import is_affine, is_maximum, is_relu

LARGEST = float(jnp.finfo(jnp.float32).max)
MIXED = np.array([[0.3, -np.inf, -1e9, -0.2, 0.0, -LARGEST]], np.float32)

CLIPPED = {
    "maximum": lambda y: jnp.maximum(y, 0.3),
    "maximum, first": lambda y: jnp.maximum(-0.4, y),
    "maximum, array": lambda y: jnp.maximum(y, MIXED),
    "minimum": lambda y: jnp.minimum(y, -0.1),
    "minimum, array": lambda y: jnp.minimum(-MIXED, y),
    "clip": lambda y: jnp.clip(y, -0.5, 0.5),
    "clip, crossed": lambda y: jnp.clip(y, 0.5, -0.5),
    "clip, wide": lambda y: jnp.clip(y, -1e9, 1e9),
    "clip, 1e5": lambda y: jnp.clip(y, -1e5, 1e5),
    "clip, finfo": lambda y: jnp.clip(y, -LARGEST, LARGEST),
    "clip, infinite": lambda y: jnp.clip(y, -jnp.inf, jnp.inf),
    "clamp": lambda y: jax.lax.clamp(-1e8, y, 0.25),
    "relu6": lambda y: jax.nn.relu6(9 * y),
    "hard tanh": lambda y: jax.nn.hard_tanh(3 * y),
    "leaky, other way": lambda y: jnp.where(y < 0, 1e6 * y, y),
    "leaky, above": lambda y: jnp.where(y <= 0, y, 1e6 * y),
    "absolute value": lambda y: jnp.abs(y),
    "two values": lambda y: jnp.maximum(y, 1e7 * y[:, ::-1]),
    "least": lambda y: jnp.minimum(y[:, :3], 1e7 * y[:, 3:]),
    "leaky, steep": lambda y: jax.nn.leaky_relu(y, 1e6),
    "leaky, turned": lambda y: jax.nn.leaky_relu(y, -1e6),
    "leaky, one": lambda y: jax.nn.leaky_relu(y, 1.0),
    "leaky, array": lambda y: jax.nn.leaky_relu(y, np.float32([[0, 0.1, 1, 1e6, -1e6, -0.5]])),
}
WEIGHTS = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)


@pytest.mark.parametrize("name", CLIPPED)
def test_values_and_bounds(name):
    """Entry by entry: each score to its own rounding, each bound around its own samples."""

    def f(x):
        return CLIPPED[name](x.reshape(-1, 4) @ WEIGHTS)

    graph = jmlv.trace(f, (2, 2, 1))
    rng = np.random.default_rng(1)
    x = rng.uniform(-1, 1, (200, 2, 2, 1)).astype(np.float32)
    expected = np.asarray(f(jnp.asarray(x)))
    np.testing.assert_allclose(graph.scores(x), expected, rtol=1e-5, atol=1e-6)
    rows, offsets = (
        np.eye(graph.label_count, dtype="float32"),
        np.zeros(graph.label_count, "float32"),
    )
    low, high = np.full((2, 2, 1), -0.6, np.float32), np.full((2, 2, 1), 0.6, np.float32)
    inside = np.asarray(f(jnp.asarray(np.clip(x, low, high))))
    methods = jmlv.IBP(), jmlv.CROWNIBP(), jmlv.CROWN()
    found = jax.jit(lambda g: [m.rows(g, low, high, rows, offsets) for m in methods])(graph)
    slack = 1e-5 * (1 + np.abs(inside).max(0))
    for bounds in found:
        assert np.all(bounds.lower <= inside.min(0) + slack), name
        assert np.all(bounds.upper >= inside.max(0) - slack), name
    # Where nothing is cut off, the bound is that of the matrix product: nothing has cancelled.
    loss = inside.min(0) - np.asarray(found[2].lower)
    assert np.all(loss <= 2.5 * np.abs(inside).max(0) + 1e-4), (name, loss)


@pytest.mark.parametrize("knee", (0.0, 0.4, -1.5, 3.0))
def test_lines_touch_at_the_knee(knee):
    """Every admissible slope is below, the chord above, both exact where the knee is outside."""
    knees = np.full((1, 300), knee, np.float32)
    knees[0, :2] = -np.inf if knee else 0.0
    f = lambda x: jnp.maximum(x.reshape(-1, 300), knees)  # noqa: E731
    graph = jmlv.trace(f, (300, 1, 1))
    (eqn,) = (e for e in graph.eqns if not is_affine(graph, e))
    rng = np.random.default_rng(2)
    low = np.float32(rng.uniform(-3, 3, (1, 300)))
    high = np.float32(low + rng.exponential(size=low.shape))
    interval = Interval(jnp.asarray(low), jnp.asarray(high))
    lines = lines_of(graph, eqn, [interval])
    assert is_maximum(eqn) and is_relu(eqn) == (lines.floor is None)
    t = np.linspace(0, 1, 33, dtype=np.float32)[:, None, None]
    x = low + t * (high - low)
    y = np.maximum(x, knees)
    upper = np.asarray(lines.upper_weights[0] * x + lines.upper_constant)
    assert np.all(upper >= y - 1e-5)
    open_ = np.asarray(undecided(graph, eqn, interval))
    np.testing.assert_allclose(upper[:, ~open_], y[:, ~open_], atol=1e-6)
    own = lines.lower_weights[None], lines.upper_weights[None]
    for slope in (None, 0.0, 0.3, 1.0):
        wanted = jnp.full((1, 1, *low.shape), slope or 0.0)
        low_w = own[0][0] if slope is None else admissible(eqn, wanted, *own)[0]
        constant = 0 if lines.floor is None else floor_constant(lines, low_w, 0)
        lower = np.asarray(low_w[0] * x + lines.lower_constant + constant)
        assert np.all(lower <= y + 1e-5)
        if slope is None:
            np.testing.assert_allclose(lower[:, ~open_], y[:, ~open_], atol=1e-6)
        at_knee = (low_w[0] - 1) * knees + lines.lower_constant + constant
        np.testing.assert_allclose(at_knee[open_], 0, atol=1e-6)


def test_lines_are_those_of_a_shifted_relu():
    """As tight as ``c + relu(x - c)``, which is what a bound would rest on otherwise."""
    rng = np.random.default_rng(3)
    w, v = rng.normal(size=(4, 5)).astype("f4"), rng.normal(size=(5, 3)).astype("f4")
    c = rng.normal(size=5).astype("f4")
    box = jmlv.Box.between(jnp.zeros((2, 2, 1)), jnp.ones((2, 2, 1)))
    for method in (jmlv.CROWNIBP(), jmlv.CROWN(), jmlv.AlphaCROWN(steps=3)):
        one, other = (
            jmlv.bound(lambda x, g=g: g(x.reshape(-1, 4) @ w) @ v, box, jmlv.InTopK(0, 1), method)
            for g in (lambda y: jnp.maximum(y, c), lambda y: c + jax.nn.relu(y - c))
        )
        np.testing.assert_allclose(one.rows_lower, other.rows_lower, atol=1e-4)


def _peak(x):
    """Two labels apart by ``clip(3 y, 0.2, 0.8) - max(y, 0.5)``: -0.3 at 0, and -0.2 at 1."""
    copies = jnp.tile(x.reshape(-1, 1), (1, 3))[:, np.array([2, 0, 2])]
    y = jnp.where(np.array([True, False, False]), copies, 7.0)[:, :1]
    return jnp.concatenate([jnp.clip(3 * y, 0.2, 0.8) - jnp.maximum(y, 0.5), 0 * y], -1)


@pytest.mark.parametrize("oracle", (jmlv.MILP(), jmlv.BranchAndBound(jmlv.CROWN())), ids=repr)
@pytest.mark.parametrize("threshold, robust", ((-0.31, True), (-0.29, False)))
def test_complete_oracles_split_at_the_knee(oracle, threshold, robust):
    """The least value over [0, 1] is 0.2 - 0.5 = -0.3, at 0."""
    box = jmlv.Box.between(jnp.zeros((1, 1, 1)), jnp.ones((1, 1, 1)))
    verdict = jmlv.verify(_peak, box, jmlv.AboveThreshold(0, threshold), oracle, budget=60)
    assert verdict.robust is robust and verdict.status is not jmlv.Status.UNKNOWN


def test_wide_clips_do_not_prove_what_is_false():
    """Scores of order one: with the sum ``c + relu(y - c)`` all of them came out as zero."""
    x = jnp.array([[[0.5], [0.5]]])
    box = jmlv.Box.around(x, 0.1)
    for limit in (1e9, LARGEST):

        def f(x, limit=limit):
            return jnp.clip(x.reshape(-1, 2) * jnp.array([1.0, 1.1]), -limit, limit)

        for method in (jmlv.IBP(), jmlv.CROWNIBP(), jmlv.CROWN()):
            bounds = jmlv.bound(f, box, jmlv.InTopK(0, 1), method)
            assert bounds.lower <= -0.1 + 1e-6 and bounds.lower <= bounds.upper
        assert not jmlv.verify(f, box, jmlv.InTopK(0, 1), jmlv.Bounds()).robust
