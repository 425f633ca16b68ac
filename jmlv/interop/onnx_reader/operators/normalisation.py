"""Normalisation, by constants (batch norm) and by what is computed."""

from __future__ import annotations

from typing import Any

import numpy as np
from jax import lax

from jmlv.interop.onnx_reader.node import Call, Damaged, Node, Refused, Result


def shift_and_scale(x: Any, mean: Any, factor: Any, bias: Any) -> Any:
    return (x - mean) * factor + bias


def normalise(
    x: Any, scale: Any, bias: Any = None, *, axes: tuple[int, ...], epsilon: float
) -> Any:
    """``(x - mean) / sqrt(variance + epsilon) * scale + bias`` over some axes."""
    centred = x - x.mean(axes, keepdims=True)
    variance = (centred * centred).mean(axes, keepdims=True)
    result = centred * lax.rsqrt(variance + epsilon) * scale
    return result if bias is None else result + bias


def _batch(node: Node) -> Result:
    """At inference: means and variances are constants. It is not folded into other weights."""
    node.irrelevant("momentum")
    node.require_one_output()
    node.choice("training_mode", 0)
    node.choice("spatial", 1)
    epsilon = node.attribute("epsilon", 1e-5)
    names = ("scale", "bias", "mean", "variance")
    scale, bias, mean, variance = (node.constant(n, name) for n, name in enumerate(names, 1))
    channels = node.shape(0)[1:2]
    if any(value.shape != channels for value in (scale, bias, mean, variance)):
        raise Damaged(f"has statistics {scale.shape} for an operand {node.shape(0)}")
    if not (variance + variance.dtype.type(epsilon) > 0).all():
        raise Damaged("has a variance that is not positive")
    factor = scale / np.sqrt(variance + variance.dtype.type(epsilon))
    operands = (node.operand(0), mean, factor, bias)
    return Call(shift_and_scale, operands, {}, channels_last=True, folds=False)


def _layer(node: Node) -> Result:
    node.require_one_output()
    node.choice("stash_type", 1)
    rank = len(node.shape(0))
    axes = tuple(range(node.axis(node.attribute("axis", -1), rank), rank))
    settings = {"axes": axes, "epsilon": float(node.attribute("epsilon", 1e-5))}
    return Call(normalise, node.operands, settings, folds=False)


def _instance(node: Node) -> Result:
    spatial = len(node.shape(0)) - 2
    if spatial < 1:
        raise Refused(f"an operand {node.shape(0)} without spatial axes")
    scale, bias = (node.constant(n, name) for n, name in ((1, "scale"), (2, "bias")))
    settings = {
        "axes": tuple(range(1, spatial + 1)),
        "epsilon": float(node.attribute("epsilon", 1e-5)),
    }
    operands = (node.operand(0), scale, bias)
    return Call(normalise, operands, settings, channels_last=True, folds=False)


RULES = {
    "BatchNormalization": _batch,
    "LayerNormalization": _layer,
    "InstanceNormalization": _instance,
}
