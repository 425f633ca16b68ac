"""Branch and bound over the inputs: the complete oracle for networks of few inputs."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jmlv.bounds import CROWN, BoundMethod, Relaxation
from jmlv.bounds.crown import lower_rows
from jmlv.graph import Graph
from jmlv.margin_form import MarginForm, few_sizes
from jmlv.numerics import PROOF_TOLERANCE, as_float64, certificate_precision
from jmlv.oracles.falsify import Weakest
from jmlv.oracles.oracle import Deadline, Evidence, Oracle, Query
from jmlv.require import require_fields

WIDTH_COUNTS = 0.05
"""The share of what is missing that halving an input of width 1 counts for, whatever the gradient
says: where the bound is flat in the input that matters, that is halved at last."""

PLACES = 32
"""Boxes have places for so many inputs or more, so that one program serves all numbers up to it."""

OUTSIDE = 1e-9
"""A box so far beyond a ball's radius does not meet it, whatever the norm is rounded by."""


@dataclasses.dataclass(frozen=True)
class InputSplitting(Oracle):
    """Halves the box along its inputs, many boxes in one batch, until all are proven.

    Every box is bounded anew, in float64: inner neurons too become known better as it shrinks, so
    nothing is asked of the activations but that the bound has lines for them. The boxes with the
    lowest bounds are halved first. How many are needed grows exponentially with the inputs that
    matter, so this is for tables and for a few pixels.

    Source: the input splitting of Wang et al., *Formal Security Analysis of Neural Networks using
    Symbolic Intervals* (ReluVal), USENIX Security 2018. New here: the gain of a cut is read off the
    bound's own gradient with respect to the box.

    Attributes:
        method: the bound. A relaxation is kept as it is while its last backward pass is
            differentiated: half the work of the whole gradient, and the boxes are no more.
        axis: which input a box is halved along: the one whose halving gains most by the bound's
            gradient (``"slope"``), or the widest (``"widest"``).
        largest: boxes with more moving inputs than this are given up at once.
        batch: boxes bounded at a time.
        boxes: open at a time, at most.
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
        lower = float(min(self.closed, self.stuck, *self.open.bound, np.inf))
        open_ = len(self.open.bound) + self.retired
        stats = {"boxes": self.bounded, "open": open_}
        if not open_:
            reason = f"{self.bounded} boxes are proven: the margin is at least {lower:.4g}"
        else:
            left = f"{open_} boxes open, at least {lower:.4g}"
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
            how = self.options.method, self.options.axis
            found = _examine(*how, *arguments, *(self._wide(v[padded]) for v in boxes[1:3]))
            bound, axis, weakest = (np.asarray(array)[:size] for array in found)
        self.bounded += size
        self.weakest.descend(weakest[np.argsort(boxes.bound, kind="stable")])
        bound = np.where(np.isfinite(bound), np.maximum(boxes.bound, bound), boxes.bound)
        proven = bound > PROOF_TOLERANCE
        self.closed = min([self.closed, *bound[proven]])
        return boxes._replace(bound=bound, axis=axis).at(~proven)

    def _in_region(self, boxes: _Boxes) -> _Boxes:
        """The boxes that a ball meets, where the region is one: of others nothing is asked."""
        ball = self.query.ball
        if ball is None:
            return boxes
        moving = self.moving[: self.count]
        points = np.repeat(as_float64(self.query.lower).reshape(1, -1), len(boxes.bound), 0)
        points[:, moving] = np.clip(ball.exact().x.reshape(-1)[moving], boxes.lower, boxes.upper)
        nearest = ball.length(points.reshape(-1, *self.query.lower.shape))
        return boxes.at(nearest <= float(ball.radius) * (1 + OUTSIDE))

    def _wide(self, ends: Float[np.ndarray, "box input"]) -> Float[np.ndarray, "box place"]:
        """Ends with places for more inputs, which do not move: few numbers of inputs are compiled."""
        return np.pad(ends, ((0, 0), (0, len(self.moving) - self.count)))


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


@partial(jax.jit, static_argnums=(0, 1))
def _examine(
    method: BoundMethod,
    axis: str,
    graph: Graph,
    form: MarginForm,
    base: Float[Array, "*image"],
    moving: Int[Array, " place"],
    lower: Float[Array, "box place"],
    upper: Float[Array, "box place"],
) -> tuple[Float[Array, " box"], Int[Array, " box"], Float[Array, "box *image"]]:
    """For each box a bound on the margin, the axis to halve (-1: none), and a weak corner.

    A place whose number is beyond the image stands for no input.
    """

    def image(values: Float[Array, " place"]) -> Float[Array, "*image"]:
        return base.reshape(-1).at[moving].set(values, mode="drop").reshape(base.shape)

    def margin(low: Array, high: Array) -> Array:
        arguments = graph, image(low), image(high), form.coefficients, form.offsets
        if isinstance(method, Relaxation):
            rows = lower_rows(method, *arguments)
        else:
            rows = method.rows(*arguments).lower
        return form.least(rows)

    def one(low: Array, high: Array) -> tuple[Array, Array, Array]:
        bound, (rise, fall) = jax.value_and_grad(margin, (0, 1))(low, high)
        middle, width = (low + high) / 2, high - low
        gain = WIDTH_COUNTS * jnp.abs(bound) * width
        gain = width if axis == "widest" else gain + (rise - fall) * width
        halves = (low < middle) & (middle < high)
        gain = jnp.where(halves, jnp.nan_to_num(gain), -jnp.inf)
        chosen = jnp.where(halves.any(), jnp.argmax(gain), -1)
        return bound, chosen, image(jnp.where(rise > -fall, low, high))

    return jax.vmap(one)(lower, upper)
