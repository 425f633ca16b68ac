"""Files of grown neighbourhoods: compressed plain arrays, and JSON that says what they are."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jmlv.errors import DamagedFile
from jmlv.records import plain, version

FORMAT = 1
"""Goes up when older programs cannot read the files any more."""


def write_archive(path: str | Path, arrays: Mapping[str, Any], head: Mapping[str, Any]) -> None:
    """Writes arrays and their head; the path is taken as it is."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    about = {"format": FORMAT, "jmlv": version(), **plain(head)}
    text = np.frombuffer(json.dumps(about, allow_nan=False).encode(), np.uint8)
    with path.open("wb") as stream:
        np.savez_compressed(stream, about=text, **{k: np.asarray(v) for k, v in arrays.items()})


def read_archive(path: str | Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays and the head of a file.

    Raises:
        FileNotFoundError: there is none.
        DamagedFile: it is another kind of file, damaged, or of a newer format.
    """
    try:
        with Path(path).open("rb") as stream, np.load(stream, allow_pickle=False) as content:
            arrays = {name: content[name] for name in content.files}
        head = json.loads(arrays.pop("about").tobytes())
        newer = head["format"] > FORMAT
    except FileNotFoundError:
        raise
    except (
        KeyError, ValueError, EOFError, OSError, TypeError, AttributeError, zipfile.BadZipFile
    ) as error:  # fmt: skip
        raise DamagedFile(
            f"{path} is not a file that 'jmlv grow' or GrownNeighborhood.save wrote ({error})."
        ) from error
    if newer:
        raise DamagedFile(
            f"{path} has format {head['format']}, this jmlv reads up to {FORMAT}. Update jmlv."
        )
    return arrays, head
