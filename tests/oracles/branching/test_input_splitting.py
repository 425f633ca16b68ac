"""Input splitting: grids, agreement with the MILP, smooth networks, and rules broken on purpose."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jmlv
from jmlv.numerics import PROOF_TOLERANCE, certificate_precision
from jmlv.oracles import Deadline, InputSplitting, Query
from jmlv.oracles.branching import input_splitting
from jmlv.oracles.falsify import Weakest
from jmlv.verdict import Status

IMAGE, LABELS = (3, 1, 1), 4
QUICK = InputSplitting(batch=16, clips=True)
ACTIVATIONS = {"relu": jax.nn.relu, "sigmoid": jax.nn.sigmoid, "gelu": jax.nn.gelu}


def _query(kind, seed):
    """A network of three inputs and a box at which the answer is open."""
    rng = np.random.default_rng(seed)
    a, b = (jnp.asarray(rng.normal(size=s), jnp.float32) for s in ((3, 8), (8, LABELS)))
    shift = jnp.asarray(rng.normal(size=8), jnp.float32)
    act = ACTIVATIONS[kind]
    graph = jmlv.trace(lambda x: act(3 * (x.reshape(-1, 3) @ a) + shift) @ b, IMAGE)
    x = rng.uniform(0.2, 0.8, IMAGE).astype(np.float32)
    order = np.argsort(-np.asarray(graph(x[None])[0]))
    asked = jmlv.InTopK(int(order[0]), 2), jmlv.NotInTopK(int(order[-1]), 2)  # one program
    return Query.of(graph, jmlv.Box.around(x, [0.05, 0.2, 0.4][seed % 3]), asked[seed % 2], graph)


def _least(query):
    """The least margin on a grid of the box, its corners included."""
    shares = np.stack(np.meshgrid(*[np.linspace(0, 1, 17)] * 3), -1).reshape(-1, *IMAGE)
    low, high = query.lower.astype(float), query.upper.astype(float)
    with certificate_precision():
        return float(query.property.margin(query.graph64.scores(low + shares * (high - low))).min())


@pytest.mark.parametrize(
    "kind, axis",
    [
        pytest.param("relu", "widest", marks=pytest.mark.slow),
        ("relu", "slope"),
        ("sigmoid", "slope"),
    ],
)
def test_every_answer_is_right_and_none_is_missing(kind, axis):
    seen = set()
    for seed in range(9):
        query = _query(kind, seed)
        oracle = dataclasses.replace(QUICK, axis=axis)
        verdict = jmlv.oracles.judge(query, oracle.search(query, Deadline(30)), "splitting")
        assert verdict.lower <= _least(query) + 1e-9
        assert verdict.status is not Status.UNKNOWN
        if kind == "relu":
            exact = jmlv.oracles.judge(query, jmlv.MILP().search(query, Deadline(30)), "MILP")
            assert exact.status in (verdict.status, Status.UNKNOWN)
        seen.add(verdict.status)
    assert seen == {Status.ROBUST, Status.NOT_ROBUST}


def test_halving_tightens_and_says_how_far_it_came():
    """Of a network that it cannot settle with few boxes the bound lies between CROWN's and the truth."""
    for seed in range(40):
        query = _query("gelu", seed)
        crown, least = jmlv.Bounds().search(query, Deadline(30)).lower, _least(query)
        if crown < 0 < least:
            break
    assert QUICK.search(query, Deadline(30)).lower > PROOF_TOLERANCE
    few = dataclasses.replace(QUICK, boxes=1).search(query, Deadline(30))
    assert crown - 1e-9 <= few.lower <= least + 1e-9


def _with_gap(halved):
    def halves(boxes):
        found = halved(boxes)
        count = len(boxes.bound)
        lower = found.lower.copy()
        lower[count:] += 0.6 * (found.upper - found.lower)[count:]
        return found._replace(lower=lower)

    return halves


def _too_high(examine):
    def bounds(*arguments):
        bound, *rest = examine(*arguments)
        return bound + 0.3, *rest

    return bounds


def _cut_too_far(left):
    def more(low, high):
        low, high, nothing = left(low, high)
        return low, high - 0.2 * np.where(np.isfinite(high), high - low, 0), nothing

    return more


