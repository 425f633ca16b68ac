"""The verb ``bound``: intervals for a property's margin over a region, or over many at once."""

from __future__ import annotations

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jmlv.bounds.joint import JointBounds
from jmlv.bounds.method import BoundMethod, Interval
from jmlv.errors import SoundnessError
from jmlv.graph import Classifier, Graph, trace
from jmlv.margin_form import nothing_from_overflow
from jmlv.numerics import CROSSING, as_float64, outward
from jmlv.properties import Property
from jmlv.regions import Ball, Box, Region, box_of, is_concrete
from jmlv.require import require_kind


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class MarginBounds:
    """Bounds on a margin, and on the linear rows (pairwise differences) that it is made of.

    Attributes:
        lower, upper: the margin of every input in the region lies between, (\\*batch,).
        rows_lower, rows_upper: the same for ``C @ scores + d`` of ``property.rows()``,
            (\\*batch, row).
    """

    lower: Float[Array, "*batch"]
    upper: Float[Array, "*batch"]
    rows_lower: Float[Array, "*batch row"]
    rows_upper: Float[Array, "*batch row"]

    def __repr__(self) -> str:
        return f"MarginBounds(lower={self.lower}, upper={self.upper})"


def bound(f: Classifier, region: Region, property: Property, method: BoundMethod) -> MarginBounds:
    """Bounds the margin of a property over a region.

    Goes through ``jit``, ``vmap`` and ``grad`` with respect to the region's arrays. Runs in the
    precision of the graph with full matmul precision, and float32 rounds: inside
    :func:`jmlv.numerics.certificate_precision` a graph in float64 gives a certificate, which is what
    :func:`jmlv.verify` does. ``lower`` never exceeds ``upper``: where rounding has crossed them, on a
    box that is nearly a point, the two are swapped, which moves both outward.

    Args:
        f: the network, or its graph (which saves the tracing).
        region: a box, ball or layered neighbourhood; a box may carry leading batch axes (for inputs that
            do not have three axes, give the graph). Ends that the graph's precision cannot hold
            are rounded outward.
        property: what the margin is of.
        method: ``IBP()``, ``CROWNIBP()``, ``CROWN()``, ``AlphaCROWN()`` or ``JointBounds()``.

    Raises:
        UnsupportedOperation: ``f`` has operations without a sound rule.
        TypeError: an argument is of another kind.
        ValueError: the property's labels do not fit ``f``.
        SoundnessError: the graph read from ``f`` does not compute what ``f`` does, or bounds cross,
            or miss the margin at a point of the box, by more than rounding. (None of this is looked
            at where values are traced, and the points only where ``f`` is not a graph.)

    >>> import jax.numpy as jnp, jmlv
    >>> f = lambda x: jnp.stack([x[:, 0, 0, 0], x[:, 0, 1, 0]], -1)
    >>> box = jmlv.Box.around(jnp.array([[[0.8], [0.3]]]), 0.1)
    >>> print(f"{float(jmlv.bound(f, box, jmlv.InTopK(0, k=1), jmlv.IBP()).lower):.2f}")
    0.30
    """
    box, ball = box_of(region), region if isinstance(region, Ball) else None
    require_kind("property", property, Property, "InTopK(label, k)")
    require_kind("method", method, BoundMethod, "CROWN()")
    image_shape = f.input_shape if isinstance(f, Graph) else box.shape[-3:]
    graph = trace(f, image_shape, ends=_hull(box, image_shape))
    if box.shape[-len(image_shape) :] != image_shape:
        raise ValueError(f"region: f takes {image_shape}, the region has {box.shape}.")
    coefficients, offsets = property.rows(graph.label_count)
    lower, upper = _sides(box, graph.dtype)
    within = graph if ball is None else graph.within(ball.astype(graph.dtype))
    joint = isinstance(method, JointBounds)
    masks = method.masks(property, graph.label_count) if joint else None
    with jax.default_matmul_precision("highest"):
        rows, clauses = _batched(
            method, within, lower, upper, np.asarray(coefficients), np.asarray(offsets), masks
        )
    rows = Interval(nothing_from_overflow(rows.lower), -nothing_from_overflow(-rows.upper))
    rows = _uncrossed(rows, f"{method.name}: bounds on the property's rows")
    least, most = (property.combine(side, graph.label_count) for side in rows)
    if clauses is not None:
        least = jnp.maximum(least, nothing_from_overflow(clauses).min(-1))
    margin = _uncrossed(Interval(least, most), f"{method.name}: bounds on the margin")
    if not isinstance(f, Graph):
        known = Interval(lower, upper) if ball is None else Interval(*2 * (within.inside.x,))
        _require_enclosed(graph, property, known, margin)
    return MarginBounds(*margin, *rows)


