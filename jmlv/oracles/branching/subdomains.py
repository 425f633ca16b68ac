"""The numbers of branch and bound: bounds of many subdomains at once, and where to split them.

A subdomain is the box together with *splits* of units: the input of ``max(x, c)`` held on one side
of ``c``, or a max pool's output, or an operand of anything else that bends, on one side of a threshold. On
``z <= t`` (for a pool: every element at most ``t``) and ``z >= t`` (for a pool: a higher floor) the lines are
tighter; and the split enters the bound as a Lagrange multiplier (beta-CROWN): where ``s (z - t) >= 0`` the function is at least
``f - beta s (z - t)`` for any ``beta >= 0``.

Source: Wang et al., *Beta-CROWN*, NeurIPS 2021, arXiv:2103.06624. New here: the splits of max pools,
and clauses of several rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from jmlv.bounds import Interval
from jmlv.bounds.alpha_crown import keep_better
from jmlv.bounds.backward import LinearBound, Weights, linear_bound
from jmlv.bounds.balls import minimum_over
from jmlv.bounds.functionals import Functional, Whole, add, whole
from jmlv.bounds.lines import Lines, Planes, admissible, floor_constant, lines_above, lines_of
from jmlv.bounds.relaxations import patches
from jmlv.compilation import one_off
from jmlv.graph import Equation, Graph, Variable
from jmlv.graph.operations import is_max_pool, is_maximum, knee_of
from jmlv.oracles.branching.bent import bent_equations, bent_scores, bent_sources, held_intervals
from jmlv.oracles.branching.ends import Ends, clipped_task


class Splits(NamedTuple):
    """Units held on one side of a threshold; unused places have side 0.

    Units are numbered through: the outputs of all maxima and max pools, one after the other, then what
    smooth functions, products and softmax read (:mod:`jmlv.oracles.branching.bent`). The
    scale is the size of the unit's coefficient when it was split, in which its multiplier is
    measured.
    """

    unit: Int[np.ndarray, "*batch depth"]
    threshold: Float[np.ndarray, "*batch depth"]
    side: Float[np.ndarray, "*batch depth"]
    scale: Float[np.ndarray, "*batch depth"]


class Choice(NamedTuple):
    """What a bound may choose freely: lower lines, mixture of the clause's rows, multipliers."""

    weights: Weights
    mixture: Float[Array, " row"]
    beta: Float[Array, " depth"]


class Task(NamedTuple):
    """The network, its box and rows over its output, and intervals of its neurons, in one precision.

    The intervals are of what nonlinear equations read, by the variable's index: the same in every
    precision.
    """

    graph: Graph
    box: Interval
    intervals: Mapping[int, Interval]
    coefficients: Float[Array, "row label"]
    offsets: Float[Array, " row"]


class Cut(NamedTuple):
    """Units, thresholds, scales of multipliers, and the gains that are expected of the splits."""

    unit: Int[Array, "*batch"]
    threshold: Float[Array, "*batch"]
    scale: Float[Array, "*batch"]
    gain: Float[Array, "*batch"]


class Scores(NamedTuple):
    """Where a subdomain's bound is reached, the units that lose most there, and how many are open.

    The units are the one that loses most; where something bends smoothly, several, of different groups, the
    first of them that one.
    """

    point: Float[Array, "*image"]
    cuts: Cut
    open: Int[Array, ""]


def nonlinear(graph: Graph) -> list[Equation]:
    """The equations whose outputs are units: maxima and max pools."""
    return [eqn for eqn in graph.eqns if is_maximum(eqn) or is_max_pool(eqn)]


def kinked_count(graph: Graph) -> int:
    """The number of the first unit that is an operand of something smooth: maxima and pools come first."""
    return sum(eqn.outvar.size for eqn in nonlinear(graph))


def unit_count(graph: Graph) -> int:
    return sum(held.size for held, _ in _groups(graph))


