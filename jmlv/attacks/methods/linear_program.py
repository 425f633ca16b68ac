r"""The linear program of one MLA-LP step, solved by column generation with OR-Tools' GLOP.

$$\min_{v, t}\ t \quad \text{s.t.}\quad A v \le b, \qquad |v_i| \le \min(t, \text{room}_i)$$

over the *total* change $v$ of all entries: few rows (labels), very many columns (entries). Written out
it has two rows an entry; a simplex or first-order method spends its time on those. Instead, the
program over the set $V = \{(v, t)\}$ is written as a mixture of points of $V$ (Dantzig and Wolfe,
*Decomposition Principle for Linear Programs*, Operations Research 1960): GLOP solves the small master
program over the points known, its duals $\lambda$ price the rows, and the next point

$$\min_{(v, t) \in V}\ t + \lambda^T A v$$

has a closed form. The same minimum is a lower bound, so the gap to the optimum is known.

The master's duals jump about while few points are known, which costs many points. So a point is priced
at a mixture of them and of the duals of the best lower bound so far (Wentges, *Weighted Dantzig-Wolfe
decomposition for linear mixed-integer programming*, International Transactions in Operational Research
1997): any duals give a lower bound, and where the mixture's point does not help the master, the point
at its own duals is taken. Programs of 64x64 images that needed 300 points need 100.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
from jaxtyping import Float

GAP = 1e-4
"""The program is solved when the distortion is within this share of a proven lower bound."""

COLUMNS = 400
"""Points of the mixture, at most."""

STILLNESS = 0.7
"""Share of the best duals so far in the mixture that prices the next point."""

_PENALTY = 1e4


@dataclasses.dataclass(frozen=True, eq=False)
class Solution:
    """The least distortion that meets the rows.

    Attributes:
        change: $v$.
        distortion: its largest entry; ``lower`` is proven to be no more than the optimum.
        feasible: whether every row is met; if not, ``change`` is of least violation.
        columns: points of the mixture.
    """

    change: Float[np.ndarray, " entry"]
    distortion: float
    lower: float
    feasible: bool
    columns: int


def least_distortion(
    A: Float[np.ndarray, "row entry"],
    b: Float[np.ndarray, " row"],
    down: Float[np.ndarray, " entry"],
    up: Float[np.ndarray, " entry"],
    *,
    gap: float = GAP,
    columns: int = COLUMNS,
) -> Solution:
    """The smallest ``t`` such that some ``v`` within ``[-min(t, down), min(t, up)]`` has ``A v <= b``.

    Rows that are zero must have been left out.

    Args:
        A, b: the rows.
        down, up: how far each entry may move in either direction; one of an entry's two may be
            negative, which asks it to move.
        gap: relative gap to stop at.
        columns: where to stop in any case.

    >>> A = np.array([[-1.0, -1.0]])
    >>> solution = least_distortion(A, np.array([-0.6]), np.ones(2), np.array([0.1, 1.0]))
    >>> print(f"{solution.distortion:.3f}")
    0.500
    """
    program = _Program.of(A, b, down, up)
    master = _Master(program.b)
    for point in program.first_points():
        master.add(point)
    lower = _generate(program, master, gap, columns)
    change, missing = master.mixture()
    distortion = float(np.abs(change).max())
    return Solution(
        change=change,
        distortion=distortion,
        lower=min(lower, distortion),
        feasible=missing <= 1e-6,
        columns=len(master.points),
    )


def _generate(program: _Program, master: _Master, gap: float, columns: int) -> float:
    """Adds points to the master until the gap is closed or none helps; the best lower bound."""
    best, lower = np.zeros(len(program.b)), program.least
    for _ in range(columns):
        value, duals, price = master.solve()
        for share in (STILLNESS, 0.0):
            mixture = share * best + (1 - share) * duals
            point = program.cheapest(mixture)
            bound = point.cost + mixture @ (point.effect - program.b)
            best, lower = (mixture, bound) if bound > lower else (best, lower)
            helps = point.cost + duals @ point.effect < price - 1e-9 * max(1.0, value)
            if helps:
                break
        if not helps or value - lower <= gap * max(abs(value), 1e-6):
            break
        master.add(point)
    return lower


@dataclasses.dataclass(frozen=True, eq=False)
class _Point:
    """A point of V: its change, its size t and what it does to the rows."""

    change: Float[np.ndarray, " entry"]
    cost: float
    effect: Float[np.ndarray, " row"]


@dataclasses.dataclass(frozen=True, eq=False)
class _Program:
    """The rows, scaled to a unit sum, and the room; ``least`` is the smallest t possible."""

    A: Float[np.ndarray, "row entry"]
    b: Float[np.ndarray, " row"]
    down: Float[np.ndarray, " entry"]
    up: Float[np.ndarray, " entry"]
    least: float

    @staticmethod
    def of(A: np.ndarray, b: np.ndarray, down: np.ndarray, up: np.ndarray) -> _Program:
        scale = np.maximum(np.abs(A).sum(1), 1e-30)
        least = float(max(0.0, (-down).max(), (-up).max()))
        rows = A / scale[:, None].astype(A.dtype)
        return _Program(rows, np.asarray(b, np.float64) / scale, down, up, least)

    def first_points(self) -> Iterator[_Point]:
        """The least change, and for each row that asks for one its best direction at a few sizes."""
        yield self._extreme_point(np.zeros(self.A.shape[1]), self.least)
        largest = float(max(self.down.max(), self.up.max(), self.least))
        for row in np.flatnonzero(self.b < 0):
            sizes = (min(largest, max(self.least, -size * self.b[row])) for size in (1, 2, 8))
            for t in dict.fromkeys(sizes):
                yield self._extreme_point(self.A[row], t)

    def cheapest(self, duals: Float[np.ndarray, " row"]) -> _Point:
        c = np.asarray(self.A.T @ duals.astype(self.A.dtype), np.float64)
        return self._extreme_point(c, _cheapest_size(c, self.down, self.up, self.least))

    def _extreme_point(self, c: Float[np.ndarray, " entry"], t: float) -> _Point:
        change = _extreme(c, self.down, self.up, t).astype(self.A.dtype)
        return _Point(change, t, (self.A @ change).astype(np.float64))


def _extreme(c, down, up, t: float) -> np.ndarray:
    """The point of size t that makes ``c v`` smallest; where c is 0, the smallest change."""
    still = np.clip(0.0, -down, up)
    return np.where(c > 0, -np.minimum(down, t), np.where(c < 0, np.minimum(up, t), still))


def _cheapest_size(c, down, up, least: float) -> float:
    r"""Minimises $t - \sum_i |c_i| \min(t, \text{room}_i)$: convex and piecewise linear in t."""
    weight = np.abs(c)
    if weight.sum() <= 1:
        return least
    room = np.where(c > 0, down, up)
    order = np.argsort(room)
    beyond = weight.sum() - np.cumsum(weight[order])
    return max(least, float(room[order][np.argmax(beyond <= 1)]))


class _Master:
    """The program over the mixture: one row a label, one for the shares; violation is dear."""

    def __init__(self, b: np.ndarray) -> None:
        from ortools.linear_solver import pywraplp

        self._solver = pywraplp.Solver.CreateSolver("GLOP")
        infinity = self._solver.infinity()
        self._rows = [self._solver.Constraint(-infinity, float(value)) for value in b]
        self._all = self._solver.Constraint(1.0, 1.0)
        self._objective = self._solver.Objective()
        self._objective.SetMinimization()
        self._missing = [self._solver.NumVar(0.0, infinity, "") for _ in b]
        for row, missing in zip(self._rows, self._missing):
            row.SetCoefficient(missing, -1.0)
            self._objective.SetCoefficient(missing, _PENALTY)
        self._shares: list = []
        self.points: list[_Point] = []

    def add(self, point: _Point) -> None:
        share = self._solver.NumVar(0.0, self._solver.infinity(), "")
        for row, value in zip(self._rows, point.effect):
            row.SetCoefficient(share, float(value))
        self._all.SetCoefficient(share, 1.0)
        self._objective.SetCoefficient(share, point.cost)
        self._shares.append(share)
        self.points.append(point)

    def solve(self) -> tuple[float, np.ndarray, float]:
        """Value, prices of the rows (not negative), price of the shares' sum."""
        if self._solver.Solve() != self._solver.OPTIMAL:
            raise RuntimeError(
                "GLOP: the master program, which is always feasible, was not solved."
            )
        duals = np.array([-row.dual_value() for row in self._rows])
        return self._objective.Value(), np.maximum(duals, 0), self._all.dual_value()

    def mixture(self) -> tuple[np.ndarray, float]:
        """The mixture of the points, and the largest violation."""
        self.solve()
        shares = np.maximum([share.solution_value() for share in self._shares], 0)
        change = np.zeros(len(self.points[0].change))
        for share, point in zip(shares / shares.sum(), self.points):
            if share > 0:
                change += share * point.change
        return change, max(v.solution_value() for v in self._missing)


