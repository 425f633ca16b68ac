"""'Some input in the box has margin <= ceiling' as one mixed-integer model, for any property.

Columns: the pixels that may move, the outputs of undecided maxima, their slacks and binaries, a few
binaries for the property, and ``w``. Everything else is affine in these and substituted away.

For an undecided maximum ``y`` of candidates ``z_j`` in ``[l_j, u_j]``, with binaries ``d_j`` that
say which one is the largest (after Tjeng, Xiao and Tedrake, *Evaluating Robustness of Neural
Networks with Mixed Integer Programming*, ICLR 2019, in slack form)::

    y - s_j = z_j,   0 <= s_j <= (max over i != j of u_i, minus l_j) (1 - d_j),   sum_j d_j = 1

The floor of ``max(x, c)`` is a candidate that is the constant ``c``; its slack is ``y - c`` and needs
no column. So an unstable ReLU, with ``c = 0``, comes out as
``y - s = z, 0 <= y <= u d, 0 <= s <= -l (1 - d)``, and a ReLU merged into a max pool costs one
candidate more.

The property is its tree of order statistics: 'the k-th smallest child is at most -w' holds iff at
least k children are that low. ``w`` lies between ``-ceiling`` and ``clearance`` and is maximised.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, Union

import numpy as np
import scipy
from jaxtyping import Float, Int

from jmlv.bounds.method import Interval
from jmlv.errors import SoundnessError
from jmlv.graph import Equation, Graph, Variable
from jmlv.graph.operations import is_affine
from jmlv.numerics import SOLVER_TOLERANCE
from jmlv.oracles.deadline import NEVER, Deadline
from jmlv.oracles.milp.maxima import FLOOR, Maxima, Undecided, describe, maxima
from jmlv.oracles.milp.mixed_integer import Affine, MixedIntegerModel, ModelBuilder
from jmlv.oracles.milp.substitution import ABSENT, Source, elements, functionals
from jmlv.properties import Property, Row, Tree

BOUND_SLACK = 1e-9
"""Every bound that goes into a model is widened by this, relative to its size: far more than
float64's rounding in computing it, far less than what a solver can see."""


class Held(NamedTuple):
    """Entries of one variable that are held between bounds: what makes a part of the box.

    Attributes:
        variable: any of the graph's.
        entries: flat indices.
        lower, upper: infinite where an entry is not held.
    """

    variable: Variable
    entries: Int[np.ndarray, " entry"]
    lower: Float[np.ndarray, " entry"]
    upper: Float[np.ndarray, " entry"]


@dataclasses.dataclass(frozen=True, eq=False)
class Encoding:
    """A mixed-integer model and how its values become an image.

    Attributes:
        model: the model; None where bounds alone show that the margin is above the ceiling.
        margin: bounds on the smallest margin over the box that need no solver.
        moving: flat indices of the pixels that may move: the model's first columns.
        base: (height, width, channel), the fixed pixels, and the lower bound of the others.
        undecided: how many maxima are undecided.
    """

    model: MixedIntegerModel | None
    margin: Interval
    moving: Int[np.ndarray, " pixel"]
    base: Float[np.ndarray, "height width channel"]
    undecided: int

    def point(
        self, values: Float[np.ndarray, " column"]
    ) -> Float[np.ndarray, "height width channel"]:
        """The image that the model's values stand for."""
        image = self.base.copy()
        image.reshape(-1)[self.moving] = values[: len(self.moving)]
        return image


def encode(
    graph: Graph,
    lower: Float[np.ndarray, "height width channel"],
    upper: Float[np.ndarray, "height width channel"],
    bounds: Mapping[Variable, Interval],
    property: Property,
    *,
    ceiling: float = SOLVER_TOLERANCE,
    row_bounds: Interval | None = None,
    held: Sequence[Held] = (),
    deadline: Deadline = NEVER,
) -> Encoding:
    """Encodes the search for an input with ``margin <= ceiling``; float64 precision must be on.

    Args:
        graph: the network in float64, best with ReLU and max pool fused.
        lower, upper: the box.
        bounds: sound bounds on the input of every ReLU and max pool of the graph.
        property: the property.
        ceiling: the margin that is asked for; labels that cannot bring it this low are dropped.
        row_bounds: sound bounds on the property's rows, if known.
        held: look in this part of the box only.
        deadline: when to give up.

    Raises:
        TimeUp: the deadline has passed between two equations.
        ValueError: bounds are missing or are not finite.
        SoundnessError: bounds cross.
    """
    builder, sources = ModelBuilder(), {}
    moving, sources[graph.input] = _pixels(builder, lower, upper)
    undecided = 0
    for eqn in graph.eqns:
        deadline.check()
        if not is_affine(graph, eqn):
            found, source = _add_equation(builder, graph, eqn, bounds, held, sources)
            sources[eqn.outvar] = source
            undecided += len(found.undecided)
    for part in held:
        _hold(builder, graph, part, sources)
    rows = _property_rows(builder, graph, property, sources)
    values = _row_bounds(builder, rows, row_bounds)
    margin = Interval(*(float(property.combine(v, graph.label_count)) for v in values))
    model = None
    if margin.lower <= ceiling:
        tree = property.tree(graph.label_count)
        model = _add_property(builder, tree, rows, values, (-ceiling, -margin.lower))
    base = np.asarray(lower, float)
    return Encoding(model, margin, moving, base, undecided)


