"""Linear functionals of a variable, whole or confined to a small window of it.

A neuron of a convolution sees a few pixels. Its functional on the layer below is a window of
coefficients and a corner, not a map that is zero nearly everywhere: this is what makes full
backward CROWN on convolutions cheap. Rules for windows are in :mod:`jmlv.bounds.windows`; any other
operation makes a window whole first.
"""

from __future__ import annotations

import math
from typing import NamedTuple, Union

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jmlv.graph import Variable


class Whole(NamedTuple):
    """One coefficient for every entry of a variable of shape (1, ...)."""

    rows: Float[Array, "row batch ..."]


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


def apply(
    rows: Float[Array, "row batch ..."], value: Float[Array, "batch ..."]
) -> Float[Array, " row"]:
    """Functionals at one value, as a matrix product: XLA's CPU reductions are far slower."""
    return rows.reshape(rows.shape[0], math.prod(rows.shape[1:])) @ value.reshape(-1)


def flat_sum(rows: Float[Array, "row ..."]) -> Float[Array, " row"]:
    return rows.reshape(rows.shape[0], math.prod(rows.shape[1:])).sum(-1)
