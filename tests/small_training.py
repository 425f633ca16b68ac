"""A training that takes a moment, for tests, and for processes that tests start.

python tests/small_training.py checkpoints FOLDER     # writes checkpoints as it goes
python tests/small_training.py weights FILE DEVICES   # the weights, trained on so many devices
"""

import sys
from dataclasses import dataclass

import jax
import numpy as np
from flax import nnx

from jmlv.data import MultiLabelImages
from jmlv.models import MLPConfig, ModelConfig
from jmlv.training import Checkpoints, EarlyStopping, OneCycle, TrainingConfig, train

FEATURES, LABELS = 6, 3


def table(rows: int, seed: int = 0, split: str = "train") -> MultiLabelImages:
    """Rows with labels that a linear model tells."""
    rng = np.random.default_rng(seed)
    x = rng.random((rows, FEATURES), np.float32)
    slopes = np.random.default_rng(99).normal(size=(FEATURES, LABELS))
    return MultiLabelImages(
        images=x[:, None, :, None],
        labels=(x - 0.5) @ slopes > 0,
        masks=np.zeros((rows, 0, 1, FEATURES), bool),
        object_labels=np.zeros((rows, 0), np.int64),
        source_indices=np.arange(rows)[:, None],
        label_names=tuple("abc"),
        split=split,
        origin="a linear model",
    )


@dataclass(frozen=True)
class MutableConfig(ModelConfig):
    """A perceptron with batch norm and dropout."""

    input_shape: tuple[int, int, int] = (1, FEATURES, 1)
    labels: int = LABELS
    rate: float = 0.25

    def build(self, *, rngs):
        return MutableMLP(self, rngs=rngs)


class MutableMLP(nnx.Module):
    """No bias before the norm: its gradient is zero but for rounding, which Adam would enlarge."""

    def __init__(self, config, *, rngs):
        self.config = config
        self.first = nnx.Linear(FEATURES, 16, use_bias=False, rngs=rngs)
        self.norm = nnx.BatchNorm(16, momentum=0.9, rngs=rngs)
        self.drop = nnx.Dropout(config.rate, rngs=rngs)
        self.last = nnx.Linear(16, LABELS, rngs=rngs)

    def __call__(self, x):
        x = self.norm(self.first(x.reshape(x.shape[0], -1)))
        return self.last(self.drop(jax.nn.relu(x)))


PLAIN = MLPConfig((1, FEATURES, 1), hidden=(16,), labels=LABELS)
EVERYTHING = TrainingConfig(
    epochs=6, batch_size=16, learning_rate=0.02, schedule=OneCycle(), ema=0.9, seed=3, devices=1
)


def everything(checkpoints: Checkpoints | None = None, **options):
    """Batch norm, dropout, an average, a schedule, early stopping, and an epoch of seven steps."""
    stopping = EarlyStopping(table(40, seed=5, split="test"), patience=6)
    return train(
        table(120), MutableConfig(), EVERYTHING, early_stopping=stopping, checkpoints=checkpoints,
        **options,
    )  # fmt: skip


def parallel(devices: int):
    config = TrainingConfig(epochs=2, batch_size=16, learning_rate=0.02, ema=0.9, devices=devices)
    return train(table(64), MutableConfig(), config)


def weights(model) -> list[np.ndarray]:
    """Every floating-point array of a model: weights and running statistics."""
    leaves = jax.tree.leaves(nnx.state(model, (nnx.Param, nnx.BatchStat)))
    return [np.asarray(leaf) for leaf in leaves]


if __name__ == "__main__":
    what, path, *rest = sys.argv[1:]
    if what == "checkpoints":
        everything(Checkpoints(path, every_steps=2))
    else:
        np.savez(path, *weights(parallel(int(rest[0])).model))
