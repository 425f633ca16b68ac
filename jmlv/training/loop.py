"""The training loop around one jitted step."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass

import jax
import numpy as np
from flax import nnx
from jaxtyping import Array, PyTree

from jmlv.data import MultiLabelImages, Photographs
from jmlv.models import CNNConfig, ModelConfig
from jmlv.progress import NoProgress, Progress
from jmlv.training.config import TrainingConfig
from jmlv.training.defences import NoDefence
from jmlv.training.early_stopping import EarlyStopping, best_epoch
from jmlv.training.losses import Loss, binary_cross_entropy
from jmlv.training.network import take_apart
from jmlv.training.objective import Objective
from jmlv.training.parallel import Placement
from jmlv.training.resume import Checkpoints, History, Store, fingerprint, opened
from jmlv.training.state import State, Stepper, step


@dataclass(frozen=True)
class TrainingResult:
    """A trained model and how it got there.

    Attributes:
        model: the trained network, in evaluation mode.
        losses: mean training loss of each finished epoch, on the images as the defence left them.
        interrupted: whether the user stopped it early.
        validation: mean average precision after each finished epoch, where there was early
            stopping; the model is that of the first epoch with the largest.
    """

    model: nnx.Module
    losses: tuple[float, ...]
    interrupted: bool = False
    validation: tuple[float, ...] = ()


def train(
    data: MultiLabelImages | Photographs,
    model: ModelConfig = CNNConfig(),
    config: TrainingConfig = TrainingConfig(),
    *,
    defence: Objective = NoDefence(),
    loss: Loss = binary_cross_entropy,
    progress: Progress = NoProgress(),
    checkpoints: Checkpoints | None = None,
    early_stopping: EarlyStopping | None = None,
) -> TrainingResult:
    r"""Trains a new network to minimise the mean loss, binary cross-entropy unless told otherwise.

    $$\min_\theta \mathbb{E}_{(x, y)} \, L(F_\theta(D(x)), y)$$

    where the defence $D$ changes the images. A keyboard interrupt ends the training
    after the last whole epoch and returns the network of that time, marked
    ``interrupted``; before the end of the first epoch it is raised on.

    Passes are in training mode (batch statistics, dropout); the network comes back in evaluation
    mode. Equal arguments give equal weights on one machine, also where the training was killed at
    any moment and went on from ``checkpoints``.

    Args:
        data: the training images; photographs are decoded anew in each epoch.
        model: the network's sizes, for instance a ``CNNConfig`` or an ``MLPConfig``.
        config: how to train.
        defence: what to do to the images, or :class:`jmlv.training.CertifiedTraining`.
        loss: of scores and labels, for instance ``AsymmetricLoss()``; hashable, as the defence is.
        progress: shows epochs.
        checkpoints: a folder to write to, and to go on from if a training like this one wrote there.
        early_stopping: when to end before the last epoch.

    Raises:
        ValueError: the images are not those of ``model.input_shape``, the labels not
            ``model.labels`` in number, the images fewer than one batch, the devices do not fit the
            batch, the loss is no longer finite, or the checkpoints are of another training.
        DamagedFile: a checkpoint cannot be read.

    >>> from jmlv.data import double_digits
    >>> short = TrainingConfig(epochs=2, batch_size=64)
    >>> losses = train(double_digits(size=256), config=short).losses
    >>> len(losses), losses[1] < losses[0]
    (2, True)
    """
    _check(data, model, config, early_stopping)
    loop = _Loop.of(data, model, config, defence, loss, early_stopping)
    purpose = _purpose(data, model, config, defence, loss, early_stopping)
    store = nullcontext() if checkpoints is None else opened(checkpoints, purpose)
    with store as opened_store:
        return loop.run(_Writer(checkpoints, opened_store), progress)


@dataclass(frozen=True)
class _Batches:
    """Whole batches of a data set in a random order."""

    data: MultiLabelImages | Photographs
    size: int

    def __len__(self) -> int:
        return len(self.data) // self.size

    def shuffled(self, seed: list[int], skip: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """The batches of one epoch from number ``skip`` on."""
        order = np.random.default_rng(seed).permutation(len(self.data))
        for start in range(skip * self.size, len(order) - self.size + 1, self.size):
            rows = order[start : start + self.size]
            yield self.data.pixels(rows), self.data.labels[rows]


@dataclass(frozen=True)
class _Progressed:
    """How far a training is: numbers, arrays, and the best network's arrays so far."""

    history: History
    state: State
    best: PyTree

    @property
    def arrays(self) -> PyTree:
        return self.state, self.best


@dataclass(frozen=True)
class _Writer:
    """When checkpoints are due; without a store, never."""

    options: Checkpoints | None
    store: Store | None

    def start(self, fresh: _Progressed) -> _Progressed:
        """What the newest checkpoint holds, or the fresh start."""
        found = None if self.store is None else self.store.latest(fresh.arrays)
        return fresh if found is None else _Progressed(found[0], *found[1])

    def after_step(self, number: int, now: _Progressed) -> None:
        if self.store is None or self.options.every_steps is None:
            return
        if number % self.options.every_steps == 0:
            self.store.save(number, now.history, now.arrays)

    def after_epoch(self, number: int, now: _Progressed, last: bool) -> None:
        if self.store is None:
            return
        if last or len(now.history.losses) % self.options.every_epochs == 0:
            self.store.save(number, now.history, now.arrays)


