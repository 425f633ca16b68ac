"""The data that a training's file can name: where train and test images come from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from jmlv.data import (
    MultiLabelImages,
    Photographs,
    Warp,
    coco,
    double_digits,
    double_mnist,
    double_optdigits,
    mulan,
    nus_wide,
    voc,
)
from jmlv.data.voc import LABELS as VOC_LABELS

TEST_SEED = 1_000
Images = MultiLabelImages | Photographs


@dataclass(frozen=True)
class Digits:
    """Pairs of the embedded digits.

    Attributes:
        train_images, test_images: how many pairs.
        seed: of the training pairs.
        warp: whether training digits are deformed.
    """

    train_images: int = 80_000
    test_images: int = 4_000
    seed: int = 0
    warp: bool = True

    def load(self, split: Literal["train", "test"]) -> MultiLabelImages:
        return double_digits(split, **_pairs(self, split))


@dataclass(frozen=True)
class Mnist:
    """Pairs of MNIST digits, from a folder of MNIST's files; the rest as for :class:`Digits`."""

    folder: str
    train_images: int = 80_000
    test_images: int = 4_000
    seed: int = 0
    warp: bool = False

    def load(self, split: Literal["train", "test"]) -> MultiLabelImages:
        return double_mnist(self.folder, split, **_pairs(self, split))


@dataclass(frozen=True)
class Optdigits:
    """Pairs of UCI's digits, from a folder of UCI's files; the rest as for :class:`Digits`."""

    folder: str
    train_images: int = 80_000
    test_images: int = 4_000
    seed: int = 0
    warp: bool = True

    def load(self, split: Literal["train", "test"]) -> MultiLabelImages:
        return double_optdigits(self.folder, split, **_pairs(self, split))


def _pairs(source: Digits | Mnist | Optdigits, split: str) -> dict[str, object]:
    if split == "test":
        return {"size": source.test_images, "seed": TEST_SEED}
    warp = Warp() if source.warp else None
    return {"size": source.train_images, "seed": source.seed, "warp": warp}


@dataclass(frozen=True)
class Mulan:
    """A table of MULAN's: ``folder`` holds its ARFF and XML files."""

    folder: str
    name: str
    missing: Literal["refuse", "mean"] = "refuse"
    seed: int = 0

    def load(self, split: Literal["train", "test"]) -> MultiLabelImages:
        return mulan(self.folder, self.name, split, missing=self.missing, seed=self.seed)


@dataclass(frozen=True)
class Coco:
    """COCO photographs: ``train`` and ``test`` are parts such as ``"train2017"``, ``"val2017"``."""

    folder: str
    train: str = "train2017"
    test: str = "val2017"
    side: int = 224
    occurring: bool = False
    crowds: bool = True

    def load(self, split: Literal["train", "test"]) -> Photographs:
        part = self.train if split == "train" else self.test
        settings = {"side": self.side, "occurring": self.occurring, "crowds": self.crowds}
        return _labelled(coco(self.folder, part, **settings))


@dataclass(frozen=True)
class Voc:
    """PASCAL VOC photographs: ``train`` and ``test`` are lists such as ``"trainval"``, ``"test"``."""

    folder: str
    year: int = 2007
    train: Literal["train", "val", "trainval", "test"] = "trainval"
    test: Literal["train", "val", "trainval", "test"] = "test"
    side: int = 224
    difficult: bool = False
    label_names: tuple[str, ...] = VOC_LABELS

    def load(self, split: Literal["train", "test"]) -> Photographs:
        part = self.train if split == "train" else self.test
        settings = {
            "year": self.year,
            "side": self.side,
            "difficult": self.difficult,
            "label_names": self.label_names,
        }
        return _labelled(voc(self.folder, part, **settings))


@dataclass(frozen=True)
class NusWide:
    """NUS-WIDE photographs."""

    folder: str
    side: int = 224

    def load(self, split: Literal["train", "test"]) -> Photographs:
        return _labelled(nus_wide(self.folder, split, side=self.side))


DataSource = Digits | Mnist | Optdigits | Mulan | Coco | Voc | NusWide
DATA = {
    "digits": Digits,
    "mnist": Mnist,
    "optdigits": Optdigits,
    "mulan": Mulan,
    "coco": Coco,
    "voc": Voc,
    "nus_wide": NusWide,
}


def held_out(data: Images, share: float, seed: int) -> tuple[Images, Images]:
    """The images without a random share of them, and that share."""
    order = np.random.default_rng(seed).permutation(len(data))
    border = max(1, round(share * len(data)))
    take = data.select if isinstance(data, Photographs) else data.__getitem__
    return take(np.sort(order[border:])), take(np.sort(order[:border]))


def _labelled(data: Photographs) -> Photographs:
    """Photographs that show a label at least."""
    return data.select(np.flatnonzero(data.labels.any(axis=1)))
