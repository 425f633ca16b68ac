"""Label sets against brute force, ties, closure, broken rules, and files that processes share."""

from __future__ import annotations

import dataclasses
import itertools
import json
import subprocess
import sys
import time
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from lateness import LATE
from tiny_networks import HIDDEN, LABELS, Drawn

import jmlv
from jmlv.bounds import CROWN, IBP, Interval
from jmlv.errors import DamagedFile
from jmlv.labels import LabelSet, LabelStatus, Origin, batch, stages
from jmlv.labels.board import Board
from jmlv.labels.classify import Plan
from jmlv.labels.store import Store, query_key
from jmlv.oracles import MILP, PGD, Bounds, Deadline, Evidence, Oracle, Query, SoundnessError
from jmlv.verdict import Status, Verdict

ALWAYS, NEVER, BOTH, UNKNOWN = LabelStatus
QUICK = Plan((PGD(restarts=4, steps=12), CROWN()), oracle=None)


def status(f, lower, upper, k, plan=QUICK, oracle=None, **options):
    box = jmlv.Box.between(np.asarray(lower, np.float32), np.asarray(upper, np.float32))
    return jmlv.classify_labels(f, box, k, oracle, plan=plan, **options).status


def row(*values):
    """An image of one row and one channel."""
    return np.asarray(values, np.float32).reshape(1, -1, 1)


# ---------------------------------------------------------------------------------------------
# Brute force: networks with one hidden layer and two pixels
# ---------------------------------------------------------------------------------------------


class Tiny(Drawn):
    """And a box. With k = 2 of four labels one compiled attack serves both sides."""

    @property
    def box(self):
        rng = np.random.default_rng([self.seed, 1])
        return jmlv.Box.around(
            rng.random((1, 2, 1), np.float32), np.float32(rng.choice([0.02, 0.1, 0.3]))
        )

    k = 2

    def ranges(self):
        """The exact least and greatest margin of every label, (label, 2).

        In each cell of an activation pattern scores are affine, so a margin is extreme where two of
        these lines cross: hidden units at zero, the box's edges, and two labels' scores equal.
        """
        a, b, c, d = (w.astype(float) for w in self.weights)
        low, high = (np.asarray(end, float).reshape(2) for end in (self.box.lower, self.box.upper))
        edges = [(*axis, -end[i]) for i, axis in enumerate(np.eye(2)) for end in (low, high)]
        fixed = np.concatenate([np.column_stack([a.T, b]), edges])
        points = [np.array(list(itertools.product(*zip(low, high))))]
        for on in itertools.product((0.0, 1.0), repeat=HIDDEN):
            affine = np.column_stack([(a * on @ c).T, b * on @ c + d])
            pairs = list(itertools.combinations(range(LABELS), 2))
            equal = np.array([affine[i] - affine[j] for i, j in pairs])
            points.append(_crossings(np.concatenate([fixed, equal])))
        points = np.concatenate(points)
        inside = (
            np.isfinite(points).all(1)
            & (points >= low - 1e-9).all(1)
            & (points <= high + 1e-9).all(1)
        )
        margins = _margins(self.scores(np.clip(points[inside], low, high)), self.k)
        return np.stack([margins.min(0), margins.max(0)], -1)


def _crossings(lines):
    first, second = (lines[list(i)] for i in zip(*itertools.combinations(range(len(lines)), 2)))
    with np.errstate(divide="ignore", invalid="ignore"):
        homogeneous = np.cross(first, second)
        return homogeneous[:, :2] / homogeneous[:, 2:]


def _margins(scores, k):
    """Score minus the k-th largest of the others' scores, written out anew."""
    others = [np.sort(np.delete(scores, label, -1), -1)[..., -k] for label in range(LABELS)]
    return scores - np.stack(others, -1)


CLEAR = 1e-4
"""Closer to zero than this, an extreme margin is left out: solvers may say unknown there."""


def expected(extremes):
    """The exact status of a label, and whether its extremes are clear of zero."""
    least, most = extremes
    value = ALWAYS if least > 0 else NEVER if most < 0 else BOTH
    return value, min(abs(least), abs(most)) > CLEAR


