r"""The baseline: certify one label at a time, and count the labels (Jia et al., ICLR 2020)."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

from jmlv.smoothing.arguments import Labels, multi_hot, require_alpha
from jmlv.smoothing.multiguard import Ranked, by_radius, require_theorem
from jmlv.smoothing.noise import Noise
from jmlv.smoothing.probability import (
    ProbabilityBounds,
    clopper_pearson_lower,
    clopper_pearson_upper,
)


def jia_certified_intersection_size(
    counts: Int[np.ndarray, "*image label"],
    n: int,
    labels: Labels,
    *,
    k: int,
    k_prime: int,
    sigma: Noise,
    radius: float | Float[np.ndarray, "*radius"],
    alpha: float,
    single_terms: bool = False,
) -> int | Int[np.ndarray, "*image *radius"]:
    r"""How many true labels are each certified, alone, to stay in the smoothed top k.

    A label $l$ is certified at $R$ if some $t \le k$ has

    $$\Phi(\Phi^{-1}(\underline{p}_l) - R/\sigma) >
      \tfrac{1}{t}\,\Phi(\Phi^{-1}(\overline{p}_{S_t}) + R/\sigma)$$

    where $S_t$ are the $t$ labels of the smallest upper bounds among the $k$ largest of all labels
    but $l$, and $\overline{p}_{S_t} \le 1 - \underline{p}_l$: the true labels beside $l$ compete with
    it. The theorem is about a base classifier with one label. One that outputs $k'$ labels becomes
    such a one by drawing one of them at random, so all bounds are divided by $k'$; these are the
    joint terms of MultiGuard's theorem for the label set $\{l\}$. For $k' > 1$ they are weaker than
    MultiGuard's for that set; ``single_terms=True`` takes the latter. MultiGuard's size was never seen
    below the former. It can be below the latter where $k > k' > 1$: the set $S_t$ may be larger than
    $k - e + 1$, the largest in Theorem 1.

    The count holds for all true labels together with probability ``1 - alpha``. With $d > 1$ true
    labels it needs $d$ lower and $c$ upper bounds, so each gets $\alpha / (c + d)$; with one true
    label $\alpha / c$, as in the source.

    Args:
        counts, n, labels, k, k_prime, sigma, radius, alpha: as in
            :func:`jmlv.smoothing.certified_intersection_size`.
        single_terms: also use the single-label terms of MultiGuard's theorem.

    Returns:
        As there.

    Raises:
        ValueError: as there.

    Source: Jia, Cao, Wang and Gong, *Certified Robustness for Top-k Predictions against Adversarial
    Perturbations via Randomized Smoothing*, ICLR 2020, Theorem 1; label by label as in Jia, Qu and
    Gong, *MultiGuard*, NeurIPS 2022, Section 4.

    >>> jia_certified_intersection_size([900, 800, 200, 100], 1000, [0, 1], k=2, k_prime=2,
    ...                                 sigma=0.5, radius=[0.0, 0.1, 0.3, 0.5], alpha=0.001)
    array([2, 2, 0, 0])
    """
    counts, n, k = require_theorem(counts, n, k, k_prime)
    hot = np.atleast_2d(multi_hot(labels, counts.shape))
    image, bounds = single_label_bounds(np.atleast_2d(counts), n, hot, require_alpha(alpha))
    ranked = Ranked.of(bounds, k, int(k_prime), single_terms=single_terms)

    def kept(shifts: Float[np.ndarray, " radius"]) -> Int[np.ndarray, "image radius"]:
        sizes = np.zeros((len(hot), len(shifts)), np.int64)
        np.add.at(sizes, image, ranked.sizes(shifts))
        return sizes

    return by_radius(kept, counts, sigma, radius)


def single_label_bounds(
    counts: Int[np.ndarray, "image label"], n: int, hot: np.ndarray, alpha: float
) -> tuple[Int[np.ndarray, " row"], ProbabilityBounds]:
    """One row for each true label of each image: its image, and bounds with that label alone true."""
    image, label = np.nonzero(hot)
    true_labels = hot.sum(axis=1, keepdims=True)
    share = alpha / (hot.shape[1] + np.where(true_labels > 1, true_labels, 0))
    alone = label[:, None] == np.arange(hot.shape[1])
    lower = clopper_pearson_lower(counts, n, share)[image]
    upper = clopper_pearson_upper(counts, n, share)[image]
    bounds = ProbabilityBounds(np.where(alone, lower, 0.0), np.where(alone, 1.0, upper), alone)
    return image, bounds
