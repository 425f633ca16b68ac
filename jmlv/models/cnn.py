"""A small convolutional network for several labels."""

from __future__ import annotations

import math
from dataclasses import dataclass

import jax
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from jmlv.models.config import ModelConfig, require_sizes


@dataclass(frozen=True)
class CNNConfig(ModelConfig):
    r"""The sizes of a ``MultiLabelCNN``.

    A convolution maps a side of $n$ pixels to
    $\lfloor (n + 2p - k) / s \rfloor + 1$, with kernel $k$, stride $s$, padding $p$.

    Attributes:
        input_shape: (height, width, channel).
        channels, kernels, strides, paddings: of the two convolutions; kernels are square and
            paddings are zeros, in pixels on each side.
        pool: side of the max-pool window, or ``None`` for no pooling.
        pool_stride: its stride; ``None`` is the window's side (no overlap).
        labels: number of scores.

    Raises:
        ValueError: a size is not a positive integer or nothing is left of the image.

    >>> CNNConfig().feature_shape
    (4, 4, 16)
    """

    input_shape: tuple[int, int, int] = (32, 32, 1)
    channels: tuple[int, int] = (8, 16)
    kernels: tuple[int, int] = (3, 3)
    strides: tuple[int, int] = (2, 2)
    paddings: tuple[int, int] = (1, 1)
    pool: int | None = 2
    pool_stride: int | None = None
    labels: int = 10

    def __post_init__(self) -> None:
        require_sizes("input_shape", self.input_shape, 1, length=3)
        for name in ("channels", "kernels", "strides"):
            require_sizes(name, getattr(self, name), 1, length=2)
        require_sizes("paddings", self.paddings, 0, length=2)
        require_sizes("labels", (self.labels,), 1, length=1)
        _check_pool(self.pool, self.pool_stride)
        _check_sides(self)

    @property
    def relu_shapes(self) -> tuple[tuple[int, int, int], ...]:
        """(height, width, channel) after each convolution."""
        shapes, sides = [], self.input_shape[:2]
        for layer in range(2):
            window = self.kernels[layer], self.strides[layer], self.paddings[layer]
            sides = tuple(_side_after(side, *window) for side in sides)
            shapes.append((*sides, self.channels[layer]))
        return tuple(shapes)

    @property
    def feature_shape(self) -> tuple[int, int, int]:
        """(height, width, channel) of what the dense layer reads."""
        height, width, channels = self.relu_shapes[-1]
        if self.pool is None:
            return height, width, channels
        window = self.pool, self.pool_stride or self.pool, 0
        return _side_after(height, *window), _side_after(width, *window), channels

    @property
    def neurons(self) -> int:
        """Number of ReLUs, the size that verification feels.

        >>> CNNConfig().neurons
        3072
        """
        return sum(math.prod(shape) for shape in self.relu_shapes)

    def build(self, *, rngs: nnx.Rngs) -> MultiLabelCNN:
        return MultiLabelCNN(self, rngs=rngs)


class MultiLabelCNN(nnx.Module):
    """Convolution, ReLU, convolution, ReLU, max pool, dense: raw scores of labels.

    The features are flattened in the order height, width, channel. Without a pool
    (``config.pool is None``) that layer is left out.

    Args:
        config: the sizes.
        rngs: seeds the weights.

    Source: Mour and Drachsler-Cohen, *Robustness Verification of Multi-label Neural Network
    Classifiers*, SAS 2024, whose networks have these layers.

    >>> import jax.numpy as jnp
    >>> model = MultiLabelCNN(CNNConfig(), rngs=nnx.Rngs(0))
    >>> model(jnp.zeros((5, 32, 32, 1))).shape
    (5, 10)
    """

    def __init__(self, config: CNNConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.conv1 = _convolution(config, 0, config.input_shape[-1], rngs)
        self.conv2 = _convolution(config, 1, config.channels[0], rngs)
        self.dense = nnx.Linear(math.prod(config.feature_shape), config.labels, rngs=rngs)

    def __call__(
        self, x: Float[Array | np.ndarray, "batch height width channel"]
    ) -> Float[Array, "batch label"]:
        """Scores (raw logits); a label is the likelier the higher its score."""
        x = jax.nn.relu(self.conv1(x))
        x = jax.nn.relu(self.conv2(x))
        if self.config.pool is not None:
            window = (self.config.pool,) * 2
            strides = (self.config.pool_stride or self.config.pool,) * 2
            x = nnx.max_pool(x, window, strides=strides, padding="VALID")
        return self.dense(x.reshape(x.shape[0], -1))


def _convolution(config: CNNConfig, layer: int, inputs: int, rngs: nnx.Rngs) -> nnx.Conv:
    return nnx.Conv(
        inputs,
        config.channels[layer],
        (config.kernels[layer],) * 2,
        strides=config.strides[layer],
        padding=((config.paddings[layer],) * 2,) * 2,
        rngs=rngs,
    )


def _side_after(side: int, window: int, stride: int, padding: int) -> int:
    return (side + 2 * padding - window) // stride + 1


def _check_pool(pool: int | None, stride: int | None) -> None:
    if pool is not None:
        require_sizes("pool", (pool,), 1, length=1)
    if stride is not None:
        require_sizes("pool_stride", (stride,), 1, length=1)
    if pool is None and stride is not None:
        raise ValueError(
            f"pool_stride: got {stride} without a pool; expected None. Set `pool` too."
        )


def _check_sides(config: CNNConfig) -> None:
    for shape in (*config.relu_shapes, config.feature_shape):
        if min(shape) < 1:
            raise ValueError(
                f"input_shape: got {config.input_shape}, of which {shape} is left; "
                "expected at least one pixel after every layer. Use a larger image or "
                "smaller kernels, strides or pool."
            )