@pytest.fixture(scope="module")
def tiny():
    """150 networks: exact ranges, and what attack and CROWN say of them."""
    nets = [Tiny(seed) for seed in range(150)]
    return [
        (net, net.ranges(), jmlv.classify_labels(net.graph, net.box, net.k, plan=QUICK))
        for net in nets
    ]


def test_the_exact_ranges_contain_a_dense_grid(tiny):
    share = np.stack(np.meshgrid(*[np.linspace(0, 1, 41)] * 2), -1).reshape(-1, 2)
    for net, ranges, _ in tiny:
        low, high = (np.asarray(end, float).reshape(2) for end in (net.box.lower, net.box.upper))
        margins = _margins(net.scores(low + share * (high - low)), net.k)
        assert (margins.min(0) >= ranges[:, 0] - 1e-9).all() and (
            margins.max(0) <= ranges[:, 1] + 1e-9
        ).all()
        assert (margins.min(0) <= ranges[:, 0] + 0.3).all()


def test_attack_and_bounds_never_contradict_brute_force(tiny):
    settled = 0
    for net, ranges, result in tiny:
        for answer, extremes in zip(result.answers, ranges):
            exact, _ = expected(extremes)
            if answer.status is not UNKNOWN:
                settled += 1
                assert answer.status is exact, (net, answer, extremes)
            assert answer.proven[0] <= extremes[0] + 1e-9 and extremes[1] <= answer.proven[1] + 1e-9
            assert (
                answer.reached[0] >= extremes[0] - 1e-9 and extremes[1] >= answer.reached[1] - 1e-9
            )
    assert 0.85 < settled / (len(tiny) * LABELS) < 1
    found = [status for _, _, result in tiny for status in result.status]
    assert min(found.count(kind) for kind in (ALWAYS, NEVER, BOTH)) > 50


def test_witnesses_replay_on_both_sides(tiny):
    for net, _, result in tiny:
        for answer in result.answers:
            if answer.status is BOTH:
                for verdict, sign in ((answer.always, 1), (answer.never, -1)):
                    assert net.box.contains(verdict.witness)
                    scores = net.scores(verdict.witness.reshape(2).astype(float))
                    assert sign * _margins(scores, net.k)[answer.label] <= 1e-9


def _open(tiny):
    return [(net, ranges, result) for net, ranges, result in tiny if UNKNOWN in result.status]


@pytest.mark.parametrize("solver, count", [("scip", 10), ("cp-sat", 3)])
def test_complete_solvers_settle_what_is_left(tiny, solver, count):
    asked = _open(tiny)[:count]
    assert len(asked) == count
    for net, ranges, before in asked:
        plan = dataclasses.replace(QUICK, oracle=MILP(solver))
        result = jmlv.classify_labels(net.graph, net.box, net.k, plan=plan)
        for answer, extremes, old in zip(result.answers, ranges, before.status):
            exact, clear = expected(extremes)
            assert answer.status is exact or (answer.status is UNKNOWN and not clear)
            assert old in (UNKNOWN, answer.status)


@pytest.mark.parametrize("seed", [3, 8])
def test_a_complete_solver_alone_agrees_with_brute_force(seed):
    """Without a bound, a centre's point or an attack before it: every proof is the solver's or closure's."""
    net = Tiny(seed)
    result = jmlv.classify_labels(net.graph, net.box, net.k, MILP(), plan=Plan((), None))
    assert {"MILP (scip)"} <= set(result.stages) <= {"MILP (scip)", "closure"}
    assert list(result.status) == [expected(extremes)[0] for extremes in net.ranges()]


# ---------------------------------------------------------------------------------------------
# Ties
# ---------------------------------------------------------------------------------------------


def linear(weights):
    """Scores of three pixels; with weights 0 and 1 they are exact. One structure for all tests."""
    weights = jnp.asarray(weights, jnp.float32)
    return lambda x: x.reshape(x.shape[0], 3) @ weights


first_three = linear(np.eye(3))


def test_two_equal_labels_at_the_border_are_both():
    f = linear([[1, 1, 0], [0, 0, 1], [0, 0, 0]])
    low, high = row(0.6, 0.1, 0), row(0.8, 0.3, 0)
    assert status(f, low, high, 1) == (BOTH, BOTH, NEVER)
    assert status(f, low, high, 2) == (ALWAYS, ALWAYS, NEVER)


