"""Pools. Channels are last, as in convolutions."""

from __future__ import annotations

from itertools import product
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from jmlv.interop.onnx_reader.node import Call, Damaged, Node, Result, in_order
from jmlv.interop.onnx_reader.operators.windows import Sliding, sliding


def max_pool(x: Any, *, windows: Sliding) -> Any:
    return lax.reduce_window(x, -jnp.inf, lax.max, **_everywhere(windows))


def average_pool(x: Any, counts: Any, *, windows: Sliding) -> Any:
    """Sums over the windows, each divided by its own count."""
    return lax.reduce_window(x, 0.0, lax.add, **_everywhere(windows)) / counts


def _everywhere(windows: Sliding) -> dict[str, Any]:
    """The parameters for (batch, *spatial, channel)."""
    return {
        "window_dimensions": (1, *windows.size, 1),
        "window_strides": (1, *windows.strides, 1),
        "window_dilation": (1, *windows.dilations, 1),
        "padding": ((0, 0), *windows.padding, (0, 0)),
    }


def average(x: Any, *, axes: tuple[int, ...]) -> Any:
    return x.mean(axes, keepdims=True)


def largest(x: Any, *, axes: tuple[int, ...]) -> Any:
    return x.max(axes, keepdims=True)


def _windows(node: Node) -> Sliding:
    size = node.needed("kernel_shape")
    return sliding(node, size, ceil=bool(node.attribute("ceil_mode", 0)))


def _max(node: Node) -> Result:
    node.require_one_output()
    node.irrelevant("storage_order")
    settings = {"windows": _windows(node)}
    return Call(max_pool, node.operands, settings, channels_last=True, folds=False)


def _average(node: Node) -> Result:
    windows = _windows(node)
    counts = _counts(node.shape(0)[2:], windows, bool(node.attribute("count_include_pad", 0)))
    if (counts == 0).any():
        raise Damaged("has windows that lie in padding alone")
    same = (counts == counts.flat[0]).all()
    counts = counts.reshape(-1)[0] if same else counts[None, ..., None]
    operands = (node.operand(0), np.asarray(counts, np.float32))
    return Call(average_pool, operands, {"windows": windows}, channels_last=True, folds=False)


def _counts(spatial: tuple[int, ...], windows: Sliding, padding: bool) -> np.ndarray:
    """How many entries each window covers: those of the operand, or of its padding too.

    >>> _counts((3,), Sliding((2,), (2,), (1,), ((1, 0),), (0,)), padding=False)
    array([1, 2])
    """
    axes = []
    for n, size, stride, dilation, pads, more in zip(
        spatial, windows.size, windows.strides, windows.dilations, windows.pads, windows.beyond
    ):
        low, high = pads
        extent = (size - 1) * dilation + 1
        starts = np.arange(-low, n + high + more - extent + 1, stride)
        places = starts[:, None] + dilation * np.arange(size)
        inside = (places >= (-low if padding else 0)) & (places < (n + high if padding else n))
        axes.append(inside.sum(1))
    return np.array([np.prod(each) for each in product(*axes)]).reshape([len(a) for a in axes])


def _whole(function: Any) -> Any:
    def rule(node: Node) -> Result:
        axes = tuple(range(2, len(node.shape(0))))
        return Call(
            function, node.operands, lambda order: {"axes": in_order(axes, order)}, folds=False
        )

    return rule


RULES = {
    "MaxPool": _max,
    "AveragePool": _average,
    "GlobalMaxPool": _whole(largest),
    "GlobalAveragePool": _whole(average),
}
