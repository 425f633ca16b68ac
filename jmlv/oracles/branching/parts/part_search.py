"""Branch and bound on a network that falls apart: one tree of subdomains for each part.

With the rows of a clause mixed in fixed shares, the function that is bounded is a sum over parts
that share no pixel, and so is its least value: each part is split by itself until the sum of their
lowest bounds is positive. One tree for all parts together would need every combination of their
subdomains.

The shares are chosen by ascent at the roots, and again when what the search has seen says that
others can prove more: over the points found in each part, ``sum_k min_x shares @ rows_k(x)`` is
above every bound, and its maximum over shares is a linear program (Kelley, *The Cutting-Plane
Method for Solving Convex Programs*, 1960).
"""

from __future__ import annotations

import collections
import dataclasses
import heapq
import itertools
from typing import Any, NamedTuple

import jax
import numpy as np
import scipy
from jaxtyping import Float, Int

from jmlv.numerics import PROOF_TOLERANCE, certificate_precision, search_precision
from jmlv.oracles.branching.parts.compact import Compact
from jmlv.oracles.branching.parts.layout import Layout, gather
from jmlv.oracles.branching.parts.parts import (
    Aim,
    Choice,
    Parts,
    Reads,
    Scores,
    Shape,
    Sides,
    ascend,
    certify,
    scaled,
    score,
)

SMALLEST = 1e-3
"""Added to the sizes of coefficients in which multipliers are measured."""

POINTS = 150
"""How many points of each part are remembered."""

