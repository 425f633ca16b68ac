"""Counting under a clock: one bar for a whole search, and counts that end when their time is over."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from typing import Any, TypeVar

from jaxtyping import Array, Float, Key

from jmlv.oracles import Deadline
from jmlv.oracles.aside import run_until
from jmlv.progress import Bar, Progress
from jmlv.smoothing.layered.store import State
from jmlv.smoothing.layered.task import Task

T = TypeVar("T")


@dataclasses.dataclass(eq=False)
class Meter:
    """Counts noisy images, and what they take.

    Attributes:
        task: whose images.
        state: told of every image.
        bar: shows them.
        batch_size: of every count, so that all share one program.
        speed: images a second of the fastest count so far; 0 before there is one.
    """

    task: Task
    state: State
    bar: Bar
    batch_size: int
    speed: float = 0.0

    def count(
        self,
        sigma: Float[Any, " layer"],
        key: Key[Array, ""],
        n: int,
        kind: str,
        deadline: Deadline,
        **options: Any,
    ) -> list[int]:
        """Counts of the images ``first .. n - 1`` under a noise.

        Raises:
            TimeUp: the deadline passed before the last of them.
        """
        start, noise = time.monotonic(), self.task.noise(sigma)

        def work(deadline: Deadline) -> Any:
            watch = _Watch(self, kind, deadline)
            return self.task.count(noise, key, n, watch, batch_size=self.batch_size, **options)

        counts = within(deadline, work)
        taken = n - options.get("first", 0)
        self.speed = max(self.speed, taken / max(time.monotonic() - start, 1e-6))
        return counts.tolist()

    def add(self, kind: str, count: int, **values: object) -> None:
        """Images that are done."""
        self.state.add(kind, count)
        self.bar.update(count, **values)


@dataclasses.dataclass(frozen=True)
class _Watch(Progress):
    """Passes steps on, and ends a count whose time is over."""

    meter: Meter
    kind: str
    deadline: Deadline

    def bar(self, description: str, total: int | None = None) -> Bar:
        return _WatchBar(self, total)


@dataclasses.dataclass
class _WatchBar(Bar):
    watch: _Watch
    total: int
    done: int = 0

    def update(self, steps: int = 1, **values: object) -> None:
        self.done += steps
        if self.done < self.total:
            self.watch.deadline.check()
        self.watch.meter.add(self.watch.kind, steps, **values)

    def close(self) -> None:
        pass


def within(deadline: Deadline, work: Callable[[Deadline], T]) -> T:
    """What some work returns; under a limit it runs aside, since compiling hears of no clock.

    Raises:
        TimeUp: the deadline came first.
    """
    return run_until(deadline, work) if math.isfinite(deadline.remaining) else work(deadline)
