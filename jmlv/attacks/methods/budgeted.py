"""What MI-FGSM, SLAM and CLASS share: the options of their trajectory, and planning with a profile."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Bool

from jmlv.attacks.momentum import STEP, snapshots
from jmlv.attacks.problem import Attack, Found, Problem, require_at_least, require_positive
from jmlv.attacks.profile import Profile, profile_of
from jmlv.attacks.projection import NORMS, Norm


@dataclasses.dataclass(frozen=True)
class MomentumAttack(Attack):
    r"""A method that walks the trajectory of :func:`jmlv.attacks.momentum.trajectory` within a budget.

    Attributes:
        norm: of the budget. In ``"l2"`` the step is $g / \|g\|_2$ times ``step`` times the square
            root of the number of entries: as long as an l-infinity step.
        step: $\alpha$, in units of pixel values.
        decay: $\mu$.
    """

    norm: Norm = dataclasses.field(default="linf", kw_only=True)
    step: float = dataclasses.field(default=STEP, kw_only=True)
    decay: float = dataclasses.field(default=1.0, kw_only=True)

    @property
    def needs_budgets(self) -> bool:
        return True


@dataclasses.dataclass(frozen=True)
class PlannedAttack(MomentumAttack):
    """A momentum attack that plans each budget with the classifier's profile.

    Attributes:
        profile: of the classifier, from :func:`jmlv.attacks.classifier_profile`; by default it is
            measured on the images that are attacked, and an image's result depends on its batch.
    """

    profile: Profile | None = dataclasses.field(default=None, kw_only=True)

    @abc.abstractmethod
    def plan(self, problem: Problem, profile: Profile) -> Callable[[float], tuple[Any, float]]:
        """From a budget to each label's weight in the loss and the share of cross-entropy."""

    def run(self, problem: Problem, budgets: tuple[float, ...]) -> Found:
        profile = fitting_profile(self.profile, problem, self.norm)
        plan, images, counts = self.plan(problem, profile), [], []
        for budget in budgets:
            weights, mix = plan(budget)
            found = walked(self, problem, (budget,), weights, mix)
            images.append(found.images)
            counts.append(found.iterations)
        return Found(np.concatenate(images), np.concatenate(counts))


def walked(
    method: MomentumAttack,
    problem: Problem,
    budgets: tuple[float, ...],
    label_weights: Bool[np.ndarray, "image label"],
    mix: float,
) -> Found:
    """The images of one trajectory at each budget."""
    images, counts = snapshots(
        problem,
        budgets,
        method.step,
        method.norm,
        decay=method.decay,
        label_weights=label_weights,
        mix=mix,
    )
    return Found(np.stack(images), np.repeat(np.array(counts)[:, None], len(problem.x), axis=1))


def require_momentum(method: MomentumAttack) -> None:
    """Checks the options that all methods on the shared trajectory have."""
    if method.norm not in NORMS:
        raise ValueError(f"norm: expected one of {NORMS}, got {method.norm!r}.")
    require_positive(method.step, "step")
    require_at_least(method.decay, 0, "decay")


def fitting_profile(profile: Profile | None, problem: Problem, norm: Norm) -> Profile:
    """The given profile, checked, or one measured on the problem's images.

    Raises:
        ValueError: the profile is of another norm or another number of labels.
    """
    if profile is None:
        return profile_of(problem, norm=norm)
    if profile.norm != norm or profile.label_count != problem.label_count:
        raise ValueError(
            f"profile: is of {profile.label_count} labels in {profile.norm}, the attack of "
            f"{problem.label_count} in {norm}. Measure one with classifier_profile."
        )
    return profile
