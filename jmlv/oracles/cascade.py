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


@dataclasses.dataclass(frozen=True)
class Portfolio(Oracle):
    """Asks its members side by side until one decides; keeps the best bound and the best point.

    A solver in a process of its own and a search in this one are good at different questions, and
    nobody knows beforehand at which. The members begin one after the other, a few seconds apart, and
    all may go on to the end; one that fails says so in the reason.

    Attributes:
        members: the oracles, the first one first.

    >>> import jax.numpy as jnp, jmlv
    >>> f = lambda x: jnp.abs(x.reshape(x.shape[0], 2) @ jnp.array([[1.0, 1.0], [-1.0, 2.0]]))
    >>> box = jmlv.Box.between(jnp.array([[[0.1], [0.3]]]), jnp.array([[[0.4], [0.5]]]))
    >>> oracle = Portfolio((MILP(), BranchAndBound()))
    >>> jmlv.verify(f, box, jmlv.InTopK(1, k=1), oracle, budget=60).status.name
    'ROBUST'
    """

    punctual: ClassVar[bool] = True

    members: tuple[Oracle, ...]

    def __post_init__(self) -> None:
        if isinstance(self.members, Iterable):
            object.__setattr__(self, "members", tuple(self.members))
        require_fields(self)
        if not self.members:
            raise ValueError("members: expected at least one oracle.")

    @property
    def piecewise_linear(self) -> bool:
        return all(member.piecewise_linear for member in self.members)

    @property
    def name(self) -> str:
        return " beside ".join(member.name for member in self.members)

    def search(self, query: Query, deadline: Deadline) -> Evidence:
        asking = _Asking(query, deadline)
        try:
            return asking.run_together(self.members)
        finally:
            asking.leave()


AT_THE_END = Portfolio((MILP(), BranchAndBound(parts=None, hurried=True)))
"""Both complete; SCIP is the faster one where few units are open, branch and bound where many are."""


@dataclasses.dataclass(frozen=True)
class Cascade(Oracle):
    """Asks its stages in order until one decides; keeps the best bound and the best point.

    A stage that others come after has half of the time that is left, so that none starves another;
    what it does not use is for them. One that compiles for long, or a bound that takes long, goes on
    in the background, beside the next; whichever decides first is heard. When all have had their turn, those whose time was
    too short have another one. A stage that fails, or that is still compiling at the end, says so in
    the reason.

    Attributes:
        stages: the oracles. By default CROWN in float64, PGD, alpha-CROWN, branch and bound where
            the network falls apart over the box or has more than maxima, input splitting where few
            inputs move, and SCIP beside branch and bound: the first two decide most queries in
            milliseconds, the last two are complete. A stage that cannot be asked about a network
            (SCIP, if it has smooth activations, products or softmax) is left out, and the reason
            says so.
    """

    punctual: ClassVar[bool] = True

    stages: tuple[Oracle, ...] = (
        Bounds(),
        PGD(),
        Bounds(AlphaCROWN()),
        BY_PARTS,
        InputSplitting(),
        AT_THE_END,
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
        unheard = isinstance(self.stage, Bounds) or self.aside.compiling
        slow = self.deadline.elapsed > COMPILING and unheard
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
