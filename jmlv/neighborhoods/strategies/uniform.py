"""One epsilon for all layers: the usual l_inf ball, as the baseline."""

from __future__ import annotations

import dataclasses

import numpy as np

from jmlv.neighborhoods.problem import Problem
from jmlv.neighborhoods.strategies.strategy import Strategy, holds, largest
from jmlv.oracles import Oracle
from jmlv.require import require_fields


@dataclasses.dataclass(frozen=True)
class Uniform(Strategy):
    """Bisection on a single epsilon.

    Attributes:
        steps: bisections; the epsilon is found to ``2 ** -steps``.
        oracle: who decides each query; by default the search's bound, then float64.
    """

    steps: int = 12
    oracle: Oracle | None = None

    def __post_init__(self) -> None:
        require_fields(self)

    @property
    def name(self) -> str:
        return "uniform"

    def search(self, problem: Problem) -> None:
        ones = np.ones(len(problem.movable))
        largest(lambda value: holds(problem, value * ones, self.oracle), self.steps)
