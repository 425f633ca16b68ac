"""Any executor of ``concurrent.futures``: threads, processes, submitit, dask, MPI."""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import os
import socket
import time
from collections.abc import Iterator, Sequence

from jmlv.campaigns.answer import Answer
from jmlv.campaigns.executors.answering import answered, reason_of
from jmlv.campaigns.executors.executor import Crew, Executor, Report, Task
from jmlv.campaigns.questions import Question


@dataclasses.dataclass(frozen=True, eq=False)
class Futures(Executor):
    """Sends every question to an executor that somebody else made, and that stays open afterwards.

    Nothing is stopped from outside, and which worker takes a question is the executor's affair. An
    executor that breaks when a worker dies (``ProcessPoolExecutor`` does) ends the run with an error; what
    is written stays written.

    Attributes:
        executor: any ``concurrent.futures.Executor``.
        pending: questions that it holds at a time. Few where others share the folder, since what is
            pending is theirs no more; by default twice its workers, where it says how many, else 64.

    >>> import tempfile
    >>> from concurrent.futures import ThreadPoolExecutor
    >>> from jmlv.campaigns import CallQuestion, Campaign
    >>> campaign = Campaign([CallQuestion("builtins:dict", {"x": 1})], tempfile.mkdtemp())
    >>> with ThreadPoolExecutor(2) as pool:
    ...     [row.values for row in campaign.run(Futures(pool))]
    [{'x': 1}]
    """

    executor: concurrent.futures.Executor
    pending: int | None = None

    @contextlib.contextmanager
    def open(self) -> Iterator[Crew]:
        workers = getattr(self.executor, "_max_workers", None)
        crew = _Crew(self.executor, self.pending or (2 * workers if workers else 64))
        try:
            yield crew
        finally:
            crew.end()


class _Crew(Crew):
    def __init__(self, executor: concurrent.futures.Executor, pending: int) -> None:
        self._executor, self._most = executor, pending
        self._tasks: dict[concurrent.futures.Future, Task] = {}
        self._early: list[Report] = []

    @property
    def room(self) -> int:
        return self._most - len(self._tasks)

    def give(self, tasks: Sequence[Task]) -> None:
        for task in tasks:
            self._tasks[self._executor.submit(work, task.question)] = task
            self._early.append(Report(task, type(self._executor).__name__))

    def reports(self, seconds: float) -> list[Report]:
        found, self._early = self._early, []
        if not self._tasks:
            time.sleep(0.0 if found else seconds)
            return found
        done, _ = concurrent.futures.wait(
            self._tasks, 0.0 if found else seconds, concurrent.futures.FIRST_COMPLETED
        )
        return found + [self._report(future) for future in done]

    def arrived(self) -> list[Report]:
        return self.reports(0.0)

    def _report(self, future: concurrent.futures.Future) -> Report:
        task = self._tasks.pop(future)
        try:
            worker, *outcome = future.result()
        except concurrent.futures.BrokenExecutor:
            raise
        except Exception as error:  # it could not be sent, or its answer could not
            return Report(task, type(self._executor).__name__, reason=reason_of(error))
        return Report(task, worker, *outcome)

    def end(self) -> None:
        for future in self._tasks:
            future.cancel()


def work(question: Question) -> tuple[str, Answer | None, str]:
    """Answers a question; runs on the workers."""
    return f"{socket.gethostname()} ({os.getpid()})", *answered(question)
