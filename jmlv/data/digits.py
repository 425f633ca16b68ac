"""The embedded default data: two of scikit-learn's digits in one image."""

from __future__ import annotations

from typing import Literal

import numpy as np
from jaxtyping import Float, Float32, Int

from jmlv.data.compose import DigitSource, compose_digits, generator
from jmlv.data.images import MultiLabelImages
from jmlv.data.warp import Warp

CANVAS = 32
DIGIT_SIDE = 15
TEST_FRACTION = 0.2
"""Share of each label's digits that make test images; the others make training ones."""

MAX_INK = 16.0


def double_digits(
    split: Literal["train", "test"] = "train",
    *,
    size: int = 2000,
    seed: int = 0,
    warp: Warp | None = None,
) -> MultiLabelImages:
    r"""Images of 32x32 pixels with two different handwritten digits.

    The 8x8 digits of ``sklearn.datasets.load_digits`` are divided by 16, enlarged
    bilinearly to 15x15, and placed at random, one in the left half and one in the
    right. Test images are made of 355 of the 1,797 digits, a fifth of each label's,
    drawn once for all seeds; training images of the other 1,442. The two splits share
    no digit; they do share writers, whom scikit-learn's copy of the data does not name.

    Args:
        split: which digits to compose from.
        size: number of images.
        seed: equal seeds give equal images; splits use different random streams.
        warp: deforms every digit a little (more handwriting to train on).

    Raises:
        ValueError: the split is unknown, or the size or seed is negative.

    Source: Alpaydin and Kaynak, *Optical Recognition of Handwritten Digits*, UCI Machine Learning
    Repository, 1998 (its test part), CC BY 4.0.

    >>> data = double_digits("test", size=3)
    >>> data.images.shape, data.labels.sum(axis=1).tolist()
    ((3, 32, 32, 1), [2, 2, 2])
    """
    generator(split, seed)
    return compose_digits(
        _source(split), size=size, canvas=CANVAS, split=split, seed=seed, warp=warp
    )


def _source(split: str) -> DigitSource:
    from sklearn.datasets import load_digits

    digits = load_digits()
    indices = np.arange(len(digits.target))
    kept = np.isin(indices, _test_indices(digits.target)) == (split == "test")
    return DigitSource(
        images=enlarge(digits.images[kept] / MAX_INK, DIGIT_SIDE),
        labels=digits.target[kept],
        indices=indices[kept],
        origin="scikit-learn load_digits",
    )


def _test_indices(labels: Int[np.ndarray, " digit"]) -> Int[np.ndarray, " test"]:
    """The same fifth of each label's digits whatever the seed of the images."""
    rng = np.random.default_rng(0)
    members = [rng.permutation(np.flatnonzero(labels == c)) for c in np.unique(labels)]
    return np.concatenate([m[: int(TEST_FRACTION * len(m))] for m in members])


def enlarge(
    images: Float[np.ndarray, "image small small"], side: int
) -> Float32[np.ndarray, "image {side} {side}"]:
    """Bilinear resize of square images to ``side`` pixels, with half-pixel centres.

    >>> enlarge(np.ones((1, 8, 8)), 14).shape
    (1, 14, 14)
    """
    weights = _bilinear(images.shape[1], side)
    return np.clip(weights @ images @ weights.T, 0, 1).astype(np.float32)


def _bilinear(source: int, target: int) -> Float[np.ndarray, "{target} {source}"]:
    """Interpolation weights of one axis; each row sums to 1."""
    centres = (np.arange(target) + 0.5) * source / target - 0.5
    places = np.clip(centres, 0, source - 1)[:, None]
    return np.maximum(0, 1 - np.abs(places - np.arange(source)))
