"""ML-CW: the attack of Carlini and Wagner with one hinge a label."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Float

from jmlv.attacks.goals import Aim
from jmlv.attacks.methods.carlini import PenaltyAttack


@dataclasses.dataclass(frozen=True)
class MLCW(PenaltyAttack):
    r"""Carlini and Wagner's attack with a hinge on every label that counts.

    $$h(x') = \sum_j \max(0, -s_j d_j(x'))$$

    with the search of :class:`jmlv.attacks.methods.carlini.PenaltyAttack`.

    Source: Song, Jin, Huang, Hu, *Multi-label Adversarial Perturbations*, ICDM 2018; iterations,
    bisection and first lambda as in the comparison of the MLA-LP paper.
    """

    def penalty(self, margins: Float[Array, "image label"], aim: Aim) -> Float[Array, " image"]:
        return (aim.relevant * jnp.maximum(0.0, -aim.signs * margins)).sum(-1)
