"""NUS-WIDE photographs with their labels, from the list file of the ASL release."""

from __future__ import annotations

import ast
import csv
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np

from jmlv.data.compose import SPLITS
from jmlv.data.photographs import Photograph, Photographs, require_files
from jmlv.errors import DamagedFile

LIST = "nus_wid_data.csv"

_SOURCE = (
    f"Get the list and the photographs from the model zoo of the ASL release (github.com/Alibaba-MIIL/"
    f"ASL) and put {LIST} and its images/ there."
)
_PARTS = {"train": "train", "val": "test"}


def nus_wide(
    folder: str | Path, split: Literal["train", "test"] = "train", *, side: int = 224
) -> Photographs:
    """The photographs of one split, in the order of the list, decoded when indexed.

    ``nus_wid_data.csv`` has three columns: a file, ``label``, a list such as ``['clouds', 'sky']``, and
    ``train`` or ``val``, which makes test images. The labels are those that occur in either split, by
    name. There are no boxes.

    Args:
        folder: with the list and the photographs that it names.
        split: which of the two.
        side: height and width to resize to, in pixels; proportions are not kept.

    Raises:
        FileNotFoundError: the list or photographs are missing.
        DamagedFile: a row of the list is damaged, or names a file twice; the message has its line. A
            damaged photograph is found when it is indexed.
        ValueError: the split is unknown or the side is not positive.
        ImportError: Pillow is not installed.

    Source: Chua et al., *NUS-WIDE: A Real-World Web Image Database from National University of
    Singapore*, CIVR 2009; list and split of Ben-Baruch et al., *Asymmetric Loss For Multi-Label
    Classification*, 2020.

    >>> nus_wide("no/such/folder")
    Traceback (most recent call last):
    FileNotFoundError: folder: got no nus_wid_data.csv in 'no/such/folder'. Get the list and ...
    """
    if split not in SPLITS:
        raise ValueError(f"split: got {split!r}; expected one of {SPLITS}. Pass the split by name.")
    rows = _rows(Path(folder))
    names = tuple(sorted({label for _, labels, _ in rows for label in labels}))
    chosen = [(number, *row) for number, row in enumerate(rows) if row[2] == split]
    records = tuple(
        Photograph(Path(folder) / file, number, None, np.zeros((0, 4)), np.zeros(0, np.int64))
        for number, file, _, _ in chosen
    )
    require_files(records, _SOURCE)
    return Photographs(
        records=records,
        labels=np.array([np.isin(names, labels) for _, _, labels, _ in chosen], bool).reshape(
            len(chosen), len(names)
        ),
        label_names=names,
        split=split,
        origin=f"NUS-WIDE {split}",
        side=side,
    )


def _rows(folder: Path) -> list[tuple[str, list[str], str]]:
    """File, labels and split of every row."""
    path = folder / LIST
    if not path.is_file():
        raise FileNotFoundError(f"folder: got no {LIST} in {str(folder)!r}. {_SOURCE}")
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            header, *lines = csv.reader(stream)
    except (ValueError, csv.Error) as error:
        raise DamagedFile(f"folder: {LIST} is empty or no CSV ({error}). {_SOURCE}") from error
    if len(header) != 3 or header[1] != "label":
        raise DamagedFile(
            f"folder: {LIST} has the columns {header}; expected the file's name, 'label' and the split. "
            f"{_SOURCE}"
        )
    rows, seen = [], set()
    for number, line in enumerate(lines, 2):
        rows.append(_row(line, f"{LIST}, line {number}"))
        if rows[-1][0] in seen:
            raise DamagedFile(f"folder: {LIST}, line {number}: names {rows[-1][0]} a second time.")
        seen.add(rows[-1][0])
    return rows


def _row(line: list[str], where: str) -> tuple[str, list[str], str]:
    try:
        file, text, part = line
        labels, split, inside = ast.literal_eval(text), _PARTS[part], PurePosixPath(file)
    except (ValueError, SyntaxError, KeyError) as error:
        raise DamagedFile(
            f"folder: {where}: got {line}; expected a file, a list of labels, and train or val. {_SOURCE}"
        ) from error
    listed = isinstance(labels, list) and all(isinstance(label, str) for label in labels)
    if not listed or len(set(labels)) != len(labels):
        raise DamagedFile(f"folder: {where}: got the labels {text}; expected names, each once.")
    if inside.is_absolute() or ".." in inside.parts or not file:
        raise DamagedFile(
            f"folder: {where}: got the file {file!r}; expected one inside the folder."
        )
    return file, labels, split
