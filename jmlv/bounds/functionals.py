"""Linear functionals of a variable, whole or confined to a small window of it.

A neuron of a convolution sees a few pixels. Its functional on the layer below is a window of
coefficients and a corner, not a map that is zero nearly everywhere: this is what makes full
backward CROWN on convolutions cheap. Rules for windows are in :mod:`jmlv.bounds.windows`; any other
operation makes a window whole first.
"""

from __future__ import annotations

import math
from functools import partial, reduce
from typing import NamedTuple, Union

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from jmlv.graph import Variable
from jmlv.regions import Ball


class Whole(NamedTuple):
    """One coefficient for every entry of a variable of shape (1, ...)."""

    rows: Float[Array, "row 1 ..."]


class Window(NamedTuple):
    """Coefficients on ``[corner, corner + (height, width))`` of a (1, H, W, channel) variable.

    The window may reach over the variable's edge; coefficients there stand for padding, count as
    zero, and are zeroed by :func:`drop_outside`.
    """

    rows: Float[Array, "row height width channel"]
    corner: Int[Array, "row 2"]


Functional = Union[Whole, Window]


def one_hot(variable: Variable, indices: Int[Array, " row"]) -> Functional:
    """The functionals that read single entries, given by their flat index."""
    if len(variable.shape) != 4 or variable.shape[0] != 1:
        rows = jax.nn.one_hot(indices, variable.size, dtype=variable.dtype)
        return Whole(rows.reshape(-1, *variable.shape))
    _, _, width, channels = variable.shape
    pixel, channel = jnp.divmod(indices, channels)
    rows = jax.nn.one_hot(channel, channels, dtype=variable.dtype)[:, None, None, :]
    return Window(rows, jnp.stack(jnp.divmod(pixel, width), -1))


def whole(functional: Functional, variable: Variable) -> Whole:
    """The same functional with a coefficient for every entry; what lies outside is dropped."""
    if isinstance(functional, Whole):
        return functional
    rows, corner = functional
    _, height, width, _ = variable.shape
    padded = jnp.pad(rows, ((0, 0), (height, height), (width, width), (0, 0)))

    def place(row: Array, at: Array) -> Array:
        size = (height, width, row.shape[-1])
        return jax.lax.dynamic_slice(row, (height - at[0], width - at[1], 0), size)

    return Whole(jax.vmap(place)(padded, corner)[:, None])


def is_small(functional: Functional, variable: Variable) -> bool:
    """Whether a window is worth keeping: well under the size of the whole variable."""
    return functional.rows[0].size <= variable.size // 2


def add(a: Functional | None, b: Functional, variable: Variable) -> Functional:
    """The sum of two functionals on one variable (the branches of a residual connection)."""
    return b if a is None else Whole(whole(a, variable).rows + whole(b, variable).rows)


def drop_outside(window: Window, variable: Variable) -> Window:
    """Zeroes the coefficients that lie over the variable's edge."""
    rows, corner = window
    inside = jnp.ones((), bool)
    for axis in (0, 1):
        place = corner[:, axis, None] + jnp.arange(rows.shape[axis + 1])
        valid = (place >= 0) & (place < variable.shape[axis + 1])
        inside = inside & jnp.expand_dims(valid, (2, 3) if axis == 0 else (1, 3))
    return Window(jnp.where(inside, rows, 0), corner)


def crop(values: Float[Array, "H W channel"], window: Window) -> Float[Array, "row h w channel"]:
    """The part of a map that each window covers, zero outside the map."""
    height, width = window.rows.shape[1:3]
    padded = jnp.pad(values, ((height, height), (width, width), (0, 0)))
    low = jnp.array([height, width])
    high = jnp.array(padded.shape[:2]) - low
    size = (height, width, values.shape[-1])
    corner = jnp.clip(window.corner + low, 0, high)
    return jax.vmap(lambda at: jax.lax.dynamic_slice(padded, (at[0], at[1], 0), size))(corner)


def minimum_over_box(functional: Functional, lower: Array, upper: Array) -> Float[Array, " row"]:
    """The least value of each functional over ``lower <= x <= upper``, arrays of shape (1, ...)."""
    if isinstance(functional, Whole):
        rows = functional.rows
        return apply(jnp.maximum(rows, 0), lower) + apply(jnp.minimum(rows, 0), upper)
    rows = functional.rows
    low, high = crop(lower[0], functional), crop(upper[0], functional)
    return flat_sum(rows * jnp.where(rows > 0, low, high))


def minimum_over(
    functional: Functional, lower: Array, upper: Array, ball: Ball | None
) -> Float[Array, " row"]:
    """The least value of each functional over a box, and over a ball in it if there is one."""
    over_box = minimum_over_box(functional, lower, upper)
    if ball is None:
        return over_box
    return jnp.maximum(over_box, minimum_over_ball(functional, lower, upper, ball))


