"""Who answers questions: what a campaign gives to an executor, and what it hears from it."""

from __future__ import annotations

import abc
import contextlib
import dataclasses
from collections.abc import Sequence

from jmlv.campaigns.answer import Answer
from jmlv.campaigns.questions import Question


@dataclasses.dataclass(frozen=True, eq=False)
class Task:
    """A question on its way.

    Attributes:
        question: what is asked.
        avoid: names of workers that failed at it; another one is asked if there is one.
    """

    question: Question
    avoid: frozenset[str] = frozenset()


@dataclasses.dataclass(frozen=True, eq=False)
class Report:
    """What became of a task: begun (neither answer nor reason), answered, failed, or lost.

    Attributes:
        task: which one.
        worker: who had it.
        answer: the answer, if there is one.
        reason: why there is none.
        blameless: the worker was lost with other questions too, and this one had not begun; it does
            not count as an attempt.
    """

    task: Task
    worker: str
    answer: Answer | None = None
    reason: str = ""
    blameless: bool = False

    @property
    def begun(self) -> bool:
        return self.answer is None and not self.reason


class Crew(abc.ABC):
    """The workers of one run."""

    @property
    @abc.abstractmethod
    def room(self) -> int:
        """How many more tasks are welcome now."""

    @abc.abstractmethod
    def give(self, tasks: Sequence[Task]) -> None:
        """Takes tasks, at most :attr:`room` of them."""

    @abc.abstractmethod
    def reports(self, seconds: float) -> list[Report]:
        """What has happened since the last call; waits about that long for something to happen."""

    @abc.abstractmethod
    def arrived(self) -> list[Report]:
        """What has happened since the last call and needs no more work: asked once, at the end."""


class Executor(abc.ABC):
    """A frozen dataclass whose fields are the options."""

    @abc.abstractmethod
    def open(self) -> contextlib.AbstractContextManager[Crew]:
        """Starts the workers; they end with the block, whatever ends it."""
