"""A network as the checker reads it: affine maps and maxima, nothing else.

Node 0 is the input. Every other node is one vector, computed from earlier ones:

* ``affine``: ``y_i = (b_i + sum_p sum_j A^p_ij x^p_j) / d_i`` over its parents ``p``, with sparse
  matrices by row, and the divisors ``d`` only where there are any;
* ``maximum``: ``y_i = max(c_i, x_w for w in window i)``: a ReLU (one element, ``c = 0``), a clipping,
  a max pool (no ``c``: ``-inf``), or a max pool with a ReLU.

The last node is the scores. A file is a NumPy archive: the nodes as JSON, and their arrays.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path

import numpy as np


class Refused(Exception):
    """A file is not what it says, or a step of a proof does not hold; the message says which."""


@dataclasses.dataclass(frozen=True, eq=False)
class Part:
    """One parent of an affine node: row ``i`` holds entries ``start[i]`` to ``start[i + 1]``."""

    parent: int
    start: np.ndarray
    column: np.ndarray
    weight: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Affine:
    size: int
    parts: tuple[Part, ...]
    bias: np.ndarray
    divisor: np.ndarray | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Maximum:
    size: int
    parent: int
    window: np.ndarray
    floor: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Network:
    """The input's size, and the nodes after it."""

    inputs: int
    nodes: tuple[Affine | Maximum, ...]

    def size(self, node: int) -> int:
        return self.inputs if node == 0 else self.nodes[node - 1].size

    def arrays(self) -> dict[str, np.ndarray]:
        """Every array of the network by name, the structure among them as JSON."""
        found, structure = {}, [{"kind": "input", "size": self.inputs}]
        for number, node in enumerate(self.nodes, 1):
            if isinstance(node, Affine):
                parents = [part.parent for part in node.parts]
                structure.append({"kind": "affine", "size": node.size, "parents": parents})
                found[f"{number}.bias"] = node.bias
                if node.divisor is not None:
                    found[f"{number}.divisor"] = node.divisor
                for j, part in enumerate(node.parts):
                    for name in ("start", "column", "weight"):
                        found[f"{number}.{j}.{name}"] = getattr(part, name)
            else:
                structure.append({"kind": "maximum", "size": node.size, "parent": node.parent})
                found[f"{number}.window"], found[f"{number}.floor"] = node.window, node.floor
        text = json.dumps(structure, sort_keys=True).encode()
        return {"structure": np.frombuffer(text, np.uint8), **found}

    def sha256(self) -> str:
        """The hash of the structure and of all arrays, whatever the file's compression."""
        digest = hashlib.sha256()
        for name, array in sorted(self.arrays().items()):
            digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    def save(self, path: str | Path) -> None:
        """Writes a compressed NumPy archive."""
        np.savez_compressed(path, **self.arrays())


def load(path: str | Path) -> Network:
    """Reads a network, an archive or an ONNX file, and checks that it is one.

    Raises:
        Refused: the file is damaged, or its nodes do not fit together.
    """
    if Path(path).suffix == ".onnx":
        from jmlv_check.onnx_file import load_onnx

        return load_onnx(path)
    return of_arrays(read_arrays(path))


def read_arrays(path: str | Path) -> dict[str, np.ndarray]:
    """A NumPy archive without pickled objects.

    Raises:
        Refused: it cannot be read.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except Exception as problem:  # zlib, zipfile and NumPy raise whatever a damaged file provokes
        raise Refused(f"{path}: not a readable archive ({problem}).") from problem


def of_arrays(arrays: dict[str, np.ndarray]) -> Network:
    """The network that :meth:`Network.arrays` wrote.

    Raises:
        Refused: an array is missing, has the wrong kind or shape, or refers to what is not there.
    """
    try:
        structure = json.loads(bytes(arrays["structure"]).decode())
        inputs = int(structure[0]["size"])
        nodes = [_node(arrays, number, entry) for number, entry in enumerate(structure[1:], 1)]
        network = Network(inputs, tuple(nodes))
        for number, node in enumerate(nodes, 1):
            _require_sound(network, number, node)
    except Refused:
        raise
    except Exception as problem:  # whatever a damaged file provokes
        raise Refused(f"network: damaged ({problem!r}).") from problem
    if inputs < 1 or not nodes:
        raise Refused("network: it has no input or no node.")
    return network


def _node(arrays: dict, number: int, entry: dict) -> Affine | Maximum:
    size = int(entry["size"])
    if entry["kind"] == "maximum":
        window = _array(arrays, f"{number}.window", np.int64)
        floor = _array(arrays, f"{number}.floor", np.float64)
        return Maximum(size, int(entry["parent"]), window, floor)
    if entry["kind"] != "affine":
        raise ValueError(f"node {number} has the kind {entry['kind']!r}")
    parts = tuple(
        Part(
            int(parent),
            _array(arrays, f"{number}.{j}.start", np.int64),
            _array(arrays, f"{number}.{j}.column", np.int64),
            _array(arrays, f"{number}.{j}.weight", np.float64),
        )
        for j, parent in enumerate(entry["parents"])
    )
    bias, name = _array(arrays, f"{number}.bias", np.float64), f"{number}.divisor"
    return Affine(size, parts, bias, _array(arrays, name, np.float64) if name in arrays else None)


def _array(arrays: dict, name: str, dtype: type) -> np.ndarray:
    """An array whose numbers the type holds exactly."""
    if not np.can_cast(arrays[name].dtype, dtype, "safe"):
        raise ValueError(f"{name} is of {arrays[name].dtype}")
    return arrays[name].astype(dtype)


def _require_sound(network: Network, number: int, node: Affine | Maximum) -> None:
    def require(holds: bool, what: str) -> None:
        if not holds:
            raise Refused(f"network: node {number}: {what}.")

    if isinstance(node, Maximum):
        require(0 <= node.parent < number, "its parent is not an earlier node")
        limit = network.size(node.parent)
        require(node.window.ndim == 2 and len(node.window) == node.size, "windows of a wrong shape")
        require(node.floor.shape == (node.size,), "floors of a wrong shape")
        require(bool(((node.window >= -1) & (node.window < limit)).all()), "a window leaves it")
        require(bool((node.window >= 0).any(1).all()), "a window without an element")
        require(not np.isnan(node.floor).any() and not (node.floor == np.inf).any(), "a bad floor")
        return
    require(node.bias.shape == (node.size,) and np.isfinite(node.bias).all(), "a bad bias")
    if node.divisor is not None:
        fits = node.divisor.shape == (node.size,) and np.isfinite(node.divisor).all()
        require(bool(fits) and bool((node.divisor > 0).all()), "a bad divisor")
    for part in node.parts:
        require(0 <= part.parent < number, "a parent is not an earlier node")
        start, entries = part.start, part.column.size
        require(part.column.ndim == 1, "columns of a wrong shape")
        require(bool(((start >= 0) & (start <= entries)).all()), "rows that leave the entries")
        require(start.shape == (node.size + 1,) and start[0] == 0 and start[-1] == entries, "rows")
        require(bool((np.diff(start) >= 0).all()), "rows out of order")
        limit = network.size(part.parent)
        require(bool(((part.column >= 0) & (part.column < limit)).all()), "a column leaves it")
        require(part.weight.shape == (entries,) and np.isfinite(part.weight).all(), "a bad weight")
