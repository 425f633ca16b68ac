"""Drawings as inline SVG: pictures with outlines, bars, steps and intervals, in the page's colours."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from jmlv.numerics import GREY_LEVEL
from jmlv.report.html import Markup, element
from jmlv.report.png import data_uri, eight_bit, stride
from jmlv.shown import at_least

WIDTH, HEIGHT, LEFT, BELOW, ABOVE = 640, 220, 70, 40, 10
"""Of a diagram, and its margins."""

TICKS = {0.0: "0", GREY_LEVEL: "1/255", 0.01: "0.01", 0.1: "0.1", 1.0: "1"}


def height_of(epsilon: float) -> float:
    """Where an epsilon is drawn, in [0, 1]: linear up to a grey level, from there on logarithmic.

    >>> height_of(0.0), height_of(1.0), round(height_of(GREY_LEVEL), 3)
    (0.0, 1.0, 0.294)
    """
    top = 1 + math.log10(1 / GREY_LEVEL)
    if epsilon <= GREY_LEVEL:
        return epsilon / GREY_LEVEL / top
    return (1 + math.log10(min(epsilon, 1.0) / GREY_LEVEL)) / top


def outline(mask: Bool[np.ndarray, "height width"]) -> str:
    """The border of a mask as a path, along the edges of its pixels.

    >>> outline(np.array([[True]]))
    'M0 0h1M0 1h1M0 0v1M1 0v1'
    """
    padded = np.pad(np.asarray(mask, bool), 1)
    across = padded[1:] ^ padded[:-1]
    down = (padded[:, 1:] ^ padded[:, :-1]).T
    flat = (f"M{a} {row}h{n}" for row, a, n in _runs(across[:, 1:-1]))
    upright = (f"M{column} {a}v{n}" for column, a, n in _runs(down[:, 1:-1]))
    return "".join((*flat, *upright))


def _runs(edges: Bool[np.ndarray, "line place"]) -> Iterable[tuple[int, int, int]]:
    """Line, start and length of every run of true entries."""
    ends = np.diff(np.pad(edges.astype(np.int8), ((0, 0), (1, 1))), axis=1)
    starts, stops = np.argwhere(ends == 1), np.argwhere(ends == -1)
    for (line, start), (_, stop) in zip(starts.tolist(), stops.tolist()):
        yield line, start, stop - start


def is_image(x: np.ndarray) -> bool:
    """Whether an input can be looked at: (height, width, channel), values in [0, 1]."""
    fits = x.ndim == 3 and x.shape[-1] in (1, 3) and min(x.shape[:2]) > 1
    return bool(fits and x.min() >= 0 and x.max() <= 1)


def picture(
    image: Float[np.ndarray, "height width channel"],
    outlines: Mapping[str, Bool[np.ndarray, "height width"]],
    described: str,
    numbers: Sequence[Bool[np.ndarray, "height width"]] = (),
) -> Markup:
    """An image with outlines, each of the class that it is given under, and numbered objects.

    Args:
        image: values in [0, 1].
        outlines: masks by the class of their line: ``object``, ``target``, ``layer``.
        described: what there is to see, for those who don't.
        numbers: masks of objects that get their number written above them.
    """
    step = stride(image.shape[:2])
    shown = eight_bit(image)[::step, ::step]
    height, width = shown.shape[:2]
    paths = [
        element("path", d=outline(mask[::step, ::step]), class_=f"line {kind.split()[0]}")
        for kind, mask in outlines.items()
    ]
    texts = [_number(number, mask[::step, ::step], height) for number, mask in enumerate(numbers)]
    inner = element("image", href=data_uri(shown), width=width, height=height, class_="pixels")
    return element(
        "svg",
        element("title", described),
        inner,
        *paths,
        *texts,
        viewBox=f"-1 -1 {width + 2} {height + 2}",
        class_="picture",
        role="img",
    )


def _number(number: int, mask: np.ndarray, height: int) -> Markup:
    places = np.argwhere(mask)
    if not len(places):
        return Markup("")
    (top, _), (_, middle) = places.min(0), places.mean(0)
    size = height / 12
    return element(
        "text", number, x=round(middle, 2), y=round(max(size, top - 1), 2), font_size=size, class_="number"
    )  # fmt: skip


def profile(
    epsilon: Float[np.ndarray, " layer"], free: Bool[np.ndarray, " layer"], described: str
) -> Markup:
    """Epsilon by layer as bars, on the scale of :func:`height_of`; free layers are hatched."""
    count = len(epsilon)
    each = (WIDTH - LEFT) / max(1, count)
    room = HEIGHT - BELOW - ABOVE
    bars = []
    for layer, (value, never) in enumerate(zip(map(float, epsilon), free)):
        tall = height_of(value) * room
        bars.append(
            element(
                "rect",
                element(
                    "title", f"layer {layer}: {at_least(value)}{', never read' if never else ''}"
                ),
                x=round(LEFT + layer * each, 2),
                y=round(HEIGHT - BELOW - tall, 2),
                width=round(each * 0.86, 2),
                height=round(tall, 2),
                class_="bar free" if never else "bar",
                data_layer=layer,
            )
        )
    ticks = [(height_of(value), name) for value, name in TICKS.items()]
    every = max(1, -(-count // 12))
    below = [(LEFT + (d + 0.43) * each, str(d)) for d in range(0, count, every)]
    parts = *bars, *_axes(ticks, below, "distance from the changed object (layer)", "epsilon")
    return _diagram(described, *parts)


def steps(
    points: Sequence[tuple[float, float]], end: float, limit: float | None, described: str
) -> Markup:
    """A value that rises in steps over seconds, up to ``end``; a limit is a dashed line."""
    values = [value for _, value in points]
    most = max([*values, limit or 0.0, 1e-9]) * 1.05
    end = max([end, *(seconds for seconds, _ in points), 1e-9])
    across, up = _scale(end, most)
    path = f"M{across(0)} {up(0)}"
    for seconds, value in points:
        path += f"H{across(seconds)}V{up(value)}"
    path += f"H{across(end)}"
    lines = [element("path", d=path, class_="curve")]
    if limit is not None:
        lines.append(element("path", d=f"M{LEFT} {up(limit)}H{WIDTH}", class_="curve limit"))
    ticks = [(value / most, f"{value:.3g}") for value in (0.0, max(values, default=0.0), limit) if value is not None]  # fmt: skip
    below = [(across(share * end), f"{share * end:.3g}") for share in (0, 0.5, 0.97)]
    return _diagram(described, *lines, *_axes(ticks, below, "seconds", "size"))


def _scale(end: float, most: float) -> tuple[Any, Any]:
    room = HEIGHT - BELOW - ABOVE
    return (
        lambda value: round(LEFT + value / end * (WIDTH - LEFT), 1),
        lambda value: round(HEIGHT - BELOW - value / most * room, 1),
    )


def interval(low: float, high: float, least: float, most: float, described: str) -> Markup:
    """What is proven of a margin as a thin bar from ``low`` to ``high``, with a mark at zero.

    Args:
        low, high: infinite where nothing is proven.
        least, most: what the drawing reaches from and to.
    """
    span = most - least if most > least else 1.0
    ends = [round(float(np.clip((v - least) / span, 0, 1)) * 200, 1) for v in (low, high, 0.0)]
    return element(
        "svg",
        element("title", described),
        element("rect", x=ends[0], y=5, width=round(max(1.0, ends[1] - ends[0]), 1), height=8, class_="bar"),
        element("path", d=f"M{ends[2]} 0v18", class_="axis"),
        viewBox="-2 0 204 18",
        class_="interval",
        role="img",
    )  # fmt: skip


def _axes(
    ticks: Iterable[tuple[float, str]], below: Iterable[tuple[float, str]], x: str, y: str
) -> list[Markup]:
    room, floor = HEIGHT - BELOW - ABOVE, HEIGHT - BELOW
    found = [element("path", d=f"M{LEFT} {ABOVE}V{floor}H{WIDTH}", class_="axis")]
    for share, name in ticks:
        place = round(floor - share * room, 1)
        found.append(element("text", name, x=LEFT - 6, y=place + 4, text_anchor="end"))
        found.append(element("path", d=f"M{LEFT - 3} {place}h3", class_="axis"))
    found += [
        element("text", name, x=round(place, 1), y=floor + 16, text_anchor="middle")
        for place, name in below
    ]
    found.append(element("text", x, x=(LEFT + WIDTH) / 2, y=HEIGHT - 6, text_anchor="middle"))
    turn = f"rotate(-90 14 {floor / 2})"
    found.append(element("text", y, x=14, y=floor / 2, text_anchor="middle", transform=turn))
    return found


def _diagram(described: str, *parts: Any) -> Markup:
    box = f"0 0 {WIDTH + 4} {HEIGHT}"
    return element("svg", element("title", described), *parts, viewBox=box, class_="diagram", role="img")  # fmt: skip
