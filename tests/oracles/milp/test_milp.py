"""The mixed-integer oracle against brute force, broken solvers and rules broken on purpose."""

from __future__ import annotations

import dataclasses
import itertools
import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from scipy import sparse
from scipy.optimize import linprog

import jmlv
from jmlv.bounds.method import Interval
from jmlv.graph.ir import Equation, Variable
from jmlv.numerics import SOLVER_TOLERANCE, certificate_precision
from jmlv.oracles import Deadline, Evidence, Query, SoundnessError, judge
from jmlv.oracles.milp import integers, maxima, milp, solvers
from jmlv.oracles.milp.milp import MILP, weakest_point
from jmlv.oracles.milp.mixed_integer import MixedIntegerModel
from jmlv.verdict import Status

IMAGE = (4, 4, 1)
LABELS = 4

# ---------------------------------------------------------------------------------------------
# Small random networks
# ---------------------------------------------------------------------------------------------


def _normal(rng, *shape):
    return jnp.asarray(rng.normal(size=shape) / np.sqrt(np.prod(shape[:-1])), jnp.float32)


def _flat(x):
    return x.reshape(x.shape[0], -1)


def _conv(x, kernel, stride=1):
    numbers = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, kernel, (stride,) * 2, "SAME", dimension_numbers=numbers)


def _pool(x, size, stride, padding="VALID"):
    window = (1, size, size, 1)
    return lax.reduce_window(x, -jnp.inf, lax.max, window, (1, stride, stride, 1), padding)


def dense(rng):
    a, b, c = _normal(rng, 16, 6) * 3, _normal(rng, 6), _normal(rng, 6, LABELS)
    return lambda x: jax.nn.relu(_flat(x) @ a + b) @ c


def deep(rng):
    a, b, c = _normal(rng, 16, 5) * 3, _normal(rng, 5, 5) * 2, _normal(rng, 5, LABELS)
    return lambda x: jax.nn.relu(jax.nn.relu(_flat(x) @ a) @ b) @ c


def pooled(rng):
    """ReLU and then an overlapping max pool with padding."""
    k, b, c = _normal(rng, 3, 3, 1, 2) * 2, _normal(rng, 2), _normal(rng, 18, LABELS)
    return lambda x: (
        _flat(_pool(jax.nn.relu(_conv(x, k) + b), 2, 2, [(0, 0), (1, 1), (1, 1), (0, 0)])) @ c
    )


def bare_pool(rng):
    """Overlapping max pool of the convolution itself, without a floor."""
    k, c = _normal(rng, 3, 3, 1, 2) * 2, _normal(rng, 8, LABELS)
    return lambda x: _flat(_pool(_conv(x, k), 3, 1)) @ c


def leaky(rng):
    a, b, c = _normal(rng, 16, 6) * 3, _normal(rng, 6), _normal(rng, 6, LABELS)
    return lambda x: jax.nn.leaky_relu(_flat(x) @ a + b, 0.1) @ c


def residual(rng):
    k, m, c = _normal(rng, 3, 3, 1, 2) * 2, _normal(rng, 3, 3, 2, 2), _normal(rng, 8, LABELS)

    def f(x):
        h = jax.nn.relu(_conv(x, k, 2))
        return _flat(h + jax.nn.relu(_conv(h, m))) @ c

    return f


NETS = (dense, deep, pooled, bare_pool, leaky, residual)


def _properties(scores):
    """Every class of property, true at scores like these: labels ordered by score."""
    order = [int(label) for label in np.argsort(-scores)]
    middle = float(np.sort(scores)[1:3].mean())
    above = jmlv.AboveThreshold(order[0], middle)
    three_rows = (
        jmlv.InTopK(order[0], 1),
        jmlv.InTopK(order[1], 2),
        jmlv.NotInTopK(order[3], 2),
        jmlv.NotInTopK(order[1], 1),
    )
    others = (
        jmlv.KeepsLabels((order[0], order[1]), 2),
        jmlv.KeepsLabels((order[0], order[1], order[2]), 3, at_least=2),
        above,
        jmlv.BelowThreshold(order[3], middle),
        jmlv.InTopK(order[0], 2) & jmlv.BelowThreshold(order[3], middle),
        jmlv.KeepsLabels((order[0],), 1) & above & jmlv.NotInTopK(order[3], 1),
    )
    return three_rows, others


# ---------------------------------------------------------------------------------------------
# Brute force
# ---------------------------------------------------------------------------------------------


@jax.jit
def _scores(graph, points):
    return graph.scores(points)


