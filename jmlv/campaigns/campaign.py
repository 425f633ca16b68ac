"""Many questions, one folder of answers: whatever ends a run, the next one goes on."""

from __future__ import annotations

import collections
import dataclasses
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jmlv.campaigns.executors.executor import Crew, Executor, Report, Task
from jmlv.campaigns.executors.in_process import InProcess
from jmlv.campaigns.page import page_of
from jmlv.campaigns.questions import Question
from jmlv.campaigns.questions.question import release
from jmlv.campaigns.status import Status, status_of
from jmlv.campaigns.store import Store
from jmlv.campaigns.table import Table, in_pandas

POLL = 0.5
"""Seconds that a crew is waited for at a time."""

LOOK = 0.2
"""Seconds between two looks at what other writers have answered and begun."""


@dataclasses.dataclass(frozen=True, eq=False)
class Row:
    """A question that was answered, or that failed as often as it may.

    Attributes:
        question: the question.
        values: of its answer; empty where it failed.
        reason: of the last failure, where it failed.
    """

    question: Question
    values: Mapping[str, Any]
    reason: str = ""

    @property
    def failed(self) -> bool:
        return bool(self.reason)


class Campaign:
    """Questions and the folder that their answers are kept in.

    Args:
        questions: of any kinds, in the order in which they are to be asked. A question that occurs
            twice is asked once.
        store: a folder, or a :class:`Store`. It may hold answers to other questions too.

    >>> import tempfile
    >>> from jmlv.campaigns import CallQuestion
    >>> asked = [CallQuestion("builtins:dict", {"x": x}, tags={"number": x}) for x in (1, 2)]
    >>> campaign = Campaign(asked, tempfile.mkdtemp())
    >>> [row.values for row in campaign.run()]
    [{'x': 1}, {'x': 2}]
    >>> [row.values for row in campaign.run()]  # everything is answered
    []
    >>> print(campaign.status())
    2 of 2 done, 0 running, 0 failed, 0 left
    """

    def __init__(self, questions: Iterable[Question], store: Store | str | Path) -> None:
        self.questions: dict[str, Question] = {}
        for question in questions:
            self.questions.setdefault(question.key, question)
        self.store = store if isinstance(store, Store) else Store(store)

    def run(
        self,
        executor: Executor = InProcess(),
        *,
        attempts: int = 2,
        share: tuple[int, int] = (1, 1),
    ) -> Iterator[Row]:
        """Asks what is not answered yet; rows come as they are written, in any order.

        The work begins with the iteration and ends with it. Every row is in the folder before it is
        handed out, so a run that is ended by anything at all is gone on with by the same call.

        Args:
            executor: who answers.
            attempts: how often a question is asked in all, earlier runs included, before it counts as
                failed. Another worker is asked each time, where there is one.
            share: ``(i, n)``: the i-th of n parts of the questions, i from 1, for n runs side by side
                (jobs of a cluster, say) into one folder. Without shares, such runs leave each other
                what they are at, as far as they see it (within `LOOK` seconds).

        Raises:
            ValueError: ``attempts`` or ``share`` is not positive.
        """
        number, parts = share
        if attempts < 1:
            raise ValueError(f"attempts: must be at least 1, got {attempts}.")
        if not 1 <= number <= parts:
            raise ValueError(f"share: expected (i, n) with i in 1..n, got {share}.")
        self.store.plan(self.questions)
        return _Run(self, attempts, list(self.questions.values())[number - 1 :: parts]).rows(
            executor
        )

    def status(self) -> Status:
        """How many questions are done, running, failed and left, over all writers of the folder."""
        return status_of(self.store, set(self.questions))

    def results(self) -> Any:
        """A table with a row for every question, in order: a pandas data frame, else a ``Table``.

        Columns are the tags, ``kind``, ``network``, ``state`` (done, failed or left), ``failure``, the
        answer's values, and ``key``, which names the arrays for :meth:`arrays`.
        """
        self.store.refresh()
        return in_pandas(Table.of([self._row(question) for question in self.questions.values()]))

    def report(self, path: str | Path, by: Sequence[str] = ("network", "kind")) -> None:
        """Writes a page for people: one HTML file that fetches nothing.

        Args:
            path: of the file, ending in ``.html``.
            by: columns that the summary is grouped by.

        Raises:
            ValueError: the path does not end in ``.html``, or there is no such column.

        >>> import tempfile
        >>> from jmlv.campaigns import CallQuestion
        >>> asked = [CallQuestion("builtins:dict", {"x": x}, tags={"number": x}) for x in (1, 2)]
        >>> campaign, path = Campaign(asked, tempfile.mkdtemp()), Path(tempfile.mkdtemp(), "all.html")
        >>> campaign.report(path, by=["number"])
        >>> "0 of 2 done" in path.read_text()
        True
        """
        self.store.refresh()
        rows = [self._row(question) for question in self.questions.values()]
        page_of(rows, self.status(), by).write(path)

    def _row(self, question: Question) -> dict[str, Any]:
        network = None if question.network is None else question.network.name
        about = {**dict(question.tags), "kind": question.kind, "network": network}
        return _row(self.store, question.key, about)

    def arrays(self, question: Question | str) -> dict[str, np.ndarray]:
        """The arrays of an answer, by name.

        Raises:
            KeyError: the question is not answered.
        """
        return self.store.arrays(question if isinstance(question, str) else question.key)


