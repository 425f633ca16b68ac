"""Lines around a smooth function: all that touch its convex (concave) envelope, one by a number.

The best lines below ``f`` on ``[l, u]`` are those that touch its convex envelope: each is the tangent
of ``f`` at a point ``p`` that it may touch, or the chord from ``l`` to ``u``. The functions of
:mod:`jmlv.graph.smooth` are convex on one interval and concave beside it, so with ``[A, B]`` the
convex part of ``[l, u]`` the points that may be touched are an interval ``[first, last]`` in it:

* the tangent at ``p`` is below ``f`` at ``u`` iff ``f(u) - f(p) - f'(p) (u - p) >= 0``, which falls
  with ``p`` (its derivative is ``-f''(p) (u - p)``): ``last`` is its root or ``B``;
* likewise at ``l``, where the same expression rises with ``p``: ``first`` is its root or ``A``;
* if no point meets both conditions, only the chord is left.

A number ``t`` in [0, 1] stands for ``p = first + t (last - first)``; the line that is the highest
in the middle of the interval, thus the one of least area, touches at the middle or next to it.
Lines above are those below ``-f``.

**Why a line is sound.** Nothing rests on how well ``first`` and ``last`` were found. For a slope ``s``
the line is ``s x + c`` with ``c`` at most the least of ``h(x) = f(x) - s x``:

* where ``f`` is concave, so is ``h``, and its least value is at an end of that part;
* where ``f`` is convex, ``h(x) >= h(p) + h'(p) (x - p)`` for any ``p`` in that part, and the least of
  the right-hand side is at an end. With ``s = f'(p)`` it is ``h(p)`` everywhere.

So a tangent's constant is ``min(h(p), h(l), h(u))`` for whatever ``p`` in ``[A, B]`` (``A`` and ``B`` are
covered by the convex part), and a chord's is the least of these terms over all parts. It is then
lowered by `ROUNDING` units in the last place of the terms that it was computed from. (An inflection
that is known to within ``d`` makes an error of the order ``d^3``, far below that.)

Source: the envelope in place of the case distinctions of Zhang et al., *Efficient Neural Network
Robustness Certification with General Activation Functions*, NeurIPS 2018, arXiv:1811.00866, section
3.2, and Shi et al., *Robustness Verification for Transformers*, ICLR 2020.
"""

from __future__ import annotations

from functools import reduce
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from jmlv.bounds.method import Interval
from jmlv.graph.smooth import Jet, Smooth

ROUNDING = 16
"""Units in the last place that values and slopes may be wrong by, with room to spare: XLA's own are
within 9 (float64) and 3 (float32) where they are not negligible."""

NARROW = {"float32": 5e-3, "float64": 6e-6}
"""Below this width, relative to the ends, the chord's slope is a derivative, not a quotient."""

HALVINGS = {"float32": 26, "float64": 50}
"""Bisection steps for the ends of the touching points."""


class Family(NamedTuple):
    """All touching lines around a function on an interval; axis "side" is below, above.

    Tangents touch at points from ``first`` to ``last``; where ``first`` is the larger, the chord
    ``slope x + constant`` is the only line.

    Attributes:
        start: the numbers in [0, 1] of the lines of least area.
        lower, upper: the interval; NaN where lines are not to be had.
        ends: the function's values at ``lower`` and ``upper``.
        noise: the larger of their :func:`_noise`.
    """

    first: Float[Array, "side *n"]
    last: Float[Array, "side *n"]
    slope: Float[Array, "side *n"]
    constant: Float[Array, "side *n"]
    start: Float[Array, "side *n"]
    lower: Float[Array, "*n"]
    upper: Float[Array, "*n"]
    ends: tuple[Float[Array, "*n"], Float[Array, "*n"]]
    noise: Float[Array, "*n"]


SIDED = frozenset({"first", "last", "slope", "constant", "start"})
"""The fields of a family that have an axis of sides."""


class SmoothLines(NamedTuple):
    """``slope x + constant``, one below and one above."""

    slope: Float[Array, "side *n"]
    constant: Float[Array, "side *n"]


def smooth_interval(f: Smooth, interval: Interval) -> Interval:
    """The range of ``f`` over an interval, rounded outward.

    >>> import jax.numpy as jnp
    >>> from jmlv.graph.smooth import GELU_TANH
    >>> found = smooth_interval(GELU_TANH, Interval(jnp.array([-2.0]), jnp.array([1.0])))
    >>> print(f"{found.lower[0]:.4f} {found.upper[0]:.4f}")
    -0.1700 0.8412
    """
    ends = jnp.stack(interval)
    unknown = ~f.defined(*ends) if f.guarded else jnp.isnan(ends).any(0)
    ends = jnp.where(unknown, f.inside, ends) if f.guarded else ends
    jet = f.jet(ends)
    slack = lax.stop_gradient(_slack(_noise(jet, ends)))
    low, high = jnp.minimum(*(jet.value - slack)), jnp.maximum(*(jet.value + slack))
    if f.minimum is not None:
        place, least = f.minimum
        near = ROUNDING * jnp.finfo(low.dtype).eps
        inside = (interval.lower <= place + near) & (interval.upper >= place - near)
        low = jnp.where(inside, jnp.minimum(low, least - slack.max(0) - near), low)
    low = low if f.least is None else jnp.maximum(low, f.least)
    return Interval(*(jnp.where(unknown, jnp.nan, y) for y in (low, high)))