NEAR = 2e-3
"""How far from the brute-force minimum the questions are put."""


def grid_minimum(query, steps=17, rounds=4):
    """The smallest margin on a grid over the moving pixels, refined around the best points."""
    lower, upper = (np.asarray(side, float).reshape(-1) for side in (query.lower, query.upper))
    moving = np.flatnonzero(lower < upper)
    best = np.inf
    low, high = lower[moving], upper[moving]
    for _ in range(rounds):
        axes = [np.linspace(a, b, steps) for a, b in zip(low, high)]
        points = np.tile(lower, (steps ** len(moving), 1))
        points[:, moving] = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, len(moving))
        with certificate_precision():
            scores = _scores(query.graph64, points.reshape(-1, *query.lower.shape))
            margins = np.asarray(query.property.margin(scores))
        best = min(best, float(margins.min()))
        centre, width = points[margins.argmin()][moving], (high - low) / (steps - 1)
        low = np.maximum(centre - width, lower[moving])
        high = np.minimum(centre + width, upper[moving])
    return best


def _instance(index):
    """A random network and property, and a box in which three pixels move."""
    rng = np.random.default_rng(index)
    f = NETS[index % len(NETS)](rng)
    x = rng.uniform(0.2, 0.8, IMAGE).astype(np.float32)
    plain, others = _properties(np.asarray(f(x[None]))[0])
    turn = index // len(NETS)  # one of the others for each network: it is compiled for its rows
    property = plain[turn % 4] if turn < 3 else others[index % len(NETS)]
    moving = np.zeros(16, np.float32)
    moving[rng.choice(16, 3, replace=False)] = rng.uniform(0.4, 0.8)
    return Query.of(f, jmlv.Box.around(x, moving.reshape(IMAGE)), property)


@dataclasses.dataclass(frozen=True)
class Case:
    """An instance, its brute-force minimum, and what the models of its questions came to.

    The decision asks for a margin up to ``ceiling``, just above or just below the minimum.
    """

    query: Query
    minimum: float
    ceiling: float
    decision: object
    scip: solvers.Outcome
    cp_sat: solvers.Outcome
    weakest: object
    optimum: solvers.Outcome


_DRIVER = """
import importlib.util, json, sys
spec = importlib.util.spec_from_file_location("worker", sys.argv[1])
worker = importlib.util.module_from_spec(spec)
spec.loader.exec_module(worker)
worker._die_with_parent = lambda: None
for request in json.loads(sys.argv[2]):
    worker.main(request, request + ".result.npz")
"""


def _solve_all(folder, models, solver, first, seconds):
    """The oracle's own worker code on many models in one process, to save starting it each time."""
    relaxed = [integers.integer_relaxation(m) if solver == "cp-sat" else None for m in models]
    requests = []
    for number, (model, whole) in enumerate(zip(models, relaxed)):
        requests.append(str(folder / f"{solver}-{first}-{number}.npz"))
        options = solvers._options(solver, np.inf, first)
        options["until"] = time.time() + 10_000
        options["reserve"] = 10_000 - seconds
        arrays = solvers._request(model if whole is None else whole)
        np.savez(requests[-1], options=json.dumps(options), **arrays)
    if not requests:
        return []
    command = [sys.executable, "-P", "-c", _DRIVER, str(solvers._WORKER), json.dumps(requests)]
    subprocess.run(command, check=True, timeout=200)
    answers = [solvers._load(Path(r + ".result.npz"), 0, "") for r in requests]
    return [solvers._read(a, solver, m, w) for a, m, w in zip(answers, models, relaxed)]


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    queries = [_instance(i) for i in range(24) if i % 4 < 3]
    minima = [grid_minimum(q) for q in queries]
    ceilings = [m + (NEAR if i % 2 else -NEAR) for i, m in enumerate(minima)]
    decisions = [milp.build(q, c) for q, c in zip(queries, ceilings)]
    centres = [q.margin_exact((q.lower + q.upper) / 2) + SOLVER_TOLERANCE for q in queries]
    weakest = [milp.build(q, c) for q, c in zip(queries, centres)]
    with ThreadPoolExecutor(2) as pool:
        models = [d.model for d in decisions if d.model is not None]
        optima = pool.submit(_solve_all, folder, [w.model for w in weakest], "scip", False, 9_990.0)
        exact = pool.submit(_solve_all, folder, models, "cp-sat", True, 2.0)
        scip = iter(_solve_all(folder, models, "scip", True, 9_990.0))
        exact, optima = iter(exact.result()), optima.result()
    certain = solvers.Outcome(status="BOUNDS")
    return [
        Case(
            q,
            m,
            c,
            d,
            certain if d.model is None else next(scip),
            certain if d.model is None else next(exact),
            w,
            o,
        )  # fmt: skip
        for q, m, c, d, w, o in zip(queries, minima, ceilings, decisions, weakest, optima)
    ]


