"""Oracles from cheap to dear, each asked only what those before it left open."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from jmlv.bounds import CROWN, AlphaCROWN
from jmlv.oracles.asking import Asking, take_oracles
from jmlv.oracles.bounds import Bounds
from jmlv.oracles.branching.branch_and_bound import BranchAndBound
from jmlv.oracles.branching.input_splitting import InputSplitting
from jmlv.oracles.deadline import Deadline
from jmlv.oracles.falsify import PGD
from jmlv.oracles.oracle import Evidence, Oracle, Query
from jmlv.oracles.portfolio import AT_THE_END

BY_PARTS = BranchAndBound(relaxation=CROWN(), whole=False)
"""Leaves most networks alone at once; where it does not, it is far faster than a MILP."""

AT_THE_ROOT = BranchAndBound(relaxation=CROWN(), parts=None, few=0, subdomains=1)
"""Bounds every clause over the whole box and descends from where the bounds are reached: such points
break what no start of PGD breaks. The programs are those of the search that comes last."""


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
            inputs move, descents from where bounds of the clauses are reached, and SCIP beside
            branch and bound: the first two decide most queries in milliseconds, the last one is
            complete. A stage that cannot be asked about a network
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
        AT_THE_ROOT,
        AT_THE_END,
    )

    def __post_init__(self) -> None:
        take_oracles(self, "stages")

    @property
    def name(self) -> str:
        return "cascade(" + ", ".join(stage.name for stage in self.stages) + ")"

    def search(self, query: Query, deadline: Deadline) -> Evidence:
        with Asking(query, deadline) as asking:
            return asking.run(self.stages)
