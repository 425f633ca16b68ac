"""The role of a growing strategy."""

from __future__ import annotations

import abc

import numpy as np
from jaxtyping import Array, Float

from jmlv.neighborhoods.problem import Problem
from jmlv.oracles import Oracle


class Strategy(abc.ABC):
    """A frozen dataclass whose fields are its options."""

    @property
    @abc.abstractmethod
    def name(self) -> str:
        """Short name in tables."""

    @abc.abstractmethod
    def search(self, problem: Problem) -> None:
        """Offers ever larger neighbourhoods to the problem, which keeps the best.

        Raises:
            OutOfTime: from the problem, when the budget ends; it keeps what it has.
        """


def holds(problem: Problem, epsilon: Float[Array, " movable"], oracle: Oracle | None) -> bool:
    """Whether a candidate is proven; it is kept then if it is the largest so far.

    Without an oracle the search's bound is asked in float32 first, and only what that certifies is
    verified in float64.
    """
    if oracle is None and not problem.certified(problem.margins(np.asarray(epsilon)[None])[0]):
        return False
    return problem.offer(epsilon, oracle).robust


def largest(holds_at, steps: int) -> float:
    """The largest value in [0, 1] found to hold: 1, else bisection from 0, which must hold."""
    if holds_at(1.0):
        return 1.0
    low, high = 0.0, 1.0
    for _ in range(steps):
        middle = (low + high) / 2
        low, high = (middle, high) if holds_at(middle) else (low, middle)
    return low
