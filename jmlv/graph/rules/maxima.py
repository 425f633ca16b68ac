"""Maxima and what is made of them: minimum, absolute value, clipping, leaky ReLU, pools."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jmlv.graph.builder import Builder
from jmlv.graph.ir import Variable
from jmlv.graph.operations import Refused
from jmlv.graph.rules.arithmetic import (
    add,
    by_number,
    constant_of,
    is_everywhere,
    multiply,
    neg,
    scalar,
    subtract,
)
from jmlv.graph.rules.layout import squeeze, stack


def relu(b: Builder, x: Any) -> Any:
    return b.emit(lax.max_p, x, scalar(x, 0))


def maximum(b: Builder, x: Any, y: Any) -> Variable:
    """``max(x, c)`` with the constant second, ``-inf`` being void; of two computed values a pool."""
    if isinstance(x, Variable) and isinstance(y, Variable):
        axis = len(x.shape)
        return x if x == y else reduce_max(b, stack(b, x, y, axis=axis), axes=(axis,))
    x, y = (x, y) if isinstance(x, Variable) else (y, x)
    return x if is_everywhere(y, -np.inf) else b.emit(lax.max_p, x, _knee(x, y))


def _knee(x: Variable, value: Any) -> Any:
    """The constant of ``max(x, c)``: one number where it is known to be, else an array like ``x``."""
    if not isinstance(value, jax.core.Tracer) and np.size(value):
        first = np.asarray(value).flat[0]
        if is_everywhere(value, first):
            return scalar(x, first)
    return jnp.broadcast_to(value, x.shape)


def minimum(b: Builder, x: Any, y: Any) -> Variable:
    """``min(x, y) = -max(-x, -y)``."""
    return neg(b, maximum(b, neg(b, x), neg(b, y)))


def absolute(b: Builder, x: Variable) -> Variable:
    """``relu(x) + relu(-x)``, of which one is zero."""
    return add(b, relu(b, x), relu(b, neg(b, x)))


def clamp(b: Builder, low: Any, x: Any, high: Any) -> Variable:
    return minimum(b, maximum(b, x, low), high)


def leaky_relu(b: Builder, x: Variable, slope: Any) -> Variable:
    """``x`` above zero and ``slope x`` below, in terms that never cancel.

    For slopes from 0 to 1 it is ``slope x + (1 - slope) relu(x)``, which has the tightest lines; for
    negative ones ``relu(x) - slope relu(-x)``, and for larger ones ``x - (slope - 1) relu(-x)``.
    With slopes of several kinds in one array the entries are chosen from all three.
    """
    if np.ndim(slope) == 0 and not isinstance(slope, jax.core.Tracer):
        return _leaky_relu_of_number(b, x, Fraction(float(slope)))
    flat, steep = jnp.clip(slope, 0, 1), jnp.maximum(slope, 1)
    above = relu(b, x)
    found = add(b, multiply(b, x, flat), subtract(b, above, multiply(b, above, flat)))
    if not isinstance(slope, jax.core.Tracer) and np.all((slope >= 0) & (slope <= 1)):
        return found
    below = relu(b, neg(b, x))
    beyond = subtract(b, multiply(b, below, steep), below)  # zero up to a slope of 1
    turned = multiply(b, below, jnp.minimum(slope, 0))
    return subtract(b, subtract(b, found, beyond), turned)


def _leaky_relu_of_number(b: Builder, x: Variable, slope: Fraction) -> Variable:
    """Factors as exact as float64 holds them, in any precision of the network."""
    if slope == 0:
        return relu(b, x)
    if slope < 0:
        return add(b, relu(b, x), by_number(b, lax.mul_p, relu(b, neg(b, x)), -slope))
    if slope > 1:
        beyond = by_number(b, lax.mul_p, relu(b, neg(b, x)), 1 - slope)
        return add(b, x, beyond)
    above = by_number(b, lax.mul_p, relu(b, x), 1 - slope)
    return add(b, by_number(b, lax.mul_p, x, slope), above) if slope < 1 else x


def reduce_max(b: Builder, x: Variable, *, axes: Sequence[int], **_: Any) -> Variable:
    """A maximum over whole axes is a max pool with one window, its axes then dropped."""
    window = tuple(s if i in axes else 1 for i, s in enumerate(x.shape))
    ones, zeros = (1,) * len(window), ((0, 0),) * len(window)
    pooled = b.emit(
        lax.reduce_window_max_p,
        x,
        window_dimensions=window,
        window_strides=ones,
        padding=zeros,
        base_dilation=ones,
        window_dilation=ones,
    )
    return squeeze(b, pooled, dimensions=axes)


def reduce_min(b: Builder, x: Variable, *, axes: Sequence[int], **_: Any) -> Variable:
    return neg(b, reduce_max(b, neg(b, x), axes=axes))


def max_pool(b: Builder, x: Variable, **params: Any) -> Variable:
    """A sliding maximum; minus infinity that was padded before it becomes padding of its own."""
    x, params = _with_its_padding(b, x, params)
    if _has_empty_window(x, params):
        refused = Refused("max pool with a window that lies in its padding altogether")
        shape = jax.eval_shape(lambda v: lax.reduce_window_max_p.bind(v, **params), x.aval).shape
        return b.record(refused, (x,), {}, shape, x.dtype)
    return b.emit(lax.reduce_window_max_p, x, **params)


def min_pool(b: Builder, x: Variable, **params: Any) -> Variable:
    return neg(b, max_pool(b, neg(b, x), **params))


def _with_its_padding(b: Builder, x: Variable, params: dict) -> tuple[Variable, dict]:
    eqn = b.definitions.get(x)
    if eqn is None or eqn.primitive is not lax.pad_p:
        return x, params
    value, config = constant_of(b, eqn.invars[1]), eqn.params["padding_config"]
    plain = all(low >= 0 and high >= 0 and not inner for low, high, inner in config)
    if value is None or not plain or not is_everywhere(value, -np.inf):
        return x, params
    if set(params["base_dilation"]) != {1}:
        return x, params
    both = zip(params["padding"], config)
    padding = tuple((low + pad[0], high + pad[1]) for (low, high), pad in both)
    return eqn.invars[0], {**params, "padding": padding}


def _has_empty_window(x: Variable, params: dict) -> bool:
    """Whether some window reads no entry at all: the maximum of nothing is minus infinity."""
    return any(
        _empty_along(size, *(params[name][axis] for name in _WINDOW))
        for axis, size in enumerate(x.shape)
    )


_WINDOW = (
    "window_dimensions",
    "window_strides",
    "padding",
    "base_dilation",
    "window_dilation",
)


def _empty_along(
    size: int, window: int, stride: int, padding: tuple[int, int], base: int, dilation: int
) -> bool:
    extent = (size - 1) * base + 1 if size else 0
    reach = (window - 1) * dilation + 1
    count = max(0, (extent + sum(padding) - reach) // stride + 1)
    places = np.arange(count)[:, None] * stride - padding[0] + np.arange(window)[None] * dilation
    inside = (places >= 0) & (places < extent) & (places % base == 0)
    return not inside.any(1).all()
