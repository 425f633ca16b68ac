"""Photographs on disk: listed at once, decoded when they are asked for."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float32, Int

from jmlv.data.images import MultiLabelImages, rows_of
from jmlv.errors import DamagedFile


@dataclass(frozen=True, eq=False)
class Photograph:
    """One file and what its list says of it.

    Attributes:
        file: a JPEG, or another format that Pillow reads.
        number: the photograph's own, by which the origin knows it.
        size: (width, height) in pixels, ``None`` where the list does not say.
        boxes: (object, 4): left, top, right, bottom in pixels of the file.
        box_labels: (object,), the label of each box.
    """

    file: Path
    number: int
    size: tuple[int, int] | None
    boxes: Float[np.ndarray, "object 4"]
    box_labels: Int[np.ndarray, " object"]


@dataclass(frozen=True, eq=False, repr=False)
class Photographs:
    """Photographs of one square size, with labels and boxes, which only indexing decodes.

    An index gives :class:`jmlv.data.MultiLabelImages`; ``select`` chooses without decoding. No decoded
    image is kept, so memory does not grow with use.

    Attributes:
        records: the files.
        labels: (image, label), multi-hot.
        label_names: one name for each label.
        split: ``"train"`` or ``"test"``.
        origin: where the photographs come from, in words.
        side: height and width that every image is resized to, in pixels.

    Raises:
        ValueError: the side is not a positive integer, or not a row of labels for each file.
        FileNotFoundError: files are missing.
        ImportError: Pillow is not installed.
    """

    records: tuple[Photograph, ...]
    labels: Bool[np.ndarray, "image label"]
    label_names: tuple[str, ...]
    split: str
    origin: str
    side: int = 224

    def __post_init__(self) -> None:
        _pillow()
        if type(self.side) is not int or self.side < 1:
            raise ValueError(f"side: got {self.side!r}; expected a number of pixels from 1 on.")
        if self.labels.shape != (len(self.records), len(self.label_names)):
            raise ValueError(
                f"labels: got shape {self.labels.shape} for {len(self.records)} photographs and "
                f"{len(self.label_names)} names; expected (photographs, names)."
            )

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self.side, self.side, 3

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int | slice | np.ndarray | list) -> MultiLabelImages:
        rows = np.arange(len(self))[rows_of(index, len(self))]
        return self._together(rows, [self._decoded(self.records[row]) for row in rows])

    def select(self, index: int | slice | np.ndarray | list) -> Photographs:
        """Some of the photographs, none of them decoded."""
        rows = np.arange(len(self))[rows_of(index, len(self))]
        return replace(
            self, records=tuple(self.records[row] for row in rows), labels=self.labels[rows]
        )

    def pixels(self, rows: Int[np.ndarray, " row"]) -> Float32[np.ndarray, "row side side 3"]:
        """The images alone, without masks."""
        return self._scaled([self._decoded(self.records[row]) for row in rows])

    def batches(
        self, size: int, *, seed: int | None = None, workers: int = 2, ahead: int = 2
    ) -> Iterator[MultiLabelImages]:
        """One pass in batches, decoded by threads while the caller works; the last may be smaller.

        Args:
            size: images a batch.
            seed: of the order; equal seeds give equal orders. ``None``: the order of the list.
            workers: threads. Pillow decodes outside Python's lock.
            ahead: batches decoded before they are asked for: what bounds the memory.
        """
        order = (
            np.arange(len(self))
            if seed is None
            else np.random.default_rng(seed).permutation(len(self))
        )
        pool, waiting = ThreadPoolExecutor(workers), deque()
        try:
            for start in range(0, len(order), size):
                rows = order[start : start + size]
                waiting.append(
                    (rows, [pool.submit(self._decoded, self.records[row]) for row in rows])
                )
                if len(waiting) > ahead:
                    yield self._finished(*waiting.popleft())
            while waiting:
                yield self._finished(*waiting.popleft())
        finally:
            pool.shutdown(cancel_futures=True)

    def __repr__(self) -> str:
        return (
            f"Photographs({len(self)} {self.split} images of {self.side}x{self.side}x3, "
            f"{len(self.label_names)} labels, from {self.origin})"
        )

    def _finished(self, rows: np.ndarray, decoded: list[Future]) -> MultiLabelImages:
        return self._together(rows, [future.result() for future in decoded])

    def _together(self, rows: np.ndarray, decoded: list[np.ndarray]) -> MultiLabelImages:
        chosen = [self.records[row] for row in rows]
        most = max((len(record.boxes) for record in chosen), default=0)
        masks = np.zeros((len(chosen), most, self.side, self.side), bool)
        object_labels = np.full((len(chosen), most), -1, np.int64)
        for image, record in enumerate(chosen):
            count = len(record.boxes)
            masks[image, :count] = box_masks(record.boxes, self._size(record), self.side)
            object_labels[image, :count] = record.box_labels
        return MultiLabelImages(
            images=self._scaled(decoded),
            labels=self.labels[rows],
            masks=masks,
            object_labels=object_labels,
            source_indices=np.array([[record.number] for record in chosen], np.int64).reshape(
                -1, 1
            ),
            label_names=self.label_names,
            split=self.split,
            origin=self.origin,
        )

    def _scaled(self, decoded: list[np.ndarray]) -> Float32[np.ndarray, "image side side 3"]:
        """Bytes as values in [0, 1], without a copy between."""
        images = np.empty((len(decoded), *self.image_shape), np.float32)
        for image, pixels in zip(images, decoded):
            np.divide(pixels, np.float32(255), out=image)
        return images

    def _size(self, record: Photograph) -> tuple[int, int]:
        """Boxes are given in pixels of a known size; without boxes any will do."""
        return record.size or (self.side, self.side)

    def _decoded(self, record: Photograph) -> np.ndarray:
        return decode(record.file, self.side, record.size)


SHORTFALL = 16
"""A JPEG is decoded at a fraction of its size if no side is then shorter by more than one part in so
many than what is asked: 640 x 427 pixels at a half for 224, which takes half as long."""


def decode(path: Path, side: int, size: tuple[int, int] | None = None) -> np.ndarray:
    """A file as (side, side, 3) bytes, resized bilinearly without keeping its proportions.

    Args:
        size: (width, height) that the file must have.

    Raises:
        FileNotFoundError: there is no such file.
        DamagedFile: it is cut off, no image, or of another size.
    """
    image_module = _pillow()
    try:
        with image_module.open(path) as image:
            if size is not None and image.size != size:
                raise DamagedFile(
                    f"folder: {path.name} is of {image.size} pixels; its list says {size}. Use the "
                    "photographs that the list was written for."
                )
            enough = side - side // SHORTFALL
            image.draft("RGB", (enough, enough))  # JPEG: decodes at a half, a quarter or an eighth
            coloured = image if image.mode == "RGB" else image.convert("RGB")
            resized = coloured.resize((side, side), image_module.Resampling.BILINEAR)
    except FileNotFoundError:
        raise
    except (OSError, SyntaxError, image_module.DecompressionBombError) as error:
        raise DamagedFile(
            f"folder: {path.name} is damaged or no image ({error}). Fetch the file again, whole."
        ) from error
    return np.asarray(resized)


def box_masks(
    boxes: Float[np.ndarray, "object 4"], size: tuple[int, int], side: int
) -> Bool[np.ndarray, "object {side} {side}"]:
    """The pixels of a resized image whose centres lie in each box; at least one, the nearest.

    Args:
        boxes: left, top, right, bottom, in pixels of the original.
        size: its (width, height).
        side: of the resized image.

    >>> box_masks(np.array([[0.0, 0.0, 50.0, 20.0]]), (100, 40), 4)[0].astype(int).tolist()
    [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    """
    across = _inside(boxes[:, 0] / size[0], boxes[:, 2] / size[0], side)
    down = _inside(boxes[:, 1] / size[1], boxes[:, 3] / size[1], side)
    return down[:, :, None] & across[:, None, :]


def _inside(low: np.ndarray, high: np.ndarray, side: int) -> Bool[np.ndarray, "object {side}"]:
    centres = (np.arange(side) + 0.5) / side
    nearest = np.abs(centres - (low + high)[:, None] / 2).argmin(axis=1)
    within = (centres >= low[:, None]) & (centres <= high[:, None])
    return within | (np.arange(side) == nearest[:, None])


def multi_hot(records: tuple[Photograph, ...], labels: int) -> Bool[np.ndarray, "image {labels}"]:
    """A label is in an image if one of its boxes has it."""
    hot = np.zeros((len(records), labels), bool)
    for row, record in zip(hot, records):
        row[record.box_labels] = True
    return hot


def require_files(records: tuple[Photograph, ...], source: str) -> None:
    """All files are there.

    Raises:
        FileNotFoundError: with the first that is not, how many are not, and ``source``.
    """
    absent = [record.file for record in records if not record.file.is_file()]
    if absent:
        raise FileNotFoundError(
            f"folder: got no {absent[0].name} in {absent[0].parent.name}, and {len(absent)} of "
            f"{len(records)} listed photographs are missing. {source}"
        )


def _pillow() -> Any:
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError(
            "Pillow is not installed; photographs need it. Install it: pip install 'jmlv[data]'."
        ) from error
    return Image
