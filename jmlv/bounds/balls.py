"""The least value of linear functionals over a ball and a box at once.

With ``e = w (x - c)``, ``b = a / w`` and ``l <= e <= u`` the box, the least value of ``a x`` is ``a c`` and the
least ``b e`` with ``||e|| <= r``. For any multiplier ``m >= 0`` this is at least

    min over l <= e <= u of  b e + m / 2 (||e||_2^2 - r^2),    or of  b e + m (||e||_1 - r),

a sum of minima over single entries: any multiplier gives a bound. (Where layers have radii of their own, each
has its multiplier.) The one taken would be the best if the entries that may move the way they should were
free to: the bound is never below the dual norm of their slopes, and steps toward a better multiplier gain
nearly nothing for much of the time. It is zero, and the bound that over the box, where the box is less wide than
what the ball leaves beyond the box's nearest point, as in small parts of a region.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jmlv.bounds.functionals import Functional, Window, apply, crop, flat_sum, minimum_over_box
from jmlv.regions import Ball

ROUNDINGS = 4
"""Of each entry in a sum of squares. Where the box nearly misses the ball the multiplier is large: what
the difference of two squares is rounded by must not count as a distance."""

LEAST_LEFT = 1e-12
"""The share of a squared radius that a multiplier takes to be left of it at least."""

ROOM = 0.0, 0.5
"""In l1 a multiplier for each: that of the steepest entry with more than this share of the radius to go."""


def minimum_over(
    functional: Functional, lower: Array, upper: Array, ball: Ball | None
) -> Float[Array, " row"]:
    """The least value of each functional over a box, and over a ball in it if there is one; of windows over a
    ball by one multiplier alone, which takes little longer than over the box.

    Args:
        functional: of a variable of shape (1, ...).
        lower, upper: the ends of the box, of that shape.
        ball: as :meth:`jmlv.Ball.astype` gives it, or None.
    """
    if ball is not None and isinstance(functional, Window):
        return minimum_over_ball(functional, lower, upper, ball)
    over_box = minimum_over_box(functional, lower, upper)
    if ball is None:
        return over_box
    return jnp.maximum(over_box, minimum_over_ball(functional, lower, upper, ball))


def minimum_over_ball(
    functional: Functional, lower: Array, upper: Array, ball: Ball
) -> Float[Array, " row"]:
    """A lower bound on each functional over a ball and a box at once."""
    low, high = (ball.stretched(end[0] - ball.x) for end in (lower, upper))
    nearest = jnp.clip(0, low, high)
    across = jnp.maximum(high - nearest, nearest - low)
    used, most = (_powers(ball, way.reshape(1, -1)) for way in (nearest, across))
    if isinstance(functional, Window):
        at_centre = flat_sum(functional.rows * crop(ball.x, functional))
        low, high = crop(low, functional), crop(high, functional)
    else:
        at_centre = apply(functional.rows, ball.x)
    rows = functional.rows.reshape(len(functional.rows), -1)
    low, high = (value.reshape(-1, rows.shape[1]) for value in (low, high))
    slopes = _slopes(functional, rows, ball)
    least = _least_in_l2 if ball.norm == 2 else _least_in_l1
    needed = jnp.where(most <= ball.radii**ball.norm - used, 0, 1)
    return at_centre + least(slopes, low, high, ball.radii, used, needed, _groups(functional, ball))


def _powers(ball: Ball, way: Float[Array, "1 entry"]) -> Float[Array, " group"]:
    """The length of a change in each layer, in l2 its square."""
    return ((way**2 if ball.norm == 2 else jnp.abs(way)) @ ball.membership)[0]


class _Groups(NamedTuple):
    """Which entries share a radius: all, or those of a layer."""

    member: Float[Array, "entry group"] | Float[Array, "row entry group"] | None

    def sums(self, values: Float[Array, "row entry"]) -> Float[Array, "row group"]:
        if self.member is None:
            return flat_sum(values)[:, None]
        rows = "" if self.member.ndim == 2 else "r"
        return jnp.einsum(f"re,{rows}eg->rg", values, self.member, precision="highest")

    def largest(self, values: Float[Array, "row entry"]) -> Float[Array, "row group"]:
        """Of values that are not negative."""
        if self.member is None:
            return jnp.max(values, -1, keepdims=True, initial=0.0)
        return jnp.max(values[..., None] * self.member, -2, initial=0.0)

    def spread(self, values: Float[Array, "row group"]) -> Array:
        """A value of each group at its entries; zero at entries of none, such as over a map's edge."""
        if self.member is None:
            return values
        rows = "" if self.member.ndim == 2 else "r"
        return jnp.einsum(f"rg,{rows}eg->re", values, self.member, precision="highest")


