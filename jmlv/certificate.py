"""A proof as a value: plain arrays that :mod:`jmlv_check` replays without JAX."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np

from jmlv_check.arithmetic import Floats
from jmlv_check.certificate import FORMAT, Report, check
from jmlv_check.linear import bounded
from jmlv_check.network import Maximum, Network, read_arrays


@dataclasses.dataclass(frozen=True, eq=False)
class Certificate:
    """What was proven of a network, with all that a check of it needs.

    Attributes:
        network: the network as affine maps and maxima, entry by entry.
        arrays: region, property, and proof or witness: see :mod:`jmlv_check.proof`.
        head: claim, the network's hash, the property's tree and the proof's, as JSON.
    """

    network: Network
    arrays: Mapping[str, np.ndarray]
    head: Mapping

    def __post_init__(self) -> None:
        object.__setattr__(self, "arrays", MappingProxyType(dict(self.arrays)))
        object.__setattr__(self, "head", MappingProxyType(dict(self.head)))

    @property
    def claim(self) -> str:
        """``"robust"`` or ``"not robust"``."""
        return self.head["claim"]

    def contents(self) -> dict[str, np.ndarray]:
        """All arrays of the file, the JSON among them."""
        text = json.dumps({"format": FORMAT, **self.head}, sort_keys=True).encode()
        return {"claim": np.frombuffer(text, np.uint8), **self.arrays}

    def check(self, exact: bool = False, known: dict | None = None) -> Report:
        """Replays the proof, in outward-rounded float64 or in exact integers.

        Args:
            exact: which of the two.
            known: an empty dictionary that the checks of several certificates about one box share:
                its neurons are then bounded once.

        Raises:
            jmlv_check.Refused: names the first step that does not hold.
        """
        return check(self.contents(), self.network, exact, known=known)

    def save(self, path: str | Path, network: str | Path | None = None) -> None:
        """Writes a compressed archive of plain arrays.

        Args:
            path: of the certificate.
            network: where the network goes; it is not in the certificate, which has its hash.
        """
        np.savez_compressed(path, **self.contents())
        if network is not None:
            self.network.save(network)

    def about(self, network: Network) -> Certificate:
        """The same proof, of the same function as another network writes it, such as an ONNX file's
        (``jmlv_check.load("network.onnx")``): nodes and units are found again by what they compute.

        Nothing rests on that: :meth:`check` replays the proof on the other network.

        Raises:
            ValueError: its maxima compute something else.
        """
        found = _Renumbered.between(self.network, network)
        head = {**self.head, "network": network.sha256()}
        if "clauses" in head:
            head["clauses"] = [{**c, "proof": found.proof(c["proof"])} for c in head["clauses"]]
        arrays = dict(found.array(name, array) for name, array in self.arrays.items())
        return Certificate(network, arrays, head)

    @classmethod
    def load(cls, path: str | Path, network: Network) -> Certificate:
        """Reads a certificate about a network; nothing of it is checked yet.

        Raises:
            jmlv_check.Refused: the file cannot be read.
        """
        arrays = read_arrays(path)
        head = json.loads(bytes(arrays.pop("claim")).decode())
        head.pop("format", None)
        return cls(network, arrays, head)

    def __repr__(self) -> str:
        count = len(self.arrays.get("leaf.mixture", ()))
        return f"Certificate({self.claim}, {count} leaves, network {self.head['network'][:12]})"


_POINTS = 4
"""At so many points units are told apart by their inputs."""


@dataclasses.dataclass(frozen=True, eq=False)
class _Renumbered:
    """The maxima of one network among those of another.

    Attributes:
        numbers: by number of a maximum, that of the other's.
        units: by number of a maximum, where the other has each of its units.
        entries: where the other has each entry that a maximum reads or is, or an input; -1 for the rest.
    """

    numbers: Mapping[int, int]
    units: Mapping[int, np.ndarray]
    entries: np.ndarray

    @staticmethod
    def between(one: Network, other: Network) -> _Renumbered:
        if one.inputs != other.inputs:
            raise ValueError(f"network: it has {other.inputs} inputs, not {one.inputs}.")
        rng = np.random.default_rng(0)
        points = rng.uniform(-1, 2, (_POINTS, one.inputs))
        ours, theirs = _read_by_maxima(one, points), _read_by_maxima(other, points)
        shapes = [[values.shape for values in own.values()] for own in (ours, theirs)]
        if shapes[0] != shapes[1]:
            raise ValueError("network: its maxima are others than the certificate's network has.")
        numbers, units = dict(zip(ours, theirs)), {}
        for number, values in ours.items():
            found, direction = theirs[numbers[number]], rng.normal(size=values.shape[1])
            order, place = (np.argsort(v @ direction, kind="stable") for v in (values, found))
            if not np.allclose(values[order], found[place], 1e-5, 1e-6):
                raise ValueError(f"network: its maximum {numbers[number]} computes something else.")
            units[number] = np.empty_like(order)
            units[number][order] = place
        return _Renumbered(numbers, units, _entries(one, other, numbers, units))

    def proof(self, tree: Mapping) -> dict:
        """A tree with its cuts at the other's entries."""
        found = dict(tree)
        if "entry" in tree:
            found["entry"] = int(self.entries[int(tree["entry"])])
        return found | {side: self.proof(tree[side]) for side in ("low", "high") if side in tree}

    def array(self, name: str, array: np.ndarray) -> tuple[str, np.ndarray]:
        """Weights and entries under the other's numbers and in its order; others as they are."""
        kind, first, last = [*name.split("."), "", ""][:3]
        if last != "at" and not last.isdigit():
            return name, array
        of = self.numbers[int(first)] if kind == "inner" else first
        if last == "at":
            return f"{kind}.{of}.at", self.entries[array]
        moved = np.empty_like(array)
        moved[..., self.units[int(last)], :] = array
        return f"{kind}.{of}.{self.numbers[int(last)]}", moved


def _entries(
    one: Network, other: Network, numbers: Mapping[int, int], units: Mapping[int, np.ndarray]
) -> np.ndarray:
    """Where the other network has each entry that a maximum reads or is, or an input."""
    starts, others = one.starts(), other.starts()
    found = np.full(starts[-1], -1)
    found[: one.inputs] = np.arange(one.inputs)
    for number, place in units.items():
        source = other.nodes[numbers[number] - 1].source[place]
        found[one.nodes[number - 1].source] = source
        found[starts[number - 1] : starts[number]] = others[numbers[number] - 1] + place
    return found


def _read_by_maxima(network: Network, points: np.ndarray) -> dict[int, np.ndarray]:
    """What each unit of each maximum reads at some points, (unit, element * point)."""
    found: dict[int, list[np.ndarray]] = {}
    for point in points:
        values = bounded(network, Floats(), point, point, {}).lower
        for number, node in enumerate(network.nodes, 1):
            if isinstance(node, Maximum):
                found.setdefault(number, []).append(values[node.source])
    return {number: np.concatenate(values, 1) for number, values in found.items()}
