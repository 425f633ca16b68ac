"""Budgets that hold whatever a stage does, shares of the stages, and what is left behind."""

import dataclasses
import subprocess
import sys
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from interrupts import interrupted_after
from lateness import LATE

import jmlv
from jmlv.oracles import Deadline, Evidence, Oracle, asking
from jmlv.oracles.aside import TimeUp, run_until
from jmlv.verdict import Status

X = np.array([[[0.8]], [[0.3]]], np.float32)
BOX = jmlv.Box.around(X, 0.1)
PROPERTY = jmlv.InTopK(0, k=1)


def difference(x):
    return x.reshape(x.shape[0], 2)


@dataclasses.dataclass(frozen=True)
class Deaf(Oracle):
    """Looks at no clock, as compiling does not; then it has a proof."""

    seconds: float
    name = "deaf"

    def search(self, query, deadline):
        time.sleep(self.seconds)
        return Evidence(lower=0.1, reason="slept and proved")


@dataclasses.dataclass(frozen=True)
class Clock(Oracle):
    """Writes down how much time it is given; uses it up, or nothing of it."""

    title: str
    given: list = dataclasses.field(default_factory=list)
    uses_all: bool = False

    @property
    def name(self):
        return self.title

    def search(self, query, deadline):
        self.given.append(deadline.remaining)
        if self.uses_all:
            time.sleep(deadline.remaining)
        return Evidence(reason=f"{self.name} is done")


def timed(oracle, budget):
    start = time.monotonic()
    verdict = jmlv.verify(difference, BOX, PROPERTY, oracle, budget=budget)
    return verdict, time.monotonic() - start


def test_work_is_done_left_behind_or_fails():
    assert run_until(Deadline(5), lambda own: own.passed) is False
    with pytest.raises(ZeroDivisionError):
        run_until(Deadline(5), lambda own: 1 / 0)
    heard = []
    with pytest.raises(TimeUp, match="^still running when the time was up$"):
        run_until(Deadline(0.05), lambda own: (time.sleep(1.5), heard.append(own.passed)))
    time.sleep(1.5)
    assert heard == [True], "what is left behind finds its deadline passed"


def test_work_has_the_settings_of_its_caller():
    with jax.disable_jit(), jax.default_matmul_precision("highest"):
        found = run_until(
            Deadline(5),
            lambda own: (jax.config.jax_disable_jit, jax.config.jax_default_matmul_precision),
        )
    assert found == (True, "highest")


@pytest.mark.parametrize("budget", [0.01, 0.3, 1.0])
def test_a_stage_that_looks_at_no_clock_is_left_behind(budget):
    for oracle in (Deaf(9.0), jmlv.Cascade((Deaf(9.0), Deaf(9.0)))):
        verdict, seconds = timed(oracle, budget)
        assert seconds < budget + LATE
        assert verdict.status is Status.UNKNOWN
        assert "the time was up" in verdict.reason


def test_a_deaf_stage_does_not_starve_the_next(monkeypatch):
    monkeypatch.setattr(asking, "SHARE", 0.05)
    verdict, seconds = timed(jmlv.Cascade((Deaf(15.0), jmlv.Bounds())), 12.0)
    assert verdict.robust and verdict.method == "CROWN" and seconds < 12.0
    assert verdict.stats["asked"] == ("deaf", "CROWN")


def test_a_stage_in_the_background_is_heard(monkeypatch):
    """It proves after its share is over, while the next one would go on to the end."""
    monkeypatch.setattr(asking, "SHARE", 0.05)
    endless = Clock("endless", uses_all=True)
    verdict, seconds = timed(jmlv.Cascade((Deaf(1.6), endless)), 12.0)
    assert verdict.robust and verdict.method == "deaf" and 1.5 < seconds < 10.0
    assert len(endless.given) == 1


def test_every_stage_has_a_share_and_the_last_the_rest():
    quick, first, second = Clock("quick"), Clock("first", uses_all=True), Clock("second")
    last = Clock("last", uses_all=True)
    verdict, seconds = timed(jmlv.Cascade((quick, first, second, last)), 2.0)
    # Halves of what is left; a busy machine takes something of every one.
    assert 0.3 < quick.given[0] <= 1.0 and 0.3 < first.given[0] <= 1.0
    assert 0.1 < second.given[0] <= 0.5
    assert 1.2 * second.given[0] < last.given[0] <= 1.0
    assert verdict.reason.startswith("quick is done; first is done; second is done")
    assert 1.8 < seconds < 2.0 + LATE


def test_a_stage_that_was_cut_off_has_another_turn():
    first, last = Clock("first", uses_all=True), Clock("last")
    timed(jmlv.Cascade((first, last)), 1.6)
    assert len(last.given) == 1 and len(first.given) >= 2
    assert 0.1 < first.given[1] <= 0.8, "all that is left"


def test_the_default_order():
    names = [stage.name for stage in jmlv.Cascade().stages]
    assert names == [
        "CROWN",
        "PGD",
        "alpha-CROWN",
        "branch and bound by parts",
        "input splitting",
        "branch and bound at the root",
        "MILP (scip) beside branch and bound",
    ]


