"""How well scores tell the labels of clean images: the usual multi-label metrics, by scikit-learn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import jax
import numpy as np
from jaxtyping import Bool, Float

from jmlv.data import MultiLabelImages, Photographs
from jmlv.graph.split import scores_of, split_network

BATCH = 256


@dataclass(frozen=True)
class ClassificationMetrics:
    """The metrics of Table I in MLA-LP's paper, and mAP; all lie in [0, 1].

    Attributes:
        hamming_loss: share of (image, label) pairs that are decided wrongly; less is better.
        ranking_loss: share of (true, other) pairs of labels of an image in the wrong order, a tie
            counting as wrong, mean over images; less is better.
        micro_f1: F1 of all pairs together.
        macro_f1: mean over labels of each one's F1, 0 for a label that is never there nor predicted.
        average_precision: for each true label of an image, which share of the labels that score at
            least as high is true; mean over these and over images.
        mean_average_precision: mean over labels of the area under each one's precision-recall
            curve; labels that no image has are left out.
    """

    hamming_loss: float
    ranking_loss: float
    micro_f1: float
    macro_f1: float
    average_precision: float
    mean_average_precision: float


def classification_metrics(
    scores: Float[np.ndarray, "image label"],
    labels: Bool[np.ndarray, "image label"],
    threshold: float = 0.0,
) -> ClassificationMetrics:
    """All metrics of one set of scores.

    Args:
        scores: raw logits.
        labels: multi-hot.
        threshold: a label is predicted if its score is above it.

    Raises:
        ValueError: shapes differ, a score is not finite, or no image has a label.

    Source: Zhou et al., *Generating Multi-label Adversarial Examples by Linear Programming*, IJCNN
    2020, Table I; definitions as in Zhang and Zhou, *A Review on Multi-Label Learning Algorithms*,
    TKDE 2014.

    >>> scores, labels = np.array([[2.0, 1.0, -1.0], [1.0, -1.0, 2.0]]), np.eye(3, dtype=bool)[:2]
    >>> found = classification_metrics(scores, labels)
    >>> print(f"{found.hamming_loss:.3f} {found.ranking_loss:.3f} {found.micro_f1:.3f}")
    0.667 0.500 0.333
    """
    from sklearn import metrics

    _check(scores, labels)
    predicted = np.asarray(scores) > threshold
    truth, settings = np.asarray(labels), {"zero_division": 0.0}
    return ClassificationMetrics(
        hamming_loss=float(metrics.hamming_loss(truth, predicted)),
        ranking_loss=float(metrics.label_ranking_loss(truth, scores)),
        micro_f1=float(metrics.f1_score(truth, predicted, average="micro", **settings)),
        macro_f1=float(metrics.f1_score(truth, predicted, average="macro", **settings)),
        average_precision=float(metrics.label_ranking_average_precision_score(truth, scores)),
        mean_average_precision=mean_average_precision(scores, labels),
    )


def mean_average_precision(
    scores: Float[np.ndarray, "image label"], labels: Bool[np.ndarray, "image label"]
) -> float:
    """mAP: the mean over the labels that occur of each one's average precision over the images.

    Raises:
        ValueError: shapes differ, a score is not finite, or no image has a label.

    >>> labels = np.array([[True, False], [False, False], [True, False]])
    >>> print(f"{mean_average_precision(np.array([[2.0, 0.0], [1.0, 0.0], [0.0, 0.0]]), labels):.3f}")
    0.833
    """
    from sklearn.metrics import average_precision_score

    _check(scores, labels)
    there = np.asarray(labels).any(axis=0)
    return float(average_precision_score(labels[:, there], scores[:, there], average="macro"))


def predict(
    model: Callable, data: MultiLabelImages | Photographs
) -> Float[np.ndarray, "image label"]:
    """The scores of all images, a batch at a time.

    Args:
        model: maps images to scores, a Flax NNX module (its evaluation mode is used) or any function.

    >>> from jmlv.data import double_digits
    >>> predict(lambda x: x.mean((1, 2)), double_digits("test", size=5)).shape
    (5, 1)
    """
    network, weights = split_network(model)
    scores = jax.jit(partial(scores_of, network))
    starts = range(0, len(data), BATCH)
    rows = (np.arange(start, min(start + BATCH, len(data))) for start in starts)
    return np.concatenate([np.asarray(scores(weights, data.pixels(part))) for part in rows])


def _check(
    scores: Float[np.ndarray, "image label"], labels: Bool[np.ndarray, "image label"]
) -> None:
    if np.shape(scores) != np.shape(labels) or np.ndim(labels) != 2:
        raise ValueError(
            f"scores: got shape {np.shape(scores)} for labels of {np.shape(labels)}; expected the "
            "same, (image, label)."
        )
    if not np.isfinite(scores).all():
        raise ValueError("scores: not all are finite. Train with a smaller learning rate.")
    if not np.any(labels):
        raise ValueError("labels: no image has a label; expected at least one.")
