r"""Bounds on softmax, all its entries together: ranges, planes, and what their sum of one gives.

Write ``s_k(x) = exp(x_k) / sum_j exp(x_j)`` for ``l <= x <= u``.

* **Range.** ``s_k`` rises with ``x_k`` and falls with the others: its ends are attained at corners.
* **Below.** With a chord ``q_j`` of ``exp`` over each ``[l_j, u_j]`` and ``Q = sum_j q_j``, the function
  ``g_k = exp(x_k) / Q(x)`` is below ``s_k``, and convex (``log g_k = x_k - log Q`` is). So any tangent plane of
  it is below, with slopes ``g_k (delta_kj - q_j' / Q)``.
* **Above.** ``z_k = x_k - log sum_j exp(x_j)`` is concave, and ``s_k = exp(z_k)`` lies under the chord of
  ``exp`` over the range of ``z_k``, with a slope ``c_k > 0``. So a tangent plane of ``z_k`` gives one above
  ``s_k``, with slopes ``c_k (delta_kj - s_j(t))``.
* **Together.** A functional ``sum_k a_k s_k`` is ``m + sum_k (a_k - m) s_k`` for any ``m``: what is the same
  in all of its coefficients costs nothing. With an ``m`` amid the coefficients few planes are needed far.

All planes that touch at one point ``t`` have slopes that are diagonal but for one row, so a functional is
pulled back in time linear in the entries. ``t`` is the middle of the box unless it is optimised.

Source: Wei et al., *Convex Bounds on the Softmax Function with Applications to Robustness Verification*,
AISTATS 2023, arXiv:2303.01713, sections 3 and 4. Without their constants inside of logarithms, which
round inward; all constants here are moved outward by what they may be rounded by.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy.special import logsumexp
from jaxtyping import Array, Bool, Float, Shaped

from jmlv.bounds.functionals import flat_sum
from jmlv.bounds.method import Interval, with_nan
from jmlv.graph import Equation

ROUNDING = 16
"""Units in the last place that a function's value may be wrong by."""


NEGLIGIBLE = {"float32": 120.0, "float64": 800.0}
"""An entry that is so far below another one is zero, and its exponential below the smallest number."""

EDGE = 1 / 8
"""Planes below touch at least this far from the box's lower ends, where all slopes are moderate."""


class SoftmaxLines(NamedTuple):
    """The interval of what softmax reads, its own range as logarithms, and how wide that is.

    Attributes:
        interval: NaN in an entry gives NaN planes.
        least, most: of ``z_k = log s_k``.
        far: which entries are so far below the largest that they count as zero, as masked ones are. They
            are raised to where it makes no difference yet, in the interval too.
    """

    interval: Interval
    least: Float[Array, "*shape"]
    most: Float[Array, "*shape"]
    far: Bool[Array, "*shape"]


def softmax_interval(eqn: Equation, interval: Interval) -> Interval:
    """The range of every entry over a box, rounded outward; within [0, 1] whatever is known.

    >>> import jax.numpy as jnp, jax, jmlv
    >>> graph = jmlv.trace(jax.nn.softmax, (2,))
    >>> found = softmax_interval(graph.eqns[0], Interval(-jnp.ones((1, 2)), jnp.ones((1, 2))))
    >>> print(f"{found.lower[0, 0]:.3f} {found.upper[0, 0]:.3f}")
    0.119 0.881
    """
    lines = softmax_lines(eqn, interval)
    info = jnp.finfo(lines.least.dtype)
    low = jnp.exp(lines.least) * (1 - ROUNDING * info.eps)
    high = jnp.minimum(jnp.exp(lines.most) * (1 + ROUNDING * info.eps) + info.tiny, 1)
    low = jnp.where(lines.far, 0, low)
    return with_nan(Interval(low, high), *lines.interval)


def softmax_undefined(eqn: Equation, interval: Interval) -> Bool[Array, "*shape"]:
    """Which entries are in a group for which softmax as it is written may have no value; NaN is none."""
    axes, within = tuple(eqn.params["axes"]), eqn.params.get("within")
    least, most = interval.lower.max(axes, keepdims=True), interval.upper.max(axes, keepdims=True)
    undefined = (jnp.isnan(interval.lower) | jnp.isnan(interval.upper)).any(axes, keepdims=True)
    if within is not None:
        undefined = undefined | ~(least >= -within) | ~(most <= within)
    return jnp.broadcast_to(undefined, interval.lower.shape)


