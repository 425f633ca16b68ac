"""A proof as a value: plain arrays that :mod:`jmlv_check` replays without JAX."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np

from jmlv_check.certificate import FORMAT, Report, check
from jmlv_check.network import Network, read_arrays


@dataclasses.dataclass(frozen=True, eq=False)
class Certificate:
    """What was proven of a network, with all that a check of it needs.

    Attributes:
        network: the network as affine maps and maxima, entry by entry.
        arrays: box, property, and proof or witness: see :mod:`jmlv_check.proof`.
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
