"""What is known of every label of one image: a status each, and the evidence for it."""

from __future__ import annotations

import base64
import collections
import dataclasses
import enum
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jmlv.oracles import SoundnessError
from jmlv.shown import at_least, at_most
from jmlv.verdict import Status, Verdict


class LabelStatus(enum.Enum):
    """Where a label is over a region, as far as it is settled."""

    ALWAYS = "always"
    """Everywhere fewer than k other labels score at least as high."""
    NEVER = "never"
    """Everywhere at least k other labels score strictly higher."""
    BOTH = "both"
    """Neither: a replayed witness breaks each of the two."""
    UNKNOWN = "unknown"
    """Not settled within the budget."""

    @staticmethod
    def of(always: Verdict, never: Verdict) -> LabelStatus:
        """What the verdicts on ``InTopK`` and on ``NotInTopK`` come to.

        Raises:
            SoundnessError: both are proven, which no network can do.
        """
        if always.robust and never.robust:
            raise SoundnessError(f"always and never are both proven: {always}; {never}.")
        if always.robust or never.robust:
            return LabelStatus.ALWAYS if always.robust else LabelStatus.NEVER
        broken = {always.status, never.status} == {Status.NOT_ROBUST}
        return LabelStatus.BOTH if broken else LabelStatus.UNKNOWN


@dataclasses.dataclass(frozen=True, eq=False)
class LabelAnswer:
    """One label's status over a region and how it was found.

    With the label's margin ``m(x)`` = minus the k-th largest of ``F_c(x) - F_t(x)`` over the other
    labels ``c``, the label is always in the top k iff ``m > 0`` everywhere, never iff ``m < 0``.

    Attributes:
        label: its number.
        always: the verdict on ``InTopK(label, k)``, whose margin is ``m``.
        never: the verdict on ``NotInTopK(label, k)``, whose margin is ``-m``. (Where one side is
            proven, the other may be left unknown: nobody asked.)
        stage: what settled the label, such as ``"CROWN"``; ``"open"`` where nothing did.
        seconds: its share of the time.
    """

    label: int
    always: Verdict
    never: Verdict
    stage: str = "open"
    seconds: float = 0.0

    @property
    def status(self) -> LabelStatus:
        return LabelStatus.of(self.always, self.never)

    @property
    def proven(self) -> tuple[float, float]:
        """``m`` lies between these everywhere in the region."""
        return self.always.lower, -self.never.lower

    @property
    def reached(self) -> tuple[float, float]:
        """The least and the greatest ``m`` of the points that were judged; NaN without any."""
        known = [m for m in (self.always.upper, -self.never.upper) if np.isfinite(m)]
        return (min(known), max(known)) if known else (np.nan, np.nan)

    def __repr__(self) -> str:
        (low, high), (least, most) = self.proven, self.reached
        return (
            f"LabelAnswer({self.label}: {self.status.value} by {self.stage}, margin proven in "
            f"[{at_least(low)}, {at_most(high)}], reached in [{least:.4g}, {most:.4g}])"
        )


class Origin(enum.Enum):
    """Where the answers come from."""

    NEW = "answered now"
    RESTORED = "read from the file"
    RESUMED = "read from the file, and its open labels taken up again with a larger budget"


