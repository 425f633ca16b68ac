"""The training losses and the margin that attacks on the prediction minimise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float

Loss = Callable[[Float[Array, "batch label"], Bool[Array, "batch label"]], Float[Array, " batch"]]
"""Maps raw scores and multi-hot labels to one loss an image."""


def binary_cross_entropy(
    scores: Float[Array, "batch label"], labels: Bool[Array | np.ndarray, "batch label"]
) -> Float[Array, " batch"]:
    r"""The sum over labels of $-y \log \sigma(F) - (1 - y) \log(1 - \sigma(F))$.

    Args:
        scores: $F$, raw logits.
        labels: $y$, multi-hot.

    >>> loss = binary_cross_entropy(jnp.zeros((1, 2)), jnp.array([[True, False]]))
    >>> round(float(loss[0]), 4)
    1.3863
    """
    return optax.sigmoid_binary_cross_entropy(scores, labels.astype(scores.dtype)).sum(-1)


@dataclass(frozen=True)
class AsymmetricLoss:
    r"""Binary cross-entropy that lets go of easy negatives: most labels are not in an image.

    $$L = -\sum_j y_j (1 - p_j)^{\gamma_+} \log p_j
        + (1 - y_j)\, m_j^{\gamma_-} \log(1 - m_j), \qquad
      p = \sigma(F), \quad m_j = \max(p_j - m, 0)$$

    An instance is a loss: call it with scores and labels, or pass it to
    :func:`jmlv.training.train`. With both exponents and the margin 0 it is binary cross-entropy.

    Args:
        gamma_positive: focusing exponent of the true labels, 0 or at least 1.
        gamma_negative: focusing exponent of the other labels, 0 or at least 1.
        margin: probability $m$ below which another label costs nothing, in [0, 1).

    Raises:
        ValueError: an exponent is negative or between 0 and 1 (its slope is infinite at 0), or the
            margin is not in [0, 1).

    Source: Ben-Baruch et al., *Asymmetric Loss For Multi-Label Classification*, 2020, Eq. 7.

    >>> loss = AsymmetricLoss()(jnp.zeros((1, 2)), jnp.array([[True, False]]))
    >>> print(f"{float(loss[0]):.4f}")
    0.7177
    """

    gamma_positive: float = 0.0
    gamma_negative: float = 4.0
    margin: float = 0.05

    def __post_init__(self) -> None:
        for name in ("gamma_positive", "gamma_negative"):
            if not (getattr(self, name) == 0 or 1 <= getattr(self, name) < float("inf")):
                raise ValueError(
                    f"{name}: got {getattr(self, name)!r}; expected 0 or a number of at least 1."
                )
        if not 0 <= self.margin < 1:
            raise ValueError(f"margin: got {self.margin!r}; expected a probability in [0, 1).")

    def __call__(
        self, scores: Float[Array, "batch label"], labels: Bool[Array | np.ndarray, "batch label"]
    ) -> Float[Array, " batch"]:
        positive = -_focus(jax.nn.sigmoid(-scores), self.gamma_positive) * jax.nn.log_sigmoid(
            scores
        )
        shifted = jnp.maximum(jax.nn.sigmoid(scores) - self.margin, 0.0)
        log_rest = jnp.log1p(-shifted) if self.margin else jax.nn.log_sigmoid(-scores)
        negative = -_focus(shifted, self.gamma_negative) * log_rest
        return jnp.where(labels, positive, negative).sum(-1)


def _focus(probability: Float[Array, "..."], gamma: float) -> Float[Array, "..."] | float:
    return probability**gamma if gamma else 1.0


def label_set_margin(
    scores: Float[Array, "batch label"], labels: Bool[Array | np.ndarray, "batch label"]
) -> Float[Array, " batch"]:
    r"""$\min_{t \in Y} F_t - \max_{c \notin Y} F_c$, positive iff the $|Y|$ highest
    scores are those of the true labels $Y$; a tie is not positive.

    Args:
        scores: $F$.
        labels: $Y$, multi-hot, at least one true and one false in each row (else the margin is
            infinite).

    >>> margin = label_set_margin(
    ...     jnp.array([[3.0, 1.0, 0.5]]), jnp.array([[True, True, False]])
    ... )
    >>> float(margin[0])
    0.5
    """
    true = jnp.min(jnp.where(labels, scores, jnp.inf), axis=-1)
    other = jnp.max(jnp.where(labels, -jnp.inf, scores), axis=-1)
    return true - other
