"""A network as the checker reads it: affine maps and maxima of numbered entries, nothing else.

Entries are numbered through: those of the input first, then those of each node, which is computed
from earlier entries ``x``:

* ``Affine``: ``y_i = (b_i + sum of w_e x[source_e] over all e of row_e = i) / d_i``;
* ``Maximum``: ``y_i = max(c_i, x[j] for j in source_i)``: a ReLU (one element, ``c = 0``), a clipping,
  a max pool (no ``c``: ``-inf``), or a max pool with a ReLU. A row of sources may name an entry twice.

The scores are some of the entries. A file is a NumPy archive of all these arrays.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import NamedTuple

import numpy as np


class Refused(Exception):
    """A file is not what it says, or a step of a proof does not hold; the message says which."""


def require(holds, what: str) -> None:
    """Refuses what does not hold."""
    if not holds:
        raise Refused(f"{what}.")


class Affine(NamedTuple):
    row: np.ndarray
    source: np.ndarray
    weight: np.ndarray
    bias: np.ndarray
    divisor: np.ndarray


class Maximum(NamedTuple):
    source: np.ndarray
    floor: np.ndarray


class Network(NamedTuple):
    """The input's size, the nodes after it, and which entries are the scores."""

    inputs: int
    nodes: tuple[Affine | Maximum, ...]
    scores: np.ndarray

    def starts(self) -> list[int]:
        """The first entry of every node, and how many entries there are."""
        sizes = [self.inputs, *(len(node[-1]) for node in self.nodes)]
        return np.cumsum(sizes).tolist()

    def lifted(self, tier) -> Network:
        """The same network with its numbers in an arithmetic."""
        lift = lambda a: tier.lift(a) if a.dtype.kind == "f" else a  # noqa: E731
        return self._replace(nodes=tuple(type(n)(*map(lift, n)) for n in self.nodes))

    def arrays(self) -> dict[str, np.ndarray]:
        """Every array of the network by name."""
        found = {"inputs": np.array([self.inputs]), "scores": self.scores}
        for number, node in enumerate(self.nodes, 1):
            found |= {f"{number}.{name}": array for name, array in node._asdict().items()}
        return found

    def sha256(self) -> str:
        """The hash of all arrays, whatever the file's compression."""
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


TYPES = dict.fromkeys(("row", "source", "inputs", "scores"), np.int64)


def of_arrays(arrays: dict[str, np.ndarray]) -> Network:
    """The network that :meth:`Network.arrays` wrote.

    Raises:
        Refused: an array is missing, has the wrong kind or shape, or refers to what is not there.
    """

    def array(name: str) -> np.ndarray:
        kind = TYPES.get(name.rpartition(".")[2], np.float64)
        require(np.can_cast(arrays[name].dtype, kind, "safe"), f"{name} is of another type")
        return arrays[name].astype(kind)

    try:
        nodes: list[Affine | Maximum] = []
        while any(name.startswith(f"{len(nodes) + 1}.") for name in arrays):
            number = len(nodes) + 1
            kind = Maximum if f"{number}.floor" in arrays else Affine
            nodes.append(kind(*(array(f"{number}.{name}") for name in kind._fields)))
        network = Network(int(array("inputs").item()), tuple(nodes), array("scores"))
        require(set(network.arrays()) == set(arrays), "an array too many")
        starts = network.starts()
        require(network.inputs > 0, "it has no input")
        scores = network.scores.ndim == 1 and _are_entries(network.scores, starts[-1])
        require(scores, "a score is no entry")
        for number, node in enumerate(nodes, 1):
            sound = _is_affine if isinstance(node, Affine) else _is_maximum
            require(sound(node, starts[number - 1]), f"node {number} is none")
    except Exception as problem:  # whatever a damaged file provokes
        raise Refused(f"network: damaged ({problem!r}).") from problem
    return network


def _are_entries(array: np.ndarray, count: int) -> bool:
    """Whether all are numbers of some first entries, and there are any."""
    return array.size > 0 and bool(0 <= array.min() and array.max() < count)


def _is_affine(node: Affine, before: int) -> bool:
    size, count = len(node.bias), node.row.size
    return (
        node.row.shape == node.source.shape == node.weight.shape == (count,)
        and node.bias.shape == node.divisor.shape == (size,)
        and (count == 0 or _are_entries(node.row, size) and _are_entries(node.source, before))
        and all(np.isfinite(numbers).all() for numbers in node[2:])
        and bool((node.divisor > 0).all())
    )


def _is_maximum(node: Maximum, before: int) -> bool:
    shapes = node.source.ndim == 2 and node.floor.shape == (len(node.source),)
    return shapes and _are_entries(node.source, before) and bool((node.floor < np.inf).all())
