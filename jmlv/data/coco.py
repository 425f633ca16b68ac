"""MS-COCO photographs with their labels and boxes, from the annotation files as they come."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from jmlv.data.photographs import Photograph, Photographs, multi_hot, require_files
from jmlv.errors import DamagedFile

_SOURCE = (
    "Get images and annotations from COCO (cocodataset.org, Download) and unpack both there: "
    "annotations/instances_PART.json and PART/*.jpg."
)
_SECTIONS = ("images", "annotations", "categories")


def coco(
    folder: str | Path,
    part: str = "train2017",
    *,
    side: int = 224,
    occurring: bool = False,
    crowds: bool = True,
) -> Photographs:
    """The photographs of one part of COCO, in the order of their ids, decoded when indexed.

    A label is in an image if a box of its category is. Boxes become masks at the resized size.
    Photographs without a box stay: ``data.select(data.labels.any(axis=1))`` leaves them out.

    Args:
        folder: with ``annotations/instances_PART.json`` and the photographs in ``PART/``.
        part: for instance ``"train2017"``, or ``"val2017"``, which makes test images.
        side: height and width to resize to, in pixels; proportions are not kept.
        occurring: only the categories that occur, instead of all in the file; by their ids.
        crowds: whether a box around a group (``iscrowd``) counts, as label and as object.

    Raises:
        FileNotFoundError: the folder, the annotations or photographs are missing.
        DamagedFile: the annotations are damaged: not COCO's JSON, an id that is there twice, a box
            of an unknown photograph or category, or a box that is none. A damaged photograph is
            found when it is indexed.
        ValueError: the side is not positive.
        ImportError: Pillow is not installed.

    Source: Lin et al., *Microsoft COCO: Common Objects in Context*, ECCV 2014.

    >>> coco("no/such/folder")
    Traceback (most recent call last):
    FileNotFoundError: folder: got no instances_train2017.json in 'no/such/folder/annotations'...
    """
    path = Path(folder) / "annotations" / f"instances_{part}.json"
    content = _content(path, folder)
    boxes = [box for box in content["annotations"] if crowds or not box.get("iscrowd", 0)]
    categories = _categories(content, boxes, occurring)
    records = _records(content, boxes, categories, Path(folder) / part, path.name)
    require_files(records, _SOURCE)
    return Photographs(
        records=records,
        labels=multi_hot(records, len(categories)),
        label_names=tuple(categories.values()),
        split="train" if part.startswith("train") else "test",
        origin=f"COCO {part}",
        side=side,
    )


def _content(path: Path, folder: str | Path) -> dict[str, list[dict]]:
    """The JSON file without its polygons, its three lists checked."""
    if not path.is_file():
        raise FileNotFoundError(
            f"folder: got no {path.name} in {str(Path(folder) / 'annotations')!r}. {_SOURCE}"
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"), object_hook=_without_polygons)
        lists = {name: _known(content[name], name, path.name) for name in _SECTIONS}
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, DamagedFile):
            raise
        raise DamagedFile(
            f"folder: {path.name} is not COCO's JSON ({type(error).__name__}: {error}). {_SOURCE}"
        ) from error
    return lists


def _without_polygons(entry: dict[str, Any]) -> dict[str, Any]:
    """Outlines are most of the file; they are dropped as soon as they are read."""
    entry.pop("segmentation", None)
    return entry


def _known(entries: list[dict], section: str, name: str) -> list[dict]:
    """The entries, each with a whole number of its own as id."""
    ids = Counter(entry["id"] for entry in entries)
    strange = [number for number in ids if type(number) is not int]
    if strange:
        raise DamagedFile(
            f"folder: {name} has the id {strange[0]!r} among its {section}; expected whole numbers, "
            f"as JSON numbers. {_SOURCE}"
        )
    twice = [number for number, times in ids.items() if times > 1]
    if twice:
        raise DamagedFile(
            f"folder: {name} has the id {twice[0]} more than once among its {section}; expected "
            f"each once. {_SOURCE}"
        )
    return entries


def _categories(content: dict, boxes: list[dict], occurring: bool) -> dict[int, str]:
    """Names by id, in the order of the ids."""
    used = {box.get("category_id") for box in boxes}
    kept = (c for c in content["categories"] if not occurring or c["id"] in used)
    return {c["id"]: str(c.get("name", c["id"])) for c in sorted(kept, key=lambda c: c["id"])}


def _records(
    content: dict, boxes: list[dict], categories: dict[int, str], folder: Path, name: str
) -> tuple[Photograph, ...]:
    images = sorted(content["images"], key=lambda image: image["id"])
    _refuse_repeated_files(images, name)
    known = {category["id"] for category in content["categories"]}
    members: dict[int, list] = {image["id"]: [] for image in images}
    for box in sorted(boxes, key=lambda box: box["id"]):
        _check_box(box, known, members, name)
        members[box["image_id"]].append(box)
    place = {number: label for label, number in enumerate(categories)}
    return tuple(_record(image, members[image["id"]], place, folder, name) for image in images)


def _record(
    image: dict, boxes: list[dict], place: dict[int, int], folder: Path, name: str
) -> Photograph:
    try:
        size = int(image["width"]), int(image["height"])
        file = PurePosixPath(image["file_name"])
    except (KeyError, TypeError, ValueError) as error:
        raise DamagedFile(
            f"folder: {name}: image {image['id']} lacks a whole {error}. {_SOURCE}"
        ) from error
    if file.is_absolute() or ".." in file.parts or min(size) < 1:
        raise DamagedFile(
            f"folder: {name}: image {image['id']} is {str(file)!r} of {size} pixels; expected a name "
            "inside the folder and a positive size."
        )
    corners = [(x, y, x + w, y + h) for x, y, w, h in (box["bbox"] for box in boxes)]
    return Photograph(
        file=folder / file,
        number=image["id"],
        size=size,
        boxes=np.clip(np.array(corners, float).reshape(-1, 4), 0, [*size, *size]),
        box_labels=np.array([place[box["category_id"]] for box in boxes], np.int64),
    )


def _check_box(box: dict, known: set, members: dict, name: str) -> None:
    if box.get("image_id") not in members or box.get("category_id") not in known:
        raise DamagedFile(
            f"folder: {name}: annotation {box['id']} is of image {box.get('image_id')!r} and category "
            f"{box.get('category_id')!r}; expected ones that the file lists. {_SOURCE}"
        )
    corners = box.get("bbox")
    numbers = isinstance(corners, list) and all(isinstance(v, (int, float)) for v in corners)
    whole = numbers and len(corners) == 4 and all(map(math.isfinite, corners))
    if not whole or min(corners[2:]) < 0:
        raise DamagedFile(
            f"folder: {name}: annotation {box['id']} has the box {corners!r}; expected left, top, "
            f"width and height in pixels. {_SOURCE}"
        )


def _refuse_repeated_files(images: list[dict], name: str) -> None:
    files = Counter(image.get("file_name") for image in images)
    twice = [file for file, times in files.items() if times > 1]
    if twice:
        raise DamagedFile(
            f"folder: {name} lists the file {twice[0]!r} more than once; expected one image a file."
        )