def _groups(functional: Functional, ball: Ball) -> _Groups:
    if ball.layers is None:
        return _Groups(None)
    member = ball.membership
    if isinstance(functional, Window):
        member = crop(member.reshape(*ball.x.shape[:2], -1), functional)
        member = member.reshape(len(member), functional.rows[0].size, -1)
    return _Groups(member)


def _slopes(functional: Functional, rows: Array, ball: Ball) -> Float[Array, "row entry"]:
    """The rows in the ball's own length; zero over a map's edge, as they are."""
    if ball.weights is None:
        return rows
    narrow = 1 / ball.weights
    if isinstance(functional, Window):
        narrow = crop(narrow, functional)
    return rows * narrow.reshape(-1, rows.shape[1])


def _least_in_l2(
    b: Array, low: Array, high: Array, radii: Array, used: Array, needed: Array, groups: _Groups
) -> Float[Array, " row"]:
    """Sums apart, each of few operations: XLA's CPU backend makes one of many several times slower.

    Args:
        b: the slopes.
        low, high: the box, as ``e`` is.
        radii: of each group.
        used: of each group, the square of the distance between centre and box.
        needed: of each group, zero where the box is so small that it bounds more than the ball does.
        groups: which entries share a radius.
    """
    tiny = jnp.finfo(b.dtype).tiny
    room = jnp.maximum(radii**2 - used, LEAST_LEFT * radii**2)
    moves = b * jnp.where(b > 0, low, high) < 0
    room = jnp.maximum(room, tiny**0.5)  # a radius of zero has no infinite multiplier
    multiplier = jnp.sqrt(groups.sums(jnp.where(moves, b * b, 0)) / room)
    multiplier = lax.stop_gradient(jnp.maximum(needed * multiplier, tiny))
    steep = jnp.maximum(groups.spread(multiplier), tiny)
    e = jnp.clip(lax.stop_gradient(-b / steep), low, high)
    rounding = ROUNDINGS * b.shape[1] * jnp.finfo(b.dtype).eps
    excess = (1 - rounding) * groups.sums(e**2) - (1 + rounding) * radii**2
    return flat_sum(b * e) + jnp.sum(multiplier / 2 * excess, -1)


def _least_in_l1(
    b: Array, low: Array, high: Array, radii: Array, used: Array, needed: Array, groups: _Groups
) -> Float[Array, " row"]:
    """As :func:`_least_in_l2`; ``used`` is the distance itself."""
    best, rest = jnp.where(b > 0, low, high), jnp.clip(0, low, high)
    left = radii - used
    further = jnp.abs(best) - jnp.abs(rest)

    def at(share: float) -> Array:
        """With one multiplier: each entry goes as far as it can, or stays as near as it can."""
        far = further > share * groups.spread(left[None])
        multiplier = lax.stop_gradient(needed * groups.largest(jnp.where(far, jnp.abs(b), 0)))
        values = jnp.minimum(b * best + groups.spread(multiplier) * further, b * rest)
        return flat_sum(values) - jnp.sum(multiplier * left, -1)

    first, second = map(at, ROOM)
    return jnp.maximum(first, second)
