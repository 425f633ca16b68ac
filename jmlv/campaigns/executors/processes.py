"""Processes on this machine, one for each group of cores."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
import time
from collections.abc import Iterator, Sequence
from multiprocessing.connection import wait
from pathlib import Path

from jmlv.campaigns.executors.executor import Crew, Executor, Report, Task
from jmlv.campaigns.executors.process import OVERTIME, Died, WorkerProcess

MEMORY_POLL = 0.25
"""Seconds between two looks at the workers' memory."""


@dataclasses.dataclass(frozen=True)
class Processes(Executor):
    """Long-lived worker processes, each with its own JAX, cores, and compiled programs.

    A worker and the solvers that its oracles start share the worker's cores and its memory limit. One that
    dies, outgrows its memory, or takes half as much again as a question's budget is killed with all that
    it started and replaced; its question fails with the reason, and goes to another worker.

    Attributes:
        workers: how many; by default as many as there are groups of cores.
        cores: cores of a worker.
        memory: MiB of a worker with all that it started; None for no limit. (Linux only.)
        gpus: numbers of GPUs, dealt to the workers in turn; a worker sees its own alone.
        grace: seconds that a question may take beyond one and a half times its budget.
        cache: folder of compiled programs, shared by the workers; by default the user's.
    """

    workers: int | None = None
    cores: int = 1
    memory: float | None = None
    gpus: tuple[int, ...] = ()
    grace: float = 2.0
    cache: str | None = None

    def __post_init__(self) -> None:
        for name in ("workers", "cores", "memory"):
            value = getattr(self, name)
            if value is not None and not value >= 1:
                raise ValueError(f"{name}: must be at least 1, got {value}.")

    @contextlib.contextmanager
    def open(self) -> Iterator[Crew]:
        crew = _Crew(self)
        try:
            yield crew
        finally:
            crew.end()


class _Crew(Crew):
    def __init__(self, options: Processes) -> None:
        self._options = options
        self._groups = _core_groups(options)
        self._waiting: list[Task] = []
        self._early: list[Report] = []
        self._weighed = time.monotonic()
        self._workers: list[WorkerProcess] = []
        for slot in range(len(self._groups)):
            self._workers.append(self._start(slot))

    def _start(self, slot: int) -> WorkerProcess:
        options, environment = self._options, {}
        if options.gpus:
            environment["CUDA_VISIBLE_DEVICES"] = str(options.gpus[slot % len(options.gpus)])
        given = {
            "cores": self._groups[slot],
            "path": [str(Path(p).absolute()) for p in sys.path],
            "cache": options.cache,
        }
        return WorkerProcess(f"process {slot}", given, environment, options.grace)

    @property
    def room(self) -> int:
        return max(0, sum(worker.idle for worker in self._workers) - len(self._waiting))

    def give(self, tasks: Sequence[Task]) -> None:
        self._waiting.extend(tasks)
        self._deal()

    def _deal(self) -> None:
        """Hands waiting tasks to idle workers that have not failed at them, where there are such."""
        for task in tuple(self._waiting):
            fresh = [w for w in self._workers if w.name not in task.avoid] or self._workers
            worker = next((w for w in fresh if w.idle), None)
            if worker is not None:
                self._waiting.remove(task)
                report = worker.give(task)
                self._early += [] if report is None else [report]

    def reports(self, seconds: float) -> list[Report]:
        found, self._early = self._early, []
        for slot in self._heard_from(0.0 if found else seconds):
            try:
                found += self._workers[slot].hear()
            except Died as death:
                found += self._replace(slot, f"its worker died: {death}")
        found += self._stop_overtime()
        found += self._stop_greedy()
        self._deal()
        return found

    def arrived(self) -> list[Report]:
        return self.reports(0.0)

    def _heard_from(self, seconds: float) -> list[int]:
        """Slots of the workers that have something to say, after waiting until there are some."""
        patience = min([seconds, *(max(0.0, w.seconds_left) for w in self._workers)])
        if self._options.memory is not None:
            patience = min(patience, MEMORY_POLL)
        slots = {worker.connection: slot for slot, worker in enumerate(self._workers)}
        return [slots[connection] for connection in wait(list(slots), patience)]

    def _stop_overtime(self) -> list[Report]:
        found = []
        for slot, worker in enumerate(self._workers):
            if worker.seconds_left <= 0:
                budget = worker.task.question.limit
                reason = f"stopped: it took more than {OVERTIME:g} times its {budget:g} s"
                found += self._replace(slot, reason)
        return found

    def _stop_greedy(self) -> list[Report]:
        limit, found = self._options.memory, []
        if limit is None or time.monotonic() - self._weighed < MEMORY_POLL:
            return found
        self._weighed = time.monotonic()
        for slot, worker in enumerate(self._workers):
            if (used := worker.memory()) > limit:
                found += self._replace(
                    slot, f"out of memory: stopped at {used:.0f} of {limit:.0f} MiB"
                )
        return found

    def _replace(self, slot: int, reason: str) -> list[Report]:
        """Ends a worker and starts another; its question, if it had one, failed for the reason.

        Raises:
            RuntimeError: it never got as far as being ready, nor would the next one.
        """
        worker = self._workers[slot]
        worker.end()
        if not worker.ready:
            raise RuntimeError(f"workers: one ended before it was ready; {reason}.")
        self._workers[slot] = self._start(slot)
        return [] if worker.task is None else [Report(worker.task, worker.name, reason=reason)]

    def end(self) -> None:
        for worker in self._workers:
            worker.end()


def _core_groups(options: Processes) -> list[list[int]]:
    """The cores of each worker, in turn around those that this process may use."""
    if not hasattr(os, "sched_getaffinity"):
        count = max(1, (os.cpu_count() or 1) // options.cores)
        return [[]] * (count if options.workers is None else options.workers)
    cores = sorted(os.sched_getaffinity(0))
    count = options.workers or max(1, len(cores) // options.cores)
    return [
        sorted({cores[(slot * options.cores + i) % len(cores)] for i in range(options.cores)})
        for slot in range(count)
    ]