class _Everywhere:
    """Takes bounds that hold for violators only for bounds on the margin."""

    def __init__(self, bound, ceiling):
        self.bound = bound

    def everywhere(self):
        return self.bound


FAULTS = {
    "a gap between halves": ("_halved", _with_gap),
    "clipped too far": ("_left", _cut_too_far),
    "bounds for violators taken for margins": ("ForViolators", lambda _: _Everywhere),
    "bounds too high": ("_examine", _too_high),
}


@pytest.mark.parametrize("fault", ["none", *FAULTS])
def test_a_fault_is_caught(fault, monkeypatch):
    """It 'proves' more than a point of the grid reaches. (It is kept from finding points itself.)"""
    monkeypatch.setattr(Weakest, "descend", lambda *_: None)
    if fault != "none":
        name, wrong = FAULTS[fault]
        monkeypatch.setattr(input_splitting, name, wrong(getattr(input_splitting, name)))
    caught = 0
    for seed in range(24):
        query = _query("relu", seed)
        found = dataclasses.replace(QUICK, boxes=64).search(query, Deadline(30))
        caught += found.lower > _least(query) + 1e-9
    assert (caught > 0) == (fault != "none")


def test_clipping_saves_boxes_and_changes_no_answer():
    counts = {True: 0, False: 0}
    for seed in range(12):
        query, status = _query("relu", seed), set()
        for clips in counts:
            found = dataclasses.replace(QUICK, batch=2, clips=clips).search(query, Deadline(30))
            status.add(jmlv.oracles.judge(query, found, "splitting").status)
            counts[clips] += found.stats["boxes"]
        assert len(status) == 1 and Status.UNKNOWN not in status
    assert counts[True] < 0.8 * counts[False], counts


def test_a_box_that_cannot_be_halved_stays_open():
    """A margin of zero at one point is never proven, and boxes cannot shrink below float64."""
    f = lambda x: jnp.abs(x.reshape(-1, 1) - 0.3) - 1e-7  # noqa: E731
    box = jmlv.Box.between(jnp.full((1, 1, 1), 0.3), jnp.full((1, 1, 1), 0.3000001))
    query = Query.of(f, box, jmlv.AboveThreshold(0, -1e-7))
    found = QUICK.search(query, Deadline(10))
    assert found.lower <= 1e-9


def test_a_point_is_a_box_too():
    f = lambda x: jnp.sin(3.0) * x.reshape(-1, 1)  # noqa: E731
    box = jmlv.Box.between(jnp.full((1, 1, 1), 0.5), jnp.full((1, 1, 1), 0.5))
    assert jmlv.verify(f, box, jmlv.AboveThreshold(0), QUICK).robust
    assert jmlv.verify(f, box, jmlv.BelowThreshold(0), QUICK).status is Status.NOT_ROBUST


def test_too_many_inputs_are_left_alone_and_bad_settings_named():
    query = _query("relu", 0)
    few = dataclasses.replace(QUICK, largest=2).search(query, Deadline(10))
    assert few.lower == -np.inf and "3 moving inputs are too many" in few.reason
    for wrong in ({"axis": "best"}, {"batch": 1}, {"boxes": 0}, {"time_limit": -1.0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            InputSplitting(**wrong)


def test_nan_is_unknown():
    query = _query("relu", 0)
    graph = dataclasses.replace(query.graph, consts=tuple(c * jnp.nan for c in query.graph.consts))
    box = jmlv.Box.between(query.lower, query.upper)
    oracle = dataclasses.replace(QUICK, boxes=50)
    assert jmlv.verify(graph, box, query.property, oracle).status is Status.UNKNOWN


def test_a_flat_bound_does_not_hide_the_input_that_matters():
    """The larger of two rows counts; at first it is the constant one, whose slopes are all zero."""
    step = lambda x: jax.nn.sigmoid(30 * x - 15)  # noqa: E731

    def f(x):
        _, read = x.reshape(-1, 2).T
        return jnp.stack([0 * read - 0.001, step(read) + step(1 - read) - 0.9], 1)

    box = jmlv.Box.between(jnp.zeros((2, 1, 1)), jnp.ones((2, 1, 1)))
    property = jmlv.AboveThreshold(0) | jmlv.AboveThreshold(1)
    oracle = InputSplitting(jmlv.IBP(), batch=16, boxes=2000)
    assert jmlv.verify(f, box, property, oracle).robust
