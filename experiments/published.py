"""The published Double-MNIST networks and images (Mour and Drachsler-Cohen, SAS 2024)."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import numpy as np

from jmlv.interop import cnn_from_torch
from jmlv.models import CNNConfig, MultiLabelCNN

FOLDER = Path(__file__).resolve().parents[2] / "shared" / "data" / "mulloc"

POOLED = CNNConfig(input_shape=(64, 64, 1), pool=4)
CONFIGS = {
    "linf": POOLED,
    "plain": POOLED,
    "x2": CNNConfig(
        input_shape=(64, 64, 1), channels=(16, 32), kernels=(4, 4), strides=(4, 4), pool=None
    ),
}


def add_networks_argument(parser: argparse.ArgumentParser) -> None:
    """``--networks``, all of them by default."""
    parser.add_argument("--networks", nargs="+", choices=CONFIGS, default=list(CONFIGS))


INK = 0.1
"""A pixel brighter than this belongs to the digit of its half."""


@dataclasses.dataclass(frozen=True, eq=False)
class Published:
    """Ten images: values (image, height, width, channel), and the digit in each half."""

    images: np.ndarray
    digits: np.ndarray

    def mask(self, image: int, side: int) -> np.ndarray:
        """Pixels of the digit in the left (0) or right (1) half."""
        half = np.zeros(self.images.shape[1:3], bool)
        middle = half.shape[1] // 2
        half[:, side * middle : (side + 1) * middle] = True
        return (self.images[image, ..., 0] > INK) & half


def network(name: str, folder: Path = FOLDER) -> MultiLabelCNN:
    """``"linf"`` (PGD-trained), ``"plain"`` or ``"x2"``."""
    return cnn_from_torch(folder / f"double_mnist_cnn_{name}.npz", CONFIGS[name])


def images(folder: Path = FOLDER) -> Published:
    with np.load(folder / "double_mnist_images.npz") as content:
        pixels, names = content["x"], content["names"]
    digits = np.array([[int(d) for d in str(name).split("_")[1]] for name in names])
    return Published(pixels.transpose(0, 2, 3, 1), digits)
