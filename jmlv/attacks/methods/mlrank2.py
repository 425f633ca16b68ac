"""ML-Rank II: attacked labels change places with the kept ones."""

from __future__ import annotations

import dataclasses
from itertools import combinations

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jmlv.attacks.goals import Aim
from jmlv.attacks.methods.carlini import PenaltyAttack
from jmlv.attacks.methods.mlrank1 import highest, lowest


@dataclasses.dataclass(frozen=True)
class MLRank2(PenaltyAttack):
    r"""Attacked labels rank beyond the kept ones, in this order from the top.

    $$A^- \succ B^+ \succ B^- \succ A^+$$

    where $A^-$ are absent labels to be added, $A^+$ present ones to be removed, and $B^\pm$ those to
    be kept; each pair of neighbouring groups has the hinge of :class:`jmlv.attacks.MLRank1`, and so
    has the threshold between $B^+$ and $B^-$ (or what stands next to it where these are empty). The
    search is that of :class:`jmlv.attacks.methods.carlini.PenaltyAttack`.

    Source: Song, Jin, Huang, Hu, *Multi-label Adversarial Perturbations*, ICDM 2018; groups and order
    as in the code that accompanies the MLA-LP paper.
    """

    def penalty(self, margins: Float[Array, "image label"], aim: Aim) -> Float[Array, " image"]:
        groups = [
            aim.attacked & aim.wanted,
            aim.kept & aim.wanted,
            aim.kept & ~aim.wanted,
            aim.attacked & ~aim.wanted,
        ]
        upper, lower = groups[0] | groups[1], groups[2] | groups[3]
        order = sum(_hinge(margins, a, b) for a, b in combinations(groups, 2))
        return order + jnp.maximum(0.0, highest(margins, lower) - lowest(margins, upper))


def _hinge(
    margins: Float[Array, "image label"],
    upper: Bool[Array, "image label"],
    lower: Bool[Array, "image label"],
) -> Float[Array, " image"]:
    """How far the lower group reaches above the upper one; 0 where either is empty."""
    gap = jnp.maximum(0.0, highest(margins, lower) - lowest(margins, upper))
    return jnp.where(upper.any(-1) & lower.any(-1), gap, 0.0)