@dataclass(frozen=True)
class _Loop:
    """Everything of a training that does not change while it runs."""

    config: TrainingConfig
    batches: _Batches
    stepper: Stepper
    objective: Objective
    loss: Loss
    placement: Placement
    early_stopping: EarlyStopping | None
    fresh: _Progressed

    @staticmethod
    def of(data, model, config, defence, loss, early_stopping) -> _Loop:
        placement = Placement.over(config.devices, config.batch_size)
        network = model.build(rngs=nnx.Rngs(config.seed))
        architecture, *arrays = take_apart(network, mixed_precision=config.mixed_precision)
        batches = _Batches(data, config.batch_size)
        stepper = Stepper.of(architecture, config, config.epochs * len(batches))
        best = None if early_stopping is None else tuple(arrays)
        fresh = _Progressed(History(), stepper.start(*arrays), best)
        return _Loop(config, batches, stepper, defence, loss, placement, early_stopping, fresh)

    def run(self, writer: _Writer, progress: Progress) -> TrainingResult:
        now, interrupted = writer.start(self.fresh), False
        now = dataclasses.replace(now, state=self.placement.replicate(now.state))
        finished = now
        try:
            with progress.bar("training", self.config.epochs) as bar:
                for mean in now.history.losses:
                    bar.update(loss=mean)
                while not self._is_over(now.history):
                    now = finished = self._epoch(now, writer)
                    bar.update(loss=now.history.losses[-1])
        except KeyboardInterrupt:
            if not finished.history.losses:
                raise
            interrupted = True
        return self._result(finished, interrupted)

    def _epoch(self, now: _Progressed, writer: _Writer) -> _Progressed:
        """The rest of a pass over the data, with what comes after it."""
        number, count = len(now.history.losses), len(self.batches)
        key = jax.random.fold_in(jax.random.key(self.config.seed), number)
        state, losses = now.state, [np.float32(loss) for loss in now.history.partial]
        for batch in self.batches.shuffled([self.config.seed, number], len(losses)):
            done = (number + len(losses) / count) / self.config.epochs
            step_key = jax.random.fold_in(key, len(losses))
            fixed = self.stepper, self.objective.phase(done), self.loss
            state, loss = step(*fixed, state, *self.placement.spread(*batch), step_key, done)
            losses.append(loss)
            if len(losses) < count:
                self._after_step(writer, number * count + len(losses), now, state, losses)
        now = self._finished(now, state, float(np.mean(jax.device_get(losses))))
        writer.after_epoch((number + 1) * count, now, self._is_over(now.history))
        return now

    def _after_step(
        self, writer: _Writer, number: int, now: _Progressed, state: State, losses: list[Array]
    ) -> None:
        if writer.options is not None and writer.options.every_steps is not None:
            losses[:] = [np.float32(value) for value in jax.device_get(losses)]
            history = dataclasses.replace(now.history, partial=tuple(map(float, losses)))
            writer.after_step(number, _Progressed(history, state, now.best))

    def _finished(self, now: _Progressed, state: State, mean: float) -> _Progressed:
        """The epoch's numbers, and whether its network is the best so far."""
        losses = (*now.history.losses, _finite(mean, len(now.history.losses)))
        if self.early_stopping is None:
            return _Progressed(History(losses), state, None)
        network = self.stepper.deployed(state)
        value = self.early_stopping.measure(network.model())
        validation = (*now.history.validation, value)
        is_best = best_epoch(validation) == len(validation) - 1
        best = (network.weights, network.mutable) if is_best else now.best
        return _Progressed(History(losses, validation), state, best)

    def _is_over(self, history: History) -> bool:
        stopping = self.early_stopping
        early = stopping is not None and stopping.is_over(history.validation)
        return early or len(history.losses) == self.config.epochs

    def _result(self, now: _Progressed, interrupted: bool) -> TrainingResult:
        network, history = self.stepper.deployed(now.state), now.history
        arrays = (network.weights, network.mutable) if now.best is None else now.best
        weights, mutable = self.placement.gather(arrays)
        model = dataclasses.replace(network, weights=weights, mutable=mutable).model()
        return TrainingResult(model, history.losses, interrupted, history.validation)


def _purpose(data, model, config, defence, loss, early_stopping) -> dict[str, str]:
    """All that makes one training another than the next, by name."""
    stopping = early_stopping
    return {
        "data": fingerprint(data),
        "model": repr(model),
        "config": repr(dataclasses.replace(config, devices=None)),
        "defence": repr(defence),
        "loss": repr(loss) if dataclasses.is_dataclass(loss) else loss.__qualname__,
        "early stopping": repr(stopping and (stopping.patience, fingerprint(stopping.data))),
    }


def _finite(loss: float, epoch: int) -> float:
    if not math.isfinite(loss):
        raise ValueError(
            f"config: the loss became {loss} in epoch {epoch}; expected a finite one. "
            "Lower `learning_rate`."
        )
    return loss


def _check(
    data: MultiLabelImages | Photographs,
    model: ModelConfig,
    config: TrainingConfig,
    early_stopping: EarlyStopping | None,
) -> None:
    kind = type(model).__name__
    for name, images in (
        ("data", data),
        ("early_stopping", early_stopping and early_stopping.data),
    ):
        if images is None:
            continue
        if images.image_shape != model.input_shape:
            raise ValueError(
                f"model: got input_shape {model.input_shape} for images of "
                f"{images.image_shape} in {name}; expected the same. Pass "
                f"{kind}(input_shape={images.image_shape})."
            )
        if images.labels.shape[1] != model.labels:
            raise ValueError(
                f"model: got {model.labels} labels for {name} with {images.labels.shape[1]}; "
                f"expected as many. Pass {kind}(labels={images.labels.shape[1]})."
            )
    if len(data) < config.batch_size:
        raise ValueError(
            f"data: got {len(data)} images for batches of {config.batch_size}; expected "
            "at least one batch. Pass more images or a smaller `batch_size`."
        )