def _groups(graph: Graph) -> list[tuple[Variable, Equation | None]]:
    """What units are numbered through: what a split holds, and the maximum or pool that it is of, if any."""
    maxima = [(eqn.invars[0] if is_maximum(eqn) else eqn.outvar, eqn) for eqn in nonlinear(graph)]
    return [*maxima, *((variable, None) for variable in bent_sources(graph))]


def _places(
    graph: Graph, splits: Splits
) -> Iterator[tuple[Variable, Equation | None, Int[Array, " depth"]]]:
    """Each group of units with the splits' places in it; its size means none."""
    start = 0
    for held, eqn in _groups(graph):
        place = splits.unit - start
        yield held, eqn, jnp.where((place >= 0) & (place < held.size), place, held.size)
        start += held.size


class _Relaxed(NamedTuple):
    """One subdomain's lines of every nonlinear equation, by the index of its output.

    Attributes:
        lines: as they are.
        reached: of maxima their inputs' intervals, of max pools their outputs', by the same index.
        operands: intervals of what all others read, by that variable's index.
    """

    lines: dict[int, Planes]
    reached: dict[int, Interval]
    operands: dict[int, Interval]


def _relaxed(task: Task, splits: Splits) -> _Relaxed:
    ends = (
        jnp.where(splits.side > 0, splits.threshold, -jnp.inf),
        jnp.where(splits.side < 0, splits.threshold, jnp.inf),
    )
    places = list(_places(task.graph, splits))
    held = {variable: place for variable, eqn, place in places if eqn is None}
    intervals = held_intervals(task.intervals, held, ends)
    operands = {variable.index: intervals[variable.index] for variable in held}
    lines, reached = _bent_lines(task.graph, operands), {}
    for _, eqn, place in places:
        if eqn is None:
            continue
        relaxed = _relaxed_maximum if is_maximum(eqn) else _relaxed_pool
        known, index = intervals[eqn.invars[0].index], eqn.outvar.index
        lines[index], reached[index] = relaxed(task.graph, eqn, known, place, ends)
    return _Relaxed(lines, reached, operands)


def _bent_lines(graph: Graph, operands: Mapping[int, Interval]) -> dict[int, Planes]:
    """The lines of smooth functions, products and softmax."""
    return {
        eqn.outvar.index: lines_of(graph, eqn, [operands[v.index] for v in graph.inputs_of(eqn)])
        for eqn in bent_equations(graph)
    }


def _relaxed_maximum(
    graph: Graph, eqn: Equation, known: Interval, place: Array, ends: tuple[Array, Array]
) -> tuple[Lines, Interval]:
    shape = known.lower.shape
    lower = known.lower.reshape(-1).at[place].max(ends[0], mode="drop")
    upper = known.upper.reshape(-1).at[place].min(ends[1], mode="drop")
    clipped = Interval(lower.reshape(shape), upper.reshape(shape))
    return lines_of(graph, eqn, [clipped]), clipped


def _relaxed_pool(
    _: Graph, eqn: Equation, known: Interval, place: Array, ends: tuple[Array, Array]
) -> tuple[Lines, Interval]:
    """No element exceeds what the output is held under, and the output stays above its floor."""
    least, most = ends
    size = known.upper.size
    numbers = jnp.arange(1, size + 1, dtype=jnp.int32).reshape(known.upper.shape)
    windows = patches(numbers, eqn.params).reshape(-1, eqn.outvar.size)
    elements = jnp.take(windows, place, 1, mode="fill", fill_value=0) - 1
    elements = jnp.where(elements < 0, size, elements)
    upper = known.upper.reshape(-1).at[elements].min(most, mode="drop").reshape(known.upper.shape)
    clipped = Interval(jnp.minimum(known.lower, upper), upper)
    floor = jnp.full(eqn.outvar.size, -jnp.inf, upper.dtype).at[place].max(least, mode="drop")
    lines = lines_above(eqn, clipped, floor.reshape(eqn.outvar.shape))
    reached = Interval(jnp.maximum(eqn.bind(clipped.lower), lines.floor), eqn.bind(clipped.upper))
    return lines, reached