def _pixels(builder: ModelBuilder, lower, upper) -> tuple[np.ndarray, Source]:
    low, high = np.asarray(lower, float).reshape(-1), np.asarray(upper, float).reshape(-1)
    moving = np.flatnonzero(low < high)
    columns = np.full(low.size, ABSENT)
    columns[moving] = builder.add_columns(low[moving], high[moving])
    return moving, Source(columns, np.where(low < high, 0.0, low))


def _add_equation(
    builder: ModelBuilder, graph: Graph, eqn: Equation, bounds: Mapping[Variable, Interval],
    held: Sequence[Held], sources: Mapping[Variable, Source],
) -> tuple[Maxima, Source]:  # fmt: skip
    """Columns and rows for the undecided maxima of one equation."""
    if eqn.invars[0] not in bounds:
        raise ValueError(f"bounds: none for {eqn.invars[0]!r}, the input of a {describe(eqn)}.")
    lower, upper = _settled(bounds[eqn.invars[0]], f"the input of a {describe(eqn)}")
    lower, upper = _clipped(lower, upper, [h for h in held if h.variable == eqn.invars[0]])
    found = maxima(graph, eqn, lower, upper)
    needed = found.needed
    inputs = elements(graph, eqn.invars[0], needed, sources, builder.columns)
    place = {int(index): row for row, index in enumerate(needed)}
    columns = np.full(eqn.outvar.size, ABSENT)
    for maximum in found.undecided:
        columns[maximum.output] = _add_maximum(builder, maximum, inputs, place)
    return found, Source(columns, found.value, found.winner)


def _settled(interval: Interval, what: str) -> tuple[np.ndarray, np.ndarray]:
    """Flat bounds, widened by `BOUND_SLACK`.

    Raises:
        ValueError: the bounds are not finite.
        SoundnessError: they cross by more than that.
    """
    lower, upper = (np.asarray(side, float).reshape(-1) for side in interval)
    if not (np.isfinite(lower).all() and np.isfinite(upper).all()):
        raise ValueError(f"bounds: those of {what} are not finite.")
    slack = BOUND_SLACK * np.maximum(1.0, np.maximum(np.abs(lower), np.abs(upper)))
    if (lower > upper + slack).any():
        raise SoundnessError(
            f"bounds: those of {what} cross by {np.max(lower - upper):.3g}, so they are unsound."
        )
    return np.minimum(lower, upper) - slack, np.maximum(lower, upper) + slack


def _clipped(
    lower: np.ndarray, upper: np.ndarray, held: Sequence[Held]
) -> tuple[np.ndarray, np.ndarray]:
    """What is left of flat bounds where entries are held; a point where nothing is, for then the
    rows of what is held have no solution."""
    lower, upper = lower.copy(), upper.copy()
    for part in held:
        np.maximum.at(lower, part.entries, part.lower)
        np.minimum.at(upper, part.entries, part.upper)
    return np.minimum(lower, upper), upper


def _add_maximum(
    builder: ModelBuilder, maximum: Undecided, inputs: Affine, place: Mapping[int, int]
) -> int:
    """One undecided maximum: its output column, a slack and a choice for each candidate."""
    (y,) = builder.add_columns(*([v] for v in maximum.range))
    limits = maximum.slack_limits()
    choices = _choices(builder, len(limits))
    for j, (index, limit, (choice, sign)) in enumerate(zip(maximum.candidates, limits, choices)):
        slack, floor = y, maximum.lower[j]  # the floor's slack is y - floor
        if index != FLOOR:
            row = place[int(index)]
            (slack,), floor = builder.add_columns([0.0], [limit]), 0.0
            columns, coefficients = inputs.terms(row)
            constant = inputs.constant[row]
            terms = [(y, 1.0), (slack, -1.0)]
            builder.add_row(terms, constant, constant, (columns, -coefficients))
        # slack <= limit * (1 - d), where d is the binary or, for the second of two, 1 - binary.
        upper = limit if sign > 0 else 0.0
        builder.add_row([(slack, 1.0), (choice, sign * limit)], upper=upper + floor)
    return int(y)


