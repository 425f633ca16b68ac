"""Operators that take entries, put values together, or repeat them."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from jmlv.interop.onnx_reader.node import Call, Damaged, Fixed, Node, Refused, Result, Same
from jmlv.interop.onnx_reader.operators.namespace import namespace


def concatenate(*parts: Any, axis: int) -> Any:
    return namespace(*parts).concatenate(parts, axis)


def split(x: Any, *, sizes: tuple[int, ...], axis: int) -> tuple[Any, ...]:
    return tuple(namespace(x).split(x, np.cumsum(sizes)[:-1], axis))


def cut(
    x: Any, *, starts: tuple[int, ...], limits: tuple[int, ...], strides: tuple[int, ...],
    turned: tuple[int, ...] = (), dropped: tuple[int, ...] = (),
) -> Any:  # fmt: skip
    """A slice; then some axes are turned round, and some of length one are dropped."""
    if isinstance(x, np.ndarray):
        part = x[tuple(map(slice, starts, limits, strides))]
        return np.squeeze(np.flip(part, turned), dropped)
    part = lax.slice(x, starts, limits, strides)
    part = lax.rev(part, turned) if turned else part
    return lax.squeeze(part, dropped) if dropped else part


def gather(x: Any, *, indices: Fixed, axis: int) -> Any:
    if isinstance(x, np.ndarray):
        return np.take(x, indices.values, axis)
    return jnp.take(x, jnp.asarray(indices.values, jnp.int32), axis, mode="clip")


def pad(x: Any, *, pads: tuple[tuple[int, int], ...], value: float, mode: str) -> Any:
    """Padding by a number or by the operand's own entries; a negative one cuts off."""
    if mode != "constant":
        return namespace(x).pad(x, pads, mode)
    if not isinstance(x, np.ndarray):
        return lax.pad(x, np.asarray(value, x.dtype), [(low, high, 0) for low, high in pads])
    x = x[tuple(slice(max(-low, 0), n + min(high, 0)) for n, (low, high) in zip(x.shape, pads))]
    more = [(max(low, 0), max(high, 0)) for low, high in pads]
    return np.pad(x, more, constant_values=np.asarray(value, x.dtype))


def tile(x: Any, *, repeats: tuple[int, ...]) -> Any:
    return namespace(x).tile(x, repeats)


def cumulative_sum(x: Any, *, axis: int, exclusive: bool, reverse: bool) -> Any:
    xp = namespace(x)
    x = xp.flip(x, axis) if reverse else x
    total = xp.cumsum(x, axis, dtype=x.dtype)
    if exclusive:
        total = total - x
    return xp.flip(total, axis) if reverse else total


def _concat(node: Node) -> Result:
    axis = node.axis(node.needed("axis"), len(node.shape(0)))
    if any(len(node.shape(n)) != len(node.shape(0)) for n in range(len(node.inputs))):
        raise Damaged("joins operands of different rank")
    return Call(concatenate, node.operands, lambda order: {"axis": order.index(axis)})


