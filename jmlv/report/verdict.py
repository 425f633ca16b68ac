"""The page of a verdict."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from jmlv.asked import asked_about
from jmlv.functions import as_function
from jmlv.label_names import label_text
from jmlv.properties import Property
from jmlv.regions import Region, box_of
from jmlv.report.html import Markup, Page, element, facts, folded, section, table
from jmlv.report.svg import is_image, picture
from jmlv.shown import at_least, at_most
from jmlv.verdict import Status, Verdict
from jmlv.words import kept

SENTENCES = {
    Status.ROBUST: "Proven: at every input of the region {held}. {method} proves it of {about}, with a margin of at least {lower}.",
    Status.NOT_ROBUST: "Refuted: not at every input of the region {held}; the witness below breaks it, with a margin of {upper}, replayed in float64 and as deployed.",
    Status.UNKNOWN: "Open: it is neither proven nor refuted that at every input of the region {held}. Of the worst margin, {between}.",
}


def verdict_page(
    verdict: Verdict,
    f: Callable[[Any], Any] | None = None,
    *,
    property: Property | None = None,
    region: Region | None = None,
    names: Sequence[str] = (),
) -> Page:
    """What was asked, what is proven or refuted, and the witness as a picture if it is an image.

    Args:
        verdict: what :func:`jmlv.verify` returned.
        f: the network, for its scores at the witness and in the middle of the region.
        property, region: what was asked, where it is known.
        names: the labels' names.

    Raises:
        ValueError: the verdict cannot be one on that network, property and region.
    """
    scores = None if f is None else _Scores.of(f, region, verdict.witness)
    require_fits(verdict, scores, property, region)
    held = "what was asked holds" if property is None else kept(property, names)
    told = SENTENCES[verdict.status].format(
        held=held,
        method=verdict.method or "An oracle",
        about=verdict.about,
        lower=at_least(verdict.lower),
        upper=at_most(verdict.upper),
        between=_between(verdict),
    )
    parts = [_answer(verdict, property, region)]
    if verdict.witness is not None:
        parts.append(_witness(verdict, region, scores, names))
    return Page(f"{verdict.status.name}: {held}", told, tuple(parts))


def _answer(verdict: Verdict, property: Property | None, region: Region | None) -> Markup:
    certificate = "none was asked for, or none was found"
    if verdict.certificate is not None:
        certificate = f"{verdict.certificate!r}; jmlv-check replays it without JAX"
    stats = [(name, value) for name, value in verdict.stats.items()]
    return section(
        "The answer",
        facts(
            [
                ("Status", verdict.status.name),
                ("Worst margin", _between(verdict)),
                ("Decided by", verdict.method or None),
                ("Why", verdict.reason or None),
                ("About", verdict.about),
                ("Property", None if property is None else repr(property)),
                ("Region", None if region is None else repr(region)),
                ("Certificate", certificate),
            ]
        ),
        folded("What it took", table("Statistics", ("name", "value"), stats)),
    )


def middle(region: Region) -> np.ndarray:
    """The input in the middle of a region, of whatever kind it is."""
    box = box_of(region)
    return (np.asarray(box.lower) + np.asarray(box.upper)) / 2


def _between(verdict: Verdict) -> str:
    """What is known of the worst margin.

    >>> _between(Verdict(Status.UNKNOWN, upper=0.5))
    'no lower bound is proven, 0.5 was reached'
    """
    low, high = np.isfinite(verdict.lower), np.isfinite(verdict.upper)
    proven = (
        f"{at_least(verdict.lower)} is proven as a lower bound"
        if low
        else "no lower bound is proven"
    )
    return f"{proven}, {f'{at_most(verdict.upper)} was reached' if high else 'no point is known'}"


class _Scores(NamedTuple):
    """In the middle of the region and at the witness, where these are known."""

    middle: Float[np.ndarray, " label"] | None
    witness: Float[np.ndarray, " label"] | None

    @staticmethod
    def of(f: Callable[[Any], Any], region: Region | None, witness: np.ndarray | None) -> _Scores:
        function = as_function(f)
        kind = np.float32 if witness is None else witness.dtype
        points = None if region is None else middle(region), witness
        return _Scores(*(_at(function, point, kind) for point in points))


def _at(function: Callable[[Any], Any], point: Any, kind: Any) -> np.ndarray | None:
    return None if point is None else np.asarray(function(np.asarray(point, kind)[None]))[0]


SLACK = 5e-4
"""Of the largest score, by how much two runs of a network may differ: products may be TF32."""


def require_fits(
    verdict: Verdict, scores: _Scores | None, property: Property | None, region: Region | None
) -> None:
    """Raises ValueError where a verdict is about something else than is said, as far as can be seen.

    Region and property are those that it was asked about, where it knows their names. The witness lies in the region, and reaches ``verdict.upper`` there; what is proven holds in the
    middle of the region.
    """
    named = asked_about(region, property)
    for name, given in (("region", region), ("property", property)):
        if given is not None and named.get(name) != verdict.asked.get(name, named.get(name)):
            raise _another(name, "it was asked about another one")
    if region is not None and verdict.witness is not None and not _near(region, verdict.witness):
        raise _another("region", "its witness lies outside of the region")
    if property is None or scores is None:
        return
    if scores.witness is not None:
        found, slack = _margin(property, scores.witness)
        if abs(found - verdict.upper) > slack:
            raise _another("property", f"at its witness the margin is {found:.4g}, not {verdict.upper:.4g}")  # fmt: skip
    if scores.middle is not None and region.contains(middle(region)):
        found, slack = _margin(property, scores.middle)
        if found < verdict.lower - slack or (verdict.robust and found <= -slack):
            raise _another("property", f"in the middle of the region the margin is {found:.4g}")


def _another(name: str, why: str) -> ValueError:
    return ValueError(
        f"{name}: the verdict answers another question, as {why}. Pass the network, the property and "
        "the region that it was asked about."
    )


def _margin(property: Property, scores: np.ndarray) -> tuple[float, float]:
    size = float(np.max(np.abs(scores), initial=1e-6))
    weights = np.abs(property.rows(len(scores))[0]).sum(1).max(initial=1.0)
    return float(property.margin(scores)), SLACK * size * float(weights)


def _near(region: Region, point: np.ndarray) -> bool:
    """Whether a point is in the box around a region, up to the rounding of its ends."""
    box = box_of(region)
    lower, upper = np.asarray(box.lower, float), np.asarray(box.upper, float)
    if lower.shape != point.shape:
        return False
    slack = 1e-6 * (1 + np.maximum(np.abs(lower), np.abs(upper)))
    return bool(np.all((point >= lower - slack) & (point <= upper + slack)))


def _witness(
    verdict: Verdict, region: Region | None, scores: _Scores | None, names: Sequence[str]
) -> Markup:
    breaks = verdict.status is Status.NOT_ROBUST
    heading = "The witness that breaks it" if breaks else "The weakest input that was found"
    parts = []
    witness = np.asarray(verdict.witness)
    if is_image(witness):
        shown = {"The witness": witness}
        if region is not None:
            shown = {"The middle of the region": middle(region)} | shown
        figures = [
            element("figure", picture(image, {}, name), element("figcaption", name))
            for name, image in shown.items()
        ]
        parts.append(element("div", *figures, class_="examples"))
    elif witness.size <= 64:
        parts.append(element("p", f"Its entries: {', '.join(f'{v:.4g}' for v in witness.ravel())}"))
    if scores is not None:
        known = {"in the middle": scores.middle, "at this input": scores.witness}
        known = {name: row for name, row in known.items() if row is not None}
        rows = [
            (label_text(label, names), *map(float, row))
            for label, row in enumerate(zip(*known.values()))
        ]
        parts.append(table("Scores", ("label", *known), rows))
    return section(heading, *parts)
