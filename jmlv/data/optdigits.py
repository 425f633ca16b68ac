"""Two of UCI's handwritten digits in one image, with other writers in each split."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np

from jmlv.data.compose import DigitSource, compose_digits, generator
from jmlv.data.digits import CANVAS, DIGIT_SIDE, MAX_INK, enlarge
from jmlv.data.images import MultiLabelImages
from jmlv.data.warp import Warp
from jmlv.errors import DamagedFile

SIDE = 8
FILES = {"train": "optdigits.tra", "test": "optdigits.tes"}

_SOURCE = (
    "Get optdigits.tra and optdigits.tes from the UCI Machine Learning Repository, data set 80, "
    "*Optical Recognition of Handwritten Digits*."
)


def double_optdigits(
    folder: str | Path,
    split: Literal["train", "test"] = "train",
    *,
    size: int = 2000,
    seed: int = 0,
    warp: Warp | None = None,
) -> MultiLabelImages:
    """Images of 32x32 pixels with two different digits, as :func:`jmlv.data.double_digits` makes them.

    ``folder`` holds ``optdigits.tra`` (3,823 digits of 30 writers) and ``optdigits.tes`` (1,797 digits
    of 13 others, those of scikit-learn's ``load_digits``): no writer is in both splits.

    Args:
        folder: where the files are.
        split, size, seed, warp: as in :func:`jmlv.data.double_digits`.

    Raises:
        FileNotFoundError: the folder or the file is missing.
        DamagedFile: a row is not 64 whole numbers in 0..16 and a digit; the message has its line.
        ValueError: the split is unknown, or the size or seed is negative.

    Source: Alpaydin and Kaynak, *Optical Recognition of Handwritten Digits*, UCI Machine Learning
    Repository, 1998, CC BY 4.0.

    >>> double_optdigits("no/such/folder")
    Traceback (most recent call last):
    FileNotFoundError: folder: got no optdigits.tra in 'no/such/folder'. Get ...
    """
    generator(split, seed)
    path = Path(folder) / FILES[split]
    if not path.is_file():
        raise FileNotFoundError(f"folder: got no {path.name} in {str(folder)!r}. {_SOURCE}")
    return compose_digits(
        _source(path), size=size, canvas=CANVAS, split=split, seed=seed, warp=warp
    )


def _source(path: Path) -> DigitSource:
    lines = list(enumerate(path.read_text(encoding="utf-8-sig", errors="replace").splitlines(), 1))
    if lines and lines[0][1][:1].isalpha():  # some copies name the columns
        del lines[0]
    rows = [_row(line, f"{path.name}, line {number}") for number, line in lines if line.strip()]
    values = np.array(rows, np.int64).reshape(-1, SIDE**2 + 1)
    pixels = values[:, :-1].reshape(-1, SIDE, SIDE) / MAX_INK
    return DigitSource(
        images=enlarge(pixels, DIGIT_SIDE),
        labels=values[:, -1],
        indices=np.arange(len(values)),
        origin=f"UCI {path.name}",
    )


def _row(line: str, where: str) -> list[int]:
    fields = line.split(",")
    try:
        values = [int(field) for field in fields]
    except ValueError:
        values = []
    right = len(values) == SIDE**2 + 1 and 0 <= min(values) and max(values[:-1]) <= MAX_INK
    if not right or values[-1] > 9:
        raise DamagedFile(
            f"folder: {where}: got {len(fields)} fields, {line[:40]!r}...; expected 64 whole numbers "
            f"from 0 to 16 and a digit. {_SOURCE}"
        )
    return values
