"""One layer after the other, each as far as it goes: the naive baseline."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Literal

import numpy as np

from jmlv.neighborhoods.problem import Problem
from jmlv.neighborhoods.strategies.strategy import Strategy, holds, largest
from jmlv.oracles import Oracle
from jmlv.require import require_fields


@dataclasses.dataclass(frozen=True)
class LayerByLayer(Strategy):
    """For each layer in order the largest epsilon by bisection, the earlier layers as found.

    Attributes:
        order: ``"outward"`` begins at the perturbed object (layer 0), ``"inward"`` at the
            outermost layer.
        steps: bisections a layer.
        oracle: who decides each query; by default the search's bound, then float64.
    """

    order: Literal["outward", "inward"] = "outward"
    steps: int = 12
    oracle: Oracle | None = None

    def __post_init__(self) -> None:
        require_fields(self)
        if self.order not in ("outward", "inward"):
            raise ValueError(f"order: expected 'outward' or 'inward', got {self.order!r}.")

    @property
    def name(self) -> str:
        return f"layer by layer, {self.order}"

    def search(self, problem: Problem) -> None:
        epsilon = np.zeros(len(problem.movable))
        places = range(len(epsilon))
        for place in places if self.order == "outward" else reversed(places):
            epsilon[place] = largest(partial(self._holds_at, problem, epsilon, place), self.steps)

    def _holds_at(self, problem: Problem, epsilon: np.ndarray, place: int, value: float) -> bool:
        raised = epsilon.copy()
        raised[place] = value
        return holds(problem, raised, self.oracle)
