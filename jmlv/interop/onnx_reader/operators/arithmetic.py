"""Arithmetic and comparisons on every entry, and conversions of type."""

from __future__ import annotations

from functools import reduce
from typing import Any

import numpy as np

from jmlv.interop.onnx_reader.node import (
    Call,
    Damaged,
    Fixed,
    Node,
    Refused,
    Result,
    Same,
    is_float,
    is_half,
)
from jmlv.interop.onnx_reader.operators.namespace import namespace


def add(*terms: Any) -> Any:
    return reduce(lambda x, y: x + y, terms)


def subtract(x: Any, y: Any) -> Any:
    return x - y


def multiply(x: Any, y: Any) -> Any:
    return x * y


def divide(x: Any, y: Any) -> Any:
    """A quotient; that of integers is cut off towards zero."""
    if x.dtype.kind not in "iu":
        return x / y
    if np.any(y == 0):
        raise Damaged("divides an integer by zero")
    quotient = np.abs(x) // np.abs(y)
    return np.sign(x) * np.sign(y) * quotient


def mean(*terms: Any) -> Any:
    return add(*terms) / np.asarray(len(terms), terms[0].dtype)


def minimum(*terms: Any) -> Any:
    return reduce(namespace(*terms).minimum, terms)


def maximum(*terms: Any) -> Any:
    return reduce(namespace(*terms).maximum, terms)


def negate(x: Any) -> Any:
    return -x


def absolute(x: Any) -> Any:
    return abs(x)


def square_root(x: Any) -> Any:
    return namespace(x).sqrt(x)


def exponential(x: Any) -> Any:
    return namespace(x).exp(x)


def logarithm(x: Any) -> Any:
    return namespace(x).log(x)


def reciprocal(x: Any) -> Any:
    return np.ones((), x.dtype) / x


def sine(x: Any) -> Any:
    return namespace(x).sin(x)


def cosine(x: Any) -> Any:
    return namespace(x).cos(x)


def square(x: Any) -> Any:
    return x * x if isinstance(x, np.ndarray) else namespace(x).square(x)


def integer_power(x: Any, *, exponent: int) -> Any:
    return x**exponent


def power(x: Any, y: Any) -> Any:
    return namespace(x, y).power(x, y)


def clip(x: Any, *, low: float, high: float) -> Any:
    """``min(max(x, low), high)``; an infinite end is none."""
    if low != -np.inf:
        x = namespace(x).maximum(x, np.asarray(low, x.dtype))
    if high != np.inf:
        x = namespace(x).minimum(x, np.asarray(high, x.dtype))
    return x


def convert(x: Any, *, dtype: str) -> Any:
    return x.astype(dtype)


def choose(x: Any, y: Any, *, where: Fixed) -> Any:
    return namespace(x, y).where(where.values, x, y)


def choose_computed(where: Any, x: Any, y: Any) -> Any:
    return namespace(where, x, y).where(where, x, y)


def greater(x: Any, y: Any) -> Any:
    return x > y


def greater_or_equal(x: Any, y: Any) -> Any:
    return x >= y


def less(x: Any, y: Any) -> Any:
    return x < y


def less_or_equal(x: Any, y: Any) -> Any:
    return x <= y


def _entrywise(function: Any) -> Any:
    return lambda node: node.elementwise(function)


def _power(node: Node) -> Result:
    """A constant exponent is part of the operation."""
    exponent = node.constants[node.inputs[1]] if node.is_constant(1) else None
    if node.is_constant(0) or exponent is None or exponent.size != 1:
        return node.elementwise(power)
    if exponent.ndim > len(node.shape(0)):
        return node.elementwise(power)
    number = float(exponent.reshape(()))
    if number == 1:
        return Same(node.inputs[0])
    function, settings = _of_exponent(number)
    if function is None:
        return node.elementwise(power)
    return Call(function, node.operands[:1], lambda order: settings)


