"""Clipped subdomains: what is known of violators holds for violators, and proves no more than that."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jmlv
from jmlv.bounds import CROWN
from jmlv.bounds.clipping import CEILING, ForViolators
from jmlv.bounds.functionals import whole
from jmlv.bounds.rounding import FLOAT64
from jmlv.numerics import certificate_precision, search_precision
from jmlv.oracles import BranchAndBound, Deadline, Query, SoundnessError, judge
from jmlv.oracles.branching import clipped, subdomains
from jmlv.oracles.branching.ends import Ends
from jmlv.oracles.branching.whole_search import WholeSearch, _task
from jmlv.oracles.falsify import Weakest
from jmlv.oracles.rounding import score_errors
from jmlv.verdict import Status

IMAGE, LABELS, UNITS, BATCH, RADIUS = (3, 3, 1), 3, 12, 4, 0.15
SEARCH = BranchAndBound(CROWN(), batch=BATCH, depth=16, few=0, clipped=UNITS)


def _network(seed):
    rng = np.random.default_rng(seed)
    a, b, c = (
        jnp.asarray(2 * rng.normal(size=shape) / np.sqrt(shape[0]), jnp.float32)
        for shape in ((9, 8), (8, 6), (6, LABELS))
    )
    return jmlv.trace(lambda x: jax.nn.relu(jax.nn.relu(x.reshape(-1, 9) @ a) @ b) @ c, IMAGE)


def _query(seed):
    """A question that is answered 'no' by a small margin, so that there are violators."""
    rng = np.random.default_rng(seed)
    graph = _network(seed)
    box = jmlv.Box.around(rng.uniform(0.3, 0.7, IMAGE).astype(np.float32), RADIUS)
    points = np.asarray(box.lower) + rng.random((4000, *IMAGE), np.float32) * np.float32(2 * RADIUS)
    scores = np.asarray(graph.scores(points))[:, 0]
    return Query.of(graph, box, jmlv.AboveThreshold(0, float(np.quantile(scores, 0.02)))), points


def _units(task, points):
    """Inputs of all nonlinear equations at each point, numbered through."""

    def one(x):
        env = task.graph.environment(x[None])
        return jnp.concatenate([env[v].reshape(-1) for v in clipped.sources(task.graph)])

    with certificate_precision():
        return np.asarray(jax.vmap(one)(jnp.asarray(points, float)))


def _clipped_twice(seed, steps=6, ceiling=CEILING):
    """Subdomains of one split each, clipped, bounded within that, and clipped again."""
    query, points = _query(seed)
    task = _task(query, CROWN())
    single = jax.tree.map(lambda v: np.asarray(v, np.float32), task._replace(graph=None))
    single = single._replace(graph=task.graph.astype("float32"))
    known = clipped.unit_planes(task, UNITS, score_errors(query, FLOAT64).inner)
    side = np.zeros((BATCH, 2), np.float32)
    side[:, 0] = [0, 1, -1, 0]
    unit = np.full((BATCH, 2), subdomains.unit_count(task.graph), np.int32)
    unit[1:3, 0] = int(np.argmin(np.abs(np.median(_units(task, points), 0))))
    zeros = np.zeros_like(side)
    splits, clause = subdomains.Splits(unit, zeros, side, zeros + 1), np.ones((BATCH, 1), "f")
    ends = Ends(*(np.stack([v] * BATCH) for v in clipped.no_ends(task, UNITS)))
    found = []
    for _ in range(2):
        within = known.unit, jax.tree.map(np.float32, ends)
        with search_precision():
            choice, _ = subdomains.ascend(single, clause, splits, steps, 0.5, None, within)
        with certificate_precision():
            bound, _, new = clipped.certify_clipped(
                task, known, clause, splits, choice, ends, np.float64(ceiling)
            )
            everywhere = np.asarray(bound.everywhere())
        ends = jax.tree.map(np.asarray, new)
        found.append((np.asarray(bound.at_violators), everywhere, ends))
    return query, points, task, known, splits, found


def _faults(seed):
    """By how much violators in the subdomains leave what is said of them: ends, and bounds."""
    query, points, task, known, splits, found = _clipped_twice(seed)
    values = _units(task, points)
    margins = np.array([query.margin_exact(p) for p in points])
    outside = beyond = -np.inf
    real = known.unit < values.shape[1]
    for i in range(BATCH):
        held = splits.side[i, 0] * values[:, min(splits.unit[i, 0], values.shape[1] - 1)] >= 0
        kept = held & (margins <= CEILING)
        assert kept.any() or splits.side[i, 0]
        if not kept.any():
            continue
        inside, flat = values[kept][:, known.unit[real]], points[kept].reshape(-1, 9)
        for bound, everywhere, ends in found:
            outside = max(
                outside,
                (ends.low[i][real] - inside).max(), (inside - ends.high[i][real]).max(),
                (ends.lower[i] - flat).max(), (flat - ends.upper[i]).max(),
            )  # fmt: skip
            beyond = max(beyond, bound[i] - margins[kept].min())
            beyond = max(beyond, everywhere[i] - margins[held].min())
    return outside, beyond


DEAR = {"marks": pytest.mark.slow}


@pytest.mark.parametrize("seed", [0, pytest.param(1, **DEAR)])
def test_violators_lie_within_the_ends_and_above_the_bounds(seed):
    outside, beyond = _faults(seed)
    assert outside <= 1e-6 and beyond <= 1e-6


def test_clipping_clips():
    """The second bound is better than the first, which knew the whole box's intervals alone."""
    gained = 0
    for seed in range(3):
        *_, ((first, _, ends), (second, *_)) = _clipped_twice(seed)
        gained += (second > first + 1e-3).sum()
        assert np.isfinite(ends.low).all() and np.isfinite(ends.high).all()
    assert gained >= 4