def softmax_lines(eqn: Equation, interval: Interval) -> SoftmaxLines:
    """The planes around softmax over a box."""
    axes = eqn.params["axes"]
    undefined = softmax_undefined(eqn, interval)
    interval = Interval(*(jnp.where(undefined, jnp.nan, side) for side in interval))
    flat, far = _raised(Interval(*(_grouped(side, axes) for side in interval)))
    rounded = _size(flat, far)
    unknown = _grouped(undefined, axes)
    known = jnp.isfinite(rounded)
    least = jnp.where(known, -_log_of_others(flat.upper, flat.lower) - rounded, -jnp.inf)
    most = jnp.where(known, -_log_of_others(flat.lower, flat.upper) + rounded, 0)
    most = jnp.minimum(most, 0)
    least, most = (jnp.where(unknown, jnp.nan, side) for side in (least, most))
    lower, upper, *rest = (
        _ungrouped(part, axes, interval.lower.shape) for part in (*flat, least, most, far)
    )
    return SoftmaxLines(Interval(lower, upper), *rest)


def _raised(flat: Interval) -> tuple[Interval, Bool[Array, "*group n"]]:
    """The entries that can only be zero as much as others, raised; and which these are."""
    floor = flat.lower.max(-1, keepdims=True) - NEGLIGIBLE[str(flat.lower.dtype)]
    far = lax.stop_gradient(flat.upper) <= floor
    return Interval(*(jnp.where(far, lax.stop_gradient(floor), side) for side in flat)), far


def _log_of_others(others: Array, own: Array) -> Float[Array, "*group n"]:
    """``log(1 + sum over j != k of exp(others_j - own_k))`` for every ``k``."""
    differences = others[..., None, :] - own[..., :, None]
    same = jnp.eye(own.shape[-1], dtype=bool)
    differences = jnp.where(same, 0, differences)
    return logsumexp(differences, axis=-1)


def _size(flat: Interval, far: Bool[Array, "*group n"]) -> Float[Array, "*group 1"]:
    """What a logarithm of a sum of exponentials of such numbers is rounded by at most.

    Entries that are far below the others are none of that sum.
    """
    reach = jnp.where(far, 0, jnp.maximum(*map(jnp.abs, flat))).max(-1, keepdims=True)
    count = flat.lower.shape[-1]
    eps = jnp.finfo(reach.dtype).eps
    return lax.stop_gradient((ROUNDING + count) * eps * (1 + reach))


def pull_softmax(
    eqn: Equation, rows: Float[Array, "row *shape"], lines: SoftmaxLines, own: Array | None = None
) -> tuple[list[Array], Float[Array, " row"], Float[Array, "row 2 *shape"]]:
    """Replaces softmax by planes: below where the centred coefficient is positive, else above.

    Args:
        eqn: the softmax.
        rows: functionals of its output.
        lines: of its input.
        own: where the planes below, and those above, of each row touch, as shares of the box's
            widths, clipped to [0, 1]; None for the middle.

    Returns:
        Functionals of its input, the constant of each row, and the shares used.
    """
    axes, shape = eqn.params["axes"], rows.shape[1:]
    grouped = _Planes(
        Interval(*(_grouped(side, axes) for side in lines.interval)),
        _grouped(lines.least, axes),
        _grouped(lines.most, axes),
        _grouped(lines.far, axes),
    )
    if grouped.least.shape[-1] == 1:
        constant = flat_sum(rows + 0 * lines.least)  # one entry is 1, whatever it reads; or NaN
        return [jnp.zeros_like(rows)], constant, jnp.full((len(rows), 2, *shape), 0.5, rows.dtype)
    used = jnp.full((len(rows), 2, *shape), 0.5, rows.dtype) if own is None else jnp.clip(own, 0, 1)
    if own is None:
        shares = jnp.full((2, *grouped.least.shape), 0.5, rows.dtype)
        planes = [grouped.below(shares[0]), grouped.above(shares[1])]
    else:
        shares = jax.vmap(jax.vmap(lambda v: _grouped(v, axes)))(used)
        planes = [jax.vmap(grouped.below)(shares[:, 0]), jax.vmap(grouped.above)(shares[:, 1])]
    each = jax.vmap(lambda v: _grouped(v, axes))(rows)
    centre = lax.stop_gradient(_amid(each, grouped.gap))
    noise = lax.stop_gradient(_noise(each))
    each = each - centre
    pulled, constant = 0.0, flat_sum(centre)
    for part, plane in zip((jnp.maximum(each, 0), jnp.minimum(each, 0)), planes):
        along = part * plane.factor
        pulled = pulled + along - along.sum(-1, keepdims=True) * plane.share
        constant = (
            constant + flat_sum(part * plane.constant) - flat_sum(noise * grouped.reach(plane))
        )
    constant = constant + flat_sum(jnp.where(grouped.far, pulled * grouped.interval.lower, 0))
    pulled = jnp.where(grouped.far, 0, pulled)
    back = jax.vmap(lambda v: _ungrouped(v, axes, shape))(pulled)
    return [back], constant, used


class _Plane(NamedTuple):
    """``factor_k (x_k - sum_j share_j x_j) + constant_k``."""

    factor: Float[Array, "*group n"]
    share: Float[Array, "*group n"]
    constant: Float[Array, "*group n"]


