"""Growing past what a bound certifies, by asking a complete oracle."""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Float

from jmlv.neighborhoods.problem import OutOfTime, Problem
from jmlv.numerics import GREY_LEVEL
from jmlv.oracles import MILP, PGD, Bounds, Cascade, Oracle
from jmlv.require import require_fields

Vector = Float[np.ndarray, " movable"]

SHARE = 0.005
"""A step is worth a question if it adds so much to the size, relatively."""


@dataclasses.dataclass(frozen=True)
class CompletePhase:
    """Scales the certified neighbourhood up, then widens it layer by layer with adaptive steps.

    Each candidate is checked against the counterexamples already known, then by CROWN, PGD and the
    complete solver on alpha-CROWN's intervals (it gives up at once on models that are beyond it;
    some it proves by these bounds alone). Steps double on success and are quartered on failure,
    until none would add a two-hundredth to the size or the time is spent.

    Attributes:
        seconds: for the whole phase; 0 leaves it out.
        oracle: decides each candidate.
        factors: of the scaling, tried in order until one fails.
        step: first step of a layer.
    """

    seconds: float = 20.0
    oracle: Oracle = Cascade((Bounds(), PGD(), MILP(time_limit=10.0, largest=1000)))
    factors: tuple[float, ...] = (1.02, 1.05, 1.15, 1.3, 1.6, 2.0)
    step: float = 0.05

    def __post_init__(self) -> None:
        require_fields(self)
        if not (self.seconds >= 0 and self.step > 0):
            raise ValueError("seconds must not be negative, step must be positive.")

    def run(self, problem: Problem) -> None:
        """Grows ``problem.best`` further; the problem keeps every improvement."""
        if self.seconds == 0 or problem.best is None:
            return
        outer = problem.deadline
        problem.deadline = outer.within(self.seconds)
        try:
            widening = Widening(self.oracle, problem)
            widening.scale(self.factors)
            widening.widen(self.step)
        except OutOfTime:
            if outer.passed:
                raise
        finally:
            problem.deadline = outer


class Widening:
    """The largest proven epsilons, and the counterexamples met beyond them."""

    def __init__(self, oracle: Oracle, problem: Problem) -> None:
        self.oracle, self.problem = oracle, problem
        self.epsilon: Vector = problem.best[problem.movable].astype(float)
        self.reach: list[Vector] = []

    def scale(self, factors: tuple[float, ...]) -> None:
        start = self.epsilon
        for factor in factors:
            if not self.proves(np.minimum(1.0, factor * start)):
                break

    def widen(self, first_step: float) -> None:
        weights = self.problem.weights[self.problem.movable]
        step = np.where((self.epsilon < 1) & (weights > 0), first_step, 0.0)
        worth = SHARE * max(float(weights @ self.epsilon), GREY_LEVEL)  # a size can be 0
        while np.max(weights * step, initial=0.0) >= worth:
            for d in np.argsort(-weights * step, kind="stable"):
                if weights[d] * step[d] >= worth:
                    candidate = self.epsilon.copy()
                    candidate[d] = min(1.0, candidate[d] + step[d])
                    step[d] *= 2.0 if self.proves(candidate) else 0.25
                    step[d] *= self.epsilon[d] < 1

    def proves(self, candidate: Vector) -> bool:
        """Whether the candidate is proven; it replaces the best then."""
        if any(np.all(reach <= candidate + 1e-7) for reach in self.reach):
            return False
        verdict = self.problem.offer(candidate, self.oracle)
        if verdict.robust:
            self.epsilon = candidate
        elif verdict.witness is not None and verdict.upper <= 0:
            self.reach.append(self.problem.reach(verdict.witness))
        return verdict.robust
