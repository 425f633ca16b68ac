"""What commands read: a checkpoint, an image with its objects, and a property."""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
from flax import nnx
from jaxtyping import Bool, Float

from jmlv import checkpoints
from jmlv.data import MultiLabelImages, double_digits, double_mnist
from jmlv.graph import Graph, trace
from jmlv.label_names import labels_text
from jmlv.properties import InTopK


@dataclasses.dataclass(frozen=True, eq=False)
class Example:
    """One image, which of its two objects is perturbed, and which one's label must stay."""

    name: str
    x: Float[np.ndarray, "height width channel"]
    perturbed: Bool[np.ndarray, "height width"]
    target: Bool[np.ndarray, "height width"]
    perturbed_label: int
    target_label: int
    label_names: tuple[str, ...] = ()

    @property
    def property(self) -> InTopK:
        return InTopK(self.target_label, k=2)


def example(data: MultiLabelImages, index: int, perturbed: int) -> Example:
    """Object number ``perturbed`` of an image is changed; the other one's label is the target."""
    if not 0 <= index < len(data):
        raise ValueError(f"image: must be in 0..{len(data) - 1}, got {index}.")
    labels = [int(label) for label in data.object_labels[index]]
    other = 1 - perturbed
    return Example(
        name=f"{index} ({labels_text(labels, data.label_names)})",
        x=data.images[index],
        perturbed=data.masks[index][perturbed],
        target=data.masks[index][other],
        perturbed_label=labels[perturbed],
        target_label=labels[other],
        label_names=data.label_names,
    )


def network(folder: str | Path, module: str | None = None) -> tuple[Graph, checkpoints.Metadata]:
    """A checkpoint's network as a graph, and its metadata."""
    model, metadata = restored(folder, module)
    return trace(model, metadata.input_shape), metadata


def restored(folder: str | Path, module: str | None) -> tuple[Any, checkpoints.Metadata]:
    """A checkpoint's network; a class that is named may lie in the folder where the user is."""
    if module is not None and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    return checkpoints.restore(folder, module)


def test_images(mnist: str | None) -> MultiLabelImages:
    """The embedded test images, or pairs from a folder of MNIST files."""
    return double_digits("test") if mnist is None else double_mnist(mnist, "test")


def add_network_arguments(command: argparse.ArgumentParser) -> None:
    """One test image of one network."""
    add_source_arguments(command)
    command.add_argument("--image", type=int, default=0, help="number of the test image")
    command.add_argument(
        "--perturb", choices=("left", "right"), default="left", help="which digit is changed"
    )


def add_batch_arguments(
    command: argparse.ArgumentParser, *, images: int, seed: str, out: str
) -> None:
    """The first test images of one network, a seed and a folder for files; ``seed`` says of what."""
    add_source_arguments(command)
    command.add_argument("--images", type=int, default=images, help="how many test images")
    command.add_argument("--seed", type=int, default=0, help=f"of {seed}")
    command.add_argument("--out", type=Path, default=Path(out), help="folder for the files")


def add_source_arguments(command: argparse.ArgumentParser) -> None:
    """A checkpoint, and which test images go with it."""
    command.add_argument(
        "--checkpoint", default="checkpoints/double_digits_linf", help="folder of the network"
    )
    command.add_argument(
        "--module",
        metavar="PACKAGE.MODULE:CLASS",
        help="the code of a checkpoint of one's own; nothing is imported that is not named here",
    )
    command.add_argument(
        "--mnist",
        metavar="FOLDER",
        help="test images from MNIST files instead of the embedded digits",
    )


def batch(arguments: argparse.Namespace) -> tuple[nnx.Module, MultiLabelImages]:
    """The network and the test images that the arguments name.

    Raises:
        ValueError: there are not so many images, or they don't fit the network.
    """
    model, metadata = restored(arguments.checkpoint, arguments.module)
    data = test_images(arguments.mnist)
    if not 1 <= arguments.images <= len(data):
        raise ValueError(f"images: expected a number in 1..{len(data)}, got {arguments.images}.")
    if metadata.input_shape != data.image_shape:
        raise ValueError(
            f"checkpoint: its network takes images of {metadata.input_shape}, the test images are "
            f"of {data.image_shape}. Pass --mnist for a network of MNIST pairs, and only then."
        )
    return model, data[: arguments.images]


def selected(arguments: argparse.Namespace) -> tuple[Graph, Example]:
    """The network and the example that the arguments name."""
    graph, _ = network(arguments.checkpoint, arguments.module)
    return graph, selected_example(arguments)


def selected_example(arguments: argparse.Namespace) -> Example:
    """The test image that the arguments name."""
    data = test_images(arguments.mnist)
    return example(data, arguments.image, ("left", "right").index(arguments.perturb))
