"""How many labels flip when a given number of them is attacked: why to attack fewer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float

from jmlv.attacks.attack import pose
from jmlv.attacks.decisions import Decision
from jmlv.attacks.goals import FlipAll
from jmlv.attacks.momentum import STEP, snapshots
from jmlv.attacks.problem import Problem, require_positive
from jmlv.attacks.projection import Norm
from jmlv.graph import Classifier
from jmlv.numerics import search_precision
from jmlv.progress import NoProgress, Progress


def targets_against_flips(
    f: Classifier,
    x: Any,
    targets: Sequence[int],
    budgets: Sequence[float],
    *,
    choose: Literal["nearest", "random"] = "nearest",
    seed: int = 0,
    norm: Norm = "linf",
    decision: Decision | None = None,
    step: float = STEP,
    progress: Progress = NoProgress(),
) -> Float[np.ndarray, "budget target"]:
    """Mean number of flipped labels when MI-FGSM attacks so many of them.

    Args:
        f, x, budgets, decision, progress: as in :func:`jmlv.attacks.attack`.
        targets: numbers of attacked labels.
        choose: those nearest to their threshold, or random ones.
        seed: of the random choice.
        norm, step: of MI-FGSM.

    Returns:
        Flips of any label, attacked or not.

    Raises:
        ValueError: a number of targets is not in 1..labels, or as in :func:`jmlv.attacks.attack`.

    >>> f = lambda x: x.reshape(-1, 2) - np.float32([0.5, 0.9])
    >>> x = np.full((1, 1, 2, 1), 0.45, np.float32)
    >>> targets_against_flips(f, x, [1, 2], [0.1]).tolist()
    [[1.0, 1.0]]
    """
    problem = pose(f, x, FlipAll(), decision=decision, progress=progress)
    if choose not in ("nearest", "random"):
        raise ValueError(f"choose: expected 'nearest' or 'random', got {choose!r}.")
    wrong = [n for n in targets if not 1 <= n <= problem.label_count]
    if wrong or not len(targets):
        raise ValueError(f"targets: must be in 1..{problem.label_count}, got {list(targets)}.")
    for budget in budgets:
        require_positive(budget, "budgets")
    order = _order(problem, choose, seed)
    with search_precision():
        curves = [_flips(problem, order < n, tuple(budgets), step, norm) for n in targets]
    return np.array(curves).T


def _order(problem: Problem, choose: str, seed: int) -> np.ndarray:
    """Each label's place in the order in which labels are attacked, (image, label)."""
    distance = np.abs(problem.margins)
    if choose == "random":
        distance = np.random.default_rng(seed).random(distance.shape)
    return np.argsort(np.argsort(distance, axis=1, kind="stable"), axis=1)


def _flips(
    problem: Problem,
    attacked: Bool[np.ndarray, "image label"],
    budgets: tuple[float, ...],
    step: float,
    norm: Norm,
) -> list[float]:
    found, _ = snapshots(problem, budgets, step, norm, label_weights=attacked, mix=1.0)
    means = []
    for images, budget in zip(found, budgets):
        after = problem.margins_at(problem.project(images, budget, norm))
        means.append(float(((after > 0) != (problem.margins > 0)).sum(1).mean()))
    return means
