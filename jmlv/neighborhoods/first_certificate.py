"""What a handful of queries certify at once: in hand before anything dear begins."""

from __future__ import annotations

import numpy as np

from jmlv.neighborhoods.problem import OutOfTime, Problem

HALVINGS = 12
"""The smallest epsilon that is tried is 2 to the power of minus this."""

REFINEMENTS = 2
"""Bisections between the largest power of a half that is certified and its double."""

SHARE = 0.25
"""Of the time that is left once the first query is answered, at most."""


def certify_evenly(problem: Problem) -> float:
    """Offers neighbourhoods of one epsilon for all layers, proven by the search's bound in float64.

    One compiled program answers all of them: powers of a half, bisected on the exponent, then
    bisected between the largest that holds and its double. The first query compiles it, and has all
    the time there is: without it there is nothing to return.

    Returns:
        The largest such epsilon that was proven.

    Raises:
        OutOfTime: the budget itself has ended.
    """
    outer, proven = problem.deadline, [0.0]
    try:
        _bisect(problem, proven)
    except OutOfTime:
        if outer.passed or problem.evaluator.stopped:
            raise
    finally:
        problem.deadline = outer
    return max(proven)


def _bisect(problem: Problem, proven: list[float]) -> None:
    ones = np.ones(len(problem.movable))

    def holds(epsilon: float) -> bool:
        robust = problem.offer(epsilon * ones).robust
        proven.extend([epsilon] if robust else [])
        return robust

    if not len(ones) or holds(1.0):
        return
    problem.deadline = problem.deadline.share(SHARE)
    most, least = 0, HALVINGS + 1  # 2**-most does not hold, 2**-least is not asked about
    while least - most > 1:
        middle = (least + most) // 2
        most, least = (most, middle) if holds(0.5**middle) else (middle, least)
    low, high = 0.5**least if least <= HALVINGS else 0.0, 0.5**most
    for _ in range(REFINEMENTS if low else 0):
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