def _split(node: Node) -> Result:
    shape = node.shape(0)
    axis = node.axis(node.attribute("axis", 0), len(shape))
    sizes = node.integers(1, "split", since=13)
    count = len(node.outputs)
    if sizes is None:
        if node.attribute("num_outputs", count) != count:
            raise Damaged(f"has {count} outputs, not num_outputs")
        each = -(-shape[axis] // count)
        sizes = (each,) * (count - 1) + (shape[axis] - each * (count - 1),)
    if sum(sizes) != shape[axis] or min(sizes) < 0 or len(sizes) != count:
        raise Damaged(f"splits axis {axis} of {shape} into {sizes}")
    return Call(split, node.operands[:1], lambda order: {"sizes": sizes, "axis": order.index(axis)})


def _split_to_sequence(node: Node) -> Result:
    """Pieces of one size, the last perhaps smaller, or of sizes that are given."""
    shape = node.shape(0)
    axis = node.axis(node.attribute("axis", 0), len(shape))
    node.irrelevant("keepdims")
    if not node.has(1):
        raise Refused("no sizes")
    given = node.constant(1, "split")
    sizes = tuple(map(int, np.ravel(given)))
    if given.ndim == 0:
        (each,) = sizes
        sizes = tuple(min(each, shape[axis] - begin) for begin in range(0, shape[axis], each))
    if sum(sizes) != shape[axis]:
        raise Damaged(f"splits axis {axis} of {shape} into {sizes}")
    return Call(
        split,
        node.operands[:1],
        lambda order: {"sizes": sizes, "axis": order.index(axis)},
        sequence=True,
    )


def _sequence_at(node: Node) -> Result:
    members = node.sequences[node.inputs[0]]
    return Same(members[int(node.constant(1, "position").reshape(()))])


def _slice(node: Node) -> Result:
    shape = node.shape(0)
    starts, ends = (node.integers(n, name, since=10) for n, name in ((1, "starts"), (2, "ends")))
    axes = node.integers(3, "axes", tuple(range(len(starts))), since=10)
    steps = node.integers(4, "steps", (1,) * len(starts)) if node.opset >= 10 else None
    steps = (1,) * len(starts) if steps is None else steps
    axes = node.axes(axes, len(shape))
    if not len(starts) == len(ends) == len(axes) == len(steps) or 0 in steps:
        raise Damaged(f"has starts {starts}, ends {ends}, axes {axes} and steps {steps}")
    ranges = [range(n) for n in shape]
    for axis, start, end, step in zip(axes, starts, ends, steps):
        ranges[axis] = _clamped(shape[axis], start, end, step)
    return _ranges(node, ranges)


def _clamped(size: int, start: int, end: int, step: int) -> range:
    """The entries of a slice. Going back, a start before the first entry is the first.

    >>> list(_clamped(3, -9, -9, -1)), list(range(3)[-9:-9:-1])
    ([0], [])
    """
    low, most = (0, size) if step > 0 else (-1, size - 1)
    start, end = (n + size if n < 0 else n for n in (start, end))
    return range(min(max(start, 0), most), min(max(end, low), most), step)


def _ranges(node: Node, ranges: list[range], dropped: tuple[int, ...] = ()) -> Result:
    """One arithmetic progression of entries along each axis."""
    if not dropped and all(r == range(n) for r, n in zip(ranges, node.shape(0))):
        return Same(node.inputs[0])
    turned = tuple(axis for axis, r in enumerate(ranges) if r.step < 0 and len(r) > 0)
    forward = [r[::-1] if axis in turned else r for axis, r in enumerate(ranges)]
    settings = {
        "starts": tuple(r.start if len(r) else 0 for r in forward),
        "limits": tuple(r[-1] + 1 if len(r) else 0 for r in forward),
        "strides": tuple(abs(r.step) for r in forward),
        "turned": turned,
        "dropped": dropped,
    }
    return Call(cut, node.operands[:1], settings)


def _gather(node: Node) -> Result:
    shape = node.shape(0)
    axis = node.axis(node.attribute("axis", 0), len(shape))
    indices = node.constant(1, "indices").astype(np.int64)
    if ((indices < -shape[axis]) | (indices >= shape[axis])).any():
        raise Damaged(f"takes entries beyond axis {axis} of {shape}")
    indices = indices % max(shape[axis], 1)
    run = _progression(indices)
    if run is not None:
        ranges = [range(n) for n in shape]
        ranges[axis] = run
        return _ranges(node, ranges, (axis,) if indices.ndim == 0 else ())
    if node.is_constant(0) or indices.ndim != 1:
        return Call(gather, node.operands[:1], {"indices": Fixed(indices), "axis": axis})
    return Call(
        gather,
        node.operands[:1],
        lambda order: {"indices": Fixed(indices), "axis": order.index(axis)},
    )


def _progression(indices: np.ndarray) -> range | None:
    """The indices as one arithmetic progression, if they are one."""
    steps = set(np.diff(indices.ravel()).tolist())
    if indices.ndim > 1 or not indices.size or len(steps) > 1 or 0 in steps:
        return None
    first, step = int(indices.flat[0]), next(iter(steps), 1)
    return range(first, first + step * indices.size, step)


def _pad(node: Node) -> Result:
    shape = node.shape(0)
    mode = node.choice("mode", "constant", "reflect", "edge", "wrap")
    pads = node.integers(1, "pads", since=11)
    value = node.number(2, "value", 0.0, since=11)
    axes = node.integers(3, "axes") if node.opset >= 18 else None
    axes = tuple(range(len(shape))) if axes is None else node.axes(axes, len(shape))
    if pads is None or len(pads) != 2 * len(axes):
        raise Damaged(f"has pads {pads} for axes {axes}")
    if mode != "constant" and min(pads) < 0:
        raise Refused(f"mode={mode} with pads {pads}")
    every = dict(zip(axes, zip(pads[: len(axes)], pads[len(axes) :])))
    both = [every.get(axis, (0, 0)) for axis in range(len(shape))]
    if any(n + low + high < 0 for n, (low, high) in zip(shape, both)):
        raise Damaged(f"cuts off more of {shape} than there is: {pads}")
    if not any(map(any, both)):
        return Same(node.inputs[0])
    return Call(
        pad,
        node.operands[:1],
        lambda order: {"pads": tuple(both[axis] for axis in order), "value": value, "mode": mode},
    )


def _tile(node: Node) -> Result:
    repeats = node.integers(1, "repeats", since=6)
    if len(repeats) != len(node.shape(0)) or min(repeats, default=1) < 0:
        raise Damaged(f"has repeats {repeats} for an operand {node.shape(0)}")
    return Call(
        tile,
        node.operands[:1],
        lambda order: {"repeats": tuple(repeats[axis] for axis in order)},
    )


def _cumulative_sum(node: Node) -> Result:
    axis = node.axis(int(node.constant(1, "axis").reshape(())), len(node.shape(0)))
    exclusive, reverse = (bool(node.attribute(name, 0)) for name in ("exclusive", "reverse"))
    return Call(
        cumulative_sum,
        node.operands[:1],
        lambda order: {"axis": order.index(axis), "exclusive": exclusive, "reverse": reverse},
    )


RULES = {
    "Concat": _concat,
    "Split": _split,
    "SplitToSequence": _split_to_sequence,
    "SequenceAt": _sequence_at,
    "Slice": _slice,
    "Gather": _gather,
    "Pad": _pad,
    "Tile": _tile,
    "CumSum": _cumulative_sum,
}
