"""Multi-label tables in MULAN's files: an ARFF table and an XML list of its labels."""

from __future__ import annotations

from pathlib import Path
from typing import Literal
from xml.etree import ElementTree

import numpy as np
from jaxtyping import Bool, Float

from jmlv.data.arff import Arff, Attribute, read_arff
from jmlv.data.compose import generator
from jmlv.data.images import MultiLabelImages
from jmlv.errors import DamagedFile

TEST_SHARE = 0.2
"""Share of the rows that test where the files name no split."""

_SOURCE = (
    "Get the data set from MULAN (mulan.sourceforge.net/datasets-mlc.html) and unpack it there."
)


def mulan(
    folder: str | Path,
    name: str,
    split: Literal["train", "test"] = "train",
    *,
    scale: bool = True,
    missing: Literal["refuse", "mean"] = "refuse",
    seed: int = 0,
) -> MultiLabelImages:
    r"""A table whose rows have several labels: features as images of one row of pixels.

    ``folder`` holds ``name.xml``, which lists the labels, and ``name-train.arff`` and
    ``name-test.arff``, or ``name.arff``, of which a fifth of the rows, drawn by ``seed``, tests. An
    image is (1, feature, 1), so a mask picks features. A nominal feature of two values is 0 or 1, one
    of more has a pixel for each value. Labels are in the order of the ARFF file.

    Args:
        folder: where the files are.
        name: of the data set, for instance ``"scene"``.
        split: which rows.
        scale: $(x - \min) / (\max - \min)$ of the training rows for each feature, clipped to [0, 1];
            0 where all training rows agree. Without it, features are as in the file: most verbs want
            [0, 1].
        missing: what to do about ``?``: refuse, or put the mean of the training rows there.
        seed: of the split, where the files name none.

    Returns:
        Rows as images; no objects; ``source_indices`` are the rows' numbers, over both files.

    Raises:
        FileNotFoundError: the folder or a file is missing.
        DamagedFile: a row, an attribute or the list of labels is damaged, a label is not in the
            table or not 0 or 1, the two files have other attributes, or a name is there twice.
        ValueError: the split or ``missing`` is unknown, or a value is missing and that is refused.

    Source: Tsoumakas et al., *MULAN: A Java Library for Multi-Label Learning*, JMLR 2011.

    >>> mulan("no/such/folder", "scene")
    Traceback (most recent call last):
    FileNotFoundError: folder: got 'no/such/folder', which is not a folder; expected ...
    """
    rng = generator("train", seed)  # one stream: the two splits must not overlap
    generator(split, seed)
    _check_missing(missing)
    parts, origin = _read(_checked(folder), name, rng)
    label = _label_columns(_label_names(Path(folder) / f"{name}.xml"), parts["train"][0], name)
    features = {part: _features(table, label) for part, (table, _) in parts.items()}
    table, rows = parts[split]
    x = _filled(features[split], features["train"], missing, name)
    if scale:
        x = _scaled(x, features["train"])
    return MultiLabelImages(
        images=x.astype(np.float32)[:, None, :, None],
        labels=_labels(table, label, name),
        masks=np.zeros((len(x), 0, 1, x.shape[1]), bool),
        object_labels=np.zeros((len(x), 0), np.int64),
        source_indices=rows[:, None],
        label_names=tuple(a.name for a, is_label in zip(table.attributes, label) if is_label),
        split=split,
        origin=origin,
    )


Parts = dict[str, tuple[Arff, np.ndarray]]
"""The table of each split, and its rows' numbers over the whole data set."""


def _checked(folder: str | Path) -> Path:
    path = Path(folder)
    if not path.is_dir():
        raise FileNotFoundError(
            f"folder: got {str(folder)!r}, which is not a folder; expected one with MULAN's ARFF and "
            f"XML files. {_SOURCE}"
        )
    return path


def _check_missing(missing: str) -> None:
    if missing not in ("refuse", "mean"):
        raise ValueError(f"missing: got {missing!r}; expected 'refuse' or 'mean'.")


def _read(folder: Path, name: str, rng: np.random.Generator) -> tuple[Parts, str]:
    """Both splits, from two files or from one, and where they come from."""
    files = [folder / f"{name}-train.arff", folder / f"{name}-test.arff"]
    whole, metadata = folder / f"{name}.arff", folder / f"{name}.xml"
    absent = [file.name for file in (*files, metadata) if not file.is_file()]
    if whole.is_file() and metadata.is_file() and absent:
        return _divided(read_arff(whole), rng), f"MULAN {name}, split at random"
    if absent:
        there = sorted({p.stem for p in folder.glob("*.xml")})
        raise FileNotFoundError(
            f"folder: got {str(folder)!r} without {', '.join(absent)} (nor is there a {whole.name} "
            f"with its XML); it has data sets {there}. {_SOURCE}"
        )
    train, test = map(read_arff, files)
    if train.attributes != test.attributes:
        raise DamagedFile(
            f"folder: {files[0].name} and {files[1].name} declare other attributes; expected the "
            f"same in both. {_SOURCE}"
        )
    border, end = len(train.values), len(train.values) + len(test.values)
    rows = {"train": np.arange(border), "test": np.arange(border, end)}
    return {"train": (train, rows["train"]), "test": (test, rows["test"])}, f"MULAN {name}"


