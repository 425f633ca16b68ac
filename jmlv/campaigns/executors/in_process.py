"""In this process: one question after another, or batches over all devices that JAX has."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence

from jmlv.campaigns.executors.answering import answered, answered_together
from jmlv.campaigns.executors.executor import Crew, Executor, Report, Task
from jmlv.campaigns.executors.interrupts import Interrupts

NAME = "this process"


@dataclasses.dataclass(frozen=True)
class InProcess(Executor):
    """Answers in this process: nothing to start, nothing to send, and no limit from outside.

    A question that outlives its budget is waited for, and one that brings the process down ends the run;
    what is written stays written. :class:`Processes` stops both.

    Attributes:
        together: questions that are taken at a time. Those of one group (bounds, attacks and growing
            that differ in their images only) are then answered in batches that are spread over all of
            JAX's devices by sharding; noise samples are so in any case. On a CPU, set
            ``jax_num_cpu_devices`` to the cores before anything is computed.
    """

    together: int = 1

    def __post_init__(self) -> None:
        if self.together < 1:
            raise ValueError(f"together: must be at least 1, got {self.together}.")

    @contextlib.contextmanager
    def open(self) -> Iterator[Crew]:
        with Interrupts() as interrupts:
            yield _Crew(self.together, interrupts)


class _Crew(Crew):
    def __init__(self, together: int, interrupts: Interrupts) -> None:
        self._together, self._interrupts = together, interrupts
        self._work: Iterator[Report] = iter(())
        self._left = 0

    @property
    def room(self) -> int:
        return 0 if self._left else self._together

    def give(self, tasks: Sequence[Task]) -> None:
        self._work, self._left = self._reports(tasks), len(tasks)

    def reports(self, seconds: float) -> list[Report]:
        """The next one, however long it takes."""
        report = next(self._work, None)
        self._interrupts.check()
        if report is None:
            return []
        self._left -= not report.begun
        return [report]

    def arrived(self) -> list[Report]:
        return []

    def _reports(self, tasks: Sequence[Task]) -> Iterator[Report]:
        for group in _groups(tasks):
            yield from (Report(task, NAME) for task in group)
            if len(group) == 1:
                yield Report(group[0], NAME, *answered(group[0].question))
                continue
            for number, *outcome in answered_together([task.question for task in group]):
                yield Report(group[number], NAME, *outcome)


def _groups(tasks: Sequence[Task]) -> list[list[Task]]:
    """Tasks that are answered together, in the order of their first ones.

    A question that has failed before goes alone, so that it cannot spoil a batch again.
    """
    groups: dict[object, list[Task]] = {}
    for task in tasks:
        group = None if task.avoid else task.question.group
        groups.setdefault(task.question.key if group is None else group, []).append(task)
    return list(groups.values())
