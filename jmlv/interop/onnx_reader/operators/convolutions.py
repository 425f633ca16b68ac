"""Convolutions. Channels are last, which bounds keep as windows; kernels are transposed once."""

from __future__ import annotations

from typing import Any

import numpy as np
from jax import lax

from jmlv.interop.onnx_reader.node import Call, Damaged, Node, Refused, Result
from jmlv.interop.onnx_reader.operators.products import HIGHEST
from jmlv.interop.onnx_reader.operators.windows import explicit_pads, per_axis, sliding, split_total

LAYOUTS = {
    3: ("NWC", "WIO", "NWC"),
    4: ("NHWC", "HWIO", "NHWC"),
    5: ("NDHWC", "DHWIO", "NDHWC"),
}


def convolve(
    x: Any,
    kernel: Any,
    bias: Any = None,
    *,
    strides: tuple[int, ...],
    padding: tuple[tuple[int, int], ...],
    spread: tuple[int, ...],
    dilations: tuple[int, ...],
    groups: int,
) -> Any:
    """A convolution of (batch, *spatial, channel) by (*window, input, output).

    Args:
        spread: the step between the operand's entries, with zeros in between.
    """
    result = lax.conv_general_dilated(
        x, kernel, strides, padding, lhs_dilation=spread, rhs_dilation=dilations,
        dimension_numbers=LAYOUTS[x.ndim], feature_group_count=groups, precision=HIGHEST,
    )  # fmt: skip
    return result if bias is None else result + bias


def _kernel(node: Node) -> np.ndarray:
    """The weights, checked: (output, input, *window), or the first two exchanged."""
    kernel = node.constant(1, "kernel")
    if kernel.ndim not in LAYOUTS or kernel.ndim != len(node.shape(0)):
        raise Damaged(f"has a kernel {kernel.shape} for an operand {node.shape(0)}")
    named = node.attribute("kernel_shape", kernel.shape[2:])
    if named != kernel.shape[2:]:
        raise Damaged(f"has kernel_shape {named} and a kernel {kernel.shape}")
    return kernel


def _operands(node: Node, kernel: np.ndarray) -> tuple[Any, ...]:
    bias = node.optional(2, "bias")
    if bias is not None and bias.shape != kernel.shape[-1:]:
        raise Damaged(f"has a bias {bias.shape} for {kernel.shape[-1]} channels")
    return (node.operand(0), np.ascontiguousarray(kernel), *(() if bias is None else (bias,)))


def _conv(node: Node) -> Result:
    weight = _kernel(node)
    groups = node.attribute("group", 1)
    windows = sliding(node, weight.shape[2:])
    _require_channels(node, weight.shape[1] * groups, weight.shape[0], groups)
    spatial = range(2, weight.ndim)
    settings = {
        "strides": windows.strides,
        "padding": windows.padding,
        "spread": (1,) * len(spatial),
        "dilations": windows.dilations,
        "groups": groups,
    }
    operands = _operands(node, weight.transpose(*spatial, 1, 0))
    return Call(convolve, operands, settings, channels_last=True, folds=False)


def _require_channels(node: Node, inputs: int, outputs: int, groups: int) -> None:
    found = node.shape(0)[1]
    if groups < 1 or inputs != found or inputs % groups or outputs % groups:
        raise Damaged(
            f"has a kernel for {inputs} channels in {groups} groups, its operand has {found}"
        )


def _transposed(node: Node) -> Result:
    """The transpose of a convolution: one of the spread operand by the turned kernel."""
    weight = _kernel(node)
    groups = node.attribute("group", 1)
    channels, each, *size = weight.shape
    _require_channels(node, channels, each * groups, groups)
    spatial = node.shape(0)[2:]
    strides, dilations = (per_axis(node, name, spatial) for name in ("strides", "dilations"))
    extent = tuple((n - 1) * d + 1 for n, d in zip(size, dilations))
    pads, more = _cropping(node, spatial, strides, extent)
    settings = {
        "strides": (1,) * len(size),
        "padding": tuple(
            (k - 1 - low, k - 1 - high + after) for k, (low, high), after in zip(extent, pads, more)
        ),
        "spread": strides,
        "dilations": dilations,
        "groups": groups,
    }
    operands = _operands(node, _turned(weight, groups))
    return Call(convolve, operands, settings, channels_last=True, folds=False)


def _turned(weight: np.ndarray, groups: int) -> np.ndarray:
    """(input, output of a group, *window) as (*window, input of a group, output), turned round."""
    channels, each, *size = weight.shape
    grouped = weight.reshape(groups, channels // groups, each, *size)
    window = tuple(range(3, grouped.ndim))
    kernel = np.flip(grouped, window).transpose(*window, 1, 0, 2)
    return kernel.reshape(*size, channels // groups, groups * each)


def _cropping(
    node: Node, spatial: tuple[int, ...], strides: tuple[int, ...], extent: tuple[int, ...]
) -> tuple[tuple[tuple[int, int], ...], tuple[int, ...]]:
    """What is cut off before and after, and what is added after."""
    rank = len(spatial)
    more = node.attribute("output_padding", (0,) * rank)
    wanted = node.attribute("output_shape")
    automatic = node.choice("auto_pad", "NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER")
    if len(more) != rank or min(more, default=0) < 0:
        raise Damaged(f"has output_padding {more} for {rank} axes")
    if wanted is None and automatic in ("NOTSET", "VALID"):
        pads = explicit_pads(node, rank)
        return (pads if automatic == "NOTSET" else ((0, 0),) * rank), more
    node.irrelevant("pads")
    if wanted is not None:
        wanted = wanted[-rank:]
    else:
        wanted = tuple(n * s for n, s in zip(spatial, strides))
    totals = tuple(
        s * (n - 1) + after + k - size
        for n, s, k, after, size in zip(spatial, strides, extent, more, wanted)
    )
    if min(totals) < 0:
        raise Refused(f"output_shape {wanted} beyond what it computes")
    return tuple(split_total(total, automatic == "SAME_UPPER") for total in totals), more


RULES = {"Conv": _conv, "ConvTranspose": _transposed}