def test_a_tie_in_one_corner_decides():
    """Labels 0 and 1 meet at 0.5, in the box or just outside it."""
    touching = row(0.5, 0.2, 0.0), row(0.75, 0.5, 0.1)
    assert status(first_three, *touching, 1) == (BOTH, BOTH, NEVER)
    apart = row(0.515625, 0.2, 0.0), row(0.75, 0.5, 0.1)
    assert status(first_three, *apart, 1) == (ALWAYS, NEVER, NEVER)
    above = np.nextafter(np.float32(0.5), np.float32(1))
    nearly = status(first_three, row(above, 0.2, 0.0), row(0.75, 0.5, 0.1), 1)
    assert nearly == (UNKNOWN, UNKNOWN, NEVER), "closer than any tolerance: nothing may be claimed"


def test_constant_scores_are_both_for_every_k():
    for k in (1, 2):
        assert status(linear(np.zeros((3, 3))), row(0, 0, 0), row(1, 1, 1), k) == (BOTH,) * 3


def test_a_single_point_is_decided_by_its_order():
    x = row(0.9, 0.5, 0.1)
    assert status(first_three, x, x, 1) == (ALWAYS, NEVER, NEVER)
    assert status(first_three, x, x, 2) == (ALWAYS, ALWAYS, NEVER)


# ---------------------------------------------------------------------------------------------
# Closure and the order of stages
# ---------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Only(Oracle):
    """Proves a fixed margin for the listed properties and knows nothing else."""

    known: tuple = ()

    @property
    def name(self):
        return "only"

    def search(self, query, deadline):
        return Evidence(0.25) if query.property in self.known else Evidence(reason="not mine")


APART = row(0.9, 0.6, 0.3), row(0.9, 0.6, 0.3)


def test_k_labels_always_leave_the_rest_never():
    known = jmlv.InTopK(0, 2), jmlv.InTopK(1, 2)
    result = jmlv.classify_labels(
        first_three, jmlv.Box(*APART), 2, Only(known), plan=Plan((), None)
    )
    assert result.status == (ALWAYS, ALWAYS, NEVER)
    assert result.stages == {"only": 2, "closure": 1}
    assert result.answers[2].never.lower == pytest.approx(0.25)


def test_the_others_never_leave_the_rest_always():
    known = jmlv.NotInTopK(1, 1), jmlv.NotInTopK(2, 1)
    result = jmlv.classify_labels(
        first_three, jmlv.Box(*APART), 1, Only(known), plan=Plan((), None)
    )
    assert result.status == (ALWAYS, NEVER, NEVER)
    assert result.stages == {"only": 2, "closure": 1}
    assert result.answers[0].always.lower == pytest.approx(0.25)


def test_too_many_always_are_a_defect():
    """Proofs that cannot all be true, had they come past the point that breaks one of them."""
    board = _board(0.3, k=1)
    with pytest.raises(SoundnessError, match="but a witness reaches"):
        board.tell(board.always[1], Evidence(0.5), "wrong")
    for question in board.always[:2]:
        question.verdict = Verdict(Status.ROBUST, 0.5)
    with pytest.raises(SoundnessError, match="room for 1"):
        stages.close(board)


def test_always_and_never_together_are_a_defect():
    board = _board(0.3, k=1)
    board.tell(board.always[0], Evidence(0.05), "right")
    board.never[0].verdict = Verdict(Status.ROBUST, 0.5)
    with pytest.raises(SoundnessError, match="both proven"):
        board.status(0)


def test_every_point_is_tried_on_every_label():
    """Attacks on one label answer for the others; no oracle is asked."""
    full = row(0, 0, 0), row(1, 1, 1)
    result = jmlv.classify_labels(first_three, jmlv.Box(*full), 1, Only(), plan=QUICK)
    assert result.status == (BOTH,) * 3 and set(result.stages) <= {"PGD", "centre"}


