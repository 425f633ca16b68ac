"""Oracles side by side: the first answer counts."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from jmlv.oracles.asking import Asking, take_oracles
from jmlv.oracles.branching.branch_and_bound import BranchAndBound
from jmlv.oracles.deadline import Deadline
from jmlv.oracles.milp.milp import MILP
from jmlv.oracles.oracle import Evidence, Oracle, Query


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
        take_oracles(self, "members")

    @property
    def piecewise_linear(self) -> bool:
        return all(member.piecewise_linear for member in self.members)

    @property
    def name(self) -> str:
        return " beside ".join(member.name for member in self.members)

    def search(self, query: Query, deadline: Deadline) -> Evidence:
        with Asking(query, deadline) as asking:
            return asking.run_together(self.members)


AT_THE_END = Portfolio((MILP(), BranchAndBound(parts=None, hurried=True)))
"""Both complete; SCIP is the faster one where few units are open, branch and bound where many are."""
