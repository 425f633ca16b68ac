"""Figures of attacks. Needs matplotlib (``pip install 'jmlv[plots]'``); nothing is shown or saved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from jmlv.attacks.decisions import Threshold
from jmlv.attacks.profile import Profile, mean_curve
from jmlv.attacks.result import AttackResult
from jmlv.label_names import label_text

if TYPE_CHECKING:
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure


def flips_against_budget(
    results: Mapping[str, AttackResult], *, profile: Profile | None = None
) -> Figure:
    """Mean number of flipped labels against budget with its standard error, one curve a result."""
    figure = _figure(6.4, 4.2)
    axes = figure.subplots()
    for name, result in results.items():
        flips = result.flips[:, ~result.already]
        error = flips.std(1) / np.sqrt(max(1, flips.shape[1]))
        axes.errorbar(result.budgets, flips.mean(1), error, marker="o", capsize=3, label=name)
    if profile is not None:
        budgets = np.linspace(0, profile.max_epsilon, 100)
        axes.plot(budgets, mean_curve(profile, budgets), "k--", label="profile")
    axes.set(xlabel="budget", ylabel="flipped labels an image", ylim=(0, None))
    axes.legend()
    return figure


def confidences(
    result: AttackResult, image: int = 0, budget: int = -1, *, names: Sequence[str] | None = None
) -> Figure:
    """Every label's probability before and after.

    Where thresholds decide, probabilities are shifted so that each threshold is at one half, and the
    line there is what a label must pass. Where the top k decides there is no such line.
    """
    figure = _figure(6.4, 3.6)
    axes = figure.subplots()
    before = _probability(result, result.scores_before[image])
    after = _probability(result, result.scores[budget, image])
    place = np.arange(len(before))
    axes.bar(place - 0.2, before, 0.4, label="before", color="tab:blue")
    axes.bar(place + 0.2, after, 0.4, label="after", color="tab:red")
    if isinstance(result.decision, Threshold):
        axes.axhline(0.5, color="black", linewidth=1, label="threshold")
    _name_ticks(axes.xaxis, names, len(place))
    axes.set(xlabel="label", ylabel="probability", ylim=(0, 1))
    axes.set_title(f"{type(result.method).__name__}, {result.flips[budget, image]} flips")
    axes.legend()
    return figure


def perturbation_map(
    result: AttackResult,
    x: Float[np.ndarray, "image height width channel"],
    image: int = 0,
    budget: int = -1,
) -> Figure:
    """The image, the attacked image, and the change (mean over channels)."""
    figure = _figure(9.6, 3.4)
    row = figure.subplots(1, 3)
    original, attacked = np.asarray(x)[image], result.images[budget, image]
    change = (attacked - original).mean(-1)
    for axes, shown, title in zip(row, (original, attacked), ("image", "attacked")):
        axes.imshow(shown[..., 0] if shown.shape[-1] == 1 else shown, vmin=0, vmax=1, cmap="gray")
        axes.set_title(title)
    limit = max(float(np.abs(change).max()), 1e-9)
    drawn = row[2].imshow(change, vmin=-limit, vmax=limit, cmap="RdBu_r", interpolation="nearest")
    row[2].set_title(f"change, at most {result.linf[budget, image]:.3g}")
    figure.colorbar(drawn, ax=row[2], fraction=0.046)
    for axes in row:
        axes.set(xticks=[], yticks=[])
    return figure


def correlation_heatmap(
    matrix: Float[np.ndarray, "label label"],
    *,
    names: Sequence[str] | None = None,
    title: str = "",
) -> Figure:
    """How flipping the label of a row moves the label of a column."""
    figure = _figure(5.2, 4.4)
    axes = figure.subplots()
    matrix = np.asarray(matrix, float)
    drawn = axes.imshow(matrix, cmap="viridis", interpolation="nearest")
    _name_ticks(axes.xaxis, names, len(matrix))
    _name_ticks(axes.yaxis, names, len(matrix))
    axes.set(xlabel="label that moves", ylabel="label attacked", title=title)
    figure.colorbar(drawn, ax=axes, fraction=0.046)
    return figure


def _name_ticks(axis: Axis, names: Sequence[str] | None, count: int) -> None:
    """A tick for every label; names that are longer than numbers stand upright below."""
    texts = [label_text(label, names or ()) for label in range(count)]
    upright = axis.axis_name == "x" and max(map(len, texts), default=0) > 2
    axis.set_ticks(range(count), texts, rotation=90 if upright else 0)


def _probability(result: AttackResult, scores: np.ndarray) -> np.ndarray:
    decided = isinstance(result.decision, Threshold)
    logits = result.decision.margins(scores) if decided else scores
    return 1 / (1 + np.exp(-np.asarray(logits, np.float64)))


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")
