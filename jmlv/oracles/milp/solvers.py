"""Runs a mixed-integer model on a solver, one process a solve, and reads what it answers.

A solver's word is taken for one thing only: the status *infeasible*. Every other ending, a killed
or crashed process and a damaged answer among them, proves nothing and says why.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from jmlv.numerics import SOLVER_FEASIBILITY
from jmlv.oracles.deadline import NEVER, Deadline
from jmlv.oracles.milp.integers import IntegerModel, TooLarge, integer_relaxation
from jmlv.oracles.milp.mixed_integer import MixedIntegerModel

SOLVERS = ("scip", "cp-sat")

POLL = 0.05
"""Seconds between two looks at whether the deadline has passed."""

GRACE = 0.7
"""Seconds after its time limit at which a solver's process is killed."""

RESERVE = 0.1
"""Seconds before its time limit at which a solver is asked to stop, to hand over what it has."""

MEMORY_MIB = 4096
"""Memory limit of one solve; the process is allowed twice as much."""

_WORKER = Path(__file__).with_name("_worker.py")

_INFEASIBLE = "INFEASIBLE"
_WITH_BOUND = {
    "scip": frozenset({"OPTIMAL", "FEASIBLE", "NO_SOLUTION_FOUND"}),
    "cp-sat": frozenset({"OPTIMAL", "FEASIBLE"}),  # stopped before it began, its bound is just 0
}
_OPTIMAL = "OPTIMAL"


@dataclasses.dataclass(frozen=True, eq=False)
class Outcome:
    """What a solve came to.

    Attributes:
        infeasible: the solver says that the model has no solution.
        optimal: the solver says that ``values`` maximise the objective.
        values: the best solution found, or None.
        bound: no solution has a larger objective; ``inf`` where nothing is proven.
        status: the solver's own word.
        reason: one sentence on what happened.
        stats: nodes, seconds.
    """

    infeasible: bool = False
    optimal: bool = False
    values: Float[np.ndarray, " column"] | None = None
    bound: float = np.inf
    status: str = ""
    reason: str = ""
    stats: Mapping[str, Any] = dataclasses.field(default_factory=dict)


class WorkerFailure(Exception):
    """The solver's process gave no usable answer."""


def solve(
    model: MixedIntegerModel,
    solver: str = "scip",
    deadline: Deadline = NEVER,
    *,
    first: bool = False,
) -> Outcome:
    """Maximises the model's objective, one thread, within a time limit that is kept from outside.

    For the first solution SCIP runs without cutting planes: on layered queries of small networks
    with max pools that was two to twenty times as fast; for the optimum it was not.

    Args:
        model: the model.
        solver: ``"scip"``, or ``"cp-sat"``: exact arithmetic on an integer relaxation
            (:mod:`jmlv.oracles.milp.integers`), for small models.
        deadline: of the solver; its process is killed `GRACE` seconds later. It may be moved
            forward while the solver is at work.
        first: stop at the first solution. The objective still leads the search there.

    Returns:
        The outcome. A failure of the solver is an outcome that proves nothing.

    Raises:
        ValueError: no such solver.
    """
    if solver not in SOLVERS:
        raise ValueError(f"solver: expected one of {SOLVERS}, got {solver!r}.")
    start = time.monotonic()
    try:
        integers = integer_relaxation(model) if solver == "cp-sat" else None
        request = _request(model if integers is None else integers)
        answer = _run_worker(request, solver, deadline, first)
        outcome = _read(answer, solver, model, integers)
    except (TooLarge, WorkerFailure) as failure:
        outcome = Outcome(status=type(failure).__name__, reason=f"{solver}: {failure}")
    stats = {**outcome.stats, "solver_seconds": time.monotonic() - start}
    return dataclasses.replace(outcome, stats=stats)


def _request(model: MixedIntegerModel | IntegerModel) -> dict[str, np.ndarray]:
    names = ("lower", "upper", "row_lower", "row_upper", "objective")
    arrays = {name: getattr(model, name) for name in names}
    parts = {name: getattr(model.matrix, name) for name in ("data", "indices", "indptr")}
    integer = {"integer": model.integer} if isinstance(model, MixedIntegerModel) else {}
    return arrays | parts | integer


