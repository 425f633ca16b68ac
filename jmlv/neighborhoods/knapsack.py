"""The linear step of a growing search: a fractional knapsack, solved exactly."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

TINY = 1e-300
"""Only division by zero is avoided: a cost that is rounded up would make a bound too small."""


def knapsack_step(
    gain: Float[np.ndarray, " n"],
    cost: Float[np.ndarray, " n"],
    budget: float,
    low: Float[np.ndarray, " n"],
    high: Float[np.ndarray, " n"],
) -> Float[np.ndarray, " n"]:
    """Maximises ``gain . z`` over ``low <= z <= high`` with ``cost . z <= budget``.

    Greedy by gain per cost, which is optimal (Dantzig 1957). If even ``low`` exceeds the budget,
    ``low`` is returned.

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
    order = np.argsort(-gain / np.maximum(cost, TINY), kind="stable")
    price = (cost * room)[order]
    before = np.concatenate([[0.0], np.cumsum(price)[:-1]])
    share = np.clip((left - before) / np.maximum(price, TINY), 0.0, 1.0)
    share[price <= 0] = 1.0
    step = low.astype(float).copy()
    step[order] += share * room[order]
    return step
