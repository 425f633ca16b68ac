"""The parts of a compact network as dense arrays, and bounds of many subdomains of them at once.

A subdomain of a part holds some units on one side of zero. Of each unit the bound may choose the
slope of the lower line, and a multiplier for its split (beta-CROWN): where ``s z >= 0`` the
function is at least ``f - beta s z`` for any ``beta >= 0``.

New here, beside one tree of subdomains for each part: *first* units, which read pixels alone, fall
into *patches* that share no pixel. Once the later units have given way to lines, what is left is a
sum over patches. There a unit with a negative coefficient is ``a max(z, 0) = min(0, a z)``, so a
patch's least value is the least over *pieces* that take one of the two terms each, and no unit of
them needs a line or a split: sixteen patches with four such units cost sixteen sweeps instead of
``16**16`` subdomains. The others, ``a > 0``, are convex, and the best slope in [0, 1] is exact.

Source: Wang et al., *Beta-CROWN*, NeurIPS 2021, arXiv:2103.06624.
"""

from __future__ import annotations

import itertools
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float


class Reads(NamedTuple):
    """Coefficients of linear functionals, in a part, of pixels, of first and of later units."""

    pixel: Float[Array, "part row patch pixel"]
    first: Float[Array, "part row patch first"]
    unit: Float[Array, "part row unit"]


class Parts(NamedTuple):
    """The parts of a compact network, padded to one shape; what is padding has zeros everywhere."""

    lower: Float[Array, "part patch pixel"]
    upper: Float[Array, "part patch pixel"]
    first_inputs: Float[Array, "part patch first pixel"]
    first_constant: Float[Array, "part patch first"]
    first_low: Float[Array, "part patch first"]
    first_high: Float[Array, "part patch first"]
    inputs: Reads
    constant: Float[Array, "part unit"]
    low: Float[Array, "part unit"]
    high: Float[Array, "part unit"]
    outputs: Reads


class Shape(NamedTuple):
    """What a compiled bound depends on beside the arrays' shapes.

    Attributes:
        stops: where each level of later units ends; a level reads only those before it.
        chosen: units of each patch that are taken apart into pieces, at most.
    """

    stops: tuple[int, ...]
    chosen: int

    @property
    def levels(self) -> list[tuple[int, int]]:
        return list(zip((0, *self.stops), self.stops))


class Sides(NamedTuple):
    """On which side of zero units are held: 1, -1, or 0 for neither."""

    first: Float[Array, "part leaf patch first"]
    unit: Float[Array, "part leaf unit"]


class Choice(NamedTuple):
    """Slopes of lower lines and multipliers of splits; the slopes of first units for every piece."""

    first_alpha: Float[Array, "part leaf patch piece first"]
    first_beta: Float[Array, "part leaf patch first"]
    alpha: Float[Array, "part leaf unit"]
    beta: Float[Array, "part leaf unit"]


class Aim(NamedTuple):
    """What is bounded: ``mixture @ rows`` of the scores, plus ``also`` in each part.

    A mixture is made convex over the ``mask`` before it is used.
    """

    rows: Float[Array, "row label"]
    offsets: Float[Array, " row"]
    mask: Float[Array, "leaf row"]
    also: Reads

    def wanted(self, outputs: Reads, mixture: Float[Array, "leaf row"]) -> Reads:
        """The functionals on each part."""
        objective = convex(mixture, self.mask) @ self.rows
        return Reads(
            self.also.pixel + jnp.einsum("ml,klqp->kmqp", objective, outputs.pixel),
            self.also.first + jnp.einsum("ml,klqf->kmqf", objective, outputs.first),
            self.also.unit + jnp.einsum("ml,kln->kmn", objective, outputs.unit),
        )


class Scores(NamedTuple):
    """Where each bound is reached, what the part adds to each score there, and the next split.

    Later units are numbered before first units. ``first_alpha`` is that of the lowest pieces, and
    ``sizes`` are those of the coefficients, in which multipliers are measured.
    """

    point: Float[Array, "part leaf patch pixel"]
    added: Float[Array, "part leaf label"]
    unit: Float[Array, "part leaf"]
    gain: Float[Array, "part leaf"]
    first_alpha: Float[Array, "part leaf patch first"]
    sizes: tuple[Float[Array, "part leaf patch first"], Float[Array, "part leaf unit"]]


