"""How many noisy inputs a certificate needs at least."""

from __future__ import annotations

import numpy as np

from jmlv.smoothing.multiguard import certified_intersection_size

MOST = 2**31


def samples_needed(labels: int, *, k: int, k_prime: int, alpha: float) -> int:
    """The fewest noisy inputs with which any image could be certified, at radius 0.

    That is where all of them agree: ``k_prime`` labels, all of them true, are in every top k', and
    no other label ever is. With fewer the confidence bounds alone are too wide.

    Args:
        labels: how many labels the network has.
        k, k_prime, alpha: as for :func:`jmlv.smoothing.certified_intersection_size`.

    >>> samples_needed(10, k=2, k_prime=2, alpha=0.001)
    14
    """
    counts = (np.arange(labels) < k_prime).astype(np.int64)

    def certifies(n: int) -> bool:
        size = certified_intersection_size(
            n * counts, n, np.arange(k_prime), k=k, k_prime=k_prime, sigma=1.0, radius=0.0, alpha=alpha
        )  # fmt: skip
        return size > 0

    most = 1
    while not certifies(most) and most < MOST:
        most *= 2
    few, enough = most // 2, most
    while enough - few > 1:
        middle = (few + enough) // 2
        few, enough = (few, middle) if certifies(middle) else (middle, enough)
    return enough