def least_distortion_written_out(
    A: Float[np.ndarray, "row entry"],
    b: Float[np.ndarray, " row"],
    down: Float[np.ndarray, " entry"],
    up: Float[np.ndarray, " entry"],
    solver: str = "GLOP",
    seconds: float = 60.0,
) -> Float[np.ndarray, " entry"] | None:
    """The same program with two rows an entry, for tests and benchmarks; None if it is not solved.

    Args:
        A, b, down, up: as for :func:`least_distortion`.
        solver: ``"GLOP"`` or ``"PDLP"``.
        seconds: time limit.
    """
    from ortools.linear_solver.python import model_builder
    from scipy import sparse

    entries = A.shape[1]
    eye, ones = sparse.identity(entries, format="csr"), np.ones((entries, 1))
    rows = sparse.bmat([[sparse.csr_matrix(A), None], [eye, -ones], [-eye, -ones]], format="csr")
    model = model_builder.Model()
    model.helper.fill_model_from_sparse_data(
        np.append(-down, 0.0),
        np.append(up, 1.0),
        np.append(np.zeros(entries), 1.0),
        np.full(rows.shape[0], -np.inf),
        np.concatenate([b, np.zeros(2 * entries)]),
        rows.astype(np.float64),
    )
    chosen = model_builder.Solver(solver)
    chosen.set_time_limit_in_seconds(seconds)
    status = chosen.solve(model)
    if status != model_builder.SolveStatus.OPTIMAL:
        return None
    return np.array(chosen.values(model.get_variables()))[:-1]
