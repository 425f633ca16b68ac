"""The one result type of every data loader."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace

import numpy as np
from jaxtyping import Bool, Float32, Int

_PER_IMAGE = ("images", "labels", "masks", "object_labels", "source_indices")


@dataclass(frozen=True, eq=False, repr=False)
class MultiLabelImages:
    """Images that show several objects, with each object's label and pixels.

    Index it with an integer, a slice or an array; an integer gives a set of one.

    Attributes:
        images: (image, height, width, channel), values in [0, 1].
        labels: (image, label), multi-hot: true where the label is in the image.
        masks: (image, object, height, width), each object's own pixels; none where an image has
            fewer objects than another.
        object_labels: (image, object), the label of each object, -1 where there is none.
        source_indices: (image, source), which pictures of the origin each image was made from:
            two splits are disjoint iff these sets are.
        label_names: one name for each label.
        split: ``"train"`` or ``"test"``.
        origin: where the objects come from, in words.

    Raises:
        ValueError: the arrays' sizes contradict one another.

    >>> from jmlv.data import double_digits
    >>> double_digits("test", size=5)[1:3].images.shape
    (2, 32, 32, 1)
    """

    images: Float32[np.ndarray, "image height width channel"]
    labels: Bool[np.ndarray, "image label"]
    masks: Bool[np.ndarray, "image object height width"]
    object_labels: Int[np.ndarray, "image object"]
    source_indices: Int[np.ndarray, "image source"]
    label_names: tuple[str, ...]
    split: str
    origin: str

    def __post_init__(self) -> None:
        sizes = {name: len(getattr(self, name)) for name in _PER_IMAGE}
        if len(set(sizes.values())) != 1:
            raise ValueError(
                f"MultiLabelImages: got arrays for different numbers of images, "
                f"{sizes}; expected one row per image in each. Build subsets by "
                "indexing the whole object, not its fields."
            )
        if self.labels.shape[1] != len(self.label_names):
            raise ValueError(
                f"label_names: got {len(self.label_names)} names for "
                f"{self.labels.shape[1]} columns of labels; expected one for each. "
                "Pass a name for every label."
            )
        if self.masks.shape[2:] != self.images.shape[1:3]:
            raise ValueError(
                f"masks: got masks of {self.masks.shape[2:]} for images of "
                f"{self.images.shape[1:3]}; expected the same height and width."
            )

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(height, width, channel)."""
        return self.images.shape[1:]

    def pixels(
        self, rows: Int[np.ndarray, " row"]
    ) -> Float32[np.ndarray, "row height width channel"]:
        """The images alone, as :class:`jmlv.data.Photographs` has them too."""
        return self.images[rows]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int | slice | np.ndarray | list) -> MultiLabelImages:
        rows = rows_of(index, len(self))
        return replace(self, **{name: getattr(self, name)[rows] for name in _PER_IMAGE})

    def __iter__(self) -> Iterator[MultiLabelImages]:
        return (self[i] for i in range(len(self)))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, MultiLabelImages):
            return NotImplemented
        return all(
            np.array_equal(getattr(self, field.name), getattr(other, field.name))
            for field in fields(self)
        )

    __hash__ = None

    def __repr__(self) -> str:
        height, width, channels = self.images.shape[1:]
        return (
            f"MultiLabelImages({len(self)} {self.split} images of "
            f"{height}x{width}x{channels}, {len(self.label_names)} labels, "
            f"{self.masks.shape[1]} objects each, from {self.origin})"
        )


def rows_of(index: object, size: int) -> slice | np.ndarray:
    """An index that keeps the image axis; an integer out of range is an error."""
    if isinstance(index, slice):
        return index
    rows = np.asarray(index)
    if rows.ndim == 0:
        rows = rows[None]
    if rows.size == 0:
        return rows.astype(int)
    if rows.dtype != bool and (rows.min() < -size or rows.max() >= size):
        raise IndexError(
            f"index: got {index!r} for {size} images; expected values from "
            f"{-size} to {size - 1}. Ask for a larger `size` if you need more images."
        )
    return rows
