"""Named arrays from a file of any of the three formats that PyTorch's users save weights in."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
from jaxtyping import Num

from jmlv.errors import DamagedFile
from jmlv.interop.safetensors import read_safetensors
from jmlv.interop.torch_archive import read_torch


def read_weights(path: str | Path) -> dict[str, Num[np.ndarray, "..."]]:
    """The arrays of an ``.npz``, ``.safetensors``, ``.pt``, ``.pth`` or ``.pth.tar`` file, by name.

    No code in a file is ever run. What PyTorch's wrappers put before the names (``module.`` of data
    parallelism, ``_orig_mod.`` of a compiled module) is taken away.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: its name has none of these endings.
        DamagedFile: its content is not what its ending says, or is not allowed.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp(), "weights.npz")
    >>> np.savez(path, bias=np.ones(3))
    >>> {name: value.shape for name, value in read_weights(path).items()}
    {'bias': (3,)}
    """
    path = Path(path)
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise ValueError(
            f"path: expected a name that ends in one of {sorted(_READERS)}, got {path.name!r}."
        )
    return _unwrapped(reader(path))


WRAPPERS = ("module.", "_orig_mod.")
"""What PyTorch's wrappers of modules put before every name."""


def _unwrapped(weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The same arrays without wrappers in their names, unless two would then have one name."""
    names = {name: _without_wrappers(name) for name in weights}
    if len(set(names.values())) < len(names):
        return weights
    return {names[name]: value for name, value in weights.items()}


def _without_wrappers(name: str) -> str:
    """
    >>> _without_wrappers("_orig_mod.module.fc.weight")
    'fc.weight'
    """
    for wrapper in WRAPPERS:
        if name.startswith(wrapper):
            return _without_wrappers(name.removeprefix(wrapper))
    return name


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    try:
        with Path(path).open("rb") as stream, np.load(stream, allow_pickle=False) as content:
            return {name: content[name] for name in content.files}
    except (zipfile.BadZipFile, ValueError, EOFError, AttributeError, KeyError) as error:
        raise DamagedFile(f"path: {path} is not an NPZ file of arrays ({error}).") from error


_READERS = {
    ".npz": _read_npz,
    ".safetensors": read_safetensors,
    ".pt": read_torch,
    ".pth": read_torch,
    ".tar": read_torch,
}