def test_unsettled_labels_have_both_bounds():
    """A planted corner that a weak attack misses and CROWN cannot exclude."""
    net = next(net for net in map(Tiny, range(300)) if _is_open(net))
    result = jmlv.classify_labels(net.graph, net.box, net.k, plan=QUICK)
    for answer in result.answers:
        if answer.status is UNKNOWN:
            assert answer.stage == "open" and np.isfinite([*answer.proven, *answer.reached]).all()
            assert answer.proven[0] <= answer.reached[0] <= answer.reached[1] <= answer.proven[1]
            assert Status.UNKNOWN in (answer.always.status, answer.never.status)
            assert answer.proven[0] <= 0 <= answer.proven[1]


def _is_open(net):
    return UNKNOWN in jmlv.classify_labels(net.graph, net.box, net.k, plan=QUICK).status


# ---------------------------------------------------------------------------------------------
# Broken rules, bad arguments, budgets
# ---------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class BrokenBound(CROWN):
    """CROWN with a broken rule: every lower bound on a row is too high."""

    def rows(self, graph, lower, upper, coefficients, offsets):
        low, high = super().rows(graph, lower, upper, coefficients, offsets)
        return Interval(low + 1, high)


def _board(width, k):
    query = Query.of(first_three, jmlv.Box.around(row(0.6, 0.5, 0.4), width), jmlv.InTopK(0, k))
    return Board(query, k, Deadline(None))


def test_a_broken_bound_is_caught():
    plan = dataclasses.replace(QUICK, stages=(QUICK.stages[0], BrokenBound()))
    box = jmlv.Box.around(row(0.6, 0.5, 0.1), 0.08)
    assert jmlv.classify_labels(first_three, box, 1, plan=QUICK).status == (BOTH, BOTH, NEVER)
    caught = 0
    for seed in range(40):
        net = Tiny(seed)
        try:
            result = jmlv.classify_labels(net.graph, net.box, net.k, plan=plan)
        except SoundnessError:
            caught += 1
        else:
            wrong = [
                s for s, e in zip(result.status, net.ranges()) if s not in (expected(e)[0], UNKNOWN)
            ]
            assert not wrong, "a wrong answer got out"
    assert caught >= 5


def test_a_broken_closure_is_caught():
    board = _board(0.2, k=2)
    stages.look_at_centre(board)
    with pytest.raises(SoundnessError, match="but a witness reaches"):
        board.always[0].evidence = dataclasses.replace(board.always[0].evidence, lower=0.5)
        board.always[0].judge("wrong")
        stages._imply(board, [board.always[0]], board.never)


@dataclasses.dataclass(frozen=True)
class Sleeping(Oracle):
    """Takes all the time that it is given."""

    name = "sleeping"

    def search(self, query, deadline):
        time.sleep(deadline.remaining)
        return Evidence(reason="slept")


def test_budgets_are_shared_and_honoured():
    box = jmlv.Box.around(row(0.6, 0.5, 0.4), 0.05)
    jmlv.classify_labels(first_three, box, 1, plan=Plan((), None))
    start = time.monotonic()
    result = jmlv.classify_labels(first_three, box, 1, Sleeping(), plan=Plan((), None), budget=1.2)
    assert 1.1 < time.monotonic() - start < 1.2 + LATE
    assert result.status == (UNKNOWN,) * 3 and result.stages == {"open": 3}
    seconds = [answer.seconds for answer in result.answers]
    assert min(seconds) > 0.2 and sum(seconds) == pytest.approx(result.seconds, abs=0.6)
    assert "slept" in result.answers[0].always.reason


def test_arguments_are_checked_before_any_work():
    box = jmlv.Box.around(row(0.6, 0.5, 0.4), 0.1)
    for k in (0, 3):
        with pytest.raises(ValueError, match="k: must be in 1..2"):
            jmlv.classify_labels(first_three, box, k)
    with pytest.raises(ValueError, match="budget: must be"):
        jmlv.classify_labels(first_three, box, 1, budget=-1)
    with pytest.raises(ValueError, match="budget: must be"):
        jmlv.classify_labels_batch(first_three, [box], 1, budget=0)
    with pytest.raises(ValueError, match="region: f takes"):
        jmlv.classify_labels_batch(first_three, [box, jmlv.Box.around(row(0.5), 0.1)], 1)
    with pytest.raises(TypeError, match="stages: expected"):
        Plan((Bounds(),))


