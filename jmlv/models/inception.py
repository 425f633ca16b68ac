"""Inception-v3 up to its feature map, from one table of its branches.

Convolutions, batch norm at inference, ReLU, max and average pool: all of it can be verified.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from jmlv.models.config import require_sizes
from jmlv.models.pixels import batch_normalised

LEAST_SIDE = 75
"""Pixels; of a smaller image nothing would be left."""

MOST = (3, 4, 2)
"""Mixed blocks at each resolution of the published network, the two that subsample left out."""

Features = Float[Array, "batch height width channel"]


@dataclass(frozen=True)
class InceptionSizes:
    """Inception-v3, or a smaller network of the same form.

    Attributes:
        width: every number of channels is multiplied by it and rounded, down to 1.
        depths: mixed blocks at each of the three resolutions, at most (3, 4, 2).

    Raises:
        ValueError: the width is not positive, or a depth is impossible.

    Source: Szegedy et al., *Rethinking the Inception Architecture for Computer Vision*, CVPR 2016,
    Table 1, in the layout of torchvision.

    >>> InceptionSizes().features, InceptionSizes(1 / 32, (1, 1, 1)).features
    (2048, 64)
    """

    width: float = 1.0
    depths: tuple[int, int, int] = MOST

    def __post_init__(self) -> None:
        if not 0 < self.width < float("inf"):
            raise ValueError(f"width: got {self.width!r}; expected a positive number.")
        require_sizes("depths", self.depths, 1, length=3)
        if any(depth > most for depth, most in zip(self.depths, MOST)):
            raise ValueError(f"depths: got {self.depths}; expected at most {MOST}.")

    @property
    def features(self) -> int:
        """Channels of the feature map."""
        return sum(self.channels(branch.outputs(1280)) for branch in ends(_WIDE))

    def channels(self, published: int) -> int:
        """How many channels there are where the published network has that many."""
        return max(1, round(self.width * published))


class Convolution(NamedTuple):
    """A convolution, batch norm, ReLU; with stride 1 the sides stay."""

    name: str
    channels: int
    height: int
    width: int
    stride: int = 1

    def outputs(self, inputs: int) -> int:
        return self.channels

    @property
    def padding(self) -> tuple[tuple[int, int], tuple[int, int]]:
        if self.stride != 1:
            return ((0, 0), (0, 0))
        return ((self.height // 2,) * 2, (self.width // 2,) * 2)


class Pool(NamedTuple):
    """The mean of 3x3 pixels with stride 1, or their maximum with stride 2."""

    stride: int

    def outputs(self, inputs: int) -> int:
        return inputs


Step = Convolution | Pool | tuple
"""A step of a branch; a tuple of convolutions reads the same value and its results are joined."""


def ends(block: tuple[tuple[Step, ...], ...]) -> list[Convolution | Pool]:
    """What gives the channels that a block joins, in their order."""
    last = [branch[-1] for branch in block]
    return [s for step in last for s in (step if type(step) is tuple else (step,))]


def _chain(name: str, *sizes: tuple[int, int, int, int]) -> tuple[Convolution, ...]:
    """Convolutions called ``name_1``, ``name_2`` and so on."""
    return tuple(Convolution(f"{name}_{i}", *size) for i, size in enumerate(sizes, 1))


def _square(channels: int, side: int, stride: int = 1) -> tuple[int, int, int, int]:
    return channels, side, side, stride


def _sideways(channels: int, length: int) -> tuple[int, int, int, int]:
    return channels, 1, length, 1


def _upright(channels: int, length: int) -> tuple[int, int, int, int]:
    return channels, length, 1, 1


def _fine(pooled: int) -> tuple:
    """A block at the first resolution."""
    return (
        (Convolution("branch1x1", *_square(64, 1)),),
        _chain("branch5x5", _square(48, 1), _square(64, 5)),
        _chain("branch3x3dbl", _square(64, 1), _square(96, 3), _square(96, 3)),
        (Pool(1), Convolution("branch_pool", *_square(pooled, 1))),
    )


def _middle(inner: int) -> tuple:
    """A block at the second resolution, whose 7x7 convolutions are factorised."""
    there = _upright(inner, 7), _sideways(inner, 7)
    return (
        (Convolution("branch1x1", *_square(192, 1)),),
        _chain("branch7x7", _square(inner, 1), _sideways(inner, 7), _upright(192, 7)),
        _chain("branch7x7dbl", _square(inner, 1), *there, _upright(inner, 7), _sideways(192, 7)),
        (Pool(1), Convolution("branch_pool", *_square(192, 1))),
    )


def _fork(name: str) -> tuple[Convolution, Convolution]:
    """A 3x3 convolution spread out into 1x3 and 3x1 beside one another."""
    return Convolution(f"{name}a", *_sideways(384, 3)), Convolution(f"{name}b", *_upright(384, 3))


_WIDE = (
    (Convolution("branch1x1", *_square(320, 1)),),
    (*_chain("branch3x3", _square(384, 1)), _fork("branch3x3_2")),
    (*_chain("branch3x3dbl", _square(448, 1), _square(384, 3)), _fork("branch3x3dbl_3")),
    (Pool(1), Convolution("branch_pool", *_square(192, 1))),
)
_FIRST_SUBSAMPLING = (
    (Convolution("branch3x3", *_square(384, 3, 2)),),
    _chain("branch3x3dbl", _square(64, 1), _square(96, 3), _square(96, 3, 2)),
    (Pool(2),),
)
_SECOND_SUBSAMPLING = (
    _chain("branch3x3", _square(192, 1), _square(320, 3, 2)),
    _chain("branch7x7x3", _square(192, 1), _sideways(192, 7), _upright(192, 7), _square(192, 3, 2)),
    (Pool(2),),
)
_BLOCKS = (
    {"Mixed_5b": _fine(32), "Mixed_5c": _fine(64), "Mixed_5d": _fine(64)},
    {
        "Mixed_6b": _middle(128),
        "Mixed_6c": _middle(160),
        "Mixed_6d": _middle(160),
        "Mixed_6e": _middle(192),
    },
    {"Mixed_7b": _WIDE, "Mixed_7c": _WIDE},
)
_SUBSAMPLINGS = ({}, {"Mixed_6a": _FIRST_SUBSAMPLING}, {"Mixed_7a": _SECOND_SUBSAMPLING})


def blocks(sizes: InceptionSizes) -> dict[str, tuple[tuple[Step, ...], ...]]:
    """The branches of every mixed block, by name and in their order.

    >>> list(blocks(InceptionSizes(depths=(1, 1, 1))))
    ['Mixed_5b', 'Mixed_6a', 'Mixed_6b', 'Mixed_7a', 'Mixed_7b']
    """
    table = {}
    for subsampling, equals, depth in zip(_SUBSAMPLINGS, _BLOCKS, sizes.depths):
        table |= subsampling | dict(list(equals.items())[:depth])
    return table


class InceptionBackbone(nnx.Module):
    """From normalised pixels to the feature map; its parts have torchvision's names.

    Args:
        sizes: of the network.
        channels: of the image.
        rngs: seeds the weights.
    """

    def __init__(self, sizes: InceptionSizes, channels: int, *, rngs: nnx.Rngs):
        self.sizes = sizes
        for name, width, kernel, stride, padding in _STEM:
            width = sizes.channels(width)
            padding = ((padding,) * 2,) * 2
            part = ConvolutionNorm(channels, width, (kernel,) * 2, stride, padding, rngs=rngs)
            setattr(self, name, part)
            channels = width
        for name, branches in blocks(sizes).items():
            block = MixedBlock(branches, sizes, channels, rngs=rngs)
            setattr(self, name, block)
            channels = block.outputs

    def __call__(self, x: Features) -> Features:
        for name, *_ in _STEM:
            x = getattr(self, name)(x)
            if name in _POOLED:
                x = nnx.max_pool(x, (3, 3), strides=(2, 2))
        for name in blocks(self.sizes):
            x = getattr(self, name)(x)
        return x


_STEM = (
    ("Conv2d_1a_3x3", 32, 3, 2, 0),
    ("Conv2d_2a_3x3", 32, 3, 1, 0),
    ("Conv2d_2b_3x3", 64, 3, 1, 1),
    ("Conv2d_3b_1x1", 80, 1, 1, 0),
    ("Conv2d_4a_3x3", 192, 3, 1, 0),
)
"""Name, channels, kernel, stride and padding of the first convolutions."""

_POOLED = ("Conv2d_2b_3x3", "Conv2d_4a_3x3")
"""A max pool follows these."""


class MixedBlock(nnx.Module):
    """Branches that read the same value, their channels joined.

    Args:
        branches: their steps.
        sizes: of the network.
        inputs: channels.
        rngs: seeds the weights.
    """

    def __init__(self, branches: tuple, sizes: InceptionSizes, inputs: int, *, rngs: nnx.Rngs):
        self.branches = branches
        self.outputs = 0
        for branch in branches:
            channels = inputs
            for step in branch:
                parts = step if type(step) is tuple else (step,)
                widths = [self._add(part, sizes, channels, rngs) for part in parts]
                channels = sum(widths)
            self.outputs += channels

    def _add(
        self, step: Convolution | Pool, sizes: InceptionSizes, inputs: int, rngs: nnx.Rngs
    ) -> int:
        """Makes the weights that a step has; returns how many channels come out of it."""
        if type(step) is Pool:
            return inputs
        width, kernel = sizes.channels(step.channels), (step.height, step.width)
        part = ConvolutionNorm(inputs, width, kernel, step.stride, step.padding, rngs=rngs)
        setattr(self, step.name, part)
        return width

    def __call__(self, x: Features) -> Features:
        return jnp.concatenate([self._run(branch, x) for branch in self.branches], axis=-1)

    def _run(self, branch: tuple[Step, ...], x: Features) -> Features:
        for step in branch:
            parts = step if type(step) is tuple else (step,)
            results = [self._apply(part, x) for part in parts]
            x = results[0] if len(results) == 1 else jnp.concatenate(results, axis=-1)
        return x

    def _apply(self, step: Convolution | Pool, x: Features) -> Features:
        if type(step) is Convolution:
            return getattr(self, step.name)(x)
        if step.stride == 1:
            return nnx.avg_pool(x, (3, 3), strides=(1, 1), padding=((1, 1), (1, 1)))
        return nnx.max_pool(x, (3, 3), strides=(2, 2))


class ConvolutionNorm(nnx.Module):
    """Convolution without a bias, batch norm, ReLU.

    Args:
        inputs, outputs: channels.
        kernel: height and width.
        stride, padding: of the convolution.
        rngs: seeds the weights.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: tuple[int, int],
        stride: int,
        padding: tuple[tuple[int, int], tuple[int, int]],
        *,
        rngs: nnx.Rngs,
    ):
        self.conv = nnx.Conv(
            inputs,
            outputs,
            kernel,
            strides=stride,
            padding=padding,
            use_bias=False,
            kernel_init=nnx.initializers.he_normal(),
            rngs=rngs,
        )
        self.bn = nnx.BatchNorm(outputs, momentum=0.9, epsilon=1e-3, rngs=rngs)

    def __call__(self, x: Features) -> Features:
        return jax.nn.relu(batch_normalised(self.bn, self.conv(x)))
