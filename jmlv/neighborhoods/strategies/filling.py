"""Raising one layer after another as far as the certificate goes, for many candidates in lockstep."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from jmlv.neighborhoods.problem import Problem

Batch = Float[np.ndarray, "state movable"]
WORTH = 1e-3
"""An epsilon that could grow by less than this is left alone."""


@dataclasses.dataclass(eq=False)
class Filling:
    """One candidate: its epsilons, its margin, and the layers still to be raised.

    The layer at hand is bracketed between ``low``, certified, and ``high``, not certified; the next
    value is found by false position on the margin.
    """

    epsilon: Float[np.ndarray, " movable"]
    margin: float
    queue: list[int]
    guess: Float[np.ndarray, " movable"]
    tries: int
    whole: float = 0.0
    layer: int | None = None
    tried: int = 0
    high: tuple[float, float] = (np.inf, 0.0)

    def __post_init__(self) -> None:
        self.whole = max(self.margin, 1e-9)

    @property
    def low(self) -> float:
        return float(self.epsilon[self.layer])

    def propose(self) -> Float[np.ndarray, " movable"] | None:
        """The next epsilons to ask about, or None when nothing is left to raise."""
        if self.layer is None and not self._next_layer():
            return None
        proposal = self.epsilon.copy()
        proposal[self.layer] = self._value()
        return proposal

    def answer(
        self, proposal: Float[np.ndarray, " movable"], margin: float, certified: bool
    ) -> None:
        """Takes the margin of what was proposed."""
        value = float(proposal[self.layer])
        self.tried += 1
        if certified:
            self.epsilon, self.margin = proposal, margin
        else:
            self.high = (value, margin)
        done = value >= 1.0 or not np.isfinite(self.high[0]) or self.margin < 0.02 * self.whole
        if self.tried >= self.tries or self.high[0] - self.low < WORTH or (certified and done):
            self.layer = None

    def _next_layer(self) -> bool:
        while self.queue and self.margin > 0.01 * self.whole:
            layer = self.queue.pop(0)
            if min(1.0, self.guess[layer]) > self.epsilon[layer] + WORTH:
                self.layer, self.tried, self.high = layer, 0, (np.inf, 0.0)
                return True
        return False

    def _value(self) -> float:
        if not np.isfinite(self.high[0]):
            return float(min(1.0, self.guess[self.layer]))
        value, margin = self.high
        share = self.margin / (self.margin - margin) if np.isfinite(margin) else 0.5
        return self.low + (value - self.low) * float(np.clip(0.97 * share, 0.05, 0.95))


def fill(
    problem: Problem,
    epsilon: Batch,
    margin: Float[np.ndarray, " state"],
    queues: Sequence[Sequence[int]],
    guess: Float[np.ndarray, " movable"],
    tries: int = 4,
) -> tuple[Batch, Float[np.ndarray, " state"]]:
    """Raises the layers of each queue in order, all candidates in one batch a round.

    Args:
        problem: gives certified margins.
        epsilon: where each candidate begins, certified.
        margin: their margins.
        queues: for each candidate, the layers to raise, first things first.
        guess: the largest value worth trying on each layer, tried first.
        tries: questions a layer, at most.

    Returns:
        The raised epsilons and their certified margins.
    """
    states = [
        Filling(e.copy(), float(m), list(q), guess, tries)
        for e, m, q in zip(epsilon, margin, queues)
    ]
    while True:
        proposals = [state.propose() for state in states]
        asked = [(s, p) for s, p in zip(states, proposals) if p is not None]
        if not asked:
            break
        margins = problem.margins(np.stack([p for _, p in asked]))
        for (state, proposal), value in zip(asked, margins):
            state.answer(proposal, float(value), problem.certified(value))
    return np.stack([s.epsilon for s in states]), np.array([s.margin for s in states])


def profile(problem: Problem, tries: int = 7) -> Float[np.ndarray, " movable"]:
    """The largest certified epsilon of each layer alone, all layers in one batch."""
    count = len(problem.movable)
    margin = problem.margins(np.zeros((1, count)))
    alone = [[d] for d in range(count)]
    start = np.zeros((count, count)), np.repeat(margin, count)
    return fill(problem, *start, alone, np.ones(count), tries)[0].diagonal().copy()


def emptied(
    epsilon: Float[np.ndarray, " movable"], alone: Float[np.ndarray, " movable"], generator
) -> Float[np.ndarray, " movable"]:
    """A copy with one to four layers at 0, rather those that hold much of what they could."""
    open_layers = np.flatnonzero(epsilon > WORTH)
    copy = epsilon.copy()
    if len(open_layers):
        used = epsilon[open_layers] / np.maximum(alone[open_layers], WORTH) + 0.1
        count = min(len(open_layers), generator.integers(1, 5))
        copy[generator.choice(open_layers, count, replace=False, p=used / used.sum())] = 0
    return copy
