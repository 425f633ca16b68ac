"""Rules that pull a window functional through one equation and keep it a window.

Each rule returns the window on the equation's input and a constant per row, or None where the
equation's parameters are out of its reach (the caller then makes the functional whole).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jmlv.bounds.functionals import Window, crop, drop_outside, flat_sum
from jmlv.graph import Equation, Graph, Variable
from jmlv.graph.ir import read

Pulled = tuple[dict[Variable, Window], Any]

_NHWC = ((0, 3, 1, 2), (0, 3, 1, 2))


def pull_window(
    graph: Graph, eqn: Equation, window: Window, constants: Mapping[Variable, Any]
) -> Pulled | None:
    """One affine equation; None if there is no window rule for it."""
    rule = _RULES.get(eqn.primitive)
    inputs = graph.inputs_of(eqn)
    if rule is None or any(len(v.shape) != 4 or v.shape[0] != 1 for v in inputs):
        return None
    return rule(eqn, inputs, window, constants)


def slide(window: Window, source: Variable, local: Callable, settings: Mapping[str, Any]) -> Window:
    """Pulls back through an operation that slides over height and width.

    Args:
        window: on the operation's output.
        source: the operation's input.
        local: the operation without padding, on one (height, width, channel) patch.
        settings: ``size``, ``stride`` and ``low`` (padding before), a pair each.
    """
    size, stride, low = settings["size"], settings["stride"], settings["low"]
    extent = tuple((n - 1) * s + k for n, s, k in zip(_extent(window), stride, size))
    patch = jax.ShapeDtypeStruct((*extent, source.shape[-1]), source.dtype)
    transposed = jax.linear_transpose(local, patch)
    (rows,) = jax.vmap(transposed)(window.rows)
    corner = window.corner * jnp.array(stride) - jnp.array(low)
    return drop_outside(Window(rows, corner), source)


def _extent(window: Window) -> tuple[int, int]:
    return window.rows.shape[-3], window.rows.shape[-2]


def _convolution(eqn: Equation, inputs, window: Window, constants) -> Pulled | None:
    if not is_plain_convolution(eqn) or eqn.invars[0] not in inputs:
        return None
    kernel = kernel_of(eqn, constants)
    pieces = jnp.einsum("rabo,hwio->rabhwi", window.rows, kernel, precision="highest")
    return {inputs[0]: lay_pieces(pieces, eqn, window.corner, inputs[0])}, 0.0


def is_plain_convolution(eqn: Equation) -> bool:
    """A convolution of (1, H, W, channel) without groups or dilation."""
    if eqn.primitive is not lax.conv_general_dilated_p:
        return False
    p = eqn.params
    numbers = p["dimension_numbers"]
    return (
        (numbers.lhs_spec, numbers.out_spec) == _NHWC
        and p["feature_group_count"] == p["batch_group_count"] == 1
        and set(p["lhs_dilation"]) == set(p["rhs_dilation"]) == {1}
    )


def kernel_of(eqn: Equation, constants: Mapping[Variable, Any]) -> Float[Array, "h w in out"]:
    """A plain convolution's kernel, its axes in this order."""
    outputs, features, *spatial = eqn.params["dimension_numbers"].rhs_spec
    return jnp.transpose(read(constants, eqn.invars[1]), (*spatial, features, outputs))


def lay_pieces(
    pieces: Float[Array, "row a b h w in"], eqn: Equation, corner: Array, source: Variable
) -> Window:
    """Adds up what each output (a, b) of a plain convolution puts on the patch that it reads."""
    p = eqn.params
    rows = _overlap(_overlap(pieces, 1, 3, p["window_strides"][0]), 1, 3, p["window_strides"][1])
    low = tuple(pair[0] for pair in p["padding"])
    corner = corner * jnp.array(p["window_strides"]) - jnp.array(low)
    return drop_outside(Window(rows, corner), source)


