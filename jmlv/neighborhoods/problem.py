"""What a growing strategy works on: layers that matter, certified margins, and the best so far."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping
from functools import cached_property
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jmlv.bounds import CROWN, BoundMethod, Interval, Relaxation, preactivation_bounds
from jmlv.graph import Graph, Variable
from jmlv.graph.fuse import fuse_relu_max_pool
from jmlv.neighborhoods.evaluation import Direct, Evaluator, Question, Request, Task, margin, slope
from jmlv.numerics import PROOF_TOLERANCE, search_precision
from jmlv.oracles import Bounds, Deadline, Oracle, Query
from jmlv.oracles.answers import answer
from jmlv.progress import Bar
from jmlv.regions import LayeredNeighborhood, Layers
from jmlv.verdict import Verdict


class OutOfTime(Exception):
    """The budget has ended, or the call is interrupted; what was certified before stands."""


class Kept(NamedTuple):
    """A certified neighbourhood: its epsilons over all layers, and the verdict on it."""

    epsilon: Float[np.ndarray, " layer"]
    verdict: Verdict


@dataclasses.dataclass(eq=False)
class Problem:
    """One growing task. Strategies see epsilon vectors over the *movable* layers only.

    A movable layer has pixels and the network reads some of them. The others are fixed: empty
    layers at 0, free layers (never read) at 1.

    Attributes:
        query: the network and property; its box is the image alone.
        layers: the layers around the perturbed object.
        weights: (layer,), the size's weights, not negative.
        bound: the search's certificate, in float32, on batches of candidates.
        deadline: when to stop.
        clock: since the call began, for the trace.
        bar: shows the queries asked and the best size.
        free: (layer,) layers that the network never reads.
        evaluator: answers what is asked of batches of candidates.
        movable: indices of the layers to grow.
        queries: how many candidates were asked of which oracle.
        kept: the largest certified neighbourhood, as one value: a search that is left behind may
            still replace it while its caller reads it.
        trace: ``(seconds, size)`` at every improvement.
        outer: another view of the same task, with other weights or within a ceiling, that is told
            of every proof.
        ceiling: (movable,) the largest epsilons that may be asked about, if there are such.
        known: intervals of inner neurons that hold up to the ceiling.
    """

    query: Query
    layers: Layers
    weights: Float[np.ndarray, " layer"]
    bound: BoundMethod
    deadline: Deadline
    clock: Deadline
    bar: Bar
    free: Bool[np.ndarray, " layer"]
    evaluator: Evaluator = dataclasses.field(default_factory=Direct)
    queries: Counter = dataclasses.field(default_factory=Counter)
    kept: Kept | None = None
    trace: list[tuple[float, float]] = dataclasses.field(default_factory=list)
    outer: Problem | None = None
    ceiling: Float[np.ndarray, " movable"] | None = None
    known: Mapping[Variable, Interval] = dataclasses.field(default_factory=dict)

    @property
    def graph(self) -> Graph:
        return self.query.graph

    @property
    def best(self) -> Float[np.ndarray, " layer"] | None:
        """The largest certified epsilon vector over all layers."""
        return None if self.kept is None else self.kept.epsilon

    @property
    def best_verdict(self) -> Verdict | None:
        """The verdict on :attr:`best`."""
        return None if self.kept is None else self.kept.verdict

    @property
    def x(self) -> np.ndarray:
        return self.query.lower

    @cached_property
    def movable(self) -> Int[np.ndarray, " movable"]:
        return np.flatnonzero((self.layers.counts() > 0) & ~self.free)

    def full(self, epsilon: Float[Array, " movable"]) -> Float[np.ndarray, " layer"]:
        """A vector over all layers from one over the movable ones."""
        vector = self.free.astype(np.float32)
        vector[self.movable] = np.asarray(epsilon, np.float32)
        return vector

    def size(self, epsilon: Float[Array, " movable"]) -> float:
        return float(self.weights @ self.full(epsilon))

    def margins(
        self, candidates: Float[Array, "candidate movable"]
    ) -> Float[np.ndarray, " candidate"]:
        """Certified lower bounds on the margin, one per candidate, in float32 batches."""
        return self._ask(margin, self.bound, self.bound.name, candidates)

    def gradients(
        self, candidates: Float[Array, "candidate movable"], bound: BoundMethod
    ) -> Float[np.ndarray, "candidate movable"]:
        """Gradients of a bound's lower margin with respect to the epsilons."""
        slopes = self._ask(slope, bound, f"{bound.name} gradient", candidates)
        return np.nan_to_num(slopes[:, self.movable])

    def input_gradients(
        self, points: Float[np.ndarray, "point height width channel"]
    ) -> Float[np.ndarray, "point height width channel"]:
        """Gradients of the property's own margin with respect to the image, at several images."""
        with search_precision():
            slopes = _input_gradients(self.graph, self._task.form, jnp.asarray(points, jnp.float32))
        return np.nan_to_num(np.asarray(slopes))

    def certified(self, margin: float) -> bool:
        """Whether a bound proves the property; NaN does not."""
        return bool(margin > PROOF_TOLERANCE)

    def offer(self, epsilon: Float[Array, " movable"], oracle: Oracle | None = None) -> Verdict:
        """Verifies a candidate in float64 and keeps it if it is proven and the largest so far.

        Args:
            epsilon: the candidate.
            oracle: asked for the proof; by default the search's own bound.

        Returns:
            The verdict on it.
        """
        verdict = self.verify(epsilon, oracle)
        if verdict.robust:
            self._keep(epsilon, verdict)
        return verdict

    def under(self, weights: Float[np.ndarray, " layer"]) -> Problem:
        """The same task, clock and counts with other weights; what it proves is offered here too."""
        return dataclasses.replace(self, weights=weights, kept=None, trace=[], outer=self)

    def below(self, ceiling: Float[np.ndarray, " movable"], relaxation: Relaxation) -> Problem:
        """The same task for epsilons up to a ceiling, where a relaxation's intervals are known.

        Every margin is then CROWN's with the inner intervals that the relaxation proves for the
        ceiling: nearly as tight as the relaxation itself, at the price of CROWN.
        """
        self._spend(1, f"{relaxation.name} intervals")
        box = LayeredNeighborhood(self.x, self.layers, self.full(ceiling)).box()
        graph = fuse_relu_max_pool(self.graph)
        with search_precision():
            found = preactivation_bounds(graph, box.lower, box.upper, relaxation)
        known = jax.tree.map(np.asarray, found)
        return dataclasses.replace(
            self, bound=CROWN(), ceiling=ceiling, known=known, trace=[], outer=self
        )

    def _keep(self, epsilon: Float[Array, " movable"], verdict: Verdict) -> None:
        if self.improves(epsilon):
            self.kept = Kept(self.full(epsilon), verdict)
            self.trace.append((self.clock.elapsed, self.size(epsilon)))
        if self.outer is not None:
            self.outer._keep(epsilon, verdict)

    def verify(self, epsilon: Float[Array, " movable"], oracle: Oracle | None = None) -> Verdict:
        """The verdict on a candidate neighbourhood."""
        oracle = Bounds(self.bound) if oracle is None else oracle
        self._spend(1, f"{oracle.name} (float64)" if isinstance(oracle, Bounds) else oracle.name)
        region = LayeredNeighborhood(self.x, self.layers, self.full(epsilon))
        query = self.query.over(region)
        if isinstance(oracle, Bounds):
            return answer(query, oracle, self.deadline).verdict
        with self.evaluator.away():
            return answer(query, oracle, self.deadline).verdict

    def reach(
        self, point: Float[np.ndarray, "height width channel"]
    ) -> Float[np.ndarray, " movable"]:
        """How far a point is from the image on each movable layer: it lies in every neighbourhood
        with at least these epsilons."""
        return self.layers.reach(self.x, point)[self.movable]

    def improves(self, epsilon: Float[Array, " movable"]) -> bool:
        return self.best is None or self.size(epsilon) > float(self.weights @ self.best)

    def _ask(
        self, question: Question, bound: BoundMethod, name: str, candidates: Array
    ) -> np.ndarray:
        self._spend(len(candidates), name)
        if self.ceiling is not None and np.any(candidates > self.ceiling):
            raise ValueError("candidates: exceed the ceiling that the intervals hold for.")
        epsilons = np.tile(self._layers_of_any_object, (len(candidates), 1))
        epsilons[:, self.movable] = candidates
        return self.evaluator(Request(question, bound, self.graph, self._task, epsilons))

    def _spend(self, count: int, kind: str) -> None:
        if self.evaluator.stopped:
            raise OutOfTime("interrupted")
        if self.deadline.passed:
            raise OutOfTime("the budget ended")
        self.queries[kind] += count
        self.bar.update(count, size=0.0 if self.best is None else float(self.weights @ self.best))

    @cached_property
    def _task(self) -> Task:
        form = self.query.property.form(self.graph.label_count).astype("float32")
        return Task(form, self.x, np.asarray(self.layers.places), self.known)

    @cached_property
    def _layers_of_any_object(self) -> Float[np.ndarray, " layer"]:
        """Epsilon 1 on free layers, over as many layers as any object could have: one shape."""
        row = np.zeros(max(self.layers.shape), np.float32)
        row[: self.layers.count] = self.free
        return row


@jax.jit
def _input_gradients(graph, form, points) -> Float[Array, "point height width channel"]:
    return jax.grad(lambda x: form.margin(graph.scores(x)).sum())(points)
