"""Files of lines that a process may be killed while it writes."""

from __future__ import annotations

import os
from typing import BinaryIO

BLOCK = 65536
"""Bytes that are read at a time, from the end."""


def whole_lines(file: BinaryIO) -> int:
    """How many bytes there are up to the last line's end; what follows was torn off.

    >>> import io
    >>> whole_lines(io.BytesIO(b"one\\ntwo\\nthr")), whole_lines(io.BytesIO(b"torn"))
    (8, 0)
    """
    end = file.seek(0, os.SEEK_END)
    while end:
        start = max(0, end - BLOCK)
        file.seek(start)
        found = file.read(end - start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0
