"""What an attack returns: the images and an honest account of them."""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Bool, Float, Float32, Int

from jmlv.attacks.decisions import Decision
from jmlv.attacks.goals import Goal
from jmlv.attacks.problem import Attack


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class AttackResult:
    """Attacked images for each budget; everything here was recomputed from the images returned.

    Attributes:
        images: float32, inside budget, box and mask.
        success: whether the goal is reached.
        flips: how many labels changed their value, and ``flipped`` which.
        linf, l2, rmsd: distances from the originals; RMSD is on the scale of 0 to 255.
        iterations: steps of the method.
        seconds: of the whole call, compilation included.
        budgets: as given; ``(inf,)`` where none was.
        already: images on which the goal held before the attack. They are returned unchanged, count
            as ``success``, and are left out of :attr:`success_rate`.
        scores_before, scores: raw scores of the original and the attacked images.
        goal, method, decision: what was asked.
    """

    images: Float32[np.ndarray, "budget image height width channel"]
    success: Bool[np.ndarray, "budget image"]
    flipped: Bool[np.ndarray, "budget image label"]
    linf: Float[np.ndarray, "budget image"]
    l2: Float[np.ndarray, "budget image"]
    rmsd: Float[np.ndarray, "budget image"]
    iterations: Int[np.ndarray, "budget image"]
    seconds: float
    budgets: tuple[float, ...]
    already: Bool[np.ndarray, " image"]
    scores_before: Float[np.ndarray, "image label"]
    scores: Float[np.ndarray, "budget image label"]
    goal: Goal
    method: Attack
    decision: Decision

    @property
    def flips(self) -> Int[np.ndarray, "budget image"]:
        return self.flipped.sum(-1)

    @property
    def added(self) -> Int[np.ndarray, "budget image"]:
        """How many labels are predicted that were not."""
        return (self.flipped & (self._margins(self.scores) > 0)).sum(-1)

    @property
    def removed(self) -> Int[np.ndarray, "budget image"]:
        """How many labels are no longer predicted."""
        return self.flips - self.added

    def _margins(self, scores: np.ndarray) -> np.ndarray:
        return np.asarray(self.decision.margins(scores))

    @property
    def success_rate(self) -> Float[np.ndarray, " budget"]:
        """Share of the images that needed an attack on which it succeeded; NaN if none did."""
        needed = ~self.already
        return (
            self.success[:, needed].mean(1) if needed.any() else np.full(len(self.budgets), np.nan)
        )

    def __repr__(self) -> str:
        rates = ", ".join(
            f"{budget:.4g}: {rate:.0%}" for budget, rate in zip(self.budgets, self.success_rate)
        )
        note = f", {self.already.sum()} already there" if self.already.any() else ""
        return (
            f"AttackResult({type(self.method).__name__}, {self.images.shape[1]} images{note}, "
            f"success by budget {{{rates}}}, {self.seconds:.2f} s)"
        )