def rows_of(store: Store) -> list[dict[str, Any]]:
    """A row for every question that the store answers or has failed at, as in ``Campaign.results()``."""
    store.refresh()
    records = {key: found[-1] for key, found in store.failures.items()} | store.done
    return [_row(store, key, _about(record)) for key, record in records.items()]


def _about(record: Mapping[str, Any]) -> dict[str, Any]:
    return {**record["tags"], "kind": record["kind"], "network": record["network"]}


def _row(store: Store, key: str, about: Mapping[str, Any]) -> dict[str, Any]:
    """What a question is about, how it stands, its answer's values, and its key."""
    done, failures = store.done.get(key), store.failures.get(key)
    state = "done" if done else "failed" if failures else "left"
    failure = failures[-1]["reason"] if state == "failed" else None
    values = {
        name: value for name, value in (done["values"] if done else {}).items() if name not in about
    }
    return {**about, "state": state, "failure": failure, **values, "key": key}


class _Run:
    """One run: what is still to be asked, and what is on its way."""

    def __init__(self, campaign: Campaign, attempts: int, questions: list[Question]) -> None:
        self.store, self.attempts = campaign.store, attempts
        self.tasks = collections.deque(Task(question) for question in questions)
        self.under_way: set[str] = set()
        self.begun: dict[str, float] = {}
        self.elsewhere: set[str] = set()
        self._looked = -float("inf")

    def rows(self, executor: Executor) -> Iterator[Row]:
        self._look()
        if not any(map(self._open, self.tasks)):
            return
        with self.store.writing(), executor.open() as crew:
            try:
                while self._feed(crew) or self.under_way:
                    if not self.under_way and crew.room:
                        time.sleep(LOOK)  # all that is left is another run's for now
                    yield from self._written(crew.reports(POLL))
                    self.store.settle()
            except KeyboardInterrupt:
                yield from self._written(crew.arrived())
                raise

    def _feed(self, crew: Crew) -> bool:
        """Gives tasks to whoever has room; whether there are more.

        What another run is at waits: it will be answered, or that run ends without it.
        """
        self._look()
        given: list[Task] = []
        for _ in range(len(self.tasks)):
            if len(given) == crew.room:
                break
            task = self.tasks.popleft()
            if task.question.key in self.elsewhere:
                self.tasks.append(task)
            elif self._open(task):
                given.append(task)
        if given:
            self.under_way.update(task.question.key for task in given)
            crew.give(given)
        return bool(self.tasks)

    def _look(self) -> None:
        """Reads what other writers have added and begun, now and then."""
        if time.monotonic() - self._looked >= LOOK:
            self.store.refresh()
            self.elsewhere = self.store.running_elsewhere()
            self._looked = time.monotonic()

    def _open(self, task: Task) -> bool:
        """Whether a question is neither answered nor failed as often as it may."""
        key = task.question.key
        tried = len(self.store.failures.get(key, ()))
        return key not in self.store.done and tried < self.attempts

    def _written(self, reports: list[Report]) -> Iterator[Row]:
        for report in reports:
            row = self._write(report)
            if row is not None:
                yield row

    def _write(self, report: Report) -> Row | None:
        """Writes what a report says; a row once the question is settled."""
        question, key = report.task.question, report.task.question.key
        if report.begun:
            self.begun[key] = time.monotonic()
            self.store.started(key, report.worker)
            return None
        self.under_way.discard(key)
        if report.blameless:
            self.tasks.appendleft(report.task)
            return None
        record = self._record(report)
        if report.answer is not None:
            self.store.answered(key, report.answer, record)
            self.store.refresh()
            return Row(question, report.answer.values)
        self.store.failed(key, {**record, "reason": report.reason})
        self.store.refresh()
        if self._open(report.task):
            self.tasks.append(Task(question, report.task.avoid | {report.worker}))
            return None
        return Row(question, {}, report.reason)

    def _record(self, report: Report) -> dict[str, Any]:
        question = report.task.question
        took = time.monotonic() - self.begun.pop(question.key, time.monotonic())
        return {
            "kind": question.kind,
            "network": None if question.network is None else question.network.name,
            "tags": dict(question.tags),
            "worker": report.worker,
            "took": took,
            "jmlv": release(),
        }
