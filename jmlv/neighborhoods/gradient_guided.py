"""Sequential linear programming on certified margins, from several starts at once."""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Float

from jmlv.bounds import CROWN, BoundMethod
from jmlv.neighborhoods.knapsack import knapsack_step
from jmlv.neighborhoods.problem import Problem
from jmlv.neighborhoods.strategy import Strategy

Batch = Float[np.ndarray, "start movable"]


@dataclasses.dataclass(frozen=True)
class GradientGuided(Strategy):
    """Steps that maximise the size on a linear model of the certified margin.

    From each start the margin ``m`` and its gradient ``g`` with respect to epsilon (relaxations
    frozen) give the model ``m + g . z >= (1 - use) m``; the step ``z`` inside the trust region that
    gains the most size is a fractional knapsack. Several shares of the trust region are tried in
    one batch; a step is accepted only if the margin itself, recomputed, is certified, and the
    largest neighbourhood is verified again in float64. The problem is knapsack-like (a few layers
    near 1, the rest near 0), so starts matter: they are the uniform neighbourhood, ramps inward and
    outward, and random sparse ones, each scaled to just inside what is certified.

    Attributes:
        gradient: the bound that is differentiated: ``CROWN(frozen=True)`` or ``CROWNIBP()``.
        starts: how many, all in one batch.
        steps: at most so many accepted or rejected rounds.
        trust: the first trust region, as the largest change of any epsilon.
        shares: of the trust region, tried at once.
        use: how much of the margin a step may spend.
        seed: of the random starts.
    """

    gradient: BoundMethod = CROWN(frozen=True)
    starts: int = 4
    steps: int = 24
    trust: float = 1.0
    shares: tuple[float, ...] = (1.0, 0.3, 0.1, 0.03)
    use: float = 0.95
    seed: int = 0

    def __post_init__(self) -> None:
        if self.starts < 1 or self.steps < 1 or not self.shares:
            raise ValueError("starts, steps, shares: each must be at least one.")
        if not (self.trust > 0 and 0 < self.use <= 1):
            raise ValueError(f"trust must be positive and use in (0, 1], got {self.trust}, {self.use}.")

    @property
    def name(self) -> str:
        return "gradient guided"

    def search(self, problem: Problem) -> None:
        directions = start_directions(len(problem.movable), self.starts, self.seed)
        epsilon, margin = scale_to_certified(problem, directions)
        trust = np.full(len(epsilon), self.trust)
        for _ in range(self.steps):
            self._offer_largest(problem, epsilon)
            proposals = self._proposals(problem, epsilon, margin, trust)
            moved = _accept(problem, proposals, epsilon, margin)
            trust = np.minimum(1.0, np.where(moved > 0, 2 * moved, min(self.shares) * trust))
            if trust.max() < 1e-3:
                break
        self._offer_largest(problem, epsilon)

    def _proposals(self, problem, epsilon: Batch, margin, trust) -> Float[np.ndarray, "start share movable"]:
        gain = problem.weights[problem.movable]
        slopes = problem.gradients(epsilon, self.gradient)
        return np.stack(
            [
                [self._step(gain, *state, share) for share in self.shares]
                for state in zip(epsilon, margin, slopes, trust)
            ]
        )

    def _step(self, gain, epsilon, margin, slope, trust, share) -> Float[np.ndarray, " movable"]:
        reach = trust * share
        low, high = np.maximum(-epsilon, -reach), np.minimum(1 - epsilon, reach)
        return epsilon + knapsack_step(gain, -slope, self.use * margin, low, high)

    def _offer_largest(self, problem: Problem, epsilon: Batch) -> None:
        best = max(epsilon, key=problem.size)
        if problem.improves(best):
            problem.offer(best)


def start_directions(movable: int, count: int, seed: int) -> Batch:
    """Uniform, ramps outward and inward, then random sparse vectors; the largest entry is 1."""
    generator = np.random.default_rng(seed)
    ramp = np.linspace(1.0, 0.0, movable) ** 4
    fixed = [np.ones(movable), ramp, ramp[::-1]]
    random = [generator.uniform(size=movable) ** 8 for _ in range(max(0, count - len(fixed)))]
    directions = np.stack([*fixed, *random])[:count]
    return directions / directions.max(1, keepdims=True)


def scale_to_certified(problem: Problem, directions: Batch, steps: int = 7) -> tuple[Batch, np.ndarray]:
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


def _accept(problem: Problem, proposals: np.ndarray, epsilon: Batch, margin: np.ndarray) -> np.ndarray:
    """Moves each start to its largest certified proposal, in place; returns how far, else 0."""
    starts, shares, movable = proposals.shape
    margins = problem.margins(proposals.reshape(-1, movable)).reshape(starts, shares)
    moved = np.zeros(starts)
    for i in range(starts):
        sizes = [
            problem.size(p) if problem.certified(m) else -np.inf for p, m in zip(proposals[i], margins[i])
        ]
        j = int(np.argmax(sizes))
        if sizes[j] > problem.size(epsilon[i]) + 1e-6:
            moved[i] = np.abs(proposals[i, j] - epsilon[i]).max()
            epsilon[i], margin[i] = proposals[i, j], margins[i, j]
    return moved
