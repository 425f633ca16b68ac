"""Two or three MNIST digits in one image, read from MNIST's own files."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Int, UInt8

from jmlv.data.compose import DigitSource, compose_digits, generator
from jmlv.data.idx import IMAGES_MAGIC, LABELS_MAGIC, find_idx, read_idx
from jmlv.data.images import MultiLabelImages
from jmlv.data.warp import Warp
from jmlv.errors import DamagedFile

CANVAS = 64
TRIPLE_CANVAS = 84
DIGIT_SIDE = 28
TRAIN_FRACTION = 0.8
"""Share of the test files used to train where MNIST's train files are absent."""


def double_mnist(
    folder: str | Path,
    split: Literal["train", "test"] = "train",
    *,
    size: int = 2000,
    seed: int = 0,
    warp: Warp | None = None,
) -> MultiLabelImages:
    """Images of 64x64 pixels with two different MNIST digits.

    The two-digit layout of MultiDigitMNIST: digits of 28x28, one at a random place of
    the left half, one of the right. ``folder`` holds IDX files, plain or ``.gz``:
    ``train-images-idx3-ubyte`` and ``train-labels-idx1-ubyte`` (optional),
    ``t10k-images-idx3-ubyte`` and ``t10k-labels-idx1-ubyte``. Without the train files
    the test files are split by index: of 10,000, the first 8,000 train and the last
    2,000 test; the result's ``origin`` says so.

    Args:
        folder: where the files are.
        split, size, seed, warp: as in ``double_digits``.

    Raises:
        FileNotFoundError: the folder or a file is missing.
        DamagedFile: a file is truncated, has the wrong magic number or other sizes than MNIST,
            images and labels differ in number, or a label is not in 0..9.
        ValueError: the split is unknown, the size or seed is negative, or the files hold digits
            of fewer than two labels or a digit without ink.

    Source: LeCun, Cortes and Burges, *The MNIST database*, CC BY-SA 3.0; layout of Sun,
    *MultiDigitMNIST*, 2019, which also pairs a digit with its like.

    >>> double_mnist("no/such/folder")
    Traceback (most recent call last):
    FileNotFoundError: folder: got 'no/such/folder', which is not a folder; expected ...
    """
    generator(split, seed)
    source = _source(_checked(folder), split)
    return compose_digits(source, size=size, canvas=CANVAS, split=split, seed=seed, warp=warp)


def triple_mnist(
    folder: str | Path,
    split: Literal["train", "test"] = "train",
    *,
    size: int = 2000,
    seed: int = 0,
    warp: Warp | None = None,
) -> MultiLabelImages:
    """Images of 84x84 pixels with three different MNIST digits, one in each third.

    A digit of 28x28 fills its third across, so only its height in the image is random.

    Args:
        folder, split, size, seed, warp: as in :func:`double_mnist`.

    Raises:
        FileNotFoundError, DamagedFile, ValueError: as there.

    Source: as there.

    >>> triple_mnist("no/such/folder")
    Traceback (most recent call last):
    FileNotFoundError: folder: got 'no/such/folder', which is not a folder; expected ...
    """
    generator(split, seed)
    return compose_digits(
        _source(_checked(folder), split),
        size=size, canvas=TRIPLE_CANVAS, split=split, seed=seed, warp=warp, objects=3,
    )  # fmt: skip


def _checked(folder: str | Path) -> Path:
    path = Path(folder)
    if not path.is_dir():
        raise FileNotFoundError(
            f"folder: got {str(folder)!r}, which is not a folder; expected one that "
            "holds MNIST's IDX files. Check the path, or use double_digits(), which "
            "needs no files."
        )
    return path


def _source(folder: Path, split: str) -> DigitSource:
    """The digits of one split; train files are used if either is there."""
    has_train = any(find_idx(folder, stem) for stem in _stems("train"))
    if has_train:
        part = "train" if split == "train" else "t10k"
        images, labels = _read_part(folder, part)
        return _digits(images, labels, slice(None), f"MNIST {split}")
    images, labels = _read_part(folder, "t10k")
    border = int(TRAIN_FRACTION * len(labels))
    kept = slice(border) if split == "train" else slice(border, None)
    start, stop, _ = kept.indices(len(labels))
    origin = f"split of MNIST test, index {start} to {stop - 1}"
    return _digits(images, labels, kept, origin)


def _digits(
    images: UInt8[np.ndarray, "digit 28 28"],
    labels: Int[np.ndarray, " digit"],
    kept: slice,
    origin: str,
) -> DigitSource:
    return DigitSource(
        images=images[kept].astype(np.float32) / np.float32(255),
        labels=labels[kept],
        indices=np.arange(len(labels))[kept],
        origin=origin,
    )


def _stems(part: str) -> tuple[str, str]:
    return f"{part}-images-idx3-ubyte", f"{part}-labels-idx1-ubyte"


def _read_part(
    folder: Path, part: str
) -> tuple[UInt8[np.ndarray, "digit 28 28"], Int[np.ndarray, " digit"]]:
    image_path, label_path = (_required(folder, stem) for stem in _stems(part))
    images = read_idx(image_path, IMAGES_MAGIC)
    labels = read_idx(label_path, LABELS_MAGIC).astype(np.int64)
    _check_part(images, labels, image_path.name, label_path.name)
    return images, labels


def _required(folder: Path, stem: str) -> Path:
    path = find_idx(folder, stem)
    if path is None:
        raise FileNotFoundError(
            f"folder: got {str(folder)!r} without {stem}; expected {stem} or {stem}.gz "
            "in it. Put MNIST's file of that name there."
        )
    return path


def _check_part(
    images: UInt8[np.ndarray, "..."],
    labels: Int[np.ndarray, " label"],
    image_name: str,
    label_name: str,
) -> None:
    if images.shape[1:] != (DIGIT_SIDE, DIGIT_SIDE):
        raise DamagedFile(
            f"folder: {image_name} holds images of {images.shape[1:]} pixels; expected "
            f"{(DIGIT_SIDE, DIGIT_SIDE)}. Use MNIST's own files."
        )
    if len(images) != len(labels):
        raise DamagedFile(
            f"folder: got {len(images)} images in {image_name} but {len(labels)} labels "
            f"in {label_name}; expected as many of each. Use two files of one set."
        )
    if len(labels) and labels.max() > 9:
        raise DamagedFile(
            f"folder: {label_name} holds the label {labels.max()} at index "
            f"{labels.argmax()}; expected digits 0 to 9. Use MNIST's own files."
        )
