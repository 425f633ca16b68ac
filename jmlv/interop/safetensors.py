"""Reads ``.safetensors`` files: a JSON header and one block of raw numbers.

Format: eight bytes, the header's length as a little-endian integer; the header, a JSON object that
gives each array's ``dtype``, ``shape`` and ``data_offsets`` (begin and end in the block); the block,
which the arrays fill without gaps or overlaps.
Source: https://github.com/huggingface/safetensors, README, 'Format'.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Num

from jmlv.errors import DamagedFile

MAXIMUM_HEADER = 100_000_000
"""The format's own limit on the header's length."""

DTYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": "<u2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "i1",
    "U64": "<u8",
    "U32": "<u4",
    "U16": "<u2",
    "U8": "u1",
    "BOOL": "?",
}
"""NumPy's name of each type; BF16 is the upper half of a float32 and is widened to one."""


def read_safetensors(path: str | Path) -> dict[str, Num[np.ndarray, "..."]]:
    """The arrays of a ``.safetensors`` file, by name.

    Raises:
        FileNotFoundError: there is no such file.
        DamagedFile: the file breaks a rule of the format.
    """
    path = Path(path)
    try:
        return _arrays(path.read_bytes())
    except _Broken as broken:
        raise DamagedFile(f"path: {path} is not a valid safetensors file: {broken}.") from None


class _Broken(Exception):
    """A rule of the format that the content breaks."""


def _arrays(content: bytes) -> dict[str, np.ndarray]:
    header, block = _split(content)
    if not isinstance(header.get("__metadata__", {}), dict):
        raise _Broken("__metadata__ is not an object")
    entries = {name: _entry(name, e) for name, e in header.items() if name != "__metadata__"}
    _require_filled([entry[2] for entry in entries.values()], len(block))
    return {
        name: _array(block[begin:end], dtype, shape)
        for name, (dtype, shape, (begin, end)) in entries.items()
    }


def _split(content: bytes) -> tuple[dict[str, Any], memoryview]:
    if len(content) < 8:
        raise _Broken("it has fewer than eight bytes")
    length = int.from_bytes(content[:8], "little")
    if length > min(MAXIMUM_HEADER, len(content) - 8):
        raise _Broken(f"its header should have {length} bytes, more than there are or may be")
    try:
        text = content[8 : 8 + length].decode("utf-8")
        header = json.loads(text, object_pairs_hook=_without_repeats)
    except (ValueError, RecursionError) as error:
        raise _Broken(f"its header is not JSON ({error})") from None
    if not isinstance(header, dict):
        raise _Broken("its header is not a JSON object")
    return header, memoryview(content)[8 + length :]


def _without_repeats(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a name occurs twice")
    return result


def _entry(name: str, entry: Any) -> tuple[str, tuple[int, ...], tuple[int, int]]:
    """Type, shape and place of one array."""
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise _Broken(f"{name!r} has no dtype, shape and data_offsets")
    dtype, shape, place = entry["dtype"], entry["shape"], entry["data_offsets"]
    if dtype not in DTYPES:
        raise _Broken(f"{name!r} has the type {dtype!r}; known are {', '.join(DTYPES)}")
    if not (_are_sizes(shape) and _are_sizes(place) and len(place) == 2):
        raise _Broken(f"{name!r} has shape {shape} and offsets {place}, not lists of sizes")
    size = math.prod(shape) * np.dtype(DTYPES[dtype]).itemsize
    if place[1] - place[0] != size:
        raise _Broken(
            f"{name!r} needs {size} bytes, its offsets {place} give {place[1] - place[0]}"
        )
    return dtype, tuple(shape), tuple(place)


def _are_sizes(values: Any) -> bool:
    return isinstance(values, list) and all(type(v) is int and v >= 0 for v in values)


def _require_filled(places: Sequence[tuple[int, int]], size: int) -> None:
    """The arrays follow one another without gap or overlap, up to the end."""
    reached = 0
    for begin, end in sorted(places):
        if begin != reached:
            raise _Broken(f"its arrays overlap or leave a gap at byte {min(begin, reached)}")
        reached = end
    if reached != size:
        raise _Broken(f"its arrays have {reached} bytes, its block has {size}")


def _array(block: memoryview, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    values = np.frombuffer(block, DTYPES[dtype]).reshape(shape)
    if dtype == "BF16":
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(values.dtype.newbyteorder("="))
