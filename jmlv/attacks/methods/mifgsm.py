"""Momentum iterative FGSM with a fixed step."""

from __future__ import annotations

import dataclasses

from jmlv.attacks.methods.budgeted import MomentumAttack, require_momentum, walked
from jmlv.attacks.problem import Found, Problem


@dataclasses.dataclass(frozen=True)
class MIFGSM(MomentumAttack):
    r"""Momentum iterative fast gradient sign method on binary cross-entropy.

    $$g_{i+1} = \mu g_i + \nabla L / \|\nabla L\|_1, \qquad
      x_{i+1} = \Pi(x_i - \alpha \operatorname{sign} g_{i+1})$$

    for $\lceil \epsilon / \alpha \rceil$ iterations, at least one. All budgets come from one
    trajectory (see :func:`jmlv.attacks.momentum.trajectory`); the last iterate is returned.

    Args:
        norm, step, decay: as in :class:`jmlv.attacks.methods.budgeted.MomentumAttack`, by name.

    Source: Dong et al., *Boosting Adversarial Attacks with Momentum*, CVPR 2018, equations (6), (7);
    step and iterations as in the comparison of SLAM.
    """

    def __post_init__(self) -> None:
        require_momentum(self)

    def run(self, problem: Problem, budgets: tuple[float, ...]) -> Found:
        return walked(self, problem, budgets, problem.aim.relevant, mix=1.0)
