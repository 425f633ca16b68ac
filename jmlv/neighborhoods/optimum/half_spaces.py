"""Half-spaces of epsilons that together hold every robust neighbourhood in a box."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from jmlv.neighborhoods.optimum.knapsack import knapsack_step

Vector = Float[np.ndarray, " layer"]


class HalfSpaces(NamedTuple):
    """Linear functions of epsilon: where all are negative, no neighbourhood in a box is robust."""

    constants: Float[np.ndarray, " row"]
    slopes: Float[np.ndarray, "row layer"]

    @classmethod
    def of_shares(
        cls,
        constants: Float[np.ndarray, " row"],
        slopes: Float[np.ndarray, "row layer"],
        lower: Vector,
        upper: Vector,
    ) -> HalfSpaces:
        """From functions of ``t`` in [0, 1], where ``epsilon = lower + t (upper - lower)``.

        A function that overflowed tells nothing: it becomes plus infinity.
        """
        finite = np.isfinite(constants) & np.isfinite(slopes).all(1)
        room = upper - lower
        slopes = np.where(finite[:, None] & (room > 0), slopes / np.where(room > 0, room, 1), 0)
        return cls(np.where(finite, constants - slopes @ lower, np.inf), slopes)

    def largest(self, weights: Vector, lower: Vector, upper: Vector) -> Vector | None:
        """The epsilon of the largest size in a box that one half-space holds; None if none does.

        >>> import numpy as np
        >>> half = HalfSpaces(np.array([1.0]), np.array([[-1.0, -2.0]]))  # e0 + 2 e1 <= 1
        >>> half.largest(np.ones(2), np.zeros(2), np.full(2, 0.75))
        array([0.75 , 0.125])
        """
        candidates = []
        for constant, slope in zip(*self):
            budget = constant + np.maximum(slope, 0) @ upper
            if budget >= np.maximum(-slope, 0) @ lower:
                candidates.append(knapsack_step(weights, -slope, budget, lower, upper))
        return max(candidates, key=partial(np.dot, weights), default=None)

    def reach(self, lower: Vector, upper: Vector) -> Vector:
        """How large each epsilon of a box can be in any of the half-spaces, each on its own."""
        cost = np.maximum(-self.slopes, 0)
        room = (self.constants + np.maximum(self.slopes, 0) @ upper - cost @ lower)[:, None]
        ends = np.where(cost > 0, lower + room / np.where(cost > 0, cost, 1), np.inf)
        return np.where(room >= 0, ends, -np.inf).max(0)
