"""Figures of results. Needs matplotlib (``pip install 'jmlv[plots]'``); nothing here is shown or saved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool

from jmlv.label_names import label_text
from jmlv.numerics import GREY_LEVEL
from jmlv.shown import at_least
from jmlv.words import kept

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import SymLogNorm
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

    from jmlv.guarantees.table import GuaranteeTable
    from jmlv.neighborhoods.grown import GrownNeighborhood
    from jmlv.neighborhoods.relations import RelationMatrix
    from jmlv.smoothing.layered import SmoothedNeighborhood

PERTURBED, TARGET = "tab:red", "tab:cyan"
FREE, MISSING = "//", "xx"
"""Hatches of layers that the network never reads, and of places where there is no layer."""

LABEL = "certified epsilon\n(linear up to 1/255, then logarithmic)"
TICKS = {0.0: "0", GREY_LEVEL: "1/255", 0.01: "0.01", 0.1: "0.1", 1.0: "1"}


def heatmap(
    result: GrownNeighborhood | SmoothedNeighborhood,
    *,
    target: Bool[np.ndarray, "height width"] | None = None,
    object_labels: tuple[int, int] | None = None,
    names: Sequence[str] | None = None,
    title: str | None = None,
) -> Figure:
    """The image, and beside it epsilon on every pixel, by layer.

    The perturbed object is outlined in red, the target object (if its mask is given) in cyan; free
    layers, which the network never reads, are hatched. The colours are linear up to one grey level
    and logarithmic from there on, so that small epsilons are seen.

    Args:
        result: what :func:`jmlv.grow` or :func:`jmlv.grow_smoothed` returned.
        target: pixels of the object whose label is kept.
        object_labels: the perturbed and the target object's labels, for the legend.
        names: the labels' names; by default the result's own, if it has any.
        title: by default what is kept, size and what is claimed.

    Returns:
        A matplotlib figure; ``figure.savefig(path)`` writes it.
    """
    names = names_of(result) if names is None else names
    figure = _figure(9.6, 4.4)
    left, right = figure.subplots(1, 2)
    _draw_image(left, result.layers.as_image(result.x))
    left.set_title("image")
    _epsilon_bar(figure, draw_epsilon(right, result), right)
    right.set_title("epsilon by layer")
    for axes in (left, right):
        _outline(axes, result.layers.mask(0), PERTURBED)
        if target is not None:
            _outline(axes, target, TARGET)
    figure.suptitle(title or describe(result, names))
    _legend(figure, target is not None, object_labels, names, free=bool(result.free.any()))
    return figure


def heatmaps(
    results: Mapping[str, GrownNeighborhood | SmoothedNeighborhood],
    *,
    target: Bool[np.ndarray, "height width"] | None = None,
    object_labels: tuple[int, int] | None = None,
    names: Sequence[str] | None = None,
    title: str | None = None,
) -> Figure:
    """The epsilon maps of several results side by side on one colour scale, named by their keys.

    Args:
        results: of one image and one property, by name.
        target, object_labels, names: as for :func:`heatmap`.
        title: by default what is kept.
    """
    first = next(iter(results.values()))
    names = names_of(first) if names is None else names
    figure = _figure(3.6 * len(results) + 0.8, 4.4)
    row = np.atleast_1d(figure.subplots(1, len(results)))
    for axes, (name, result) in zip(row, results.items()):
        drawn = draw_epsilon(axes, result)
        _outline(axes, result.layers.mask(0), PERTURBED)
        if target is not None:
            _outline(axes, target, TARGET)
        axes.set_title(f"{name}\n{_size(result)}")
    _epsilon_bar(figure, drawn, list(row))
    figure.suptitle(kept(first, names) if title is None else title)
    free = any(result.free.any() for result in results.values())
    _legend(figure, target is not None, object_labels, names, free=free)
    return figure


def traces(results: Mapping[str, GrownNeighborhood]) -> Figure:
    """Certified size against seconds, one curve a result."""
    figure = _figure(6.4, 4.2)
    axes = figure.subplots()
    for name, result in results.items():
        seconds, sizes = np.array(result.trace).T
        axes.step([*seconds, result.seconds], [*sizes, sizes[-1]], where="post", label=name)
    axes.set(xlabel="seconds", ylabel="certified size", xscale="log")
    axes.legend()
    return figure


def relation_figure(
    result: RelationMatrix, *, names: Sequence[str] = (), title: str = ""
) -> Figure:
    """Which object depends on which: the image, the matrix of certified sizes, and where.

    On the left each object is outlined and numbered; in the middle row ``i`` and column ``j`` hold
    the size for changing object ``i`` and keeping ``j``'s label; on the right every pair's epsilon
    by distance from the perturbed object. Where a pair has no such layer, or no size, is hatched.

    Args:
        result: what :func:`jmlv.relation_matrix` returned.
        names: the labels' names.
        title: above it all.
    """
    figure = _figure(13.6, 4.4)
    image, matrix, profiles = figure.subplots(1, 3, width_ratios=(1, 1, 1.5))
    texts = [label_text(label, names) for label in result.objects.labels]
    objects = [f"object {i}\nlabel {text}" for i, text in enumerate(texts)]
    _draw_image(image, result.x)
    for i, mask in enumerate(result.objects.masks):
        _outline(image, mask, f"C{i % 10}")
        (top, _), (_, middle) = np.argwhere(mask).min(0), np.argwhere(mask).mean(0)
        image.text(middle, top - 1, str(i), color=f"C{i % 10}", weight="bold", ha="center")
    sizes = _draw_sizes(matrix, result.sizes, objects)
    figure.colorbar(sizes, ax=matrix, label="certified size", fraction=0.046)
    _epsilon_bar(figure, _draw_profiles(profiles, result), profiles)
    figure.suptitle(title)
    _missing_legend(figure)
    return figure


def _draw_sizes(axes: Axes, sizes: np.ndarray, names: Sequence[str]):
    """The matrix of sizes; returns the image, for a colour bar."""
    drawn = axes.imshow(sizes, cmap="viridis", vmin=0)
    _hatch_missing(axes, sizes)
    for (i, j), size in np.ndenumerate(sizes):
        if not np.isnan(size):
            box = dict(facecolor="white", edgecolor="none", alpha=0.7, pad=1.5)
            axes.text(j, i, at_least(size, 3), ha="center", va="center", bbox=box)
    axes.set_xticks(range(len(names)), names, rotation=30, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(names)), names)
    axes.set(title="certified size", xlabel="its label is kept", ylabel="it is changed")
    return drawn


def _draw_profiles(axes: Axes, result: RelationMatrix):
    """A row of epsilons for each pair; returns the image, for a colour bar."""
    grown = [(f"{i} changed, {j} kept", g) for i, j, g in result.pairs() if g is not None]
    depth = max((len(g.epsilon) for _, g in grown), default=1)
    strips = np.full((max(1, len(grown)), depth), np.nan)
    for row, (_, g) in enumerate(grown):
        strips[row, : len(g.epsilon)] = g.epsilon
    drawn = axes.imshow(
        strips, norm=_epsilon_scale(), cmap="magma", aspect="auto", interpolation="nearest"
    )
    _hatch_missing(axes, strips)
    axes.set_yticks(range(len(grown)), [name for name, _ in grown])
    axes.set(title="epsilon by layer", xlabel="distance from the changed object")
    axes.xaxis.get_major_locator().set_params(integer=True)
    return drawn


def guarantees(table: GuaranteeTable, *, radius: str = "radius", title: str = "") -> Figure:
    """Labels against the radius: proven and attacked, what is between, and what smoothing certifies.

    Means over the images. The true number lies in the shaded band; a dot is where both ends meet on
    every image.

    Args:
        table: the numbers.
        radius: what the radii are of, for the axis.
        title: above the panel.

    Returns:
        A matplotlib figure; ``figure.savefig(path)`` writes it.
    """
    figure = _figure(6.4, 4.0)
    axes, rows = figure.subplots(), table.rows()
    columns = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    axes.fill_between(
        table.radii, columns["attacked"], columns["proven"], color="0.85", label="open"
    )
    axes.plot(table.radii, columns["attacked"], color=PERTURBED, label="attacked")
    axes.plot(table.radii, columns["proven"], color="tab:blue", label="proven")
    exact = columns["exact"] == 1
    axes.plot(table.radii[exact], columns["proven"][exact], "ko", markersize=4, label="exact")
    for name, dashes in zip(table.smoothed, ("--", ":", "-.") * len(table.smoothed)):
        axes.plot(table.radii, columns[name], dashes, color="tab:green", label=name)
    what = "labels kept" if table.proven == "lower" else "labels changed"
    axes.set(xlabel=radius, ylabel=f"{what} (mean)", title=title, ylim=(0, None))
    axes.legend(frameon=False)
    return figure


def describe(
    result: GrownNeighborhood | SmoothedNeighborhood, names: Sequence[str] | None = None
) -> str:
    """Two lines: what is kept; size, what is claimed, by whom and how it was found."""
    names = names_of(result) if names is None else names
    return f"{kept(result, names)}\n{_size(result)}, {result.claim}, found by {result.strategy}"


def names_of(result: GrownNeighborhood | SmoothedNeighborhood) -> tuple[str, ...]:
    """The label names that a result carries."""
    return getattr(result, "label_names", ())


def draw_epsilon(axes: Axes, result: GrownNeighborhood | SmoothedNeighborhood):
    """Draws the map of epsilons; returns the image, for a colour bar."""
    values = result.layers.picture(result.epsilon)
    drawn = axes.imshow(values, norm=_epsilon_scale(), cmap="magma", interpolation="nearest")
    free = result.layers.picture(result.free)
    if free.any():
        axes.contourf(free, levels=[0.5, 1.5], colors="none", hatches=[FREE])
    _bare(axes)
    return drawn


def _size(result: GrownNeighborhood | SmoothedNeighborhood) -> str:
    return f"size {at_least(result.size, 3)}" if result.size > 0 else "nothing certified"


def _epsilon_scale() -> SymLogNorm:
    from matplotlib.colors import SymLogNorm

    return SymLogNorm(linthresh=GREY_LEVEL, vmin=0, vmax=1)


def _epsilon_bar(figure: Figure, drawn: AxesImage, axes: Axes | list[Axes]) -> None:
    """A colour bar that says what the scale is."""
    bar = figure.colorbar(drawn, ax=axes, label=LABEL, fraction=0.046)
    bar.set_ticks(list(TICKS), labels=list(TICKS.values()))
    bar.minorticks_off()


def _hatch_missing(axes: Axes, values: np.ndarray) -> None:
    """Marks entries that are not there, so that they look like no colour of the scale."""
    from matplotlib.patches import Rectangle

    for down, along in np.argwhere(np.isnan(values)):
        corner = along - 0.5, down - 0.5
        axes.add_patch(Rectangle(corner, 1, 1, **_MISSING))


_MISSING = dict(facecolor="0.9", edgecolor="0.5", hatch=MISSING, linewidth=0)


def _missing_legend(figure: Figure) -> None:
    from matplotlib.patches import Patch

    patch = Patch(**_MISSING, label="no such layer, or no size")
    figure.legend(handles=[patch], loc="outside lower center", frameon=False)


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _draw_image(axes: Axes, x: np.ndarray) -> None:
    grey = x.shape[-1] == 1
    axes.imshow(x[..., 0] if grey else x, vmin=0, vmax=1, cmap="gray", interpolation="nearest")
    _bare(axes)


def _outline(axes: Axes, mask: np.ndarray, color: str) -> None:
    """Draws the border of a mask exactly along the edges of its pixels."""
    fine = np.kron(np.pad(mask, 1).astype(float), np.ones((8, 8)))
    place = (np.arange(fine.shape[1]) + 0.5) / 8 - 1.5
    down = (np.arange(fine.shape[0]) + 0.5) / 8 - 1.5
    axes.contour(place, down, fine, levels=[0.5], colors=[color], linewidths=1.4)
    axes.set(xlim=(-0.5, mask.shape[1] - 0.5), ylim=(mask.shape[0] - 0.5, -0.5))


def _legend(
    figure: Figure,
    with_target: bool,
    object_labels: tuple[int, int] | None,
    names: Sequence[str],
    *,
    free: bool,
) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    labels = ("", "")
    if object_labels is not None:
        labels = tuple(f", label {label_text(label, names)}" for label in object_labels)
    handles = [Line2D([], [], color=PERTURBED, label="perturbed object" + labels[0])]
    if with_target:
        handles.append(Line2D([], [], color=TARGET, label="object whose label is kept" + labels[1]))
    if free:
        handles.append(
            Patch(
                facecolor="white", edgecolor="black", hatch=FREE, label="never read by the network"
            )
        )
    columns = max(1, min(len(handles), int(figure.get_figwidth() // 3)))
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, frameon=False)


def _bare(axes: Axes) -> None:
    axes.set(xticks=[], yticks=[])