def _overlap(pieces: Array, turn: int, axis: int, stride: int) -> Array:
    """Adds pieces up, the n-th one shifted by ``n * stride`` along an axis; axis ``turn`` goes.

    With a matrix product before it this transposes a convolution; XLA's CPU convolution with
    dilated input, and any convolution inside a loop, is many times slower. The loop is over the
    pieces or over the entries of one, whichever are fewer.
    """
    count, size = pieces.shape[turn], pieces.shape[axis]
    total = 0.0
    if count <= size:
        for n in range(count):
            piece = lax.index_in_dim(pieces, n, turn, keepdims=False)
            total += _padded(piece, axis - 1, (n * stride, (count - 1 - n) * stride, 0))
        return total
    for n in range(size):
        entry = lax.index_in_dim(pieces, n, axis, keepdims=False)
        total += _padded(entry, turn, (n, size - 1 - n, stride - 1))
    return jnp.moveaxis(total, turn, axis - 1)


def _padded(values: Array, axis: int, sides: tuple[int, int, int]) -> Array:
    """Zeros before, after and between the entries along an axis."""
    config = [(0, 0, 0)] * values.ndim
    config[axis] = sides
    return lax.pad(values, jnp.zeros((), values.dtype), config)


def _sum_pool(eqn: Equation, inputs, window: Window, constants) -> Pulled | None:
    settings = pool_settings(eqn)
    if settings is None:
        return None
    valid = {**eqn.params, "padding": ((0, 0),) * 4}

    def local(patch: Array) -> Array:
        return eqn.primitive.bind(patch[None], **valid)[0]

    return {inputs[0]: slide(window, inputs[0], local, settings)}, 0.0


def pool_settings(eqn: Equation) -> Mapping[str, Any] | None:
    """Window, stride and padding of a pool over height and width only, else None."""
    p = eqn.params
    window, strides, padding = p["window_dimensions"], p["window_strides"], p["padding"]
    dilated = set(p["base_dilation"]) | set(p["window_dilation"]) != {1}
    outer = {window[0], window[-1], strides[0], strides[-1]} != {1}
    padded = tuple(padding[0]) != (0, 0) or tuple(padding[-1]) != (0, 0)
    if len(window) != 4 or dilated or outer or padded:
        return None
    low = tuple(pair[0] for pair in padding[1:3])
    return {"size": window[1:3], "stride": strides[1:3], "low": low}


def _add(eqn: Equation, inputs, window: Window, constants) -> Pulled | None:
    if any(v.shape != eqn.outvar.shape for v in inputs):
        return None
    if len(inputs) == 2:
        both = inputs[0] == inputs[1]
        return dict.fromkeys(inputs, Window(window.rows * (2 if both else 1), window.corner)), 0.0
    shift = _constant_map(eqn, inputs, window, constants)
    return {inputs[0]: window}, flat_sum(window.rows * shift)


def _scale(eqn: Equation, inputs, window: Window, constants) -> Pulled | None:
    if len(inputs) != 1 or inputs[0].shape != eqn.outvar.shape:
        return None
    factor = _constant_map(eqn, inputs, window, constants)
    return {inputs[0]: Window(window.rows * factor, window.corner)}, 0.0


def _negate(eqn: Equation, inputs, window: Window, constants) -> Pulled:
    return {inputs[0]: Window(-window.rows, window.corner)}, 0.0


def _constant_map(eqn: Equation, inputs, window: Window, constants) -> Array:
    """The constant operand, a divisor inverted, where the window lies; zero outside the map."""
    (atom,) = (v for v in eqn.invars if v not in inputs)
    value = jnp.asarray(read(constants, atom))
    value = 1 / value if eqn.primitive is lax.div_p else value
    if value.ndim == 0 or value.shape[:3] == (1, 1, 1):
        return value.reshape(-1)
    return crop(jnp.broadcast_to(value, eqn.outvar.shape)[0], window)


_RULES = {
    lax.conv_general_dilated_p: _convolution,
    lax.reduce_window_sum_p: _sum_pool,
    lax.add_p: _add,
    lax.mul_p: _scale,
    lax.div_p: _scale,
    lax.neg_p: _negate,
}
