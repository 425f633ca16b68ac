"""The source's algorithm: growing by the weakest points that a complete oracle finds."""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Bool, Float

from jmlv.neighborhoods.problem import Problem
from jmlv.neighborhoods.strategies.cegis import Ascent, Guide
from jmlv.neighborhoods.strategies.complete_phase import Widening
from jmlv.neighborhoods.strategies.cutting import CuttingWeights, FixedCut
from jmlv.neighborhoods.strategies.sensitivity import Rows, layer_sums
from jmlv.neighborhoods.strategies.strategy import Strategy
from jmlv.oracles import MILP, Oracle
from jmlv.require import require_fields


@dataclasses.dataclass(frozen=True)
class OracleGuided(Strategy):
    """Small steps along gradients at the complete oracle's weakest points, with CEGIS shrinks.

    From the image alone: the oracle gives the input ``x*`` of the neighbourhood at which the margin
    is least. The relaxed objective ``w . epsilon + penalty * margin(x*)`` is differentiated with
    respect to epsilon, and a small step is taken (:class:`Ascent`). The oracle is asked about every
    candidate; one that it does not prove is shrunk, ``epsilon' = epsilon cw + epsilon_robust (1 -
    cw)``, and asked about again. When no joint step grows the size, layers are raised one at a
    time, until none can grow.

    Every question is a mixed-integer program, so this suits small networks. On larger ones the
    oracle's time limit decides: what it leaves open counts as not proven.

    Attributes:
        cut: cutting weights of the shrink.
        oracle: asked about every candidate; its verdict's witness is the weakest point.
        ascent: size of the steps, penalty, and how many shrinks.
        raise_alone: first step of the last stage; 0 leaves it out.
    """

    cut: CuttingWeights = FixedCut()
    oracle: Oracle = MILP(weakest_point=True, time_limit=5.0)
    ascent: Ascent = Ascent(step=0.05)
    raise_alone: float = 0.05

    def __post_init__(self) -> None:
        require_fields(self)
        if not 0 <= self.raise_alone <= 1:
            raise ValueError(f"raise_alone: must be in [0, 1], got {self.raise_alone}.")

    @property
    def name(self) -> str:
        return f"oracle guided, {self.cut.name}"

    def search(self, problem: Problem) -> None:
        if not len(problem.movable):
            return
        guide = OracleGuide(problem, self.oracle)
        self.ascent.climb(guide, self.cut, np.zeros((1, len(problem.movable))))
        if self.raise_alone:
            Widening(self.oracle, problem).widen(self.raise_alone)


class OracleGuide(Guide):
    """Slopes at the weakest points, and proofs, of an oracle; one start only."""

    def __init__(self, problem: Problem, oracle: Oracle) -> None:
        self.problem, self.oracle = problem, oracle
        self._last = problem.x
        self._weakest: dict[bytes, np.ndarray] = {}

    @property
    def points(self) -> Float[np.ndarray, "start height width channel"]:
        return self._last[None]

    def slopes(self, epsilon: Rows) -> Rows:
        point = self._weakest.get(epsilon.tobytes(), self.problem.x)
        return level_slopes(self.problem, epsilon[0], point)[None]

    def proves(
        self, candidate: Rows, asked: Bool[np.ndarray, " start"]
    ) -> Bool[np.ndarray, " start"]:
        verdict = self.problem.offer(candidate[0], self.oracle)
        if verdict.witness is not None:
            self._last = verdict.witness
        if verdict.robust:
            self._weakest[candidate.tobytes()] = self._last
        return np.array([verdict.robust])


def level_slopes(
    problem: Problem,
    epsilon: Float[np.ndarray, " movable"],
    point: Float[np.ndarray, "height width channel"],
) -> Float[np.ndarray, " movable"]:
    """The derivative of the margin at a weakest point with respect to each layer's epsilon.

    With ``x* = x + epsilon[layer] s`` and ``s = (x* - x) / epsilon`` held fixed, it is the sum over
    the layer's pixels of ``s_p d margin / d x_p``. Where epsilon is 0, ``s`` is minus the sign of
    the gradient: the weakest direction for a small epsilon. A pixel at 0 or 1 does not move on.
    """
    gradient = problem.input_gradients(point[None])[0]
    radius = problem.full(epsilon)[np.asarray(problem.layers.places)]
    moved = (point - problem.x) / np.maximum(radius, 1e-6)
    share = np.where(radius > 1e-6, np.clip(moved, -1, 1), -np.sign(gradient))
    stuck = ((point <= 0) & (share < 0)) | ((point >= 1) & (share > 0))
    pull = np.where(stuck, 0.0, share * gradient)
    return layer_sums(problem.layers, pull)[problem.movable]
