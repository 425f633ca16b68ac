"""One growing run: from arguments that are checked to a neighbourhood that is confirmed."""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Float

from jmlv.bounds import TIGHT, BoundMethod
from jmlv.neighborhoods.arguments import free_layers
from jmlv.neighborhoods.evaluation import Evaluator
from jmlv.neighborhoods.grown import GrownNeighborhood
from jmlv.neighborhoods.maximality import LayerStatus, layer_statuses
from jmlv.neighborhoods.problem import OutOfTime, Problem
from jmlv.neighborhoods.strategies.strategy import Strategy
from jmlv.oracles import MILP, PGD, Bounds, Cascade, Deadline, Oracle, Query, SoundnessError
from jmlv.progress import Bar
from jmlv.regions import Layers
from jmlv.verdict import Status, Verdict


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """How to grow, for one image or for many; see :func:`jmlv.grow` for the fields."""

    strategy: Strategy
    bound: BoundMethod
    oracle: Oracle | None
    maximality: PGD | None
    budget: float | None

    def __call__(
        self,
        query: Query,
        layers: Layers,
        weights: Float[np.ndarray, " layer"],
        evaluator: Evaluator,
        bar: Bar,
    ) -> GrownNeighborhood:
        """Grows and confirms."""
        deadline = Deadline(self.budget)
        problem = Problem(
            query=query,
            layers=layers,
            weights=weights,
            bound=self.bound,
            deadline=Deadline(None),
            clock=deadline,
            bar=bar,
            free=free_layers(query.graph, layers),
            evaluator=evaluator,
        )
        search_end = deadline.within(None if self.budget is None else 0.9 * self.budget)
        reason = _search(problem, self.strategy, search_end)
        return self._confirmed(problem, deadline, reason)

    def _confirmed(self, problem: Problem, deadline: Deadline, reason: str) -> GrownNeighborhood:
        """The best neighbourhood with the oracle's verdict, or the search's own where that is unknown."""
        epsilon = (
            problem.full(np.zeros(len(problem.movable))) if problem.best is None else problem.best
        )
        problem.deadline = deadline
        verdict = problem.best_verdict or Verdict(Status.UNKNOWN, reason=reason)
        try:
            confirmed = problem.verify(epsilon[problem.movable], self._oracle)
            _require_agreement(verdict, confirmed)
            verdict = confirmed if confirmed.robust or not verdict.robust else verdict
        except OutOfTime:
            pass  # the search's own certificate stands
        return GrownNeighborhood(
            x=problem.x,
            layers=problem.layers,
            epsilon=epsilon,
            weights=problem.weights,
            property=problem.query.property,
            verdict=verdict,
            free=problem.free,
            statuses=_statuses(problem, epsilon, self.maximality),
            queries=dict(problem.queries),
            seconds=deadline.elapsed,
            trace=tuple(problem.trace),
            strategy=self.strategy.name,
            reason=reason,
        )

    @property
    def _oracle(self) -> Oracle:
        if self.oracle is not None:
            return self.oracle
        return Cascade((PGD(), Bounds(self.bound), Bounds(TIGHT), MILP(largest=1000)))


def _search(problem: Problem, strategy: Strategy, deadline: Deadline) -> str:
    """Runs the strategy until the deadline; returns why it ended.

    The image alone is certified first, deadline or not, so that there is something to return.
    """
    if not problem.offer(np.zeros(len(problem.movable))).robust:
        return "the image alone could not be certified"
    problem.deadline = deadline
    try:
        strategy.search(problem)
    except OutOfTime as end:
        return str(end)
    except KeyboardInterrupt:
        return "interrupted"
    return "the strategy ended"


def _statuses(problem: Problem, epsilon: np.ndarray, attack: PGD | None) -> tuple[LayerStatus, ...]:
    if attack is None or problem.deadline.passed:
        return (LayerStatus.UNDECIDED,) * problem.layers.count
    return layer_statuses(problem, epsilon, attack)


def _require_agreement(searched: Verdict, confirmed: Verdict) -> None:
    if searched.robust and confirmed.status is Status.NOT_ROBUST:
        raise SoundnessError(f"{searched.method} proved what {confirmed.method} broke: {confirmed}")
