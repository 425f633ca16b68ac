"""Growing further under inner intervals that are tight, at the price of CROWN."""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Float

from jmlv.bounds import TIGHT, Relaxation
from jmlv.neighborhoods.problem import OutOfTime, Problem
from jmlv.neighborhoods.strategies.filling import emptied, fill
from jmlv.oracles import Bounds
from jmlv.require import require_fields

Vector = Float[np.ndarray, " movable"]


@dataclasses.dataclass(frozen=True)
class TightPolish:
    """Steps to the best candidate under a ceiling, whose inner intervals a tight relaxation proves.

    The relaxation costs a hundred times what CROWN does, nearly all of it for the intervals of inner
    neurons. So they are computed once, for a ceiling a little above the best candidate on every
    layer; they hold for all candidates below it, which are then asked about in batches, by CROWN
    with these intervals: the best is raised in noisy orders, as it is and with a few layers emptied.
    From what is found the next ceiling is set; where nothing is found the ceiling comes down. Every
    few ceilings the last step is proven in float64, under the relaxation itself. Where steps end, an
    ascent from a smaller and more even neighbourhood often ends elsewhere, and higher.

    Attributes:
        relaxation: proves the intervals, and the candidates that are kept.
        reach: how far the first ceiling is above the best candidate, relative to its epsilons.
        slack: is added to the epsilons before, so that layers near 0 can grow.
        width: candidates in a batch.
        rounds: ceilings of one ascent, at most.
        restarts: ascents from smaller neighbourhoods, after the first from the best candidate.
        unproven: steps between two proofs.
        share: of the time that is left, at most.
    """

    relaxation: Relaxation = TIGHT
    reach: float = 0.4
    slack: float = 0.02
    width: int = 16
    rounds: int = 40
    restarts: int = 4
    unproven: int = 4
    share: float = 0.75

    def __post_init__(self) -> None:
        require_fields(self)
        if self.width < 2 or min(self.rounds, self.restarts) < 0 or self.unproven < 1:
            raise ValueError("width must be at least 2, rounds and restarts 0, unproven 1.")
        if not (self.reach > 0 and self.slack >= 0 and 0 < self.share <= 1):
            raise ValueError("reach must be positive, slack not negative, share in (0, 1].")

    def run(self, problem: Problem, generator: np.random.Generator) -> None:
        """Grows ``problem.best`` further; the problem keeps every improvement."""
        outer = problem.deadline
        remaining = outer.remaining
        limit = self.share * remaining if np.isfinite(remaining) and remaining > 0 else None
        problem.deadline = outer.within(limit)
        steps: list[Vector] = []
        try:
            self._climb(problem, generator, steps)
        except OutOfTime:
            if outer.passed or problem.evaluator.stopped:
                raise
        finally:
            problem.deadline = outer
        self._prove(problem, steps)

    def _climb(self, problem: Problem, generator: np.random.Generator, steps: list[Vector]) -> None:
        """Ascends from the best candidate, then from others; what is left in ``steps`` is unproven."""
        self._ascend(problem, problem.best[problem.movable].astype(float), generator, steps)
        for _ in range(self.restarts):
            self._prove(problem, steps)
            self._ascend(problem, _another_start(problem, generator), generator, steps)

    def _ascend(
        self, problem: Problem, epsilon: Vector, generator: np.random.Generator, steps: list[Vector]
    ) -> None:
        reach = self.reach
        for _ in range(self.rounds):
            found = self._raised(problem, epsilon, reach, generator)
            if found is not None:
                epsilon = found
                steps.append(found)
            elif reach > 0.02:
                reach /= 2
            else:
                return
            if len(steps) == self.unproven and not self._prove(problem, steps):
                epsilon, reach = problem.best[problem.movable].astype(float), reach / 2

    def _prove(self, problem: Problem, steps: list[Vector]) -> bool:
        """Keeps the last step that can be proven, none of the others; whether that is the last.

        A step that is no larger than the best candidate needs no proof.
        """
        last = len(steps) - 1
        while steps:
            place, step = len(steps) - 1, steps.pop()
            if not problem.improves(step) or problem.offer(step, Bounds(self.relaxation)).robust:
                steps.clear()
                return place == last
        return False

    def _raised(self, problem: Problem, epsilon: Vector, reach: float, generator) -> Vector | None:
        """The largest candidate found below the ceiling, if it is worth keeping."""
        ceiling = np.minimum(1.0, epsilon + reach * (epsilon + self.slack))
        below = problem.below(ceiling, self.relaxation)
        states = np.stack(
            [epsilon] * (self.width // 2)
            + [emptied(epsilon, ceiling, generator) for _ in range(self.width - self.width // 2)]
        )
        margins = below.margins(states)
        states, margins = (v[[problem.certified(m) for m in margins]] for v in (states, margins))
        if not len(states):
            return None
        value = problem.weights[problem.movable] * (ceiling - epsilon)
        noisy = value * generator.lognormal(0, 0.8, states.shape)
        orders = np.argsort(-noisy, axis=1)[:, : max(12, len(value) // 2)]
        raised, _ = fill(below, states, margins, orders, ceiling, tries=3)
        best = max(raised, key=problem.size)
        return best if problem.size(best) > 1.002 * problem.size(epsilon) else None


SHRINKS = 0.5 ** np.arange(1, 8)


def _another_start(problem: Problem, generator: np.random.Generator) -> Vector:
    """Between the best candidate and one of equal epsilons, as large as CROWN certifies, at most half."""
    best = problem.best[problem.movable].astype(float)
    weights = problem.weights[problem.movable]
    even = np.full(len(best), problem.size(best) / max(weights.sum(), 1e-9))
    mixed = best + generator.random() ** 2 * (np.minimum(even, 1.0) - best)
    starts = SHRINKS[:, None] * mixed
    certified = [problem.certified(m) for m in problem.margins(starts)]
    return starts[int(np.argmax(certified))] if any(certified) else 0 * best