@dataclasses.dataclass(frozen=True)
class Deaf(Oracle):
    """Looks at no clock, as compiling does not."""

    name = "deaf"

    def search(self, query, deadline):
        time.sleep(4.0)
        return Evidence(lower=0.01)


@dataclasses.dataclass(frozen=True)
class DeafBound(CROWN):
    """Likewise; a jitted function sleeps while it is traced."""

    def rows(self, *arguments):
        time.sleep(4.0)
        return super().rows(*arguments)


@pytest.mark.parametrize("budget", [0.01, 0.5])
def test_what_looks_at_no_clock_is_left_behind(budget):
    box = jmlv.Box.around(row(0.6, 0.5, 0.4), 0.3)
    for plan in (Plan((), Deaf()), Plan((DeafBound(),), None)):
        start = time.monotonic()
        result = jmlv.classify_labels(first_three, box, 1, plan=plan, budget=budget)
        assert time.monotonic() - start < budget + LATE
        assert result.seconds < budget + LATE and len(result.answers) == 3
        for label in result.labels(UNKNOWN):
            answer = result.answers[label]
            assert "the time was up" in answer.always.reason + answer.never.reason


def test_a_late_stage_leaves_time_for_the_next():
    """The bound is left behind at half of the time; an attack and an oracle answer after it."""
    box = jmlv.Box.around(row(0.6, 0.5, 0.4), 0.3)
    plan = Plan((DeafBound(), *QUICK.stages), None)
    jmlv.classify_labels(first_three, box, 1, plan=QUICK)
    result = jmlv.classify_labels(first_three, box, 1, plan=plan, budget=3.0)
    assert result.status == (BOTH,) * 3 and result.seconds < 3.0


def test_what_was_settled_stands_when_time_is_up():
    box = jmlv.Box.around(row(0.6, 0.5, 0.1), 0.06)
    plan = Plan(QUICK.stages, Deaf())
    jmlv.classify_labels(first_three, box, 1, plan=QUICK)
    result = jmlv.classify_labels(first_three, box, 1, plan=plan, budget=2.0)
    assert result.status[2] is NEVER and "NOT_ROBUST" not in repr(result.answers[2].never)


def test_tracing_counts():
    def slow(x):
        time.sleep(1.2)
        return first_three(x)

    box = jmlv.Box.around(row(0.6, 0.5, 0.4), 0.3)
    for verb, region in ((jmlv.classify_labels, box), (jmlv.classify_labels_batch, [box])):
        found = verb(slow, region, 1, plan=QUICK, budget=0.1)
        result = found if isinstance(found, LabelSet) else found[0]
        assert result.status == (UNKNOWN,) * 3 and result.seconds < 0.1 + 1.2 + LATE
        assert result.answers[0].never.reason.startswith("reading the network")


# ---------------------------------------------------------------------------------------------
# Many images, one file
# ---------------------------------------------------------------------------------------------

BOXES = [jmlv.Box.around(row(0.6, 0.5, 0.4), np.float32(0.01 * i)) for i in range(6)]


def same(a: LabelSet, b: LabelSet) -> bool:
    pairs = [(x, y) for x, y in zip(a.answers, b.answers)]
    return a.k == b.k and all(
        (x.always, x.never, x.stage, x.seconds) == (y.always, y.never, y.stage, y.seconds)
        for x, y in pairs
    )


def test_a_record_keeps_everything():
    result = jmlv.classify_labels(first_three, BOXES[5], 1, plan=QUICK)
    assert result.counts["both"] == 2 and result.labels(NEVER) == (2,)
    restored = LabelSet.from_dict(json.loads(json.dumps(result.as_dict(), allow_nan=False)))
    assert same(result, restored) and restored.status == result.status
    assert "2 both" in repr(result) and "both by" in repr(result.answers[0])


def _counting(monkeypatch, stop=None):
    calls = []
    settle = batch.settle

    def counted(query, *rest):
        if len(calls) == stop:
            raise KeyboardInterrupt
        calls.append(query)
        return settle(query, *rest)

    monkeypatch.setattr(batch, "settle", counted)
    return calls


