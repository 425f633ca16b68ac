"""Operators that keep every entry and change its place."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from jmlv.interop.onnx_reader.node import Call, Damaged, Node, Result, Same
from jmlv.interop.onnx_reader.operators.namespace import namespace


def reshape(x: Any, *, shape: tuple[int, ...]) -> Any:
    return x.reshape(shape)


def expand(x: Any, *, shape: tuple[int, ...]) -> Any:
    return namespace(x).broadcast_to(x, shape)


def rearrange(
    x: Any, *, split: tuple[int, ...], order: tuple[int, ...], shape: tuple[int, ...]
) -> Any:
    """Splits axes, reorders them and puts them together."""
    return x.reshape(split).transpose(order).reshape(shape)


def _to(node: Node, shape: tuple[int, ...]) -> Result:
    if node.shape(0) == shape:
        return Same(node.inputs[0])
    return Call(reshape, node.operands[:1], {"shape": shape})


def _reshape(node: Node) -> Result:
    before, wanted = node.shape(0), node.integers(1, "shape", since=5)
    if not node.attribute("allowzero", 0):
        if any(n == 0 and i >= len(before) for i, n in enumerate(wanted)):
            raise Damaged(f"keeps axes of {before} that it does not have: {wanted}")
        wanted = tuple(before[i] if n == 0 else n for i, n in enumerate(wanted))
    known = math.prod(n for n in wanted if n != -1)
    size = math.prod(before)
    if wanted.count(-1) > 1 or (-1 in wanted and (known == 0 or size % known)):
        raise Damaged(f"reshapes {before} to {wanted}")
    shape = tuple(size // known if n == -1 else n for n in wanted)
    if math.prod(shape) != size:
        raise Damaged(f"reshapes {before} to {wanted}, which has another size")
    return _to(node, shape)


def _flatten(node: Node) -> Result:
    shape = node.shape(0)
    axis = node.attribute("axis", 1)
    first = axis if axis == len(shape) else node.axis(axis, len(shape))
    return _to(node, (math.prod(shape[:first]), math.prod(shape[first:])))


def _squeeze(node: Node) -> Result:
    shape, axes = node.shape(0), node.integers(1, "axes", since=13)
    if axes is None:
        return _to(node, tuple(n for n in shape if n != 1))
    axes = node.axes(axes, len(shape))
    if any(shape[axis] != 1 for axis in axes):
        raise Damaged(f"drops axes {axes} of {shape}, which are longer than one")
    return _to(node, tuple(n for i, n in enumerate(shape) if i not in axes))


def _unsqueeze(node: Node) -> Result:
    shape, axes = node.shape(0), node.integers(1, "axes", since=13)
    if axes is None:
        raise Damaged("has no axes")
    places = node.axes(axes, len(shape) + len(axes))
    left = iter(shape)
    return _to(node, tuple(1 if i in places else next(left) for i in range(len(shape) + len(axes))))


def _transpose(node: Node) -> Result:
    rank = len(node.shape(0))
    order = node.attribute("perm", tuple(reversed(range(rank))))
    if sorted(order) != list(range(rank)):
        raise Damaged(f"reorders axes by {order}, its operand has {rank}")
    return Same(node.inputs[0], tuple(order))


def _expand(node: Node) -> Result:
    shape = np.broadcast_shapes(node.shape(0), node.integers(1, "shape"))
    return Same(node.inputs[0]) if shape == node.shape(0) else _broadcast(node, shape)


def _broadcast(node: Node, shape: tuple[int, ...]) -> Result:
    return Call(expand, node.operands[:1], {"shape": tuple(map(int, shape))})


def _depth_to_space(node: Node) -> Result:
    batch, channels, height, width = _image(node)
    block = node.needed("blocksize")
    each = channels // block**2
    first = node.choice("mode", "DCR", "CRD") == "DCR"
    split = (batch, block, block, each) if first else (batch, each, block, block)
    order = (0, 3, 4, 1, 5, 2) if first else (0, 1, 4, 2, 5, 3)
    settings = {
        "split": (*split, height, width),
        "order": order,
        "shape": (batch, each, height * block, width * block),
    }
    return Call(rearrange, node.operands, settings)


def _space_to_depth(node: Node) -> Result:
    batch, channels, height, width = _image(node)
    block = node.needed("blocksize")
    high, wide = height // block, width // block
    settings = {
        "split": (batch, channels, high, block, wide, block),
        "order": (0, 3, 5, 1, 2, 4),
        "shape": (batch, channels * block**2, high, wide),
    }
    return Call(rearrange, node.operands, settings)


def _image(node: Node) -> tuple[int, ...]:
    if len(node.shape(0)) != 4:
        raise Damaged(f"reads an operand {node.shape(0)}, expected four axes")
    return node.shape(0)


def _shape(node: Node) -> Result:
    shape = node.shape(0)
    start, end = node.attribute("start", 0), node.attribute("end", len(shape))
    return np.asarray(shape[start:end], np.int64)


def _size(node: Node) -> Result:
    return np.asarray(math.prod(node.shape(0)), np.int64)


RULES = {
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Transpose": _transpose,
    "Expand": _expand,
    "DepthToSpace": _depth_to_space,
    "SpaceToDepth": _space_to_depth,
    "Shape": _shape,
    "Size": _size,
}