def test_decisions_never_contradict_brute_force(cases):
    for case in cases:
        if case.decision.model is None:
            assert case.minimum >= case.decision.margin.lower - 1e-9
        for outcome in (case.scip, case.cp_sat):
            assert not (outcome.infeasible and case.minimum <= case.ceiling)


def test_scip_decides_and_its_points_are_real(cases):
    asked = [case for case in cases if case.decision.model is not None]
    broken = [case for case in asked if case.scip.values is not None]
    proven = [case for case in asked if case.scip.infeasible]
    assert len(broken) >= 7 and len(proven) >= 1 and len(broken) + len(proven) == len(asked)
    for case in broken:
        assert case.decision.model.violation(case.scip.values) < 1e-5
        point = case.decision.point(case.scip.values)
        assert case.query.margin_exact(point) <= case.ceiling + 5 * SOLVER_TOLERANCE


def test_two_solvers_agree(cases):
    both = [c for c in cases if c.cp_sat.infeasible or c.cp_sat.values is not None]
    assert len(both) >= 9 and sum(c.cp_sat.infeasible for c in both) >= 1
    for case in both:
        assert case.scip.infeasible == case.cp_sat.infeasible
        if not case.cp_sat.infeasible:
            point = case.decision.point(case.cp_sat.values)
            assert case.query.margin_exact(point) <= case.ceiling + NEAR / 2


def test_weakest_points_are_the_minimum(cases):
    for case in cases:
        assert case.optimum.optimal
        ceiling = -case.weakest.model.lower[case.weakest.model.objective.argmax()]
        lower = milp._proven(case.weakest, case.optimum, ceiling)
        point = milp._point(case.query, case.weakest, case.optimum)
        reached = case.query.margin_exact(point)
        assert lower <= case.minimum + 1e-9, "a dual bound above a margin that is reached"
        assert reached <= case.minimum + 1e-4
        assert reached - lower <= 1e-4


def test_cases_cover_every_kind_of_unit_and_some_binaries(cases):
    assert sum(case.weakest.undecided >= 3 for case in cases) >= 8
    assert len({type(case.query.property) for case in cases}) >= 6


def _patterns_minimum(weights, query):
    """The exact minimum of a dense network with one hidden layer: an LP for each pattern and pair."""
    a, b, c = (np.asarray(w, float) for w in weights)
    box = list(zip(query.lower.reshape(-1).astype(float), query.upper.reshape(-1).astype(float)))
    rows, offsets = query.property.rows(c.shape[1])
    best = np.inf
    for pattern in itertools.product((0.0, 1.0), repeat=a.shape[1]):
        on = np.array(pattern)
        sign = 1 - 2 * on  # pre-activation >= 0 where on: -(x a + b) <= 0
        for row, offset in zip(rows, offsets):
            effect = on * (c @ row)
            solved = linprog(a @ effect, sign[:, None] * a.T, -sign * b, bounds=box)
            if solved.status == 0:
                best = min(best, solved.fun + effect @ b + offset)
    return best


@pytest.mark.parametrize("seed", range(3))
def test_weakest_point_equals_the_enumeration_of_activation_patterns(seed):
    rng = np.random.default_rng(seed)
    a, b, c = _normal(rng, 16, 5) * 3, _normal(rng, 5), _normal(rng, 5, LABELS)
    f = lambda x: jax.nn.relu(_flat(x) @ a + b) @ c  # noqa: E731
    x = rng.uniform(size=IMAGE).astype(np.float32)
    label = int(f(x[None])[0].argmax())
    region, property = jmlv.Box.around(x, 0.25), jmlv.InTopK(label, 1)
    exact = _patterns_minimum((a, b, c), Query.of(f, region, property))
    found = weakest_point(f, region, property, budget=30)
    assert found.margin == pytest.approx(exact, abs=2e-5)
    assert found.lower <= exact + 1e-9 and found.lower == pytest.approx(exact, abs=5e-5)


# ---------------------------------------------------------------------------------------------
# The oracle from end to end
# ---------------------------------------------------------------------------------------------


