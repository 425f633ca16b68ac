"""What operators with windows have in common: sizes, strides, dilations and padding."""

from __future__ import annotations

from typing import NamedTuple

from jmlv.interop.onnx_reader.node import Damaged, Node, Refused


class Sliding(NamedTuple):
    """How windows lie on an operand's spatial axes.

    Attributes:
        size, strides, dilations: one number an axis.
        pads: before and after, a pair an axis.
        beyond: how much farther the last windows reach, an axis.
    """

    size: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[tuple[int, int], ...]
    beyond: tuple[int, ...]

    @property
    def extent(self) -> tuple[int, ...]:
        """What a window covers, the gaps of its dilation included."""
        return tuple((n - 1) * d + 1 for n, d in zip(self.size, self.dilations))

    @property
    def padding(self) -> tuple[tuple[int, int], ...]:
        """The padding that makes room for all windows."""
        return tuple((low, high + more) for (low, high), more in zip(self.pads, self.beyond))


def sliding(node: Node, size: tuple[int, ...], *, ceil: bool = False) -> Sliding:
    """Reads the attributes of an operator that slides windows of a size over its operand.

    Args:
        ceil: whether a last window may reach beyond the padding.
    """
    spatial = node.shape(0)[2:]
    if len(size) != len(spatial):
        raise Damaged(f"has windows {size} for an operand {node.shape(0)}")
    strides, dilations = (per_axis(node, name, spatial) for name in ("strides", "dilations"))
    windows = Sliding(size, strides, dilations, ((0, 0),) * len(size), (0,) * len(size))
    windows = windows._replace(pads=_pads(node, spatial, windows))
    reach = zip(spatial, windows.pads, windows.extent, strides)
    counts = tuple((n + low + high - k) / s for n, (low, high), k, s in reach)
    if min(counts, default=0) < 0:
        raise Damaged(f"has windows {size} that are larger than its operand {node.shape(0)}")
    beyond = windows.beyond
    if ceil:
        reach = zip(spatial, windows.pads, windows.extent, strides)
        beyond = tuple(_beyond(n, *pads, k, s) for n, pads, k, s in reach)
    return windows._replace(beyond=beyond)


def per_axis(node: Node, name: str, spatial: tuple[int, ...]) -> tuple[int, ...]:
    """An attribute with one positive number an axis, ones by default."""
    values = node.attribute(name, (1,) * len(spatial))
    if len(values) != len(spatial) or min(values, default=1) < 1:
        raise Damaged(f"has {name} {values} for {len(spatial)} axes")
    return values


def _pads(node: Node, spatial: tuple[int, ...], windows: Sliding) -> tuple[tuple[int, int], ...]:
    automatic = node.choice("auto_pad", "NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER")
    if automatic == "NOTSET":
        return explicit_pads(node, len(spatial))
    node.irrelevant("pads")
    if automatic == "VALID":
        return ((0, 0),) * len(spatial)
    if set(windows.dilations) != {1}:
        raise Refused(f"auto_pad={automatic} with dilations {windows.dilations}")
    totals = (
        max((-(-n // s) - 1) * s + k - n, 0)
        for n, k, s in zip(spatial, windows.extent, windows.strides)
    )
    return tuple(split_total(total, automatic == "SAME_UPPER") for total in totals)


def split_total(total: int, upper: bool) -> tuple[int, int]:
    """Padding before and after; an odd one more after if ``upper``."""
    less = total // 2
    return (less, total - less) if upper else (total - less, less)


def explicit_pads(node: Node, rank: int) -> tuple[tuple[int, int], ...]:
    """The attribute ``pads``: all numbers before the operand, then all numbers after it."""
    pads = node.attribute("pads", (0,) * (2 * rank))
    if len(pads) != 2 * rank or min(pads, default=0) < 0:
        raise Damaged(f"has pads {pads} for {rank} axes")
    return tuple(zip(pads[:rank], pads[rank:]))


def _beyond(size: int, low: int, high: int, extent: int, stride: int) -> int:
    """How far a last window reaches beyond the padding; it must begin before the padding after."""
    whole = size + low + high - extent
    count = -(-whole // stride)
    if count * stride >= size + low:
        count -= 1
    return max(count * stride - whole, 0)