class _Aim(NamedTuple):
    """What is bounded on a subdomain: a mixture of the clause's rows, and the splits' multipliers."""

    functional: Whole
    also: dict[Variable, Functional]
    constant: Float[Array, ""]


def _aim(task: Task, clause: Float[Array, " row"], splits: Splits, choice: Choice | None) -> _Aim:
    mixture = clause if choice is None else jnp.maximum(choice.mixture, 0) * clause
    total = mixture.sum()
    mixture = jnp.where(total > 0, mixture / jnp.where(total > 0, total, 1), clause / clause.sum())
    beta = jnp.zeros_like(splits.side) if choice is None else jnp.maximum(choice.beta, 0)
    push = beta * jnp.abs(splits.scale) * splits.side  # a negative multiplier proves nothing
    also: dict[Variable, Functional] = {}
    for held, _, place in _places(task.graph, splits):
        rows = jnp.zeros(held.size, held.dtype).at[place].add(-push, mode="drop")
        also[held] = add(also.get(held), Whole(rows.reshape(1, *held.shape)), held)
    constant = push @ splits.threshold + mixture @ task.offsets
    rows = (mixture @ task.coefficients).reshape(1, *task.graph.output.shape)
    return _Aim(Whole(rows), also, constant)


def _below(
    task: Task, lines: Any, clause: Float[Array, " row"], splits: Splits, choice: Choice | None
) -> LinearBound:
    """A linear function of the input that lies below the clause's largest row on one subdomain: the
    one whose least value is the bound, over whatever region that is taken."""
    aim = _aim(task, clause, splits, choice)
    wanted = None if choice is None else choice.weights
    found = linear_bound(task.graph, aim.functional, lines, wanted, aim.also)
    return found._replace(constant=found.constant + aim.constant)


def _least(task: Task, below: LinearBound, box: Interval) -> Float[Array, ""]:
    return (below.constant + minimum_over(below.below, *box, task.graph.inside))[0]


# ---------------------------------------------------------------------------------------------
# Batches; the loop over steps is in Python (convolutions inside XLA's own loops are slow on CPUs)
# ---------------------------------------------------------------------------------------------


_ADAM = optax.adam(1.0, b2=0.98)


@one_off()
def _prepare(
    task: Task, clauses: Array, splits: Splits, within: tuple[Array, Ends] | None
) -> tuple[Any, Choice, Any]:
    """Lines of each subdomain, CROWN's own choice (XLA drops its bound), and Adam's first memory."""

    def one(clause: Array, splits: Splits, ends: Ends | None) -> tuple[Any, Choice]:
        own = task if within is None else clipped_task(task, within[0], ends)
        lines = _relaxed(own, splits).lines
        weights = _below(task, lines, clause, splits, None).weights
        return lines, Choice(weights, clause / clause.sum(), jnp.zeros_like(splits.side))

    lines, choice = jax.vmap(one)(clauses, splits, None if within is None else within[1])
    return lines, choice, _ADAM.init(choice)


def _bounds(task: Task, *each: Any) -> Float[Array, " batch"]:
    """Of subdomains, with their lines, clauses, splits and choices."""
    return jax.vmap(lambda *own: _least(task, _below(task, *own), task.box))(*each)


@one_off()
def _better(task: Task, lines, clauses, splits, own: Choice, start: Choice) -> Choice:
    """A subdomain's own lines in place of those that it is to start with, where its bound is better.

    What bends smoothly has other lines over every interval: the same numbers do not name the same ones.
    """
    own = start._replace(weights=own.weights)
    found = [_bounds(task, lines, clauses, splits, choice) for choice in (own, start)]
    return keep_better(found[0] > found[1], own, start)


