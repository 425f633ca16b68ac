"""The page of a label set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from jmlv.label_names import label_text, labels_text
from jmlv.report.html import Markup, Page, element, facts, section, table
from jmlv.report.svg import interval, picture
from jmlv.shown import at_least, at_most

if TYPE_CHECKING:
    from jmlv.labels.result import LabelSet

MEANING = {
    "always": "always in the top k: proven for every input of the region",
    "never": "never in the top k: proven for every input of the region",
    "both": "sometimes in, sometimes out: a replayed witness for each",
    "unknown": "not settled within the budget",
}


def labels_page(
    result: LabelSet,
    *,
    x: Float[np.ndarray, "height width channel"] | None = None,
    names: Sequence[str] = (),
) -> Page:
    """Where every label is over the region, and how each was settled.

    Args:
        result: what :func:`jmlv.classify_labels` returned.
        x: the image, to be shown.
        names: the labels' names.
    """
    said = "; ".join(
        f"{status}: {labels_text(_of(result, status), names)}"
        for status in MEANING
        if _of(result, status)
    )
    parts = [
        section("The labels", facts((k, f"{result.counts[k]} ({v})") for k, v in MEANING.items())),
        _table(result, names),
        section("How they were settled", facts(result.stages.items()), facts([("seconds", result.seconds)])),
    ]  # fmt: skip
    if x is not None:
        parts.insert(0, section("The image", element("figure", picture(x, {}, "The image"))))
    return Page(f"Labels in the top {result.k}, over the whole region", f"{said}.", tuple(parts))


def _of(result: LabelSet, status: str) -> list[int]:
    return [answer.label for answer in result.answers if answer.status.value == status]


def _table(result: LabelSet, names: Sequence[str]) -> Markup:
    ends = [end for answer in result.answers for end in (*answer.proven, *answer.reached)]
    finite = [end for end in ends if np.isfinite(end)] + [0.0]
    least, most = min(finite), max(finite)
    rows = [_row(answer, names, least, most) for answer in result.answers]
    header = "label", "status", "margin proven in", "drawn, with zero marked", "reached", "settled by", "seconds"  # fmt: skip
    told = f"Every label; its margin is positive where it is in the top {result.k}"
    return section("Every label", table(told, header, rows))


def _row(answer: Any, names: Sequence[str], least: float, most: float) -> tuple:
    (low, high), reached = answer.proven, answer.reached
    told = f"from {at_least(low)} to {at_most(high)}"
    drawn = interval(low, high, least, most, told)
    seen = "–" if np.isnan(reached[0]) else f"{reached[0]:.4g} to {reached[1]:.4g}"
    status = element("strong", answer.status.value)
    name = label_text(answer.label, names)
    return name, status, told, drawn, seen, answer.stage, float(answer.seconds)