def touching_lines(f: Smooth, interval: Interval) -> Family:
    """All lines around ``f`` on an interval that touch its envelopes; differentiable in its ends.

    Args:
        f: the function.
        interval: any two arrays of one shape. NaN or infinity in an entry gives NaN lines, and so
            does an interval on which ``f`` is not defined throughout.

    >>> import jax.numpy as jnp
    >>> from jmlv.graph.smooth import TANH
    >>> family = touching_lines(TANH, Interval(jnp.array([-1.0]), jnp.array([2.0])))
    >>> below, above = lines_at(TANH, family, family.start).slope[:, 0]
    >>> print(f"{below:.3f} {above:.3f}")
    0.582 0.786
    """
    lower, upper = jnp.asarray(interval.lower), jnp.asarray(interval.upper)
    unknown = ~(jnp.isfinite(lower) & jnp.isfinite(upper))
    unknown = unknown | ~f.defined(lower, upper) if f.guarded else unknown
    lower, upper = (jnp.where(unknown, f.inside, side) for side in (lower, upper))
    middle = (lower + upper) / 2
    left, right = (jnp.stack(ends) for ends in zip(*(_part(f, b, lower, upper) for b in (1, -1))))
    edges = jnp.stack([lower, *(jnp.clip(knot, lower, upper) for knot in f.knots), upper])
    jet = f.jet(jnp.concatenate([edges, middle[None], left, right]))
    on_edges, at_middle, on_left, on_right = (
        Jet(*parts) for parts in zip(*(_cut(part, len(edges)) for part in jet))
    )
    first, last = _touching_points(f, (lower, upper), (left, right), on_edges, on_left, on_right)
    slope = _chord_slope(edges, on_edges, at_middle.slope[0])
    width = last - first
    start = jnp.clip((middle - first) / jnp.where(width > 0, width, 1), 0, 1)
    ends = on_edges.value[0], on_edges.value[-1]
    noise = _noise(on_edges, edges).max(0)
    constant = _chord_constants(f, slope, edges, on_edges, noise)
    shown = (jnp.where(unknown, jnp.nan, side) for side in (lower, upper))
    slopes = jnp.stack([slope, slope])
    return Family(first, last, slopes, constant, start, *shown, ends, noise)


def lines_at(f: Smooth, family: Family, t: Float[Array, "side *m"]) -> SmoothLines:
    """The line below and the line above of the given numbers, which are clipped to [0, 1].

    Whatever the numbers are, the lines are sound: a tangent's constant is ``min(h(p), h(l), h(u))``,
    or the largest of these above; a chord's is known.
    """
    lower, upper = family.lower, family.upper
    chord = family.first > family.last
    first = jnp.where(chord, family.last, family.first)
    p = first + jnp.clip(t, 0, 1) * (jnp.where(chord, first, family.last) - first)
    value, slope, size = f.jet(p)
    heights = [value - slope * p]
    heights += [y - slope * x for y, x in zip(family.ends, (lower, upper))]
    reach = jnp.maximum(jnp.abs(lower), jnp.abs(upper))
    slack = lax.stop_gradient(_slack(jnp.maximum(family.noise, jnp.abs(value)) + size * reach))
    constant = _least(heights, slack)
    known = 0 * lower  # or NaN
    return SmoothLines(
        jnp.where(chord, family.slope, slope) + known,
        jnp.where(chord, family.constant, constant) + known,
    )


def _cut(values: Array, edges: int) -> tuple[Array, ...]:
    """Values at the edges, the middle, and the left and right ends of both parts."""
    return tuple(jnp.split(values, (edges, edges + 1, edges + 3)))


def _part(f: Smooth, bend: int, lower: Array, upper: Array) -> tuple[Array, Array]:
    """The part of the interval that bends that way; of two the one that lies on a side of zero.

    Empty (its left end exceeds its right end) where there is none, and where the interval has both
    sides of zero and such parts on each: then only the chord touches the envelope.
    """
    edges = (-jnp.inf, *f.knots, jnp.inf)
    parts = [
        (jnp.maximum(lower, a), jnp.minimum(upper, b))
        for a, b, bends in zip(edges, edges[1:], f.bends)
        if bends == bend
    ]
    if not parts:
        return jnp.ones_like(lower), jnp.zeros_like(upper)
    if len(parts) == 1:
        return parts[0]
    (left, left_end), (right, right_end) = parts
    beyond = lower >= 0
    crossing = (lower < 0) & (upper > 0)
    first, last = jnp.where(beyond, right, left), jnp.where(beyond, right_end, left_end)
    return jnp.where(crossing, 1, first), jnp.where(crossing, 0, last)


