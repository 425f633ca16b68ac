"""The training loss and the margin that attacks on the prediction minimise."""

from __future__ import annotations

import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float

__all__ = ["binary_cross_entropy", "label_set_margin"]


def binary_cross_entropy(
    scores: Float[Array, "batch label"], labels: Bool[Array, "batch label"]
) -> Float[Array, " batch"]:
    r"""The sum over labels of $-y \log \sigma(F) - (1 - y) \log(1 - \sigma(F))$.

    **Arguments:** ``scores`` $F$, raw logits; ``labels`` $y$, multi-hot.

    >>> loss = binary_cross_entropy(jnp.zeros((1, 2)), jnp.array([[True, False]]))
    >>> round(float(loss[0]), 4)
    1.3863
    """
    return optax.sigmoid_binary_cross_entropy(scores, labels.astype(scores.dtype)).sum(-1)


def label_set_margin(
    scores: Float[Array, "batch label"], labels: Bool[Array, "batch label"]
) -> Float[Array, " batch"]:
    r"""$\min_{t \in Y} F_t - \max_{c \notin Y} F_c$, positive iff the $|Y|$ highest
    scores are those of the true labels $Y$; a tie is not positive.

    **Arguments:** ``scores`` $F$; ``labels`` $Y$, multi-hot, at least one true and one
    false in each row (else the margin is infinite).

    >>> margin = label_set_margin(
    ...     jnp.array([[3.0, 1.0, 0.5]]), jnp.array([[True, True, False]])
    ... )
    >>> float(margin[0])
    0.5
    """
    true = jnp.min(jnp.where(labels, scores, jnp.inf), axis=-1)
    other = jnp.max(jnp.where(labels, -jnp.inf, scores), axis=-1)
    return true - other
