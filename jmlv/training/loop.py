"""The training loop around one jitted step."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import jax
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, ArrayLike, Bool, Float, Key, PyTree

from jmlv.data import MultiLabelImages, Photographs
from jmlv.models import CNNConfig, ModelConfig
from jmlv.progress import NoProgress, Progress
from jmlv.training.defences import Defence, NoDefence
from jmlv.training.losses import Loss, binary_cross_entropy


@dataclass(frozen=True)
class TrainingConfig:
    """How to train: AdamW with a cosine schedule that ends at zero.

    Attributes:
        epochs: passes over the images.
        batch_size: images a step (what is left over of an epoch is dropped; each epoch draws
            another order).
        learning_rate: at the start.
        weight_decay: AdamW's.
        seed: of the weights, the order and the defence.

    Raises:
        ValueError: a count is below 1, the seed or the weight decay is negative, or the learning
            rate is not positive.

    >>> TrainingConfig(epochs=3).batch_size
    128
    """

    epochs: int = 20
    batch_size: int = 128
    learning_rate: float = 3e-3
    weight_decay: float = 1e-4
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("epochs", 1), ("batch_size", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise ValueError(
                    f"{name}: got {getattr(self, name)}; expected an integer of at "
                    f"least {least}. Pass {name}={least} or more."
                )
        if not (self.learning_rate > 0 and self.weight_decay >= 0):
            raise ValueError(
                f"learning_rate, weight_decay: got {self.learning_rate}, "
                f"{self.weight_decay}; expected more than 0 and at least 0. Pass such "
                "rates, for instance the defaults."
            )


@dataclass(frozen=True)
class TrainingResult:
    """A trained model and how it got there.

    Attributes:
        model: the trained network.
        losses: mean training loss of each finished epoch, on the images as the defence left them.
        interrupted: whether the user stopped it early.
    """

    model: nnx.Module
    losses: tuple[float, ...]
    interrupted: bool = False


def train(
    data: MultiLabelImages | Photographs,
    model: ModelConfig = CNNConfig(),
    config: TrainingConfig = TrainingConfig(),
    *,
    defence: Defence = NoDefence(),
    loss: Loss = binary_cross_entropy,
    progress: Progress = NoProgress(),
) -> TrainingResult:
    r"""Trains a new network to minimise the mean loss, binary cross-entropy unless told otherwise.

    $$\min_\theta \mathbb{E}_{(x, y)} \, L(F_\theta(D(x)), y)$$

    where the defence $D$ changes the images. A keyboard interrupt ends the training
    after the last whole epoch and returns the network of that time, marked
    ``interrupted``; before the end of the first epoch it is raised on.

    Args:
        data: the training images; photographs are decoded anew in each epoch.
        model: the network's sizes, a ``CNNConfig`` or an ``MLPConfig``.
        config: how to train.
        defence: what to do to the images.
        loss: of scores and labels, for instance ``AsymmetricLoss()``.
        progress: shows epochs.

    Raises:
        ValueError: the images are not those of ``model.input_shape``, the labels not
            ``model.labels`` in number, the images fewer than one batch, or the loss is no longer
            finite.

    >>> from jmlv.data import double_digits
    >>> short = TrainingConfig(epochs=2, batch_size=64)
    >>> losses = train(double_digits(size=256), config=short).losses
    >>> len(losses), losses[1] < losses[0]
    (2, True)
    """
    _check(data, model, config)
    network = model.build(rngs=nnx.Rngs(config.seed))
    graph, weights = nnx.split(network)
    optimiser = _optimiser(config, len(data))
    step = _step(graph, optimiser, defence, loss)
    batches = _Batches(data, config.batch_size)
    state, losses, interrupted = (weights, optimiser.init(weights)), [], False
    try:
        with progress.bar("training", config.epochs) as bar:
            for number in range(config.epochs):
                state, mean = _epoch(step, state, batches, config, number)
                losses.append(_finite(mean, len(losses)))
                bar.update(loss=mean)
    except KeyboardInterrupt:
        if not losses:
            raise
        interrupted = True
    return TrainingResult(nnx.merge(graph, state[0]), tuple(losses), interrupted)


def _optimiser(config: TrainingConfig, images: int) -> optax.GradientTransformation:
    steps = config.epochs * (images // config.batch_size)
    schedule = optax.cosine_decay_schedule(config.learning_rate, steps)
    return optax.adamw(schedule, weight_decay=config.weight_decay)


def _step(
    graph: nnx.GraphDef, optimiser: optax.GradientTransformation, defence: Defence, loss: Loss
) -> Callable:
    """The jitted step: (state, images, labels, key, done) to (state, loss).

    It is not put into a ``lax.scan``: XLA runs a convolution inside a loop on one
    CPU thread without its fast kernels, ten times slower.
    """

    @jax.jit
    def step(
        state: PyTree,
        images: Float[Array | np.ndarray, "batch height width channel"],
        labels: Bool[Array | np.ndarray, "batch label"],
        key: Key[Array, ""],
        done: Float[ArrayLike, ""],
    ) -> tuple[PyTree, Float[Array, ""]]:
        weights, moments = state
        moved = defence.apply(nnx.merge(graph, weights), images, labels, key, done)
        moved = jax.lax.stop_gradient(moved)
        mean, slope = jax.value_and_grad(lambda w: loss(nnx.merge(graph, w)(moved), labels).mean())(
            weights
        )
        updates, moments = optimiser.update(slope, moments, weights)
        return (optax.apply_updates(weights, updates), moments), mean

    return step


@dataclass(frozen=True)
class _Batches:
    """Whole batches of a data set in a random order."""

    data: MultiLabelImages | Photographs
    size: int

    def __len__(self) -> int:
        return len(self.data) // self.size

    def shuffled(self, seed: list[int]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        order = np.random.default_rng(seed).permutation(len(self.data))
        for start in range(0, len(order) - self.size + 1, self.size):
            rows = order[start : start + self.size]
            yield self.data.pixels(rows), self.data.labels[rows]


def _epoch(
    step: Callable, state: PyTree, batches: _Batches, config: TrainingConfig, number: int
) -> tuple[PyTree, float]:
    """Pass ``number`` over the data, and its mean loss."""
    key = jax.random.fold_in(jax.random.key(config.seed), number)
    count, losses = len(batches), []
    for images, labels in batches.shuffled([config.seed, number]):
        done = (number + len(losses) / count) / config.epochs
        step_key = jax.random.fold_in(key, len(losses))
        state, loss = step(state, images, labels, step_key, done)
        losses.append(loss)
    return state, float(np.mean(jax.device_get(losses)))


def _finite(loss: float, epoch: int) -> float:
    if not math.isfinite(loss):
        raise ValueError(
            f"config: the loss became {loss} in epoch {epoch}; expected a finite one. "
            "Lower `learning_rate`."
        )
    return loss


def _check(
    data: MultiLabelImages | Photographs, model: ModelConfig, config: TrainingConfig
) -> None:
    kind = type(model).__name__
    if data.image_shape != model.input_shape:
        raise ValueError(
            f"model: got input_shape {model.input_shape} for images of "
            f"{data.image_shape}; expected the same. Pass "
            f"{kind}(input_shape={data.image_shape})."
        )
    if data.labels.shape[1] != model.labels:
        raise ValueError(
            f"model: got {model.labels} labels for data with {data.labels.shape[1]}; "
            f"expected as many. Pass {kind}(labels={data.labels.shape[1]})."
        )
    if len(data) < config.batch_size:
        raise ValueError(
            f"data: got {len(data)} images for batches of {config.batch_size}; expected "
            "at least one batch. Pass more images or a smaller `batch_size`."
        )
