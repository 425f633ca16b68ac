"""Resizing by the nearest entry or by linear interpolation: constant linear maps along axes."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from jmlv.interop.onnx_reader.node import Call, Damaged, Fixed, Node, Refused, Result, Same
from jmlv.interop.onnx_reader.operators.products import HIGHEST


def nearest(x: Any, *, indices: tuple[tuple[int, Fixed], ...]) -> Any:
    """Takes entries along each axis; whole multiples are repeated."""
    for axis, taken in indices:
        times = len(taken.values) // x.shape[axis]
        repeated = np.repeat(np.arange(x.shape[axis]), times)
        if np.array_equal(repeated, taken.values):
            x = jnp.repeat(x, times, axis)
        else:
            x = jnp.take(x, jnp.asarray(taken.values, jnp.int32), axis, mode="clip")
    return x


def interpolate(x: Any, *matrices: Any, axes: tuple[int, ...]) -> Any:
    """Multiplies each axis by a matrix (new, old)."""
    for axis, matrix in zip(axes, matrices):
        moved = jnp.matmul(jnp.moveaxis(x, axis, -1), matrix.T, precision=HIGHEST)
        x = jnp.moveaxis(moved, -1, axis)
    return x


def _resize(node: Node) -> Result:
    shape = node.shape(0)
    mode = node.choice(
        "mode", "nearest", "linear", *(["bilinear"] if node.kind == "Upsample" else [])
    )
    for name in ("antialias", "exclude_outside"):
        node.choice(name, 0)
    node.irrelevant("cubic_coeff_a", "extrapolation_value")
    axes = node.axes(node.attribute("axes", tuple(range(len(shape)))), len(shape))
    sizes, scales = _sizes(node, shape, axes)
    if node.opset < 11:
        space, rounding = "asymmetric", "floor"
        _require_unambiguous(mode, shape, axes, sizes, scales)
    else:
        space = node.choice("coordinate_transformation_mode", "half_pixel", *SPACES)
        rounding = node.choice("nearest_mode", "round_prefer_floor", *ROUNDINGS)
    places = {
        axis: _places(shape[axis], size, scale, space)
        for axis, size, scale in zip(axes, sizes, scales)
        if size != shape[axis] or scale != 1
    }
    if not places:
        return Same(node.inputs[0])
    return (_nearest if mode == "nearest" else _linear)(node, places, rounding)


def _require_unambiguous(mode: str, shape: tuple, axes: tuple, sizes: tuple, scales: tuple) -> None:
    """Before version 11 nobody said which entry is nearest; shrinking, some take the next one."""
    for axis, size, scale in zip(axes, sizes, scales):
        places = _places(shape[axis], size, scale, "asymmetric")
        if mode == "nearest" and scale < 1 and (places != np.floor(places)).any():
            raise Refused(
                f"shrinking by {scale:g} to the nearest entry (before version 11 it is not said "
                "which; export with opset 11 or later)"
            )


def _nearest(node: Node, places: dict[int, np.ndarray], rounding: str) -> Result:
    shape = node.shape(0)
    taken = {
        axis: Fixed(np.clip(ROUNDINGS[rounding](place), 0, shape[axis] - 1).astype(np.int64))
        for axis, place in places.items()
    }
    return Call(
        nearest,
        node.operands[:1],
        lambda order: {"indices": tuple((order.index(a), taken[a]) for a in taken)},
        folds=False,
    )


def _linear(node: Node, places: dict[int, np.ndarray], rounding: str) -> Result:
    shape = node.shape(0)
    matrices = [_matrix(place, shape[axis]) for axis, place in places.items()]
    settings = {"axes": tuple(places)}
    return Call(interpolate, (node.operand(0), *matrices), settings, folds=False)


def _matrix(places: np.ndarray, size: int) -> np.ndarray:
    """The weights of the two neighbours of each place; beyond the ends, of the last entry."""
    places = np.clip(places, 0, size - 1)
    low = np.floor(places).astype(int)
    high = np.minimum(low + 1, size - 1)
    matrix = np.zeros((len(places), size), np.float32)
    rows = np.arange(len(places))
    np.add.at(matrix, (rows, low), (1 - (places - low)).astype(np.float32))
    np.add.at(matrix, (rows, high), (places - low).astype(np.float32))
    return matrix


def _sizes(
    node: Node, shape: tuple[int, ...], axes: tuple[int, ...]
) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """The new size of each of the axes, and by how much it is larger."""
    if node.opset >= 11:
        scales, sizes = node.optional(2, "scales"), node.optional(3, "sizes")
        node.choice("keep_aspect_ratio_policy", "stretch")
    elif node.opset >= 9:
        scales, sizes = node.constant(1, "scales"), None
    else:
        scales, sizes = np.asarray(node.needed("scales"), np.float32), None
    before = [shape[axis] for axis in axes]
    if scales is not None and scales.size:
        scales = tuple(map(float, scales.ravel()))
        sizes = tuple(int(np.floor(n * s)) for n, s in zip(before, scales))
    elif sizes is not None and sizes.size:
        sizes = tuple(map(int, sizes.ravel()))
        scales = tuple(size / n for size, n in zip(sizes, before))
    else:
        raise Damaged("has neither scales nor sizes")
    if len(sizes) != len(axes) or len(scales) != len(axes) or min(sizes) < 1:
        raise Damaged(f"resizes axes {axes} of {shape} to {sizes}")
    return sizes, scales


def _places(size: int, new: int, scale: float, space: str) -> np.ndarray:
    """Where each new entry lies among the old ones.

    ONNX's reference evaluators compute it in float32, and so is it here: a rounding to the nearest
    entry may depend on it.
    """
    x = np.arange(new, dtype=np.float32)
    scale32 = np.float32(scale)
    half = np.float32(0.5)
    if space == "asymmetric":
        return x / scale32
    if space == "align_corners":
        return x * np.float32(size - 1) / np.float32(new - 1) if new > 1 else 0 * x
    if space == "half_pixel_symmetric":
        adjustment = np.float32(new) / (scale32 * np.float32(size))
        centre = np.float32(size) * half
        return centre * (1 - adjustment) + (x + half) / scale32 - half
    if space == "pytorch_half_pixel" and new == 1:
        return 0 * x
    return (x + half) / scale32 - half


SPACES = (
    "half_pixel",
    "asymmetric",
    "align_corners",
    "pytorch_half_pixel",
    "half_pixel_symmetric",
)

ROUNDINGS = {
    "round_prefer_floor": lambda x: np.ceil(x - np.float32(0.5)),
    "round_prefer_ceil": lambda x: np.floor(x + np.float32(0.5)),
    "floor": np.floor,
    "ceil": np.ceil,
}

RULES = {"Resize": _resize, "Upsample": _resize}
