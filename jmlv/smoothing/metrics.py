"""Certified top-k precision, recall and F1 as functions of the radius."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from jmlv.smoothing.arguments import Labels, multi_hot, require_count, require_radius


@dataclasses.dataclass(frozen=True, eq=False)
class CertifiedMetrics:
    """Means over images at each radius.

    Args:
        radius: (radius,) l2 radii.
        precision, recall, f1: (radius,) each in [0, 1].
    """

    radius: Float[np.ndarray, " radius"]
    precision: Float[np.ndarray, " radius"]
    recall: Float[np.ndarray, " radius"]
    f1: Float[np.ndarray, " radius"]

    def rows(self) -> list[tuple[float, float, float, float]]:
        """Radius, precision, recall and F1: one row a radius, for a table."""
        columns = (self.radius, self.precision, self.recall, self.f1)
        return [tuple(map(float, row)) for row in zip(*columns)]

    def as_dict(self) -> dict[str, list[float]]:
        """Lists of numbers, for a JSON file."""
        return {f.name: getattr(self, f.name).tolist() for f in dataclasses.fields(self)}


def certified_metrics(
    sizes: Int[np.ndarray, "image radius"],
    labels: Labels,
    *,
    k: int,
    radius: Float[np.ndarray, " radius"],
    label_count: int | None = None,
) -> CertifiedMetrics:
    r"""Mean certified precision, recall and F1 of several images.

    $$\text{precision} = \frac{e}{k}, \qquad \text{recall} = \frac{e}{d}, \qquad
      F_1 = \frac{2 e}{k + d}$$

    for an image with $d$ true labels of which $e$ are certified at radius $R$.

    Args:
        sizes: certified intersection sizes $e$ of every image at every radius.
        labels: true labels of every image: multi-hot booleans, or lists of label numbers.
        k: number of labels that the smoothed classifier predicts.
        radius: the radii.
        label_count: number of labels; needed only for lists of label numbers.

    Raises:
        ValueError: the sizes' shape does not fit the labels and radii, there is no image, a label set
            is empty or repeats a label, or a size is above its image's ``min(k, d)``.

    Source: Jia, Qu and Gong, *MultiGuard*, NeurIPS 2022, Section 4.1.

    >>> sizes = np.array([[2, 1, 0], [1, 1, 0]])
    >>> metrics = certified_metrics(sizes, [[0, 1], [3]], k=3, radius=[0, 0.1, 0.2], label_count=5)
    >>> print(f"{metrics.precision[0]:.3f} {metrics.recall[1]:.3f} {metrics.f1[0]:.3f}")
    0.500 0.750 0.650
    """
    sizes, radius = np.asarray(sizes), require_radius(radius)
    k = require_count("k", k)
    if radius.ndim != 1 or sizes.ndim != 2 or sizes.shape[1] != len(radius) or not len(sizes):
        raise ValueError(
            f"sizes: expected (image, radius) for {radius.shape} radii and at least one image, got "
            f"{sizes.shape}."
        )
    true_labels = _true_labels(labels, len(sizes), label_count)
    if np.any((sizes < 0) | (sizes > np.minimum(k, true_labels))):
        raise ValueError("sizes: an entry is not in 0..min(k, number of true labels).")
    return CertifiedMetrics(
        radius=radius,
        precision=(sizes / k).mean(axis=0),
        recall=(sizes / true_labels).mean(axis=0),
        f1=(2 * sizes / (k + true_labels)).mean(axis=0),
    )


def _true_labels(labels: Labels, images: int, label_count: int | None) -> np.ndarray:
    if label_count is None:
        label_count = (
            np.shape(labels)[-1] if isinstance(labels, np.ndarray) else _largest(labels) + 1
        )
    return multi_hot(labels, (images, label_count)).sum(axis=1, keepdims=True)


def _largest(labels: Any) -> int:
    return max((int(label) for row in labels for label in row), default=0)
