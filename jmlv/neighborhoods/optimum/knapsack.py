"""The linear step of a growing search: a fractional knapsack, solved exactly."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float


def knapsack_step(
    gain: Float[np.ndarray, " n"],
    cost: Float[np.ndarray, " n"],
    budget: float,
    low: Float[np.ndarray, " n"],
    high: Float[np.ndarray, " n"],
) -> Float[np.ndarray, " n"]:
    """Maximises ``gain . z`` over ``low <= z <= high`` with ``cost . z <= budget``.

    Greedy by gain per cost, which is optimal (Dantzig 1957). If even ``low`` exceeds the budget,
    whatever has a cost stays there.

    Args:
        gain: not negative.
        cost: any sign; what costs nothing or less goes to its upper limit.
        budget: what may be spent.
        low, high: the limits.

    >>> import numpy as np
    >>> print(knapsack_step(np.ones(3), np.array([1.0, 2.0, 4.0]), 2.0, np.zeros(3), np.ones(3)))
    [1.  0.5 0. ]
    """
    cost = np.maximum(np.asarray(cost, float), 0.0)
    room = high - low
    left = budget - cost @ low
    order = np.argsort(-_ratio(gain, cost), kind="stable")
    price = (cost * room)[order]
    before = np.concatenate([[0.0], np.cumsum(price)[:-1]])
    share = np.clip(_ratio(left - before, price), 0.0, 1.0)
    step = low.astype(float).copy()
    step[order] += share * room[order]
    return step


def _ratio(numerator: Float[np.ndarray, " n"], cost: Float[np.ndarray, " n"]) -> np.ndarray:
    """Infinite where nothing is to pay; a cost that is rounded up would make a bound too small."""
    with np.errstate(over="ignore"):
        return np.where(cost > 0, numerator / np.where(cost > 0, cost, 1.0), np.inf)
