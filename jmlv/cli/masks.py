"""The pixels of the perturbed object, from a picture or from annotations in COCO's format."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool

from jmlv.errors import DamagedFile

Mask = Bool[np.ndarray, "height width"]


def masks_for(
    path: Path, names: Sequence[str], size: tuple[int, int], chosen: str | None, resize: bool
) -> list[Mask]:
    """One mask for each image.

    Args:
        path: a picture whose pixels that are not black are the object, of one image or of all; a
            folder with a picture of each image's name; or COCO's JSON, which names the images.
        names: of the images, without suffix.
        size: (height, width) of the images.
        chosen: with COCO, the category whose objects are meant; by default the largest object.
        resize: whether pictures of another size are fitted.

    Raises:
        FileNotFoundError: there is no mask of some image.
        DamagedFile: a file cannot be read.
        ValueError: a mask has another size, or no object is in some image.

    Source of the format: https://cocodataset.org/#format-data
    """
    if path.suffix.lower() == ".json":
        content = _content(path)
        return [_annotated(content, path, name, size, chosen) for name in names]
    if chosen is not None:
        raise ValueError(f"object: {chosen!r} is a category of COCO's JSON; {path} is none.")
    files = [_file_of(path, name) for name in names] if path.is_dir() else [path] * len(names)
    return [_picture(file, size, resize) for file in files]


def _file_of(folder: Path, name: str) -> Path:
    found = sorted(f for f in folder.iterdir() if f.stem == name)
    if not found:
        raise FileNotFoundError(f"masks: there is no mask called {name}.png in {folder}.")
    return found[0]


def _picture(path: Path, size: tuple[int, int], resize: bool) -> Mask:
    from PIL import Image

    try:
        with Image.open(path) as picture:
            picture = picture.convert("L")
            if resize:
                picture = picture.resize(size[::-1], Image.Resampling.NEAREST)
            mask = np.asarray(picture) > 0
    except FileNotFoundError:
        raise
    except (OSError, SyntaxError) as error:
        raise DamagedFile(f"masks: {path} cannot be read ({error}).") from error
    if mask.shape != size:
        raise ValueError(
            f"masks: {path} is {mask.shape}, the images are {size}. Fit it with --resize."
        )
    return _with_object(mask, str(path))


def _content(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
        return {part: list(content[part]) for part in ("images", "annotations", "categories")}
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedFile(f"masks: {path} is not COCO's JSON ({error!r}).") from error


def _annotated(
    content: dict[str, Any], path: Path, name: str, size: tuple[int, int], chosen: str | None
) -> Mask:
    try:
        entries = [i for i in content["images"] if Path(i["file_name"]).stem == name]
        if not entries:
            raise FileNotFoundError(f"masks: {path} has no image called {name}.")
        objects = [a for a in content["annotations"] if a["image_id"] == entries[0]["id"]]
        if chosen is not None:
            ids = {c["id"] for c in content["categories"] if chosen in (c["name"], str(c["id"]))}
            objects = [a for a in objects if a["category_id"] in ids]
        else:
            objects = sorted(objects, key=lambda a: -a["bbox"][2] * a["bbox"][3])[:1]
        drawn = [_drawn(a, entries[0], size) for a in objects]
    except (KeyError, TypeError, IndexError) as error:
        raise DamagedFile(
            f"masks: {path} has an entry without what COCO's have ({error!r})."
        ) from error
    place = f"{path} for image {name}" + (f", category {chosen}" if chosen else "")
    return _with_object(np.any([np.zeros(size, bool), *drawn], axis=0), place)


def _drawn(annotation: dict[str, Any], image: dict[str, Any], size: tuple[int, int]) -> Mask:
    """An object's polygons, or its box, in pixels of the network's images."""
    from PIL import Image, ImageDraw

    height, width = size
    scale = np.array([width / image["width"], height / image["height"]])
    polygons = annotation.get("segmentation")
    if not isinstance(polygons, list) or not polygons:  # a run-length code stands for crowds
        left, top, across, down = annotation["bbox"]
        polygons = [[left, top, left + across, top, left + across, top + down, left, top + down]]
    canvas = Image.new("1", (width, height))
    for polygon in polygons:
        corners = np.reshape(np.asarray(polygon, float), (-1, 2)) * scale
        ImageDraw.Draw(canvas).polygon([tuple(corner) for corner in corners], fill=1)
    return np.asarray(canvas, bool)


def _with_object(mask: Mask, place: str) -> Mask:
    if not mask.any():
        raise ValueError(f"masks: no pixel is set in {place}.")
    return mask