def _planted():
    """Breaks only in a corner, one of 2^9: where every entry moves along a secret direction."""
    rng = np.random.default_rng(7)
    direction = rng.choice([-1.0, 1.0], 9).astype(np.float32)
    x = np.full((3, 3, 1), 0.5, np.float32)
    shift = float(direction @ x.reshape(-1)) + 0.9 - 0.01
    out = jnp.array([[-200.0, 0.0]])
    f = lambda x: jax.nn.relu(_flat(x) @ direction[:, None] - shift) @ out + jnp.array([1.0, 0.0])  # noqa: E731
    return f, x, direction.reshape(3, 3, 1)


def _verdict(query, oracle, budget=30):
    return judge(query, oracle.search(query, Deadline(budget)), oracle.name)


@pytest.mark.parametrize("solver", solvers.SOLVERS)
def test_a_planted_counterexample_is_found(solver):
    f, x, direction = _planted()
    query = Query.of(f, jmlv.Box.around(x, 0.1), jmlv.AboveThreshold(0))
    verdict = _verdict(query, MILP(solver))
    assert verdict.status is Status.NOT_ROBUST
    assert query.margin_exact(x + 0.1 * direction) < 0
    assert np.mean(np.sign(verdict.witness - x) == direction) == 1


@pytest.mark.parametrize("solver", solvers.SOLVERS)
def test_without_the_corner_the_property_is_proven(solver):
    f, x, _ = _planted()
    query = Query.of(f, jmlv.Box.around(x, 0.1), jmlv.AboveThreshold(0, -1.01))
    evidence = MILP(solver).search(query, Deadline(30))
    assert judge(query, evidence, "MILP").status is Status.ROBUST


def _difference(query_box, threshold=0.0):
    """``|x0 - 1/2| - |x0 + x1 - 1| / 2``: on the unit square at least -1/4, by bounds -1/2."""
    a, c = jnp.array([[1.0, 1.0], [0.0, 1.0]]), jnp.array([[1.0], [-0.5]])
    f = lambda x: jnp.abs(_flat(x) @ a - jnp.array([0.5, 1.0])) @ c  # noqa: E731
    return Query.of(f, query_box, jmlv.AboveThreshold(0, threshold))


def _square(low, high):
    return jmlv.Box.between(np.full((1, 2, 1), low), np.full((1, 2, 1), high))


def test_a_proof_needs_the_solver_and_reports_its_size():
    query = _difference(_square(0, 1), -0.26)
    evidence = MILP().search(query, Deadline(20))
    assert evidence.lower == SOLVER_TOLERANCE
    assert evidence.stats["solver_status"] == "INFEASIBLE"
    assert evidence.stats["binaries"] == 4 and evidence.stats["rows"] > 0
    assert judge(query, evidence, "MILP").status is Status.ROBUST


def test_a_tie_is_never_robust():
    verdict = _verdict(_difference(_square(0, 1), -0.25), MILP())
    assert verdict.status is not Status.ROBUST and verdict.upper <= SOLVER_TOLERANCE


def test_a_margin_within_the_tolerance_is_unknown():
    verdict = _verdict(_difference(_square(0, 1), -0.25 - SOLVER_TOLERANCE / 3), MILP())
    assert verdict.status is Status.UNKNOWN and -2e-4 < verdict.lower < 1e-6


def test_a_box_that_is_a_point():
    point = jmlv.Box.around(np.array([[[0.9], [0.2]]], np.float32), 0.0)
    assert _verdict(_difference(point), MILP()).status is Status.ROBUST
    assert _verdict(_difference(point, 2.0), MILP()).status is Status.NOT_ROBUST
    found = MILP(weakest_point=True).search(_difference(point), Deadline(10))
    assert found.stats["dual_bound"] == pytest.approx(0.35, abs=3e-5)
    assert judge(_difference(point), found, "MILP").status is Status.ROBUST


def test_without_unstable_units_it_is_a_linear_programme():
    box = jmlv.Box.between(np.array([[[0.6], [0.5]]]), np.array([[[0.9], [0.7]]]))
    verdict = _verdict(_difference(box), MILP())
    assert verdict.status is Status.NOT_ROBUST


def test_a_property_that_fails_everywhere():
    query = _difference(_square(0.4, 0.6), 9.0)
    assert _verdict(query, MILP()).status is Status.NOT_ROBUST


def test_bounds_alone_are_enough_where_all_labels_drop_out(monkeypatch):
    monkeypatch.setattr(solvers, "_run_worker", None)
    query = _difference(_square(0.4, 0.6), -9.0)
    evidence = MILP().search(query, Deadline(10))
    assert evidence.lower > 8 and "binaries" not in evidence.stats


