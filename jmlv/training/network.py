"""A network inside a training step: pure functions of its weights, in both of its modes."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, PyTree

from jmlv.graph import Graph, trace

Mutable = tuple[nnx.State, nnx.State]
"""What a forward pass in training mode changes: running statistics, and everything else."""


@dataclass(frozen=True)
class Architecture:
    """What of a network is no array, in the two modes that Flax modules have.

    Attributes:
        training: with statistics of the batch, and dropout.
        evaluation: with running statistics, without dropout.
        exact: as ``evaluation``, in float32; the same where there is no mixed precision.
    """

    training: nnx.GraphDef
    evaluation: nnx.GraphDef
    exact: nnx.GraphDef

    @property
    def mixed_precision(self) -> bool:
        """Whether passes compute in bfloat16."""
        return self.evaluation is not self.exact


def take_apart(
    model: nnx.Module, *, mixed_precision: bool = False
) -> tuple[Architecture, nnx.State, Mutable]:
    """A module as its architecture, its weights and its mutable state; it is left in evaluation mode.

    Flax's layers compute in bfloat16 under mixed precision, with weights and images cast to it.

    >>> from jmlv.models import MLPConfig
    >>> model = MLPConfig((1, 6, 1), hidden=(4,), labels=3).build(rngs=nnx.Rngs(0))
    >>> architecture, weights, mutable = take_apart(model)
    >>> len(jax.tree.leaves(weights)), len(jax.tree.leaves(mutable))
    (4, 0)
    """
    model.eval()
    exact, weights, statistics, others = nnx.split(model, nnx.Param, nnx.BatchStat, ...)
    evaluation = exact
    passes = nnx.clone(model)
    if mixed_precision:
        passes.set_attributes(dtype=jnp.bfloat16, raise_if_not_found=False)
        evaluation = nnx.graphdef(passes)
    passes.train()
    return Architecture(nnx.graphdef(passes), evaluation, exact), weights, (statistics, others)


@dataclass(frozen=True, eq=False)
class Network:
    """One network with its arrays. Calling it gives its scores in evaluation mode.

    Attributes:
        architecture: its structure.
        weights: what is trained.
        mutable: what training mode changes.
    """

    architecture: Architecture
    weights: nnx.State
    mutable: Mutable

    def train(
        self, images: Float[Array | np.ndarray, "batch height width channel"]
    ) -> tuple[Float[Array, "batch label"], Mutable]:
        """The scores in training mode, in float32, and the mutable state after it."""
        weights, images = self._computed_in(self.weights, images)
        model = nnx.merge(self.architecture.training, weights, *self.mutable, copy=True)
        scores = model(images).astype(jnp.float32)
        _, _, statistics, others = nnx.split(model, nnx.Param, nnx.BatchStat, ...)
        return scores, (statistics, others)

    def __call__(
        self, images: Float[Array | np.ndarray, "batch height width channel"]
    ) -> Float[Array, "batch label"]:
        weights, images = self._computed_in(self.weights, images)
        model = nnx.merge(self.architecture.evaluation, weights, *self.mutable)
        return model(images).astype(jnp.float32)

    def frozen(self) -> Network:
        """The same network with weights that gradients stop at."""
        return Network(self.architecture, jax.lax.stop_gradient(self.weights), self.mutable)

    def graph(self, image_shape: tuple[int, ...]) -> Graph:
        """The graph of the network in evaluation mode, in float32; gradients reach the weights.

        Raises:
            UnsupportedOperation: there are operations without a sound rule.
        """
        return trace(self.model(), image_shape)

    def model(self) -> nnx.Module:
        """The module, in evaluation mode and in float32."""
        return nnx.merge(self.architecture.exact, self.weights, *self.mutable)

    def _computed_in(self, *values: PyTree) -> tuple[PyTree, ...]:
        """The values in the precision of forward passes."""
        return jax.tree.map(_as_bfloat16, values) if self.architecture.mixed_precision else values


def _as_bfloat16(value: Array) -> Array:
    return jnp.asarray(value, jnp.bfloat16) if jnp.issubdtype(value.dtype, jnp.floating) else value
