"""Reads IDX files, the format of MNIST, plain or gzipped."""

from __future__ import annotations

import gzip
import struct
import zlib
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from jmlv.errors import DamagedFile

IMAGES_MAGIC = 0x00000803
"""Unsigned bytes, three axes: count, rows, columns."""
LABELS_MAGIC = 0x00000801
"""Unsigned bytes, one axis: count."""

_REMEDY = "Fetch the file again, whole."


def find_idx(folder: Path, stem: str) -> Path | None:
    """``folder/stem`` or ``folder/stem.gz``, whichever is there."""
    candidates = (folder / stem, folder / f"{stem}.gz")
    return next((path for path in candidates if path.is_file()), None)


def read_idx(path: Path, magic: int) -> UInt8[np.ndarray, "..."]:
    """The array of one IDX file of unsigned bytes.

    An IDX file is a big-endian header, two zero bytes, the type (8: unsigned byte)
    and the number of axes, then each axis's length as uint32, then the values.

    Args:
        magic: the first four bytes to expect, ``IMAGES_MAGIC`` or ``LABELS_MAGIC``.

    Raises:
        FileNotFoundError: there is no such file.
        DamagedFile: it is truncated, damaged, too long or of another magic number.

    Source: LeCun, Cortes and Burges, *The MNIST database*, section "FILE FORMATS".

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "labels"
    >>> _ = path.write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 3, 7, 2, 1]))
    >>> read_idx(path, LABELS_MAGIC).tolist()
    [7, 2, 1]
    """
    content = _content(path)
    shape = _shape(content, path, magic)
    expected = 4 + 4 * len(shape) + int(np.prod(shape, dtype=np.int64))
    if len(content) != expected:
        kind = "truncated" if len(content) < expected else "too long"
        raise DamagedFile(
            f"folder: {path.name} is {kind}: got {len(content)} bytes; expected "
            f"{expected} for the shape {shape} in its header. {_REMEDY}"
        )
    return np.frombuffer(content, np.uint8, offset=4 + 4 * len(shape)).reshape(shape)


def _content(path: Path) -> bytes:
    """The file's bytes, unpacked if its name ends in .gz."""
    if not path.is_file():
        raise FileNotFoundError(
            f"folder: got no file {path.name} in {path.parent}; expected an IDX file. "
            "Check the folder's name."
        )
    try:
        return gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DamagedFile(
            f"folder: {path.name} is truncated or not gzip: got {error!s}; expected a "
            f"whole gzip file. {_REMEDY}"
        ) from error


def _shape(content: bytes, path: Path, magic: int) -> tuple[int, ...]:
    axes = magic & 0xFF
    if len(content) < 4 + 4 * axes:
        raise DamagedFile(
            f"folder: {path.name} is truncated: got {len(content)} bytes; expected a "
            f"header of {4 + 4 * axes}. {_REMEDY}"
        )
    found, *shape = struct.unpack_from(f">{1 + axes}I", content)
    if found != magic:
        raise DamagedFile(
            f"folder: {path.name} has the wrong magic number: got 0x{found:08x}; "
            f"expected 0x{magic:08x} ({axes} axes of unsigned bytes). Check that the "
            "files of images and of labels were not swapped or renamed."
        )
    return tuple(shape)
