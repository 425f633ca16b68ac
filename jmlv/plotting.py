"""Figures of results. Needs matplotlib (``pip install 'jmlv[plots]'``); nothing here is shown or saved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from jmlv.neighborhoods.grown import GrownNeighborhood
    from jmlv.neighborhoods.relations import RelationMatrix
    from jmlv.smoothing.layered import SmoothedNeighborhood

PERTURBED, TARGET = "tab:red", "tab:cyan"


def heatmap(
    result: GrownNeighborhood | SmoothedNeighborhood,
    *,
    target: Bool[np.ndarray, "height width"] | None = None,
    title: str | None = None,
) -> Figure:
    """The image, and beside it epsilon on every pixel, by layer.

    The perturbed object is outlined in red, the target object (if its mask is given) in cyan; free
    layers, which the network never reads, are hatched.

    Args:
        result: what :func:`jmlv.grow` or :func:`jmlv.grow_smoothed` returned.
        target: pixels of the object whose label is kept.
        title: by default strategy, size and what is claimed.

    Returns:
        A matplotlib figure; ``figure.savefig(path)`` writes it.
    """
    figure = _figure(9.6, 4.2)
    left, right = figure.subplots(1, 2)
    _draw_image(left, result.x)
    left.set_title("image")
    drawn = draw_epsilon(right, result)
    figure.colorbar(drawn, ax=right, label="certified epsilon", fraction=0.046)
    right.set_title("epsilon by layer")
    for axes in (left, right):
        _outline(axes, result.layers.mask(0), PERTURBED)
        if target is not None:
            _outline(axes, target, TARGET)
    figure.suptitle(title or describe(result))
    _legend(figure, target is not None)
    return figure


def heatmaps(
    results: Mapping[str, GrownNeighborhood | SmoothedNeighborhood],
    *,
    target: Bool[np.ndarray, "height width"] | None = None,
    title: str = "",
) -> Figure:
    """The epsilon maps of several results side by side on one colour scale, named by their keys."""
    figure = _figure(3.6 * len(results) + 0.8, 4.2)
    row = np.atleast_1d(figure.subplots(1, len(results)))
    for axes, (name, result) in zip(row, results.items()):
        drawn = draw_epsilon(axes, result)
        _outline(axes, result.layers.mask(0), PERTURBED)
        if target is not None:
            _outline(axes, target, TARGET)
        axes.set_title(f"{name}\nsize {result.size:.2f}")
    figure.colorbar(drawn, ax=list(row), label="certified epsilon", fraction=0.046)
    figure.suptitle(title)
    _legend(figure, target is not None)
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


def relation_figure(result: RelationMatrix, *, title: str = "") -> Figure:
    """Which object depends on which: the image, the matrix of certified sizes, and where.

    On the left each object is outlined and numbered; in the middle row ``i`` and column ``j`` hold
    the size for changing object ``i`` and keeping ``j``'s label; on the right every pair's epsilon
    by distance from the perturbed object.
    """
    figure = _figure(13.0, 4.2)
    image, matrix, profiles = figure.subplots(1, 3, width_ratios=(1, 0.9, 1.5))
    names = [f"object {i} (label {label})" for i, label in enumerate(result.objects.labels)]
    _draw_image(image, result.x)
    for i, mask in enumerate(result.objects.masks):
        _outline(image, mask, f"C{i % 10}")
        (top, _), (_, middle) = np.argwhere(mask).min(0), np.argwhere(mask).mean(0)
        image.text(middle, top - 1, str(i), color=f"C{i % 10}", weight="bold", ha="center")
    _draw_sizes(matrix, result.sizes, names)
    drawn = _draw_profiles(profiles, result)
    figure.colorbar(drawn, ax=profiles, label="certified epsilon", fraction=0.046)
    figure.suptitle(title)
    return figure


def _draw_sizes(axes: Axes, sizes: np.ndarray, names: Sequence[str]) -> None:
    axes.imshow(sizes, cmap="viridis", vmin=0)
    for (i, j), size in np.ndenumerate(sizes):
        if not np.isnan(size):
            box = dict(facecolor="white", edgecolor="none", alpha=0.7, pad=1.5)
            axes.text(j, i, f"{size:.2f}", ha="center", va="center", bbox=box)
    short = [name.replace(" (", "\n(") for name in names]
    axes.set_xticks(range(len(names)), short)
    axes.set_yticks(range(len(names)), short)
    axes.set(title="certified size", xlabel="its label is kept", ylabel="it is changed")


def _draw_profiles(axes: Axes, result: RelationMatrix):
    """A row of epsilons for each pair; returns the image, for a colour bar."""
    from matplotlib.colors import PowerNorm

    grown = [(f"{i} changed, {j} kept", g) for i, j, g in result.pairs() if g is not None]
    depth = max((len(g.epsilon) for _, g in grown), default=1)
    strips = np.full((max(1, len(grown)), depth), np.nan)
    for row, (_, g) in enumerate(grown):
        strips[row, : len(g.epsilon)] = g.epsilon
    scale = PowerNorm(0.5, vmin=0, vmax=1)
    drawn = axes.imshow(strips, norm=scale, cmap="magma", aspect="auto", interpolation="nearest")
    axes.set_yticks(range(len(grown)), [name for name, _ in grown])
    axes.set(title="epsilon by layer", xlabel="distance from the changed object")
    axes.xaxis.get_major_locator().set_params(integer=True)
    return drawn


def describe(result: GrownNeighborhood | SmoothedNeighborhood) -> str:
    """One line: strategy, size and what is claimed, by whom."""
    return f"{result.strategy}: size {result.size:.2f}, {result.claim}"


def draw_epsilon(axes: Axes, result: GrownNeighborhood | SmoothedNeighborhood):
    """Draws the map of epsilons, on a square-root scale; returns the image, for a colour bar."""
    from matplotlib.colors import PowerNorm

    values = np.asarray(result.layers.spread(result.epsilon))[..., 0]
    scale = PowerNorm(0.5, vmin=0, vmax=1)
    drawn = axes.imshow(values, norm=scale, cmap="magma", interpolation="nearest")
    free = result.free[np.asarray(result.layers.index)]
    if free.any():
        axes.contourf(free, levels=[0.5, 1.5], colors="none", hatches=["//"])
    _bare(axes)
    return drawn


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


def _legend(figure: Figure, with_target: bool) -> None:
    from matplotlib.lines import Line2D

    entries: Sequence[tuple[str, str]] = [("perturbed object", PERTURBED)]
    entries = [*entries, ("target object", TARGET)] if with_target else entries
    lines = [Line2D([], [], color=color, label=label) for label, color in entries]
    figure.legend(handles=lines, loc="outside lower center", ncols=2, frameon=False)


def _bare(axes: Axes) -> None:
    axes.set(xticks=[], yticks=[])
