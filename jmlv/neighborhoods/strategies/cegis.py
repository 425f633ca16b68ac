"""Small steps up a relaxed objective, pulled back until they are proven: the loop of the source."""

from __future__ import annotations

import abc
import dataclasses

import numpy as np
from jaxtyping import Bool, Float

from jmlv.neighborhoods.problem import Problem
from jmlv.neighborhoods.strategies.cutting import CuttingWeights, shrink
from jmlv.neighborhoods.strategies.linear_steps import offer_largest
from jmlv.neighborhoods.strategies.sensitivity import Rows, SensitivityWeights, layer_sensitivity
from jmlv.require import require_fields


class Guide(abc.ABC):
    """Where the ascent has its slopes and its proofs from; it holds one state for each start."""

    problem: Problem

    @abc.abstractmethod
    def slopes(self, epsilon: Rows) -> Rows:
        """Gradients of the robustness level at the proven epsilons of all starts."""

    @abc.abstractmethod
    def proves(
        self, candidate: Rows, asked: Bool[np.ndarray, " start"]
    ) -> Bool[np.ndarray, " start"]:
        """Which of the candidates asked about are proven; False for those not asked about."""

    @property
    @abc.abstractmethod
    def points(self) -> Float[np.ndarray, "start height width channel"]:
        """The weakest known point of what was asked last, for each start."""


@dataclasses.dataclass(frozen=True)
class Ascent:
    """How the source's loop climbs.

    The constraint 'robust' is relaxed into the objective ``w . epsilon + penalty * level``, where
    the level is the worst margin in the neighbourhood. A step moves along its gradient, the largest
    change being ``step``. A candidate that is not proven is shrunk by the cutting weights towards
    the last one that was; one that never is, or does not grow the size, halves the step. A start
    ends when its step is below ``least``: no layer can grow.

    The penalty is in units in which size and level have gradients of the same mean: at 1 a layer of
    average cost for its weight stays as it is, cheaper ones grow and dearer ones give way.

    Attributes:
        step: first and largest change of an epsilon in one step.
        penalty: of the relaxed objective, in the units above.
        shrinks: tries to prove a step before it counts as failed.
        least: step that ends the climb.
        rounds: steps, at most.
        weights: dynamic weights of the search; None uses the user's own.
    """

    step: float = 0.1
    penalty: float = 1.0
    shrinks: int = 3
    least: float = 1e-3
    rounds: int = 100
    weights: SensitivityWeights | None = None

    def __post_init__(self) -> None:
        require_fields(self)
        if not (0 < self.least <= self.step <= 1):
            raise ValueError(
                f"step, least: expected 0 < least <= step <= 1, got {self.least}, {self.step}."
            )
        if not (np.isfinite(self.penalty) and self.penalty >= 0):
            raise ValueError(f"penalty: must not be negative, got {self.penalty}.")
        if self.shrinks < 1 or self.rounds < 1:
            raise ValueError("shrinks, rounds: each must be at least one.")

    def climb(self, guide: Guide, cut: CuttingWeights, epsilon: Rows) -> Rows:
        """Moves every start, which must be proven, as far as it goes; returns where each ended."""
        problem, known = guide.problem, None
        epsilon, step = epsilon.copy(), np.full(len(epsilon), self.step)
        for _ in range(self.rounds):
            if step.max() < self.least:
                break
            known = self._remembered(guide, known)
            direction = self._direction(problem, guide.slopes(epsilon), known)
            candidate = np.clip(epsilon + step[:, None] * direction, 0, 1)
            reached = self._proven(guide, cut, candidate, epsilon, step >= self.least)
            grown = sizes(problem, reached) > sizes(problem, epsilon) + 1e-6
            epsilon = np.where(grown[:, None], reached, epsilon)
            offer_largest(problem, epsilon)
            step = np.where(grown, step, step / 2)
        return epsilon

    def _remembered(self, guide: Guide, known: Rows | None) -> Rows | None:
        if self.weights is None:
            return None
        return self.weights.remember(known, layer_sensitivity(guide.problem, guide.points))

    def _direction(self, problem: Problem, slopes: Rows, known: Rows | None) -> Rows:
        """The relaxed objective's gradient, scaled so that its largest entry is 1."""
        gain = problem.weights[problem.movable][None]
        gain = gain if known is None else self.weights.weights(gain[0], known)
        unit = gain.mean(1, keepdims=True) / np.maximum(
            np.abs(slopes).mean(1, keepdims=True), 1e-30
        )
        direction = gain + self.penalty * unit * slopes
        return direction / np.maximum(np.abs(direction).max(1, keepdims=True), 1e-30)

    def _proven(
        self,
        guide: Guide,
        cut: CuttingWeights,
        candidate: Rows,
        robust: Rows,
        asked: Bool[np.ndarray, " start"],
    ) -> Rows:
        """Each candidate after as many shrinks as its proof takes; where none succeeds, ``robust``."""
        failed = asked & ~guide.proves(candidate, asked)
        for _ in range(self.shrinks):
            if not failed.any():
                break
            shrunk = shrink(candidate, robust, cut.weights(guide.problem, guide.points))
            candidate = np.where(failed[:, None], shrunk, candidate)
            failed &= ~guide.proves(candidate, failed)
        return np.where((asked & ~failed)[:, None], candidate, robust)


def sizes(problem: Problem, epsilon: Rows) -> Float[np.ndarray, " start"]:
    """The size of each row under the user's own weights."""
    return np.array([problem.size(one) for one in epsilon])