def test_an_interrupted_run_resumes_and_loses_nothing(tmp_path, monkeypatch):
    path = tmp_path / "deep" / "labels.jsonl"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        _counting(patch, stop=3)
        jmlv.classify_labels_batch(first_three, BOXES, 1, plan=QUICK, path=path)
    assert path.read_text().count("\n") == 3
    with path.open("ab") as file:
        file.write(b'{"key": "torn')
    calls = _counting(monkeypatch)
    results = jmlv.classify_labels_batch(first_three, BOXES, 1, plan=QUICK, path=path)
    assert len(calls) == 3 and len(results) == 6
    lines = path.read_text().splitlines()
    assert len(lines) == 6 and all(json.loads(line)["k"] == 1 for line in lines)
    again = jmlv.classify_labels_batch(first_three, BOXES, 1, plan=QUICK, path=path)
    assert len(calls) == 3 and all(map(same, results, again))
    jmlv.classify_labels_batch(first_three, BOXES, 2, plan=QUICK, path=path)
    assert len(calls) == 9, "another k is another query"


@dataclasses.dataclass(frozen=True)
class Impatient(Oracle):
    """Proves what is true if it has five seconds, and otherwise only about the last label."""

    name = "impatient"

    def search(self, query, deadline):
        if deadline.remaining < 5 and query.property.label != 2:
            return Evidence(reason="no time")
        return Bounds().search(query, deadline)


def test_open_labels_are_taken_up_again_with_a_larger_budget(tmp_path, monkeypatch):
    path, box, plan = tmp_path / "labels.jsonl", BOXES[1], Plan((), Impatient())
    calls = _counting(monkeypatch)

    def settled(budget):
        return jmlv.classify_labels_batch(
            first_three, [box], 1, plan=plan, budget=budget, path=path
        )[0]

    first = settled(3.0)
    assert first.origin is Origin.NEW and first.status == (UNKNOWN, UNKNOWN, NEVER)
    again = settled(2.0)
    assert again.origin is Origin.RESTORED and len(calls) == 1, "less time settles no more"
    assert "read from the file" in repr(again)
    more = settled(100.0)
    assert more.origin is Origin.RESUMED and more.status == (ALWAYS, NEVER, NEVER)
    assert len(calls) == 2 and more.answers[2].always == first.answers[2].always
    for budget in (200.0, None, 1.0):
        assert same(settled(budget), more), "nothing is open any more"
    assert len(calls) == 2 and path.read_text().count("\n") == 2


def test_without_a_file_the_answers_are_the_same():
    plain = jmlv.classify_labels_batch(first_three, BOXES, 1, plan=QUICK)
    assert [r.status for r in plain] == [
        jmlv.classify_labels(first_three, b, 1, plan=QUICK).status for b in BOXES
    ]


@pytest.mark.parametrize("line", [b"not json", b'{"k": 1}', b"[]", b"", b'{"key": "other"}\xff'])
def test_a_damaged_line_is_named(tmp_path, line):
    path = tmp_path / "labels.jsonl"
    jmlv.classify_labels_batch(first_three, BOXES[:1], 1, plan=QUICK, path=path)
    path.write_bytes(path.read_bytes() + line + b"\n")
    with pytest.raises(DamagedFile, match="line 2 of .*labels.jsonl"):
        jmlv.classify_labels_batch(first_three, BOXES[:2], 1, plan=QUICK, path=path)


def test_a_damaged_record_is_named(tmp_path):
    path = tmp_path / "labels.jsonl"
    jmlv.classify_labels_batch(first_three, BOXES[5:], 1, plan=QUICK, path=path)
    record = json.loads(path.read_text())
    for change in ({"points": []}, {"points": ["AAAA"]}, {"answers": [{}]}, {"shape": [7, 7]}):
        path.write_text(json.dumps({**record, **change}) + "\n")
        with pytest.raises(DamagedFile, match="record .* is damaged"):
            jmlv.classify_labels_batch(first_three, BOXES[5:], 1, plan=QUICK, path=path)


