"""Branch and bound over the inputs: the complete oracle for networks of few inputs."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jmlv.bounds import CROWN, BoundMethod, Interval, Relaxation
from jmlv.bounds.backward import linear_bound
from jmlv.bounds.clipping import CEILING, ForViolators, clipped_by
from jmlv.bounds.crown import Stages, lower_rows, relaxed_stages
from jmlv.bounds.functionals import Whole, whole
from jmlv.graph import Graph
from jmlv.graph.fuse import fuse_relu_max_pool
from jmlv.margin_form import MarginForm, few_sizes
from jmlv.numerics import PROOF_TOLERANCE, as_float64, certificate_precision
from jmlv.oracles.falsify import Weakest
from jmlv.oracles.oracle import Deadline, Evidence, Oracle, Query
from jmlv.require import require_fields
from jmlv.shown import at_least

WIDTH_COUNTS = 0.05
"""The share of what is missing that halving an input of width 1 counts for, whatever the gradient
says: where the bound is flat in the input that matters, that is halved at last."""

PLACES = 32
"""Boxes have places for so many inputs or more, so that one program serves all numbers up to it."""


@dataclasses.dataclass(frozen=True)
class InputSplitting(Oracle):
    """Halves the box along its inputs, many boxes in one batch, until all are proven.

    Every box is bounded anew, in float64: inner neurons too become known better as it shrinks, so
    nothing is asked of the activations but that the bound has lines for them. The boxes with the
    lowest bounds are halved first. How many are needed grows exponentially with the inputs that
    matter, so this is for tables and for a few pixels.

    With ``clips`` what cannot hold a counterexample is cut off a box before it is halved: there each
    row of some clause, and so the linear function below it, is at most at a ceiling. What is proven
    then is a margin of :data:`jmlv.bounds.clipping.CEILING` at most.

    Source: the input splitting of Wang et al., *Formal Security Analysis of Neural Networks using
    Symbolic Intervals* (ReluVal), USENIX Security 2018. New here: the gain of a cut is read off the
    bound's own gradient with respect to the box, and boxes are clipped by whole Boolean combinations.

    Attributes:
        method: the bound. A relaxation is kept as it is while its last backward pass is
            differentiated: half the work of the whole gradient, and the boxes are no more.
        axis: which input a box is halved along: the one whose halving gains most by the bound's
            gradient (``"slope"``), or the widest (``"widest"``).
        largest: boxes with more moving inputs than this are given up at once.
        batch: boxes bounded at a time.
        boxes: open at a time, at most.
        clips: whether boxes are clipped, by the rows of a :class:`jmlv.bounds.crown.Relaxation`. It
            saves boxes on small random networks and none on ACAS Xu, and costs compilation.
        time_limit: seconds for one query, or None for the caller's budget alone.

    >>> import jax, jax.numpy as jnp, jmlv
    >>> step = lambda x: jax.nn.sigmoid(8 * x - 4)
    >>> f = lambda x: (step(x) + step(1 - x)).reshape(-1, 1)  # 1 everywhere
    >>> box = jmlv.Box.between(jnp.zeros((1, 1, 1)), jnp.ones((1, 1, 1)))
    >>> jmlv.verify(f, box, jmlv.AboveThreshold(0, 0.9), jmlv.Bounds()).status.name
    'UNKNOWN'
    >>> jmlv.verify(f, box, jmlv.AboveThreshold(0, 0.9), jmlv.InputSplitting()).status.name
    'ROBUST'
    """

    method: BoundMethod = CROWN()
    axis: Literal["slope", "widest"] = "slope"
    largest: int = 32
    batch: int = 64
    boxes: int = 50_000
    clips: bool = False
    time_limit: float | None = None

    def __post_init__(self) -> None:
        require_fields(self)
        if self.axis not in ("slope", "widest"):
            raise ValueError(f"axis: expected 'slope' or 'widest', got {self.axis!r}.")
        for field, least in (("largest", 1), ("batch", 2), ("boxes", 1)):
            if getattr(self, field) < least:
                raise ValueError(f"{field}: must be at least {least}, got {getattr(self, field)}.")
        if self.time_limit is not None and not self.time_limit > 0:
            raise ValueError(f"time_limit: must be a positive number, got {self.time_limit}.")

    @property
    def name(self) -> str:
        return "input splitting"

    def search(self, query: Query, deadline: Deadline) -> Evidence:
        moving = np.flatnonzero(query.lower < query.upper)
        moving = moving if len(moving) else np.zeros(1, int)
        if len(moving) > self.largest:
            return Evidence(reason=f"{self.name}: {len(moving)} moving inputs are too many")
        search = _Search(self, query, moving)
        search.run(deadline.within(self.time_limit))
        return search.evidence()


class _Boxes(NamedTuple):
    """Boxes of moving inputs, with a bound on the margin over each and the axis to halve."""

    bound: Float[np.ndarray, " box"]
    lower: Float[np.ndarray, "box input"]
    upper: Float[np.ndarray, "box input"]
    axis: Int[np.ndarray, " box"]

    def at(self, chosen: np.ndarray) -> _Boxes:
        return _Boxes(*(array[chosen] for array in self))


class _Search:
    """The pool of open boxes of one query, and what has been found."""

    def __init__(self, options: InputSplitting, query: Query, moving: np.ndarray) -> None:
        self.options, self.query = options, query
        self.count = len(moving)
        places = few_sizes(max(PLACES, self.count))
        self.moving = np.full(places, query.lower.size)  # beyond all entries: no input
        self.moving[: self.count] = moving
        self.form = query.property.form(query.label_count)
        ends = (as_float64(end).reshape(-1)[moving][None] for end in (query.lower, query.upper))
        self.open = _Boxes(np.full(1, -np.inf), *ends, np.zeros(1, int))
        self.closed = self.stuck = np.inf
        self.clips = options.clips and isinstance(options.method, Relaxation)
        self.whole = -np.inf
        self.bounded = self.retired = 0
        self.weakest = Weakest(query)

    def run(self, deadline: Deadline) -> None:
        """Bounds the whole box, then halves the worst, until nothing is open or the deadline passes."""
        self.open = self._examined(self.open)
        while len(self.open.bound) and self.weakest.margin > 0 and not deadline.passed:
            if len(self.open.bound) > self.options.boxes:
                return
            order = np.argsort(self.open.bound, kind="stable")
            worst, rest = np.split(order, [self.options.batch // 2])
            halves = self._examined(_halved(self._splittable(self.open.at(worst))))
            self.open = _Boxes(*map(np.concatenate, zip(self.open.at(rest), halves)))

    def evidence(self) -> Evidence:
        lower = float(max(self.whole, min(self.closed, self.stuck, *self.open.bound, np.inf)))
        open_ = len(self.open.bound) + self.retired
        stats = {"boxes": self.bounded, "open": open_}
        if not open_:
            reason = f"{self.bounded} boxes are proven: the margin is at least {at_least(lower)}"
        else:
            left = f"{open_} boxes open, at least {at_least(lower)}"
            reason = f"{self.options.name}: it ended with {left}"
        return Evidence(lower, self.weakest.point, reason, stats)

    def _splittable(self, boxes: _Boxes) -> _Boxes:
        """The boxes that can be halved; those that float64 cannot halve stay open for good."""
        inside = boxes.axis >= 0
        self.stuck = min([self.stuck, *boxes.bound[~inside]])
        self.retired += int(np.sum(~inside))
        return boxes.at(inside)

    def _examined(self, boxes: _Boxes) -> _Boxes:
        """The boxes that are still open once they are bounded. NaN proves nothing."""
        boxes = self._in_region(boxes)
        size, batch = len(boxes.bound), self.options.batch
        if not size:
            return boxes
        padded = np.resize(np.arange(size), batch)
        with certificate_precision():
            arguments = (
                self.query.graph64_inside,
                self.form,
                as_float64(self.query.lower),
                self.moving,
            )
            how = self.options.method, self.options.axis, self.clips
            found = _examine(*how, *arguments, *(self._wide(v[padded]) for v in boxes[1:3]))
            bound, axis, weakest, ends = jax.tree.map(lambda v: np.asarray(v)[:size], found)
            first, ceiling = not self.bounded, CEILING if self.clips else np.inf
            if not first:  # what is left of boxes that were clipped
                bound = ForViolators(bound, ceiling).everywhere()
        self.bounded += size
        self.weakest.descend(weakest[np.argsort(boxes.bound, kind="stable")])
        bound = np.where(np.isfinite(bound), np.maximum(boxes.bound, bound), boxes.bound)
        self.whole = float(bound[0]) if first else self.whole
        low, high, nothing = _left(*(end[:, : self.count] for end in ends))
        bound = np.where(nothing, np.maximum(bound, CEILING), bound)
        proven = bound > PROOF_TOLERANCE
        self.closed = min([self.closed, *bound[proven]])
        return _Boxes(bound, low, high, axis).at(~proven)

    def _in_region(self, boxes: _Boxes) -> _Boxes:
        """The boxes that a ball meets, where the region is one: of others nothing is asked."""
        ball = self.query.ball
        if ball is None or not len(boxes.bound):
            return boxes
        moving = self.moving[: self.count]
        ends = np.tile(as_float64(self.query.lower).reshape(-1), (2, len(boxes.bound), 1))
        ends[..., moving] = boxes.lower, boxes.upper
        return boxes.at(ball.meets(*ends.reshape(2, -1, *self.query.lower.shape)))

    def _wide(self, ends: Float[np.ndarray, "box input"]) -> Float[np.ndarray, "box place"]:
        """Ends with places for more inputs, which do not move: few numbers of inputs are compiled."""
        return np.pad(ends, ((0, 0), (0, len(self.moving) - self.count)))


def _left(low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ends of boxes in their order, and which boxes are empty: rounding alone crosses by less."""
    size = np.clip(np.abs(high), 1, 1e30)
    return np.minimum(low, high), np.maximum(low, high), (low > high + CROSSED * size).any(1)