def minimum_over_ball(
    functional: Functional, lower: Array, upper: Array, ball: Ball
) -> Float[Array, " row"]:
    """The least value of each functional over a ball and the box ``lower <= x <= upper`` at once.

    With ``e = w (x - c)`` and ``b = a / w`` it is ``a c + min b e`` over ``l <= e <= u``,
    ``||e|| <= r``, and for any multiplier at least

        min over l <= e <= u of  b e + m / 2 (||e||_2^2 - r^2),    or of  b e + m (||e||_1 - r),

    a sum of minima over single entries. So any multiplier gives a bound; the best is looked for.
    """
    least = partial(_least_in_l2 if ball.norm == 2 else _least_in_l1, radius=ball.radius)
    if isinstance(functional, Whole):
        centre, weights = ball.x[None], ball.weights[None]
        ends = lower, upper
        rows = functional.rows
    else:
        centre, weights = (crop(value, functional) for value in (ball.x, ball.weights))
        ends = crop(lower[0], functional), crop(upper[0], functional)
        weights = jnp.where(weights > 0, weights, 1)  # over the map's edge: rows are zero there
        rows = functional.rows
    low, high = ((weights * (end - centre)).reshape(-1, rows[0].size) for end in ends)
    scaled = (rows / weights).reshape(len(rows), -1)
    return flat_sum(rows * centre) + least(scaled, low, high)


STEPS_L2, STEPS_L1 = 4, 16
"""Steps toward the best multiplier."""

ROUNDINGS = 4
"""Of each entry in a sum of squares. Where the box nearly misses the ball the multiplier is large: what
the difference of two squares is rounded by must not count as a distance."""

LARGEST = 1e6
"""A multiplier is at most so many times the one of a ball in no box."""


def _least_in_l2(b: Array, low: Array, high: Array, radius: Array) -> Float[Array, " row"]:
    """The multiplier goes toward the one at which the minimiser, ``clip(-b / m)``, has length ``r``."""
    tiny = jnp.finfo(b.dtype).tiny

    def better(multiplier: Array) -> Array:
        """The one at which entries that are at no end now would fill what those at an end leave."""
        free = -b / multiplier[:, None]
        held = (free < low) | (free > high)
        left = radius**2 - flat_sum(jnp.where(held, jnp.clip(free, low, high), 0) ** 2)
        return jnp.sqrt(flat_sum(jnp.where(held, 0, b) ** 2) / jnp.maximum(left, tiny))

    unheld = jnp.sqrt(flat_sum(b**2)) / jnp.maximum(radius, tiny)
    multiplier = unheld
    for _ in range(STEPS_L2):
        multiplier = better(jnp.maximum(multiplier, tiny))
    multiplier = jnp.clip(lax.stop_gradient(multiplier), tiny, lax.stop_gradient(LARGEST * unheld))
    e = jnp.clip(lax.stop_gradient(-b / multiplier[:, None]), low, high)
    rounding = ROUNDINGS * b[0].size * jnp.finfo(b.dtype).eps
    excess = (1 - rounding) * flat_sum(e**2) - (1 + rounding) * radius**2
    return flat_sum(b * e) + multiplier / 2 * excess


def _least_in_l1(b: Array, low: Array, high: Array, radius: Array) -> Float[Array, " row"]:
    """The best multiplier is halved down to: at it the entries that are worth more fill the ball."""
    size = jnp.abs(b)

    def at(multiplier: Array) -> tuple[Array, Array]:
        """The entries' minima, each where it is: at an end, or as near to zero as it gets."""
        rest = jnp.clip(0, low, high)
        ends = jnp.stack([jnp.broadcast_to(v, b.shape) for v in (low, high, rest)])
        values = b * ends + multiplier[:, None] * jnp.abs(ends)
        chosen = jnp.argmin(values, 0)[None]
        values, ends = (jnp.take_along_axis(v, chosen, 0)[0] for v in (values, ends))
        return flat_sum(values) - multiplier * radius, flat_sum(jnp.abs(ends)) - radius

    few, many = jnp.zeros(len(b), b.dtype), jnp.max(size, -1, initial=0.0)
    for _ in range(STEPS_L1):
        middle = (few + many) / 2
        over = lax.stop_gradient(at(middle)[1]) > 0
        few, many = jnp.where(over, middle, few), jnp.where(over, many, middle)
    several = (at(lax.stop_gradient(m))[0] for m in (few, many, jnp.max(size, -1, initial=0.0)))
    return reduce(jnp.maximum, several)


def apply(rows: Float[Array, "row 1 ..."], value: Float[Array, "1 ..."]) -> Float[Array, " row"]:
    """Functionals at one value, as a matrix product: XLA's CPU reductions are far slower."""
    return rows.reshape(rows.shape[0], math.prod(rows.shape[1:])) @ value.reshape(-1)


def flat_sum(rows: Float[Array, "row ..."]) -> Float[Array, " row"]:
    return rows.reshape(rows.shape[0], math.prod(rows.shape[1:])).sum(-1)
