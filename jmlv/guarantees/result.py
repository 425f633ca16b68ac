"""How many labels change at most, proven, and how many are known to, by a witness."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jmlv.certificate import Certificate


@dataclasses.dataclass(frozen=True, eq=False)
class Count:
    """The largest number, or weight, of labels that count at one point of a region, from both sides.

    Attributes:
        lower: what counts at the witness, replayed in float64 and on the deployed path.
        upper: nowhere in the region does more count: proven of the real-valued network.
        witness: the point, or None where nothing is known to count.
        labels: which labels count at the witness.
        reason: who proved ``upper``, and why no less was proven; why there is no certificate, if one was
            asked for.
        certificate: that no more than ``upper`` counts (at ``upper`` there may be nothing to prove); or None.

    >>> Count(1, 3), Count(2, 2).exact
    (Count(1..3), True)
    """

    lower: int
    upper: int
    witness: np.ndarray | None = None
    labels: tuple[int, ...] = ()
    reason: str = ""
    certificate: Certificate | None = None

    @property
    def exact(self) -> bool:
        """Whether both bounds are the same."""
        return self.lower == self.upper

    @property
    def text(self) -> str:
        """Both bounds, or the number where they are the same."""
        return f"{self.lower}" if self.exact else f"{self.lower}..{self.upper}"

    def __repr__(self) -> str:
        return f"Count({self.text})"


@dataclasses.dataclass(frozen=True, eq=False)
class Flips:
    """How many labels an attacker can change at once within a region.

    Attributes:
        changed: labels that are predicted at the reference and lost, or not predicted and gained.
        removed: labels that are predicted at the reference, and are not at some point.
        added: labels that are not, and are at some point.
        present: the labels that are predicted at the reference.
        queries: questions that oracles were asked.
        seconds: of the whole call.
    """

    changed: Count
    removed: Count
    added: Count
    present: tuple[int, ...]
    queries: int
    seconds: float

    def report(
        self, path: str | Path, *, x: np.ndarray | None = None, names: Sequence[str] = ()
    ) -> None:
        """Writes a page for people: one HTML file that fetches nothing.

        Args:
            path: of the file, ending in ``.html``.
            x: the image (height, width, channel), to be shown beside the witnesses.
            names: the labels' names.

        Raises:
            ValueError: the path does not end in ``.html``.

        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp(), "flips.html")
        >>> Flips(Count(1, 2), Count(1, 1), Count(0, 1), (0,), 3, 0.5).report(path)
        >>> "exactly 1 of the 1 that are predicted can be lost" in path.read_text()
        True
        """
        from jmlv.report import flips_page

        flips_page(self, x=x, names=names).write(path)

    def __repr__(self) -> str:
        shown = ", ".join(f"{name} {count.text}" for name, count in self.counts.items())
        return f"Flips({shown}; {self.seconds:.3g} s)"

    @property
    def counts(self) -> dict[str, Count]:
        """The three counts by name."""
        return {"changed": self.changed, "removed": self.removed, "added": self.added}


@dataclasses.dataclass(frozen=True, eq=False)
class Kept:
    """How many of some labels are among the top ``k`` everywhere in a region.

    Attributes:
        labels: the labels meant.
        k: of the top k.
        lost: of how many this is not so at one point.
        queries: questions that oracles were asked.
        seconds: of the whole call.
    """

    labels: tuple[int, ...]
    k: int
    lost: Count
    queries: int
    seconds: float

    @property
    def lower(self) -> int:
        """At least so many are kept everywhere: proven."""
        return len(self.labels) - self.lost.upper

    @property
    def upper(self) -> int:
        """No more are kept at the witness."""
        return len(self.labels) - self.lost.lower

    @property
    def exact(self) -> bool:
        return self.lost.exact

    @property
    def witness(self) -> np.ndarray | None:
        return self.lost.witness

    def report(
        self, path: str | Path, *, x: np.ndarray | None = None, names: Sequence[str] = ()
    ) -> None:
        """Writes a page for people, as :meth:`Flips.report` does."""
        from jmlv.report import kept_page

        kept_page(self, x=x, names=names).write(path)

    def __repr__(self) -> str:
        kept = f"{self.lower}" if self.exact else f"{self.lower}..{self.upper}"
        return f"Kept({kept} of {len(self.labels)} in the top {self.k}; {self.seconds:.3g} s)"
