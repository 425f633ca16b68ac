"""Random weights and boxes (hypothesis): no bound excludes a corner, a random point or the centre."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, strategies as st
from hypothesis.extra import numpy as hnp

import jmlv

INPUTS, HIDDEN, LABELS = 3, 4, 2
SHAPES = (INPUTS, HIDDEN), (HIDDEN,), (HIDDEN, HIDDEN), (HIDDEN,), (HIDDEN, LABELS)
ROWS = jnp.array([[1.0, -1.0], [0.5, 1.0]])
QUICK = "IBP", "CROWN-IBP", "CROWN"
METHODS = {m.name: m for m in (jmlv.IBP(), jmlv.CROWNIBP(), jmlv.CROWN(), jmlv.AlphaCROWN(steps=3))}


def net(weights, x):
    a, b, c, d, e = weights
    h = jax.nn.relu(x @ a + b)
    return jax.nn.relu(h @ c + d + h) @ e


def numbers(shape):
    return hnp.arrays(np.float32, shape, elements=st.integers(-16, 16).map(lambda n: n / 8))


@pytest.fixture(scope="module")
def program():
    """One compiled program a method, for all weights and boxes."""
    template = [np.full(shape, 1 + n, np.float32) for n, shape in enumerate(SHAPES)]
    graph = jmlv.trace(lambda x: net([jnp.asarray(w) for w in template], x), (INPUTS,))
    consts, structure = jax.tree.flatten(graph)
    order = [int(np.ravel(c)[0]) - 1 for c in consts]
    assert order == list(range(len(SHAPES)))

    def rows(method, weights, lower, upper):
        shaped = [w.reshape(np.shape(c)) for w, c in zip(weights, consts)]
        graph = jax.tree.unflatten(structure, shaped)
        return method.rows(graph, lower, upper, ROWS, jnp.zeros(len(ROWS)))

    return jax.jit(rows, static_argnums=0)


def points(lower, upper):
    corners = [np.where(s, upper, lower) for s in itertools.product([0, 1], repeat=INPUTS)]
    shares = np.random.default_rng(0).random((24, INPUTS)).astype("float32")
    return np.stack([*corners, *(lower + shares * (upper - lower)), (lower + upper) / 2])


def excluded(interval, weights, lower, upper):
    """By how much the worst point is outside, in units of what float32 rounds by here."""
    exact = [w.astype(float) for w in weights]
    x = points(lower, upper).astype(float)
    h = np.maximum(x @ exact[0] + exact[1], 0)
    scores = np.maximum(h @ exact[2] + exact[3] + h, 0) @ exact[4] @ np.asarray(ROWS, float).T
    beyond = np.maximum(np.asarray(interval.lower) - scores, scores - np.asarray(interval.upper))
    return float(beyond.max()) / (1e-5 * (1 + float(np.abs(interval).max())))


WEIGHTS = st.tuples(*map(numbers, SHAPES))
BOXES = st.tuples(numbers((INPUTS,)), numbers((INPUTS,))).map(
    lambda ends: (np.minimum(*ends), np.maximum(*ends))
)
FLAT = tuple(np.zeros(shape, np.float32) for shape in SHAPES)


@pytest.mark.parametrize("name", [*QUICK, pytest.param("alpha-CROWN", marks=pytest.mark.slow)])
@given(WEIGHTS, BOXES)
@example(FLAT, (np.zeros(INPUTS, np.float32), np.zeros(INPUTS, np.float32)))
def test_no_point_is_excluded(program, name, weights, box):
    interval = program(METHODS[name], weights, *box)
    assert np.isfinite(np.asarray(interval)).all()
    assert excluded(interval, weights, *box) <= 1


@given(WEIGHTS, BOXES)
def test_backward_bounds_are_within_intervals(program, weights, box):
    ibp, mixed = (program(METHODS[name], weights, *box) for name in ("IBP", "CROWN-IBP"))
    slack = 1e-5 * (1 + float(np.abs(ibp).max()))
    assert np.all(np.asarray(mixed.lower) >= np.asarray(ibp.lower) - slack)
    assert np.all(np.asarray(mixed.upper) <= np.asarray(ibp.upper) + slack)


def test_a_bound_that_is_a_tenth_too_tight_is_noticed(program):
    found = []

    @given(WEIGHTS, BOXES)
    def search(weights, box):
        interval = program(METHODS["CROWN"], weights, *box)
        width = np.asarray(interval.upper) - np.asarray(interval.lower)
        tight = type(interval)(interval.lower + 0.1 * width, interval.upper)
        found.append(excluded(tight, weights, *box) > 1)

    search()
    assert any(found)
