"""Activations. Each is written as JAX's own function, by which a graph knows it."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jmlv.interop.onnx_reader.node import Call, Node, Result, in_order

ALPHA_OF_SELU, GAMMA_OF_SELU = 1.67326319217681884765625, 1.05070102214813232421875
"""ONNX's defaults: the constants in float32."""


def relu(x: Any) -> Any:
    return jax.nn.relu(x)


def leaky_relu(x: Any, *, alpha: float) -> Any:
    return jax.nn.leaky_relu(x, alpha)


def parametric_relu(x: Any, slope: Any) -> Any:
    return jnp.where(x >= 0, x, slope * x)


def elu(x: Any, *, alpha: float) -> Any:
    return jax.nn.elu(x, alpha)


def selu(x: Any, *, alpha: float, gamma: float) -> Any:
    return gamma * jax.nn.elu(x, alpha)


def celu(x: Any, *, alpha: float) -> Any:
    return jax.nn.celu(x, alpha)


def hard_sigmoid(x: Any, *, alpha: float, beta: float) -> Any:
    return jnp.minimum(jnp.maximum(alpha * x + beta, 0), 1)


def hard_swish(x: Any) -> Any:
    return jax.nn.hard_swish(x)


def sigmoid(x: Any) -> Any:
    return jax.nn.sigmoid(x)


def tanh(x: Any) -> Any:
    return jnp.tanh(x)


def softplus(x: Any) -> Any:
    return jax.nn.softplus(x)


def softsign(x: Any) -> Any:
    return x / (1 + jnp.abs(x))


def gelu(x: Any, *, approximate: bool) -> Any:
    return jax.nn.gelu(x, approximate=approximate)


def swish(x: Any, *, alpha: float) -> Any:
    return x * jax.nn.sigmoid(x if alpha == 1 else alpha * x)


def mish(x: Any) -> Any:
    return x * jnp.tanh(jax.nn.softplus(x))


def erf(x: Any) -> Any:
    return jax.lax.erf(x)


def softmax(x: Any, *, axis: tuple[int, ...]) -> Any:
    return jax.nn.softmax(x, axis)


def log_softmax(x: Any, *, axis: tuple[int, ...]) -> Any:
    return jax.nn.log_softmax(x, axis)


def _plain(function: Any) -> Any:
    return lambda node: node.elementwise(function, folds=False)


def _with(function: Any, **defaults: float) -> Any:
    """A rule of a function with attributes that are numbers."""

    def rule(node: Node) -> Result:
        settings = {name: float(node.attribute(name, value)) for name, value in defaults.items()}
        return node.elementwise(function, folds=False, **settings)

    return rule


def _gelu(node: Node) -> Result:
    approximate = node.choice("approximate", "none", "tanh") == "tanh"
    return node.elementwise(gelu, folds=False, approximate=approximate)


def _over_axis(function: Any) -> Any:
    """Before version 13 the function is over all axes from one on, which are taken as one."""

    def rule(node: Node) -> Result:
        rank = len(node.shape(0))
        axis = node.attribute("axis", -1 if node.opset >= 13 else 1)
        first = rank if axis == rank and node.opset < 13 else node.axis(axis, rank)
        axes = (first,) if node.opset >= 13 else tuple(range(first, rank))
        return Call(
            function,
            node.operands,
            lambda order: {"axis": in_order(axes, order)},
            folds=False,
        )

    return rule


RULES = {
    "Relu": _plain(relu),
    "LeakyRelu": _with(leaky_relu, alpha=0.01),
    "PRelu": _plain(parametric_relu),
    "Elu": _with(elu, alpha=1.0),
    "Selu": _with(selu, alpha=ALPHA_OF_SELU, gamma=GAMMA_OF_SELU),
    "Celu": _with(celu, alpha=1.0),
    "HardSigmoid": _with(hard_sigmoid, alpha=0.2, beta=0.5),
    "HardSwish": _plain(hard_swish),
    "Sigmoid": _plain(sigmoid),
    "Tanh": _plain(tanh),
    "Softplus": _plain(softplus),
    "Softsign": _plain(softsign),
    "Gelu": _gelu,
    "Swish": _with(swish, alpha=1.0),
    "Mish": _plain(mish),
    "Erf": _plain(erf),
    "Softmax": _over_axis(softmax),
    "LogSoftmax": _over_axis(log_softmax),
}
