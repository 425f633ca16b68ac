"""A network of any layout as a function of images (height, width, channel) in [0, 1]."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

CHANNELS = (1, 3, 4)
"""How many channels an image is thought to have where a shape leaves it open."""


@dataclasses.dataclass(frozen=True)
class OnImages:
    """``f(images) -> scores``: normalises, moves the channel where the network wants it, and asks.

    Everything downstream speaks of images in [0, 1], so that an epsilon is one of pixel values,
    whatever the network's own inputs are.

    Args:
        network: a function of batches, hashable.
        input_shape: of one of its inputs: (channel, height, width), (height, width, channel),
            (height, width), or anything of as many entries as ``image_shape`` has.
        image_shape: (height, width, channel); by default read off ``input_shape``.
        channel_first: whether entries are in the order (channel, height, width); by default read off
            ``input_shape``, and so for inputs that are flat.
        mean, std: what the network's training normalised by, in [0, 1]: a number or one a channel.

    Raises:
        ValueError: shapes do not fit, or say too little.

    >>> import jax.numpy as jnp
    >>> f = OnImages(lambda x: x.reshape(len(x), -1), (3, 2, 2), mean=0.5, std=0.25)
    >>> f.image_shape
    (2, 2, 3)
    >>> print(f(jnp.full((1, 2, 2, 3), 0.75)).shape, f(jnp.full((1, 2, 2, 3), 0.75)).mean())
    (1, 12) 1.0
    """

    network: Callable[[Any], Any]
    input_shape: tuple[int, ...]
    image_shape: tuple[int, int, int] | None = None
    channel_first: bool | None = None
    mean: tuple[float, ...] | float = 0.0
    std: tuple[float, ...] | float = 1.0

    def __post_init__(self) -> None:
        shape = tuple(map(int, self.input_shape))
        first = _channel_first(shape) if self.channel_first is None else bool(self.channel_first)
        image = _image_shape(shape, first) if self.image_shape is None else self.image_shape
        image = tuple(map(int, image))
        if len(image) != 3 or np.prod(image) != np.prod(shape):
            raise ValueError(
                f"image_shape: expected (height, width, channel) with as many entries as an input "
                f"{shape}, got {image}."
            )
        mean, std = (_per_channel(getattr(self, n), n, image[2]) for n in ("mean", "std"))
        if not min(std) > 0:
            raise ValueError(f"std: must be positive, got {std}.")
        values = shape, image, first, mean, std
        names = "input_shape", "image_shape", "channel_first", "mean", "std"
        for name, value in zip(names, values):
            object.__setattr__(self, name, value)

    def __call__(
        self, x: Float[Array, "batch height width channel"]
    ) -> Float[Array, "batch label"]:
        x = jnp.asarray(x)
        if self.mean != (0.0,) * len(self.mean) or self.std != (1.0,) * len(self.std):
            x = (x - jnp.asarray(self.mean, x.dtype)) / jnp.asarray(self.std, x.dtype)
        x = jnp.moveaxis(x, -1, 1) if self.channel_first else x
        return self.network(x.reshape(len(x), *self.input_shape))


def _channel_first(shape: tuple[int, ...]) -> bool:
    """(3, 32, 32) has its channel first, (32, 32, 3) last; flat inputs are thought to be first."""
    return not (len(shape) == 3 and shape[0] not in CHANNELS and shape[2] in CHANNELS)


def _image_shape(shape: tuple[int, ...], channel_first: bool) -> tuple[int, ...]:
    sizes = shape if len(shape) != 2 else (1, *shape) if channel_first else (*shape, 1)
    if len(sizes) != 3 or 1 in sizes[1 if channel_first else 0 :][:2]:
        raise ValueError(
            f"image_shape: an input of {shape} does not say which image it is. Pass (height, width, "
            "channel)."
        )
    return (*sizes[1:], sizes[0]) if channel_first else sizes


def _per_channel(value: Any, name: str, channels: int) -> tuple[float, ...]:
    values: Sequence[float] = np.atleast_1d(np.asarray(value, float)).tolist()
    if len(values) not in (1, channels) or not np.isfinite(values).all():
        raise ValueError(
            f"{name}: expected a number, or one for each of {channels} channels, got {value}."
        )
    return tuple(values) * (channels if len(values) == 1 else 1)