@pytest.fixture(scope="module")
def hard():
    """Far beyond any solver within seconds, with a threshold between bound and attack."""
    rng = np.random.default_rng(3)
    a, b, c = _normal(rng, 36, 80) * 3, _normal(rng, 80, 80) * 3, _normal(rng, 80, LABELS)
    f = lambda x: jax.nn.relu(jax.nn.relu(_flat(x) @ a) @ b) @ c  # noqa: E731
    box = jmlv.Box.around(np.full((6, 6, 1), 0.5, np.float32), 0.3)
    graph = jmlv.trace(f, (6, 6, 1))
    property = jmlv.AboveThreshold(0)
    query = Query.of(f, box, property, graph)
    encoding = milp.build(query, 1e3)
    reached = min(
        query.margin_exact(box.center + s * 0.3) for s in rng.choice([-1, 1], (50, 6, 6, 1))
    )
    threshold = 0.3 * encoding.margin.lower + 0.7 * reached
    return dataclasses.replace(query, property=jmlv.AboveThreshold(0, threshold))


HARD = [
    MILP(tighter=None),
    MILP(weakest_point=True, tighter=None),
    MILP(time_limit=1.5, tighter=None),
]


@pytest.mark.parametrize("oracle", HARD)
def test_the_budget_is_kept_and_says_what_is_known(oracle, hard):
    query = hard
    start = time.monotonic()
    budget = None if oracle.time_limit else 1.5
    evidence = oracle.search(query, Deadline(budget))
    assert time.monotonic() - start < 3.0
    verdict = judge(query, evidence, "MILP")
    assert verdict.status is not Status.ROBUST
    assert np.isfinite(verdict.lower) and ("time" in evidence.reason.lower())
    assert not oracle.weakest_point or evidence.point is not None


def test_parallel_queries_do_not_disturb_each_other():
    queries = [_difference(_square(0, 1), t) for t in (-0.26, -0.24, -0.3, -0.1)]
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda q: _verdict(q, MILP()).status, queries))
    assert found == [Status.ROBUST, Status.NOT_ROBUST, Status.ROBUST, Status.NOT_ROBUST]


# ---------------------------------------------------------------------------------------------
# Rules broken on purpose
# ---------------------------------------------------------------------------------------------


def _breakable():
    """A query whose property fails, and a witness of it."""
    return _difference(_square(0, 1), -0.1), np.array([[[0.5], [0.0]]], np.float32)


def _answering(monkeypatch, **answer):
    full = {"values": np.zeros(0), **answer}
    monkeypatch.setattr(solvers, "_run_worker", lambda *_: full)


@pytest.mark.parametrize("solver", solvers.SOLVERS)
@pytest.mark.parametrize(
    "status",
    ["INFEASIBLE_OR_UNBOUNDED", "UNBOUNDED", "NO_SOLUTION_FOUND", "NUMERICAL_ERROR", "OTHER_ERROR",
     "IMPRECISE", "EXCEPTION", "MODEL_INVALID", "UNKNOWN", "OPTIMAL", "FEASIBLE", "infeasible", "",
     None, 7],
)  # fmt: skip
@pytest.mark.parametrize("bound", [float("nan"), float("-inf"), None, "none"])
def test_no_status_but_infeasible_proves(monkeypatch, solver, status, bound):
    query, _ = _breakable()
    _answering(monkeypatch, status=status, bound=bound)
    evidence = MILP(solver).search(query, Deadline(10))
    verdict = judge(query, evidence, "MILP")
    assert verdict.status is Status.UNKNOWN and verdict.lower < 0 and evidence.reason


@pytest.mark.parametrize("bound", [-5.0, -1e-5, 0.0])
def test_a_dual_bound_alone_never_decides(monkeypatch, bound):
    query, _ = _breakable()
    _answering(monkeypatch, status="NO_SOLUTION_FOUND", bound=bound)
    verdict = judge(query, MILP().search(query, Deadline(10)), "MILP")
    assert verdict.status is Status.UNKNOWN and verdict.lower <= 0


@pytest.mark.parametrize("status", ["OPTIMAL", "FEASIBLE", "NO_SOLUTION_FOUND"])
def test_a_positive_dual_bound_of_the_weakest_point_never_proves(monkeypatch, status):
    query = _difference(_square(0, 1), -0.3)
    _answering(monkeypatch, status=status, bound=-0.04)
    monkeypatch.setattr(milp, "_point", lambda *_: np.full((1, 2, 1), 0.5, np.float32))
    evidence = MILP(weakest_point=True).search(query, Deadline(10))
    assert evidence.stats["dual_bound"] == pytest.approx(0.04, abs=2e-5)
    assert evidence.lower <= 0 and judge(query, evidence, "MILP").status is Status.UNKNOWN


