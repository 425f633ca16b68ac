"""Figures of certified metrics. Needs matplotlib (``pip install 'jmlv[plots]'``); nothing is saved."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from jmlv.smoothing.metrics import CertifiedMetrics

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAMES = {"precision": "certified precision", "recall": "certified recall", "f1": "certified F1"}


def certified_curves(results: Mapping[str, CertifiedMetrics], *, title: str = "") -> Figure:
    """Certified precision, recall and F1 against the radius: one panel each, one curve a result.

    Args:
        results: what to draw, by the name in the legend.
        title: above the panels.

    Returns:
        A matplotlib figure; ``figure.savefig(path)`` writes it.

    >>> import numpy as np
    >>> flat = CertifiedMetrics(*np.array([[0.0, 1.0], [0.5, 0.4], [0.6, 0.3], [0.5, 0.3]]))
    >>> len(certified_curves({"flat": flat}).axes)
    3
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.8, 3.9), layout="constrained")
    panels = figure.subplots(1, 3, sharey=True)
    for axes, (field, label) in zip(panels, NAMES.items()):
        for name, result in results.items():
            axes.plot(result.radius, getattr(result, field), label=name)
        axes.set(xlabel="l2 radius", title=label, ylim=(0, 1.02))
        axes.grid(alpha=0.3)
    lines, names = panels[0].get_legend_handles_labels()
    figure.legend(lines, names, loc="outside lower center", ncols=len(names), frameon=False)
    figure.suptitle(title)
    return figure
