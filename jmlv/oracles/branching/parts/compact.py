"""A network over one box with all that is decided written out: affine forms and a few ReLUs.

Over a box most ReLUs and max pools are decided by bounds: the network is affine between the others.
Undecided ReLUs are *units* ``y = max(z, 0)``, whose ``z`` is affine in the pixels that may move and
in units before it. An undecided max pool becomes a chain of units,
``max(a, b) = a + max(b - a, 0)``, so that splitting a unit says which of two elements is larger.

Pixels and units that are not linked with one another, directly or through others, are *parts*: the
scores are a constant plus one function for each part, of pixels that no other part reads. A
network's smallest value over the box is then the sum of the parts' smallest values.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
import scipy
from jaxtyping import Float, Int

from jmlv.bounds.method import Interval
from jmlv.graph import Graph, Variable
from jmlv.graph.operations import is_affine, is_max_pool, is_relu
from jmlv.oracles.milp.maxima import FLOOR, Undecided, maxima
from jmlv.oracles.milp.mixed_integer import Affine
from jmlv.oracles.milp.substitution import ABSENT, Source, elements, functionals


@dataclasses.dataclass(frozen=True, eq=False)
class Compact:
    """``scores = outputs (x, y) + offset`` with ``y_u = max(z_u, 0)``, ``z = inputs (x, y) + constant``.

    Columns are the pixels that may move, then the units; a unit reads pixels and earlier units.

    Attributes:
        inputs: (unit, column), in float64.
        constant: of each unit's input.
        outputs: (label, column).
        offset: of each score.
        low, high: bounds of each unit's input over the box.
        lower, upper: of each pixel.
        moving: the pixels' flat indices in the image.
    """

    inputs: scipy.sparse.csr_array
    constant: Float[np.ndarray, " unit"]
    outputs: scipy.sparse.csr_array
    offset: Float[np.ndarray, " label"]
    low: Float[np.ndarray, " unit"]
    high: Float[np.ndarray, " unit"]
    lower: Float[np.ndarray, " pixel"]
    upper: Float[np.ndarray, " pixel"]
    moving: Int[np.ndarray, " pixel"]

    @property
    def pixels(self) -> int:
        return len(self.moving)

    @property
    def units(self) -> int:
        return len(self.constant)

    def part_of(self) -> Int[np.ndarray, " column"]:
        """The part of every column; -1 for pixels that no unit reads."""
        size = self.pixels + self.units
        below = scipy.sparse.csr_array((self.pixels, size))
        links = (
            scipy.sparse.vstack([below, self.inputs])
            if self.units
            else scipy.sparse.csr_array((size, size))
        )
        _, found = scipy.sparse.csgraph.connected_components(links, directed=False)
        parts, numbers = np.unique(found[self.pixels :], return_inverse=True)
        number = np.full(size, -1)
        number[parts] = np.arange(len(parts))
        return np.concatenate([number[found[: self.pixels]], numbers]).astype(int)

    def levels(self) -> Int[np.ndarray, " unit"]:
        """How many units lie one behind the other before each unit."""
        reads = self.inputs[:, self.pixels :]
        level = np.zeros(self.units, int)
        for unit in range(self.units):
            before = reads.indices[reads.indptr[unit] : reads.indptr[unit + 1]]
            level[unit] = 1 + level[before].max(initial=-1)
        return level


def compact(
    graph: Graph,
    lower: Float[np.ndarray, "height width channel"],
    upper: Float[np.ndarray, "height width channel"],
    bounds: Mapping[Variable, Interval],
) -> Compact | None:
    """The network over a box; None where it has other operations than ReLUs and max pools.

    Args:
        graph: in float64; float64 precision must be on.
        lower, upper: the box.
        bounds: sound bounds on the input of every ReLU and max pool of the graph.
    """
    steps = [eqn for eqn in graph.eqns if not is_affine(graph, eqn)]
    if not all(is_relu(eqn) or is_max_pool(eqn) for eqn in steps):
        return None
    low, high = (np.asarray(side, float).reshape(-1) for side in (lower, upper))
    builder = _Builder(graph, low, high)
    for eqn in steps:
        ends = (np.asarray(side, float).reshape(-1) for side in bounds[eqn.invars[0]])
        builder.add(eqn, *ends)
    return builder.finish()


class _Builder:
    """Units so far. *Values* are what the network's own expressions end in: pixels, open maxima."""

    def __init__(self, graph: Graph, lower: np.ndarray, upper: np.ndarray) -> None:
        self.graph, self.lower, self.upper = graph, lower, upper
        self.moving = np.flatnonzero(lower < upper)
        columns = np.full(lower.size, ABSENT)
        columns[self.moving] = np.arange(len(self.moving))
        fixed = np.where(lower < upper, 0.0, lower)
        self.sources = {graph.input: Source(columns, fixed)}
        self.values = [{i: 1.0} for i in range(len(self.moving))]
        self.constants = [0.0] * len(self.moving)
        self.rows: list[dict[int, float]] = []
        self.row_constants: list[float] = []
        self.ends: list[tuple[float, float]] = []

    def add(self, eqn, lower: np.ndarray, upper: np.ndarray) -> None:
        """The units of one equation's undecided maxima."""
        found = maxima(self.graph, eqn, lower, upper)
        needed = found.needed
        inputs = self._expanded(
            elements(self.graph, eqn.invars[0], needed, self.sources, len(self.values))
        )
        place = {int(index): row for row, index in enumerate(needed)}
        columns = np.full(eqn.outvar.size, ABSENT)
        for maximum in found.undecided:
            columns[maximum.output] = len(self.values)
            value, constant = self._maximum(maximum, inputs, place)
            self.values.append(value)
            self.constants.append(constant)
        self.sources[eqn.outvar] = Source(columns, np.zeros(eqn.outvar.size), found.winner)

    def _expanded(self, found: Affine) -> list[tuple[dict[int, float], float]]:
        """Expressions of values as expressions of pixels and units."""
        expanded = []
        for row, constant in enumerate(found.constant):
            total: dict[int, float] = {}
            for value, weight in zip(*found.terms(row)):
                constant += weight * self.constants[value]
                _add(total, self.values[value], weight)
            expanded.append((total, float(constant)))
        return expanded

    def _maximum(
        self, maximum: Undecided, inputs: list, place: Mapping[int, int]
    ) -> tuple[dict[int, float], float]:
        """``max(a, b) = a + max(b - a, 0)``, one candidate after the other."""
        order = np.lexsort((-maximum.upper, -maximum.lower))
        candidates = [
            ({}, 0.0)
            if maximum.candidates[j] == FLOOR
            else inputs[place[int(maximum.candidates[j])]]
            for j in order
        ]
        bounds = [(maximum.lower[j], maximum.upper[j]) for j in order]
        (value, constant), (least, most) = candidates[0], bounds[0]
        value = dict(value)
        for (other, other_constant), (low, high) in zip(candidates[1:], bounds[1:]):
            row = dict(other)
            _add(row, value, -1.0)
            unit = self._unit(row, other_constant - constant, low - most, high - least)
            value[unit] = 1.0
            least, most = max(least, low), max(most, high)
        return value, constant

    def _unit(self, row: dict[int, float], constant: float, low: float, high: float) -> int:
        self.rows.append(row)
        self.row_constants.append(constant)
        self.ends.append((low, high))
        return len(self.moving) + len(self.rows) - 1

    def finish(self) -> Compact:
        count = self.graph.label_count
        eye = scipy.sparse.csr_array(np.eye(count))
        scores = self._expanded(
            functionals(self.graph, self.graph.output, eye, self.sources, len(self.values))
        )
        width = len(self.moving) + len(self.rows)
        low, high = np.array(self.ends).reshape(-1, 2).T
        return Compact(
            inputs=_matrix(self.rows, width),
            constant=np.array(self.row_constants),
            outputs=_matrix([row for row, _ in scores], width),
            offset=np.array([constant for _, constant in scores]),
            low=low,
            high=high,
            lower=self.lower[self.moving],
            upper=self.upper[self.moving],
            moving=self.moving,
        )


def _add(total: dict[int, float], row: Mapping[int, float], weight: float) -> None:
    for column, coefficient in row.items():
        total[column] = total.get(column, 0.0) + weight * coefficient


def _matrix(rows: list[dict[int, float]], width: int) -> scipy.sparse.csr_array:
    place = np.repeat(np.arange(len(rows)), [len(row) for row in rows]).astype(int)
    columns = np.array([c for row in rows for c in row], int)
    data = np.array([v for row in rows for v in row.values()], float)
    return scipy.sparse.csr_array((data, (place, columns)), shape=(len(rows), width))
