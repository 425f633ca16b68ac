"""The page of a certified layered neighbourhood."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool

from jmlv.example import Example, Ways
from jmlv.label_names import label_text
from jmlv.report.html import Markup, Page, counted, element, facts, folded, script, section, table
from jmlv.report.png import base64_of, eight_bit, stride
from jmlv.report.svg import picture, profile, steps
from jmlv.shown import at_least, at_most
from jmlv.words import kept

if TYPE_CHECKING:
    from jmlv.neighborhoods.grown import GrownNeighborhood
    from jmlv.smoothing.layered import SmoothedNeighborhood

BARS = 12
"""Labels whose scores are shown, at most."""


def neighborhood_page(
    result: GrownNeighborhood | SmoothedNeighborhood,
    examples: Sequence[Example] = (),
    ways: Ways | None = None,
    *,
    target: Bool[np.ndarray, "height width"] | None = None,
    names: Sequence[str] | None = None,
) -> Page:
    """What is certified, where, how it was found, and images to look at.

    Args:
        result: what :func:`jmlv.grow` or :func:`jmlv.grow_smoothed` returned.
        examples: images in and around it.
        ways: the positions of the sliders, at which their scores are.
        target: pixels of the object whose label is kept, if there is such an object.
        names: the labels' names; by default the result's own.
    """
    names = getattr(result, "label_names", ()) if names is None else names
    held = kept(result, names)
    parts = [
        _where(result, target),
        _looked_at(result, examples, ways, names) if examples else Markup(""),
        _profile(result),
        _found(result),
    ]
    network = getattr(result, "network", "")
    return Page(f"Certified: {held}" if _is_certified(result) else f"Asked: {held}", claim(result, held), tuple(parts), network)  # fmt: skip


def claim(result: GrownNeighborhood | SmoothedNeighborhood, held: str) -> str:
    """What the result says, in one sentence of plain words."""
    verdict = getattr(result, "verdict", None)
    if not _is_certified(result):
        why = f"{verdict.status.name}: {verdict.reason}" if verdict else result.claim
        return f"Nothing is certified here ({why})."
    if not np.any(np.asarray(result.epsilon) > 0):
        scope = "Of the image itself, with no change at all"
    else:
        scope = (
            "However the pixels of the image change, each by at most the epsilon of its distance "
            "from the outlined object (given below)"
        )
    if verdict is None:
        return f"{scope}: {held} {result.claim}. This is a statement of high probability, no proof."
    return (
        f"{scope}: {held}. This is proven by {result.certified_by} of {verdict.about}, with a "
        f"margin of at least {at_least(verdict.lower)}."
    )


def _is_certified(result: Any) -> bool:
    verdict = getattr(result, "verdict", None)
    return result.certified if verdict is None else verdict.robust


def _where(result: Any, target: np.ndarray | None) -> Markup:
    layers = result.layers
    image = layers.as_image(result.x)
    chosen = np.unique(np.linspace(0, layers.count - 1, 6).astype(int))[1:-1]
    lines = {f"layer {d}": np.asarray(layers.index) <= d for d in chosen}
    lines["object"] = layers.mask(0)
    told = (
        "The image. A solid line is around the object that is changed; thin lines are around the "
    )
    told += f"pixels up to layers {', '.join(map(str, chosen))}"
    if target is not None:
        lines["target"] = target
        told += "; a dashed line is around the object whose label is kept"
    shown = picture(image, lines, told + ".")
    return section(
        "Where", element("figure", shown, element("figcaption", f"{told}. {_pixels(image)}"))
    )


def _pixels(image: np.ndarray) -> str:
    step = stride(image.shape[:2])
    return "" if step == 1 else f"Of every {step} pixels in a row, one is shown."


def _looked_at(
    result: Any, examples: Sequence[Example], ways: Ways | None, names: Sequence[str]
) -> Markup:
    """The sliders, the images that they move, and the data for the script."""
    layers = result.layers
    ways = Ways.of(layers.count, result.x.size) if ways is None else ways
    step = stride(layers.shape)
    labels = _labels(result, examples)
    index = np.asarray(layers.index)[::step, ::step].astype("<u2")
    data = {
        "height": index.shape[0],
        "width": index.shape[1],
        "layer": base64_of(index),
        "image": base64_of(_shown(layers, result.x, step)),
        "stops": ways.stops,
        "shares": ways.shares,
        "epsilon": [float(at_least(e)) for e in result.epsilon],
        "examples": [_record(layers, step, labels, example) for example in examples],
    }
    sliders = element(
        "div",
        _slider("layers", "Change the layers up to", len(ways.stops) - 1),
        _slider("share", "How much of the change", len(ways.shares) - 1),
        _checkbox("difference", "Show the change alone, magnified (grey: unchanged)"),
        class_="controls",
    )
    figures = [_figure(n, example, labels, names, result) for n, example in enumerate(examples)]
    return section(
        "Look inside, and just outside",
        element("p", "The sliders need JavaScript; the tables do not.", id="needs-script"),
        sliders,
        element("div", *figures, class_="examples"),
        _ends(examples, labels, names),
        script(**data),
    )


def _ends(examples: Sequence[Example], labels: Sequence[int], names: Sequence[str]) -> Markup:
    """The scores at the images themselves as a table, for those who read no bars."""
    scored = [e for e in examples if e.scores is not None and e.margins is not None]
    if not scored:
        return Markup("")
    rows = [
        (label_text(label, names), float(scored[0].scores[0, 0, label]))
        + tuple(float(example.scores[-1, -1, label]) for example in scored)
        for label in labels
    ]
    margins = [float(scored[0].margins[0, 0]), *(float(e.margins[-1, -1]) for e in scored)]
    header = "label", "the image", *(example.name for example in scored)
    return folded(
        "All scores as a table",
        table("Scores, and the margin (positive: what is asked holds)", header, [*rows, ("margin", *margins)]),
    )  # fmt: skip


def _labels(result: Any, examples: Sequence[Example]) -> list[int]:
    """The labels that are asked about, and those with the highest scores of the examples."""
    asked = list(getattr(result, "property", result).labels)
    scores = [row for e in examples if e.scores is not None for row in (e.scores[0, 0], e.scores[-1, -1])]  # fmt: skip
    if not scores:
        return []
    best = np.argsort(-np.max(scores, axis=0), kind="stable").tolist()
    chosen = list(dict.fromkeys((*asked, *best)))[: max(BARS, len(asked))]
    return sorted(chosen, key=lambda label: -scores[0][label])


def _shown(layers: Any, x: np.ndarray, step: int) -> np.ndarray:
    return eight_bit(layers.as_image(x)[::step, ::step])


def _record(layers: Any, step: int, labels: Sequence[int], example: Example) -> dict[str, Any]:
    record: dict[str, Any] = {"image": base64_of(_shown(layers, example.x, step))}
    if example.scores is not None:
        record["scores"] = _short(example.scores[..., list(labels)])
        record["margins"] = _short(example.margins)
    return record


def _short(values: np.ndarray) -> list:
    """Nested lists of numbers with four digits."""
    if values.ndim:
        return [_short(value) for value in values]
    return float(f"{float(values):.4g}")


def _slider(name: str, label: str, last: int) -> Markup:
    output = element("output", "", id=f"{name}-told", for_=name)
    shown = element("label", label + " ", output, for_=name)
    moved = Markup(f'<input type="range" id="{name}" min="0" max="{last}" value="{last}" step="1">')
    return element("div", shown, moved, class_="slider")


def _checkbox(name: str, label: str) -> Markup:
    box = Markup(f'<input type="checkbox" id="{name}">')
    return element("div", element("label", box, " ", label), class_="slider")


def _figure(
    number: int, example: Example, labels: Sequence[int], names: Sequence[str], result: Any
) -> Markup:
    drawn = element("canvas", example.name, id=f"picture-{number}", role="img", aria_label=example.name)  # fmt: skip
    asked = getattr(result, "property", result).labels
    rows = [
        element(
            "li",
            element("span", ("● " if label in asked else "") + label_text(label, names), class_="name"),
            element("span", element("span", "", class_="fill"), class_="track"),
            element("span", "", class_="value"),
            class_="asked" if label in asked else None,
        )
        for label in labels
    ]  # fmt: skip
    told = element("p", "", id=f"told-{number}", role="status", class_="told")
    bars = element("ul", *rows, id=f"bars-{number}", class_="bars", aria_label="scores by label")
    legend = "● marks what is asked about" if example.scores is not None else ""
    scores = (told, bars, element("p", legend, class_="small")) if example.scores is not None else ()  # fmt: skip
    return element(
        "article", element("h3", example.name), element("p", example.told), drawn, *scores
    )


def _profile(result: Any) -> Markup:
    free = np.asarray(result.free)
    counts = result.layers.counts()
    never = np.flatnonzero(free)
    told = "Certified epsilon by layer, linear up to 1/255 and logarithmic from there on"
    told += "; hatched: layers that the network never reads." if len(never) else "."
    header = ["layer", "pixels", "epsilon", "weight"]
    columns = [range(len(counts)), map(int, counts), map(at_least, result.epsilon), map(float, result.weights)]  # fmt: skip
    if hasattr(result, "statuses"):
        header.append("status")
        columns.append(status.value for status in result.statuses)
    drawn = profile(result.epsilon, free, told)
    figure = element("figure", drawn, element("figcaption", told))
    listed = folded("Every layer as a table", table("Layers", header, list(zip(*columns))))
    return section("Epsilon by distance", figure, listed, id="profile")


def _found(result: Any) -> Markup:
    verdict = getattr(result, "verdict", None)
    bound = getattr(result, "upper_bound", None)
    about = [
        ("Size (weights times epsilon)", at_least(result.size) if result.size > 0 else "0: nothing but the image"),
        ("Without layers that are never read", at_least(result.size_without_free)),
        ("Certified by", result.claim),
        *(() if verdict is None else _margins(verdict)),
        ("Found by", result.strategy),
        ("Asked on the way", counted(getattr(result, "queries", getattr(result, "samples", {})))),
        ("Seconds", round(float(result.seconds), 1)),
        ("The search ended because", result.reason or None),
        ("No robust neighbourhood is larger than", _gap(result)),
    ]  # fmt: skip
    told = "Certified size against seconds"
    told += "; the dashed line is the proven upper bound." if bound is not None else "."
    limit = None if bound is None else float(bound.value)
    drawn = steps([(float(s), float(v)) for s, v in result.trace], float(result.seconds), limit, told)  # fmt: skip
    figure = element("figure", drawn, element("figcaption", told)) if len(result.trace) else ""
    return section("How it was found, and how far it may be from the largest", facts(about), figure)


def _margins(verdict: Any) -> list[tuple[str, Any]]:
    reached = at_most(verdict.upper) if np.isfinite(verdict.upper) else None
    return [
        ("Margin, proven", f"at least {at_least(verdict.lower)}" if verdict.robust else None),
        ("Smallest margin that the search came by", reached),
        ("Why", verdict.reason or None),
        ("Proven of", verdict.about if verdict.robust else None),
    ]


def _gap(result: Any) -> str | None:
    bound = getattr(result, "upper_bound", None)
    if bound is None:
        return "not asked (grow(..., optimality=seconds) would)"
    times = f"{at_most(result.gap)} times this one" if np.isfinite(result.gap) else "this one is 0"
    return f"{at_most(bound.value)} ({times})"