def _uncrossed(found: Interval, what: str) -> Interval:
    """The interval, its ends swapped where they cross by rounding.

    Raises:
        SoundnessError: they cross by more.
    """
    if is_concrete(*found):
        lower, upper = map(as_float64, found)
        size = np.maximum(1, np.maximum(np.abs(lower), np.abs(upper)))
        excess = float(np.max((lower - upper) / size, initial=0.0, where=lower > upper))
        if excess > CROSSING[str(found.lower.dtype)]:
            raise SoundnessError(f"{what} cross by {excess:.3g}: one of them is wrong.")
    crossed = found.lower > found.upper  # no minimum: where both meet, its gradient mixes them
    return Interval(
        jnp.where(crossed, found.upper, found.lower), jnp.where(crossed, found.lower, found.upper)
    )


def _require_enclosed(graph: Graph, property: Property, ends: Interval, found: Interval) -> None:
    """Raises where the margin at a box's centre or one of its ends lies outside of its bounds.

    Raises:
        SoundnessError: it does, by more than rounding.
    """
    if not is_concrete(*found, *ends):
        return
    lower, upper = (np.asarray(side) for side in ends)
    for points in (lower / 2 + upper / 2, lower, upper):
        scores = _scores(graph, jnp.asarray(points.reshape(-1, *graph.input_shape)))
        margin = as_float64(property.margin(scores)).reshape(found.lower.shape)
        slack = CROSSING[graph.dtype] * np.maximum(1, np.abs(margin))
        outside = (margin < as_float64(found.lower) - slack) | (margin > found.upper + slack)
        if outside.any():
            raise SoundnessError(
                f"bounds: {found.lower[outside][0]:.6g} to {found.upper[outside][0]:.6g} do not "
                f"hold at a point of the box, where the margin is {margin[outside][0]:.6g}."
            )


_scores = jax.jit(Graph.scores)


def _hull(box: Box, image_shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray] | None:
    """The ends of one box around all boxes of a batch; None where they are traced or do not fit."""
    if box.shape[-len(image_shape) :] != image_shape or not is_concrete(box.lower, box.upper):
        return None
    lower, upper = (as_float64(s).reshape(-1, *image_shape) for s in (box.lower, box.upper))
    known = len(lower) and np.isfinite(lower).all() and np.isfinite(upper).all()
    return (lower.min(0), upper.max(0)) if known else None


def _sides(box: Box, dtype: str) -> tuple[Array, Array]:
    """The box's ends in a precision; rounded outward where they are known."""
    if not is_concrete(box.lower, box.upper):
        return jnp.asarray(box.lower, dtype), jnp.asarray(box.upper, dtype)
    return outward(as_float64(box.lower), as_float64(box.upper), dtype)


@partial(jax.jit, static_argnums=0)
def _batched(
    method: BoundMethod, graph, lower, upper, coefficients, offsets, masks
) -> tuple[Interval, Array | None]:
    """Bounds on the rows, and on the clauses if there are masks for them."""
    coefficients = coefficients.astype(graph.dtype)
    offsets = offsets.astype(graph.dtype)

    def one(low: Array, high: Array) -> tuple[Interval, Array | None]:
        if masks is None:
            return method.rows(graph, low, high, coefficients, offsets), None
        return method.clauses(graph, low, high, coefficients, offsets, masks)

    batch = lower.shape[: lower.ndim - len(graph.input_shape)]
    for _ in batch:
        one = jax.vmap(one)
    return one(lower, upper)