def _hold(
    builder: ModelBuilder, graph: Graph, held: Held, sources: Mapping[Variable, Source]
) -> None:
    """Rows for what is held, each widened by `BOUND_SLACK`."""
    values = elements(graph, held.variable, held.entries, sources, builder.columns)
    for row, (low, high) in enumerate(zip(held.lower, held.upper)):
        constant, expression = values.constant[row], values.terms(row)
        size = abs(constant) + np.abs(expression[1]).sum()
        slack = BOUND_SLACK * max(1.0, size)
        builder.add_row([], low - constant - slack, high - constant + slack, expression)


def _choices(builder: ModelBuilder, count: int) -> list[tuple[int, float]]:
    """Exactly one of ``count``: a binary each, or one binary and its complement for two."""
    if count == 2:
        (binary,) = builder.add_binaries(1)
        return [(binary, 1.0), (binary, -1.0)]
    binaries = builder.add_binaries(count)
    builder.add_row([(b, 1.0) for b in binaries], 1.0, 1.0)
    return [(b, 1.0) for b in binaries]


# ---------------------------------------------------------------------------------------------
# The property
# ---------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Low:
    """A row of the property that may or may not be low."""

    row: int


@dataclasses.dataclass(frozen=True)
class AtLeast:
    """At least ``k`` of the children are low; with ``k = 0`` always so."""

    k: int
    children: tuple[Node, ...]


Node = Union[Low, AtLeast]
_ALWAYS = AtLeast(0, ())


def prune(tree: Tree, values: Interval, reach: tuple[float, float]) -> Node | None:
    """What is left to decide of 'the tree is at most -w' for some ``w`` within ``reach``.

    Rows above ``-w`` for every such ``w`` are dropped, rows that are never above it are counted as
    low. None: the tree is above it throughout.
    """
    return _prune(tree, values, reach, iter(range(len(values.lower))))


def _prune(
    tree: Tree, values: Interval, reach: tuple[float, float], numbers: Iterator[int]
) -> Node | None:
    if isinstance(tree, Row):
        row = next(numbers)
        if values.lower[row] > -reach[0]:
            return None
        return _ALWAYS if values.upper[row] <= -reach[1] else Low(row)
    children = [_prune(child, values, reach, numbers) for child in tree.children]
    rest = tuple(c for c in children if c is not None and c != _ALWAYS)
    k = tree.k - children.count(_ALWAYS)
    if k <= 0:
        return _ALWAYS
    return AtLeast(k, rest) if k <= len(rest) else None


def _property_rows(
    builder: ModelBuilder, graph: Graph, property: Property, sources: Mapping[Variable, Source]
) -> Affine:
    coefficients, offsets = property.rows(graph.label_count)
    matrix = scipy.sparse.csr_array(coefficients)
    rows = functionals(graph, graph.output, matrix, sources, builder.columns)
    return Affine(rows.matrix, rows.constant + offsets)


def _row_bounds(builder: ModelBuilder, rows: Affine, known: Interval | None) -> Interval:
    """The tighter of the rows' bounds over the columns' ranges and of the known ones."""
    lower, upper = _settled(Interval(*rows.interval(*builder.bounds())), "the property's rows")
    if known is None:
        return Interval(lower, upper)
    low, high = _settled(known, "the property's rows")
    lower, upper = np.maximum(lower, low), np.minimum(upper, high)
    if (lower > upper).any():
        raise SoundnessError("row_bounds: they contradict the bounds of the inner values.")
    return Interval(lower, upper)


def _add_property(
    builder: ModelBuilder, tree: Tree, rows: Affine, values: Interval, reach: tuple[float, float]
) -> MixedIntegerModel:
    """The column ``w`` between the two ends of ``reach``, the property's rows, the finished model."""
    (w,) = builder.add_columns(*([end] for end in reach))
    node = prune(tree, values, reach)
    if node is None:
        raise AssertionError("prune: contradicts the margin's lower bound.")
    _impose(builder, node, rows, values.upper + reach[1], w, None)
    return builder.finish(w)


def _impose(
    builder: ModelBuilder, node: Node, rows: Affine, excess: Float[np.ndarray, " row"], w: int,
    guard: int | None,
) -> None:  # fmt: skip
    """Rows for 'the node is at most -w', unless the binary ``guard`` is zero.

    For a row r: ``r + w <= excess (1 - guard)``, where ``excess`` is the largest value of r + w.
    """
    if isinstance(node, Low):
        limit = 0.0 if guard is None else excess[node.row]
        terms = [(w, 1.0)] if guard is None else [(w, 1.0), (guard, limit)]
        bound = limit - rows.constant[node.row]
        builder.add_row(terms, upper=bound, expression=rows.terms(node.row))
        return
    if node.k == len(node.children):
        guards = [guard] * node.k
    else:
        guards = list(builder.add_binaries(len(node.children)))
        count = [(g, 1.0) for g in guards]
        if guard is None:
            builder.add_row(count, node.k, node.k)
        else:
            builder.add_row([*count, (guard, -float(node.k))], 0.0, 0.0)
    for child, child_guard in zip(node.children, guards):
        _impose(builder, child, rows, excess, w, child_guard)
