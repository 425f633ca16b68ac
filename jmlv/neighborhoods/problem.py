"""What a growing strategy works on: layers that matter, certified margins, and the best so far."""

from __future__ import annotations

import dataclasses
from bisect import bisect_left
from collections import Counter
from functools import cached_property, partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jmlv.bounds.method import BoundMethod
from jmlv.graph import Graph
from jmlv.numerics import PROOF_TOLERANCE, search_precision
from jmlv.oracles import Bounds, Deadline, Oracle, Query, ask
from jmlv.progress import Bar
from jmlv.properties import MarginForm
from jmlv.regions import LayeredNeighborhood, Layers
from jmlv.verdict import Verdict


class OutOfTime(Exception):
    """The budget has ended; what was certified before stands."""


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
        movable: indices of the layers to grow.
        queries: how many candidates were asked of which oracle.
        best: the largest certified epsilon vector over all layers.
        trace: ``(seconds, size)`` at every improvement.
        outer: another view of the same task, with other weights or another bound, that is told of
            every proof.
    """

    query: Query
    layers: Layers
    weights: Float[np.ndarray, " layer"]
    bound: BoundMethod
    deadline: Deadline
    clock: Deadline
    bar: Bar
    free: Bool[np.ndarray, " layer"]
    queries: Counter = dataclasses.field(default_factory=Counter)
    best: Float[np.ndarray, " layer"] | None = None
    best_verdict: Verdict | None = None
    trace: list[tuple[float, float]] = dataclasses.field(default_factory=list)
    outer: Problem | None = None

    @property
    def graph(self) -> Graph:
        return self.query.graph

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

    def margins(self, candidates: Float[Array, "candidate movable"]) -> Float[np.ndarray, " candidate"]:
        """Certified lower bounds on the margin, one per candidate, in one float32 batch."""
        self._spend(len(candidates), self.bound.name)
        with search_precision():
            values = _margins(self.bound, *self._arguments, self._padded(candidates))
        return np.asarray(values)[: len(candidates)]

    def gradients(
        self, candidates: Float[Array, "candidate movable"], bound: BoundMethod
    ) -> Float[np.ndarray, "candidate movable"]:
        """Gradients of a bound's lower margin with respect to the epsilons."""
        self._spend(len(candidates), f"{bound.name} gradient")
        with search_precision():
            slopes = _gradients(bound, *self._arguments, self._padded(candidates))
        return np.nan_to_num(np.asarray(slopes)[: len(candidates), self.movable])

    def input_gradients(
        self, points: Float[np.ndarray, "point height width channel"]
    ) -> Float[np.ndarray, "point height width channel"]:
        """Gradients of the property's own margin with respect to the image, at several images."""
        graph, form, *_ = self._arguments
        with search_precision():
            slopes = _input_gradients(graph, form, jnp.asarray(points, jnp.float32))
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
        return dataclasses.replace(
            self, weights=weights, best=None, best_verdict=None, trace=[], outer=self
        )

    def bounded_by(self, bound: BoundMethod) -> Problem:
        """The same task with another bound as its certificate; what it proves is offered here too."""
        return dataclasses.replace(self, bound=bound, trace=[], outer=self)

    def _keep(self, epsilon: Float[Array, " movable"], verdict: Verdict) -> None:
        if self.improves(epsilon):
            self.best, self.best_verdict = self.full(epsilon), verdict
            self.trace.append((self.clock.elapsed, self.size(epsilon)))
        if self.outer is not None:
            self.outer._keep(epsilon, verdict)

    def verify(self, epsilon: Float[Array, " movable"], oracle: Oracle | None = None) -> Verdict:
        """The verdict on a candidate neighbourhood."""
        oracle = Bounds(self.bound) if oracle is None else oracle
        self._spend(1, f"{oracle.name} (float64)" if isinstance(oracle, Bounds) else oracle.name)
        region = LayeredNeighborhood(self.x, self.layers, self.full(epsilon))
        query = Query.of(self.query.f, region, self.query.property, self.graph)
        return ask(query, oracle, self.deadline)

    def reach(self, point: Float[np.ndarray, "height width channel"]) -> Float[np.ndarray, " movable"]:
        """How far a point is from the image on each movable layer: it lies in every neighbourhood
        with at least these epsilons."""
        distance = np.abs(np.asarray(point) - self.x).max(-1)
        farthest = np.zeros(self.layers.count)
        np.maximum.at(farthest, np.asarray(self.layers.index), distance)
        return farthest[self.movable]

    def improves(self, epsilon: Float[Array, " movable"]) -> bool:
        return self.best is None or self.size(epsilon) > float(self.weights @ self.best)

    def _spend(self, count: int, kind: str) -> None:
        if self.deadline.passed:
            raise OutOfTime
        self.queries[kind] += count
        self.bar.update(count, size=0.0 if self.best is None else float(self.weights @ self.best))

    @cached_property
    def _arguments(self) -> tuple[Graph, MarginForm, Array, Array]:
        form = jax.tree.map(np.float32, self.query.property.form(self.graph.label_count))
        return self.graph, form, jnp.asarray(self.x), jnp.asarray(self.layers.index)

    def _padded(self, candidates: Float[Array, "candidate movable"]) -> Float[np.ndarray, "row layer"]:
        """Candidates over as many layers as any object could have, in a batch of few sizes.

        Both keep the shapes static, so that one compilation serves every object and strategy.
        """
        rows = BATCHES[bisect_left(BATCHES, len(candidates))]
        padded = np.zeros((rows, max(self.layers.shape)), np.float32)
        padded[:, : self.layers.count] = self.free
        padded[: len(candidates), self.movable] = candidates
        return padded


BATCHES = (1, 4, 16, 64, 256)


def _margin(
    bound: BoundMethod, graph: Graph, form: MarginForm, x: Array, index: Array, epsilon: Array
) -> Float[Array, ""]:
    radius = epsilon[index][..., None]
    lower, upper = jnp.clip(x - radius, 0, 1), jnp.clip(x + radius, 0, 1)
    rows = bound.rows(graph, lower, upper, form.coefficients, form.offsets)
    return form.combine(rows.lower)


@partial(jax.jit, static_argnums=0)
def _margins(bound, graph, form, x, index, epsilons) -> Float[Array, " candidate"]:
    return jax.vmap(partial(_margin, bound, graph, form, x, index))(epsilons)


@partial(jax.jit, static_argnums=0)
def _gradients(bound, graph, form, x, index, epsilons) -> Float[Array, "candidate layer"]:
    return jax.vmap(jax.grad(partial(_margin, bound, graph, form, x, index)))(epsilons)


@jax.jit
def _input_gradients(graph, form, points) -> Float[Array, "point height width channel"]:
    return jax.grad(lambda x: form.margin(graph.scores(x)).sum())(points)
