"""Query2Label: one query per label looks for it in a feature map."""

from __future__ import annotations

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from jmlv.models.config import ModelConfig, require_probability, require_sizes
from jmlv.models.pixels import IMAGENET_MEAN, IMAGENET_STD, normalised
from jmlv.models.resnet import RESNET101, ResNetBackbone, ResNetSizes, require_photographs

TEMPERATURE = 10_000
"""Of the position's wave lengths."""

Tokens = Float[Array, "batch token channel"]


@dataclass(frozen=True)
class Query2LabelConfig(ModelConfig):
    """The sizes of a ``MultiLabelQuery2Label``; by default the published Q2L-R101-448's.

    Attributes:
        input_shape: (height, width, channel).
        sizes: of the residual network.
        labels: number of scores, and of queries.
        channels: of queries and of the transformer, a multiple of 4 and of ``heads``; where it is not
            that of the feature map a 1x1 convolution comes between.
        heads: of every attention.
        feedforward: channels inside the feed-forward parts.
        encoders, decoders: number of layers.
        first_self_attention, other_self_attention: whether the first decoder, and the others, begin
            with attention among the queries.
        dropout: share that training leaves out after attention and inside feed-forward parts.
        mean, std: of pixel values, one number a channel or one for all; subtracted and divided by
            inside the network.

    Raises:
        ValueError: a size is impossible.

    >>> Query2LabelConfig(labels=20).channels
    2048
    """

    input_shape: tuple[int, int, int] = (448, 448, 3)
    sizes: ResNetSizes = RESNET101
    labels: int = 80
    channels: int = 2048
    heads: int = 4
    feedforward: int = 8192
    encoders: int = 1
    decoders: int = 2
    first_self_attention: bool = False
    other_self_attention: bool = False
    dropout: float = 0.1
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD

    def __post_init__(self) -> None:
        require_photographs(self)
        for name in ("channels", "heads", "feedforward", "decoders"):
            require_sizes(name, (getattr(self, name),), 1, length=1)
        require_sizes("encoders", (self.encoders,), 0, length=1)
        require_probability("dropout", self.dropout)
        if self.channels % 4 or self.channels % self.heads:
            raise ValueError(
                f"channels: got {self.channels} for {self.heads} heads; expected a multiple of 4 "
                "(sine and cosine of row and column) and of the heads."
            )

    def build(self, *, rngs: nnx.Rngs) -> MultiLabelQuery2Label:
        return MultiLabelQuery2Label(self, rngs=rngs)


class MultiLabelQuery2Label(nnx.Module):
    """A residual network, a transformer in which each label's query reads the feature map, and for
    each label a linear function of what its query found: raw scores of labels.

    A new network is in training mode (batch norm from the batch, dropout); ``eval()`` ends that, and what
    verifies, attacks and smooths uses the evaluation mode by itself.

    Args:
        config: the sizes.
        rngs: seeds the weights, and dropout.

    Source: Liu et al., *Query2Label: A Simple Transformer Way to Multi-Label Classification*,
    arXiv:2107.10834, Section 3. :func:`jmlv.interop.query2label_from_torch` reads the published
    weights.
    """

    def __init__(self, config: Query2LabelConfig, *, rngs: nnx.Rngs):
        self.config = config
        channels, features = config.channels, config.sizes.features
        self.backbone = ResNetBackbone(config.sizes, config.input_shape[-1], rngs=rngs)
        if channels != features:
            self.input_proj = nnx.Conv(features, channels, (1, 1), rngs=rngs)
        self.encoder = nnx.List([EncoderLayer(config, rngs=rngs) for _ in range(config.encoders)])
        attentive = [config.first_self_attention] + [config.other_self_attention] * config.decoders
        self.decoder = nnx.List(
            [DecoderLayer(config, own, rngs=rngs) for own in attentive[: config.decoders]]
        )
        self.norm = _layer_norm(channels, rngs)
        self.query_embed = nnx.Embed(config.labels, channels, rngs=rngs)
        self.fc = GroupWiseLinear(config.labels, channels, rngs=rngs)

    def __call__(
        self, x: Float[Array | np.ndarray, "batch height width channel"]
    ) -> Float[Array, "batch label"]:
        """Scores (raw logits); a label is the likelier the higher its score."""
        features = self.backbone(normalised(x, self.config.mean, self.config.std))
        if self.config.channels != self.config.sizes.features:
            features = self.input_proj(features)
        batch, height, width, channels = features.shape
        memory = features.reshape(batch, height * width, channels)
        position = jnp.asarray(positions(height, width, channels), memory.dtype)
        for layer in self.encoder:
            memory = layer(memory, position)
        queries = self.query_embed.embedding[...]
        found = jnp.zeros((batch, *queries.shape), memory.dtype)
        for layer in self.decoder:
            found = layer(found, queries, memory, position)
        return self.fc(self.norm(found))


