"""CLASS: attack only a subset of labels that are near and help one another."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from jmlv.attacks.correlations import Correlations, probes_of
from jmlv.attacks.methods.budgeted import PlannedAttack, require_momentum
from jmlv.attacks.problem import Problem, require_at_least, require_positive
from jmlv.attacks.profile import Profile


@dataclasses.dataclass(frozen=True)
class CLASS(PlannedAttack):
    r"""Classification-landscape attentive subset selection, with MI-FGSM on cross-entropy.

    Attacks ``factor`` times as many labels as the profile expects to flip within the budget. The
    subset grows from the most confident label (nearest to its flip); each next one is the first step
    toward the best leaf of a look-ahead tree, where a node adds its ``branches`` best labels by

    $$\gamma \sum_{i \in S} (C_{ij} + C_{ji}) + (1 - \gamma)\, c_j$$

    down to ``depth``, and a leaf is worth $\gamma \sum_{i,j \in S} C_{ij} + (1-\gamma) \sum_{j \in S}
    c_j$. Row $i$ of $C$ is the flip-up or flip-down correlation, whichever way label $i$ must flip.

    Labels that the goal keeps are always part of the loss; only attacked ones are chosen.

    Args:
        gamma: weight of correlation against confidence, in [0, 1].
        branches, depth: of the look-ahead tree.
        factor: labels attacked for each one expected to flip.
        correlations: from :meth:`jmlv.attacks.LabelProbes.correlations`; by default they are measured
            on the images that are attacked.
        profile: as in :class:`jmlv.attacks.methods.budgeted.PlannedAttack`, by name.
        norm, step, decay: as in :class:`jmlv.attacks.methods.budgeted.MomentumAttack`, by name.

    Source: as of :class:`jmlv.attacks.SLAM`. The published ``gamma`` was tuned to each classifier;
    0.5 is the middle of its range.
    """

    gamma: float = 0.5
    branches: int = 4
    depth: int = 4
    factor: float = 1.66
    correlations: Correlations | None = None

    def __post_init__(self) -> None:
        require_momentum(self)
        require_at_least(self.branches, 1, "branches")
        require_at_least(self.depth, 1, "depth")
        require_positive(self.factor, "factor")
        if not 0 <= self.gamma <= 1:
            raise ValueError(f"gamma: must be in [0, 1], got {self.gamma}.")

    def plan(self, problem: Problem, profile: Profile) -> Callable[[float], tuple[Any, float]]:
        matrices, kept = self._matrices(problem), np.asarray(problem.aim.kept)

        def for_budget(budget: float) -> tuple[np.ndarray, float]:
            size = max(1, round(self.factor * profile.estimate(budget)))
            return self.subsets(problem, matrices, size) | kept, 1.0

        return for_budget

    def subsets(
        self, problem: Problem, correlations: Correlations, size: int
    ) -> Bool[np.ndarray, "image label"]:
        """The labels to attack on each image."""
        up, down = np.array(correlations.up), np.array(correlations.down)
        signed = np.asarray(problem.aim.signs) * problem.margins
        confidence = 1 / (1 + np.exp(-signed.astype(np.float64)))
        wanted, attacked = np.asarray(problem.aim.wanted), np.asarray(problem.aim.attacked)
        return np.stack(
            [
                self.subset(
                    np.where(wanted[i][:, None], up, down), confidence[i], attacked[i], size
                )
                for i in range(len(signed))
            ]
        )

    def subset(
        self,
        correlation: Float[np.ndarray, "label label"],
        confidence: Float[np.ndarray, " label"],
        allowed: Bool[np.ndarray, " label"],
        size: int,
    ) -> Bool[np.ndarray, " label"]:
        """The branching search for one image."""
        confidence = confidence / confidence.max()
        correlation = correlation / max(correlation.max(), 1e-12)
        chosen = np.zeros(len(confidence), bool)
        if not allowed.any():
            return chosen
        chosen[np.where(allowed, confidence, -np.inf).argmax()] = True
        for _ in range(min(size, allowed.sum()) - 1):
            depth = min(self.depth, min(size, allowed.sum()) - chosen.sum())
            chosen[self._next(correlation, confidence, allowed, chosen, depth)] = True
        return chosen

    def _next(self, correlation, confidence, allowed, chosen, depth) -> int:
        """The first label on the way to the best leaf."""
        sets, firsts = chosen[None].astype(float), None
        both = correlation + correlation.T
        for _ in range(depth):
            scores = self.gamma * sets @ both + (1 - self.gamma) * confidence
            scores = np.where((sets > 0) | ~allowed, -np.inf, scores)
            width = min(self.branches, int((allowed & ~chosen).sum()))
            added = np.argsort(-scores, axis=1, kind="stable")[:, :width]
            real = np.isfinite(np.take_along_axis(scores, added, 1)).ravel()
            parents = np.repeat(np.arange(len(sets)), width)
            firsts = added.ravel() if firsts is None else firsts[parents]
            sets = sets[parents]
            sets[np.arange(len(sets)), added.ravel()] = 1
            sets, firsts = sets[real], firsts[real]
        worth = self.gamma * np.einsum("si,ij,sj->s", sets, correlation, sets, optimize=True)
        return int(firsts[(worth + (1 - self.gamma) * sets @ confidence).argmax()])

    def _matrices(self, problem: Problem) -> Correlations:
        if self.correlations is None:
            return probes_of(problem, norm=self.norm).correlations()
        if self.correlations.label_count != problem.label_count:
            raise ValueError(
                f"correlations: are of {self.correlations.label_count} labels, the classifier has "
                f"{problem.label_count}. Measure them with probe_labels."
            )
        return self.correlations