def _divided(table: Arff, rng: np.random.Generator) -> Parts:
    order = rng.permutation(len(table.values))
    border = int(TEST_SHARE * len(order))
    rows = {"test": np.sort(order[:border]), "train": np.sort(order[border:])}
    return {part: (_subset(table, chosen), chosen) for part, chosen in rows.items()}


def _subset(table: Arff, rows: np.ndarray) -> Arff:
    return Arff(table.attributes, table.values[rows], tuple(table.lines[row] for row in rows))


def _label_names(path: Path) -> list[str]:
    """The names in the XML file, nested labels too."""
    try:
        root = ElementTree.parse(path).getroot()
        names = [e.attrib["name"] for e in root.iter() if e.tag.rpartition("}")[2] == "label"]
    except (ElementTree.ParseError, KeyError) as error:
        raise DamagedFile(
            f"folder: {path.name} is no list of labels ({error}). {_SOURCE}"
        ) from error
    if len(names) < 2 or len(set(names)) != len(names):
        raise DamagedFile(
            f"folder: {path.name} lists the labels {names}; expected at least two, each once. {_SOURCE}"
        )
    return names


def _label_columns(names: list[str], table: Arff, name: str) -> Bool[np.ndarray, " attribute"]:
    """Which attributes are labels."""
    known = [attribute.name for attribute in table.attributes]
    unknown = sorted(set(names) - set(known))
    if unknown:
        raise DamagedFile(
            f"folder: {name}.xml lists labels that the table does not have: {unknown}. Use the XML "
            "file of this table."
        )
    if len(names) == len(known):
        raise DamagedFile(f"folder: {name}: every attribute is a label; expected features too.")
    return np.isin(known, names)


def _labels(table: Arff, label: np.ndarray, name: str) -> Bool[np.ndarray, "row label"]:
    chosen = [a for a, is_label in zip(table.attributes, label) if is_label]
    values = np.stack(
        [_zero_or_one(a, column) for a, column in zip(chosen, table.values[:, label].T)], axis=1
    )
    wrong = ~np.isin(values, (0, 1))
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        raise DamagedFile(
            f"folder: {name}, line {table.lines[row]}: label {chosen[column].name!r} is not 0 or 1. "
            "Correct the row, or remove it."
        )
    return values == 1


def _zero_or_one(attribute: Attribute, column: np.ndarray) -> np.ndarray:
    """A label's numbers; nominal places become the values they stand for, NaN if those are others."""
    if attribute.values is None:
        return column
    numbers = np.array([{"0": 0.0, "1": 1.0}.get(value, np.nan) for value in attribute.values])
    known = np.isfinite(column)
    return np.where(known, numbers[np.where(known, column, 0).astype(int)], np.nan)


def _features(table: Arff, label: np.ndarray) -> Float[np.ndarray, "row feature"]:
    """The attributes that are no labels; NaN where a value is missing."""
    chosen = [i for i, is_label in enumerate(label) if not is_label]
    columns = [_columns(table.attributes[i], table.values[:, i]) for i in chosen]
    return np.concatenate(columns, axis=1)


def _columns(attribute: Attribute, column: np.ndarray) -> Float[np.ndarray, "row column"]:
    if attribute.values is None or len(attribute.values) < 3:
        return column[:, None]
    hot = (column[:, None] == np.arange(len(attribute.values))).astype(float)
    return np.where(np.isnan(column)[:, None], np.nan, hot)


def _filled(
    x: np.ndarray, train: np.ndarray, missing: str, name: str
) -> Float[np.ndarray, "row feature"]:
    """The features without gaps; gaps of the training rows are refused too, as these set the scale."""
    gaps = int(np.isnan(x).any(axis=1).sum()), int(np.isnan(train).any(axis=1).sum())
    if missing == "refuse" and any(gaps):
        raise ValueError(
            f"missing: {name} has missing values (?) in {gaps[0]} of these {len(x)} rows, and in "
            f"{gaps[1]} of the {len(train)} training rows. Pass missing='mean' to put the mean of "
            "the training rows there."
        )
    known = np.isfinite(train)
    mean = np.where(known, train, 0).sum(0) / np.maximum(known.sum(0), 1)
    return np.where(np.isnan(x), mean, x)


def _scaled(x: np.ndarray, train: np.ndarray) -> Float[np.ndarray, "row feature"]:
    low, high = np.fmin.reduce(train), np.fmax.reduce(train)
    span = np.where(high > low, high - low, 1.0)
    return np.nan_to_num(np.clip((x - low) / span, 0, 1))
