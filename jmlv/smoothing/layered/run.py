"""One search: choosing noise and certifying it, within a budget, on samples that never mix."""

from __future__ import annotations

import dataclasses
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float

from jmlv.oracles import Deadline
from jmlv.oracles.deadline import TimeUp
from jmlv.smoothing.layered.choice import Choice
from jmlv.smoothing.layered.grown import Look, SmoothedNeighborhood
from jmlv.smoothing.layered.meter import Meter
from jmlv.smoothing.layered.search import NoiseSearch
from jmlv.smoothing.layered.store import State, Store
from jmlv.smoothing.layered.task import Task

FEWEST = 50
"""Samples of a look that is still worth its share of alpha."""

SCAN, FIRST, ASCENTS, COMPARISON, LAST = 0.3, 0.3, 0.5, 0.3, 0.8
"""Shares of the seconds that are left, of the stages in their order. Those of looks set how many samples
they take, by the speed that was seen, so that they end before the budget does."""

CUT = 0.5
"""How far a look after a lost one stays from what is certified, where the search says nothing."""


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """One call of :func:`jmlv.grow_smoothed`.

    Attributes:
        task, search: what is certified, and how noise is chosen for it.
        allowed: looks at certification samples that alpha is divided among.
        deadline: of the call.
        meter, store, state: what counts, keeps and is kept.
        earlier: seconds of the calls that this one goes on from.
    """

    task: Task
    search: NoiseSearch
    allowed: int
    deadline: Deadline
    meter: Meter
    store: Store
    state: State
    earlier: float

    def __call__(self) -> SmoothedNeighborhood:
        """Searches until the looks are used up or the budget has ended; returns the best."""
        try:
            reason = self._search()
        except TimeUp:
            reason = "the budget ended"
        except KeyboardInterrupt:
            reason = "interrupted"
        self.state.seconds = self.seconds
        self.store.write(self.state, force=True)
        return self._result(reason)

    @property
    def seconds(self) -> float:
        return self.earlier + self.deadline.elapsed

    @property
    def alpha(self) -> float:
        """Each look's share: by the union bound, all certificates hold together."""
        return self.task.alpha / self.allowed

    @property
    def looks(self) -> list[Look]:
        """The finished ones."""
        return [self._look(one) for one in self.state.looks if one["counts"] is not None]

    @property
    def best(self) -> Look | None:
        return max(self.looks, key=lambda look: look.value, default=None)

    @cached_property
    def _choice(self) -> Choice:
        return Choice(self.task, self.search, self.alpha, self.meter, self.store, self.state)

    def _search(self) -> str:
        self._choice.scan(self.deadline, self.deadline.share(SCAN))
        if self.allowed > 1 and not self.state.looks:
            self._plan(self._choice.flat(self._choice.levels[0]), FIRST)
        self._finish_looks()
        if len(self.state.looks) < self.allowed:
            self._choice.ascend(self.deadline.share(ASCENTS))
            self._choice.compare(self.deadline.share(COMPARISON))
        while len(self.state.looks) < self.allowed:
            sigma = self._next()
            if sigma is None:
                return "nothing else was promising"
            self._plan(sigma, LAST)
            self._finish_looks()
        return "all looks were taken"

    def _next(self) -> Float[np.ndarray, " layer"] | None:
        """The most promising noise that no look was taken at; after a lost look, that one cut back."""
        best, last = self.best, self.looks[-1] if self.looks else None
        if last is not None and not last.radius > 0 and best.radius > 0:
            cut = CUT if self.search.cut is None else self.search.cut
            return cut * last.noise.sigma + (1 - cut) * best.noise.sigma
        taken = [look.noise for look in self.looks]
        ranked = self._choice.ranked
        return next((sigma for sigma in ranked if self.task.noise(sigma) not in taken), None)

    def _plan(self, sigma: Float[np.ndarray, " layer"], share: float) -> None:
        """Fixes a look's noise and number of samples before any of them is drawn.

        The number rests on the clock, on samples of choosing and on earlier looks: one that depended
        on the look's own counts would void its bounds.

        Raises:
            TimeUp: too few samples would fit.
        """
        left, n = self.deadline.remaining, self.task.n
        n = min(n, int(self.meter.speed * share * left)) if np.isfinite(left) else n
        if n < min(FEWEST, self.task.n):
            raise TimeUp("too few samples would fit")
        sigma = self.task.noise(sigma).sigma.tolist()
        self.state.looks.append({"sigma": sigma, "n": n, "counts": None})
        self.store.write(self.state, force=True)

    def _finish_looks(self) -> None:
        for number, one in enumerate(self.state.looks):
            if one["counts"] is None:
                self._take(number, one)

    def _take(self, number: int, one: dict[str, Any]) -> None:
        before = 0.0 if self.best is None else self.best.value
        one["counts"] = self.meter.count(
            one["sigma"], self.task.certifying_key(number), one["n"], "certifying", self.deadline,
            resume=self.store.counts(number),
        )  # fmt: skip
        if self.best.value > before or not self.state.trace:
            self.state.trace.append((self.seconds, float(self.task.weights @ self._epsilon)))
        self.meter.add("certifying", 0, best=self.best.value)
        self.store.write(self.state, force=True)

    def _look(self, one: dict[str, Any]) -> Look:
        noise, counts = self.task.noise(one["sigma"]), np.array(one["counts"])
        radius = self.task.radius(counts, one["n"], self.alpha)
        return Look(noise, one["n"], self.alpha, counts, radius, self.task.value(noise, radius))

    @property
    def _epsilon(self) -> Float[np.ndarray, " layer"]:
        if self.best is None or not self.best.radius >= 0:
            return np.zeros(self.task.layers.count, np.float32)
        return self.best.noise.largest_box(self.best.radius, self.task.weights, self.task.x.shape)

    def _result(self, reason: str) -> SmoothedNeighborhood:
        task, best = self.task, self.best
        return SmoothedNeighborhood(
            x=task.x, layers=task.layers, epsilon=self._epsilon, weights=task.weights,
            labels=tuple(np.flatnonzero(task.hot).tolist()), k=task.k, k_prime=task.k_prime,
            keep=task.keep, noise=task.noise(self.search.levels[0]) if best is None else best.noise,
            radius=-np.inf if best is None else best.radius, alpha=task.alpha,
            objective=task.objective, looks=tuple(self.looks), samples=dict(self.state.samples),
            seconds=self.seconds, trace=tuple(self.state.trace), reason=reason,
        )  # fmt: skip
