"""Oracles from cheap to dear, each asked only what those before it left open."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from jmlv.bounds import CROWN
from jmlv.oracles.bounds import Bounds
from jmlv.oracles.branching.branch_and_bound import BranchAndBound
from jmlv.oracles.branching.input_splitting import InputSplitting
from jmlv.oracles.falsify import PGD
from jmlv.oracles.milp.milp import MILP
from jmlv.oracles.oracle import Deadline, Evidence, Oracle, Query, judge, refusal
from jmlv.verdict import Status

BY_PARTS = BranchAndBound(relaxation=CROWN(), whole=False)
"""Leaves most networks alone at once; where it does not, it is far faster than a MILP."""


@dataclasses.dataclass(frozen=True)
class Cascade(Oracle):
    """Asks its stages in order until one decides; keeps the best bound and the best point.

    Attributes:
        stages: the oracles. By default CROWN in float64, PGD, branch and bound where the network
            falls apart over the box, SCIP, and input splitting where few inputs move: the first two
            decide most queries in milliseconds, SCIP is complete. A stage that cannot be asked
            about a network (branch and bound and SCIP, if it has smooth activations) is left out,
            and the reason says so.
    """

    stages: tuple[Oracle, ...] = (Bounds(), PGD(), BY_PARTS, MILP(), InputSplitting())

    def __post_init__(self) -> None:
        object.__setattr__(self, "stages", tuple(self.stages))
        if not self.stages:
            raise ValueError("stages: expected at least one oracle.")

    @property
    def name(self) -> str:
        return "cascade(" + ", ".join(stage.name for stage in self.stages) + ")"

    def search(self, query: Query, deadline: Deadline) -> Evidence:
        found = Evidence()
        asked: list[str] = []
        for stage in self.stages:
            if deadline.passed:
                break
            why_not = refusal(stage, query)
            if why_not is not None:
                found = _merge(query, found, Evidence(reason=why_not), {})
                continue
            new = stage.search(query, deadline)
            asked.append(stage.name)
            decisive = judge(query, new, stage.name).status is not Status.UNKNOWN
            found = _merge(query, found, new, {"method": stage.name} if decisive else {})
            if decisive:
                break
        return dataclasses.replace(found, stats={**found.stats, "asked": tuple(asked)})


def _merge(query: Query, old: Evidence, new: Evidence, extra: Mapping[str, Any]) -> Evidence:
    reasons = [r for r in (old.reason, new.reason) if r]
    return Evidence(
        lower=max(old.lower, new.lower),
        point=_better_point(query, old.point, new.point),
        reason=new.reason if extra else "; ".join(reasons),
        stats={**old.stats, **new.stats, **extra},
    )


def _better_point(query: Query, old: Any, new: Any) -> Any:
    if old is None or new is None:
        return new if old is None else old
    return min(old, new, key=lambda x: max(query.margin_exact(x), query.margin_deployed(x)))
