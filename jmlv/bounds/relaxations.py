"""Linear lower and upper lines for ReLU and max pooling, shared by every CROWN bound.

Each function turns interval bounds on an operation's input into two affine functions that enclose
its output. Which lines are taken (slope 0 or 1, which window element) is decided by comparisons,
so it has no derivative; any such choice is sound. NaN in a bound gives NaN lines: a failed bound
is never hidden.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float


class MaximumLines(NamedTuple):
    """Lines around ``max(x, c)``, entry by entry.

    ``lower_slope x + (1 - lower_slope) c <= max(x, c) <= upper_slope x + upper_intercept``.
    """

    lower_slope: Array
    upper_slope: Array
    upper_intercept: Array


class PoolLines(NamedTuple):
    """``lower_weights . x + lower_constant <= y <= upper_weights . x + upper_constant``.

    The entries of ``x`` are the elements of a window, as :func:`patches` gives them. At most one
    weight of a window differs from zero.
    """

    lower_weights: Float[Array, "element *out"]
    lower_constant: Float[Array, "*out"]
    upper_weights: Float[Array, "element *out"]
    upper_constant: Float[Array, "*out"]


def maximum_lines(
    lower: Float[Array, "*n"], upper: Float[Array, "*n"], knee: float | Float[Array, "*n"] = 0.0
) -> MaximumLines:
    """CROWN's lines for ``max(x, c)`` with ``lower <= x <= upper``; ReLU by default.

    Stable neurons are exact. For ``l < c < u`` the upper line is the chord
    ``c + (u - c) / (u - l) (x - l)`` and the lower one ``c + alpha (x - c)`` with the adaptive
    ``alpha = 1`` if ``u - c > c - l``, else 0 (Zhang et al. 2018, arXiv:1811.00866, Table 2 and
    section 3.3, for ``c = 0``).

    Args:
        lower: lower bounds, any shape.
        upper: upper bounds, same shape.
        knee: the constant ``c``; minus infinity where there is none.

    >>> import jax.numpy as jnp
    >>> lines = maximum_lines(jnp.array([-1.0]), jnp.array([3.0]))
    >>> print(lines.lower_slope, lines.upper_slope, lines.upper_intercept)
    [1.] [0.75] [0.75]
    """
    active = lower >= knee
    unstable = (lower < knee) & (upper > knee)
    width = jnp.where(unstable, upper - lower, 1)
    chord = jnp.where(unstable, upper - knee, 0) / width
    one = active.astype(lower.dtype)
    lines = MaximumLines(
        jnp.where(unstable, (upper - knee > knee - lower).astype(lower.dtype), one),
        jnp.where(unstable, chord, one),
        jnp.where(unstable, knee - chord * lower, jnp.where(active, 0, knee)),
    )
    unknown = jnp.isnan(lower) | jnp.isnan(upper)
    return MaximumLines(*(jnp.where(unknown, jnp.nan, line) for line in lines))


def max_pool_lines(
    lower: Float[Array, "*image"],
    upper: Float[Array, "*image"],
    params: Mapping[str, Any],
    floor: float | Float[Array, "*out"] = -jnp.inf,
) -> PoolLines:
    """Lines for ``y = max(floor, max over each window)``.

    Lower: ``y >= x_j`` with ``j`` the element of the largest lower bound (of these the one of the
    largest upper bound); with floor 0 the constant 0 instead where a ReLU of that element would
    take slope 0. Upper: with ``j`` the element of the largest upper bound and ``M`` the largest
    value that the floor and the others may take, ``y = x_j`` where ``l_j >= M``; else the chord
    ``M + (u_j - M) / (u_j - l_j) (x_j - l_j)`` of ``max(x_j, M)`` where ``u_j > M``; else ``M``.
    The lines are those of DeepPoly (Singh et al. 2019, section 4.4), with a chord in place of its
    constant upper line.

    Args:
        lower: lower bounds on the pooled array.
        upper: upper bounds, same shape.
        params: the pooling equation's window dimensions, strides and padding.
        floor: minus infinity, or 0 when a ReLU is merged into the pool; or one finite floor for
            each output.

    >>> import jax.numpy as jnp
    >>> window = dict(window_dimensions=(2,), window_strides=(2,), padding=((0, 0),))
    >>> lines = max_pool_lines(jnp.array([-1.0, 0.0]), jnp.array([1.0, 3.0]), window)
    >>> print(lines.upper_weights[:, 0], lines.upper_constant)
    [0.        0.6666667] [1.]
    """
    valid = patches(jnp.ones(lower.shape, bool), params)
    low, high = patches(lower, params), patches(upper, params)
    lower_weights, lower_constant = _pool_lower(low, high, valid, floor)
    upper_weights, upper_constant = _pool_upper(low, high, valid, floor)
    unknown = (jnp.isnan(low) | jnp.isnan(high)).any(0)
    lower_constant = jnp.where(unknown, jnp.nan, lower_constant)
    upper_constant = jnp.where(unknown, jnp.nan, upper_constant)
    return PoolLines(lower_weights, lower_constant, upper_weights, upper_constant)


def _pool_lower(low: Array, high: Array, valid: Array, floor: float | Array) -> tuple[Array, Array]:
    chosen = _first_of_best(low, high, valid)
    if isinstance(floor, float) and floor == -jnp.inf:
        intercept = jnp.where(valid.any(0), 0.0, floor)
        return chosen.astype(low.dtype), intercept.astype(low.dtype)
    above = _pick(low, chosen) - floor, _pick(high, chosen) - floor
    follows = (above[0] >= 0) | (above[1] > -above[0])
    intercept = jnp.where(follows & valid.any(0), 0.0, floor)
    return (chosen & follows).astype(low.dtype), intercept.astype(low.dtype)


def _pool_upper(low: Array, high: Array, valid: Array, floor: float | Array) -> tuple[Array, Array]:
    chosen, ceiling = _leader(low, high, valid, floor)
    l, u = _pick(low, chosen), _pick(high, chosen)
    exact = settled_windows(low, high, valid, floor)
    crossing = valid.any(0) & ~exact & (u > ceiling)
    finite = jnp.where(exact, 0, ceiling)
    slope = jnp.where(crossing, u - finite, 0) / jnp.where(crossing, u - l, 1)
    intercept = jnp.where(crossing, finite - slope * l, finite)
    return jnp.where(chosen, jnp.where(exact, 1, slope), 0), intercept


def settled_windows(
    low: Float[Array, "element *out"],
    high: Float[Array, "element *out"],
    valid: Bool[Array, "element *out"],
    floor: float | Float[Array, "*out"],
) -> Bool[Array, "*out"]:
    """Windows in which one element is the largest for sure, and above the floor."""
    chosen, ceiling = _leader(low, high, valid, floor)
    return valid.any(0) & (_pick(low, chosen) >= ceiling)


def _leader(low: Array, high: Array, valid: Array, floor: float | Array) -> tuple[Array, Array]:
    """The element of the largest upper bound, and the largest value that all else may take."""
    chosen = _first_of_best(high, low, valid)
    others = jnp.where(valid & ~chosen, high, -jnp.inf).max(0)
    return chosen, jnp.maximum(others, floor)


def _first_of_best(key: Array, second: Array, valid: Array) -> Bool[Array, "element *out"]:
    """One-hot choice of the valid element with the largest key; ties by the second key."""
    key, second = lax.stop_gradient((key, second))
    key = jnp.where(valid, key, -jnp.inf)
    best = valid & (key == key.max(0))
    index = jnp.argmax(jnp.where(best, second, -jnp.inf), 0)
    return best & (jnp.arange(key.shape[0]).reshape(-1, *(1,) * index.ndim) == index)


def _pick(values: Array, chosen: Array) -> Array:
    return jnp.where(chosen, values, 0).sum(0)


def patches(x: Array, params: Mapping[str, Any]) -> Array:
    """Every window of a pooling operation as a stack: (element, *output shape).

    Linear. Padding is filled with zero (false), never with infinity, so that no ``0 * inf`` arises;
    ``patches(ones)`` tells which elements are real.

    Args:
        x: the pooled array.
        params: window dimensions, strides and padding, one entry per axis; dilations must be 1.

    >>> import jax.numpy as jnp
    >>> window = dict(window_dimensions=(3,), window_strides=(2,), padding=((1, 0),))
    >>> print(patches(jnp.array([1.0, 2.0, 3.0, 4.0]), window).T)
    [[0. 1. 2.]
     [2. 3. 4.]]
    """
    window, strides = params["window_dimensions"], params["window_strides"]
    x = lax.pad(x, jnp.zeros((), x.dtype), tuple((a, b, 0) for a, b in params["padding"]))
    stacked = x[None]
    for axis, (size, stride) in enumerate(zip(window, strides)):
        stacked = _unfold(stacked, axis + 1, size, stride)
    return stacked


def patches_transpose(
    elements: Float[Array, "element *out"], params: Mapping[str, Any], shape: Sequence[int]
) -> Float[Array, "*image"]:
    """The transpose of :func:`patches`: window entries summed back to where they came from.

    Args:
        elements: (element, *output shape).
        params: as for :func:`patches`.
        shape: the pooled array's shape.
    """
    source = jax.ShapeDtypeStruct(tuple(shape), elements.dtype)
    (image,) = jax.linear_transpose(lambda x: patches(x, params), source)(elements)
    return image


def _unfold(stacked: Array, axis: int, size: int, stride: int) -> Array:
    """Splits one axis into windows, whose elements are merged into axis 0."""
    if size == 1 and stride == 1:
        return stacked
    count = (stacked.shape[axis] - size) // stride + 1
    if size == stride:
        kept = lax.slice_in_dim(stacked, 0, count * size, 1, axis)
        split = kept.reshape(*kept.shape[:axis], count, size, *kept.shape[axis + 1 :])
        merged = jnp.moveaxis(split, axis + 1, 1)
    else:
        ends = (count - 1) * stride + 1
        starts = range(size)
        merged = jnp.stack(
            [lax.slice_in_dim(stacked, k, k + ends, stride, axis) for k in starts], 1
        )
    return merged.reshape(-1, *merged.shape[2:])
