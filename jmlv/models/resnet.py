"""Residual networks for several labels, with the options that make a TResNet of one.

All of it can be verified: convolutions, batch norm at inference, ReLU, leaky ReLU, max and average pool,
blur pool, space-to-depth and squeeze-and-excite have sound rules.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jaxtyping import Array, Float

from jmlv.models.config import ModelConfig, require_flags, require_sizes
from jmlv.models.pixels import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    batch_normalised,
    normalised,
    require_normalisation,
)

EXPANSION = 4
"""A bottleneck block gives this many times the channels of its 3x3 convolution."""

LEAST_SQUEEZED = 64
"""Channels that squeeze-and-excite keeps at least, as TResNet does."""

Features = Float[Array, "batch height width channel"]


@dataclass(frozen=True)
class ResNetSizes:
    """What is between an image and its feature map; by default ResNet-18's.

    Attributes:
        depths: blocks of each stage; from the second stage on each halves the sides.
        widths: channels of the 3x3 convolutions of each stage.
        bottleneck: which stages have bottleneck blocks (1x1, 3x3, 1x1 convolution, four times the
            channels out) instead of basic ones (3x3, 3x3); ``()`` for none.
        squeeze_excite: which stages weigh their channels by what is in them; ``()`` for none.
        stem_width, stem_kernel, stem_stride: of the first convolution.
        stem_pool: whether a 3x3 max pool with stride 2 follows it.
        space_to_depth: side of the squares of pixels whose channels are put together before the
            first convolution; 1 for none.
        blur_pool: whether a blurred subsampling after a convolution replaces the convolution's stride.
        average_shortcut: whether shortcuts take means of 2x2 pixels instead of every second one.
        slopes: of leaky ReLU in the stem and in the blocks; 0 is ReLU.

    Raises:
        ValueError: a size is impossible, or the stages' tuples have different lengths.

    Source: He et al., *Deep Residual Learning for Image Recognition*, CVPR 2016, Table 1, with the
    stride in the 3x3 convolution as in torchvision; Ridnik et al., *TResNet: High Performance
    GPU-Dedicated Architecture*, WACV 2021, for the options from ``squeeze_excite`` on.

    >>> RESNET50.features, TRESNET_L.features
    (2048, 2432)
    """

    depths: tuple[int, ...] = (2, 2, 2, 2)
    widths: tuple[int, ...] = (64, 128, 256, 512)
    bottleneck: tuple[bool, ...] = ()
    squeeze_excite: tuple[bool, ...] = ()
    stem_width: int = 64
    stem_kernel: int = 7
    stem_stride: int = 2
    stem_pool: bool = True
    space_to_depth: int = 1
    blur_pool: bool = False
    average_shortcut: bool = False
    slopes: tuple[float, float] = (0.0, 0.0)

    def __post_init__(self) -> None:
        require_sizes("depths", self.depths, 1)
        require_sizes("widths", self.widths, 1, length=len(self.depths))
        require_sizes("depths", (len(self.depths),), 1, length=1)
        for name in ("bottleneck", "squeeze_excite"):
            require_flags(name, getattr(self, name), len(self.depths))
        for name in ("stem_width", "stem_kernel", "stem_stride", "space_to_depth"):
            require_sizes(name, (getattr(self, name),), 1, length=1)
        if len(self.slopes) != 2 or not all(0 <= slope < 1 for slope in self.slopes):
            raise ValueError(f"slopes: got {self.slopes!r}; expected two numbers in [0, 1).")

    @property
    def features(self) -> int:
        """Channels of the feature map."""
        return self.widths[-1] * (EXPANSION if self.bottleneck and self.bottleneck[-1] else 1)

    @property
    def blocks(self) -> tuple[tuple[BlockSizes, ...], ...]:
        """The blocks of each stage."""
        stages, inputs, none = [], self.stem_width, (False,) * len(self.depths)
        kinds = zip(self.bottleneck or none, self.squeeze_excite or none)
        for number, (depth, width, (bottleneck, squeeze)) in enumerate(
            zip(self.depths, self.widths, kinds)
        ):
            stage = []
            for block in range(depth):
                stride = 2 if number > 0 and block == 0 else 1
                stage.append(BlockSizes(self, inputs, width, stride, bottleneck, squeeze))
                inputs = stage[-1].outputs
            stages.append(tuple(stage))
        return tuple(stages)


RESNET18 = ResNetSizes()
RESNET34 = ResNetSizes(depths=(3, 4, 6, 3))
RESNET50 = ResNetSizes(depths=(3, 4, 6, 3), bottleneck=(True,) * 4)
RESNET101 = ResNetSizes(depths=(3, 4, 23, 3), bottleneck=(True,) * 4)


def _tresnet(depths: tuple[int, ...], width: int) -> ResNetSizes:
    return ResNetSizes(
        depths=depths,
        widths=(width, 2 * width, 4 * width, 8 * width),
        bottleneck=(False, False, True, True),
        squeeze_excite=(True, True, True, False),
        stem_width=width,
        stem_kernel=3,
        stem_stride=1,
        stem_pool=False,
        space_to_depth=4,
        blur_pool=True,
        average_shortcut=True,
        slopes=(1e-2, 1e-3),
    )


TRESNET_M = _tresnet((3, 4, 11, 3), 64)
TRESNET_L = _tresnet((4, 5, 18, 3), 76)


@dataclass(frozen=True)
class BlockSizes:
    """One block: where it is, its channels and its stride."""

    network: ResNetSizes
    inputs: int
    width: int
    stride: int
    bottleneck: bool
    squeeze_excite: bool

    @property
    def outputs(self) -> int:
        return self.width * (EXPANSION if self.bottleneck else 1)

    @property
    def strided(self) -> int:
        """The number of the convolution that has the stride."""
        return 2 if self.bottleneck else 1

    @property
    def convolutions(self) -> tuple[tuple[int, int, int], ...]:
        """Channels in and out and kernel of each convolution."""
        if self.bottleneck:
            return (
                (self.inputs, self.width, 1),
                (self.width, self.width, 3),
                (self.width, self.outputs, 1),
            )
        return (self.inputs, self.width, 3), (self.width, self.width, 3)

    @property
    def squeezed(self) -> int:
        """Channels inside squeeze-and-excite."""
        return max(self.width // 2 if self.bottleneck else self.width // 4, LEAST_SQUEEZED)


@dataclass(frozen=True)
class ResNetConfig(ModelConfig):
    """The sizes of a ``MultiLabelResNet``.

    Attributes:
        input_shape: (height, width, channel).
        sizes: of the network below the head, such as ``RESNET50`` or ``TRESNET_M``.
        labels: number of scores.
        mean, std: of pixel values, one number a channel or one for all; subtracted and divided by
            inside the network.

    Raises:
        ValueError: a size is impossible, or the sides are not multiples of ``space_to_depth``.

    >>> tiny = ResNetSizes((1, 1), (8, 16), stem_width=8, stem_kernel=3, stem_stride=1)
    >>> ResNetConfig((32, 32, 3), tiny, labels=5).sizes.features
    16
    """

    input_shape: tuple[int, int, int] = (224, 224, 3)
    sizes: ResNetSizes = RESNET18
    labels: int = 80
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD

    def __post_init__(self) -> None:
        require_photographs(self)

    def build(self, *, rngs: nnx.Rngs) -> MultiLabelResNet:
        return MultiLabelResNet(self, rngs=rngs)


class MultiLabelResNet(nnx.Module):
    """A residual network, the mean over its feature map, and a dense layer: raw scores of labels.

    A new network is in training mode, in which batch norm uses the batch's own statistics and updates
    its running ones; ``eval()`` makes it use the running ones, an affine function. What verifies,
    attacks and smooths uses the evaluation mode by itself (:func:`jmlv.as_function`).

    Args:
        config: the sizes.
        rngs: seeds the weights.

    Source: the head and its use for several labels: Ben-Baruch et al., *Asymmetric Loss For
    Multi-Label Classification*, ICCV 2021, Section 4. :func:`jmlv.interop.resnet_from_torch` reads
    torchvision's weights, :func:`jmlv.interop.tresnet_from_timm` timm's of TResNet.

    >>> tiny = ResNetSizes((1,), (8,), stem_width=8, stem_kernel=3, stem_pool=False)
    >>> model = MultiLabelResNet(ResNetConfig((16, 16, 3), tiny, labels=5), rngs=nnx.Rngs(0))
    >>> model(jnp.zeros((2, 16, 16, 3))).shape
    (2, 5)
    """

    def __init__(self, config: ResNetConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.backbone = ResNetBackbone(config.sizes, config.input_shape[-1], rngs=rngs)
        self.fc = nnx.Linear(config.sizes.features, config.labels, rngs=rngs)

    def __call__(
        self, x: Float[Array | np.ndarray, "batch height width channel"]
    ) -> Float[Array, "batch label"]:
        """Scores (raw logits); a label is the likelier the higher its score."""
        features = self.backbone(normalised(x, self.config.mean, self.config.std))
        return self.fc(features.mean((1, 2)))


class ResNetBackbone(nnx.Module):
    """From normalised pixels to the feature map; its parts have torchvision's names.

    Args:
        sizes: of the network.
        channels: of the image.
        rngs: seeds the weights.
    """

    def __init__(self, sizes: ResNetSizes, channels: int, *, rngs: nnx.Rngs):
        self.sizes = sizes
        channels *= sizes.space_to_depth**2
        stem = channels, sizes.stem_width, sizes.stem_kernel, sizes.stem_stride
        self.conv1 = _convolution(*stem, rngs)
        self.bn1 = nnx.BatchNorm(sizes.stem_width, momentum=0.9, rngs=rngs)
        for number, blocks in enumerate(sizes.blocks, 1):
            stage = nnx.List([ResNetBlock(block, rngs=rngs) for block in blocks])
            setattr(self, f"layer{number}", stage)

    def __call__(self, x: Features) -> Features:
        x = space_to_depth(x, self.sizes.space_to_depth)
        x = _rectified(batch_normalised(self.bn1, self.conv1(x)), self.sizes.slopes[0])
        if self.sizes.stem_pool:
            x = nnx.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
        for number in range(1, len(self.sizes.depths) + 1):
            for block in getattr(self, f"layer{number}"):
                x = block(x)
        return x


class ResNetBlock(nnx.Module):
    """A basic or bottleneck block: convolutions, plus what came in.

    Args:
        sizes: of the block.
        rngs: seeds the weights.
    """

    def __init__(self, sizes: BlockSizes, *, rngs: nnx.Rngs):
        self.sizes = sizes
        for number, (inputs, outputs, kernel) in enumerate(sizes.convolutions, 1):
            stride = 1 if sizes.network.blur_pool or number != sizes.strided else sizes.stride
            convolution = _convolution(inputs, outputs, kernel, stride, rngs)
            setattr(self, f"conv{number}", convolution)
            norm = nnx.BatchNorm(outputs, momentum=0.9, rngs=rngs)
            setattr(self, f"bn{number}", norm)
        if sizes.squeeze_excite:
            self.se = SqueezeExcite(sizes.convolutions[1][1], sizes.squeezed, rngs=rngs)
        if sizes.stride != 1 or sizes.inputs != sizes.outputs:
            stride = 1 if sizes.network.average_shortcut else sizes.stride
            convolution = _convolution(sizes.inputs, sizes.outputs, 1, stride, rngs)
            norm = nnx.BatchNorm(sizes.outputs, momentum=0.9, rngs=rngs)
            self.downsample = nnx.List([convolution, norm])

    def __call__(self, x: Features) -> Features:
        network, shortcut = self.sizes.network, self._shortcut(x)
        count = len(self.sizes.convolutions)
        for number in range(1, count + 1):
            convolution, norm = (getattr(self, f"{part}{number}") for part in ("conv", "bn"))
            x = batch_normalised(norm, convolution(x))
            if number < count:
                x = _rectified(x, network.slopes[1])
            if number == self.sizes.strided and self.sizes.stride == 2 and network.blur_pool:
                x = blur_pool(x)
            if number == 2 and self.sizes.squeeze_excite:
                x = self.se(x)
        return jax.nn.relu(x + shortcut)

    def _shortcut(self, x: Features) -> Features:
        if not hasattr(self, "downsample"):
            return x
        if self.sizes.stride == 2 and self.sizes.network.average_shortcut:
            means = nnx.avg_pool(x, (2, 2), (2, 2), padding="SAME", count_include_pad=False)
            x = means.astype(x.dtype)
        convolution, norm = self.downsample
        return batch_normalised(norm, convolution(x))


class SqueezeExcite(nnx.Module):
    r"""Weighs each channel by the whole image: $x \cdot \sigma(W_2 \max(0, W_1 \bar{x}))$.

    Args:
        channels: in and out.
        squeezed: between the two dense layers.
        rngs: seeds the weights.

    Source: Hu et al., *Squeeze-and-Excitation Networks*, CVPR 2018, Eqs. 2 to 4.
    """

    def __init__(self, channels: int, squeezed: int, *, rngs: nnx.Rngs):
        self.fc1 = nnx.Linear(channels, squeezed, rngs=rngs)
        self.fc2 = nnx.Linear(squeezed, channels, rngs=rngs)

    def __call__(self, x: Features) -> Features:
        weights = jax.nn.sigmoid(self.fc2(jax.nn.relu(self.fc1(x.mean((1, 2))))))
        return x * weights[:, None, None, :]


def blur_pool(x: Features) -> Features:
    """Every second pixel after a 3x3 binomial blur; the border is reflected.

    Source: Zhang, *Making Convolutional Networks Shift-Invariant Again*, ICML 2019.

    >>> float(blur_pool(jnp.ones((1, 4, 4, 1)))[0, 1, 1, 0])
    1.0
    """
    channels, line = x.shape[-1], np.float32([0.25, 0.5, 0.25])
    kernel = np.broadcast_to(np.outer(line, line)[:, :, None, None], (3, 3, 1, channels))
    return lax.conv_general_dilated(
        jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect"),
        jnp.asarray(kernel, x.dtype),
        (2, 2),
        "VALID",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=channels,
    )


def space_to_depth(x: Features, side: int) -> Features:
    """Squares of pixels as one pixel with all their channels, row by row.

    >>> space_to_depth(jnp.arange(4.0).reshape(1, 2, 2, 1), 2).ravel().tolist()
    [0.0, 1.0, 2.0, 3.0]
    """
    if side == 1:
        return x
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // side, side, width // side, side, channels)
    x = x.transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(batch, height // side, width // side, side * side * channels)


def require_photographs(config: ModelConfig) -> None:
    """Checks what the classifiers on a residual network have in common.

    Raises:
        ValueError: a size is impossible, or the sides are not multiples of ``space_to_depth``.
    """
    require_sizes("input_shape", config.input_shape, 1, length=3)
    require_sizes("labels", (config.labels,), 1, length=1)
    require_normalisation(config.mean, config.std, config.input_shape[-1])
    side = config.sizes.space_to_depth
    if any(pixels % side for pixels in config.input_shape[:2]):
        raise ValueError(
            f"input_shape: got {config.input_shape}; expected sides that are multiples of "
            f"{side}, as space_to_depth asks. Resize the images, or pass another space_to_depth."
        )


def _rectified(x: Features, slope: float) -> Features:
    return jax.nn.leaky_relu(x, slope) if slope else jax.nn.relu(x)


def _convolution(inputs: int, outputs: int, kernel: int, stride: int, rngs: nnx.Rngs) -> nnx.Conv:
    """Without a bias, which batch norm has; weights as He et al. draw them."""
    return nnx.Conv(
        inputs,
        outputs,
        (kernel, kernel),
        strides=stride,
        padding=((kernel // 2,) * 2,) * 2,
        use_bias=False,
        kernel_init=nnx.initializers.variance_scaling(2.0, "fan_out", "normal"),
        rngs=rngs,
    )