def test_a_solver_that_was_stopped_before_it_began_has_no_bound(monkeypatch):
    """CP-SAT then reports a bound of 0, which says nothing."""
    query, _ = _breakable()
    _answering(monkeypatch, status="UNKNOWN", bound=0.0)
    assert MILP("cp-sat", weakest_point=True).search(query, Deadline(10)).lower < -0.1


def test_a_dual_bound_of_a_failed_solve_is_ignored(monkeypatch):
    query, _ = _breakable()
    _answering(monkeypatch, status="NUMERICAL_ERROR", bound=-0.1)
    assert MILP(weakest_point=True).search(query, Deadline(10)).lower < -0.1


def test_infeasible_with_a_solution_is_a_failure(monkeypatch):
    query, _ = _breakable()
    columns = milp.build(query, SOLVER_TOLERANCE).model.columns
    _answering(monkeypatch, status="INFEASIBLE", values=np.zeros(columns))
    evidence = MILP().search(query, Deadline(10))
    assert evidence.lower < 0 and "infeasible and gives a solution" in evidence.reason


def test_a_status_map_that_lies_is_caught_by_any_witness(monkeypatch):
    monkeypatch.setattr(solvers, "_INFEASIBLE", "INFEASIBLE_OR_UNBOUNDED")
    query, witness = _breakable()
    _answering(monkeypatch, status="INFEASIBLE_OR_UNBOUNDED")
    evidence = MILP().search(query, Deadline(10))
    with pytest.raises(SoundnessError):
        judge(query, dataclasses.replace(evidence, point=witness), "MILP")


def test_a_weakest_point_above_a_known_margin_raises(monkeypatch):
    query, _ = _breakable()
    _answering(monkeypatch, status="INFEASIBLE")
    with pytest.raises(SoundnessError, match="centre"):
        MILP(weakest_point=True).search(query, Deadline(10))


def test_a_point_that_does_not_break_the_property_is_no_witness(monkeypatch):
    query = _difference(_square(0, 1), -0.26)
    columns = milp.build(query, SOLVER_TOLERANCE).model.columns
    _answering(monkeypatch, status="FEASIBLE", bound=3.0, values=np.zeros(columns))
    assert _verdict(query, MILP()).status is Status.UNKNOWN


def _replace_bounds(monkeypatch, change):
    true = milp.inner_intervals

    def bounds(*arguments):
        return {v: Interval(*change(*i)) for v, i in true(*arguments).items()}

    monkeypatch.setattr(milp, "inner_intervals", bounds)


def test_crossing_or_missing_bounds_raise(monkeypatch):
    query, _ = _breakable()
    _replace_bounds(monkeypatch, lambda low, high: (high + 1e-6, high))
    with pytest.raises(SoundnessError, match="cross"):
        MILP().search(query, Deadline(10))
    monkeypatch.setattr(milp, "inner_intervals", lambda *_: {})
    with pytest.raises(ValueError, match="none for"):
        MILP().search(query, Deadline(10))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_bounds_that_are_not_finite_raise(monkeypatch, bad):
    query, _ = _breakable()
    _replace_bounds(monkeypatch, lambda low, high: (low, high + bad))
    with pytest.raises(ValueError, match="finite"):
        MILP().search(query, Deadline(10))


def test_bounds_that_are_too_tight_are_caught(monkeypatch):
    query, witness = _breakable()
    _replace_bounds(monkeypatch, lambda low, high: (low * 0 + 0.45, high * 0 + 0.5))
    with pytest.raises((SoundnessError, ValueError)):
        evidence = MILP().search(query, Deadline(10))
        judge(query, dataclasses.replace(evidence, point=witness), "MILP")


WORKERS = {
    "aborts": "import os; os.abort()",
    "is killed": "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
    "raises": "raise RuntimeError('boom')",
    "says nothing": "pass",
    "writes garbage": "import sys; open(sys.argv[2], 'wb').write(b'garbage')",
    "writes half an archive": "import sys; open(sys.argv[2], 'wb').write(b'PK\\x03\\x04' + bytes(9))",
    "has no status": "import sys, numpy as np; np.savez(sys.argv[2], report='{}', values=np.zeros(0))",
    "has no JSON": "import sys, numpy as np; np.savez(sys.argv[2], report='x', values=np.zeros(0))",
    "has a list": "import sys, numpy as np; np.savez(sys.argv[2], report='[1]', values=np.zeros(0))",
    "has wrong values": "import sys, numpy as np; np.savez(sys.argv[2], values=np.zeros(2), "
    'report=\'{"status": "INFEASIBLE"}\')',
    "exits badly after an answer": "import sys, numpy as np; np.savez(sys.argv[2], values=np.zeros(0), "
    'report=\'{"status": "INFEASIBLE"}\'); sys.exit(4)',
    "never ends": "import time; time.sleep(60)",
}


