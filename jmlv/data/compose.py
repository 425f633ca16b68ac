"""Two distinct objects side by side: the composition that every data set shares."""

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


def compose_pairs(
    source: DigitSource,
    *,
    size: int,
    canvas: int,
    split: str,
    seed: int,
    warp: Warp | None = None,
) -> MultiLabelImages:
    """``size`` images with two digits of different labels, one in each half.

    Object 0 lies in the left half, object 1 in the right; each is at a uniformly
    random place of its half, so the two never overlap. An object's mask is the
    pixels where its value exceeds ``INK_THRESHOLD``.

    Args:
        canvas: height and width of the image in pixels, at least twice the side of a digit.
        warp: deforms each digit before it is placed.

    Raises:
        ValueError: ``size`` is negative, the canvas is too small, the source has fewer than two
            labels, or a digit has no pixel of ink.
    """
    rng = generator(split, seed)
    _check(source, size, canvas)
    chosen = _choose_distinct(source.labels, size, rng)
    corners = _random_corners(size, canvas, source.images.shape[1], rng)
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


def _check(source: DigitSource, size: int, canvas: int) -> None:
    side = source.images.shape[1]
    if size < 0:
        raise ValueError(f"size: got {size}; expected 0 or more images.")
    if canvas < 2 * side:
        raise ValueError(
            f"canvas: got {canvas} pixels for two digits of {side}; expected at least "
            f"{2 * side}. Enlarge the canvas or shrink the digits."
        )
    if len(np.unique(source.labels)) < 2:
        raise ValueError(
            f"source: got digits of {len(np.unique(source.labels))} label(s) from "
            f"{source.origin}; expected at least two, as the two digits of an image "
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
    labels: Int[np.ndarray, " digit"], size: int, rng: np.random.Generator
) -> Int[np.ndarray, "image 2"]:
    """Pairs of positions into ``labels``: first two distinct labels, uniformly,
    then one digit of each, uniformly."""
    order = np.argsort(labels, kind="stable")
    _, starts, counts = np.unique(labels[order], return_index=True, return_counts=True)
    first = rng.integers(len(starts), size=size)
    second = (first + rng.integers(1, len(starts), size=size)) % len(starts)
    pair = np.stack([first, second], axis=1)
    return order[starts[pair] + rng.integers(counts[pair])]


def _random_corners(
    size: int, canvas: int, side: int, rng: np.random.Generator
) -> Int[np.ndarray, "image 2 2"]:
    """Top and left of each digit's square: (image, object, 2)."""
    half = canvas // 2
    tops = rng.integers(canvas - side + 1, size=(size, 2))
    lefts = rng.integers(half - side + 1, size=(size, 2)) + np.array([0, canvas - half])
    return np.stack([tops, lefts], axis=-1)


def _warped(
    digits: Float32[np.ndarray, "image 2 side side"],
    warp: Warp | None,
    rng: np.random.Generator,
) -> Float32[np.ndarray, "image 2 side side"]:
    if warp is None:
        return digits
    single = digits.reshape(-1, *digits.shape[2:])
    return warp.apply(single, rng).reshape(digits.shape)


def _place(
    digits: Float32[np.ndarray, "image 2 side side"],
    corners: Int[np.ndarray, "image 2 2"],
    canvas: int,
) -> Float32[np.ndarray, "image 2 canvas canvas"]:
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
