"""Sums, means and extrema over axes."""

from __future__ import annotations

from typing import Any

from jmlv.interop.onnx_reader.node import Call, Node, Result, Same, in_order
from jmlv.interop.onnx_reader.operators.namespace import namespace


def total(x: Any, *, axes: tuple[int, ...], keep: bool) -> Any:
    return x.sum(axes, dtype=x.dtype, keepdims=keep)


def mean(x: Any, *, axes: tuple[int, ...], keep: bool) -> Any:
    return x.mean(axes, dtype=x.dtype, keepdims=keep)


def largest(x: Any, *, axes: tuple[int, ...], keep: bool) -> Any:
    return x.max(axes, keepdims=keep)


def smallest(x: Any, *, axes: tuple[int, ...], keep: bool) -> Any:
    return x.min(axes, keepdims=keep)


def product(x: Any, *, axes: tuple[int, ...], keep: bool) -> Any:
    return x.prod(axes, dtype=x.dtype, keepdims=keep)


def sum_of_magnitudes(x: Any, *, axes: tuple[int, ...], keep: bool) -> Any:
    return abs(x).sum(axes, dtype=x.dtype, keepdims=keep)


def sum_of_squares(x: Any, *, axes: tuple[int, ...], keep: bool) -> Any:
    return namespace(x).square(x).sum(axes, dtype=x.dtype, keepdims=keep)


def length(x: Any, *, axes: tuple[int, ...], keep: bool) -> Any:
    return namespace(x).sqrt(sum_of_squares(x, axes=axes, keep=keep))


UNCHANGED = (total, mean, largest, smallest, product)
"""Of one number each gives that number."""

ATTRIBUTE_UNTIL = {"ReduceSum": 13}
"""The version in which axes became an operand; 18 for all others."""


def _over(function: Any) -> Any:
    def rule(node: Node) -> Result:
        rank = len(node.shape(0))
        axes = node.integers(1, "axes", since=ATTRIBUTE_UNTIL.get(node.kind, 18))
        empty_is_none = node.attribute("noop_with_empty_axes", 0)
        if not axes and empty_is_none and function in UNCHANGED:
            return Same(node.inputs[0])
        every = () if empty_is_none else tuple(range(rank))
        axes = node.axes(axes, rank) if axes else every
        keep = bool(node.attribute("keepdims", 1))
        if not keep:
            return Call(function, node.operands[:1], {"axes": axes, "keep": False})
        return Call(
            function,
            node.operands[:1],
            lambda order: {"axes": in_order(axes, order), "keep": True},
        )

    return rule


RULES = {
    "ReduceSum": _over(total),
    "ReduceMean": _over(mean),
    "ReduceMax": _over(largest),
    "ReduceMin": _over(smallest),
    "ReduceProd": _over(product),
    "ReduceL1": _over(sum_of_magnitudes),
    "ReduceL2": _over(length),
    "ReduceSumSquare": _over(sum_of_squares),
}
