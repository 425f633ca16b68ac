"""One growing run: from arguments that are checked to a neighbourhood that is confirmed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from jmlv.bounds import TIGHT, BoundMethod
from jmlv.graph.fingerprint import fingerprint
from jmlv.neighborhoods.arguments import free_layers
from jmlv.neighborhoods.evaluation import Evaluator
from jmlv.neighborhoods.first_certificate import certify_evenly
from jmlv.neighborhoods.grown import GrownNeighborhood
from jmlv.neighborhoods.maximality import LayerStatus, layer_statuses
from jmlv.neighborhoods.problem import Kept, OutOfTime, Problem
from jmlv.neighborhoods.strategies.strategy import Strategy
from jmlv.oracles import (
    MILP,
    PGD,
    Bounds,
    Cascade,
    Deadline,
    Evidence,
    Oracle,
    Query,
    SoundnessError,
    TimeUp,
    judge,
)
from jmlv.oracles.aside import run_until
from jmlv.progress import Bar
from jmlv.properties import Property
from jmlv.regions import Layers
from jmlv.require import require_fields
from jmlv.verdict import Status, Verdict

SEARCH = 0.9
"""Of the time that is left, for the strategy; the rest confirms what it found."""


class Case(NamedTuple):
    """What to grow.

    Attributes:
        x: the image.
        layers: the layers around the perturbed object.
        property: what must hold.
        weights: of the layers.
        query: traces the network and checks image and property; its box is the image alone.
    """

    x: Float[np.ndarray, "height width channel"]
    layers: Layers
    property: Property
    weights: Float[np.ndarray, " layer"]
    query: Callable[[], Query]


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """How to grow, for one image or for many; see :func:`jmlv.grow` for the fields."""

    strategy: Strategy
    bound: BoundMethod
    oracle: Oracle | None
    maximality: PGD | None

    def __post_init__(self) -> None:
        require_fields(self)

    def __call__(
        self, case: Case, evaluator: Evaluator, bar: Bar, deadline: Deadline
    ) -> GrownNeighborhood:
        """Grows and confirms until the deadline, or a keyboard interrupt; then takes what there is."""
        growing = _Growing(self, case, evaluator, bar, deadline)
        try:
            run_until(deadline, growing.work, lambda doing: bar.update(0, now=doing))
        except TimeUp as late:
            growing.end("interrupted" if evaluator.stopped else f"the budget ended: {late}")
        except KeyboardInterrupt:
            growing.end("interrupted")
        return growing.result()

    @property
    def confirmation(self) -> Oracle:
        """What is asked about the result."""
        if self.oracle is not None:
            return self.oracle
        return Cascade((PGD(), Bounds(self.bound), Bounds(TIGHT), MILP(largest=1000)))


class _Growing:
    """One run's state. A thread works on it; its caller may take the result at any moment."""

    def __init__(
        self, run: Run, case: Case, evaluator: Evaluator, bar: Bar, deadline: Deadline
    ) -> None:
        self.run, self.case, self.evaluator, self.bar = run, case, evaluator, bar
        self.deadline, self.reason = deadline, ""
        nothing = np.zeros(case.layers.count, np.float32)
        self.image = Kept(nothing, Verdict(Status.UNKNOWN, reason="nothing was certified in time"))
        self.problem: Problem | None = None
        self.found: Problem | None = None
        self.confirmed: Verdict | None = None
        self.statuses = (LayerStatus.UNDECIDED,) * case.layers.count

    def work(self, own: Deadline) -> None:
        """Certifies what is quickly certified, searches, confirms, and looks at single layers."""
        query = self.case.query()
        self.image = self.image._replace(verdict=_evaluated(query))
        with self.evaluator.member(lambda: own.passed):
            self.problem = self._posed(query, own)
            self.found, reason = self._searched(own.share(SEARCH))
            self.end(reason)
            problem = self.problem
            problem.deadline = own
            self.confirmed = self._confirmation()
            if self.run.maximality is not None and not own.passed:
                epsilon, attack = self._kept.epsilon, self.run.maximality
                self.statuses = layer_statuses(problem, epsilon, attack)

    def end(self, reason: str) -> None:
        """Says why the search ended, if nothing has been said."""
        self.reason = self.reason or reason

    def result(self) -> GrownNeighborhood:
        case, found = self.case, self._best
        epsilon, verdict = self._kept
        return GrownNeighborhood(
            x=np.asarray(case.x, np.float32),
            layers=case.layers,
            epsilon=epsilon,
            weights=case.weights,
            property=case.property,
            verdict=self.confirmed or verdict,
            free=np.zeros(case.layers.count, bool) if found is None else found.free,
            statuses=self.statuses,
            queries={} if found is None else dict(found.queries),
            seconds=self.deadline.elapsed,
            trace=() if found is None else tuple(found.trace),
            strategy=self.run.strategy.name,
            reason=self.reason,
            network="" if found is None else fingerprint(found.query.network),
        )

    @property
    def _best(self) -> Problem | None:
        """What the result is taken from: what was found, or what is in hand while it is searched."""
        return self.problem if self.found is None else self.found

    @property
    def _kept(self) -> Kept:
        kept = None if self._best is None else self._best.kept
        return self.image if kept is None else kept

    def _posed(self, query: Query, own: Deadline) -> Problem:
        """The task without a look at what the network reads, which takes longer than to certify."""
        return Problem(
            query=query,
            layers=self.case.layers,
            weights=self.case.weights,
            bound=self.run.bound,
            deadline=own,
            clock=self.deadline,
            bar=self.bar,
            free=np.zeros(self.case.layers.count, bool),
            evaluator=self.evaluator,
        )

    def _searched(self, limit: Deadline) -> tuple[Problem, str]:
        """Runs the strategy until the deadline; what to take the result from, and why it ended.

        A strategy that ends by itself is answered with what it found, be it less than what was in
        hand before: another one is to be had for the asking. One that is cut off is not.
        """
        try:
            self.problem.deadline = limit
            even = certify_evenly(self.problem)
            self.problem = problem = self._without_free_layers(limit)
            searched, ones = problem.under(problem.weights), np.ones(len(problem.movable))
            if not searched.offer(0 * ones).robust:
                return problem, "the image alone could not be certified"
            if even:
                problem.offer(even * ones)  # with the free layers at 1
            self.run.strategy.search(searched)
        except OutOfTime as end:
            return self.problem, str(end)
        except KeyboardInterrupt:
            return self.problem, "interrupted"
        return searched, "the strategy ended"

    def _without_free_layers(self, limit: Deadline) -> Problem:
        """The task from where it stands, its free layers found."""
        free = free_layers(self.problem.query.network, self.case.layers)
        return dataclasses.replace(self.problem, free=free, deadline=limit)

    def _confirmation(self) -> Verdict | None:
        """The oracle's verdict, or None where the search's own certificate stands."""
        epsilon, verdict = self._kept
        if self._best.kept is None:
            return None
        try:
            movable = self.problem.movable
            confirmed = self.problem.verify(epsilon[movable], self.run.confirmation)
        except OutOfTime:
            return None
        _require_agreement(verdict, confirmed)
        return confirmed if confirmed.robust or not verdict.robust else None


def _evaluated(query: Query) -> Verdict:
    """The verdict on the image alone: its margin is the worst there is."""
    reason = "the image alone: its margin was evaluated in float64"
    return judge(query, Evidence(query.margin_exact(query.lower), reason=reason), "evaluation")


def _require_agreement(searched: Verdict, confirmed: Verdict) -> None:
    if searched.robust and confirmed.status is Status.NOT_ROBUST:
        raise SoundnessError(f"{searched.method} proved what {confirmed.method} broke: {confirmed}")
