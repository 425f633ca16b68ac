"""What a verification says: one status, both bounds, a replayed witness, and how it was found."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from jmlv.certificate import Certificate
from jmlv.shown import at_least, at_most

REAL_VALUED = "the real-valued network"
"""What a verdict is about where nothing else was asked for."""


class Status(enum.Enum):
    """The three answers. The method that found one is in ``Verdict.stats``, never here."""

    ROBUST = "robust"
    NOT_ROBUST = "not robust"
    UNKNOWN = "unknown"


@dataclasses.dataclass(frozen=True, eq=False)
class Verdict:
    """The answer to 'does the property hold everywhere in the region?'.

    Attributes:
        status: `Status.ROBUST`, `Status.NOT_ROBUST` or `Status.UNKNOWN`.
        lower: proven lower bound on the worst margin over the region (``-inf`` if none).
        upper: a margin that was reached in the region (``inf`` if none).
        witness: an input (height, width, channel) inside the region. Under ``NOT_ROBUST`` it
            breaks the property, replayed in float64 and on the deployed float32 path.
        reason: one sentence on why this status.
        stats: ``method`` (which oracle decided), ``queries`` by oracle, ``seconds``, and more.
        about: which network a ROBUST is about: the real-valued one, or the deployed one.
        certificate: where it was asked for and found, what :mod:`jmlv_check` can replay.
        asked: digests of the region and the property that it is about, where they are known.
    """

    status: Status
    lower: float = -np.inf
    upper: float = np.inf
    witness: np.ndarray | None = None
    reason: str = ""
    stats: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    about: str = REAL_VALUED
    certificate: Certificate | None = None
    asked: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.status is Status.NOT_ROBUST and self.witness is None:
            raise ValueError("Verdict: NOT_ROBUST needs a witness; without one say UNKNOWN.")
        if self.status is Status.ROBUST and not self.lower > -np.inf:
            raise ValueError("Verdict: ROBUST needs a finite lower bound; without one say UNKNOWN.")
        object.__setattr__(self, "stats", MappingProxyType(dict(self.stats)))
        object.__setattr__(self, "asked", MappingProxyType(dict(self.asked)))

    @property
    def robust(self) -> bool:
        return self.status is Status.ROBUST

    @property
    def method(self) -> str:
        """Name of the oracle that decided, or an empty string."""
        return self.stats.get("method", "")

    def report(
        self,
        path: str | Path,
        f: Any = None,
        *,
        property: Any = None,
        region: Any = None,
        names: Sequence[str] = (),
    ) -> None:
        """Writes a page for people: one HTML file that fetches nothing.

        Args:
            path: of the file, ending in ``.html``.
            f: the network, for its scores at the witness and in the middle of the region.
            property, region: what was asked; a verdict knows no more than their names.
            names: the labels' names.

        Raises:
            ValueError: the path does not end in ``.html``, or the verdict is not one on that network,
                property and region: these were not asked about, or its witness lies outside, or has
                another margin, or what is proven does not hold in the middle.

        >>> import tempfile, jmlv
        >>> f = lambda x: x.reshape(-1, 2)
        >>> asked = jmlv.Box.around(np.array([[[0.8], [0.3]]]), 0.3), jmlv.InTopK(0, k=1)
        >>> path = Path(tempfile.mkdtemp(), "verdict.html")
        >>> jmlv.verify(f, *asked).report(path, f, region=asked[0], property=asked[1])
        >>> "NOT_ROBUST: label 0 stays in the top 1" in path.read_text()
        True
        """
        from jmlv.report import require_page, verdict_page

        require_page(path)
        verdict_page(self, f, property=property, region=region, names=names).write(path)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Verdict) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> tuple:
        witness = None if self.witness is None else self.witness.tobytes()
        return self.status, self.lower, self.upper, witness

    def __repr__(self) -> str:
        margin = f"worst margin in [{at_least(self.lower)}, {at_most(self.upper)}]"
        return f"Verdict({self.status.name}, {margin}, by {self.method or '?'}: {self.reason})"
