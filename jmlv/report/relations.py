"""The page of a relation matrix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from jmlv.label_names import label_text
from jmlv.report.html import Markup, Page, element, folded, section, table, text
from jmlv.report.svg import picture, profile
from jmlv.shown import at_least

if TYPE_CHECKING:
    from jmlv.neighborhoods.relations import RelationMatrix


def relations_page(result: RelationMatrix, *, names: Sequence[str] = ()) -> Page:
    """Which object depends on which: certified sizes of every pair, and where.

    Args:
        result: what :func:`jmlv.relation_matrix` returned.
        names: the labels' names.
    """
    objects = [
        f"object {i} ({label_text(label, names)})" for i, label in enumerate(result.objects.labels)
    ]
    masks = result.objects.masks
    told = f"The image and its objects: {', '.join(objects)}."
    lines = {f"object {i}": mask for i, mask in enumerate(masks)}
    shown = picture(result.x, lines, told, masks)
    image = element("figure", shown, element("figcaption", told))
    parts = section("The objects", image), _matrix(result, objects), _pairs(result, objects)
    return Page("Which object depends on which", _told(result, objects), parts)


def _told(result: RelationMatrix, objects: Sequence[str]) -> str:
    """The pair with the smallest certified size, in words."""
    if np.isnan(result.sizes).all():
        return "What was asked holds for no pair of objects at the image itself."
    i, j = np.unravel_index(np.nanargmin(result.sizes), result.sizes.shape)
    return (
        f"Of all pairs, the smallest certified size is {at_least(result.sizes[i, j])}: for the label of "
        f"{objects[j]} while {objects[i]} is changed. A small size says that more was not proven, "
        "not that the label is lost beyond it."
    )


def _matrix(result: RelationMatrix, objects: Sequence[str]) -> Markup:
    most = np.nanmax(result.sizes) if np.isfinite(result.sizes).any() else 1.0
    rows = [
        (f"{name} is changed", *(_cell(size, most) for size in row))
        for name, row in zip(objects, result.sizes)
    ]
    header = "", *(f"label of {name} is kept" for name in objects)
    told = "Certified size, and its share of the largest; – where there is no such pair, or where what was asked does not hold at the image"  # fmt: skip
    return section("Certified sizes", table(told, header, rows))


def _cell(size: float, most: float) -> Markup | None:
    if np.isnan(size):
        return None
    share = 100 * size / most if most > 0 else 0.0
    told = at_least(size) if size > 0 else "0: nothing certified"
    fill = element("span", "", class_="fill", style=f"width: {share:.0f}%")
    return Markup(f"{text(told)}{element('span', fill, class_='track')}")


def _pairs(result: RelationMatrix, objects: Sequence[str]) -> Markup:
    drawn = []
    for i, j, grown in result.pairs():
        if grown is None:
            continue
        name = f"{objects[i]} is changed, the label of {objects[j]} is kept"
        epsilon = np.asarray(grown.epsilon)
        free = np.asarray(getattr(grown, "free", np.zeros(len(epsilon), bool)))
        told = f"{name}: size {at_least(grown.size)}, certified by {grown.certified_by}."
        figure = element("figure", profile(epsilon, free, told), element("figcaption", told))
        drawn.append(folded(name, figure))
    return section("Where: epsilon by distance, for every pair", *drawn)