def _run_worker(
    arrays: dict[str, np.ndarray], solver: str, deadline: Deadline, first: bool
) -> dict[str, Any]:
    """Sends the arrays to a fresh process and returns its report, ``values`` included.

    Raises:
        WorkerFailure: it crashed, was killed, or its answer cannot be read.
    """
    options = json.dumps(_options(solver, deadline.remaining, first))
    with tempfile.TemporaryDirectory(prefix="jmlv-") as folder:
        request, result, log = (Path(folder, name) for name in ("request.npz", "result.npz", "log"))
        np.savez(request, options=options, **arrays)
        with log.open("wb") as output, _process([str(request), str(result)], output) as process:
            code = _ended(process, deadline)
        return _load(result, code, log.read_text(errors="replace"))


def _ended(process: subprocess.Popen, deadline: Deadline) -> int:
    """The exit code, once the process ends by itself.

    Raises:
        WorkerFailure: it did not by the deadline.
    """
    while deadline.overdue <= GRACE:
        try:
            return process.wait(POLL)
        except subprocess.TimeoutExpired:
            continue
    raise WorkerFailure(f"killed at the time limit of {deadline.elapsed - GRACE:.3g} s")


def _options(solver: str, seconds: float, first: bool) -> dict[str, Any]:
    return {
        "solver": solver,
        "first": first,
        "until": time.time() + seconds if np.isfinite(seconds) else None,
        "reserve": RESERVE,
        "feasibility": SOLVER_FEASIBILITY,
        "memory_mib": MEMORY_MIB,
    }


@contextlib.contextmanager
def _process(arguments: list[str], output: Any) -> Iterator[subprocess.Popen]:
    """A worker that is dead when the block is left, whatever ends it."""
    command = [sys.executable, "-P", str(_WORKER), *arguments]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=output, stderr=output)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdin.close()


def _load(result: Path, code: int, log: str) -> dict[str, Any]:
    if code != 0 or not result.exists():
        raise WorkerFailure(f"its process ended with code {code}: {_last_line(log)}")
    try:
        with np.load(result, allow_pickle=False) as archive:
            report = json.loads(str(archive["report"]))
            return {**report, "values": archive["values"]}
    except (ValueError, KeyError, TypeError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise WorkerFailure(f"its answer cannot be read: {error!r}") from None


def _last_line(log: str) -> str:
    lines = [line for line in log.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "no message"


def _read(
    answer: Mapping[str, Any], solver: str, model: MixedIntegerModel, integers: IntegerModel | None
) -> Outcome:
    """The verdict rule on solver statuses: only *infeasible* proves.

    Raises:
        WorkerFailure: the answer contradicts itself or has the wrong shape.
    """
    status = answer.get("status")
    values = answer.get("values")
    if not isinstance(status, str) or np.ndim(values) != 1 or len(values) not in (0, model.columns):
        raise WorkerFailure("its answer has no status, or values of the wrong shape")
    values = values if len(values) and np.isfinite(values).all() else None
    if status == _INFEASIBLE and values is not None:
        raise WorkerFailure("it says infeasible and gives a solution")
    bound = answer.get("bound")
    proven = status in _WITH_BOUND[solver] and isinstance(bound, float) and np.isfinite(bound)
    bound = bound if proven else np.inf
    if integers is not None:
        values = None if values is None else integers.reals(values)
        bound = integers.real_bound(bound)
    detail = "; ".join(str(answer[k]) for k in ("limit", "detail") if answer.get(k))
    return Outcome(
        infeasible=status == _INFEASIBLE,
        optimal=status == _OPTIMAL and values is not None,
        values=values,
        bound=bound,
        status=status,
        reason=f"{solver}: {status.lower()}" + (f" ({detail})" if detail else ""),
        stats={"nodes": answer.get("nodes")},
    )