ROOT_STEPS = 24
"""Gradient steps on a clause's bound without splits; a third as many on that of a single row."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """How parts are searched.

    Attributes:
        leaves: subdomains of each part bounded at a time.
        steps: gradient steps on each.
        rate: the first of them.
        chosen: units of a patch taken apart into pieces, at most.
    """

    leaves: int = 16
    steps: int = 6
    rate: float = 0.3
    chosen: int = 4

    def pieces(self, layout: Layout) -> int:
        """Units of each patch that are taken apart."""
        return min(self.chosen, layout.first.shape[2])

    def usable(self, layout: Layout) -> bool:
        """Whether there are several patches with units, and neither parts nor batches too large."""
        parts, patches, first = layout.first.shape
        pixels = layout.pixels.shape[2]
        batch = self.leaves * parts * patches * 2 ** self.pieces(layout) * (first + pixels)
        inner = layout.later.size * patches * pixels
        several = (layout.first >= 0).any(-1).sum() > 1
        small = layout.later.shape[1] <= MOST_LATER and max(batch, inner) <= LARGEST
        return bool(several) and small


LARGEST = 30_000_000
"""A batch of more numbers than this is left to the search on the graph."""

MOST_LATER = 100
"""So is a part with more later units: each is bounded tightly before the search begins."""


class Bounded(NamedTuple):
    """Bounds of a batch in float64, with what they were reached by."""

    bound: Float[np.ndarray, "part leaf"]
    mixture: Float[np.ndarray, "leaf row"]
    choice: Choice
    scores: Scores


class Problem:
    """A network's parts over one box."""

    def __init__(self, network: Compact, layout: Layout, settings: Settings) -> None:
        self.network, self.layout, self.settings = network, layout, settings
        self.exact: Parts = gather(network, self.layout)
        self.shape = Shape(layout.stops, settings.pieces(layout))
        self.fast: Parts = jax.tree.map(np.float32, self.exact)
        for level in self.shape.levels:
            self._tighten(*level)

    def aim(self, rows, offsets, masks, also: Reads | None = None) -> Aim:
        """Rows padded to a multiple of the labels, masks to a full batch: few shapes are compiled."""
        labels, leaves = self.exact.outputs.unit.shape[1], self.settings.leaves
        count = -(-len(rows) // labels) * labels
        padded, constants = np.zeros((count, labels)), np.zeros(count)
        padded[: len(rows)], constants[: len(rows)] = rows, offsets
        mask = np.zeros((leaves, count))
        mask[: len(masks), : len(rows)] = masks
        return Aim(padded, constants, mask, self._nothing() if also is None else also)

    def _nothing(self) -> Reads:
        shape = len(self.exact.low), self.settings.leaves
        kinds = self.exact.lower, self.exact.first_low, self.exact.low
        return Reads(*(np.zeros((*shape, *like.shape[1:])) for like in kinds))

    def sides(self) -> Sides:
        """No splits."""
        return Sides(*self._nothing()[1:])

    def plain_choice(self) -> Choice:
        """CROWN's own slopes, no multipliers."""
        first, unit = self.fast.first_high > -self.fast.first_low, self.fast.high > -self.fast.low
        leaves, pieces = self.settings.leaves, 2**self.shape.chosen
        spread = np.broadcast_to(
            first[:, None, :, None], (len(first), leaves, first.shape[1], pieces, first.shape[2])
        )
        unit = np.broadcast_to(unit[:, None], (len(unit), leaves, unit.shape[1]))
        return Choice(*(np.float32(v) for v in (spread, 0 * spread[:, :, :, 0], unit, 0 * unit)))

    def even_sizes(self) -> tuple[np.ndarray, np.ndarray]:
        return tuple(np.ones_like(v, np.float32) for v in self.sides())

    def bound(
        self, aim: Aim, mixture: Float[np.ndarray, "leaf row"], sides: Sides, start: Choice,
        sizes: tuple[np.ndarray, np.ndarray], steps: int,
        rate: Float[np.ndarray, "part leaf"] | float, mixture_rate: float = 0.0,
    ) -> Bounded:  # fmt: skip
        """Searches for good choices in float32 and bounds with them in float64.

        Mixtures that stand still are certified as they are given: bounds of one mixture add up.
        """
        rate = np.full(sides.unit.shape[:2], rate, np.float32)
        with search_precision():
            fast = jax.tree.map(np.float32, (aim, mixture, sides))
            choice, moved = ascend(
                self.fast, self.shape, *fast, sizes, start, steps, rate, mixture_rate
            )
            choice = scaled(choice, sizes)
            found = score(self.fast, self.shape, fast[0], moved, fast[2], choice)
            choice, moved, found = jax.tree.map(np.asarray, (choice, moved, found))
        if mixture_rate > 0:
            mixture = shares(moved, aim.mask)
        with certificate_precision():
            bound = np.asarray(certify(self.exact, self.shape, aim, mixture, sides, choice))
        return Bounded(np.where(np.isfinite(bound), bound, -np.inf), mixture, choice, found)

    def _tighten(self, start: int, stop: int) -> None:
        """Bounds each open unit of a level from both sides, as a subdomain without splits."""
        exact = self.exact
        open_ = (exact.low < 0) & (exact.high > 0)
        low, high = exact.low.copy(), exact.high.copy()
        units = [unit for unit in range(start, stop) if open_[:, unit].any()]
        half = max(1, self.settings.leaves // 2)
        for i in range(0, len(units), half):
            group = np.array(units[i : i + half])
            least, most = self._range(group)
            low[:, group] = np.where(
                open_[:, group], np.maximum(low[:, group], least), low[:, group]
            )
            high[:, group] = np.where(
                open_[:, group], np.minimum(high[:, group], most), high[:, group]
            )
        self.exact = exact._replace(low=low, high=high)
        self.fast = jax.tree.map(np.float32, self.exact)

    def _range(
        self, units: Int[np.ndarray, " unit"]
    ) -> tuple[Float[np.ndarray, "part unit"], Float[np.ndarray, "part unit"]]:
        """Bounds on some units' inputs."""
        also, count = self._nothing(), len(units)
        for array, rows in zip(also, self.exact.inputs):
            array[:, :count], array[:, count : 2 * count] = rows[:, units], -rows[:, units]
        labels = self.exact.outputs.unit.shape[1]
        aim = self.aim(np.zeros((labels, labels)), np.zeros(labels), np.zeros((0, labels)), also)
        choice, sizes = self.plain_choice(), self.even_sizes()
        found = self.bound(aim, aim.mask, self.sides(), choice, sizes, ROOT_STEPS, 0.3).bound
        constant = self.exact.constant[:, units]
        return constant + found[:, :count], constant - found[:, count : 2 * count]

    def image(self, points: Float[np.ndarray, "part patch pixel"], base: np.ndarray) -> np.ndarray:
        """An input from the pixels of all parts."""
        image = np.array(base, np.float32)
        place = self.layout.pixels
        image.reshape(-1)[self.network.moving[place[place >= 0]]] = points[place >= 0]
        return image


def shares(
    mixture: Float[np.ndarray, "leaf row"], mask: Float[np.ndarray, "leaf row"]
) -> Float[np.ndarray, "leaf row"]:
    """Convex weights over the mask in float64, tiny ones dropped; zero where it is empty."""
    mixture = np.maximum(np.asarray(mixture, float), 0) * mask
    mixture = np.where(mixture < 1e-3 * mixture.max(-1, keepdims=True), 0.0, mixture)
    mixture = np.where(mixture.max(-1, keepdims=True) > 0, mixture, mask)
    return mixture / np.maximum(mixture.sum(-1, keepdims=True), 1.0e-30)


class Root(NamedTuple):
    """A clause without splits: a bound, the shares that it was reached with, and where to go on."""

    lower: float
    mixture: Float[np.ndarray, " row"]
    start: Choice
    sizes: tuple[np.ndarray, np.ndarray]
    point: Float[np.ndarray, "part patch pixel"]


def roots(
    problem: Problem, rows: Float[np.ndarray, "row label"], offsets: Float[np.ndarray, " row"],
    masks: Float[np.ndarray, "clause row"], mixtures: Float[np.ndarray, "clause row"] | None = None,
) -> list[Root]:  # fmt: skip
    """Each clause bounded without splits.

    Args:
        problem: the parts.
        rows, offsets: linear functionals of the scores.
        masks: ones for the rows of each clause.
        mixtures: fixed shares, or None to look for the best.
    """
    found = []
    for i in range(0, len(masks), problem.settings.leaves):
        group = masks[i : i + problem.settings.leaves]
        aim = problem.aim(rows, offsets, group)
        mixture = shares(np.ones_like(aim.mask), aim.mask)
        if mixtures is not None:
            given = mixtures[i : i + len(group)]
            mixture[: len(given), : given.shape[1]] = given
        single = masks.sum(-1).max() == 1
        rate = 0.3 if mixtures is None and not single else 0.0
        bounded = problem.bound(
            aim, mixture, problem.sides(), problem.plain_choice(), problem.even_sizes(),
            ROOT_STEPS // 3 if single else ROOT_STEPS, 0.3, rate,
        )  # fmt: skip
        lower = bounded.bound.sum(0) + bounded.mixture @ aim.offsets
        for j in range(len(group)):
            start, sizes, point = _entry(
                (bounded.choice, bounded.scores.sizes, bounded.scores.point), slice(None), j
            )
            shared = bounded.mixture[j, : len(offsets)]
            found.append(Root(float(lower[j]), shared, start, sizes, point))
    return found


class Leaf(NamedTuple):
    """An open subdomain of one part; a heap takes the lowest bound first.

    Attributes:
        lower: its bound.
        number: counts through, so that nothing further is compared.
        sides: of its units.
        start: slopes and multipliers at which its halves begin.
        unit: the unit to split next, later ones first.
        gain: of that split; where it is not positive nothing is left to split.
        rate: of the next gradient steps.
    """

    lower: float
    number: int
    sides: Sides
    start: Choice
    unit: int = 0
    gain: float = 0.0
    rate: float = 0.0


class Tree:
    """The parts' subdomains for one clause.

    Attributes:
        best: the best proven bound on the clause's largest row over the whole box.
        proven_mixture: the shares that it was proven with; it bounds that mixture of rows.
        mixture: the present shares.
        bounded: how many subdomains have been bounded.
    """

    def __init__(
        self, problem: Problem, rows: Float[np.ndarray, "row label"],
        offsets: Float[np.ndarray, " row"], mask: Float[np.ndarray, " row"], root: Root,
    ) -> None:  # fmt: skip
        self.problem, self.rows, self.offsets, self.mask = problem, rows, offsets, mask
        self.best, self.bounded, self.proven_mixture = -np.inf, 0, root.mixture
        self.values = [collections.deque(maxlen=POINTS) for _ in problem.exact.low]
        self.points = [collections.deque(maxlen=POINTS) for _ in problem.exact.low]
        self._plant(root)

    def _plant(self, root: Root) -> None:
        """Begins with the shares of a root."""
        leaves = self.problem.settings.leaves
        self.mixture, self.rounds = root.mixture, 0
        masks = np.broadcast_to(self.mask, (leaves, len(self.mask)))
        self.aim = self.problem.aim(self.rows, self.offsets, masks)
        self.mixtures = np.zeros_like(self.aim.mask)
        self.mixtures[:, : len(self.mixture)] = self.mixture
        self.constant = float(self.mixture @ self.offsets)
        first, unit = (size[:, None] + np.float32(SMALLEST) for size in root.sizes)
        self.sizes = first, unit
        start = root.start._replace(
            first_alpha=root.start.first_alpha.mean(2),
            first_beta=0 * root.start.first_beta, beta=0 * root.start.beta,
        )  # fmt: skip
        none = jax.tree.map(lambda v: np.zeros(v.shape[2:], np.int8), self.problem.sides())
        self.numbers = itertools.count()
        self.heaps: list[list[Leaf]] = [[] for _ in self.points]
        self.stuck = np.full(len(self.points), np.inf)
        rate = self.problem.settings.rate
        self._bound([
            [Leaf(-np.inf, 0, none, _entry(start, k), rate=rate)]
            for k in range(len(self.points))
        ])  # fmt: skip

    @property
    def lows(self) -> Float[np.ndarray, " part"]:
        """The lowest bound of each part."""
        open_ = [heap[0].lower if heap else np.inf for heap in self.heaps]
        return np.minimum(open_, self.stuck)

    def highs(self, mixture: Float[np.ndarray, " row"]) -> Float[np.ndarray, " part"]:
        """The least values found in each part, with given shares."""
        return np.array([min(np.array(values) @ mixture) for values in self.values])

    @property
    def upper(self) -> float:
        """What no bound with the present shares can exceed."""
        return float(self.highs(self.mixture).sum() + self.constant)

    @property
    def open(self) -> int:
        """How many subdomains are open."""
        return sum(map(len, self.heaps))

    @property
    def finished(self) -> bool:
        """Whether nothing is left that a split or a step could improve."""
        return not any(
            heap and heap[0].lower <= stuck for heap, stuck in zip(self.heaps, self.stuck)
        )

    def round(self) -> None:
        """Splits the lowest subdomains of every part and bounds the halves."""
        highs, lows = self.highs(self.mixture), self.lows
        worth = highs - lows > 1e-3 * (highs - lows).max()
        chosen = [self._halves(k) if worth[k] else [] for k in range(len(self.heaps))]
        self.rounds += 1
        if any(chosen):
            self._bound(chosen)

    def _halves(self, k: int) -> list[Leaf]:
        heap, found = self.heaps[k], []
        while heap and len(found) + 2 <= max(2, self.problem.settings.leaves):
            leaf = heapq.heappop(heap)
            if leaf.gain > 0:
                found += [_held(leaf, sign) for sign in (1, -1)]
            elif leaf.rate > FINEST:
                found.append(leaf)
            else:
                self.stuck[k] = min(self.stuck[k], leaf.lower)
        return found

    def _bound(self, chosen: list[list[Leaf]]) -> None:
        """Bounds subdomains, one list for each part, and puts them on the heaps."""
        problem = self.problem
        sides, start = problem.sides(), jax.tree.map(np.array, problem.plain_choice())
        rate = np.zeros(sides.unit.shape[:2], np.float32)
        for k, leaves in enumerate(chosen):
            for i, leaf in enumerate(leaves):
                rate[k, i] = leaf.rate
                for array, own in zip(sides, leaf.sides):
                    array[k, i] = own
                for array, own in zip(start, leaf.start):
                    array[k, i] = own[:, None] if array.ndim == 5 else own
        found = problem.bound(
            self.aim, self.mixtures, sides, start, self.sizes, problem.settings.steps, rate
        )
        self._store(chosen, found)
        lower = float(self.lows.sum() + self.constant)
        if lower > self.best:
            self.best, self.proven_mixture = lower, self.mixture

    def _store(self, chosen: list[list[Leaf]], found: Bounded) -> None:
        scores, choice = found.scores, found.choice
        added = np.asarray(scores.added, float) @ self.rows.T
        first, unit = self.sizes
        start = choice._replace(
            first_alpha=scores.first_alpha, first_beta=choice.first_beta / first,
            beta=choice.beta / unit,
        )  # fmt: skip
        for k, leaves in enumerate(chosen):
            self.bounded += len(leaves)
            for i, leaf in enumerate(leaves):
                lower = max(leaf.lower, float(found.bound[k, i]))
                slow = leaf.gain <= 0 and np.isfinite(leaf.lower)
                kept = Leaf(
                    lower, next(self.numbers), leaf.sides,
                    _entry(start, k, i),
                    int(scores.unit[k, i]), float(scores.gain[k, i]),
                    leaf.rate / 2 if slow else leaf.rate,
                )  # fmt: skip
                heapq.heappush(self.heaps[k], kept)
                self.values[k].append(added[k, i])
                self.points[k].append(scores.point[k, i])

    def images(self, base: Float[np.ndarray, "*image"]) -> Float[np.ndarray, "2 *image"]:
        """Inputs put together from the parts' points: for the shares, and for all rows at once."""
        values = [np.array(v) for v in self.values]
        lowest = [int(np.argmin(v @ self.mixture)) for v in values]
        chosen = [lowest, self._lowest_together(values, lowest)]
        points = [[self.points[k][i] for k, i in enumerate(own)] for own in chosen]
        return np.stack([self.problem.image(np.stack(own), base) for own in points])

    def _lowest_together(self, values: list[np.ndarray], chosen: list[int]) -> list[int]:
        """A point of each part, exchanged one by one while the clause's largest row falls."""
        chosen, rows = list(chosen), self.mask > 0
        total = sum(v[i] for v, i in zip(values, chosen)) + self.offsets
        for _ in range(3):
            for k, own in enumerate(values):
                rest = total - own[chosen[k]]
                chosen[k] = int(np.argmin((rest + own)[:, rows].max(1)))
                total = rest + own[chosen[k]]
        return chosen

    def best_shares(self) -> tuple[Float[np.ndarray, " row"], float]:
        """The shares with which the points found leave most to be proven, and how much that is."""
        from scipy.optimize import linprog  # dear to import, and rarely needed

        rows = np.flatnonzero(self.mask)
        values = [np.array(v)[:, rows] for v in self.values]
        part = np.repeat(np.arange(len(values)), [len(v) for v in values])
        below = scipy.sparse.csr_array((np.ones(len(part)), (np.arange(len(part)), part)))
        solved = linprog(
            -np.concatenate([self.offsets[rows], np.ones(len(values))]),
            scipy.sparse.hstack([-np.concatenate(values), below]), np.zeros(len(part)),
            scipy.sparse.csr_array(np.concatenate([np.ones(len(rows)), np.zeros(len(values))])[None]),
            [1.0], [(0, 1)] * len(rows) + [(None, None)] * len(values),
        )  # fmt: skip
        if solved.x is None:
            return self.mixture, self.upper
        mixture = np.zeros(len(self.mask))
        mixture[rows] = np.maximum(solved.x[: len(rows)], 0)
        return mixture / mixture.sum(), float(-solved.fun)

    def change_shares(self) -> bool:
        """Begins anew with better shares if there are any that promise much more."""
        if self.mask.sum() < 2:
            return False
        wanted, promised = self.best_shares()
        upper = self.upper
        enough = WORTH * max(upper - self.lows.sum() - self.constant, 0)
        if promised <= max(upper + enough, PROOF_TOLERANCE):
            return False
        middle = (wanted + self.mixture) / 2
        ahead = self.highs(middle).sum() + middle @ self.offsets
        mixture = middle if ahead > (upper + promised) / 2 else wanted
        (root,) = roots(self.problem, self.rows, self.offsets, self.mask[None], mixture[None])
        self._plant(root)
        return True


def _entry(tree: Any, *place: Any) -> Any:
    """A copy of one place of every array."""
    return jax.tree.map(lambda array: np.array(array[place]), tree)


def _held(leaf: Leaf, sign: int) -> Leaf:
    """The part of a subdomain on one side of its next split."""
    sides = Sides(*(side.copy() for side in leaf.sides))
    later = sides.unit.size
    if leaf.unit < later:
        sides.unit[leaf.unit] = sign
    else:
        sides.first.reshape(-1)[leaf.unit - later] = sign
    return leaf._replace(sides=sides)


FINEST = 0.02
"""Steps shorter than this are not tried on a subdomain that cannot be split further."""

WORTH = 0.1
"""The shares are changed where that promises this much of what is left to prove."""
