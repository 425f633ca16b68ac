"""ML-DeepFool: the shortest step that puts every label on its threshold, to first order."""

from __future__ import annotations

import dataclasses

import numpy as np

from jmlv.attacks.network import margins_and_jacobian
from jmlv.attacks.problem import (
    Attack,
    Found,
    Problem,
    require_at_least,
    require_finite_gradients,
)
from jmlv.attacks.projection import Norm, distance
from jmlv.regions import domain_ends


@dataclasses.dataclass(frozen=True)
class MLDeepFool(Attack):
    r"""DeepFool for several labels: a pseudo-inverse step on the probabilities of all labels.

    $$r = J^{+} \big(\tfrac{1}{2} + \eta s - \hat p(x_i)\big), \qquad x_{i+1} = \Pi(x_i + r)$$

    where $J$ is the Jacobian of the probabilities of the labels that count and $s = \pm 1$ is the wanted
    side. The equations ask kept
    labels onto the threshold as well, which is what makes the method weak; that is how it is
    published. The iterate with the most labels as wanted is kept, and of those the nearest.

    Args:
        iterations: steps at most.
        overshoot: $\eta$: how far beyond the threshold labels are asked. The published code has 0,
            which ends on the threshold, on either side of it; 0.02 is the single-label method's.

    Source: Song, Jin, Huang, Hu, *Multi-label Adversarial Perturbations*, ICDM 2018; 20 iterations as
    in the comparison of the MLA-LP paper.
    """

    iterations: int = 20
    overshoot: float = 0.02

    def __post_init__(self) -> None:
        require_at_least(self.iterations, 1, "iterations")
        if not 0 <= self.overshoot < 0.5:
            raise ValueError(f"overshoot: must be in [0, 0.5), got {self.overshoot}.")

    @property
    def norm(self) -> Norm:
        return "l2"

    @property
    def needs_budgets(self) -> bool:
        return False

    def run(self, problem: Problem, budgets: tuple[float, ...]) -> Found:
        low, high = problem.bounds()
        x, best = problem.x.copy(), problem.x.copy()
        most, least = np.full(len(x), -1), np.full(len(x), np.inf)
        spent, active = np.zeros(len(x), int), np.ones(len(x), bool)
        for number in problem.progress.wrap(range(self.iterations + 1), "ML-DeepFool"):
            margins, jacobian = margins_and_jacobian(problem.network, problem.weights, x)
            require_finite_gradients(np.isfinite(jacobian).all())
            margins = margins.astype(np.float64)
            met = _met(problem, margins)
            length = distance(x, problem.x, "l2")
            better = active & ((met > most) | ((met == most) & (length < least)))
            best[better], most[better], least[better] = x[better], met[better], length[better]
            active &= met < np.asarray(problem.aim.relevant).sum(1)
            if number == self.iterations or not active.any():
                break
            for i in np.flatnonzero(active):
                x[i] += _step(problem, i, margins[i], jacobian[i], self.overshoot)
            spent += active
            x = np.clip(x, low, high)
        return Found(np.stack([best] * len(budgets)), np.stack([spent] * len(budgets)))


def _met(problem: Problem, margins: np.ndarray) -> np.ndarray:
    aim = problem.aim
    return (((margins > 0) == np.asarray(aim.wanted)) & np.asarray(aim.relevant)).sum(1)


def _step(
    problem: Problem, i: int, margins: np.ndarray, jacobian: np.ndarray, overshoot: float
) -> np.ndarray:
    """The shortest change that the linearised probabilities answer as asked."""
    rows = np.asarray(problem.aim.relevant)[i]
    probability = 1 / (1 + np.exp(-np.clip(margins[rows], -500, 500)))
    slope = (probability * (1 - probability))[:, None] * jacobian[rows].reshape(rows.sum(), -1)
    slope = slope * problem.free[i].ravel()
    asked = 0.5 + overshoot * np.asarray(problem.aim.signs)[i][rows] - probability
    alive = np.abs(slope).max(1) > 1e-12
    if not alive.any():
        return np.zeros(problem.x.shape[1:], np.float32)
    change, *_ = np.linalg.lstsq(slope[alive], asked[alive], rcond=None)
    least, greatest = domain_ends(problem.domain, problem.x[i])
    change, width = change.reshape(problem.x.shape[1:]), greatest - least
    return np.clip(change, -width, width).astype(np.float32)
