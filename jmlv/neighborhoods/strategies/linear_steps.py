"""Sequential linear steps on the certified margin: the gradient's part in growing."""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Float

from jmlv.bounds import CROWN, BoundMethod
from jmlv.neighborhoods.optimum.knapsack import knapsack_step
from jmlv.neighborhoods.problem import Problem
from jmlv.require import require_fields

Batch = Float[np.ndarray, "start movable"]


@dataclasses.dataclass(frozen=True)
class LinearSteps:
    """Steps that maximise the size on a linear model of the certified margin.

    At each point the margin ``m`` and its gradient ``g`` with respect to epsilon give the model
    ``m + g . z >= (1 - use) m``; the step ``z`` inside the trust region that gains the most size is
    a fractional knapsack. Several shares of the trust region are tried in one batch, and a step is
    accepted only if the margin itself, recomputed, is certified.

    Attributes:
        gradient: the bound that is differentiated: ``CROWN(frozen=True)`` or ``CROWNIBP()``.
        steps: rounds, at most.
        trust: the first trust region, as the largest change of any epsilon.
        shares: of the trust region, tried at once.
        use: how much of the margin a step may spend.
    """

    gradient: BoundMethod = CROWN(frozen=True)
    steps: int = 24
    trust: float = 1.0
    shares: tuple[float, ...] = (1.0, 0.3, 0.1, 0.03)
    use: float = 0.95

    def __post_init__(self) -> None:
        require_fields(self)
        if self.steps < 1 or not self.shares:
            raise ValueError("steps, shares: each must be at least one.")
        if not (self.trust > 0 and 0 < self.use <= 1):
            raise ValueError(
                f"trust must be positive and use in (0, 1], got {self.trust}, {self.use}."
            )

    def climb(self, problem: Problem, epsilon: Batch, margin: Float[np.ndarray, " start"]) -> tuple:
        """Moves every start as far as it goes, offering the largest to the problem as it grows.

        Returns:
            Epsilons and margins where the starts ended.
        """
        epsilon, margin = epsilon.copy(), margin.copy()
        trust = np.full(len(epsilon), self.trust)
        for _ in range(self.steps):
            offer_largest(problem, epsilon)
            proposals = self._proposals(problem, epsilon, margin, trust)
            moved = _accept(problem, proposals, epsilon, margin)
            trust = np.minimum(1.0, np.where(moved > 0, 2 * moved, min(self.shares) * trust))
            if trust.max() < 1e-3:
                break
        offer_largest(problem, epsilon)
        return epsilon, margin

    def _proposals(
        self, problem: Problem, epsilon: Batch, margin: np.ndarray, trust: np.ndarray
    ) -> Float[np.ndarray, "start share movable"]:
        gain = problem.weights[problem.movable]
        slopes = problem.gradients(epsilon, self.gradient)
        states = list(zip(epsilon, margin, slopes, trust))
        return np.stack([[self._step(gain, *s, share) for share in self.shares] for s in states])

    def _step(self, gain, epsilon, margin, slope, trust, share) -> Float[np.ndarray, " movable"]:
        reach = trust * share
        low, high = np.maximum(-epsilon, -reach), np.minimum(1 - epsilon, reach)
        return epsilon + knapsack_step(gain, -slope, self.use * margin, low, high)


def offer_largest(problem: Problem, epsilon: Batch) -> None:
    """Offers the largest of some certified candidates, if it improves on the best so far."""
    best = max(epsilon, key=problem.size)
    if problem.improves(best):
        problem.offer(best)


def _accept(
    problem: Problem, proposals: np.ndarray, epsilon: Batch, margin: np.ndarray
) -> np.ndarray:
    """Moves each start to its largest certified proposal, in place; returns how far, else 0."""
    starts, shares, movable = proposals.shape
    margins = problem.margins(proposals.reshape(-1, movable)).reshape(starts, shares)
    moved = np.zeros(starts)
    for i in range(starts):
        sizes = [
            problem.size(p) if problem.certified(m) else -np.inf
            for p, m in zip(proposals[i], margins[i])
        ]
        j = int(np.argmax(sizes))
        if sizes[j] > problem.size(epsilon[i]) + 1e-6:
            moved[i] = np.abs(proposals[i, j] - epsilon[i]).max()
            epsilon[i], margin[i] = proposals[i, j], margins[i, j]
    return moved