class _Swept(NamedTuple):
    """A bound's constant and its patches' pieces, with the coefficients met on the way."""

    constant: Float[Array, "part leaf"]
    pieces: Float[Array, "part leaf patch piece"]
    pixel: Float[Array, "part leaf patch piece pixel"]
    first: Float[Array, "part leaf patch first"]
    unit: Float[Array, "part leaf unit"]
    signs: Float[Array, "part leaf patch piece first"]

    @property
    def bound(self) -> Float[Array, "part leaf"]:
        return self.constant + self.pieces.min(-1).sum(-1)


def convex(mixture: Float[Array, "leaf row"], mask: Float[Array, "leaf row"]) -> Array:
    """Weights that are not negative and sum to one over the mask; zero where it is empty."""
    mixture = jnp.maximum(mixture, 0) * mask
    total = mixture.sum(-1, keepdims=True)
    even = mask / jnp.maximum(mask.sum(-1, keepdims=True), 1)
    return jnp.where(total > 1e-6, mixture / jnp.maximum(total, 1e-6), even)


def _held(low: Array, high: Array, side: Array) -> tuple[Array, Array, Array]:
    """Where a unit equals its input, where it is open, and its chord's slope there."""
    crossing = (low < 0) & (high > 0)
    chord = jnp.where(crossing, high, 0) / jnp.where(crossing, high - low, 1)
    open_ = crossing & (side == 0)
    return (side > 0) | ((side == 0) & (low >= 0) & (high > 0)), open_, chord


def _through(
    a: Array, low: Array, high: Array, side: Array, alpha: Array, beta: Array
) -> tuple[Array, Array]:
    """Coefficients of outputs as coefficients of inputs, and the constants that come with them."""
    equal, open_, chord = _held(low, high, side)
    up, down = jnp.maximum(a, 0), jnp.minimum(a, 0)
    alpha, beta = jnp.clip(alpha, 0, 1), jnp.maximum(beta, 0)  # others prove nothing
    lines = jnp.where(open_, up * alpha + down * chord, jnp.where(equal, a, 0))
    return lines - side * beta, jnp.where(open_, -down * chord * low, 0)


def _signs(a: Array, low: Array, high: Array, side: Array, count: int) -> Array:
    """For every piece 1 where it takes ``a z``, -1 where it takes 0, and 0 for a line.

    All patterns of the ``count`` units of negative coefficient whose chord loses most.
    """
    _, open_, chord = _held(low, high, side)
    loss = jax.lax.stop_gradient(jnp.where(open_ & (a < 0), a * chord * low, 0))
    rank = jnp.argsort(jnp.argsort(-loss, axis=-1), axis=-1)
    patterns = list(itertools.product((1, -1), repeat=count))
    table = jnp.asarray(np.array(patterns).reshape(-1, count), a.dtype)
    table = jnp.concatenate([table, jnp.zeros((len(patterns), 1), a.dtype)], -1)
    place = jnp.where(loss > 0, jnp.minimum(rank, count), count)
    return jnp.moveaxis(table[:, place], 0, -2)


def _sweep(parts: Parts, shape: Shape, wanted: Reads, sides: Sides, choice: Choice) -> _Swept:
    """Lower bounds of functionals on subdomains."""
    pixel, first, unit = wanted
    constant = jnp.zeros(unit.shape[:2], unit.dtype)
    for start, stop in reversed(shape.levels):
        at = (..., slice(start, stop))
        ends = parts.low[:, None][at], parts.high[:, None][at]
        inward, added = _through(unit[at], *ends, sides.unit[at], choice.alpha[at], choice.beta[at])
        constant += added.sum(-1) + jnp.einsum("kmn,kn->km", inward, parts.constant[at])
        pixel += jnp.einsum("kmn,knqp->kmqp", inward, parts.inputs.pixel[:, start:stop])
        first += jnp.einsum("kmn,knqf->kmqf", inward, parts.inputs.first[:, start:stop])
        if start:
            below = jnp.einsum("kmn,kni->kmi", inward, parts.inputs.unit[:, start:stop, :start])
            unit = unit.at[..., :start].add(below)
    signs = _signs(
        first, parts.first_low[:, None], parts.first_high[:, None], sides.first, shape.chosen
    )
    pieces, by_pixel = _sweep_pieces(parts, pixel, first, signs, sides.first, choice)
    return _Swept(constant, pieces, by_pixel, first, unit, signs)


