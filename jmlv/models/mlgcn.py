"""ML-GCN: classifiers of labels that come out of a graph convolution over the labels."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float

from jmlv.models.config import ModelConfig, require_sizes
from jmlv.models.pixels import IMAGENET_MEAN, IMAGENET_STD, normalised
from jmlv.models.resnet import RESNET101, ResNetBackbone, ResNetSizes, require_photographs

SLOPE = 0.2
"""Of the leaky ReLU between the graph convolutions."""


class Given(nnx.Variable):
    """An array that comes from the data and is saved with the network, but not trained."""


@dataclass(frozen=True)
class GCNConfig(ModelConfig):
    """The sizes of a ``MultiLabelGCN``.

    Attributes:
        input_shape: (height, width, channel).
        sizes: of the residual network.
        labels: number of scores.
        embedding: numbers that describe a label, such as GloVe's 300.
        hidden: channels between the two graph convolutions.
        mean, std: of pixel values, one number a channel or one for all; subtracted and divided by
            inside the network.

    Raises:
        ValueError: a size is impossible.

    >>> GCNConfig(labels=20).embedding
    300
    """

    input_shape: tuple[int, int, int] = (448, 448, 3)
    sizes: ResNetSizes = RESNET101
    labels: int = 80
    embedding: int = 300
    hidden: int = 1024
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD

    def __post_init__(self) -> None:
        require_photographs(self)
        for name in ("embedding", "hidden"):
            require_sizes(name, (getattr(self, name),), 1, length=1)

    def build(self, *, rngs: nnx.Rngs) -> MultiLabelGCN:
        return MultiLabelGCN(self, rngs=rngs)


class MultiLabelGCN(nnx.Module):
    r"""A residual network's largest features, weighed by classifiers from a graph of labels.

    $$F(x) = W^T \max_{h, w} \phi(x), \qquad
      W^T = \hat{A} \, \mathrm{LReLU}(\hat{A} Z W_1) W_2$$

    with one row of embeddings $Z$ for each label and the graph $\hat{A}$ of which labels occur
    together. Both are given, not trained: :meth:`relate` sets them, and :class:`jmlv.models.Pretrained`
    takes the network to training. A new network has random embeddings and a graph without edges, and
    is in training mode (batch norm). At inference $W$ is a constant, so the network can be verified
    wherever its residual network can.

    Args:
        config: the sizes.
        rngs: seeds the weights.

    Source: Chen et al., *Multi-Label Image Recognition with Graph Convolutional Networks*, CVPR 2019,
    Eqs. 2 to 4. :func:`jmlv.interop.mlgcn_from_torch` reads the published weights.
    """

    def __init__(self, config: GCNConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.backbone = ResNetBackbone(config.sizes, config.input_shape[-1], rngs=rngs)
        embeddings = jax.random.normal(rngs.params(), (config.labels, config.embedding))
        self.embeddings = Given(embeddings)
        self.graph = Given(jnp.eye(config.labels))
        self.gc1 = nnx.Linear(config.embedding, config.hidden, use_bias=False, rngs=rngs)
        self.gc2 = nnx.Linear(config.hidden, config.sizes.features, use_bias=False, rngs=rngs)

    def relate(
        self,
        embeddings: Float[np.ndarray | Array, "label embedding"],
        graph: Float[np.ndarray | Array, "label label"],
    ) -> None:
        """Sets what is known of the labels.

        Args:
            embeddings: one row a label, such as the mean of its words' GloVe vectors.
            graph: how much of row label's classifier comes from column label, such as
                :func:`correlation_matrix` of the training labels.

        Raises:
            ValueError: a shape does not fit the sizes, or a number is not finite.
        """
        for name, value in (("embeddings", embeddings), ("graph", graph)):
            held = getattr(self, name)
            if np.shape(value) != held.shape or not np.isfinite(value).all():
                raise ValueError(
                    f"{name}: got the shape {np.shape(value)}; expected finite numbers of shape "
                    f"{held.shape}, as the network's sizes say."
                )
            held[...] = jnp.asarray(value, held.dtype)

    def classifiers(self) -> Float[Array, "label feature"]:
        """$W^T$: how each label weighs the features."""
        graph = self.graph[...]
        hidden = jax.nn.leaky_relu(graph @ self.gc1(self.embeddings[...]), SLOPE)
        return graph @ self.gc2(hidden)

    def __call__(
        self, x: Float[Array | np.ndarray, "batch height width channel"]
    ) -> Float[Array, "batch label"]:
        """Scores (raw logits); a label is the likelier the higher its score."""
        features = self.backbone(normalised(x, self.config.mean, self.config.std))
        return features.max((1, 2)) @ self.classifiers().T


def correlation_matrix(
    labels: Bool[np.ndarray, "image label"], threshold: float = 0.4, neighbours: float = 0.2
) -> Float[np.ndarray, "label label"]:
    r"""Which labels occur together, binarised and re-weighted.

    $$P_{ij} = \frac{M_{ij}}{N_i}, \qquad A_{ij} = [P_{ij} \ge \tau], \qquad
      A'_{ij} = \begin{cases} p A_{ij} / \sum_{j \ne i} A_{ij} & i \ne j \\ 1 - p & i = j
      \end{cases}$$

    where $M_{ij}$ images have both labels and $N_i$ have label $i$. A label that no image has, or that
    no other label accompanies often enough, has no neighbours. Every other row sums to one, so that
    the matrix is its own normalised version $\hat{A}$.

    Args:
        labels: of the training images, multi-hot.
        threshold: $\tau$, in (0, 1]: conditional probability from which on labels are neighbours.
        neighbours: $p$, in [0, 1]: what the neighbours weigh together.

    Raises:
        ValueError: the labels are no matrix, or a number is out of its range.

    Source: Chen et al., *Multi-Label Image Recognition with Graph Convolutional Networks*, CVPR 2019,
    Eqs. 6 to 8, with their $\tau = 0.4$ and $p = 0.2$.

    >>> both = np.array([[True, True, False], [True, True, True], [True, False, False]])
    >>> print(correlation_matrix(both))
    [[0.8 0.2 0. ]
     [0.1 0.8 0.1]
     [0.1 0.1 0.8]]
    """
    if np.ndim(labels) != 2 or not 0 < threshold <= 1 or not 0 <= neighbours <= 1:
        raise ValueError(
            f"labels, threshold, neighbours: got shape {np.shape(labels)}, {threshold!r}, "
            f"{neighbours!r}; expected (image, label), a number in (0, 1] and one in [0, 1]."
        )
    together = np.asarray(labels, float).T @ np.asarray(labels, float)
    counts = np.maximum(together.diagonal(), 1)[:, None]
    adjacent = (together / counts >= threshold) & ~np.eye(len(together), dtype=bool)
    shares = adjacent / np.maximum(adjacent.sum(1, keepdims=True), 1)
    return neighbours * shares + (1 - neighbours) * np.eye(len(together))
