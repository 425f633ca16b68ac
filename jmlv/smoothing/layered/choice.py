"""The stages of choosing noise: scan, ascents, comparison, on samples of the choosing key alone."""

from __future__ import annotations

import dataclasses
from functools import partial

import numpy as np
from jaxtyping import Float

from jmlv.oracles import Deadline
from jmlv.oracles.deadline import TimeUp
from jmlv.smoothing.layered.meter import Meter, within
from jmlv.smoothing.layered.search import GRADIENT, Ascent, NoiseSearch, slope_of
from jmlv.smoothing.layered.store import State, Store
from jmlv.smoothing.layered.task import Task


@dataclasses.dataclass(frozen=True, eq=False)
class Choice:
    """Goes on from the state that it is given.

    Attributes:
        task, search: what is certified, and how noise is chosen for it.
        alpha: of a look.
        meter, store, state: what counts, keeps and is kept.
    """

    task: Task
    search: NoiseSearch
    alpha: float
    meter: Meter
    store: Store
    state: State

    def scan(self, first: Deadline, others: Deadline) -> None:
        """Counts under every level that is common to all layers, and under one of them at least.

        Raises:
            TimeUp: not even the first level was counted.
        """
        m = self.search.scanned(self.task.n)
        try:
            for level in self.search.levels[len(self.state.scan) :]:
                deadline = others if self.state.scan else first
                self.state.scan.append(self._counts(self.flat(level), 0, m, deadline))
                self.store.write(self.state)
        except TimeUp:
            if not self.state.scan:
                raise

    def ascend(self, deadline: Deadline) -> None:
        """Ascends from the best levels; ends where it is when the time is over."""
        for start, level in enumerate(self.levels[: self.search.starts]):
            if start == len(self.state.ascents):
                self.state.ascents.append(Ascent.start(level, self.task.layers.count))
            if not self._climb(start, self.state.ascents[start], deadline):
                return

    def compare(self, deadline: Deadline) -> None:
        """Counts under every candidate, the same noise for all, so that they compare well."""
        if not self.state.ascents:
            return
        m, first = self.search.compared(self.task.n), self.search.scanned(self.task.n)
        try:
            for sigma in self._candidates[len(self.state.compared) :]:
                self.state.compared.append(self._counts(sigma, first, m, deadline))
                self.store.write(self.state)
        except TimeUp:
            pass

    @property
    def levels(self) -> list[float]:
        """The scanned levels, the most promising first."""
        m = self.search.scanned(self.task.n)
        values = {
            level: self._foreseen(self.flat(level), counts, m)
            for level, counts in zip(self.search.levels, self.state.scan)
        }
        return sorted(values, key=lambda level: -values[level])

    @property
    def ranked(self) -> list[Float[np.ndarray, " layer"]]:
        """The candidates, the most promising first; those that were not compared are the last."""
        m = self.search.compared(self.task.n)
        values = [self._foreseen(s, c, m) for s, c in zip(self._candidates, self.state.compared)]
        values += [-np.inf] * (len(self._candidates) - len(values))
        return [self._candidates[number] for number in np.argsort(values)[::-1]]

    @property
    def _candidates(self) -> list[Float[np.ndarray, " layer"]]:
        """The best common level, and what each ascent has come to."""
        return [self.flat(self.levels[0]), *(ascent.sigma for ascent in self.state.ascents)]

    def flat(self, level: float) -> Float[np.ndarray, " layer"]:
        return np.full(self.task.layers.count, level)

    def _climb(self, start: int, ascent: Ascent, deadline: Deadline) -> bool:
        """Whether the ascent came to its end."""
        m = self.search.stepped(self.task.n, self.task.batch_size)
        while ascent.done < self.search.steps:
            if deadline.passed:
                return False
            try:
                ascent.step(self.search, *within(deadline, partial(self._slope, start, ascent)))
            except TimeUp:
                return False
            self.state.compared.clear()  # of an earlier call, which came less far
            self.meter.add("gradients", GRADIENT * m)
            self.store.write(self.state)
        return True

    def _slope(self, start: int, ascent: Ascent, _: Deadline) -> tuple[float, np.ndarray]:
        return slope_of(self.task, self.search, self.alpha, start, ascent)

    def _counts(self, sigma: np.ndarray, first: int, m: int, deadline: Deadline) -> list[int]:
        key = self.task.choosing_key
        return self.meter.count(sigma, key, first + m, "choosing", deadline, first=first)

    def _foreseen(self, sigma: np.ndarray, counts: list[int], m: int) -> float:
        radius = self.task.foreseen(np.array(counts), m, self.alpha)
        return self.task.value(self.task.noise(sigma), radius)