def _sweep_pieces(
    parts: Parts, pixel: Array, first: Array, signs: Array, side: Array, choice: Choice
) -> tuple[Array, Array]:
    """The least value of every piece, and its coefficients of the pixels."""
    ends = (v[:, None, :, None] for v in (parts.first_low, parts.first_high))
    first, side, beta = (v[..., None, :] for v in (first, side, choice.first_beta))
    inward, added = _through(first, *ends, side, choice.first_alpha, beta)
    inward = jnp.where(signs == 0, inward, jnp.where(signs > 0, first, 0))
    added = jnp.where(signs == 0, added, 0)
    pieces = added.sum(-1) + jnp.einsum("kmqsf,kqf->kmqs", inward, parts.first_constant)
    by_pixel = pixel[..., None, :] + jnp.einsum("kmqsf,kqfp->kmqsp", inward, parts.first_inputs)
    ends = (v[:, None, :, None] for v in (parts.lower, parts.upper))
    return pieces + (by_pixel * jnp.where(by_pixel > 0, *ends)).sum(-1), by_pixel


@partial(jax.jit, static_argnums=1)
def certify(
    parts: Parts, shape: Shape, aim: Aim, mixture: Array, sides: Sides, choice: Choice
) -> Float[Array, "part leaf"]:
    """The bounds of given choices, all computed in the precision of ``parts``.

    In float64 they are certificates: whatever the choices, mixtures and sides are, each is valid
    for its own functional. The functional's offset is not in it.
    """
    dtype = parts.low.dtype
    aim, mixture, sides, choice = jax.tree.map(
        lambda v: v.astype(dtype), (aim, mixture, sides, choice)
    )
    return _sweep(parts, shape, aim.wanted(parts.outputs, mixture), sides, choice).bound


_ADAM = optax.adam(1.0, b2=0.98)

OTHERS = 1e-3
"""How much a patch's other pieces count in a gradient beside the lowest. Each has slopes of its own,
whose steps do not depend on their gradients' size."""


def _with_all_pieces(swept: _Swept) -> Array:
    """Has the gradient of the bound, with a little of every piece in it; its value means nothing."""
    lowest = jax.nn.one_hot(jnp.argmin(swept.pieces, -1), swept.pieces.shape[-1])
    weight = OTHERS + (1 - OTHERS) * lowest
    return swept.constant + (weight * swept.pieces).sum((-1, -2))


@partial(jax.jit, static_argnums=1)
def _step(parts, shape, aim, sides, sizes, state, rates) -> tuple:
    """One step of projected Adam; keeps the best choice so far of each.

    The best is judged for each part by itself where the mixture stands still, else together.
    """
    choice, mixture, memory, best, kept = state
    rate, mixture_rate = rates

    def loss(point: tuple) -> tuple[Array, Array]:
        choice, mixture = point
        wanted = aim.wanted(parts.outputs, mixture)
        swept = _sweep(parts, shape, wanted, sides, scaled(choice, sizes))
        offset = convex(mixture, aim.mask) @ aim.offsets
        total = _with_all_pieces(swept).sum() + offset.sum()
        return -total, (swept.bound, swept.bound.sum(0) + offset)

    point = choice, mixture
    slopes, (found, together) = jax.grad(loss, has_aux=True)(point)
    joint = mixture_rate > 0
    value = jnp.where(joint, together, found)
    better = value > best
    kept = (
        jax.tree.map(partial(_where, better), choice, kept[0]),
        _where(better[0], mixture, kept[1]),
    )
    moves, memory = _ADAM.update(slopes, memory, point)
    choice = jax.tree.map(lambda c, m: jnp.maximum(c + _as(rate, m) * m, 0), choice, moves[0])
    choice = choice._replace(
        alpha=jnp.minimum(choice.alpha, 1), first_alpha=jnp.minimum(choice.first_alpha, 1)
    )
    mixture = convex(mixture + mixture_rate * moves[1], aim.mask)
    return choice, mixture, memory, jnp.maximum(best, value), kept


def _as(values: Array, like: Array) -> Array:
    return values.reshape(*values.shape, *(1,) * (like.ndim - values.ndim))


def _where(better: Array, new: Array, old: Array) -> Array:
    return jnp.where(_as(better, new), new, old)


def scaled(choice: Choice, sizes: tuple[Array, Array]) -> Choice:
    """Multipliers in the sizes of the coefficients that they compete with."""
    first, unit = sizes
    return choice._replace(first_beta=choice.first_beta * first, beta=choice.beta * unit)


