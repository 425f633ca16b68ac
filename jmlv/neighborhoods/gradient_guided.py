"""Growing by gradients of certified margins, from several starts at once."""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Float

from jmlv.neighborhoods.linear_steps import Batch, LinearSteps
from jmlv.neighborhoods.problem import Problem
from jmlv.neighborhoods.strategy import Strategy


@dataclasses.dataclass(frozen=True)
class GradientGuided(Strategy):
    """Sequential linear steps (:class:`LinearSteps`) from several starts in one batch.

    The problem is knapsack-like (a few layers near 1, the rest near 0), so starts matter: they are
    the uniform neighbourhood, ramps outward and inward, and random sparse ones, each scaled to just
    inside what is certified. The largest neighbourhood is verified again in float64.

    Attributes:
        steps: how each start climbs; ``LinearSteps(gradient=CROWNIBP())`` differentiates
            CROWN-IBP instead of CROWN with its relaxations frozen.
        starts: how many, all in one batch.
        seed: of the random starts.
    """

    steps: LinearSteps = LinearSteps()
    starts: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        if self.starts < 1:
            raise ValueError(f"starts: must be at least one, got {self.starts}.")

    @property
    def name(self) -> str:
        return "gradient guided"

    def search(self, problem: Problem) -> None:
        directions = start_directions(len(problem.movable), self.starts, self.seed)
        self.steps.climb(problem, *scale_to_certified(problem, directions))


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
