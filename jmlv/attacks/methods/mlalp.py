"""MLA-LP: the least l-infinity change by a linear program on the loss Jacobian, step by step."""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float

from jmlv.attacks.methods.linear_program import least_distortion
from jmlv.attacks.network import margins_and_jacobian
from jmlv.attacks.problem import (
    Attack,
    Found,
    Problem,
    require_at_least,
    require_finite_gradients,
)
from jmlv.attacks.projection import Norm, bounds

CHUNK_ENTRIES = 20_000_000
"""Jacobian entries in memory at a time."""

_HALVINGS = 5

_HAIR = 1e-4
"""Added to target probabilities, as a tie does not count."""


@dataclasses.dataclass(frozen=True)
class MLALP(Attack):
    r"""Multi-label attack by linear programming.

    Each label has the loss $\ell_j = \log(1 + e^{-s_j d_j})$; a step looks for the least *total*
    change $v$ from the original image at which, to first order, every label that counts has the loss
    of its target probability:

    $$\min_{v}\ \|v\|_\infty \quad \text{s.t.}\quad
      \ell + J (x_0 + v - x_i) \le \ell^*, \qquad 0 \le x_0 + v \le 1$$

    and moves to $x_{i+1} = x_0 + v$. Target probabilities start at 0.5. The loss is convex in the
    margin, so a step falls short; an attacked label that misses is asked for 0.05 more at the next one
    (up to 0.9), and goes half of the way back once met. A label whose row is zero (nothing moves it)
    is left out of the program. If no change meets all rows, half of the loss decrease is asked for,
    and so on. Networks have kinks, between whose sides such steps can go back and forth: after a step
    that did not halve what is missing, the next ones are at most half as long (the program's box is
    made smaller). The iterate with the most labels as wanted is kept, and of those the nearest.

    Args:
        iterations: linear programs an image; it stops at the first that adds nothing.
        rows: what is linearised. ``"loss"`` is the published program. The loss of a label that is
            right is nearly flat, so that program believes that such a label can be moved at no cost,
            and breaks labels that it was to keep; ``"margin"`` asks the same of the margins
            themselves, $s_j (d_j + J^d_j r) \ge \operatorname{logit}$ of the target probability.
        raise_by: what is added to the target probability of a label that misses.

    Source: Zhou, Luo, Lin, Xu, *Generating Multi-label Adversarial Examples by Linear Programming*,
    IJCNN 2020, with 10 iterations. It differs in that the image box is inside the program, that the
    total change is minimised rather than each step's, that steps which cycle are shortened, and in when
    targets are raised.
    """

    iterations: int = 10
    rows: Literal["loss", "margin"] = "loss"
    raise_by: float = 0.05

    def __post_init__(self) -> None:
        require_at_least(self.iterations, 1, "iterations")
        if self.rows not in ("loss", "margin"):
            raise ValueError(f"rows: expected 'loss' or 'margin', got {self.rows!r}.")
        if not 0 <= self.raise_by < 0.5:
            raise ValueError(f"raise_by: must be in [0, 0.5), got {self.raise_by}.")

    @property
    def norm(self) -> Norm:
        return "linf"

    @property
    def needs_budgets(self) -> bool:
        return False

    def run(self, problem: Problem, budgets: tuple[float, ...]) -> Found:
        chunk = max(1, CHUNK_ENTRIES // (problem.entries * problem.label_count))
        starts = range(0, len(problem.x), chunk)
        parts = [
            self._search(problem, slice(start, start + chunk))
            for start in problem.progress.wrap(starts, "MLA-LP")
        ]
        images, spent = (np.concatenate(values) for values in zip(*parts))
        return Found(np.stack([images] * len(budgets)), np.stack([spent] * len(budgets)))

    def _search(self, problem: Problem, part: slice) -> tuple[np.ndarray, np.ndarray]:
        image = _Images(problem, part, self.rows)
        for _ in range(self.iterations):
            margins, jacobian = margins_and_jacobian(problem.network, problem.weights, image.x)
            require_finite_gradients(np.isfinite(jacobian).all())
            image.judge(margins)
            image.move(margins.astype(np.float64), jacobian, self.raise_by)
            if not image.active.any():
                break
        image.judge(margins_and_jacobian(problem.network, problem.weights, image.x)[0])
        return image.best, image.spent


class _Images:
    """The state of a batch of searches."""

    def __init__(self, problem: Problem, part: slice, kind: str) -> None:
        self.kind = kind
        self.origin = problem.x[part]
        self.x = self.origin.copy()
        low, high = bounds(self.origin, problem.free[part], problem.domain)
        self.down, self.up = (self.origin - low).astype(float), (high - self.origin).astype(float)
        self.signs = np.asarray(problem.aim.signs)[part].astype(float)
        self.wanted = np.asarray(problem.aim.wanted)[part]
        self.relevant = np.asarray(problem.aim.relevant)[part]
        self.attacked = np.asarray(problem.aim.attacked)[part]
        self.target = np.full(self.signs.shape, 0.5)
        self.active = np.ones(len(self.x), bool)
        self.spent = np.zeros(len(self.x), int)
        self.best, self.most = self.origin.copy(), np.full(len(self.x), -1)
        self.least = np.full(len(self.x), np.inf)
        self.wrong, self.reach = np.full(len(self.x), np.inf), np.full(len(self.x), np.inf)
        self.moved = np.full(len(self.x), np.inf)

    def judge(self, margins: Float[np.ndarray, "image label"]) -> None:
        """Keeps the iterate if more labels are as wanted, or as many with less change."""
        met = (((margins > 0) == self.wanted) & self.relevant).sum(1)
        length = np.abs(self.x - self.origin).max(tuple(range(1, self.x.ndim)))
        better = (met > self.most) | ((met == self.most) & (length < self.least))
        self.best[better], self.most[better] = self.x[better], met[better]
        self.least[better] = length[better]

    def move(self, margins: np.ndarray, jacobian: np.ndarray, raise_by: float) -> None:
        missing = ((margins > 0) != self.wanted) & self.relevant
        self._shorten(margins)
        for i in np.flatnonzero(self.active):
            self._retarget(i, missing[i] & self.attacked[i], raise_by)
            step = self._program(i, margins[i], jacobian[i].reshape(margins.shape[1], -1))
            moved = self.origin[i] if step is None else self.origin[i] + step
            moved = moved.astype(np.float32)
            same = step is None or np.array_equal(moved, self.x[i])
            self.moved[i] = np.abs(moved - self.x[i]).max()
            self.active[i] = not same or (missing[i].any() and raise_by > 0 and step is not None)
            self.spent[i] += 1
            self.x[i] = self.x[i] if step is None else moved

    def _shorten(self, margins: Float[np.ndarray, "image label"]) -> None:
        """Half of the last step from now on, where it did not halve what is missing."""
        wrong = (np.maximum(0, -self.signs * margins) * self.relevant).sum(1)
        cycling = wrong > 0.5 * self.wrong
        self.reach = np.where(cycling, np.minimum(self.reach, self.moved) / 2, self.reach)
        self.wrong = wrong

    def _retarget(self, i: int, missing: Bool[np.ndarray, " label"], raise_by: float) -> None:
        """Higher where a label still misses, else back toward one half."""
        if not self.spent[i]:
            return
        higher = np.minimum(self.target[i] + raise_by, 0.9)
        self.target[i] = np.where(missing, higher, (self.target[i] + 0.5) / 2)

    def _program(self, i: int, margins: np.ndarray, jacobian: np.ndarray) -> np.ndarray | None:
        """The total change of one image; None if no row can be improved."""
        rows = self.relevant[i] & (np.abs(jacobian).max(1) > 0)
        if not rows.any():
            return None
        sign = self.signs[i][rows]
        slope, wish = self._linear(sign * margins[rows], self.target[i][rows] + _HAIR)
        A = (-sign * slope)[:, None].astype(np.float32) * jacobian[rows]
        alive = np.abs(A).max(1) > 1e-20
        if not alive.any():
            return None
        A, wish = A[alive], wish[alive]
        done = A.astype(np.float64) @ (self.x[i] - self.origin[i]).ravel().astype(np.float64)
        return self._relaxed(i, A, wish, done)

    def _linear(self, signed: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """How fast a label's row falls with its margin, and by how much it may rise."""
        if self.kind == "margin":
            return np.ones_like(signed), signed - np.log(target / (1 - target))
        slope = 1 / (1 + np.exp(np.clip(signed, -500, 500)))
        return slope, -np.log(target) - np.logaddexp(0, -signed)

    def _relaxed(
        self, i: int, A: np.ndarray, wish: np.ndarray, done: np.ndarray
    ) -> np.ndarray | None:
        change = (self.x[i] - self.origin[i]).ravel().astype(np.float64)
        down = np.minimum(self.down[i].ravel(), self.reach[i] - change)
        up = np.minimum(self.up[i].ravel(), self.reach[i] + change)
        for halving in range(_HALVINGS):
            asked = np.where(wish < 0, wish * 0.5**halving, wish)
            solution = least_distortion(A, asked + done, down, up)
            if solution.feasible or np.isfinite(self.reach[i]):
                return solution.change.reshape(self.origin.shape[1:])
        return None
