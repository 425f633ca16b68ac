"""Normalisation in the classifiers of photographs: of pixels, and of features.

The pixels' mean and deviation are part of the network, so that a verified region stays in [0, 1].
"""

from __future__ import annotations

import math
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
"""Of red, green and blue over ImageNet's photographs: what torchvision's networks are trained with."""


def normalised(
    x: Float[Array | np.ndarray, "batch height width channel"],
    mean: tuple[float, ...],
    std: tuple[float, ...],
) -> Float[Array, "batch height width channel"]:
    """``(x - mean) / std``, channel by channel.

    >>> float(normalised(np.full((1, 1, 1, 1), 0.75, np.float32), (0.5,), (0.5,))[0, 0, 0, 0])
    0.5
    """
    x = jnp.asarray(x)
    return (x - jnp.asarray(mean, x.dtype)) / jnp.asarray(std, x.dtype)


def batch_normalised(
    norm: nnx.BatchNorm, x: Float[Array, "batch height width channel"]
) -> Float[Array, "batch height width channel"]:
    """Batch norm in the precision of ``x``: running statistics are kept in float32, and would have
    what comes after a bfloat16 layer computed in float32 too."""
    return norm(x).astype(x.dtype)


def require_normalisation(mean: Any, std: Any, channels: int) -> None:
    """One number a channel, or one for all of them, each.

    Raises:
        ValueError: there are others, one is not finite, or a deviation is not positive.
    """
    for name, values, least in (("mean", mean, -math.inf), ("std", std, 0.0)):
        right = isinstance(values, tuple) and len(values) in (1, channels)
        if not right or not all(math.isfinite(v) and v > least for v in values):
            raise ValueError(
                f"{name}: got {values!r} for {channels} channel(s); expected a tuple of one finite "
                f"number, or of one a channel{', above zero' if name == 'std' else ''}."
            )
