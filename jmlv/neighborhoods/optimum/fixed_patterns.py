"""Branch and bound over epsilon: on a fixed sign pattern a network is a function of epsilon alone."""

from __future__ import annotations

import dataclasses
import heapq
import itertools
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jmlv.bounds import CROWN
from jmlv.bounds.minorant import minorants
from jmlv.clauses import weakest_clause, width
from jmlv.graph import Graph
from jmlv.graph.along import along
from jmlv.neighborhoods.optimum.counterexamples import ROUNDING, Counterexamples, Image, Vector
from jmlv.neighborhoods.optimum.half_spaces import HalfSpaces
from jmlv.numerics import PROOF_TOLERANCE, certificate_precision, search_precision
from jmlv.oracles.rounding import margin_rounding

BATCH = 16
"""Boxes of epsilons that are bounded at a time, at most."""

CHUNK = 64
"""Neurons of each that are pulled back at a time, at most."""

ENTRIES = 2**25
"""Of all neurons' coefficients together; they decide the memory, 16 bytes each."""

NARROW = 1e-3
"""Sizes in a box that differ by so little, relatively, are as good as equal."""

INSIDE = 0.999
"""Scale of the neighbourhood that is attacked: its own boundary may be cut off already."""


class Node(NamedTuple):
    """The neighbourhoods ``lower <= epsilon <= upper``.

    Attributes:
        bound: on the size of a robust one.
        lower, upper: the box.
        largest: an epsilon in it, of the largest size that is not ruled out.
        pattern: the last one tried on a box around this one; entries in [-1, 1].
    """

    bound: float
    lower: Vector
    upper: Vector
    largest: Vector
    pattern: Image


