"""ML-LIW: Inception-v3 for several labels, trained with label-wise and instance-wise ranking losses."""

from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from jmlv.models.config import ModelConfig, require_probability, require_sizes
from jmlv.models.inception import LEAST_SIDE, InceptionBackbone, InceptionSizes
from jmlv.models.pixels import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    normalised,
    require_normalisation,
)

PUBLISHED_STD = tuple(0.25 / std for std in IMAGENET_STD)
PUBLISHED_MEAN = tuple(0.5 - (m - 0.5) / 0.5 * s for m, s in zip(IMAGENET_MEAN, PUBLISHED_STD))
"""What the published ML-LIW does to pixels: ``z = (x - 0.5) / 0.5``, then torchvision's
``z * std / 0.5 + (mean - 0.5) / 0.5`` with ImageNet's mean and deviation."""


@dataclass(frozen=True)
class LIWConfig(ModelConfig):
    """The sizes of a ``MultiLabelLIW``.

    Attributes:
        input_shape: (height, width, channel), sides of at least 75 pixels.
        sizes: of the network below the head.
        labels: number of scores.
        dropout: share of features that training leaves out before the head.
        mean, std: of pixel values, one number a channel or one for all; subtracted and divided by
            inside the network.

    Raises:
        ValueError: a size is impossible.

    >>> LIWConfig((75, 75, 3), InceptionSizes(1 / 32, (1, 1, 1)), labels=5).sizes.features
    64
    """

    input_shape: tuple[int, int, int] = (299, 299, 3)
    sizes: InceptionSizes = InceptionSizes()
    labels: int = 20
    dropout: float = 0.5
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)

    def __post_init__(self) -> None:
        require_sizes("input_shape", self.input_shape, 1, length=3)
        if min(self.input_shape[:2]) < LEAST_SIDE:
            raise ValueError(
                f"input_shape: got {self.input_shape}; expected sides of at least {LEAST_SIDE} "
                "pixels, of which Inception-v3 leaves one. Resize the images."
            )
        require_sizes("labels", (self.labels,), 1, length=1)
        require_probability("dropout", self.dropout)
        require_normalisation(self.mean, self.std, self.input_shape[-1])

    def build(self, *, rngs: nnx.Rngs) -> MultiLabelLIW:
        return MultiLabelLIW(self, rngs=rngs)


class MultiLabelLIW(nnx.Module):
    """Inception-v3, the mean over its feature map, dropout, and a dense layer: raw scores of labels.

    The published network gives a sigmoid of these scores, which keeps their order. Train it with
    :class:`jmlv.training.ranking.LabelAndInstanceRanking`. A new network is in training mode (batch
    norm from the batch, dropout); ``eval()`` ends that, and what verifies, attacks and smooths uses
    the evaluation mode by itself. All its operations have sound rules at inference.

    Args:
        config: the sizes.
        rngs: seeds the weights, and dropout.

    Source: Song et al., *Multi-Label Adversarial Perturbations*, ICDM 2018, whose classifier it is;
    Zhou et al., *Generating Multi-label Adversarial Examples by Linear Programming*, IJCNN 2020, call
    it ML-LIW. :func:`jmlv.interop.inception_from_torch` reads its weights.
    """

    def __init__(self, config: LIWConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.backbone = InceptionBackbone(config.sizes, config.input_shape[-1], rngs=rngs)
        self.dropout = nnx.Dropout(config.dropout, rngs=rngs)
        self.fc = nnx.Linear(config.sizes.features, config.labels, rngs=rngs)

    def __call__(
        self, x: Float[Array | np.ndarray, "batch height width channel"]
    ) -> Float[Array, "batch label"]:
        """Scores (raw logits); a label is the likelier the higher its score."""
        features = self.backbone(normalised(x, self.config.mean, self.config.std))
        return self.fc(self.dropout(jnp.mean(features, (1, 2))))
