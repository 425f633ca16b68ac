"""How large can any robust layered neighbourhood be? Counterexamples give a proven upper bound."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jmlv.graph import Classifier
from jmlv.graph.reads import pixels_read
from jmlv.neighborhoods.arguments import Weights, free_layers, layer_query, weights_of
from jmlv.neighborhoods.hitting_set import largest_uncut
from jmlv.numerics import search_precision
from jmlv.oracles import PGD, Deadline, Evidence, Query, judge
from jmlv.oracles.falsify import descend
from jmlv.progress import Bar, NoProgress, Progress
from jmlv.properties import Property
from jmlv.regions import Box, Layers
from jmlv.verdict import Status

Image = Float[np.ndarray, "height width channel"]
Vector = Float[np.ndarray, " layer"]

ATTACK = PGD(restarts=4, steps=25)
"""Looks for counterexamples unless another attack is asked for."""

ROUNDING = 2.0**-22
"""Added to how far a counterexample reaches: neighbourhoods are boxes of float32 numbers."""

SCALES = np.array([0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.7, 0.97])
FINE_SCALES = np.array([0.3, 0.45, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99])
SHARES = np.array([0.0, 0.2, 0.4, 0.6, 0.7, 0.8, 0.9, 0.95])
PATIENCE = 4
"""Attacks in a row that may fail."""

TRIALS = 64
"""Points evaluated at a time while a counterexample is pulled in."""


@dataclasses.dataclass(frozen=True, eq=False)
class SizeUpperBound:
    """No robust layered neighbourhood is larger than this.

    Attributes:
        value: the bound on ``weights . epsilon``.
        epsilon: (layer,) the largest neighbourhood that no counterexample found rules out.
        cuts: (cut, layer) how far each counterexample reaches on each layer; a robust neighbourhood
            is smaller on some layer of every cut.
        weights: (layer,) what sizes are weighed with.
        layers: the layers, or bands of them.
        trace: ``(seconds, bound)`` after every round.
        seconds: wall time.
        reason: why it ended.
    """

    value: float
    epsilon: Vector
    cuts: Float[np.ndarray, "cut layer"]
    weights: Vector
    layers: Layers
    trace: tuple[tuple[float, float], ...]
    seconds: float
    reason: str

    def __repr__(self) -> str:
        return f"SizeUpperBound({self.value:.4g}, {len(self.cuts)} cuts, {self.seconds:.1f} s)"


def size_upper_bound(
    f: Classifier,
    x: Float[Array, "height width channel"],
    layers: Layers,
    property: Property,
    *,
    weights: Weights | None = None,
    bands: int | None = None,
    budget: float = 60.0,
    attack: PGD = ATTACK,
    progress: Progress = NoProgress(),
) -> SizeUpperBound:
    """A proven upper bound on the size of any robust layered neighbourhood of ``x``.

    A counterexample that reaches ``r_d`` on each layer lies in every neighbourhood with
    ``epsilon >= r``, so a robust one has ``epsilon_d < r_d`` for some ``d``. The largest epsilon that
    respects all such cuts (:func:`jmlv.neighborhoods.hitting_set.largest_uncut`) bounds all sizes;
    it is attacked, scaled down as far as the attack still succeeds, the counterexample is pulled in
    layer by layer along its own sign pattern ``x + epsilon s`` (forward passes only) so that it binds
    few layers, and cut off. Every counterexample is replayed in float64 and float32 before it counts.

    Branch and bound over epsilon on a fixed pattern ``x + epsilon s`` cannot give more: robustness is
    inherited by smaller neighbourhoods, so a box of epsilons is ruled out by its lowest corner alone.

    Args:
        f, x, layers, property, weights: as for :func:`jmlv.grow`.
        bands: group the layers into so many bands of equal epsilon, which get the sum of their
            layers' weights; the bound then holds for neighbourhoods that are constant on each band.
        budget: seconds; the bound is valid whenever it ends.
        attack: looks for counterexamples.
        progress: shows the bound.

    Raises:
        UnsupportedOperation: ``f`` has operations without a sound rule.
        ValueError: arguments do not fit, or the property does not hold at ``x`` itself.

    >>> import jax.numpy as jnp, numpy as np, jmlv
    >>> f = lambda x: jnp.stack([x[:, 1, 1, 0], x[:, 0, 0, 0], 0 * x[:, 0, 1, 0]], -1)
    >>> x = np.zeros((2, 2, 1), np.float32); x[1, 1] = 0.75
    >>> layers = jmlv.Layers.around(np.array([[True, False], [False, False]]))
    >>> 0.75 < jmlv.size_upper_bound(f, x, layers, jmlv.InTopK(0, k=1), budget=5).value < 1.75
    True
    """
    deadline = Deadline(budget)
    query = layer_query(f, x, layers, property)
    values = weights_of(weights, layers)
    if bands is not None:
        layers, values = layers.banded(bands), np.bincount(layers.bands(bands), values)
    with progress.bar("upper bound") as bar:
        return bound_sizes(query, layers, values, attack, deadline, bar)


def bound_sizes(
    query: Query, layers: Layers, weights: Vector, attack: PGD, deadline: Deadline, bar: Bar
) -> SizeUpperBound:
    """:func:`size_upper_bound` for a query that has been traced and checked already."""
    return _Cutting(query, layers, weights, attack, deadline, bar).run()


class _Cutting:
    """The cuts so far, and the neighbourhood that they leave."""

    def __init__(
        self,
        query: Query,
        layers: Layers,
        weights: Vector,
        attack: PGD,
        deadline: Deadline,
        bar: Bar,
    ) -> None:
        self.query, self.layers, self.weights = query, layers, weights
        self.attack, self.deadline, self.bar = attack, deadline, bar
        self.x, self.index = query.lower, np.asarray(layers.index)
        self.form = jax.tree.map(np.float32, query.property.form(query.label_count))
        self.random = np.random.default_rng(attack.seed)
        self.key = jax.random.key(attack.seed)
        self.pixels = pixels_read(query.graph)
        self.free = free_layers(query.graph, layers)
        self.cuts: list[Vector] = []
        self.trace: list[tuple[float, float]] = []
        self.present = layers.counts() > 0
        self.epsilon = self.present.astype(float)
        self.bound = float(weights @ self.epsilon)

    def run(self) -> SizeUpperBound:
        failures, reason = 0, "the budget ended"
        while not self.deadline.passed:
            found = self._counterexample(SCALES if len(self.cuts) < 24 else FINE_SCALES)
            failures += 1
            if failures > PATIENCE:
                reason = "no counterexample was found in what the cuts leave"
                break
            if found is None:
                continue
            before = len(self.cuts)
            self._cut(*found)
            if len(self.cuts) > before:
                failures = 0
                self._solve()
        return SizeUpperBound(
            self.bound, self.epsilon, np.array(self.cuts).reshape(-1, self.layers.count),
            self.weights, self.layers, tuple(self.trace), self.deadline.elapsed, reason,
        )  # fmt: skip

    def _counterexample(self, scales: np.ndarray) -> tuple[Image, Vector] | None:
        """The sign pattern of a counterexample at the smallest scale at which one is found."""
        epsilons = scales[:, None] * self.epsilon
        radius = epsilons[:, self.index][..., None]
        lower, upper = np.clip(self.x - radius, 0, 1), np.clip(self.x + radius, 0, 1)
        self.key, key = jax.random.split(self.key)
        boxes = (jnp.asarray(side, jnp.float32) for side in (lower, upper))
        with search_precision():
            points, margins = descend(self.attack, self.query.graph, self.form, *boxes, key)
        for point, margin, epsilon in zip(points, margins, epsilons):
            if margin <= 0:
                reach = epsilon[self.index][..., None]
                moved = (point - self.x) * self.pixels
                pattern = np.where(reach > 0, moved / np.maximum(reach, 1e-9), 0)
                return np.clip(pattern, -1, 1).astype(np.float32), epsilon
        return None

    def _cut(self, pattern: Image, epsilon: Vector) -> None:
        """Adds the counterexample as it is and pulled in, three ways."""
        for _ in range(3):
            if not self.deadline.passed:
                self._add(pattern, self._pulled_in(pattern, epsilon))
        self._add(pattern, epsilon)

    def _pulled_in(self, pattern: Image, epsilon: Vector) -> Vector:
        """Lowers one layer after another while ``x + epsilon pattern`` stays a counterexample.

        Of a batch of lowered layers the one that gives up most of its epsilon, with some noise, is
        taken.
        """
        idle = 0
        while idle < 2 and not self.deadline.passed:
            tried = np.repeat(epsilon[None], TRIALS, 0)
            layer = self.random.choice(np.flatnonzero(epsilon * ~self.free > 0), TRIALS)
            share = self.random.choice(SHARES, TRIALS)
            tried[np.arange(TRIALS), layer] *= share
            gain = np.where(self._margins(pattern, tried) <= 0, 1 - share, 0.0)
            best = int(np.argmax(gain * self.random.uniform(0.5, 1.0, TRIALS)))
            idle = 0 if gain[best] > 0 else idle + 1
            epsilon = tried[best] if gain[best] > 0 else epsilon
        return epsilon

    def _margins(self, pattern: Image, epsilons: Float[np.ndarray, "trial layer"]) -> np.ndarray:
        with search_precision():
            arguments = self.query.graph, self.form, self.x, self.index, pattern
            return np.asarray(_margins_along(*arguments, epsilons.astype(np.float32)))

    def _add(self, pattern: Image, epsilon: Vector) -> None:
        """A cut, if the counterexample replays; what it reaches is measured at the replayed point."""
        radius = epsilon[self.index][..., None]
        point = np.clip(self.x + radius * pattern, 0, 1).astype(np.float32)
        between = Box(np.minimum(self.x, point), np.maximum(self.x, point))
        query = dataclasses.replace(self.query, lower=between.lower, upper=between.upper)
        verdict = judge(query, Evidence(point=point), self.attack.name)
        if verdict.status is Status.NOT_ROBUST:
            distance = np.abs(verdict.witness.astype(float) - self.x).max(-1)
            reach = np.zeros(self.layers.count)
            np.maximum.at(reach, self.index, distance)
            self.cuts.append(np.where(reach > 0, reach + ROUNDING, 0.0))

    def _solve(self) -> None:
        seconds = min(5.0, max(0.05, self.deadline.remaining))
        found = largest_uncut(np.array(self.cuts), self.weights * self.present, seconds)
        if found is None:
            return
        self.epsilon = found[0] * self.present
        self.bound = min(self.bound, found[1])
        self.trace.append((self.deadline.elapsed, self.bound))
        self.bar.update(1, bound=self.bound)


@jax.jit
def _margins_along(graph, form, x, index, pattern, epsilons) -> Float[Array, " trial"]:
    points = jnp.clip(x + epsilons[:, index][..., None] * pattern, 0, 1)
    return form.margin(graph.scores(points))