def axis_to_halve(query: Query) -> int:
    """The number of the input whose halving gains most, by the gradient of CROWN's bound; the widest
    one where CROWN proves the property already.

    Raises:
        ValueError: no input moves.
    """
    width = as_float64(query.upper).reshape(-1) - as_float64(query.lower).reshape(-1)
    moving = np.flatnonzero(width > 0)
    if not len(moving):
        raise ValueError("query: its box is a point.")
    search = _Search(InputSplitting(batch=2), query, moving)
    chosen = search._examined(search.open).axis
    return int(moving[chosen[0]] if len(chosen) and chosen[0] >= 0 else np.argmax(width))


def _halved(boxes: _Boxes) -> _Boxes:
    """Both halves of every box."""
    rows = np.arange(len(boxes.bound))
    middle = (boxes.lower + boxes.upper)[rows, boxes.axis] / 2
    below, above = boxes.upper.copy(), boxes.lower.copy()
    below[rows, boxes.axis] = above[rows, boxes.axis] = middle
    halves = boxes._replace(upper=below), boxes._replace(lower=above)
    return _Boxes(*map(np.concatenate, zip(*halves)))


@partial(jax.jit, static_argnums=(0, 1, 2))
def _examine(
    method: BoundMethod,
    axis: str,
    clips: bool,
    graph: Graph,
    form: MarginForm,
    base: Float[Array, "*image"],
    moving: Int[Array, " place"],
    lower: Float[Array, "box place"],
    upper: Float[Array, "box place"],
) -> tuple[Float[Array, " box"], Int[Array, " box"], Float[Array, "box *image"], Interval]:
    """For each box a bound on the margin, the axis of the longest gain when what is left of it is halved
    (-1: none), a weak corner, and the ends of what is left of it.

    A place whose number is beyond the image stands for no input.
    """
    fused = fuse_relu_max_pool(graph)

    def image(values: Float[Array, " place"]) -> Float[Array, "*image"]:
        return base.reshape(-1).at[moving].set(values, mode="drop").reshape(base.shape)

    def margin(low: Array, high: Array, stages: Stages | None) -> Array:
        low, high = image(low), image(high)
        if stages is None:
            rows = method.rows(graph, low, high, form.coefficients, form.offsets).lower
        else:
            box = Interval(low[None], high[None])
            rows = lower_rows(stages, fused, box, form.coefficients, form.offsets)
        return form.least(rows)

    def one(low: Array, high: Array) -> tuple[Array, Array, Array, Interval]:
        stages, box = None, Interval(image(low)[None], image(high)[None])
        if isinstance(method, Relaxation):
            stages = relaxed_stages(method, fused, box)
        bound, (rise, fall) = jax.value_and_grad(margin, (0, 1))(low, high, stages)
        left = Interval(low, high)
        if clips:
            ends = _clipped(stages, fused, form, box)
            ends = (end.at[moving].get(mode="fill", fill_value=0) for end in ends)
            left = Interval(*(jnp.where(low < high, end, low) for end in ends))
        middle, width = (left.lower + left.upper) / 2, left.upper - left.lower
        gain = WIDTH_COUNTS * jnp.abs(bound) * width
        gain = width if axis == "widest" else gain + (rise - fall) * width
        halves = (left.lower < middle) & (middle < left.upper)
        gain = jnp.where(halves, jnp.nan_to_num(gain), -jnp.inf)
        chosen = jnp.where(halves.any(), jnp.argmax(gain), -1)
        return bound, chosen, image(jnp.where(rise > -fall, low, high)), left

    return jax.vmap(one)(lower, upper)