@pytest.mark.parametrize("fault", WORKERS)
def test_a_worker_that_fails_proves_nothing(monkeypatch, tmp_path, fault):
    worker = tmp_path / "worker.py"
    worker.write_text(WORKERS[fault])
    monkeypatch.setattr(solvers, "_WORKER", worker)
    monkeypatch.setattr(solvers, "GRACE", 0.2)
    query, _ = _breakable()
    start = time.monotonic()
    evidence = MILP().search(query, Deadline(1.0))
    assert time.monotonic() - start < 2.5
    verdict = judge(query, evidence, "MILP")
    assert verdict.status is Status.UNKNOWN and evidence.stats["solver_status"] == "WorkerFailure"


def test_the_solvers_own_error_is_in_the_reason(monkeypatch):
    monkeypatch.setattr(solvers, "SOLVER_FEASIBILITY", -1.0)
    query, _ = _breakable()
    evidence = MILP().search(query, Deadline(20))
    assert evidence.lower < 0 and "SCIP" in evidence.reason


@pytest.mark.parametrize("bad", [{"solver": "gurobi"}, {"time_limit": 0.0}])
def test_bad_options_raise(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        MILP(**bad)


def test_an_evidence_of_nothing_is_unknown():
    query, _ = _breakable()
    assert judge(query, Evidence(), "MILP").status is Status.UNKNOWN


# ---------------------------------------------------------------------------------------------
# Parts
# ---------------------------------------------------------------------------------------------

_WINDOWS = [
    {},
    {"window_strides": (1, 2, 2, 1)},
    {"padding": ((0, 0), (1, 0), (2, 1), (0, 0))},
    {"window_dilation": (1, 2, 1, 1)},
    {"base_dilation": (1, 2, 3, 1), "padding": ((0, 0), (1, 1), (0, 2), (0, 0))},
    {"window_dimensions": (1, 2, 2, 2), "window_strides": (1, 1, 2, 2)},
]


@pytest.mark.parametrize("change", _WINDOWS)
def test_windows_are_those_of_reduce_window(change):
    ones = (1,) * 4
    params = {
        "window_dimensions": (1, 2, 3, 1), "window_strides": ones, "padding": ((0, 0),) * 4,
        "base_dilation": ones, "window_dilation": ones, **change,
    }  # fmt: skip
    x = np.random.default_rng(0).normal(size=(1, 5, 6, 4)).astype(np.float32)
    y = np.asarray(lax.reduce_window_max_p.bind(x, **params))
    settings = tuple(sorted(params.items()))
    eqn = Equation(
        lax.reduce_window_max_p, (Variable(0, x.shape),), (Variable(1, y.shape),), settings
    )
    gathered = np.append(x.reshape(-1), -np.inf)[maxima.windows(eqn)].max(1)
    np.testing.assert_array_equal(gathered.reshape(y.shape), y)


def _random_model(rng):
    """A model with equality rows around a known solution, magnitudes over six orders."""
    columns, rows = int(rng.integers(2, 12)), int(rng.integers(1, 8))
    integer = rng.uniform(size=columns) < 0.3
    values = np.where(integer, rng.integers(0, 2, columns), rng.normal(size=columns) * 3)
    weights = rng.normal(size=(rows, columns)) * 10 ** rng.uniform(-4, 2, (rows, columns))
    weights *= rng.uniform(size=weights.shape) < 0.6
    matrix = sparse.csr_array(weights)
    exact = matrix @ values
    lower = np.where(
        integer, 0.0, values - rng.exponential(size=columns) * (rng.uniform(size=columns) < 0.8)
    )
    upper = np.where(integer, 1.0, values + rng.exponential(size=columns))
    high = np.where(rng.uniform(size=rows) < 0.5, exact, np.inf)
    objective = np.zeros(columns)
    objective[0] = 1.0
    return MixedIntegerModel(
        lower, upper, integer, matrix, exact - 1e-13, high + 1e-13, objective
    ), values


def test_every_real_solution_rounds_to_an_integer_one():
    rng, checked = np.random.default_rng(0), 0
    for _ in range(300):
        model, values = _random_model(rng)
        try:
            whole = integers.integer_relaxation(model)
        except integers.TooLarge:
            continue
        rounded = [int(v) for v in np.rint(values * whole.scale)]
        assert all(low <= v <= high for low, v, high in zip(whole.lower, rounded, whole.upper))
        for row, low, high in zip(whole.matrix.toarray(), whole.row_lower, whole.row_upper):
            total = sum(int(a) * v for a, v in zip(row, rounded))
            assert int(low) <= total <= int(high)
            assert abs(total) < 2**62
        checked += 1
    assert checked > 150


def test_rows_have_to_be_widened():
    """``3 c = 1`` has the solution 1/3, and no integer X satisfies ``3 X = 2^20``."""
    third, one = np.array([1 / 3]), np.ones(1)
    matrix = sparse.csr_array([[3.0]])
    model = MixedIntegerModel(0 * one, one, np.array([False]), matrix, one, one, one)
    whole = integers.integer_relaxation(model)
    value = int(whole.matrix.data[0]) * int(np.rint(third * whole.scale)[0])
    assert whole.row_lower[0] < value < whole.row_upper[0]
    assert value * 3 != int(whole.matrix.data[0]) * integers.SCALE


def test_an_integer_model_refuses_what_does_not_fit():
    model, _ = _random_model(np.random.default_rng(1))
    huge = dataclasses.replace(model, matrix=sparse.csr_array(model.matrix * 1e30))
    with pytest.raises(integers.TooLarge, match="orders of magnitude"):
        integers.integer_relaxation(huge)
    outcome = solvers.solve(huge, "cp-sat", Deadline(5.0))
    assert not outcome.infeasible and "orders of magnitude" in outcome.reason


def test_models_are_checked():
    model, _ = _random_model(np.random.default_rng(2))
    for field in ("lower", "upper", "objective"):
        with pytest.raises(ValueError):
            dataclasses.replace(model, **{field: getattr(model, field) * np.nan})
    with pytest.raises(ValueError, match="entries"):
        dataclasses.replace(model, row_upper=model.row_upper[1:])


def test_no_time_left_is_no_proof(monkeypatch):
    monkeypatch.setattr(solvers, "_run_worker", None)
    query, _ = _breakable()
    deadline = Deadline(1e-9)
    evidence = MILP().search(query, deadline)
    assert evidence.lower < 0 and "the time was up before it was started" in evidence.reason


def test_inner_values_are_bounded_tightly_where_many_are_undecided(monkeypatch):
    query, _ = _breakable()
    asked, true = [], milp.inner_intervals
    monkeypatch.setattr(milp, "inner_intervals", lambda q, r: asked.append(r) or true(q, r))
    tight = jmlv.AlphaCROWN(steps=1, intermediate_steps=1)
    wanted = {100: [jmlv.CROWN()], 0: [jmlv.CROWN(), tight]}
    for few, relaxations in wanted.items():
        monkeypatch.setattr(milp, "FEW", few)
        asked.clear()
        assert milp.build(query, SOLVER_TOLERANCE, MILP(tighter=tight)).undecided
        assert asked == relaxations
    asked.clear()
    milp.build(query, SOLVER_TOLERANCE, MILP(tighter=None))
    assert asked == [jmlv.CROWN()]


@pytest.mark.slow
def test_a_tighter_relaxation_decides_the_same_with_no_more_binaries():
    rng = np.random.default_rng(11)
    a, b = (jnp.asarray(rng.normal(size=s), "float32") for s in ((6, 10), (10, 8)))
    c = jnp.asarray(rng.normal(size=(8, 3)), "float32")
    net = lambda x: jax.nn.relu(jax.nn.relu(x.reshape(-1, 6) @ a - 0.5) @ b - 0.3) @ c  # noqa: E731
    graph = jmlv.trace(net, (6, 1, 1))
    decided = set()
    for seed in range(4):
        x = np.random.default_rng(seed).uniform(0.3, 0.7, (6, 1, 1)).astype("float32")
        prop = jmlv.InTopK(int(np.argmax(graph.scores(x[None])[0])), 1)
        box = jmlv.Box.around(x, np.float32(0.05 + 0.05 * seed))
        crown, tight = (
            jmlv.verify(graph, box, prop, jmlv.MILP(relaxation=relaxation))
            for relaxation in (jmlv.CROWN(), jmlv.AlphaCROWN())
        )
        assert crown.status is tight.status
        assert tight.stats.get("binaries", 0) <= crown.stats.get("binaries", 0)
        decided.add(tight.status.name)
    assert decided == {"ROBUST", "NOT_ROBUST"}
