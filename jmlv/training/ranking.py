"""Losses that ask for the right order: of an image's labels, and of a label's images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

Penalty = Callable[[Float[Array, "..."]], Float[Array, "..."]]
"""What a difference costs that should be positive."""


def exponential(difference: Float[Array, "..."]) -> Float[Array, "..."]:
    r"""$e^{-d}$, BP-MLL's.

    >>> float(exponential(jnp.zeros(())))
    1.0
    """
    return jnp.exp(-difference)


@dataclass(frozen=True)
class Hinge:
    r"""$\max(0, m - d)$.

    Args:
        margin: $m$, the difference from which on nothing is lost.

    Raises:
        ValueError: the margin is not positive.

    >>> float(Hinge(1.0)(jnp.asarray(0.25)))
    0.75
    """

    margin: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.margin < float("inf"):
            raise ValueError(f"margin: got {self.margin!r}; expected a positive number.")

    def __call__(self, difference: Float[Array, "..."]) -> Float[Array, "..."]:
        return jnp.maximum(self.margin - difference, 0.0)


@dataclass(frozen=True)
class InstanceWiseRanking:
    r"""The labels of an image before all others: for each image the mean over pairs

    $$\frac{1}{|Y| |\bar{Y}|} \sum_{k \in Y} \sum_{l \notin Y} \pi(F_k - F_l).$$

    An image with no label, or with all of them, has no pairs and costs nothing. An instance is a
    loss: call it with scores and labels, or pass it to :func:`jmlv.training.train`.

    Args:
        penalty: $\pi$, for instance ``Hinge()``.

    Source: Zhang and Zhou, *Multilabel Neural Networks with Applications to Functional Genomics and
    Text Categorization*, IEEE TKDE 2006, Eq. 3 (with ``exponential``).

    >>> loss = InstanceWiseRanking()(jnp.array([[1.0, 0.0, 1.0]]), jnp.array([[True, False, False]]))
    >>> print(f"{float(loss[0]):.4f}")
    0.6839
    """

    penalty: Penalty = exponential

    def __call__(
        self, scores: Float[Array, "batch label"], labels: Bool[Array | np.ndarray, "batch label"]
    ) -> Float[Array, " batch"]:
        return _pairs(scores, labels, self.penalty).sum(-1)


@dataclass(frozen=True)
class LabelWiseRanking:
    r"""The images of a label before all others: each label's mean over pairs of images in the batch,

    $$\frac{1}{|X_k| |\bar{X}_k|} \sum_{x \in X_k} \sum_{x' \notin X_k} \pi(F_k(x) - F_k(x')),$$

    summed over labels. Each image gets the pairs in which it is the one with the label, so that the
    losses of a batch add up to that sum. A label that no image of the batch has, or that all have,
    costs nothing.

    Args:
        penalty: $\pi$, for instance ``Hinge()``.

    Source: the label-wise half of Wu and Zhou, *A Unified View of Multi-Label Performance Measures*,
    ICML 2017, with BP-MLL's penalty as in ML-LIW.

    >>> loss = LabelWiseRanking()(jnp.array([[1.0], [0.0], [1.0]]), jnp.array([[True], [False], [False]]))
    >>> print([f"{float(value):.4f}" for value in loss])
    ['0.6839', '0.0000', '0.0000']
    """

    penalty: Penalty = exponential

    def __call__(
        self, scores: Float[Array, "batch label"], labels: Bool[Array | np.ndarray, "batch label"]
    ) -> Float[Array, " batch"]:
        return _pairs(scores.T, labels.T, self.penalty).sum(0)


@dataclass(frozen=True)
class LabelAndInstanceRanking:
    r"""ML-LIW's loss: both rankings, of probabilities $\sigma(F)$.

    $$w_i \cdot \text{instance-wise} + w_l \cdot \text{label-wise}$$

    Args:
        instances: $w_i$.
        labels: $w_l$.
        penalty: of both rankings.
        probabilities: whether scores go through a sigmoid first, as in ML-LIW.

    Raises:
        ValueError: a weight is negative, or both are 0.

    Source: the classifier of Zhou et al., *Generating Multi-label Adversarial Examples by Linear
    Programming*, IJCNN 2020, whose published training has the default weights 0.5 and 1; the idea is
    that of Wu and Zhou, ICML 2017.

    >>> scores, both = jnp.zeros((2, 2)), jnp.array([[True, False], [False, True]])
    >>> print(LabelAndInstanceRanking()(scores, both))
    [1.5 1.5]
    """

    instances: float = 0.5
    labels: float = 1.0
    penalty: Penalty = exponential
    probabilities: bool = True

    def __post_init__(self) -> None:
        if not min(self.instances, self.labels) >= 0 or self.instances + self.labels == 0:
            raise ValueError(
                f"instances, labels: got {self.instances!r}, {self.labels!r}; expected weights of at "
                "least 0, not both 0."
            )

    def __call__(
        self, scores: Float[Array, "batch label"], labels: Bool[Array | np.ndarray, "batch label"]
    ) -> Float[Array, " batch"]:
        scores = jax.nn.sigmoid(scores) if self.probabilities else scores
        instances = InstanceWiseRanking(self.penalty)(scores, labels)
        return self.instances * instances + self.labels * LabelWiseRanking(self.penalty)(
            scores, labels
        )


def _pairs(
    scores: Float[Array, "row column"],
    labels: Bool[Array | np.ndarray, "row column"],
    penalty: Penalty,
) -> Float[Array, "row column"]:
    """What each true entry costs against the false ones of its row, as a share of the row's pairs."""
    true = jnp.asarray(labels, bool)
    counts = true.sum(-1) * (~true).sum(-1)
    compared = true[:, :, None] & ~true[:, None, :]
    differences = jnp.where(compared, scores[:, :, None] - scores[:, None, :], 0.0)
    costs = jnp.where(compared, penalty(differences), 0.0).sum(-1)
    return costs / jnp.maximum(counts, 1)[:, None]
