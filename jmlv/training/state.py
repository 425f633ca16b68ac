"""What one training step changes, and the step itself."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import jax
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, ArrayLike, Bool, Float, Key, PyTree

from jmlv.training.config import TrainingConfig
from jmlv.training.losses import Loss
from jmlv.training.network import Architecture, Mutable, Network
from jmlv.training.objective import Objective
from jmlv.training.schedules import Schedule


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
    """What stays the same during a training; equal ones share their compiled steps.

    Attributes:
        architecture: of the network.
        schedule, learning_rate, weight_decay, steps: of the optimiser.
        ema: decay of the average, or ``None``.
    """

    architecture: Architecture
    schedule: Schedule
    learning_rate: float
    weight_decay: float
    steps: int
    ema: float | None

    @staticmethod
    def of(architecture: Architecture, config: TrainingConfig, steps: int) -> Stepper:
        """For a training of that many steps."""
        rates = config.schedule, config.learning_rate, config.weight_decay
        return Stepper(architecture, *rates, steps, config.ema)

    @property
    def optimiser(self) -> optax.GradientTransformation:
        """AdamW under the schedule."""
        rates = self.schedule.rates(self.learning_rate, self.steps)
        return optax.adamw(rates, weight_decay=self.weight_decay)

    def start(self, weights: nnx.State, mutable: Mutable) -> State:
        """The state before the first step."""
        average = None if self.ema is None else optax.ema(self.ema).init((weights, mutable[0]))
        return State(weights, mutable, self.optimiser.init(weights), average)

    def moved(self, state: State, slope: PyTree, mutable: Mutable) -> State:
        """The state after a step along the gradient ``slope``."""
        updates, moments = self.optimiser.update(slope, state.moments, state.weights)
        weights = optax.apply_updates(state.weights, updates)
        average = state.average
        if average is not None:
            _, average = optax.ema(self.ema).update((weights, mutable[0]), average)
        return State(weights, mutable, moments, average)

    def deployed(self, state: State) -> Network:
        r"""The network that the training would return now: the averaged one where there is one.

        The average of $n$ steps is $\sum_i d^{n - i} w_i / \sum_i d^{n - i}$, so that the weights
        before the first step do not count.
        """
        if state.average is None:
            return Network(self.architecture, state.weights, state.mutable)
        mean = optax.tree.bias_correction(state.average.ema, self.ema, state.average.count)
        return Network(self.architecture, mean[0], (mean[1], state.mutable[1]))


@partial(jax.jit, static_argnums=(0, 1, 2))
def step(
    stepper: Stepper,
    objective: Objective,
    loss: Loss,
    state: State,
    images: Float[Array | np.ndarray, "batch height width channel"],
    labels: Bool[Array | np.ndarray, "batch label"],
    key: Key[Array, ""],
    done: Float[ArrayLike, ""],
) -> tuple[State, Float[Array, ""]]:
    """One step: the state after it, and the mean of what it minimised.

    It is not put into a ``lax.scan``: XLA runs a convolution inside a loop on one
    CPU thread without its fast kernels, ten times slower.
    """

    def mean_loss(weights: nnx.State) -> tuple[Float[Array, ""], Mutable]:
        network = Network(stepper.architecture, weights, state.mutable)
        values, mutable = objective.losses(network, loss, images, labels, key, done)
        return values.mean(), mutable

    (mean, mutable), slope = jax.value_and_grad(mean_loss, has_aux=True)(state.weights)
    return stepper.moved(state, slope, mutable), mean
