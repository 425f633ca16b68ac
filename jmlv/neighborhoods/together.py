"""Many images growing at the same time, their questions answered in common batches."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from jmlv.neighborhoods.evaluation import Evaluator, Request, evaluate
from jmlv.neighborhoods.problem import OutOfTime
from jmlv.oracles.aside import POLL


@dataclasses.dataclass(eq=False)
class _Pending:
    request: Request
    answer: np.ndarray | None = None
    error: BaseException | None = None

    @property
    def done(self) -> bool:
        return self.answer is not None or self.error is not None


class Together(Evaluator):
    """Waits until every image asks something, then answers all in one batch.

    Each image is grown by a thread of its own. Only one of them runs at any moment: it holds the
    lock, and hands it over when it asks or goes away; so nothing is compiled twice, and what is
    asked together does not depend on how threads are scheduled. Away, for a complete oracle's
    query, threads run side by side.

    Args:
        images: how many there are.
        slots: images at a time, at most.
        workers: images that may be away at a time; the others wait.
    """

    def __init__(self, images: int, slots: int, workers: int) -> None:
        self.slots = min(slots, images)
        self._turn = threading.Condition()
        self._workers = threading.Semaphore(workers)
        self._running = self._promised = self.slots
        self._to_begin = images
        self._pending: list[_Pending] = []

    @contextlib.contextmanager
    def member(self, over: Callable[[], bool]) -> Iterator[None]:
        """Around all that one thread does for one image.

        Another image takes its place. It is waited for, so that it may ask together with the rest;
        but one whose time is up has been left behind, and its place may be taken already.
        """
        with self._turn:
            self._begin()
            try:
                yield
            finally:
                if self._to_begin > self._promised and not over():
                    self._promised += 1
                else:
                    self._rest()

    def __call__(self, request: Request) -> np.ndarray:
        if self.stopped:
            raise OutOfTime("interrupted")
        pending = _Pending(request)
        self._pending.append(pending)
        self._rest()
        while not (pending.done or self.stopped):
            self._turn.wait(POLL)
        if not pending.done:
            self._pending.remove(pending)
            self._running += 1
            raise OutOfTime("interrupted")
        if pending.error is not None:
            raise pending.error
        return pending.answer

    @contextlib.contextmanager
    def away(self) -> Iterator[None]:
        self._rest()
        self._turn.release()
        try:
            with self._workers:
                yield
        finally:
            self._turn.acquire()
            self._running += 1

    def stop(self) -> None:
        """Tells every image to end with what it has; none begins any more.

        Nothing is waited for: the thread whose turn it is may be compiling.
        """
        self.stopped = True

    def _begin(self) -> None:
        """One thread more is running, unless it takes a place that is counted already."""
        self._to_begin -= 1
        if self._promised:
            self._promised -= 1
        else:
            self._running += 1

    def _rest(self) -> None:
        """One thread fewer is running; the last one answers what the others wait for."""
        self._running -= 1
        if self._running == 0 and self._pending:
            waiting, self._pending = self._pending, []
            for group in _alike(waiting):
                _answer(group, self.slots)
            self._running = len(waiting)
            self._turn.notify_all()


def _alike(waiting: list[_Pending]) -> list[list[_Pending]]:
    """Requests that one compiled batch can answer."""
    groups: dict[Any, list[_Pending]] = defaultdict(list)
    for pending in waiting:
        question, bound, graph, task, epsilons = pending.request
        shapes = tuple(np.shape(leaf) for leaf in jax.tree.leaves(task))
        groups[question, bound, id(graph), jax.tree.structure(task), shapes].append(pending)
    return list(groups.values())


def _answer(group: list[_Pending], slots: int) -> None:
    try:
        for pending, answer in zip(group, evaluate([p.request for p in group], slots)):
            pending.answer = answer
    except BaseException as error:  # every thread that asked hears of it
        for pending in group:
            pending.error = error
