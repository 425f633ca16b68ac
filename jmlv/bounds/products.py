r"""Bounds on products of two computed values: entry by entry, and matrix products.

For ``x`` in ``[a, b]`` and ``y`` in ``[c, d]`` the products of distances ``(x - a) (y - c)`` and
``(b - x) (d - y)`` are not negative, nor are ``(x - a) (d - y)`` and ``(b - x) (y - c)``. Multiplied out
and mixed they are planes below and above, for any ``t`` in [0, 1]:

    x y  >=  (t c + (1-t) d) x + (t a + (1-t) b) y - t a c - (1-t) b d,
    x y  <=  (t d + (1-t) c) x + (t a + (1-t) b) y - t a d - (1-t) b c.

With ``t = 1/2``, the default, both have the slopes of the product at the centre, and lie as far from it
as the product of the radii: ``x y = x_0 y + y_0 x - x_0 y_0 + (x - x_0) (y - y_0)``.

A matrix product is the sum of such products. All of its planes with ``t = 1/2`` take no more than two
matrix products; planes of its own for every summand take an array of all summands.

Source: McCormick, *Computability of global solutions to factorable nonconvex programs*, 1976; for
attention Shi et al., *Robustness Verification for Transformers*, ICLR 2020, section 3.3.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jmlv.bounds.functionals import flat_sum
from jmlv.bounds.method import Interval, with_nan
from jmlv.graph import Equation

ROUNDING = 16
"""Units in the last place of the largest product, by which planes are moved outward."""

LARGEST = 2**17
"""Summands of a row, beyond which they have no planes of their own: alpha-CROWN then keeps ``t = 1/2``."""


class ProductLines(NamedTuple):
    """The intervals of both factors, which are all that the planes depend on."""

    left: Interval
    right: Interval


def product_lines(left: Interval, right: Interval) -> ProductLines:
    """The planes around a product; NaN in an end gives NaN planes."""
    return ProductLines(Interval(*left), Interval(*right))


def product_interval(eqn: Equation, left: Interval, right: Interval) -> Interval:
    """The range of a product over two intervals: of each summand by its four corners, summed."""
    form = _Summands(eqn)
    x, y = (
        Interval(*(spread(end) for end in side))
        for spread, side in zip(form.spreads, (left, right))
    )
    corners = [a * b for a in x for b in y]
    low = jnp.minimum(jnp.minimum(*corners[:2]), jnp.minimum(*corners[2:]))
    high = jnp.maximum(jnp.maximum(*corners[:2]), jnp.maximum(*corners[2:]))
    low, high = with_nan(Interval(low, high), *corners)
    return Interval(form.total(low), form.total(high))


def pull_product(
    eqn: Equation, rows: Float[Array, "row *out"], lines: ProductLines, own: Array | None = None
) -> tuple[list[Array], Float[Array, " row"], Float[Array, "row ..."]]:
    """Replaces a product by its lower plane where the coefficient is positive, else by the upper.

    Args:
        eqn: the product.
        rows: functionals of its output.
        lines: of its factors.
        own: the ``t`` of every row and summand, clipped to [0, 1]; None for 1/2 throughout. One
            number a row stands for 1/2 too, where summands are too many.

    Returns:
        Functionals of both factors, the constant of each row, and the ``t`` used.
    """
    form = _Summands(eqn)
    if own is None or own.ndim == 1:
        pulled, offset = _pull_central(form, rows, lines)
        shape = form.shape if math.prod(form.shape) <= LARGEST else ()
        used = jnp.full((len(rows), *shape), 0.5, rows.dtype) if own is None else own
        return pulled, offset, used
    own = jnp.clip(own, 0, 1)
    return *_pull_own(form, rows, lines, own), own


def _pull_central(form: _Summands, rows: Array, lines: ProductLines) -> tuple[list, Array]:
    """Both planes have the slopes at the centre."""
    x, y = (_middle(side) for side in lines)
    to_left, to_right = form.transposed(x, y)
    pulled = [jax.vmap(to_left)(rows), jax.vmap(to_right)(rows)]
    gap = form.bind(*(_radius(side) for side in lines)) + _slack(form.bind, lines)
    flat = rows.reshape(len(rows), -1)
    middle = form.bind(x, y).reshape(-1)
    return pulled, -(flat @ middle) - jnp.abs(flat) @ gap.reshape(-1)


def _pull_own(form: _Summands, rows: Array, lines: ProductLines, t: Array) -> tuple[list, Array]:
    """Every summand of every row has a plane of its own."""
    (a, b), (c, d) = (
        tuple(spread(end)[None] for end in side) for spread, side in zip(form.spreads, lines)
    )
    each = jax.vmap(form.copied)(rows)
    below = each > 0
    first, second = jnp.where(below, c, d), jnp.where(below, d, c)
    on_left = each * (t * first + (1 - t) * second)
    on_right = each * (t * a + (1 - t) * b)
    constant = -each * (t * a * first + (1 - t) * b * second)
    pulled = [
        jax.vmap(jax.linear_transpose(spread, side.lower))(part)
        for spread, side, part in zip(form.spreads, lines, (on_left, on_right))
    ]
    slack = form.total(_slack(lambda x, y: form.spreads[0](x) * form.spreads[1](y), lines))
    flat = jnp.abs(rows.reshape(len(rows), -1))
    return [part[0] for part in pulled], flat_sum(constant) - flat @ slack.reshape(-1)


class _Summands:
    """A product as the sum over the last axis of an array of products of two copied entries."""

    def __init__(self, eqn: Equation) -> None:
        self.eqn = eqn
        x, y = (v.shape for v in eqn.invars)
        if eqn.primitive is lax.mul_p:
            self.shape = (*jnp.broadcast_shapes(x, y), 1)
            self.spreads = tuple(self._repeated for _ in (x, y))
            return
        (left, right), (left_batch, right_batch) = eqn.params["dimension_numbers"]
        self.spreads = (
            _arranged(left_batch, left, len(x), len(y) - len(right) - len(right_batch), True),
            _arranged(right_batch, right, len(y), len(x) - len(left) - len(left_batch), False),
        )
        self.spreads = tuple(self._copied_to(s) for s in self.spreads)
        kept = [n for i, n in enumerate(x) if i not in (*left_batch, *left)]
        kept += [n for i, n in enumerate(y) if i not in (*right_batch, *right)]
        count = math.prod(x[i] for i in left)
        self.shape = (*(x[i] for i in left_batch), *kept, count)

    def bind(self, x: Array, y: Array) -> Array:
        """The product itself."""
        return self.eqn.bind(x, y)

    def total(self, each: Float[Array, "*out summand"]) -> Float[Array, "*out"]:
        return each.sum(-1)

    def copied(self, row: Float[Array, "*out"]) -> Float[Array, "*out summand"]:
        return jnp.broadcast_to(row[..., None], self.shape)

    def transposed(self, x: Array, y: Array) -> tuple[Callable, Callable]:
        """What carries a row to the left factor, the right one being ``y``, and to the right one."""
        to_left = jax.linear_transpose(lambda v: self.bind(v, y), x)
        to_right = jax.linear_transpose(lambda v: self.bind(x, v), y)
        return lambda row: to_left(row)[0], lambda row: to_right(row)[0]

    def _repeated(self, x: Array) -> Array:
        return jnp.broadcast_to(x, self.shape[:-1])[..., None]

    def _copied_to(self, arrange: Callable[[Array], Array]) -> Callable[[Array], Array]:
        return lambda x: jnp.broadcast_to(arrange(x), self.shape)


def _arranged(
    batch: Any, contracted: Any, rank: int, others: int, first: bool
) -> Callable[[Array], Array]:
    """A factor with axes of length one for the other's own axes: (batch, left, right, summand)."""
    own = [i for i in range(rank) if i not in (*batch, *contracted)]

    def arrange(x: Array) -> Array:
        shape = x.shape
        x = jnp.transpose(x, (*batch, *own, *contracted))
        sizes = [shape[i] for i in batch], [shape[i] for i in own], [1] * others
        middle = (*sizes[1], *sizes[2]) if first else (*sizes[2], *sizes[1])
        return x.reshape(*sizes[0], *middle, math.prod(shape[i] for i in contracted))

    return arrange


def _middle(side: Interval) -> Array:
    return side.lower / 2 + side.upper / 2


def _radius(side: Interval) -> Array:
    """Not less than the distance of either end from the middle, as rounded."""
    middle = _middle(side)
    return jnp.maximum(side.upper - middle, middle - side.lower)


def _slack(product: Callable[[Array, Array], Array], lines: ProductLines) -> Array:
    """More than what the planes' constants are rounded by."""
    sizes = [jnp.maximum(*map(jnp.abs, side)) for side in lines]
    return ROUNDING * jnp.finfo(sizes[0].dtype).eps * lax.stop_gradient(product(*sizes))
