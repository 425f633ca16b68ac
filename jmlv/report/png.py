"""Pictures as PNG files in memory, without a picture library (the PNG specification, ISO 15948)."""

from __future__ import annotations

import base64
import struct
import zlib

import numpy as np
from jaxtyping import Float, UInt8

MOST = 224
"""Pixels of a picture's longer side on a page; of larger ones every n-th pixel is shown."""


def stride(shape: tuple[int, int]) -> int:
    """Of how many pixels one is shown.

    >>> stride((64, 64)), stride((448, 448))
    (1, 2)
    """
    return -(-max(shape) // MOST)


def eight_bit(
    image: Float[np.ndarray, "height width channel"],
) -> UInt8[np.ndarray, "height width rgb"]:
    """Values in [0, 1] as colours; a number of channels other than three is averaged to grey.

    >>> eight_bit(np.array([[[0.0], [1.0]]])).tolist()
    [[[0, 0, 0], [255, 255, 255]]]
    """
    image = np.asarray(image, float)
    colours = image if image.shape[-1] == 3 else image.mean(-1, keepdims=True).repeat(3, -1)
    return np.round(np.clip(np.nan_to_num(colours), 0, 1) * 255).astype(np.uint8)


def png(image: UInt8[np.ndarray, "height width rgb"]) -> bytes:
    """The picture as a PNG file.

    >>> png(np.zeros((1, 2, 3), np.uint8))[:8]
    b'\\x89PNG\\r\\n\\x1a\\n'
    """
    height, width, _ = image.shape
    lines = np.zeros((height, 1 + 3 * width), np.uint8)  # each begins with its filter: none
    lines[:, 1:] = image.reshape(height, -1)
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = (b"IHDR", head), (b"IDAT", zlib.compress(lines.tobytes(), 9)), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, data) for kind, data in parts)


def data_uri(image: UInt8[np.ndarray, "height width rgb"]) -> str:
    """The picture as an address that holds it whole."""
    return "data:image/png;base64," + base64.b64encode(png(image)).decode()


def base64_of(values: np.ndarray) -> str:
    """An array's bytes as text, for a page's script."""
    return base64.b64encode(np.ascontiguousarray(values).tobytes()).decode()


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
