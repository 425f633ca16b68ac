"""Oracles from cheap to dear, each asked only what those before it left open."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple

import numpy as np

from jmlv.bounds import CROWN, AlphaCROWN
from jmlv.oracles.answers import Answer, answer
from jmlv.oracles.aside import POLL, Aside, wait_for_any
from jmlv.oracles.bounds import Bounds
from jmlv.oracles.branching.branch_and_bound import BranchAndBound
from jmlv.oracles.branching.input_splitting import InputSplitting
from jmlv.oracles.deadline import Deadline
from jmlv.oracles.falsify import PGD
from jmlv.oracles.milp.milp import MILP
from jmlv.oracles.oracle import Evidence, Oracle, Query, refusal
from jmlv.require import require_fields
from jmlv.verdict import Status, Verdict

BY_PARTS = BranchAndBound(relaxation=CROWN(), whole=False)
"""Leaves most networks alone at once; where it does not, it is far faster than a MILP."""

SHARE = 0.5
"""Of the time that is left, for a stage that others come after."""

COMPILING = 5.0
"""Seconds after which a stage that still compiles goes on in the background."""

AT_ONCE = 2
"""Stages at work at a time, those in the background among them."""

GRACE = 0.3
"""Seconds after its deadline in which a stage may hand over what it has."""


@dataclasses.dataclass(frozen=True)
class Cascade(Oracle):
    """Asks its stages in order until one decides; keeps the best bound and the best point.

    A stage that others come after has half of the time that is left, so that none starves another;
    what it does not use is for them. One that compiles for long goes on in the background, beside
    the next; whichever decides first is heard. When all have had their turn, those whose time was
    too short have another one. A stage that fails, or that is still compiling at the end, says so in
    the reason.

    Attributes:
        stages: the oracles. By default CROWN in float64, PGD, alpha-CROWN, branch and bound where
            the network falls apart over the box or has more than maxima, input splitting where few
            inputs move, and SCIP: the first two decide most queries in milliseconds, SCIP is complete.
            A stage that cannot be asked about a network (SCIP, if it has smooth activations, products
            or softmax) is left out, and the reason says so.
    """

    punctual: ClassVar[bool] = True

    stages: tuple[Oracle, ...] = (
        Bounds(),
        PGD(),
        Bounds(AlphaCROWN()),
        BY_PARTS,
        InputSplitting(),
        MILP(),
    )

    def __post_init__(self) -> None:
        if isinstance(self.stages, Iterable):
            object.__setattr__(self, "stages", tuple(self.stages))
        require_fields(self)
        if not self.stages:
            raise ValueError("stages: expected at least one oracle.")

    @property
    def name(self) -> str:
        return "cascade(" + ", ".join(stage.name for stage in self.stages) + ")"

    def search(self, query: Query, deadline: Deadline) -> Evidence:
        asking = _Asking(query, deadline)
        try:
            return asking.run(self.stages)
        finally:
            asking.leave()


class _Turn(NamedTuple):
    """A stage at work, until a deadline of its own."""

    stage: Oracle
    deadline: Deadline
    aside: Aside[Answer]

    @property
    def over(self) -> bool:
        """Whether the next stage need not wait for this one any longer."""
        slow = self.deadline.elapsed > COMPILING and self.aside.compiling
        return slow or self.deadline.overdue > GRACE


class _Asking:
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
        for turn in self.working:
            self._learn(Evidence(reason=f"{turn.stage.name}: {turn.aside.standing}"))
        unasked = [stage.name for stage in able if stage.name not in self.asked]
        if unasked and not self.decided:
            self._learn(Evidence(reason=f"the time was up before {', '.join(unasked)}"))
        asked = tuple(dict.fromkeys(self.asked))
        return dataclasses.replace(self.known, stats={**self.known.stats, "asked": asked})

    def leave(self) -> None:
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
        query, limit = self.query, self.deadline.share(share)
        turn = _Turn(stage, limit, Aside(lambda own: answer(query, stage, own), limit))
        self.asked.append(stage.name)
        self.working.append(turn)
        self._listen_while(lambda: turn in self.working and not turn.over)

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
        self._learn(evidence, verdict, {"method": turn.stage.name} if decides else {})

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
