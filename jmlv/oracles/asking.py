"""Several oracles about one query, each in a thread of its own: who is at work, and what is known."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from jmlv.oracles.answers import Answer, answer
from jmlv.oracles.aside import POLL, Aside, wait_for_any
from jmlv.oracles.bounds import Bounds
from jmlv.oracles.deadline import Deadline
from jmlv.oracles.oracle import Evidence, Oracle, Query, refusal
from jmlv.require import require_fields
from jmlv.verdict import Status, Verdict

SHARE = 0.5
"""Of the time that is left, for a stage that others come after."""

COMPILING = 5.0
"""Seconds after which a stage that still compiles goes on in the background, and a bound in any case:
it has nothing to hand over before its end, which on deep networks may be minutes away."""

AT_ONCE = 2
"""Stages at work at a time, those in the background among them."""

GRACE = 0.3
"""Seconds after its deadline in which a stage may hand over what it has."""

TO_THE_END = 0.98
"""Of the time that is left, for members of a portfolio: what they know at the end must still be heard."""

HEAD_START = 5.0
"""Seconds that a member of a portfolio is alone before the next one begins beside it: what it decides
in so short a time costs nothing more."""


def take_oracles(oracle: Oracle, field: str) -> None:
    """Makes a tuple of an oracle's field of others while it is made.

    Raises:
        TypeError: they are no oracles.
        ValueError: there is none.
    """
    others = getattr(oracle, field)
    if isinstance(others, Iterable):
        object.__setattr__(oracle, field, tuple(others))
    require_fields(oracle)
    if not getattr(oracle, field):
        raise ValueError(f"{field}: expected at least one oracle.")


class _Turn(NamedTuple):
    """A stage at work, until a deadline of its own."""

    stage: Oracle
    deadline: Deadline
    aside: Aside[Answer]

    @property
    def over(self) -> bool:
        """Whether the next stage need not wait for this one any longer."""
        unheard = isinstance(self.stage, Bounds) or self.aside.compiling
        slow = self.deadline.elapsed > COMPILING and unheard
        return slow or self.deadline.overdue > GRACE


class Asking:
    """One query's way through the stages: who is at work, and what is known."""

    def __init__(self, query: Query, deadline: Deadline) -> None:
        self.query, self.deadline = query, deadline
        self.known, self.margin, self.decided = Evidence(), np.inf, False
        self.asked: list[str] = []
        self.working: list[_Turn] = []
        self.cut_off: list[Oracle] = []

    def run(self, stages: tuple[Oracle, ...]) -> Evidence:
        """Round after round, until one decides, nobody has more to say, or time is over."""
        able = left = [stage for stage in stages if self._may_ask(stage)]
        while left and not self._over:
            for place, stage in enumerate(left):
                self._give_turn(stage, 1.0 if place == len(left) - 1 else SHARE)
            self._listen_while(lambda: not (self.cut_off and self._room))
            left, self.cut_off = self.cut_off, []
        return self._found(able)

    def run_together(self, members: tuple[Oracle, ...]) -> Evidence:
        """All at once, but for a head start of each, until one decides or all have ended."""
        able = [member for member in members if self._may_ask(member)]
        for member in able:
            if not self._over:
                self._begin(member, TO_THE_END)
                self._listen_for(HEAD_START)
        self._listen_while(lambda: True)
        return self._found(able)

    def _found(self, able: list[Oracle]) -> Evidence:
        for turn in self.working:
            self._learn(Evidence(reason=f"{turn.stage.name}: {turn.aside.standing}"))
        unasked = [stage.name for stage in able if stage.name not in self.asked]
        if unasked and not self.decided:
            self._learn(Evidence(reason=f"the time was up before {', '.join(unasked)}"))
        asked = tuple(dict.fromkeys(self.asked))
        return dataclasses.replace(self.known, stats={**self.known.stats, "asked": asked})

    def __enter__(self) -> Asking:
        return self

    def __exit__(self, *_: object) -> None:
        """Nobody waits any longer for those who are still at work."""
        for turn in self.working:
            turn.aside.leave()

    @property
    def _over(self) -> bool:
        return self.decided or self.deadline.passed

    @property
    def _room(self) -> bool:
        return len(self.working) < AT_ONCE

    def _may_ask(self, stage: Oracle) -> bool:
        why_not = refusal(stage, self.query)
        if why_not is not None:
            self._learn(Evidence(reason=why_not))
        return why_not is None

    def _give_turn(self, stage: Oracle, share: float) -> None:
        """Begins a stage once there is room, and listens as long as it is its turn."""
        self._listen_while(lambda: not self._room)
        if self._over:
            return
        turn = self._begin(stage, share)
        self._listen_while(lambda: turn in self.working and not turn.over)

    def _begin(self, stage: Oracle, share: float) -> _Turn:
        query, limit = self.query, self.deadline.share(share)
        turn = _Turn(stage, limit, Aside(lambda own: answer(query, stage, own), limit))
        self.asked.append(stage.name)
        self.working.append(turn)
        return turn

    def _listen_for(self, seconds: float) -> None:
        """Hears whoever is done in so long a time."""
        end = self.deadline.within(seconds)
        self._listen_while(lambda: not end.passed)

    def _listen_while(self, condition: Callable[[], bool]) -> None:
        """Hears whoever is done, while the condition lasts, somebody works and time is left."""
        while self.working and condition() and self.deadline.overdue <= GRACE:
            wait_for_any([turn.aside for turn in self.working], POLL)
            for turn in [turn for turn in self.working if turn.aside.done]:
                self._hear(turn)
            if self.decided:
                return

    def _hear(self, turn: _Turn) -> None:
        """Takes a stage's answer; one whose time was too short may have another turn."""
        self.working.remove(turn)
        evidence, verdict = turn.aside.result()
        decides = verdict.status is not Status.UNKNOWN
        if turn.deadline.passed and not decides:
            self.cut_off.append(turn.stage)
        self._learn(evidence, verdict, {"method": verdict.method} if decides else {})

    def _learn(
        self,
        new: Evidence,
        verdict: Verdict | None = None,
        extra: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        """Keeps the better bound and, of the points that were replayed, the weaker one."""
        old, point = self.known, self.known.point
        if verdict is not None and verdict.witness is not None:
            margin = max(verdict.upper, verdict.stats["witness_margin_float32"])
            if margin < self.margin or point is None:
                self.margin, point = margin, verdict.witness
        self.decided = self.decided or bool(extra)
        reasons = [new.reason] if extra else [old.reason, new.reason]
        self.known = Evidence(
            lower=max(old.lower, new.lower),
            point=point,
            reason="; ".join(filter(None, reasons)),
            stats={**old.stats, **new.stats, **extra},
        )
