"""Counterexamples that reach no further than they must, in as few layers as they can."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jmlv.graph.reads import pixels_read
from jmlv.neighborhoods.arguments import free_layers
from jmlv.numerics import search_precision
from jmlv.oracles import PGD, Deadline, Evidence, Query, judge
from jmlv.oracles.falsify import descend, descend_from
from jmlv.regions import Box, LayeredNeighborhood, Layers
from jmlv.verdict import Status

Image = Float[np.ndarray, "height width channel"]
Vector = Float[np.ndarray, " layer"]

ROUNDING = 2.0**-22
"""Added to how far a counterexample reaches: neighbourhoods are boxes of float32 numbers."""

WHOLE = np.array([0.99])
"""Scales of the neighbourhood that is attacked: all of it, but for the boundary, on which known
counterexamples lie. Of those in the whole many can be pulled in to a few layers."""

EVEN = np.array([0.3, 0.5, 0.7, 0.9])
"""Scales at which counterexamples have a part in every layer."""

SMALLER = np.array([0.3, 0.45, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99])
"""The scales at which a smaller counterexample is looked for."""

SHARES = np.array([0.0, 0.2, 0.4, 0.6, 0.7, 0.8, 0.9, 0.95])
"""What may be left of a layer's epsilon in one trial."""

TRIALS = 64
"""Points evaluated at a time while a counterexample is pulled in."""

STEPS = 0.5 * np.linspace(1.0, 0.05, 12)
"""From a counterexample to one in a smaller neighbourhood; shares of each pixel's radius."""


class Counterexample(NamedTuple):
    """The point ``x + epsilon pattern``, with entries of the pattern in [-1, 1]."""

    pattern: Image
    epsilon: Vector