def ascend(
    parts: Parts, shape: Shape, aim: Aim, mixture: Array, sides: Sides, sizes: tuple[Array, Array],
    start: Choice, steps: int, rate: Float[np.ndarray, "part leaf"], mixture_rate: float = 0.0,
) -> tuple[Choice, Float[Array, "leaf row"]]:  # fmt: skip
    """The best choice that gradient steps find for each subdomain, its multipliers by ``sizes``.

    Args:
        parts: in float32.
        shape, aim, sides: as in :func:`certify`.
        mixture: where to begin.
        sizes: see :func:`scaled`.
        start: where to begin.
        steps: how many.
        rate: the first step of each subdomain, which falls linearly to a tenth.
        mixture_rate: the same of the mixtures, which stand still at zero.
    """
    best = jnp.full(rate.shape, -jnp.inf, jnp.float32)
    state = start, mixture, _ADAM.init((start, mixture)), best, (start, mixture)
    for share in np.linspace(1.0, 0.1, steps + 1, dtype=np.float32):
        rates = rate * share, np.float32(mixture_rate) * share
        state = _step(parts, shape, aim, sides, sizes, state, rates)
    return state[-1]


@partial(jax.jit, static_argnums=1)
def score(
    parts: Parts, shape: Shape, aim: Aim, mixture: Array, sides: Sides, choice: Choice
) -> Scores:
    """For each subdomain the point where its bound is reached, and the unit that loses most there.

    At that point the function exceeds the bound by the sum over units of ``a (y - line)``, up to
    multipliers, with ``a`` the bound's coefficient of the unit's output ``y``.
    """
    swept = _sweep(parts, shape, aim.wanted(parts.outputs, mixture), sides, choice)
    lowest = jnp.argmin(swept.pieces, -1)[..., None, None]

    def own(array: Array) -> Array:
        return jnp.take_along_axis(array, lowest, -2)[..., 0, :]

    alpha, signs = own(choice.first_alpha), own(swept.signs)
    point = jnp.where(own(swept.pixel) > 0, parts.lower[:, None], parts.upper[:, None])
    first, unit, added = _values(parts, shape, point)
    early = _gain(
        swept.first, parts.first_low, parts.first_high,
        jnp.where(sides.first == 0, signs, sides.first), alpha, first,
    )  # fmt: skip
    late = _gain(swept.unit, parts.low, parts.high, sides.unit, choice.alpha, unit)
    gain = jnp.concatenate([late, early.reshape(*late.shape[:2], -1)], -1)
    sizes = jnp.abs(swept.first), jnp.abs(swept.unit)
    return Scores(point, added, jnp.argmax(gain, -1), gain.max(-1), alpha, sizes)


def _values(parts: Parts, shape: Shape, point: Array) -> tuple[Array, Array, Array]:
    """Inputs of all units at given points, and what the parts add to the scores."""
    first = jnp.einsum("kmqp,kqfp->kmqf", point, parts.first_inputs)
    first += parts.first_constant[:, None]
    outward = jnp.maximum(first, 0)

    def apply(reads: Reads) -> Array:
        found = jnp.einsum("kmqp,krqp->kmr", point, reads.pixel)
        return found + jnp.einsum("kmqf,krqf->kmr", outward, reads.first)

    unit = apply(parts.inputs) + parts.constant[:, None]
    added = apply(parts.outputs)
    for start, stop in shape.levels:
        level = jnp.maximum(unit[..., start:stop], 0)
        unit += jnp.einsum("kmi,kni->kmn", level, parts.inputs.unit[..., start:stop])
        added += jnp.einsum("kmi,kli->kml", level, parts.outputs.unit[..., start:stop])
    return first, unit, added


def _gain(a: Array, low: Array, high: Array, side: Array, alpha: Array, z: Array) -> Array:
    low, high = low[:, None], high[:, None]
    _, open_, chord = _held(low, high, side)
    y = jnp.maximum(z, 0)
    loss = jnp.maximum(a, 0) * (y - alpha * z) + jnp.minimum(a, 0) * (y - chord * (z - low))
    return jnp.where(open_, loss + SPREAD * jnp.abs(a) * -low * chord, -1.0)


SPREAD = 0.5
"""How much the width of a unit's relaxation counts beside its loss at one point."""
