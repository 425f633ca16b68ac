"""ML-Rank I: wanted labels rank above unwanted ones."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jmlv.attacks.goals import Aim
from jmlv.attacks.methods.carlini import PenaltyAttack


@dataclasses.dataclass(frozen=True)
class MLRank1(PenaltyAttack):
    r"""Every wanted label ranks above every unwanted one.

    $$h(x') = \max\Big(0,\ \max_{j \in \Omega^-} d_j - \min_{i \in \Omega^+} d_i\Big)$$

    with the wanted labels $\Omega^+$ and the unwanted ones $\Omega^-$ among those that count, and the
    search of :class:`jmlv.attacks.methods.carlini.PenaltyAttack`. Where one side is empty, the decision's
    threshold stands for it. The loss knows only ranks: it can be zero on images whose labels are on
    the wrong side of the threshold.

    Source: Song, Jin, Huang, Hu, *Multi-label Adversarial Perturbations*, ICDM 2018; iterations,
    bisection and first lambda as in the comparison of the MLA-LP paper.
    """

    def penalty(self, margins: Float[Array, "image label"], aim: Aim) -> Float[Array, " image"]:
        above, below = aim.relevant & aim.wanted, aim.relevant & ~aim.wanted
        return jnp.maximum(0.0, highest(margins, below) - lowest(margins, above))


def highest(
    margins: Float[Array, "image label"], among: Bool[Array, "image label"]
) -> Float[Array, " image"]:
    """The largest margin among some labels; 0, the threshold, where there is none."""
    value = jnp.where(among, margins, -jnp.inf).max(-1)
    return jnp.where(among.any(-1), value, 0.0)


def lowest(
    margins: Float[Array, "image label"], among: Bool[Array, "image label"]
) -> Float[Array, " image"]:
    """The smallest margin among some labels; 0, the threshold, where there is none."""
    return -highest(-margins, among)