class Counterexamples:
    """Looks for counterexamples in layered neighbourhoods of one image, and makes them smaller.

    Args:
        query: of the whole image, ``lower`` is ``x`` itself.
        layers: the layers around the perturbed object, or bands of them.
        attack: finds the first ones.
        deadline: when to leave them as they are.
    """

    def __init__(self, query: Query, layers: Layers, attack: PGD, deadline: Deadline) -> None:
        self.query, self.layers, self.attack, self.deadline = query, layers, attack, deadline
        self.x, self.places = query.lower, np.asarray(layers.places)
        self.form = query.property.form(query.label_count).astype("float32")
        self.pixels = pixels_read(query.network)
        self.free = free_layers(query.network, layers)
        self.random = np.random.default_rng(attack.seed)
        self.key = jax.random.key(attack.seed)

    def cut(self, epsilon: Vector, scales: Float[np.ndarray, " scale"] = WHOLE) -> Vector | None:
        """How far a counterexample in a neighbourhood reaches on each layer, if the attack finds one.

        It is pulled in, another is looked for in what is left, and so on. The last that replays in
        both precisions counts.

        Args:
            epsilon: of the neighbourhood.
            scales: which boxes in it are attacked; the first in which one is found is taken.
        """
        chain, found = [], self._attacked(scales[:, None] * epsilon)
        while found is not None:
            chain += [found, self._pulled_in(found)]
            found = None if self.deadline.passed else self._smaller(chain[-1])
        reached = (self._reach(known) for known in reversed(chain))
        return next((reach for reach in reached if reach is not None), None)

    def _attacked(self, epsilons: Float[np.ndarray, "box layer"]) -> Counterexample | None:
        return self._first(epsilons, *self.attacked(self.attack, epsilons))

    def _reach(self, known: Counterexample) -> Vector | None:
        """How far its point is from ``x`` on each layer; None unless it replays."""
        point = self.points(known.epsilon, known.pattern).astype(np.float32)
        between = Box(np.minimum(self.x, point), np.maximum(self.x, point))
        query = dataclasses.replace(self.query, lower=between.lower, upper=between.upper)
        verdict = judge(query, Evidence(point=point), self.attack.name)
        if verdict.status is not Status.NOT_ROBUST:
            return None
        reach = self.layers.reach(self.x, verdict.witness)
        return np.where(reach > 0, reach + ROUNDING, 0.0)

    def weakened(
        self,
        epsilons: Float[np.ndarray, "box layer"],
        patterns: Float[np.ndarray, "box start *image"],
    ) -> tuple[Float[np.ndarray, "box *image"], Float[np.ndarray, " box"]]:
        """The weakest points that a few steps from given patterns, or from ``x``, reach in each box.

        Returns:
            The points, and their margins.
        """
        lower, upper, radius = (side[:, None] for side in self._boxes(epsilons))
        starts = jnp.clip(self.x + radius * patterns, lower, upper), (lower + upper) / 2
        starts = jnp.concatenate(starts, 1)
        with search_precision():
            graph, form = self.query.graph, self.form
            ends = lower[:, 0], upper[:, 0]
            return descend_from(graph, form, *ends, starts, STEPS, self.deadline)

    def attacked(
        self, attack: PGD, epsilons: Float[np.ndarray, "box layer"]
    ) -> tuple[Float[np.ndarray, "box *image"], Float[np.ndarray, " box"]]:
        """The weakest points that an attack finds in each box, and their margins."""
        lower, upper, _ = self._boxes(epsilons)
        self.key, key = jax.random.split(self.key)
        with search_precision():
            boxes = lower, upper, key
            return descend(attack, self.query.graph, self.form, *boxes, self.deadline)

    def points(
        self, epsilons: Float[np.ndarray, "*box layer"], patterns: Float[np.ndarray, "*box_image"]
    ) -> Float[np.ndarray, "*box_image"]:
        """The points ``x + epsilon pattern``, clipped into [0, 1]."""
        return np.clip(self.x + epsilons[..., self.places] * patterns, 0, 1)

    def patterns(
        self, points: Float[np.ndarray, "box *image"], epsilons: Float[np.ndarray, "box layer"]
    ) -> Float[np.ndarray, "box *image"]:
        """Points as patterns of neighbourhoods; NaN in layers that those do not reach."""
        radius = epsilons[:, self.places]
        moved = (points - self.x) * self.pixels
        share = np.where(radius > 0, moved / np.maximum(radius, 1e-9), np.nan)
        return np.clip(share, -1, 1).astype(np.float32)

    def _smaller(self, known: Counterexample) -> Counterexample | None:
        """One at the smallest scale at which a few steps from this one, or from ``x``, find one."""
        epsilons = SMALLER[:, None] * known.epsilon
        starts = np.repeat(known.pattern[None, None], len(epsilons), 0)
        return self._first(epsilons, *self.weakened(epsilons, starts))

    def _boxes(self, epsilons: Float[np.ndarray, "box layer"]) -> tuple[Array, Array, Array]:
        return _boxes(self.x, self.layers, epsilons.astype(np.float32))

    def _first(
        self, epsilons: np.ndarray, points: np.ndarray, margins: np.ndarray
    ) -> Counterexample | None:
        """The first of these points that is a counterexample."""
        broken = np.flatnonzero(margins <= 0)
        if not len(broken):
            return None
        first = broken[:1]
        (pattern,) = np.nan_to_num(self.patterns(points[first], epsilons[first]))
        return Counterexample(pattern, epsilons[first[0]])

    def _pulled_in(self, known: Counterexample) -> Counterexample:
        """Lowers layers, again and again, while ``x + epsilon pattern`` stays a counterexample.

        Of a batch of trials the one that gives up most of its epsilons is taken, with some noise and
        a premium on layers that are given up altogether.
        """
        epsilon, idle = known.epsilon, 0
        while idle < 2 and not self.deadline.passed:
            shares = self._shares(epsilon)
            tried = epsilon * shares
            broken = self._margins(known.pattern, tried) <= 0
            gain = broken * np.sum(1 - shares + (shares == 0), axis=1)
            best = int(np.argmax(gain * self.random.uniform(0.5, 1.0, TRIALS)))
            idle = 0 if gain[best] > 0 else idle + 1
            epsilon = tried[best] if gain[best] > 0 else epsilon
        return Counterexample(known.pattern, epsilon)

    def _shares(self, epsilon: Vector) -> Float[np.ndarray, "trial layer"]:
        """What to keep of each layer's epsilon: several layers closed, or one of them lowered."""
        live = np.flatnonzero(epsilon * ~self.free > 0)
        shares, several = np.ones((TRIALS, len(epsilon))), TRIALS // 2
        rate = self.random.choice([0.5, 0.25, 0.1], (several, 1))
        shares[:several, live] = self.random.random((several, len(live))) >= rate
        one = np.arange(several, TRIALS), self.random.choice(live, TRIALS - several)
        shares[one] = self.random.choice(SHARES, TRIALS - several)
        return shares

    def _margins(self, pattern: Image, epsilons: Float[np.ndarray, "trial layer"]) -> np.ndarray:
        with search_precision():
            arguments = self.query.graph, self.form, self.x, self.places, pattern
            return np.asarray(_margins_along(*arguments, epsilons.astype(np.float32)))


@jax.jit
def _boxes(x: Array, layers: Layers, epsilons: Array) -> tuple[Array, Array, Array]:
    """Both ends of each neighbourhood, and the radius of every pixel."""
    box = jax.vmap(lambda epsilon: LayeredNeighborhood(x, layers, epsilon).box())(epsilons)
    return box.lower, box.upper, jax.vmap(layers.spread)(epsilons)


@jax.jit
def _margins_along(graph, form, x, places, pattern, epsilons) -> Float[Array, " trial"]:
    points = jnp.clip(x + epsilons[:, places] * pattern, 0, 1)
    return form.margin(graph.scores(points))