def test_a_torn_line_longer_than_a_block_is_dropped(tmp_path):
    path = tmp_path / "labels.jsonl"
    with Store(path) as store:
        path.write_bytes(b'{"key": "a"}\n' + b"x" * 200_000)
        store.append({"key": "b"})
        assert list(store.known()) == ["a", "b"]
        path.write_bytes(b"x" * 200_000)
        store.append({"key": "c"})
    assert path.read_bytes() == b'{"key": "c"}\n'


def test_the_key_is_of_everything_that_matters():
    def other(x):
        return first_three(x) * jnp.float32(1.5)

    query = Query.of(first_three, BOXES[1], jmlv.InTopK(0, 1))
    key = query_key(query, 1, QUICK)
    assert key == query_key(query.about(jmlv.InTopK(1, 1)), 1, QUICK)
    different = [
        query_key(query, 2, QUICK),
        query_key(query, 1, Plan()),
        query_key(Query.of(first_three, BOXES[2], jmlv.InTopK(0, 1)), 1, QUICK),
        query_key(Query.of(other, BOXES[1], jmlv.InTopK(0, 1)), 1, QUICK),
        *(query_key(Query.of(Tiny(s).graph, Tiny(0).box, jmlv.InTopK(0, 1)), 1) for s in (0, 1)),
    ]
    assert len({key, *different}) == 7


WORKER = """
import sys, time
import numpy as np, jmlv
from jmlv.labels import batch
from jmlv.labels.classify import Plan
count, settle = 0, batch.settle
def counted(*arguments):
    global count
    count += 1
    time.sleep(0.15)
    return settle(*arguments)
batch.settle = counted
image = np.array([0.6, 0.5, 0.4], np.float32).reshape(1, 3, 1)
boxes = [jmlv.Box.around(image, np.float32(0.01 * i)) for i in range(12)]
f = lambda x: x.reshape(x.shape[0], -1)
results = jmlv.classify_labels_batch(f, boxes, 1, plan=Plan((), None), path=sys.argv[1])
print(count, len(results))
"""


def test_two_processes_share_one_file(tmp_path):
    path = tmp_path / "labels.jsonl"
    command = [sys.executable, "-c", WORKER, str(path)]
    workers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = [worker.communicate(timeout=120)[0].split() for worker in workers]
    assert all(worker.returncode == 0 for worker in workers)
    assert [int(total) for _, total in outputs] == [12, 12]
    assert sum(int(count) for count, _ in outputs) == 12, "no image is settled twice"
    keys = [json.loads(line)["key"] for line in path.read_text().splitlines()]
    assert len(keys) == len(set(keys)) == 12


def test_bounds_that_are_loose_stay_sound():
    for seed in range(40):
        net = Tiny(seed)
        plan = Plan((IBP(),), None)
        for answer, extremes in zip(
            jmlv.classify_labels(net.graph, net.box, net.k, plan=plan).answers, net.ranges()
        ):
            assert answer.status in (UNKNOWN, expected(extremes)[0])
            assert answer.proven[0] <= extremes[0] + 1e-6 and extremes[1] <= answer.proven[1] + 1e-6


# ---------------------------------------------------------------------------------------------
# The published networks
# ---------------------------------------------------------------------------------------------

SHARED = Path(__file__).parents[3] / "shared" / "data" / "mulloc"


@pytest.mark.skipif(
    not SHARED.is_dir(), reason="the published networks are not in ../shared/data/mulloc"
)
@pytest.mark.slow
def test_nested_boxes_of_published_images_never_contradict():
    """What holds in a box holds in every smaller one; what is broken stays broken in larger ones."""
    import published

    radii = 0.0001, 0.001, 0.01, 0.1
    for x in published.images().images[:1]:
        boxes = [jmlv.Box.around(x, np.float32(radius)) for radius in radii]
        results = jmlv.classify_labels_batch(published.network("x2"), boxes, 2, plan=QUICK)
        for history in zip(*(result.status for result in results)):
            settled = [status for status in history if status is not UNKNOWN]
            certain = [status for status in settled if status is not BOTH]
            assert len(set(certain)) <= 1 and settled == certain + [BOTH] * (
                len(settled) - len(certain)
            )
        assert set(results[0].status) == {ALWAYS, NEVER} and results[-1].status == (BOTH,) * 10