def _touching_points(
    f: Smooth,
    ends: tuple[Array, Array],
    part: tuple[Array, Array],
    on_edges: Jet,
    on_left: Jet,
    on_right: Jet,
) -> tuple[Float[Array, "side *n"], Float[Array, "side *n"]]:
    """The first and last points whose tangents cut ``f`` at neither end; swapped if there are none.

    Both ends of the interval are treated at once, in a new axis before that of the sides. The point
    wanted for an end is the ``near``est to the part's end on its side.
    """
    lower, upper = ends
    left, right = part
    near, far = jnp.stack([left, right]), jnp.stack([right, left])
    end = jnp.stack(ends)[:, None]
    values = jnp.stack([on_edges.value[0], on_edges.value[-1]])[:, None]
    sign = _signs(lower)

    def gap(p: Array, value: Array, slope: Array) -> Array:
        """At least zero iff the tangent at ``p`` is on its side of ``f`` at the end."""
        return sign * (values - value - slope * (end - p))

    def good(p: Array, jet: Jet) -> Bool[Array, "end side *n"]:
        return gap(p, jet.value, jet.slope) >= 0

    free = jnp.stack([left <= lower, right >= upper])
    near_good = free | good(near, Jet(*(jnp.stack(v) for v in zip(on_left, on_right))))
    far_good = free | good(far, Jet(*(jnp.stack(v) for v in zip(on_right, on_left))))

    def halve(_: int, state: tuple[Array, Array]) -> tuple[Array, Array]:
        outside, inside = state
        middle = (outside + inside) / 2
        holds = good(middle, f.jet(middle))
        return jnp.where(holds, outside, middle), jnp.where(holds, middle, inside)

    count = HALVINGS[str(lower.dtype)]
    inside = lax.fori_loop(0, count, halve, lax.stop_gradient((near, far)))[1]
    inside = lax.stop_gradient(inside)
    jet, bend = jax.jvp(lambda p: f.jet(p)[:2], (inside,), (jnp.ones_like(inside),))
    fall = lax.stop_gradient(-sign * bend[1] * (end - inside))
    steep = jnp.abs(fall) > NARROW[str(lower.dtype)] ** 2
    step = jnp.where(steep, gap(inside, *jet) / jnp.where(steep, fall, 1), 0)  # Newton's
    lowest, highest = jnp.minimum(near, far), jnp.maximum(near, far)
    first, last = jnp.where(near_good, near, jnp.clip(inside - step, lowest, highest))
    touches = (left <= right) & far_good.all(0) & (first <= last)
    return jnp.where(touches, first, upper), jnp.where(touches, last, lower)


def _chord_slope(edges: Array, jet: Jet, at_middle: Array) -> Array:
    """The quotient of differences; the derivative in the middle where that is more accurate."""
    width, reach = edges[-1] - edges[0], jnp.abs(edges).max(0)
    narrow = width <= NARROW[str(edges.dtype)] * jnp.maximum(reach, 1)
    quotient = (jet.value[-1] - jet.value[0]) / jnp.where(narrow, 1, width)
    return jnp.where(narrow, at_middle, quotient)


def _chord_constants(
    f: Smooth, slope: Array, edges: Array, jet: Jet, noise: Array
) -> Float[Array, "side *n"]:
    """Sound constants for any slope at all: the least of ``h`` over all parts, and the largest.

    Where ``h`` bends away from the line its extreme is at an edge; else the tangents at both edges of
    the part bound it, and the better bound counts.
    """
    height, rise = jet.value - slope * edges, jet.slope - slope
    width = edges[1:] - edges[:-1]
    sides: tuple[list, list] = list(height), list(height)
    for i, bend in enumerate(f.bends):
        worst = jnp.minimum if bend > 0 else jnp.maximum
        best = jnp.maximum if bend > 0 else jnp.minimum
        from_left = height[i] + worst(0, rise[i] * width[i])
        from_right = height[i + 1] + worst(0, -rise[i + 1] * width[i])
        sides[bend < 0].append(best(from_left, from_right))
    reach = jnp.abs(edges).max(0)
    size = jnp.maximum(jnp.abs(slope), jet.size.max(0))
    slack = lax.stop_gradient(_slack(noise + size * reach))
    below, above = reduce(jnp.minimum, sides[0]), reduce(jnp.maximum, sides[1])
    return jnp.stack([below - slack, above + slack])


def _signs(like: Array) -> Float[Array, "2 ..."]:
    """1 for the side below, -1 for the side above."""
    return jnp.array([1, -1], like.dtype).reshape(2, *(1,) * like.ndim)


def _least(heights: list[Array], slack: Array) -> Float[Array, "side *n"]:
    """The least below, the largest above, moved outward by the slack."""
    below = reduce(jnp.minimum, [h[0] for h in heights]) - slack[0]
    above = reduce(jnp.maximum, [h[1] for h in heights]) + slack[1]
    return jnp.stack([below, above])


def _noise(jet: Jet, x: Array) -> Array:
    """How large the terms are from which ``f(x)`` is computed; ``x`` itself has a rounding error."""
    return jnp.abs(jet.value) + jet.size * jnp.abs(x)


def _slack(noise: Array) -> Array:
    """More than the rounding error of what is computed from terms of that size."""
    eps = jnp.finfo(noise.dtype).eps
    return ROUNDING * eps * noise + eps**2