@one_off()
def _step(task, lines, clauses, splits, choice, memory, best, kept, rate) -> tuple:
    """One step of projected Adam on every subdomain's choice; keeps the best so far of each."""

    def loss(choice: Choice) -> tuple[Array, Array]:
        found = _bounds(task, lines, clauses, splits, choice)
        return -found.sum(), found

    slopes, found = jax.grad(loss, has_aux=True)(choice)
    kept = keep_better(found > best, choice, kept)
    moves, memory = _ADAM.update(slopes, memory, choice)
    moved = jax.tree.map(lambda c, m: jnp.maximum(c + rate * m, 0), choice, moves)
    moved = moved._replace(weights=jax.tree.map(lambda w: jnp.minimum(w, 1), moved.weights))
    return moved, memory, jnp.maximum(best, found), kept


def ascend(
    task: Task, clauses: Array, splits: Splits, steps: int, rate: float,
    start: Choice | None = None, within: tuple[Int[Array, " unit"], Ends] | None = None,
) -> tuple[Choice, Float[Array, " batch"]]:  # fmt: skip
    """The best choice that gradient steps find for each subdomain, and its bound in float32.

    Args:
        task: in float32.
        clauses: (batch, row) ones for the clause's rows, else zeros.
        splits: of each subdomain.
        steps: how many.
        rate: the first step, which falls linearly to a tenth.
        start: where to begin, or None for CROWN's own choice.
        within: units, and ends of their intervals in each subdomain, if more than the task's
            intervals is known.
    """
    lines, choice, memory = _prepare(task, clauses, splits, within)
    if start is not None:
        bends = bent_equations(task.graph)
        choice = _better(task, lines, clauses, splits, choice, start) if bends else start
    kept = choice
    best = np.full(len(clauses), -np.inf, np.float32)
    for share in np.linspace(1.0, 0.1, steps + 1, dtype=np.float32):
        choice, memory, best, kept = _step(
            task, lines, clauses, splits, choice, memory, best, kept, rate * share
        )
    return kept, best


@one_off()
def certify(
    task: Task, clauses: Array, splits: Splits, choice: Choice
) -> tuple[Float[Array, " batch"], Scores]:
    """The bounds of given choices, all computed in the precision of ``task``, and where to split.

    In float64 they are certificates: whatever the choices and splits are, the bound is valid.

    At the point where a bound is reached the function exceeds it by exactly the sum over neurons of
    ``a (y - line)``, with ``a`` the bound's coefficient of the neuron's output ``y``: the neuron with
    the largest term is split.
    """
    arguments = in_precision_of(task, (clauses, splits, choice))
    found, scores, _ = jax.vmap(partial(certified_one, task))(*arguments)
    return found, scores


def in_precision_of(task: Task, arguments: tuple[Array, Splits, Choice]) -> tuple:
    """Clauses, splits and choices with floating-point numbers in the task's precision."""
    dtype = task.graph.dtype
    return jax.tree.map(
        lambda v: v.astype(dtype) if jnp.issubdtype(v.dtype, jnp.floating) else v,
        jax.tree.map(jnp.asarray, arguments),
    )


