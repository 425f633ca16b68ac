"""Distinct digits side by side: the composition that the digit data sets share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Int

from jmlv.data.images import MultiLabelImages
from jmlv.data.warp import Warp

INK_THRESHOLD = 0.2
"""A pixel belongs to an object where the object's value there is above this."""

SPLITS = ("train", "test")
_DIGITS = tuple(str(digit) for digit in range(10))


@dataclass(frozen=True, eq=False)
class DigitSource:
    """Single digits to compose images from.

    Attributes:
        images: (digit, side, side) in [0, 1].
        labels: (digit,) in 0..9.
        indices: (digit,), the place of each in its origin.
        origin: where the digits come from, in words.
    """

    images: Float32[np.ndarray, "digit side side"]
    labels: Int[np.ndarray, " digit"]
    indices: Int[np.ndarray, " digit"]
    origin: str


def generator(split: str, seed: int) -> np.random.Generator:
    """The random numbers of one split: another stream for each seed and split.

    Raises:
        ValueError: the split is unknown or the seed is negative.

    >>> int(generator("test", 0).integers(1000)) == int(generator("test", 0).integers(1000))
    True
    """
    if split not in SPLITS:
        raise ValueError(f"split: got {split!r}; expected one of {SPLITS}. Pass the split by name.")
    if seed < 0:
        raise ValueError(f"seed: got {seed}; expected 0 or more. Pass such a seed.")
    return np.random.default_rng([seed, SPLITS.index(split)])


def compose_digits(
    source: DigitSource,
    *,
    size: int,
    canvas: int,
    split: str,
    seed: int,
    warp: Warp | None = None,
    objects: int = 2,
) -> MultiLabelImages:
    """``size`` images with ``objects`` digits of different labels, from left to right.

    The image is cut into as many strips as there are digits, and each digit lies at a uniformly random
    place of its strip, so that no two overlap. An object's mask is the pixels where its value exceeds
    ``INK_THRESHOLD``.

    Args:
        canvas: height and width of the image in pixels, at least ``objects`` times the side of a digit.
        warp: deforms each digit before it is placed.
        objects: digits an image, at least two.

    Raises:
        ValueError: ``size`` is negative, there are fewer than two objects, the canvas is too small, the
            source has fewer labels than objects, or a digit has no pixel of ink.
    """
    rng = generator(split, seed)
    _check(source, size, canvas, objects)
    chosen = _choose_distinct(source.labels, size, objects, rng)
    corners = _random_corners(size, canvas, source.images.shape[1], objects, rng)
    layers = _place(_warped(source.images[chosen], warp, rng), corners, canvas)
    object_labels = source.labels[chosen].astype(np.int64)
    return MultiLabelImages(
        images=layers.sum(axis=1)[..., None],
        labels=_multi_hot(object_labels, len(_DIGITS)),
        masks=layers > INK_THRESHOLD,
        object_labels=object_labels,
        source_indices=source.indices[chosen],
        label_names=_DIGITS,
        split=split,
        origin=source.origin,
    )


def _check(source: DigitSource, size: int, canvas: int, objects: int) -> None:
    side = source.images.shape[1]
    if size < 0:
        raise ValueError(f"size: got {size}; expected 0 or more images.")
    if objects < 2:
        raise ValueError(f"objects: got {objects}; expected at least 2 digits an image.")
    if canvas < objects * side:
        raise ValueError(
            f"canvas: got {canvas} pixels for {objects} digits of {side}; expected at least "
            f"{objects * side}. Enlarge the canvas or shrink the digits."
        )
    if len(np.unique(source.labels)) < objects:
        raise ValueError(
            f"source: got digits of {len(np.unique(source.labels))} label(s) from "
            f"{source.origin}; expected at least {objects}, as the digits of an image "
            "differ. Use a larger source."
        )
    blank = ~(source.images > INK_THRESHOLD).any(axis=(1, 2))
    if blank.any():
        raise ValueError(
            f"source: got {blank.sum()} digit(s) from {source.origin} with no pixel "
            f"above {INK_THRESHOLD}, the first at index "
            f"{source.indices[blank.argmax()]}; expected ink in each. Remove them."
        )


def _choose_distinct(
    labels: Int[np.ndarray, " digit"], size: int, objects: int, rng: np.random.Generator
) -> Int[np.ndarray, "image {objects}"]:
    """Positions into ``labels``: first distinct labels, uniformly, then one digit of each, uniformly."""
    order = np.argsort(labels, kind="stable")
    _, starts, counts = np.unique(labels[order], return_index=True, return_counts=True)
    first = rng.integers(len(starts), size=size)
    offsets = _distinct_offsets(len(starts), size, objects, rng)
    chosen = (first[:, None] + offsets) % len(starts)
    return order[starts[chosen] + rng.integers(counts[chosen])]


def _distinct_offsets(
    count: int, size: int, objects: int, rng: np.random.Generator
) -> Int[np.ndarray, "image {objects}"]:
    """Rows of a zero and of distinct numbers in 1..count-1, uniformly."""
    offsets = np.zeros((size, 1), np.int64)
    for taken in range(1, objects):
        drawn = rng.integers(1, count - taken + 1, size=size)
        for smaller in np.sort(offsets[:, 1:], axis=1).T:
            drawn += drawn >= smaller  # the drawn-th of those not taken
        offsets = np.column_stack([offsets, drawn])
    return offsets


def _random_corners(
    size: int, canvas: int, side: int, objects: int, rng: np.random.Generator
) -> Int[np.ndarray, "image {objects} 2"]:
    """Top and left of each digit's square: (image, object, 2)."""
    strip = canvas // objects
    tops = rng.integers(canvas - side + 1, size=(size, objects))
    starts = np.arange(objects) * (canvas - strip) // (objects - 1)
    lefts = rng.integers(strip - side + 1, size=(size, objects)) + starts
    return np.stack([tops, lefts], axis=-1)


def _warped(
    digits: Float32[np.ndarray, "image object side side"],
    warp: Warp | None,
    rng: np.random.Generator,
) -> Float32[np.ndarray, "image object side side"]:
    if warp is None:
        return digits
    single = digits.reshape(-1, *digits.shape[2:])
    return warp.apply(single, rng).reshape(digits.shape)


def _place(
    digits: Float32[np.ndarray, "image object side side"],
    corners: Int[np.ndarray, "image object 2"],
    canvas: int,
) -> Float32[np.ndarray, "image object canvas canvas"]:
    """Each digit alone on a black canvas."""
    size, objects, side = digits.shape[:3]
    layers = np.zeros((size, objects, canvas, canvas), np.float32)
    rows = corners[..., 0, None, None] + np.arange(side)[:, None]
    columns = corners[..., 1, None, None] + np.arange(side)[None, :]
    image = np.arange(size)[:, None, None, None]
    which = np.arange(objects)[None, :, None, None]
    layers[image, which, rows, columns] = digits
    return layers


def _multi_hot(
    object_labels: Int[np.ndarray, "image object"], classes: int
) -> Bool[np.ndarray, "image {classes}"]:
    return (object_labels[..., None] == np.arange(classes)).any(axis=1)
