"""Operators whose result is a constant: of the file, or because they are not continuous.

Equality, rounding and the like have a rule for constants only: exporters use them to compute
shapes and masks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from jmlv.interop.onnx_reader.node import Damaged, Node, Refused, Result


def _constant(node: Node) -> Result:
    if len(node.attributes) != 1:
        raise Damaged(f"has {len(node.attributes)} attributes, expected its value")
    ((name, value),) = node.attributes.items()
    if name not in _TYPES:
        raise Refused(name)
    node.irrelevant(name)
    return np.asarray(value, _TYPES[name])


_TYPES = {
    "value": None,
    "value_float": np.float32,
    "value_floats": np.float32,
    "value_int": np.int64,
    "value_ints": np.int64,
}


def _of_shape(node: Node) -> Result:
    value = np.asarray(node.attribute("value", np.zeros(1, np.float32)))
    if value.size != 1:
        raise Damaged(f"has {value.size} values, expected one")
    shape = node.integers(0, "shape")
    return np.full(shape, value.reshape(()), value.dtype)


def _range(node: Node) -> Result:
    start, limit, delta = (node.constant(n, "range").reshape(()) for n in range(3))
    return np.arange(start, limit, delta, start.dtype)


def _folded(function: Callable[..., Any]) -> Callable[[Node], Result]:
    def rule(node: Node) -> Result:
        operands = [node.constant(n, "operand") for n in range(len(node.inputs))]
        return np.asarray(function(*operands))

    return rule


def _modulo(node: Node) -> Result:
    x, y = (node.constant(n, "operand") for n in range(2))
    return np.asarray((np.fmod if node.attribute("fmod", 0) else np.mod)(x, y))


def _triangle(node: Node) -> Result:
    k = node.optional(1, "k")
    part = np.triu if node.attribute("upper", 1) else np.tril
    return part(node.constant(0, "input"), 0 if k is None else int(k.reshape(())))


RULES = {
    "Constant": _constant,
    "ConstantOfShape": _of_shape,
    "Range": _range,
    "Mod": _modulo,
    "Trilu": _triangle,
    "Equal": _folded(np.equal),
    "And": _folded(np.logical_and),
    "Or": _folded(np.logical_or),
    "Xor": _folded(np.logical_xor),
    "Not": _folded(np.logical_not),
    "Floor": _folded(np.floor),
    "Ceil": _folded(np.ceil),
    "Round": _folded(np.round),
    "Sign": _folded(np.sign),
    "NonZero": _folded(lambda x: np.asarray(np.nonzero(x), np.int64)),
}
