"""The page of a verdict."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from jmlv.graph import Classifier, as_function
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
    f: Classifier | None = None,
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
    """
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
        scores = None if f is None else _scores(f, region, verdict.witness)
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


def _scores(
    f: Classifier, region: Region | None, witness: np.ndarray
) -> Float[np.ndarray, "point label"]:
    """In the middle of the region, where it is known, and at the witness."""
    points = [witness] if region is None else [middle(region), witness]
    return np.asarray(as_function(f)(np.stack(points).astype(witness.dtype)))


def _witness(verdict: Verdict, region: Region | None, scores: Any, names: Sequence[str]) -> Markup:
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
        where = ("in the middle", "at this input")[-len(scores) :]
        rows = [
            (label_text(label, names), *map(float, row))
            for label, row in enumerate(np.asarray(scores).T)
        ]
        parts.append(table("Scores", ("label", *where), rows))
    return section(heading, *parts)