def test_planes_lie_below_their_units():
    query, points = _query(0)
    task = _task(query, CROWN())
    known = clipped.unit_planes(task, UNITS, score_errors(query, FLOAT64).inner)
    real = known.unit < _units(task, points).shape[1]
    values = _units(task, points)[:, known.unit[real]]
    slopes, constants = (v.reshape(2, UNITS, -1) for v in known.planes)
    flat = points.reshape(len(points), -1).astype(float)
    for sign, slope, constant in zip((1, -1), slopes, constants):
        assert (flat @ slope[real].T + constant[real, 0] <= sign * values + 1e-6).all()
    assert real.sum() > 4


@pytest.mark.parametrize("norm", [pytest.param(None, **DEAR), pytest.param(1, **DEAR), 2])
def test_the_minorant_lies_below_the_clause_in_the_whole_box(norm):
    """Over a ball the bound is tighter than over its box; the linear function is the same."""
    query, points = _query(0)
    if norm is not None:
        query = query.over(jmlv.Ball((query.lower + query.upper) / 2, 2 * RADIUS, norm))
    task = _task(query, CROWN())
    none = subdomains.Splits(*(np.zeros(0, t) for t in (np.int32, *["d"] * 3)))
    with certificate_precision():
        lines = subdomains._relaxed(task, none).lines
        weights = subdomains._below(task, lines, jnp.ones(1), none, None).weights
        choice = subdomains.Choice(weights, jnp.ones(1), jnp.zeros(0))
        bound, _, below = subdomains.certified_one(task, jnp.ones(1), none, choice)
        inside = points[: len(points) // 2]
        rows = np.array([query.margin_exact(p) for p in inside])
    slopes = whole(below.below, task.graph.input).rows.reshape(-1)
    values = inside.reshape(len(inside), -1) @ np.asarray(slopes) + float(below.constant[0])
    assert (values <= rows + 1e-6).all() and float(bound) <= rows.max()


FAULTS = {
    "the minorant of another function": lambda minorant: minorant._replace(
        constants=minorant.constants + 1
    ),
    "slopes of the wrong sign": lambda minorant: minorant._replace(slopes=-minorant.slopes),
}


@pytest.mark.parametrize(
    "fault", [list(FAULTS)[0], *(pytest.param(f, **DEAR) for f in list(FAULTS)[1:])]
)
def test_a_wrong_constraint_is_caught(fault, monkeypatch):
    real = clipped._clip
    monkeypatch.setattr(
        clipped, "_clip", lambda known, m, *rest: real(known, FAULTS[fault](m), *rest)
    )
    clipped.certify_clipped.clear_cache()
    try:
        assert max(max(_faults(seed)) for seed in range(2)) > 1e-3
    finally:
        clipped.certify_clipped.clear_cache()


def _held_by(gap):
    """Questions whose least margin, at an input that is known, is about the gap."""
    for seed in range(2):
        query, points = _query(seed)
        margins = [query.margin_exact(p) for p in points]
        lowest = int(np.argmin(margins))
        found = jmlv.verify(
            query.graph, jmlv.Box(query.lower, query.upper), query.property, jmlv.PGD()
        )
        least = min(found.upper, margins[lowest])
        point = points[lowest] if least < found.upper else found.witness
        yield query.about(jmlv.AboveThreshold(0, query.property.threshold + least - gap)), point


@pytest.mark.parametrize("mixed", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_bound_for_violators_taken_for_a_margin_is_caught(mixed, monkeypatch):
    """It exceeds what a known input reaches, once it is no longer cut off at the ceiling."""
    monkeypatch.setattr(Weakest, "descend", lambda *_: None)
    if mixed:
        monkeypatch.setattr(ForViolators, "everywhere", lambda self: self.at_violators)
    caught = 0
    for query, point in _held_by(0.02):
        evidence = SEARCH.search(query, Deadline(30))
        margin = query.margin_exact(point)
        caught += evidence.lower > margin + 1e-3
        if evidence.lower > margin + 1e-3:
            with pytest.raises(SoundnessError):
                judge(query, dataclasses.replace(evidence, point=point), "mixed")
    assert (caught > 0) == mixed


@pytest.mark.slow
def test_it_decides_as_without():
    """In fewer subdomains, all in all."""
    counts = {0: 0, UNITS: 0}
    for query, _ in _held_by(0.05):
        status = {}
        for count in counts:
            evidence = dataclasses.replace(SEARCH, clipped=count).search(query, Deadline(60))
            counts[count] += evidence.stats.get("subdomains", 0)
            status[count] = judge(query, evidence, "test").status
        assert set(status.values()) == {Status.ROBUST}
    assert counts[UNITS] < counts[0]


def test_nothing_is_clipped_where_it_is_switched_off():
    assert WholeSearch(dataclasses.replace(SEARCH, clipped=0), _query(0)[0]).ceiling == np.inf
    with pytest.raises(ValueError, match="clipped"):
        BranchAndBound(clipped=-1)


def test_an_interval_that_is_empty_by_rounding_alone_proves_nothing(monkeypatch):
    """A unit is a difference of 2.5e10 and itself, beside a millionth of what moves: the ends of what it is
    at violators, one of them with a multiplier, are rounded past one another. The scores barely read it."""
    monkeypatch.setattr(Weakest, "descend", lambda *_: None)
    large, fixed = 4.0038683e10, 0.6296592
    a = jnp.array([[5.070489e-6], [large], [-large], [5.070489e-6]], jnp.float32)
    b = jnp.array([[1.0], [1.0], [0.0], [1.0]], jnp.float32)

    def f(x):
        x = x.reshape(-1, 4)
        return x @ b + 1e-12 * (x @ a) * x[:, :1]

    ends = (np.float32([end, fixed, fixed, end]).reshape(4, 1, 1) for end in (0, 1))
    query = Query.of(f, jmlv.Box.between(*ends), jmlv.AboveThreshold(0, fixed + 0.8))
    evidence = dataclasses.replace(SEARCH, subdomains=8).search(query, Deadline(60))
    assert query.margin_exact(query.lower) < -0.7 and evidence.lower < -0.7
