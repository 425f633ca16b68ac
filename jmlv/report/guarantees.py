"""The page of a guarantee: how many labels can change at most, and how many are known to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from jmlv.label_names import labels_text
from jmlv.report.html import Markup, Page, element, facts, section, table
from jmlv.report.svg import is_image, picture

if TYPE_CHECKING:
    from jmlv.guarantees.result import Count, Flips, Kept

HEADER = "labels", "known at a witness", "proven at most", "which, at the witness", "why"


def flips_page(
    result: Flips,
    *,
    x: Float[np.ndarray, "height width channel"] | None = None,
    names: Sequence[str] = (),
) -> Page:
    """How many labels an attacker can change, remove and add within a region.

    Args:
        result: what :func:`jmlv.flips` returned.
        x: the image, to be shown beside the witnesses.
        names: the labels' names.
    """
    counts = {"changed": result.changed, "removed": result.removed, "added": result.added}
    told = (
        f"Within the region {_words(result.changed)} labels can change at once: "
        f"{_words(result.removed)} of the {len(result.present)} that are predicted can be lost, "
        f"{_words(result.added)} others can appear."
    )
    about = [("Predicted at the reference", labels_text(result.present, names))]
    return Page("How many labels can change", told, _parts(counts, about, result, x, names))


def kept_page(
    result: Kept,
    *,
    x: Float[np.ndarray, "height width channel"] | None = None,
    names: Sequence[str] = (),
) -> Page:
    """How many of some labels stay in the top k everywhere in a region.

    Args:
        result: what :func:`jmlv.kept` returned.
        x, names: as for :func:`flips_page`.
    """
    told = (
        f"Everywhere in the region at least {result.lower} of the {len(result.labels)} labels are in "
        f"the top {result.k}: proven."
    )
    if result.witness is not None:
        told += f" At a witness no more than {result.upper} are."
    about = [("The labels", labels_text(result.labels, names))]
    parts = _parts({"lost": result.lost}, about, result, x, names)
    return Page("How many labels stay", told, parts)


def _words(count: Count) -> str:
    return f"exactly {count.upper}" if count.exact else f"at least {count.lower} and at most {count.upper}"  # fmt: skip


def _parts(
    counts: dict[str, Count], about: list, result: Any, x: np.ndarray | None, names: Sequence[str]
) -> tuple[Markup, ...]:
    rows = [
        (name, c.lower, c.upper, labels_text(c.labels, names), c.reason or None)
        for name, c in counts.items()
    ]
    about = [*about, ("Questions asked", result.queries), ("Seconds", float(result.seconds))]
    pictures = {} if x is None else {"The image": np.asarray(x)}
    for name, count in counts.items():
        if count.witness is not None:
            pictures[f"Witness of {count.lower} labels {name}"] = np.asarray(count.witness)
    figures = [
        element("figure", picture(image, {}, name), element("figcaption", name))
        for name, image in pictures.items()
        if is_image(image)
    ]
    shown = [section("Where", element("div", *figures, class_="examples"))] if figures else []
    return section("What is known", table("Counts", HEADER, rows), facts(about)), *shown
