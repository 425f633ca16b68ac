"""Growing by gradients of certified margins, from several starts at once."""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Bool, Float

from jmlv.bounds import BoundMethod
from jmlv.neighborhoods.problem import Problem
from jmlv.neighborhoods.strategies.cegis import Ascent, Guide
from jmlv.neighborhoods.strategies.cutting import CuttingWeights, SensitivityCut
from jmlv.neighborhoods.strategies.linear_steps import Batch, LinearSteps
from jmlv.neighborhoods.strategies.strategy import Strategy
from jmlv.require import require_fields


@dataclasses.dataclass(frozen=True)
class GradientGuided(Strategy):
    """Linear steps, and penalised gradient steps with CEGIS shrinks, from several starts in a batch.

    The problem is knapsack-like (a few layers near 1, the rest near 0), so starts matter: they are
    the uniform neighbourhood, ramps outward and inward, and random sparse ones, each scaled to just
    inside what is certified. From each of them go

    - sequential linear steps (:class:`LinearSteps`), and
    - with a ``cut``, the source's loop (:class:`Ascent`) on the certified margin instead of a
      complete oracle's weakest points, polished by the linear steps in turn.

    The largest neighbourhood is verified again in float64.

    Attributes:
        cut: cutting weights of the shrink; None leaves the source's loop out.
        steps: how each start climbs; ``LinearSteps(gradient=CROWNIBP())`` differentiates
            CROWN-IBP instead of CROWN with its relaxations frozen.
        starts: how many, all in one batch.
        seed: of the random starts.
        ascent: how that loop steps.
    """

    cut: CuttingWeights | None = SensitivityCut()
    steps: LinearSteps = LinearSteps()
    starts: int = 4
    seed: int = 0
    ascent: Ascent = Ascent()

    def __post_init__(self) -> None:
        require_fields(self)
        if self.starts < 1:
            raise ValueError(f"starts: must be at least one, got {self.starts}.")

    @property
    def name(self) -> str:
        return "gradient guided" + ("" if self.cut is None else f", {self.cut.name}")

    def search(self, problem: Problem) -> None:
        if not len(problem.movable):
            return
        directions = start_directions(len(problem.movable), self.starts, self.seed)
        epsilon, margin = scale_to_certified(problem, directions)
        self.steps.climb(problem, epsilon, margin)
        if self.cut is not None:
            guide = BoundGuide(problem, self.steps.gradient, self.starts)
            epsilon = self.ascent.climb(guide, self.cut, epsilon)
            self.steps.climb(problem, epsilon, problem.margins(epsilon))


class BoundGuide(Guide):
    """Slopes and proofs of a differentiable bound, all starts in one batch."""

    def __init__(self, problem: Problem, gradient: BoundMethod, starts: int) -> None:
        self.problem, self.gradient = problem, gradient
        self._points = np.repeat(problem.x[None], starts, 0)

    @property
    def points(self) -> Float[np.ndarray, "start height width channel"]:
        return self._points

    def slopes(self, epsilon: Batch) -> Batch:
        return self.problem.gradients(epsilon, self.gradient)

    def proves(
        self, candidate: Batch, asked: Bool[np.ndarray, " start"]
    ) -> Bool[np.ndarray, " start"]:
        proven = np.zeros(len(candidate), bool)
        margins = self.problem.margins(candidate[asked])
        proven[asked] = [self.problem.certified(margin) for margin in margins]
        return proven


def start_directions(movable: int, count: int, seed: int) -> Batch:
    """Uniform, ramps outward and inward, then random sparse vectors; the largest entry is 1."""
    generator = np.random.default_rng(seed)
    ramp = np.linspace(1.0, 0.0, movable) ** 4
    fixed = [np.ones(movable), ramp, ramp[::-1]]
    random = [generator.uniform(size=movable) ** 8 for _ in range(max(0, count - len(fixed)))]
    directions = np.stack([*fixed, *random])[:count]
    return directions / directions.max(1, keepdims=True)


def scale_to_certified(
    problem: Problem, directions: Batch, steps: int = 7
) -> tuple[Batch, Float[np.ndarray, " start"]]:
    """Each direction at the largest certified multiple, all bisected in one batch, and its margin."""
    low, high = np.zeros(len(directions)), np.ones(len(directions))
    kept = problem.margins(0 * directions)
    for _ in range(steps):
        middle = (low + high) / 2
        margin = problem.margins(middle[:, None] * directions)
        fits = np.array([problem.certified(m) for m in margin])
        low, high = np.where(fits, middle, low), np.where(fits, high, middle)
        kept = np.where(fits, margin, kept)
    return low[:, None] * directions, kept
