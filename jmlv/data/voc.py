"""PASCAL VOC photographs with their labels and boxes, from the devkit's folders as they come."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal
from xml.etree import ElementTree

import numpy as np

from jmlv.data.photographs import Photograph, Photographs, multi_hot, require_files
from jmlv.errors import DamagedFile

LABELS = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train",
    "tvmonitor",
)  # fmt: skip

_SOURCE = (
    "Get the VOC devkit (host.robots.ox.ac.uk/pascal/VOC) and unpack it: VOCdevkit/VOC2007 with "
    "Annotations, ImageSets/Main and JPEGImages."
)
_CORNERS = ("xmin", "ymin", "xmax", "ymax")


def voc(
    folder: str | Path,
    part: Literal["train", "val", "trainval", "test"] = "trainval",
    *,
    year: int = 2007,
    side: int = 224,
    difficult: bool = False,
    label_names: Sequence[str] = LABELS,
) -> Photographs:
    """The photographs of one part of VOC, in the order of its list, decoded when indexed.

    Args:
        folder: the devkit, with ``VOC2007`` in it.
        part: a list of ``ImageSets/Main``; ``"test"`` and ``"val"`` make test images.
        year: 2007 or 2012.
        side: height and width to resize to, in pixels; proportions are not kept.
        difficult: whether objects that are marked as difficult count, as label and as object.
        label_names: the labels of annotations of one's own in VOC's layout; VOC's 20 by default.

    Raises:
        FileNotFoundError: the folder, the list, an annotation or photographs are missing.
        DamagedFile: the list names a photograph twice or in a strange way, or an annotation is
            damaged: no XML, no size, a label outside the list, or a box that is none. A damaged
            photograph is found when it is indexed.
        ValueError: the side is not positive, or a label is named twice.
        ImportError: Pillow is not installed.

    Source: Everingham et al., *The PASCAL Visual Object Classes Challenge*, IJCV 2010.

    >>> voc("no/such/folder")
    Traceback (most recent call last):
    FileNotFoundError: folder: got no ImageSets/Main/trainval.txt in 'no/such/folder/VOC2007'...
    """
    root, labels = Path(folder) / f"VOC{year}", tuple(label_names)
    if len(set(labels)) != len(labels) or not labels:
        raise ValueError(f"label_names: expected different names, got {labels}.")
    names = _names(root, part)
    records = tuple(_record(root, name, difficult, labels) for name in names)
    require_files(records, _SOURCE)
    return Photographs(
        records=records,
        labels=multi_hot(records, len(labels)),
        label_names=labels,
        split="train" if part.startswith("train") else "test",
        origin=f"PASCAL VOC {year} {part}",
        side=side,
    )


def _names(root: Path, part: str) -> list[str]:
    path = root / "ImageSets" / "Main" / f"{part}.txt"
    if not path.is_file():
        raise FileNotFoundError(
            f"folder: got no ImageSets/Main/{part}.txt in {str(root)!r}. {_SOURCE}"
        )
    names = path.read_text(encoding="utf-8-sig", errors="replace").split()
    strange = [name for name in names if not name.replace("_", "").isdecimal()]
    if strange or not names:
        raise DamagedFile(
            f"folder: {path.name} has {strange[:1] or 'no names'}; expected one number a line, as "
            f"000005 or 2008_000008. {_SOURCE}"
        )
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DamagedFile(f"folder: {path.name} names {twice} more than once. {_SOURCE}")
    return names


def _record(root: Path, name: str, difficult: bool, labels: tuple[str, ...]) -> Photograph:
    path = root / "Annotations" / f"{name}.xml"
    if not path.is_file():
        raise FileNotFoundError(f"folder: got no {path.name} in Annotations. {_SOURCE}")
    try:
        annotation = ElementTree.parse(path).getroot()
        size = tuple(int(_text(annotation, f"size/{word}")) for word in ("width", "height"))
        objects = list(_objects(annotation, difficult, labels))
    except (ElementTree.ParseError, ValueError) as error:
        raise DamagedFile(f"folder: {path.name} is damaged: {error}. {_SOURCE}") from error
    if min(size) < 1:
        raise DamagedFile(f"folder: {path.name} is of {size} pixels. {_SOURCE}")
    boxes = np.array([box for _, box in objects], float).reshape(-1, 4)
    return Photograph(
        file=root / "JPEGImages" / f"{name}.jpg",
        number=int(name.replace("_", "")),
        size=size,
        boxes=np.clip(boxes, 0, [*size, *size]),
        box_labels=np.array([label for label, _ in objects], np.int64),
    )


def _objects(
    annotation: ElementTree.Element, difficult: bool, labels: tuple[str, ...]
) -> Iterator[tuple[int, tuple[float, ...]]]:
    """Label and box of each object; VOC counts pixels from 1, and both ends belong to the box."""
    for entry in annotation.iter("object"):
        name = _text(entry, "name")
        if name not in labels:
            raise ValueError(
                f"got the label {name!r}; expected one of {list(labels)}. Pass label_names for "
                "labels of your own"
            )
        left, top, right, bottom = (float(_text(entry, f"bndbox/{word}")) for word in _CORNERS)
        finite = all(map(math.isfinite, (left, top, right, bottom)))
        if not finite or right < left or bottom < top:
            raise ValueError(f"got the box {(left, top, right, bottom)} of a {name}")
        if difficult or entry.findtext("difficult", "0").strip() != "1":
            yield labels.index(name), (left - 1, top - 1, right, bottom)


def _text(element: ElementTree.Element, path: str) -> str:
    text = element.findtext(path)
    if text is None:
        raise ValueError(f"got no {path}")
    return text.strip()