class GroupWiseLinear(nnx.Module):
    r"""One linear function for each label: $F_k = W_k \cdot Q_k + b_k$.

    Args:
        labels: number of functions.
        channels: that each reads.
        rngs: seeds the weights.

    Source: arXiv:2107.10834, Section 3.2.
    """

    def __init__(self, labels: int, channels: int, *, rngs: nnx.Rngs):
        bound = 1 / math.sqrt(channels)
        draw = rngs.params
        kernel = jax.random.uniform(draw(), (labels, channels), minval=-bound, maxval=bound)
        self.kernel = nnx.Param(kernel)
        self.bias = nnx.Param(jax.random.uniform(draw(), (labels,), minval=-bound, maxval=bound))

    def __call__(self, x: Float[Array, "batch label channel"]) -> Float[Array, "batch label"]:
        return (x * self.kernel[...]).sum(-1) + self.bias[...]


class EncoderLayer(nnx.Module):
    """Attention among the pixels of the feature map, then a feed-forward part.

    Args:
        config: the sizes.
        rngs: seeds the weights, and dropout.
    """

    def __init__(self, config: Query2LabelConfig, *, rngs: nnx.Rngs):
        self.self_attn = _attention(config, rngs)
        self.norm1 = _layer_norm(config.channels, rngs)
        self.norm2 = _layer_norm(config.channels, rngs)
        _add_feedforward(self, config, rngs)

    def __call__(self, x: Tokens, position: Float[Array, "token channel"]) -> Tokens:
        key = x + position
        x = self.norm1(x + self.dropout(self.self_attn(key, key, x)))
        return self.norm2(x + _feedforward(self, x))


class DecoderLayer(nnx.Module):
    """Attention among the queries (if it has that), from queries to pixels, then a feed-forward part.

    Args:
        config: the sizes.
        self_attention: whether queries attend to one another.
        rngs: seeds the weights, and dropout.
    """

    def __init__(self, config: Query2LabelConfig, self_attention: bool, *, rngs: nnx.Rngs):
        self.self_attention = self_attention
        if self_attention:
            self.self_attn = _attention(config, rngs)
            self.norm1 = _layer_norm(config.channels, rngs)
        self.multihead_attn = _attention(config, rngs)
        self.norm2 = _layer_norm(config.channels, rngs)
        self.norm3 = _layer_norm(config.channels, rngs)
        _add_feedforward(self, config, rngs)

    def __call__(
        self,
        x: Tokens,
        queries: Float[Array, "label channel"],
        memory: Tokens,
        position: Float[Array, "token channel"],
    ) -> Tokens:
        if self.self_attention:
            key = x + queries
            x = self.norm1(x + self.dropout(self.self_attn(key, key, x)))
        found = self.multihead_attn(x + queries, memory + position, memory)
        x = self.norm2(x + self.dropout(found))
        return self.norm3(x + _feedforward(self, x))


def positions(height: int, width: int, channels: int) -> Float[np.ndarray, "token channel"]:
    """Sines and cosines of the row, then of the column, of each pixel, row by row.

    Rows and columns count from 1 and are scaled so that the last is at 2 pi.

    Args:
        height, width: of the feature map.
        channels: of the result, a multiple of 4.

    Source: Carion et al., *End-to-End Object Detection with Transformers*, ECCV 2020, appendix A.4.

    >>> positions(1, 2, 4).round(3).tolist()
    [[-0.0, 1.0, 0.0, -1.0], [-0.0, 1.0, -0.0, 1.0]]
    """
    half = channels // 2
    waves = TEMPERATURE ** (2 * (np.arange(half) // 2) / half)
    sides = [
        np.arange(1, side + 1)[:, None] / (side + 1e-6) * 2 * math.pi / waves
        for side in (height, width)
    ]
    waved = [np.where(np.arange(half) % 2, np.cos(side), np.sin(side)) for side in sides]
    rows = np.broadcast_to(waved[0][:, None], (height, width, half))
    columns = np.broadcast_to(waved[1][None], (height, width, half))
    return np.concatenate([rows, columns], -1).reshape(height * width, channels).astype(np.float32)


def _attention(config: Query2LabelConfig, rngs: nnx.Rngs) -> nnx.MultiHeadAttention:
    return nnx.MultiHeadAttention(
        config.heads,
        config.channels,
        dropout_rate=config.dropout,
        deterministic=False,
        decode=False,
        kernel_init=nnx.initializers.xavier_uniform(),
        rngs=rngs,
    )


def _layer_norm(channels: int, rngs: nnx.Rngs) -> nnx.LayerNorm:
    return nnx.LayerNorm(channels, epsilon=1e-5, rngs=rngs)


def _add_feedforward(
    layer: EncoderLayer | DecoderLayer, config: Query2LabelConfig, rngs: nnx.Rngs
) -> None:
    draw = nnx.initializers.xavier_uniform()
    layer.linear1 = nnx.Linear(config.channels, config.feedforward, kernel_init=draw, rngs=rngs)
    layer.linear2 = nnx.Linear(config.feedforward, config.channels, kernel_init=draw, rngs=rngs)
    layer.dropout = nnx.Dropout(config.dropout, rngs=rngs)


def _feedforward(layer: EncoderLayer | DecoderLayer, x: Tokens) -> Tokens:
    hidden = layer.dropout(jax.nn.relu(layer.linear1(x)))
    return layer.dropout(layer.linear2(hidden))
