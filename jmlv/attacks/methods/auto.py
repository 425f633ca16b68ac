"""AutoMultiLabel: the best of a fixed portfolio, image by image."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np

from jmlv.attacks.methods.mifgsm import MIFGSM
from jmlv.attacks.methods.pgd import PGD
from jmlv.attacks.methods.slam import SLAM
from jmlv.attacks.problem import Attack, Found, Problem
from jmlv.attacks.projection import NORMS, Norm, distance


@dataclasses.dataclass(frozen=True)
class AutoMultiLabel(Attack):
    """Runs every method of a portfolio and keeps the best image for each budget and image.

    Best is: the goal reached, then most labels as wanted, then least change in the norm. A portfolio
    is as strong as its strongest member on each image; report the members, too.

    Args:
        norm: of the budgets.
        methods: the portfolio, all of that norm; by default SLAM, MI-FGSM and PGD.

    Raises:
        ValueError: a method has another norm.
    """

    norm: Norm = "linf"
    methods: tuple[Attack, ...] = ()

    def __post_init__(self) -> None:
        if self.norm not in NORMS:
            raise ValueError(f"norm: expected one of {NORMS}, got {self.norm!r}.")
        if not self.methods:
            portfolio = (SLAM(norm=self.norm), MIFGSM(norm=self.norm), PGD(self.norm))
            object.__setattr__(self, "methods", portfolio)
        wrong = [method for method in self.methods if method.norm != self.norm]
        if wrong:
            raise ValueError(f"methods: expected budgets in {self.norm}, got {wrong}.")

    @property
    def needs_budgets(self) -> bool:
        return any(method.needs_budgets for method in self.methods)

    def run(self, problem: Problem, budgets: tuple[float, ...]) -> Found:
        found = [method.run(problem, budgets) for method in self.methods]
        best = [
            self._best(problem, budget, [f.images[i] for f in found])
            for i, budget in enumerate(budgets)
        ]
        return Found(np.stack(best), sum(f.iterations for f in found))

    def _best(self, problem: Problem, budget: float, candidates: list[np.ndarray]) -> np.ndarray:
        inside = [problem.project(c, budget, self.norm) for c in candidates]
        met, length = [], [distance(images, problem.x, self.norm) for images in inside]
        for images in inside:
            margins = jnp.asarray(problem.margins_at(images))
            met.append(np.asarray((problem.aim.met(margins) & problem.aim.relevant).sum(-1)))
        order = np.lexsort((np.array(length), -np.array(met)), axis=0)[0]
        return np.stack(inside)[order, np.arange(len(problem.x))]
