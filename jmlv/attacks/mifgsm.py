"""Momentum iterative FGSM with a fixed step."""

from __future__ import annotations

import dataclasses

import numpy as np

from jmlv.attacks.momentum import STEP, snapshots
from jmlv.attacks.problem import Attack, Found, Problem, require_at_least, require_positive
from jmlv.attacks.projection import NORMS, Norm


@dataclasses.dataclass(frozen=True)
class MIFGSM(Attack):
    r"""Momentum iterative fast gradient sign method on binary cross-entropy.

    $$g_{i+1} = \mu g_i + \nabla L / \|\nabla L\|_1, \qquad
      x_{i+1} = \Pi(x_i - \alpha \operatorname{sign} g_{i+1})$$

    for $\lceil \epsilon / \alpha \rceil$ iterations, at least one. All budgets come from one
    trajectory (see :func:`jmlv.attacks.momentum.trajectory`); the last iterate is returned.

    Args:
        norm: of the budget. In ``"l2"`` the step is $g / \|g\|_2$ times ``step`` times the square
            root of the number of entries: as long as an l-infinity step.
        step: $\alpha$, in units of pixel values.
        decay: $\mu$.

    Source: Dong et al., *Boosting Adversarial Attacks with Momentum*, CVPR 2018, equations (6), (7);
    step and iterations as in the comparison of SLAM.
    """

    norm: Norm = "linf"
    step: float = STEP
    decay: float = 1.0

    def __post_init__(self) -> None:
        require_momentum(self)

    @property
    def needs_budgets(self) -> bool:
        return True

    def run(self, problem: Problem, budgets: tuple[float, ...]) -> Found:
        images, counts = snapshots(
            problem,
            budgets,
            self.step,
            self.norm,
            decay=self.decay,
            label_weights=problem.aim.relevant,
            mix=1.0,
        )
        return Found(np.stack(images), counted(counts, problem))


def require_momentum(method: Attack) -> None:
    """Checks the options that all methods on the shared trajectory have."""
    if method.norm not in NORMS:
        raise ValueError(f"norm: expected one of {NORMS}, got {method.norm!r}.")
    require_positive(method.step, "step")
    require_at_least(method.decay, 0, "decay")


def counted(counts: list[int], problem: Problem) -> np.ndarray:
    """One iteration count a budget, for every image."""
    return np.repeat(np.array(counts)[:, None], len(problem.x), axis=1)
