"""The data that experiments run on, with a network and a training that suit each.

    --data digits                    two embedded digits an image; needs no files
    --data mnist FOLDER              two MNIST digits an image
    --data mulan FOLDER NAME         a table, for instance scene or yeast
    --data coco FOLDER               photographs; a demonstration where there are only a few

Of COCO, ``train2017`` trains and ``val2017`` tests. Without the annotations of ``val2017`` the same
photographs do both, with the labels that occur in them: then nothing is said about new photographs.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from flax import nnx

from jmlv import checkpoints
from jmlv.cli.train import DIGITS, MNIST
from jmlv.data import MultiLabelImages, Photographs, Warp, coco, double_digits, double_mnist, mulan
from jmlv.models import MLPConfig, ModelConfig
from jmlv.progress import NoProgress, Progress
from jmlv.training import Defence, Loss, NoDefence, TrainingConfig, train

SIDE = 32
"""Height and width of a photograph, in pixels."""


Images = MultiLabelImages | Photographs
"""Photographs are decoded by ``data[:]``, which leaves other images as they are."""


@dataclasses.dataclass(frozen=True)
class Source:
    """Where images come from.

    Attributes:
        name: of files and tables.
        load: split, number and seed to images, at most that number where the data are fixed.
        model, training: what suits them.
        train_size: how many images train.
        note: what a reader of the results must know.
    """

    name: str
    load: Callable[[str, int, int], Images]
    model: ModelConfig
    training: TrainingConfig
    train_size: int
    note: str = ""

    def network(
        self,
        folder: Path,
        loss: Loss,
        defence: Defence = NoDefence(),
        *,
        quick: bool = False,
        progress: Progress = NoProgress(),
    ) -> nnx.Module:
        """A trained network, from the folder if it is there.

        Raises:
            SystemExit: the training was interrupted.
        """
        try:
            return checkpoints.restore(folder)[0]
        except (FileNotFoundError, ValueError):  # not there, cut off, or of another format
            data = self.load("train", min(6_000, self.train_size) if quick else self.train_size, 0)
        result = train(
            data, self.model, self.training, defence=defence, loss=loss, progress=progress
        )
        if result.interrupted:
            raise SystemExit("interrupted while training")
        training = {
            "defence": repr(defence),
            "loss": repr(loss),
            **dataclasses.asdict(self.training),
        }
        metadata = checkpoints.Metadata(data={"origin": data.origin}, training=training)
        checkpoints.save(folder, result.model, metadata, overwrite=True)
        return result.model


def add_data_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data", nargs="+", default=["digits"], metavar="WORD",
        help="digits (the default), mnist FOLDER, mulan FOLDER NAME, or coco FOLDER",
    )  # fmt: skip


def source(words: Sequence[str]) -> Source:
    """The source that ``--data`` names.

    Raises:
        SystemExit: the words name none, or its files are missing or damaged.
    """
    kinds = {"digits": _digits, "mnist": _mnist, "mulan": _mulan, "coco": _coco}
    kind, *rest = words
    expected = {"digits": 0, "mnist": 1, "mulan": 2, "coco": 1}
    if expected.get(kind) != len(rest):
        raise SystemExit(
            f"--data: got {' '.join(words)!r}; see --help for the four that there are."
        )
    try:
        return kinds[kind](*rest)
    except (OSError, ValueError) as error:
        raise SystemExit(f"--data: {error}") from error


def _digits() -> Source:
    def load(split: str, size: int, seed: int) -> Images:
        return double_digits(split, size=size, seed=seed, warp=Warp() if split == "train" else None)

    return Source("digits", load, DIGITS, TrainingConfig(epochs=12, learning_rate=1e-2), 80_000)


def _mnist(folder: str) -> Source:
    def load(split: str, size: int, seed: int) -> Images:
        return double_mnist(folder, split, size=size, seed=seed)

    return Source("mnist", load, MNIST, TrainingConfig(epochs=12, learning_rate=1e-2), 40_000)


def _mulan(folder: str, name: str) -> Source:
    parts = {split: mulan(folder, name, split) for split in ("train", "test")}
    train = parts["train"]
    training = TrainingConfig(epochs=60, batch_size=64, learning_rate=3e-3, weight_decay=1e-3)
    model = MLPConfig(train.image_shape, hidden=(128,), labels=len(train.label_names))
    return Source(name, lambda split, size, seed: parts[split][:size], model, training, len(train))


def _coco(folder: str) -> Source:
    alone = not (Path(folder) / "annotations" / "instances_val2017.json").is_file()
    train = _labelled(coco(folder, side=SIDE, occurring=alone))
    train = train[:] if alone else train  # the few are decoded once, the many in every epoch
    test = train if alone else _labelled(coco(folder, "val2017", side=SIDE))
    model = dataclasses.replace(
        DIGITS, input_shape=train.image_shape, labels=len(train.label_names)
    )
    batch = min(64, len(train))
    training = TrainingConfig(epochs=300 if alone else 10, batch_size=batch)
    note = (
        f"a demonstration: trained and tested on the same {len(train)} photographs" if alone else ""
    )

    def load(split: str, size: int, seed: int) -> Images:
        data = train if split == "train" else test
        return data[:size] if alone else data.select(slice(size))

    return Source("coco", load, model, training, len(train), note)


def _labelled(data: Photographs) -> Photographs:
    return data.select(np.flatnonzero(data.labels.any(axis=1)))
