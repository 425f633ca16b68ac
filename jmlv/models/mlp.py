"""A perceptron with any number of hidden layers, for tables."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import jax
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from jmlv.models.config import ModelConfig, require_sizes


@dataclass(frozen=True)
class MLPConfig(ModelConfig):
    """The sizes of a ``MultiLabelMLP``.

    Attributes:
        input_shape: (height, width, channel); a table's rows are (1, feature, 1).
        hidden: neurons of each hidden layer; none of them makes a linear model.
        labels: number of scores.

    Raises:
        ValueError: a size is not a positive integer.

    >>> MLPConfig((1, 103, 1), hidden=(64, 32), labels=14).neurons
    96
    """

    input_shape: tuple[int, int, int]
    hidden: tuple[int, ...] = (64, 64)
    labels: int = 10

    def __post_init__(self) -> None:
        require_sizes("input_shape", self.input_shape, 1, length=3)
        require_sizes("hidden", self.hidden, 1)
        require_sizes("labels", (self.labels,), 1, length=1)

    @property
    def neurons(self) -> int:
        """Number of ReLUs, the size that verification feels."""
        return sum(self.hidden)

    def build(self, *, rngs: nnx.Rngs) -> MultiLabelMLP:
        return MultiLabelMLP(self, rngs=rngs)


class MultiLabelMLP(nnx.Module):
    """Dense, ReLU, ..., dense: raw scores of labels.

    The input is flattened in the order height, width, channel.

    Args:
        config: the sizes.
        rngs: seeds the weights.

    >>> import jax.numpy as jnp
    >>> model = MultiLabelMLP(MLPConfig((1, 6, 1), hidden=(4,), labels=3), rngs=nnx.Rngs(0))
    >>> model(jnp.zeros((5, 1, 6, 1))).shape
    (5, 3)
    """

    def __init__(self, config: MLPConfig, *, rngs: nnx.Rngs):
        self.config = config
        sizes = (math.prod(config.input_shape), *config.hidden, config.labels)
        for number, (inputs, outputs) in enumerate(pairwise(sizes)):
            setattr(self, f"dense{number}", nnx.Linear(inputs, outputs, rngs=rngs))

    def __call__(
        self, x: Float[Array | np.ndarray, "batch height width channel"]
    ) -> Float[Array, "batch label"]:
        """Scores (raw logits); a label is the likelier the higher its score."""
        x = x.reshape(x.shape[0], -1)
        last = len(self.config.hidden)
        for number in range(last):
            x = jax.nn.relu(getattr(self, f"dense{number}")(x))
        return getattr(self, f"dense{last}")(x)
