"""What one training step changes, and the step itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, ArrayLike, Bool, Float, Key, PyTree

from jmlv.training.losses import Loss
from jmlv.training.network import Architecture, Mutable, Network
from jmlv.training.objective import Objective


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class State:
    """Every array of a training.

    Attributes:
        weights: of the network.
        mutable: its running statistics, its dropout's random numbers and the like.
        moments: the optimiser's.
        average: of weights and running statistics; ``None`` where none is kept.
    """

    weights: nnx.State
    mutable: Mutable
    moments: PyTree
    average: PyTree | None


@dataclass(frozen=True)
class Stepper:
    """What stays the same during a training.

    Attributes:
        architecture: of the network.
        optimiser: of the weights.
        ema: decay of the average, or ``None``.
    """

    architecture: Architecture
    optimiser: optax.GradientTransformation
    ema: float | None

    def start(self, weights: nnx.State, mutable: Mutable) -> State:
        """The state before the first step."""
        average = None if self.ema is None else self._average.init((weights, mutable[0]))
        return State(weights, mutable, self.optimiser.init(weights), average)

    def deployed(self, state: State) -> Network:
        """The network that the training would return now: the averaged one where there is one.

        The average of $n$ steps is $\\sum_i d^{n - i} w_i / \\sum_i d^{n - i}$, so that the weights
        before the first step do not count.
        """
        if state.average is None:
            return Network(self.architecture, state.weights, state.mutable)
        mean = optax.tree.bias_correction(state.average.ema, self.ema, state.average.count)
        return Network(self.architecture, mean[0], (mean[1], state.mutable[1]))

    def compiled(self, objective: Objective, loss: Loss) -> Callable:
        """The jitted step: (state, images, labels, key, done) to (state, loss).

        It is not put into a ``lax.scan``: XLA runs a convolution inside a loop on one
        CPU thread without its fast kernels, ten times slower.
        """

        @jax.jit
        def step(
            state: State,
            images: Float[Array | np.ndarray, "batch height width channel"],
            labels: Bool[Array | np.ndarray, "batch label"],
            key: Key[Array, ""],
            done: Float[ArrayLike, ""],
        ) -> tuple[State, Float[Array, ""]]:
            def mean_loss(weights: nnx.State) -> tuple[Float[Array, ""], Mutable]:
                network = Network(self.architecture, weights, state.mutable)
                values, mutable = objective.losses(network, loss, images, labels, key, done)
                return values.mean(), mutable

            found, slope = jax.value_and_grad(mean_loss, has_aux=True)(state.weights)
            mean, mutable = found
            return self._moved(state, slope, mutable), mean

        return step

    def _moved(self, state: State, slope: PyTree, mutable: Mutable) -> State:
        updates, moments = self.optimiser.update(slope, state.moments, state.weights)
        weights = optax.apply_updates(state.weights, updates)
        average = state.average
        if average is not None:
            _, average = self._average.update((weights, mutable[0]), average)
        return State(weights, mutable, moments, average)

    @property
    def _average(self) -> Any:
        return optax.ema(self.ema)