def _of_exponent(number: float) -> tuple[Any, dict[str, Any]]:
    if number == 2:
        return square, {}
    if number == 0.5:
        return square_root, {}
    if number.is_integer() and abs(number) < 100:
        return integer_power, {"exponent": int(number)}
    return None, {}


def _clip(node: Node) -> Result:
    low = node.number(1, "min", -np.inf, since=11)
    high = node.number(2, "max", np.inf, since=11)
    if np.isnan(low) or np.isnan(high):
        raise Damaged("clips at NaN")
    settings = {"low": low, "high": high}
    return Call(clip, node.operands[:1], lambda order: settings)


def _cast(node: Node) -> Result:
    node.irrelevant("saturate", "round_mode")
    return _converted(node, node.needed("to"))


def _cast_like(node: Node) -> Result:
    node.irrelevant("saturate", "round_mode")
    if node.is_constant(1):
        return _converted(node, node.constant(1, "target").dtype)
    if node.inputs[1] in node.truths:
        raise Refused("a conversion to truth values")
    if node.is_constant(0):  # to the network's own precision, which holds it as it is
        number = node.constant(0, "input")
        return number if is_float(number.dtype) else number.astype(np.float32)
    return _converted(node, np.dtype(np.float32))


def _converted(node: Node, dtype: np.dtype) -> Result:
    """Constants are converted; a computed number stays the number that it is.

    How numbers are rounded to types of eight bits is not asked: those are refused.
    """
    if not is_float(dtype) and dtype.kind not in "iub":
        raise Refused(f"a conversion to {dtype}")
    if node.is_constant(0):
        return node.constant(0, "input").astype(dtype)
    if not is_float(dtype) or node.inputs[0] in node.truths:
        raise Refused(f"a computed value becomes {dtype}")
    if is_half(dtype) and not node.widen:
        raise Refused(f"computed values are rounded to {dtype}; widen=True leaves that out")
    return Same(node.inputs[0])


def _where(node: Node) -> Result:
    if not node.is_constant(0):
        return node.elementwise(choose_computed)
    condition = np.asarray(node.constant(0, "condition"), bool)

    def settings(order: tuple[int, ...]) -> dict[str, Any]:
        longer = condition.reshape((1,) * (len(order) - condition.ndim) + condition.shape)
        return {"where": Fixed(longer.transpose(order))}

    if condition.ndim > max(len(node.shape(1)), len(node.shape(2))):
        return Call(choose, node.operands[1:], {"where": Fixed(condition)})
    return Call(choose, node.operands[1:], settings)


def _same(node: Node) -> Result:
    return Same(node.inputs[0])


def _dropout(node: Node) -> Result:
    """Nothing at inference."""
    node.irrelevant("ratio", "seed")
    node.require_one_output()
    training = node.optional(2, "training_mode") if node.opset >= 12 else None
    if training is not None and training.any():
        raise Refused("training_mode=1")
    return Same(node.inputs[0])


RULES = {
    "Add": _entrywise(add),
    "Sub": _entrywise(subtract),
    "Mul": _entrywise(multiply),
    "Div": _entrywise(divide),
    "Sum": _entrywise(add),
    "Mean": _entrywise(mean),
    "Min": _entrywise(minimum),
    "Max": _entrywise(maximum),
    "Neg": _entrywise(negate),
    "Abs": _entrywise(absolute),
    "Sqrt": _entrywise(square_root),
    "Exp": _entrywise(exponential),
    "Log": _entrywise(logarithm),
    "Reciprocal": _entrywise(reciprocal),
    "Sin": _entrywise(sine),
    "Cos": _entrywise(cosine),
    "Greater": _entrywise(greater),
    "GreaterOrEqual": _entrywise(greater_or_equal),
    "Less": _entrywise(less),
    "LessOrEqual": _entrywise(less_or_equal),
    "Pow": _power,
    "Clip": _clip,
    "Where": _where,
    "Cast": _cast,
    "CastLike": _cast_like,
    "Identity": _same,
    "Dropout": _dropout,
}
