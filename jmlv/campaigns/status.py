"""How far a campaign is."""

from __future__ import annotations

import dataclasses
import time

from jmlv.campaigns.store import Store


@dataclasses.dataclass(frozen=True)
class Status:
    """Counts of questions, and how fast they are answered.

    Attributes:
        total: questions that there are.
        done: answered.
        running: begun by a writer that is alive, and not finished.
        failed: not answered, with at least one failed attempt, and not running.
        left: the rest, not begun.
        per_second: questions finished a second by the writers that are alive, since they began; None
            while there is nothing to go by.
    """

    total: int
    done: int
    running: int
    failed: int
    left: int
    per_second: float | None = None

    @property
    def seconds_left(self) -> float | None:
        """The time to go at this speed, for all that is not begun or running."""
        if not self.per_second:
            return None
        return (self.left + self.running) / self.per_second

    def __str__(self) -> str:
        counts = f"{self.done} of {self.total} done, {self.running} running, {self.failed} failed, {self.left} left"
        if self.seconds_left is None:
            return counts
        return f"{counts}; {_pace(self.per_second)}, {_span(self.seconds_left)} to go"


def status_of(store: Store, keys: set[str]) -> Status:
    """The status of the questions with these keys, as the store has it now."""
    store.refresh()
    alive = [writer for writer in store.writers.values() if writer.alive]
    running = {key for writer in alive for key in writer.running} & keys - store.done.keys()
    done = len(keys & store.done.keys())
    failed = len((keys & store.failures.keys()) - store.done.keys() - running)
    now = time.time()
    speeds = [w.finished / (now - w.opened) for w in alive if w.finished and now > w.opened]
    left = len(keys) - done - failed - len(running)
    return Status(len(keys), done, len(running), failed, left, sum(speeds) or None)


def _pace(per_second: float) -> str:
    return f"{per_second:.3g} a second" if per_second >= 1 else f"{1 / per_second:.3g} s each"


def _span(seconds: float) -> str:
    """A duration for a person.

    >>> _span(75), _span(3 * 3600 + 120)
    ('1 min 15 s', '3 h 2 min')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
