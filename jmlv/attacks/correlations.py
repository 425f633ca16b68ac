"""How labels move one another, and how easily each flips: probes of one label at a time."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jmlv.attacks.attack import pose
from jmlv.attacks.decisions import Decision
from jmlv.attacks.goals import FlipAll
from jmlv.attacks.momentum import STEP, snapshots
from jmlv.attacks.problem import Problem, require_positive
from jmlv.attacks.projection import Norm
from jmlv.graph import Classifier
from jmlv.numerics import search_precision
from jmlv.progress import NoProgress, Progress

PROBE_BUDGET = 5 / 256


@dataclasses.dataclass(frozen=True, eq=False)
class LabelProbes:
    """What happens to all labels when one is attacked alone.

    Attributes:
        up, down: mean change of confidence of label ``j`` toward its own flip while label ``i`` is
            flipped up (down), (i, j); NaN where no image has label i absent (present).
        flips_up, flips_down: share of images on which label ``i`` itself flips; NaN likewise.
        effort: mean change of label i's own confidence toward its flip.
        epsilon, norm: of the probes.
    """

    up: Float[np.ndarray, "label label"]
    down: Float[np.ndarray, "label label"]
    flips_up: Float[np.ndarray, " label"]
    flips_down: Float[np.ndarray, " label"]
    effort: Float[np.ndarray, " label"]
    epsilon: float
    norm: Norm

    def correlations(self, *, inverse: bool = False) -> Correlations:
        """Both matrices scaled to [0, 1].

        Args:
            inverse: flip-down as one minus flip-up, as in the published experiments, instead of the
                measured one.
        """
        up = _scaled(self.up)
        return Correlations.of(up, 1 - up if inverse else _scaled(self.down))


@dataclasses.dataclass(frozen=True)
class Correlations:
    """Flip-up and flip-down correlations in [0, 1], as nested tuples: (label attacked, label)."""

    up: tuple[tuple[float, ...], ...]
    down: tuple[tuple[float, ...], ...]

    def __post_init__(self) -> None:
        shape = np.shape(self.up)
        if len(shape) != 2 or shape[0] != shape[1] or np.shape(self.down) != shape:
            raise ValueError("Correlations: expected two square matrices of one size.")

    @staticmethod
    def of(up: Any, down: Any) -> Correlations:
        return Correlations(*(tuple(map(tuple, np.asarray(m, float).tolist())) for m in (up, down)))

    @property
    def label_count(self) -> int:
        return len(self.up)


def probe_labels(
    f: Classifier,
    x: Any,
    *,
    epsilon: float = PROBE_BUDGET,
    norm: Norm = "linf",
    decision: Decision | None = None,
    step: float = STEP,
    progress: Progress = NoProgress(),
) -> LabelProbes:
    """Attacks every label alone with MI-FGSM and records where all confidences go.

    Args:
        f, x, decision, progress: as in :func:`jmlv.attacks.attack`.
        epsilon, norm, step: budget of the probes, its norm, and the step of MI-FGSM.

    Raises:
        ValueError: the budget is not positive, or as in :func:`jmlv.attacks.attack`.

    >>> f = lambda x: x.reshape(-1, 2) @ np.float32([[1, 1], [0, 1]]) - 0.5
    >>> probes = probe_labels(f, np.full((1, 1, 2, 1), 0.2, np.float32), epsilon=0.01)
    >>> bool(probes.up[0, 1] > 0)
    True
    """
    require_positive(epsilon, "epsilon")
    problem = pose(f, x, FlipAll(), decision=decision, progress=progress)
    return probes_of(problem, epsilon=epsilon, norm=norm, step=step)


def probes_of(
    problem: Problem, *, epsilon: float = PROBE_BUDGET, norm: Norm = "linf", step: float = STEP
) -> LabelProbes:
    """The probes of a problem that has been posed already."""
    with search_precision():
        moves = [
            _probe(problem, label, epsilon, norm, step) for label in range(problem.label_count)
        ]
    changes, flipped = (np.stack(parts) for parts in zip(*moves))
    absent = (problem.margins <= 0).T
    own = np.arange(problem.label_count)
    return LabelProbes(
        up=_mean(changes, absent[..., None]),
        down=_mean(changes, ~absent[..., None]),
        flips_up=_mean(flipped, absent),
        flips_down=_mean(flipped, ~absent),
        effort=changes.mean(1)[own, own],
        epsilon=epsilon,
        norm=norm,
    )


def label_attackability(probes: LabelProbes) -> Float[np.ndarray, "label 2"]:
    """Share of images on which a label flips when attacked alone: up, down."""
    return np.stack([probes.flips_up, probes.flips_down], -1)


def _probe(
    problem: Problem, label: int, epsilon: float, norm: Norm, step: float
) -> tuple[np.ndarray, np.ndarray]:
    """Change of every confidence toward its flip, (image, label), and whether the label flips."""
    weights = np.zeros(problem.margins.shape)
    weights[:, label] = 1
    aim = dataclasses.replace(problem.aim, wanted=jnp.asarray(problem.margins <= 0))
    quiet = dataclasses.replace(problem, aim=aim)
    (images,), _ = snapshots(quiet, (epsilon,), step, norm, label_weights=weights, mix=1.0)
    after = problem.margins_at(problem.project(images, epsilon, norm))
    toward = np.where(problem.margins <= 0, 1.0, -1.0)
    change = toward * (_confidence(after) - _confidence(problem.margins))
    return change, (after[:, label] > 0) != (problem.margins[:, label] > 0)


def _confidence(margins: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-np.asarray(margins, np.float64)))


def _mean(values: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Mean over the images that are chosen; NaN where none is."""
    count = chosen.sum(1)
    total = (values * chosen).sum(1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _scaled(matrix: np.ndarray) -> np.ndarray:
    """Onto [0, 1] by minimum and maximum; what was not measured becomes the mean."""
    known = np.where(
        np.isnan(matrix), np.nanmean(matrix) if not np.isnan(matrix).all() else 0, matrix
    )
    width = known.max() - known.min()
    return (known - known.min()) / width if width > 0 else np.zeros_like(known)