@dataclasses.dataclass(frozen=True, eq=False)
class LabelSet:
    """Every label of one image over one region.

    Attributes:
        k: the size of the label set.
        answers: one for each label, in order.
        seconds: for all of them.
        origin: whether they were answered now, or are in a file since an earlier run.
    """

    k: int
    answers: tuple[LabelAnswer, ...]
    seconds: float = 0.0
    origin: Origin = Origin.NEW

    @property
    def status(self) -> tuple[LabelStatus, ...]:
        return tuple(answer.status for answer in self.answers)

    @property
    def counts(self) -> dict[str, int]:
        """How many labels have each status."""
        found = collections.Counter(status.value for status in self.status)
        return {status.value: found[status.value] for status in LabelStatus}

    @property
    def stages(self) -> dict[str, int]:
        """How many labels each stage settled."""
        return dict(collections.Counter(answer.stage for answer in self.answers))

    def labels(self, status: LabelStatus) -> tuple[int, ...]:
        """The labels with a status."""
        return tuple(answer.label for answer in self.answers if answer.status is status)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON, the inverse of :func:`LabelSet.from_dict`.

        Each witness is stored once, as base64 of its compressed bytes.
        """
        points: dict[bytes, int] = {}
        answers = [_answer_as_dict(answer, points) for answer in self.answers]
        images = [
            v.witness for a in self.answers for v in (a.always, a.never) if v.witness is not None
        ]
        return {
            "k": self.k,
            "seconds": self.seconds,
            "answers": answers,
            "shape": list(images[0].shape) if images else [],
            "dtype": str(images[0].dtype) if images else "float32",
            "points": [base64.b64encode(zlib.compress(p)).decode() for p in points],
        }

    @staticmethod
    def from_dict(content: Mapping[str, Any]) -> LabelSet:
        """What :meth:`as_dict` wrote.

        Raises:
            KeyError, TypeError, ValueError: it is not such a dictionary.
        """
        points = [
            np.frombuffer(zlib.decompress(base64.b64decode(p)), content["dtype"]).reshape(
                content["shape"]
            )
            for p in content["points"]
        ]
        answers = tuple(_answer_from_dict(answer, points) for answer in content["answers"])
        return LabelSet(content["k"], answers, content["seconds"])

    def report(
        self, path: str | Path, *, x: np.ndarray | None = None, names: Sequence[str] = ()
    ) -> None:
        """Writes a page for people: one HTML file that fetches nothing.

        Args:
            path: of the file, ending in ``.html``.
            x: the image (height, width, channel), to be shown.
            names: the labels' names.

        Raises:
            ValueError: the path does not end in ``.html``.

        >>> import tempfile, jmlv
        >>> box = jmlv.Box.around(np.array([[[0.8], [0.3]]]), 0.1)
        >>> path = Path(tempfile.mkdtemp(), "labels.html")
        >>> jmlv.classify_labels(lambda x: x.reshape(-1, 2), box, 1).report(path, names=["cat", "dog"])
        >>> "always: cat (0); never: dog (1)" in path.read_text()
        True
        """
        from jmlv.report import labels_page

        labels_page(self, x=x, names=names).write(path)

    def __repr__(self) -> str:
        found = ", ".join(f"{count} {status}" for status, count in self.counts.items() if count)
        origin = "" if self.origin is Origin.NEW else f", {self.origin.value}"
        return f"LabelSet(k={self.k}: {found}; {self.seconds:.3g} s{origin})"


def unsettled(count: int, k: int, reason: str, seconds: float) -> LabelSet:
    """Nothing is known of any label, and why."""
    unknown = Verdict(Status.UNKNOWN, reason=reason)
    answers = tuple(LabelAnswer(label, unknown, unknown) for label in range(count))
    return LabelSet(k, answers, seconds)


def _answer_as_dict(answer: LabelAnswer, points: dict[bytes, int]) -> dict[str, Any]:
    return {
        "label": answer.label,
        "status": answer.status.value,
        "stage": answer.stage,
        "seconds": answer.seconds,
        "always": _verdict_as_dict(answer.always, points),
        "never": _verdict_as_dict(answer.never, points),
    }


def _answer_from_dict(content: Mapping[str, Any], points: Sequence[np.ndarray]) -> LabelAnswer:
    always, never = (_verdict_from_dict(content[side], points) for side in ("always", "never"))
    return LabelAnswer(content["label"], always, never, content["stage"], content["seconds"])


def _verdict_as_dict(verdict: Verdict, points: dict[bytes, int]) -> dict[str, Any]:
    point = None
    if verdict.witness is not None:
        point = points.setdefault(verdict.witness.tobytes(), len(points))
    return {
        "status": verdict.status.name,
        "lower": _finite(verdict.lower),
        "upper": _finite(verdict.upper),
        "point": point,
        "method": verdict.method,
        "reason": verdict.reason,
    }


def _verdict_from_dict(content: Mapping[str, Any], points: Sequence[np.ndarray]) -> Verdict:
    """The stored verdict as it was judged; nothing is judged anew."""
    return Verdict(
        Status[content["status"]],
        -np.inf if content["lower"] is None else content["lower"],
        np.inf if content["upper"] is None else content["upper"],
        None if content["point"] is None else points[content["point"]],
        content["reason"],
        {"method": content["method"]},
    )


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
