"""Balls, ``||w (x - c)||_p <= r`` in l2 or l1, and linear functions over a ball and a box at once.

With ``d = x - c`` and any numbers ``t``

    a x = a c + (a - t w) d + t (w d) >= a c + (the least of (a - t w) d in the box) - r ||t||_*,

``||t||_*`` the Euclidean norm in l2 and the largest ``|t_j|`` in l1; layers with radii of their own have a last
term each. A bad ``t`` costs tightness alone, so it is chosen in plain float64.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np

FINEST = 2.0**96
"""Numbers ``t`` are multiples of its inverse: every arithmetic has as many places."""

LEFT = 1e-12
"""The share of a radius, in l2 of its square, that counts as left of it at least."""

FAR = 2.0**30
"""How steep ``t`` is where a box seems to miss the ball, so that anything is proven there."""


class Ball(NamedTuple):
    """A ball, or one for each layer of inputs; all numbers but norm and layers are a tier's.

    Attributes:
        norm: 2 or 1.
        centre, weights: ``c`` and ``w`` of each input.
        radii: ``r`` of each layer.
        layer: which one each input is of.
    """

    norm: int
    centre: np.ndarray
    weights: np.ndarray
    radii: np.ndarray
    layer: np.ndarray

    def holds(self, tier: Any, point: np.ndarray) -> bool:
        """Whether a point is inside, whatever was rounded."""
        value, slack = tier.add(point, -self.centre)
        size = -tier.below(-np.abs(value), slack)
        size = -tier.times_below(-size, self.weights)[None]
        length = _euclidean if self.norm == 2 else _sum
        moved = [layer & (size[0] != 0) for layer in self._layers()]
        return all(length(tier, size[:, at])[0] <= r for at, r in zip(moved, self.radii))

    def least(self, tier: Any, rows: np.ndarray, lower: np.ndarray, upper: np.ndarray) -> Any:
        """Numbers that rows (row, input) stay above in the ball and a box at once."""
        low = tier.below(*tier.add(lower, -self.centre))
        high = -tier.below(*tier.add(self.centre, -upper))
        used = np.flatnonzero((rows != 0).any(0) | (low > 0) | (high < 0))
        fields = {name: getattr(self, name)[used] for name in ("centre", "weights", "layer")}
        return self._replace(**fields)._least(tier, rows[:, used], low[used], high[used])

    def _least(self, tier: Any, rows: np.ndarray, low: np.ndarray, high: np.ndarray) -> Any:
        chosen = tier.lift(self._chosen(tier, rows, low, high))
        every = np.arange(rows.shape[1])
        moved, lost = tier.sums(chosen, self.weights, every, len(every))
        rest, more = tier.add(rows, -moved)
        far = np.maximum(np.maximum(-low, high), 0)
        parts = [tier.dot(-lost, far), tier.dot(-more, far), tier.dot(rows, self.centre)]
        parts += [tier.dot(np.maximum(rest, 0), low), tier.dot(np.minimum(rest, 0), high)]
        dual = _euclidean if self.norm == 2 else _largest
        for radius, at in zip(self.radii, self._layers()):
            parts.append(tier.times_below(-radius, dual(tier, chosen[:, at])))
        return functools.reduce(tier.plus, parts)

    def _layers(self) -> list[np.ndarray]:
        return [self.layer == number for number in range(len(self.radii))]

    def _chosen(self, tier: Any, rows: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
        """Numbers ``t`` of each row: the slopes, cut off where they are steeper than is worth it."""
        rows, low, high, weights, radii = (
            tier.near(v) for v in (rows, low, high, self.weights, self.radii)
        )
        slopes, low, high = rows / weights, low * weights, high * weights
        for radius, at in zip(radii, self._layers()):
            slopes[:, at] = _cut_off(self.norm, slopes[:, at], low[at], high[at], radius)
        return np.round(slopes * FINEST) / FINEST


def _cut_off(
    norm: int, slopes: np.ndarray, low: np.ndarray, high: np.ndarray, radius: float
) -> np.ndarray:
    """With ``m`` as steep as the way that pays least, ``-t`` is ``m`` times that of the change ``e`` in the
    box, in l1 of its sign, that makes ``slopes e + m ||e||_p^p / p`` least."""
    near, best = np.clip(0, low, high), np.where(slopes > 0, low, high)
    left = radius**norm - (np.abs(near) ** norm).sum()
    enough = max(left, LEFT * radius**norm, 1e-300)
    if norm == 2:
        steep = np.sqrt((np.where(slopes * best < 0, slopes, 0) ** 2).sum(1) / enough)
    else:
        order = np.argsort(-np.abs(slopes), 1)
        gone = np.cumsum((np.abs(best) - np.abs(near))[np.arange(len(slopes))[:, None], order], 1)
        sizes = np.pad(-np.sort(-np.abs(slopes), 1), ((0, 0), (0, 1)))
        steep = sizes[np.arange(len(sizes)), (gone < enough).sum(1)]
        low, high = np.where(low > 0, 1, -1), np.where(high < 0, -1, 1)
    steep = (steep if left >= 0 else FAR * (1 + np.abs(slopes).max(1)))[:, None]
    return np.clip(slopes, -steep * high, -steep * low)


def _euclidean(tier: Any, rows: np.ndarray) -> np.ndarray:
    """Of each row, a number that is at least its norm."""
    return tier.root_above(-tier.dot(-rows, rows))


def _sum(tier: Any, rows: np.ndarray) -> np.ndarray:
    return -tier.dot(-np.abs(rows), tier.lift(np.ones(rows.shape[1])))


def _largest(_: Any, rows: np.ndarray) -> np.ndarray:
    return np.abs(rows).max(1, initial=0)
