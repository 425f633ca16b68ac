"""How many labels of a classifier flip within which budget: what SLAM and CLASS plan with."""

from __future__ import annotations

import dataclasses
import json
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from jmlv.attacks.attack import pose
from jmlv.attacks.decisions import Decision
from jmlv.attacks.goals import FlipAll
from jmlv.attacks.momentum import STEP, step_length, trajectory
from jmlv.attacks.problem import (
    Problem,
    require_at_least,
    require_finite_gradients,
    require_positive,
)
from jmlv.attacks.projection import Norm
from jmlv.errors import DamagedFile
from jmlv.graph import Classifier
from jmlv.numerics import search_precision
from jmlv.progress import NoProgress, Progress

SPACING = 5 / 256
"""Between two budgets of a profile, in the maximum norm: 50 published steps."""


@dataclasses.dataclass(frozen=True)
class Profile:
    """Mean number of flipped labels against budget, and a polynomial through it.

    Attributes:
        epsilons, flips: the measured points, from (0, 0) to where the curve is flat.
        coefficients: of the polynomial, constant first.
        label_count: of the classifier.
        norm: of the budgets.
        converged: whether the curve was flat at the last point, or the largest budget was reached.
    """

    epsilons: tuple[float, ...]
    flips: tuple[float, ...]
    coefficients: tuple[float, ...]
    label_count: int
    norm: Norm = "linf"
    converged: bool = True

    def __post_init__(self) -> None:
        if len(self.epsilons) != len(self.flips) or len(self.epsilons) < 2 or self.label_count < 2:
            raise ValueError(
                "Profile: needs at least two points, as many flips as epsilons, and two labels."
            )

    @property
    def max_epsilon(self) -> float:
        """The budget at which the curve has become flat."""
        return self.epsilons[-1]

    def estimate(self, epsilon: float) -> float:
        """Estimated flips within a budget, between 0 and the number of labels.

        >>> profile = Profile((0.0, 0.1, 0.2), (0.0, 3.0, 4.0), (0.0, 40.0, -100.0), label_count=10)
        >>> print(f"{profile.estimate(0.05):.2f} {profile.estimate(5.0):.2f}")
        1.75 4.00
        """
        inside = min(float(epsilon), self.max_epsilon)
        value = np.polynomial.polynomial.polyval(inside, self.coefficients)
        return float(np.clip(value, 0, self.label_count))

    def share(self, epsilon: float) -> float:
        """SLAM's $p$: the estimated share of labels that flip; 1 from the largest budget on."""
        return 1.0 if epsilon >= self.max_epsilon else self.estimate(epsilon) / self.label_count

    def save(self, path: str | Path) -> Path:
        """Writes the profile as JSON."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(dataclasses.asdict(self), indent=2) + "\n")
        return path

    @staticmethod
    def load(path: str | Path) -> Profile:
        """The profile that :meth:`save` wrote.

        Raises:
            FileNotFoundError: there is no such file.
            DamagedFile: it is not a profile.
        """
        try:
            content = json.loads(Path(path).read_text())
            values = {name: _tuple(value) for name, value in content.items()}
            return Profile(**values)
        except (ValueError, TypeError, AttributeError) as error:
            raise DamagedFile(f"path: {path} does not hold a profile ({error}).") from error


def classifier_profile(
    f: Classifier,
    x: Any,
    *,
    norm: Norm = "linf",
    decision: Decision | None = None,
    degree: int = 4,
    spacing: float = SPACING,
    flat: float = 0.01,
    largest: float = 0.5,
    step: float = STEP,
    progress: Progress = NoProgress(),
) -> Profile:
    """Measures a classifier's profile: the better of two probes at each budget, then a fit.

    The probes are MI-FGSM on the linear and on the cross-entropy loss of all labels; the points are
    ``spacing`` apart and end where the slope is at most ``flat`` times the first one that is not zero.

    Args:
        f, x, decision, progress: as in :func:`jmlv.attacks.attack`.
        norm: of the budgets. In l2, ``spacing`` and ``largest`` are those of a change that is equally
            large in every entry.
        degree: of the polynomial, 3 or 4 as published (less where there are fewer points).
        spacing: distance between two budgets.
        flat: where to stop, as a share of the first slope.
        largest: where to stop in any case.
        step: of MI-FGSM.

    Raises:
        ValueError: an option is out of range, or as in :func:`jmlv.attacks.attack`.
    """
    require_positive(spacing, "spacing")
    require_at_least(degree, 1, "degree")
    require_at_least(largest, spacing, "largest")
    problem = pose(f, x, FlipAll(), decision=decision, progress=progress)
    return profile_of(
        problem, norm=norm, degree=degree, spacing=spacing, flat=flat, largest=largest, step=step
    )


def profile_of(
    problem: Problem,
    *,
    norm: Norm = "linf",
    degree: int = 4,
    spacing: float = SPACING,
    flat: float = 0.01,
    largest: float = 0.5,
    step: float = STEP,
) -> Profile:
    """The profile of the classifier and images of a problem that has been posed already."""
    problem = dataclasses.replace(problem, aim=_all_labels(problem))
    unit = step_length(problem, spacing, norm)
    flips, converged = [0.0], False
    with search_precision():
        curves = zip(*(_probe(problem, mix, spacing, step, norm) for mix in (0.0, 1.0)))
        points = zip(range(round(largest / spacing)), curves)
        for _, pair in problem.progress.wrap(points, "profile", round(largest / spacing)):
            flips.append(max(pair))
            if _is_flat(flips, flat):
                converged = True
                break
    epsilons = unit * np.arange(len(flips))
    fit = np.polynomial.Polynomial.fit(epsilons, flips, min(degree, len(flips) - 1)).convert()
    return Profile(
        epsilons=tuple(epsilons.tolist()),
        flips=tuple(flips),
        coefficients=tuple(fit.coef.tolist()),
        label_count=problem.label_count,
        norm=norm,
        converged=converged,
    )


def _is_flat(flips: list[float], flat: float) -> bool:
    """Whether the last slope is small beside the first; a curve that has not yet risen is not flat."""
    slopes = np.diff(flips)
    risen = np.flatnonzero(slopes > 0)
    return bool(risen.size and slopes[-1] <= flat * slopes[risen[0]])


def _probe(problem: Problem, mix: float, spacing: float, step: float, norm: Norm):
    """Mean flips at each multiple of the spacing."""
    weights = np.ones(problem.margins.shape)
    walk = trajectory(problem, label_weights=weights, mix=mix, step=step, norm=norm)
    steps_each = max(1, round(spacing / step))
    present = problem.margins > 0
    for number in count(1):
        for _ in range(steps_each):
            x, finite = next(walk)
        require_finite_gradients(finite)
        epsilon = number * step_length(problem, spacing, norm)
        images = problem.project(np.asarray(x), epsilon, norm)
        yield float(((problem.margins_at(images) > 0) != present).sum(1).mean())


def _all_labels(problem: Problem):
    import jax
    import jax.numpy as jnp

    return jax.tree.map(jnp.asarray, FlipAll().aim(problem.margins > 0))


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def mean_curve(
    profile: Profile, budgets: Float[np.ndarray, " budget"]
) -> Float[np.ndarray, " budget"]:
    """Estimated flips at many budgets, for plots."""
    return np.array([profile.estimate(budget) for budget in budgets])
