"""The images that a campaign's file names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float

from jmlv.campaigns import Network
from jmlv.cli.sources import image_files
from jmlv.data import MultiLabelImages, double_digits, double_mnist
from jmlv.numerics import search_precision


@dataclass(frozen=True, eq=False)
class Subject:
    """One image and what is known of it.

    Attributes:
        name: in tables.
        x: its values.
        labels: its true labels; None where nobody says.
        masks, object_labels: of its two objects, where they are known.
    """

    name: str
    x: Float[np.ndarray, "height width channel"]
    labels: tuple[int, ...] | None = None
    masks: Bool[np.ndarray, "object height width"] | None = None
    object_labels: tuple[int, ...] = ()

    def kept(self, network: Network, k: int) -> tuple[int, ...]:
        """The labels that must stay: the true ones, else those that the network puts in its top k."""
        if self.labels is not None:
            return self.labels
        with search_precision():
            scores = np.asarray(network.load()(self.x[None]))[0]
        return tuple(sorted(map(int, np.argsort(-scores, kind="stable")[:k])))


Images = Callable[[tuple[int, ...]], list[Subject]]
"""From the shape that a network takes to the images."""


def digits(first: int = 10, skip: int = 0) -> Images:
    """The embedded test images, two digits each."""
    return _composed(double_digits("test", size=first + skip), skip)


def mnist(folder: str, first: int = 10, skip: int = 0) -> Images:
    """Pairs of MNIST's test digits."""
    return _composed(double_mnist(folder, "test", size=first + skip), skip)


def files(path: str) -> Images:
    """Pictures and array files; their labels are those that the network predicts."""
    return lambda shape: [Subject(name, x) for name, x in image_files(Path(path), shape)]


KINDS = {"digits": digits, "mnist": mnist, "files": files}
"""Images by the kind that a file gives them."""


def _composed(data: MultiLabelImages, skip: int) -> Images:
    def of(shape: tuple[int, ...]) -> list[Subject]:
        if data.image_shape != shape:
            raise ValueError(
                f"images: the network takes {shape}, these images are {data.image_shape}."
            )
        return [_subject(data, i) for i in range(skip, len(data))]

    return of


def _subject(data: MultiLabelImages, i: int) -> Subject:
    objects = tuple(map(int, data.object_labels[i]))
    labels = tuple(map(int, np.flatnonzero(data.labels[i])))
    return Subject(str(i), data.images[i], labels, data.masks[i], objects)