def certified_one(
    task: Task, clause: Array, splits: Splits, choice: Choice
) -> tuple[Float[Array, ""], Scores, LinearBound]:
    """:func:`certify` for one subdomain, and the linear function whose least value the bound is."""
    relaxed = _relaxed(task, splits)

    def bound(box: Interval, operands: dict[int, Interval]) -> tuple[Array, LinearBound]:
        lines = relaxed.lines | _bent_lines(task.graph, operands)
        below = _below(task, lines, clause, splits, choice)
        return _least(task, below, box), below

    (found, below), (by_box, by_operand) = jax.value_and_grad(bound, (0, 1), has_aux=True)(
        task.box, relaxed.operands
    )
    middle = (task.box.lower + task.box.upper) / 2
    point = jnp.where(by_box.upper < 0, task.box.upper, middle)
    point = jnp.where(by_box.lower > 0, task.box.lower, point)
    values = task.graph.environment(point)
    cuts, start = [], 0
    for held, eqn in _groups(task.graph):
        if eqn is None:
            known, slopes = relaxed.operands[held.index], by_operand[held.index]
            parts = bent_scores(known, slopes, values[held])
        else:
            index = eqn.outvar.index
            own = choice.weights[index][0]
            slope = whole(below.passed[index], eqn.outvar).rows[0]
            lines, reached = relaxed.lines[index], relaxed.reached[index]
            parts = _unit_scores(task.graph, eqn, lines, own, slope, reached, values)
        gain, threshold, scale = (part.reshape(-1) for part in parts)
        unit = jnp.arange(start, start + held.size)
        cuts.append(Cut(unit, threshold, scale, gain))
        start += held.size
    open_ = sum(jnp.isfinite(cut.gain).sum() for cut in cuts)
    return found, Scores(point[0], _best_cuts(task.graph, cuts, start), open_), below


CANDIDATES = 4
"""Groups of units of which the best one is looked at, where gains of several kinds are compared."""


def _best_cuts(graph: Graph, cuts: list[Cut], count: int) -> Cut:
    """The cut that gains most; where something bends smoothly, the best cuts of several groups."""
    if not cuts:
        return Cut(
            jnp.full(1, count),
            *(jnp.zeros(1, graph.dtype),) * 2,
            jnp.full(1, -jnp.inf, graph.dtype),
        )
    if not bent_equations(graph):
        cuts = [Cut(*map(jnp.concatenate, zip(*cuts)))]
    firsts = [jax.tree.map(lambda v, at=jnp.argmax(cut.gain): v[at], cut) for cut in cuts]
    best = Cut(*map(jnp.stack, zip(*firsts)))
    order = jax.lax.top_k(best.gain, min(CANDIDATES, len(firsts)))[1]
    return jax.tree.map(lambda v: v[order], best)


def _unit_scores(
    graph: Graph,
    eqn: Equation,
    lines: Lines,
    own: Array,
    slope: Array,
    interval: Interval,
    values: Any,
) -> tuple[Array, Array, Array]:
    """For each unit the gain of splitting it, the threshold, and the size of its coefficient."""
    up, down = jnp.maximum(slope, 0), jnp.minimum(slope, 0)
    inputs, output = values[eqn.invars[0]], values[eqn.outvar]
    elements = inputs[None] if is_maximum(eqn) else patches(inputs, eqn.params)
    weights = admissible(eqn, own[None], lines.lower_weights[None], lines.upper_weights[None])[0]
    below = (weights * elements).sum(0) + lines.lower_constant
    if lines.floor is not None:
        below += floor_constant(lines, weights, 0)
    above = (lines.upper_weights * elements).sum(0) + lines.upper_constant
    loss = up * (output - below) + down * (output - above)
    width = interval.upper - interval.lower
    if is_maximum(eqn):
        knee = jnp.broadcast_to(knee_of(graph, eqn), output.shape)
        threshold = jnp.where(jnp.isfinite(knee), knee, 0)  # no unit without a knee is open
        open_ = (interval.lower < knee) & (interval.upper > knee)
        below_knee, above_knee = threshold - interval.lower, interval.upper - threshold
        error = below_knee * above_knee / jnp.where(open_, width, 1)
    else:
        exact = (lines.lower_weights == lines.upper_weights).all(0)
        open_ = (width > MINIMUM_WIDTH) & ~exact
        error = width
        threshold = interval.lower + width * jnp.clip(
            (output - interval.lower) / jnp.where(open_, width, 1), 0.3, 0.7
        )
    gain = jnp.where(open_, loss + SPREAD * (up - down) * error, -jnp.inf)
    return gain, threshold, up - down


SPREAD = 0.5
"""How much the width of a unit's relaxation counts beside its loss at one point."""

MINIMUM_WIDTH = 1e-4
"""A max pool whose output is known this well is not split further."""