class FixedPatterns:
    """Halves boxes of epsilons, the one with the largest bound first, and bounds the sizes in each.

    The points ``x + epsilon s`` of a pattern ``s`` with entries in [-1, 1], clipped, lie in the
    neighbourhood, and so does what lies between two of them, layer by layer. So from the points at
    the lower to those at the upper end of a box of epsilons there is a parallelepiped with a point in
    each neighbourhood, at which a robust one has a positive margin. On it CROWN
    (:func:`jmlv.bounds.minorant.minorants`) bounds the rows of a clause of the property from above by
    linear functions of epsilon. One of them is positive at a robust epsilon; the largest size in the
    box at which one is positive is a fractional knapsack. The pattern is what an attack finds at the
    largest epsilon not ruled out so far.

    Where a counterexample's cut rules an orthant of epsilons out, this rules a half-space of the box
    out: with few layers that is far more. With many the relaxations are too loose.

    Args:
        known: finds counterexamples, and knows query and layers.
        weights: of the layers.
        cuts: of counterexamples, as in :class:`jmlv.neighborhoods.optimum.upper_bound.SizeUpperBound`.
    """

    def __init__(
        self, known: Counterexamples, weights: Vector, cuts: Float[np.ndarray, "cut layer"]
    ) -> None:
        self.known, self.weights, self.cuts = known, weights, cuts
        labels = known.query.label_count
        self.tree = known.query.property.tree(labels)
        self.coefficients, self.offsets = known.query.property.rows(labels)
        graph = self.graph = known.query.graph64
        with certificate_precision():
            self.edges = jnp.asarray(_one_hot(known.places, known.layers.count))
        largest = max(eqn.outvar.size for eqn in graph.eqns)
        self.chunk = max(1, min(CHUNK, ENTRIES // largest))
        self.batch = max(1, min(BATCH, ENTRIES // (largest * self.chunk)))
        attack = known.attack
        self.strong = dataclasses.replace(
            attack, restarts=8 * attack.restarts, steps=3 * attack.steps
        )
        self.heap: list[tuple[float, int, Node]] = []
        self.numbers = itertools.count()
        self.nodes = 0
        root = self._root()
        self.slack = self._slack(root.upper)
        self._push(root)

    @property
    def bound(self) -> float:
        """On the size of any robust neighbourhood."""
        return -self.heap[0][0] + ROUNDING * float(self.weights.sum())

    @property
    def largest(self) -> Vector:
        """The largest neighbourhood that is not ruled out."""
        return self.heap[0][2].largest

    def split(self) -> bool:
        """Bounds the boxes with the largest bounds, and halves them.

        Returns:
            False where nothing more can be ruled out: sizes in the box with the largest bound are as
            good as equal, and a strong attack finds no counterexample there.
        """
        if self._narrow() and not self._pierced():
            return False
        nodes = [self._next() for _ in range(min(self.batch, len(self.heap)))]
        several = [nodes[i % len(nodes)] for i in range(self.batch)]  # a static size
        patterns, rows = self._attacked(several)
        for node, pattern, cut in zip(nodes, patterns, self._cuts(several, patterns, rows)):
            for half in self._halves(node._replace(pattern=pattern), cut):
                self._push(half)
        self.nodes += len(nodes)
        return True

    def _narrow(self) -> bool:
        node = self.heap[0][2]
        return self.weights @ (node.upper - node.lower) <= NARROW * node.bound

    def _pierced(self) -> bool:
        """Whether a strong attack finds a counterexample in the largest neighbourhood that is left;
        its pattern is the one tried next."""
        node = self._next()
        epsilons = INSIDE * node.largest[None]
        points, margins = self.known.attacked(self.strong, epsilons)
        self._push(node._replace(pattern=self._patterns([node], points, epsilons)[0]))
        return bool(margins[0] <= -PROOF_TOLERANCE)

    def _root(self) -> Node:
        """All neighbourhoods, but that layers which count for nothing are closed, free ones open."""
        upper = ((self.known.layers.counts() > 0) & (self.weights > 0)).astype(float)
        lower = upper * self.known.free
        upper = self._outside_cuts(lower, upper)
        return Node(float(self.weights @ upper), lower, upper, upper, self._signs(1)[0])

    def _slack(self, largest: Vector) -> float:
        """What is added to a linear function above a row, for all that float64 rounds.

        Four times the account of the whole box: from both ends of a box of epsilons a point is ``start + t
        (end - start)``, whose terms add up to twice the point's magnitude at most, in [0, 1], and with the
        layers there are at most twice as many terms. Infinite where nothing is known: then no function
        rules anything out.
        """
        radius = np.maximum(largest, 0)[self.known.places]  # negative where every one is ruled out
        ends = np.clip(self.known.x - radius, 0, 1), np.clip(self.known.x + radius, 0, 1)
        query = self.known.query.inside(*ends)
        return max(PROOF_TOLERANCE, 4 * margin_rounding(query, -np.inf, PROOF_TOLERANCE))

    def _next(self) -> Node:
        return heapq.heappop(self.heap)[2]

    def _push(self, node: Node) -> None:
        heapq.heappush(self.heap, (-node.bound, next(self.numbers), node))

    def _attacked(self, nodes: list[Node]) -> tuple[list[Image], list[np.ndarray]]:
        """For each box a pattern that is weak at its largest epsilon, and the rows' values there."""
        epsilons = INSIDE * np.stack([node.largest for node in nodes])
        points, _ = self.known.weakened(epsilons, self._starts(nodes))
        with search_precision():
            scores = _scores(self.known.query.graph, points)
        rows = np.asarray(scores, float) @ self.coefficients.T + self.offsets
        return self._patterns(nodes, points, epsilons), list(rows)

    def _starts(self, nodes: list[Node]) -> Float[np.ndarray, "node start *image"]:
        """Each box's own pattern, those of two others, and random signs."""
        own = np.stack([node.pattern for node in nodes])
        others = [np.roll(own, shift, 0) for shift in self.known.random.choice(self.batch, 2)]
        return np.stack([own, *others, self._signs(len(nodes))], 1)

    def _signs(self, count: int) -> Float[np.ndarray, "pattern *image"]:
        signs = self.known.random.choice(
            np.array([-1, 1], np.float32), (count, *self.known.x.shape)
        )
        return signs * self.known.pixels.astype(np.float32)

    def _patterns(self, nodes: list[Node], points: np.ndarray, epsilons: np.ndarray) -> list[Image]:
        """Points as patterns; the boxes' own patterns remain in layers that no point reaches."""
        found = self.known.patterns(points, epsilons)
        return [np.where(np.isnan(p), node.pattern, p) for node, p in zip(nodes, found)]

    def _cuts(
        self, nodes: list[Node], patterns: list[Image], rows: list[np.ndarray]
    ) -> list[HalfSpaces]:
        """For each box the cut of its pattern, proven in float64."""
        clauses = np.array([self._clause(values) for values in rows])
        lower, upper = np.stack([n.lower for n in nodes]), np.stack([n.upper for n in nodes])
        ends = (self.known.points(epsilons, np.stack(patterns)) for epsilons in (lower, upper))
        arguments = *ends, self.coefficients[clauses], self.offsets[clauses]
        with certificate_precision():
            arguments = (jnp.asarray(a, jnp.float64) for a in arguments)
            found = _majorants(CROWN(self.chunk), self.graph, self.edges, *arguments)
        constants, slopes = map(np.asarray, found)
        constants = constants + self.slack
        return [HalfSpaces.of_shares(*one) for one in zip(constants, slopes, lower, upper)]

    def _clause(self, rows: np.ndarray) -> list[int]:
        """The weakest clause, with its first row repeated up to a static size."""
        clause = weakest_clause(self.tree, rows)
        return clause + clause[:1] * (width(self.tree) - len(clause))

    def _halves(self, node: Node, cut: HalfSpaces) -> list[Node]:
        """What is left of both halves of a box, where anything is."""
        upper = np.minimum(node.upper, cut.reach(node.lower, node.upper))
        upper = self._outside_cuts(node.lower, upper)
        if np.any(upper < node.lower):
            return []
        layer = int(np.argmax(self.weights * (upper - node.lower)))
        middle = (node.lower[layer] + upper[layer]) / 2
        lower_end, upper_end = node.lower.copy(), upper.copy()
        lower_end[layer] = upper_end[layer] = middle
        halves = [(node.lower, upper_end), (lower_end, upper)]
        halves = halves if node.lower[layer] < upper[layer] else halves[:1]
        nodes = (self._bounded(node, cut, *half) for half in halves)
        return [node for node in nodes if node is not None]

    def _bounded(self, node: Node, cut: HalfSpaces, lower: Vector, upper: Vector) -> Node | None:
        """A part of a node's box after a cut; None where no neighbourhood in it is robust."""
        upper = self._outside_cuts(lower, upper)
        if np.any(upper < lower):
            return None
        largest = cut.largest(self.weights, lower, upper)
        if largest is None:
            return None
        bound = min(node.bound, float(self.weights @ largest))
        return Node(bound, lower, upper, largest, node.pattern)

    def _outside_cuts(self, lower: Vector, upper: Vector) -> Vector:
        """Lowers a box's upper ends to what the counterexamples leave of it.

        A robust neighbourhood is below each on some layer. Where ``lower`` leaves one layer only,
        that one's upper end is below it; where it leaves none, an end falls below ``lower``.
        """
        if not len(self.cuts):
            return upper
        below = (self.cuts > 0) & (lower < self.cuts)
        count = below.sum(1)
        if np.any(count == 0):
            return np.full_like(upper, -1.0)
        single = below & (count == 1)[:, None]
        return np.minimum(upper, np.where(single, self.cuts, np.inf).min(0))


def _one_hot(places: np.ndarray, layers: int) -> Float[np.ndarray, "layer ..."]:
    return np.stack([places == layer for layer in range(layers)]).astype(float)


@jax.jit
def _scores(graph: Graph, points: Float[Array, "point *image"]) -> Float[Array, "point label"]:
    return graph.scores(points)


@partial(jax.jit, static_argnums=0)
def _majorants(
    method: CROWN,
    graph: Graph,
    edges: Float[Array, "layer ..."],
    start: Float[Array, "box *image"],
    end: Float[Array, "box *image"],
    coefficients: Float[Array, "box row label"],
    offsets: Float[Array, "box row"],
) -> tuple[Float[Array, "box row"], Float[Array, "box row layer"]]:
    """Linear functions of ``t`` above rows of the scores at ``start + t (end - start)``, by layer."""

    def one(start, end, coefficients, offsets):
        body = along(graph, start, edges * (end - start))
        constants, slopes = minorants(body, -coefficients, -offsets, method)
        return -constants, -slopes

    return jax.vmap(one)(start, end, coefficients, offsets)