def _clipped(stages: Stages, graph: Graph, form: MarginForm, box: Interval) -> Interval:
    """Ends of what violators of a margin in a box lie between, flat; crossed where there are none.

    A node that is the k-th smallest of its children is low only where k of these are, and an entry
    lies within k of their intervals only above the k-th smallest lower end: ends are combined as
    values are.
    """
    rows = Whole(form.coefficients[:, None, :].astype(graph.dtype))
    below, constants, *_ = linear_bound(graph, rows, stages[0][1][1])
    slopes = whole(below, graph.input).rows.reshape(len(constants), -1)
    flat = Interval(*(end.reshape(-1) for end in box))

    def of_row(slopes: Array, constant: Array) -> Interval:
        lower, upper = clipped_by(slopes, constant - CEILING, flat)
        nothing = (lower > upper + CROSSED * jnp.maximum(1, jnp.abs(upper))).any()
        lower, upper = jnp.minimum(lower, upper), jnp.maximum(lower, upper)
        return Interval(jnp.where(nothing, jnp.inf, lower), jnp.where(nothing, -jnp.inf, upper))

    lower, upper = jax.vmap(of_row)(slopes, constants + form.offsets)
    return Interval(form.combine(lower.T), -form.combine(-upper.T))


CROSSED = 1e-9
"""Ends that cross by more, relative to them above 1, leave nothing between: rounding crosses by less."""
