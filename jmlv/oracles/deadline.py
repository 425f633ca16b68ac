"""A moment after which no work may go on."""

from __future__ import annotations

import numbers
import time

import numpy as np


class TimeUp(Exception):
    """The time ended first; the message says what was going on then."""


class Deadline:
    """A moment after which no work may go on; ``Deadline(None)`` never comes.

    Args:
        seconds: from now, or None for no limit.
        outer: a deadline that ends this one too.

    Raises:
        TypeError: not a number.
        ValueError: not a positive number of seconds.

    >>> outer = Deadline(None)
    >>> inner = outer.within(60)
    >>> outer.expire()
    >>> inner.passed
    True
    """

    def __init__(self, seconds: float | None, outer: Deadline | None = None) -> None:
        if seconds is not None and not isinstance(seconds, numbers.Real):
            raise TypeError(f"budget: expected a number of seconds, or None, got {seconds!r}.")
        if seconds is not None and not seconds > 0:
            raise ValueError(f"budget: must be a positive number of seconds, got {seconds}.")
        self.start = time.monotonic()
        self.end = np.inf if seconds is None else self.start + seconds
        self.outer = outer

    @property
    def _moment(self) -> float:
        return self.end if self.outer is None else min(self.end, self.outer._moment)

    @property
    def remaining(self) -> float:
        """Seconds left, never negative; ``inf`` without a limit."""
        return max(0.0, self._moment - time.monotonic())

    @property
    def overdue(self) -> float:
        """Seconds since it passed; 0 until then."""
        return max(0.0, time.monotonic() - self._moment)

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self.start

    @property
    def passed(self) -> bool:
        return self.remaining == 0.0

    def within(self, seconds: float | None) -> Deadline:
        """The earlier of this deadline, whenever it comes, and one that many seconds from now."""
        return Deadline(seconds, self)

    def share(self, part: float) -> Deadline:
        """The end of a part of the time that is left."""
        left = self.remaining
        return self.within(max(part * left, 1e-9) if np.isfinite(left) else None)

    def expire(self) -> None:
        """Makes it pass now, and with it every deadline within it."""
        self.end = min(self.end, time.monotonic())

    def check(self) -> None:
        """Ends work that has nothing to hand over yet.

        Raises:
            TimeUp: it has passed.
        """
        if self.passed:
            raise TimeUp("the time was up")


NEVER = Deadline(None)
"""For work that nobody hurries."""
