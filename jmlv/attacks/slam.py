"""SLAM: a loss that lets go of labels that a budget cannot flip."""

from __future__ import annotations

import dataclasses

import numpy as np

from jmlv.attacks.mifgsm import counted, require_momentum
from jmlv.attacks.momentum import STEP, snapshots
from jmlv.attacks.problem import Attack, Found, Problem
from jmlv.attacks.profile import Profile, profile_of
from jmlv.attacks.projection import Norm


@dataclasses.dataclass(frozen=True)
class SLAM(Attack):
    r"""Smart loss function for attacks on multi-label models, with MI-FGSM.

    $$L = (1 - p q)\, L_{\mathrm{lin}} + p q\, L_{\mathrm{BCE}}, \qquad
      L_{\mathrm{lin}} = \tfrac{1}{c} \sum_j y_j (1 - \hat p_j) + (1 - y_j)\, \hat p_j$$

    where $p$ is the share of labels that the classifier's profile expects to flip within the budget
    (1 from the profile's largest budget on) and $y$ the wanted labels. Cross-entropy pulls hardest on
    the labels that are farthest away, which a small budget wastes; the linear loss pulls on those
    near the threshold.

    Args:
        q: how much cross-entropy at the largest budget.
        profile: of the classifier, from :func:`jmlv.attacks.classifier_profile`; by default it is
            measured on the images that are attacked, and an image's result depends on its batch.
        norm, step, decay: as in :class:`jmlv.attacks.MIFGSM`.

    Source: the budgeted multi-label attacks SLAM and CLASS and the code that accompanies them (loss,
    profile and step as there).
    """

    q: float = 0.5
    profile: Profile | None = None
    norm: Norm = "linf"
    step: float = STEP
    decay: float = 1.0

    def __post_init__(self) -> None:
        require_momentum(self)
        if not 0 <= self.q <= 1:
            raise ValueError(f"q: must be in [0, 1], got {self.q}.")

    @property
    def needs_budgets(self) -> bool:
        return True

    def run(self, problem: Problem, budgets: tuple[float, ...]) -> Found:
        profile = fitting_profile(self.profile, problem, self.norm)
        images, counts = [], []
        for budget in budgets:
            found, steps = snapshots(
                problem,
                (budget,),
                self.step,
                self.norm,
                decay=self.decay,
                label_weights=problem.aim.relevant,
                mix=self.q * profile.share(budget),
            )
            images += found
            counts += steps
        return Found(np.stack(images), counted(counts, problem))


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
