"""The label set of the smoothed classifier."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
from jaxtyping import Array, Bool, Int, Key

from jmlv.smoothing.arguments import require_count, require_counts


@dataclasses.dataclass(frozen=True, eq=False)
class Prediction:
    """What the smoothed classifier predicts for one input or several.

    Args:
        labels: (image, k) or (k,), the labels of the largest counts, falling.
        tied: multi-hot, (image, label) or (label,): the labels of equal count of which some are in
            and some are out; all false where there was no such choice.
    """

    labels: Int[np.ndarray, "*image k"]
    tied: Bool[np.ndarray, "*image label"]


def predict(
    counts: Int[np.ndarray, "*image label"], k: int, *, key: Key[Array, ""] | None = None
) -> Prediction:
    """The k labels of the largest counts: the Monte Carlo estimate of the smoothed label set.

    Args:
        counts: what :func:`jmlv.smoothing.sample_counts` returned, for one image or several.
        k: number of labels to predict.
        key: breaks ties at random. Without one, the labels of the lowest numbers win. Either way
            ``tied`` reports the labels among which that decided.

    Raises:
        ValueError: ``k`` is not in 1..labels, or counts are not whole numbers of at least 0.

    Source: Jia, Qu and Gong, *MultiGuard*, NeurIPS 2022, Section 3.1.

    >>> prediction = predict([5, 9, 5, 1], 2)
    >>> prediction.labels, np.flatnonzero(prediction.tied)
    (array([1, 0]), array([0, 2]))
    """
    counts = require_counts(counts, np.iinfo(np.int64).max)
    k = require_count("k", k, most=counts.shape[-1])
    draw = np.zeros(counts.shape)
    if key is not None:
        draw = np.asarray(jax.random.uniform(key, counts.shape))
    order = np.lexsort((draw, -counts), axis=-1)
    border = np.take_along_axis(counts, order[..., k - 1 : k], axis=-1)
    equal = counts == border
    split = (counts >= border).sum(axis=-1, keepdims=True) > k
    return Prediction(labels=order[..., :k], tied=equal & split)