class _Planes(NamedTuple):
    """Softmax over the last axis: the box, and the range of ``z``."""

    interval: Interval
    least: Float[Array, "*group n"]
    most: Float[Array, "*group n"]
    far: Bool[Array, "*group n"]

    def reach(self, plane: _Plane) -> Float[Array, "*group 1"]:
        """The sum of the magnitudes of all planes' terms."""
        size = jnp.where(self.far, 0, jnp.maximum(*map(jnp.abs, self.interval)))
        along = (plane.share * size).sum(-1, keepdims=True)
        each = plane.factor * (size + along) + jnp.abs(plane.constant)
        return lax.stop_gradient(each.sum(-1, keepdims=True))

    @property
    def gap(self) -> Float[Array, "*group n"]:
        """How much of each entry the planes may miss, roughly: it weighs the choice of the middle."""
        return jnp.exp(self.most) - jnp.exp(self.least)

    @property
    def ends(self) -> tuple[Array, Array, Array]:
        """The box less its largest upper end, and that end: exponentials cannot overflow."""
        lower, upper = self.interval
        top = lax.stop_gradient(upper.max(-1, keepdims=True))
        return lower - top, upper - top, top

    def below(self, share: Float[Array, "*group n"]) -> _Plane:
        """Tangent planes of ``exp(x_k) / Q`` at ``lower + share (upper - lower)``.

        As ``Q >= share sum_j exp(upper_j)``, its slopes over it add up to at most ``1 / share``.
        """
        lower, upper, top = self.ends
        width = upper - lower
        t = lower + jnp.maximum(share, EDGE) * width
        slope = jnp.exp(upper) * _mean_decay(width)
        eps = jnp.finfo(t.dtype).eps
        # chords a little too high stay chords from above
        total = ((jnp.exp(upper) - slope * (upper - t)) * (1 + ROUNDING * eps)).sum(
            -1, keepdims=True
        )
        rounded = _size(self.interval, self.far)
        total = total + slope.sum(-1, keepdims=True) * rounded
        shares = slope * (1 + ROUNDING * eps) / total
        value = jnp.exp(t) / total
        along = (shares * t).sum(-1, keepdims=True)
        sizes = (1 + shares.sum(-1, keepdims=True)) * (1 + width.max(-1, keepdims=True))
        slack = 4 * value * sizes * rounded + jnp.finfo(t.dtype).tiny
        constant = value * (1 - t + along) - lax.stop_gradient(slack)
        shift = value * (shares.sum(-1, keepdims=True) - 1) * top
        return _Plane(value, shares, constant + shift)

    def above(self, share: Float[Array, "*group n"]) -> _Plane:
        """Tangent planes of ``z_k`` at a point, times the slope of a chord of ``exp``."""
        lower, upper, _ = self.ends
        width = upper - lower
        t = lower + share * width
        most = jnp.exp(self.most)
        factor = most * _mean_decay(self.most - self.least)
        shares = jax.nn.softmax(t, -1)
        along = (shares * t).sum(-1, keepdims=True)
        log_total = logsumexp(t, axis=-1, keepdims=True)
        sizes = 1 + jnp.abs(self.most) + width.max(-1, keepdims=True)
        slack = 4 * (most + factor * sizes) * _size(self.interval, self.far)
        constant = most - factor * self.most + factor * (along - log_total)
        return _Plane(factor, shares, constant + lax.stop_gradient(slack))


def _mean_decay(width: Array) -> Array:
    """``(1 - exp(-w)) / w``, the slope of a chord of ``exp`` over a width that ends at zero."""
    narrow = width < 1e-3
    safe = jnp.where(narrow, 1, width)
    series = 1 - width / 2 + width**2 / 6 - width**3 / 24 + width**4 / 120
    return jnp.where(narrow, series, -jnp.expm1(-safe) / safe)


def _noise(each: Float[Array, "row *group n"]) -> Float[Array, "row *group 1"]:
    """What coefficients less their middle are rounded by, which programs may do in several ways."""
    units = (ROUNDING + each.shape[-1]) * jnp.finfo(each.dtype).eps
    return units * jnp.abs(each).max(-1, keepdims=True)


def _amid(each: Float[Array, "row *group n"], gap: Float[Array, "*group n"]) -> Array:
    """For each row and group the mean of its coefficients, weighed by what planes miss."""
    weights = jnp.where(jnp.isfinite(gap), gap, 0) + jnp.finfo(gap.dtype).tiny
    return (each * weights).sum(-1, keepdims=True) / weights.sum(-1, keepdims=True)


def _grouped(x: Array, axes: tuple[int, ...]) -> Shaped[Array, "*group n"]:
    """The axes along which entries are mixed as one, last."""
    moved = jnp.moveaxis(x, axes, range(-len(axes), 0))
    return moved.reshape(*moved.shape[: -len(axes)], -1)


def _ungrouped(x: Array, axes: tuple[int, ...], shape: tuple[int, ...]) -> Array:
    moved = x.reshape(*x.shape[:-1], *(shape[a] for a in axes))
    return jnp.moveaxis(moved, range(-len(axes), 0), axes)