def test_the_members_of_a_portfolio_work_side_by_side(monkeypatch):
    """The second one begins after the head start, both to the end; whoever decides ends it."""
    monkeypatch.setattr(asking, "HEAD_START", 0.3)
    endless = Clock("endless", uses_all=True)
    verdict, seconds = timed(jmlv.oracles.Portfolio((endless, jmlv.Bounds())), 30.0)
    assert verdict.robust and verdict.method == "CROWN" and seconds < 20
    assert verdict.stats["asked"] == ("endless", "CROWN")
    both = Clock("one", uses_all=True), Clock("other", uses_all=True)
    verdict, seconds = timed(jmlv.oracles.Portfolio(both), 1.0)
    assert verdict.status is Status.UNKNOWN and 0.9 < seconds < 1.0 + LATE
    assert both[1].given[0] <= both[0].given[0] - 0.3 + 0.05
    assert both[1].given[0] > 0.1, "all that is left, of which tracing has had its part"


def test_a_portfolio_keeps_the_better_bound_and_the_weaker_point():
    members = Known(-0.5, 0.9), Known(-0.2, 0.3), Failing()
    verdict, _ = timed(jmlv.oracles.Portfolio(members), 20.0)
    assert verdict.status is Status.UNKNOWN and verdict.lower == pytest.approx(-0.2)
    assert "failing failed" in verdict.reason
    assert verdict.upper == min(float(_query().margin_exact(m.at())) for m in members[:2])
    assert jmlv.oracles.Portfolio((jmlv.MILP(), jmlv.MILP("cp-sat"))).piecewise_linear
    assert not jmlv.oracles.Portfolio((jmlv.MILP(), jmlv.Bounds())).piecewise_linear
    with pytest.raises(ValueError, match="members"):
        jmlv.oracles.Portfolio(())


@dataclasses.dataclass(frozen=True)
class Known(Oracle):
    lower: float
    share: float
    name = "known"

    def at(self):
        query = _query()
        return query.lower + np.float32(self.share) * (query.upper - query.lower)

    def search(self, query, deadline):
        return Evidence(self.lower, self.at(), "known")


@dataclasses.dataclass(frozen=True)
class Failing(Oracle):
    name = "failing"

    def search(self, query, deadline):
        raise RuntimeError("of no use")


@dataclasses.dataclass(frozen=True)
class Compiling(Oracle):
    """Compiles a program that no process has compiled before, for seconds."""

    name = "compiling"

    def search(self, query, deadline):
        def program(x):
            x = x.reshape(1, -1) @ jnp.ones((2, 8)) + time.time()
            for i in range(150):
                x = jnp.sin(x @ jnp.ones((8, 8))) + i * x
            return x

        jax.jit(program)(query.lower).block_until_ready()
        return Evidence()


def test_a_stage_that_compiles_says_so():
    verdict, seconds = timed(Compiling(), 0.3)
    assert verdict.reason == "compiling: still compiling when the time was up"
    assert seconds < 0.3 + LATE
    told = []
    with pytest.raises(TimeUp, match="still compiling"):
        run_until(Deadline(0.5), lambda own: Compiling().search(_query(), own), told.append)
    assert told[:1] == ["compiling"]


def _query():
    return jmlv.oracles.Query.of(difference, BOX, PROPERTY)


def test_tracing_counts():
    def slow(x):
        time.sleep(1.5)
        return difference(x)

    start = time.monotonic()
    verdict = jmlv.verify(slow, BOX, PROPERTY, budget=0.1)
    assert time.monotonic() - start < 0.1 + LATE
    assert verdict.status is Status.UNKNOWN and verdict.reason.startswith("reading the network")


def test_an_interrupt_is_raised_at_once_and_ends_the_work():
    seen = []

    @dataclasses.dataclass(frozen=True)
    class Looking(Oracle):
        name = "looking"

        def search(self, query, deadline):
            while not deadline.passed:
                time.sleep(0.01)
            seen.append(threading.current_thread() is not threading.main_thread())
            return Evidence()

    for oracle in (Looking(), jmlv.Cascade((Looking(),))):
        with interrupted_after(0.4), pytest.raises(KeyboardInterrupt):
            jmlv.verify(difference, BOX, PROPERTY, oracle, budget=None)
        time.sleep(0.2)
    assert seen == [True, True]


LEAVING = """
import sys
sys.path[:0] = ["tests", "tests/oracles"]
import test_budgets as t
verdict, seconds = t.timed(t.Compiling(), 0.3)
print(verdict.reason)
sys.exit(7)
"""


def test_the_process_ends_under_what_is_left_behind():
    """Without a sound, a crash, or another exit code."""
    run = subprocess.run(
        [sys.executable, "-c", LEAVING], capture_output=True, text=True, timeout=400
    )
    assert run.returncode == 7, run.stderr
    assert "still compiling" in run.stdout and not run.stderr


def test_stages_at_work_at_a_time_are_few(monkeypatch):
    at_work, most = [], []
    asked_enough = threading.Event()

    @dataclasses.dataclass(frozen=True)
    class Busy(Oracle):
        number: int
        name = "busy"

        def search(self, query, deadline):
            at_work.append(self.number)
            most.append(len(at_work))
            asked_enough.wait(60)
            return Evidence()

    monkeypatch.setattr(asking, "GRACE", 0.05)
    monkeypatch.setattr(asking, "SHARE", 0.05)
    timed(jmlv.Cascade(tuple(map(Busy, range(6)))), 2.0)
    asked_enough.set()
    assert most == [1, asking.AT_ONCE], "the third waits for room, and time is up"
