"""Searching over layers: which few to open wide, since the problem is a knapsack."""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Float

from jmlv.neighborhoods.problem import Problem
from jmlv.neighborhoods.strategies.complete_phase import CompletePhase
from jmlv.neighborhoods.strategies.filling import WORTH, emptied, fill, profile
from jmlv.neighborhoods.strategies.linear_steps import Batch, LinearSteps, offer_largest
from jmlv.neighborhoods.strategies.strategy import Strategy
from jmlv.neighborhoods.strategies.tight_polish import TightPolish
from jmlv.require import require_fields

Point = tuple[Float[np.ndarray, " movable"], float]


@dataclasses.dataclass(frozen=True)
class LayerSearch(Strategy):
    """Fills layers in many orders, inserts the best one by one, then searches around the best.

    Good neighbourhoods have a few layers near 1 and the rest near 0. So: the largest epsilon of
    each layer alone; candidates filled in several orders (by value, from the outside, from the
    object, at random) and by lazy best insertion; large-neighbourhood search, which empties up to
    four layers of the best candidate and fills again in noisy orders; a polish by linear steps and
    by raising single layers. All these questions are batches of certified margins. Then the best
    candidate grows further under a tighter and dearer bound (:class:`TightPolish`), and at last the
    complete phase (:class:`CompletePhase`) grows past what any bound certifies.

    Attributes:
        width: how many candidates a batch holds.
        rounds: of large-neighbourhood search, at most.
        patience: rounds without an improvement after which it ends.
        polish: the linear steps at the end, before single layers are raised; None leaves both out.
        tighter: the second polish, under tighter inner intervals; None leaves that out.
        complete: how a complete oracle takes it from there; None leaves that out.
        seed: of everything random.
    """

    width: int = 16
    rounds: int = 16
    patience: int = 4
    polish: LinearSteps | None = LinearSteps(steps=6, trust=0.2)
    tighter: TightPolish | None = TightPolish()
    complete: CompletePhase | None = CompletePhase()
    seed: int = 0

    def __post_init__(self) -> None:
        require_fields(self)
        if self.width < 4 or self.rounds < 0 or self.patience < 1:
            raise ValueError("width must be at least 4, rounds 0 and patience 1.")

    @property
    def name(self) -> str:
        return "layer search"

    def search(self, problem: Problem) -> None:
        if not len(problem.movable):
            return
        generator = np.random.default_rng(self.seed)
        alone = profile(problem)
        best = self._constructed(problem, alone, generator)
        best = self._large_neighborhoods(problem, best, alone, generator)
        if self.polish is not None:
            self._polished(problem, best)
        if self.tighter is not None:
            self.tighter.run(problem, generator)
        if self.complete is not None:
            self.complete.run(problem)

    def _constructed(self, problem: Problem, alone: np.ndarray, generator) -> Point:
        """The best of several filling orders and of best insertion."""
        value = problem.weights[problem.movable] * alone
        noisy = [value * generator.lognormal(0, 0.5, len(value)) for _ in range(self.width - 3)]
        keys = [value, np.arange(len(value)), -np.arange(len(value)), *noisy]
        orders = [np.argsort(-key, kind="stable") for key in keys]
        zero = np.zeros((len(orders), len(value)))
        margin = problem.margins(zero)
        filled = _largest(problem, *fill(problem, zero, margin, orders, alone))
        offer_largest(problem, filled[0][None])
        inserted = insert_best(problem, (zero[0], float(margin[0])), alone, self.width)
        offer_largest(problem, inserted[0][None])
        return max(filled, inserted, key=lambda point: problem.size(point[0]))

    def _large_neighborhoods(self, problem: Problem, best: Point, alone, generator) -> Point:
        """Empties a few layers and fills again, ``width`` ways at a time, while that helps."""
        idle = 0
        for _ in range(self.rounds):
            if idle == self.patience:
                break
            start = np.stack([emptied(best[0], alone, generator) for _ in range(self.width)])
            value = problem.weights[problem.movable] * alone
            noise = generator.lognormal(0, 0.6, (self.width, len(alone)))
            orders = np.argsort(-value * noise, axis=1)[:, : max(12, len(alone) // 2)]
            found = fill(problem, start, problem.margins(start), orders, alone)
            new = _largest(problem, *found)
            idle += 1
            if problem.size(new[0]) > problem.size(best[0]) + WORTH:
                best, idle = new, 0
                offer_largest(problem, best[0][None])
        return best

    def _polished(self, problem: Problem, best: Point) -> None:
        epsilon, margin = self.polish.climb(problem, best[0][None], np.array([best[1]]))
        order = np.argsort(-problem.weights[problem.movable], kind="stable")
        raised, _ = fill(problem, epsilon, margin, [order], np.ones(epsilon.shape[1]))
        offer_largest(problem, raised)


def insert_best(problem: Problem, start: Point, alone: np.ndarray, width: int) -> Point:
    """Raises, again and again, the layer whose raise gains the most size.

    Lazy: a layer's last known gain bounds its next one (roughly: margins shrink), so only the most
    promising ``width`` layers are asked about, and the best answer is taken once it beats what the
    others once gained.
    """
    epsilon, margin = start
    weights = problem.weights[problem.movable]
    reach = alone.copy()
    whole = max(margin, 1e-9)
    while margin > 0.01 * whole:
        gains = weights * (reach - epsilon)
        asked = np.argsort(-gains, kind="stable")[:width]
        asked = asked[gains[asked] > WORTH * weights[asked]]
        if not len(asked):
            break
        copies = np.repeat(epsilon[None], len(asked), 0), np.full(len(asked), margin)
        filled, margins = fill(problem, *copies, [[d] for d in asked], reach, tries=3)
        reach[asked] = filled[np.arange(len(asked)), asked]
        gained = weights[asked] * (reach[asked] - epsilon[asked])
        others = np.delete(weights * (reach - epsilon), asked)
        chosen = int(np.argmax(gained))
        if gained[chosen] >= others.max(initial=0.0):
            epsilon, margin = filled[chosen], float(margins[chosen])
    return epsilon, margin


def _largest(problem: Problem, epsilon: Batch, margin: Float[np.ndarray, " state"]) -> Point:
    best = int(np.argmax([problem.size(e) for e in epsilon]))
    return epsilon[best], float(margin[best])
