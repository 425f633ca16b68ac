"""Clopper-Pearson bounds on how often each label is in the base classifier's top k'."""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.special import betainccinv, betaincinv

from jmlv.smoothing.arguments import (
    Labels,
    multi_hot,
    require_alpha,
    require_count,
    require_counts,
    require_same_sums,
)

OUTWARD = 1e-12
"""Relative step by which bounds and comparisons give way, far above the error of SciPy's special
functions: rounding can lose a certificate, never make one."""


@dataclasses.dataclass(frozen=True, eq=False)
class ProbabilityBounds:
    """Lower and upper bounds that hold together with probability ``1 - alpha``.

    Args:
        lower: (image, label) or (label,); 0 where no lower bound was asked for.
        upper: as ``lower``; 1 where no upper bound was asked for.
        labels: multi-hot true labels: these carry lower bounds, the others upper bounds.
    """

    lower: Float[np.ndarray, "*image label"]
    upper: Float[np.ndarray, "*image label"]
    labels: Bool[np.ndarray, "*image label"]


def probability_bounds(
    counts: Int[np.ndarray, "*image label"], n: int, labels: Labels, alpha: float
) -> ProbabilityBounds:
    r"""One-sided bounds for every label of an image at once, with probability ``1 - alpha``.

    $$\underline{p}_j = B(\alpha / c;\; n_j,\; n - n_j + 1) \quad (j \in L), \qquad
      \overline{p}_j = B(1 - \alpha / c;\; n_j + 1,\; n - n_j) \quad (j \notin L)$$

    with $B(q; a, b)$ the $q$-quantile of the Beta distribution. There are $c$ one-sided bounds, one
    a label, so Bonferroni gives each $\alpha / c$. Eq. 10 of the paper prints
    $B(1 - \alpha / c;\; n_j,\; n - n_j + 1)$ for the upper bound: that is the quantile of the
    *lower* bound's distribution and covers the truth too rarely (at $n_j = 0$ it is 0).

    Args:
        counts: how often each label was in the top k', of one image or several.
        n: number of noisy inputs; the counts of each image sum to ``n * k_prime``.
        labels: the true labels, as numbers or multi-hot booleans.
        alpha: probability, for each image, that some bound fails; inside (0, 1).

    Raises:
        ValueError: a count is above ``n``, the counts of an image do not sum to a multiple of ``n``
            (samples are missing) or images differ in it, a label set is empty or repeats a label,
            ``alpha`` is not inside (0, 1).

    Source: Jia, Qu and Gong, *MultiGuard*, NeurIPS 2022, Section 3.3, Eq. 9 and (corrected) 10.

    >>> bounds = probability_bounds([90, 60, 50], 100, [0, 1], alpha=0.001)
    >>> print(f"{bounds.lower[0]:.3f} {bounds.lower[1]:.3f} {bounds.upper[2]:.3f}")
    0.761 0.426 0.670
    """
    n, alpha = require_count("n", n), require_alpha(alpha)
    counts = require_counts(counts, n)
    require_same_sums(counts, n)
    hot = multi_hot(labels, counts.shape)
    share = alpha / counts.shape[-1]
    return ProbabilityBounds(
        lower=np.where(hot, clopper_pearson_lower(counts, n, share), 0.0),
        upper=np.where(hot, 1.0, clopper_pearson_upper(counts, n, share)),
        labels=hot,
    )


def clopper_pearson_lower(
    counts: Int[np.ndarray, "..."], n: int, alpha: float | Float[np.ndarray, "..."]
) -> Float[np.ndarray, "..."]:
    """Below the success probability with probability at least ``1 - alpha``, whatever that is.

    >>> print(f"{clopper_pearson_lower(100, 100, 0.001):.4f}")
    0.9333
    """
    counts = np.asarray(counts, np.float64)
    inverse = betaincinv(np.maximum(counts, 1), n - counts + 1, alpha) * (1 - OUTWARD)
    return np.where(counts > 0, inverse, 0.0)


def clopper_pearson_upper(
    counts: Int[np.ndarray, "..."], n: int, alpha: float | Float[np.ndarray, "..."]
) -> Float[np.ndarray, "..."]:
    """Above the success probability with probability at least ``1 - alpha``, whatever that is.

    >>> print(f"{clopper_pearson_upper(0, 100, 0.001):.4f}")
    0.0667
    """
    counts = np.asarray(counts, np.float64)
    inverse = betainccinv(counts + 1, np.maximum(n - counts, 1), alpha) * (1 + OUTWARD)
    return np.where(counts < n, np.minimum(inverse, 1.0), 1.0)
