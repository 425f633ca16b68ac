"""The numbers of branch and bound: bounds of many subdomains at once, and where to split them.

A subdomain is the box together with *splits* of units: the input of ``max(x, c)`` held on one side
of ``c``, or a max pool's output on one side of a threshold. On ``z <= t`` (for a pool: every element at most
``t``) and ``z >= t`` (for a pool: a higher floor) the lines are tighter; and the split enters the
bound as a Lagrange multiplier (beta-CROWN): where ``s (z - t) >= 0`` the function is at least
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
from jmlv.graph.operations import is_max_pool, is_maximum, is_piecewise_linear, knee_of
from jmlv.oracles.branching.ends import Ends, clipped_task


class Splits(NamedTuple):
    """Units held on one side of a threshold; unused places have side 0.

    Units are numbered through: the outputs of all nonlinear equations, one after the other. The
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
    """The network, its box and rows, and intervals of its neurons, in one precision.

    The intervals are of what nonlinear equations read, by the variable's index: the same in every
    precision.
    """

    graph: Graph
    box: Interval
    intervals: Mapping[int, Interval]
    coefficients: Float[Array, "row label"]
    offsets: Float[Array, " row"]


class Scores(NamedTuple):
    """Where a subdomain's bound is reached, the unit that loses most there, and how many are open."""

    point: Float[Array, "*image"]
    unit: Int[Array, ""]
    threshold: Float[Array, ""]
    scale: Float[Array, ""]
    gain: Float[Array, ""]
    open: Int[Array, ""]


def nonlinear(graph: Graph) -> list[Equation]:
    """The equations whose outputs are the units: maxima and max pools."""
    return [eqn for eqn in graph.eqns if is_maximum(eqn) or is_max_pool(eqn)]


def _never_split(graph: Graph) -> list[Equation]:
    """Nonlinear equations without units: their lines are those of the whole box."""
    return [eqn for eqn in graph.eqns if not is_piecewise_linear(graph, eqn)]


def unit_count(graph: Graph) -> int:
    return sum(eqn.outvar.size for eqn in nonlinear(graph))


def _places(graph: Graph, splits: Splits) -> Iterator[tuple[Equation, Int[Array, " depth"]]]:
    """Each nonlinear equation with the splits' places among its outputs; its size means none."""
    start = 0
    for eqn in nonlinear(graph):
        size = eqn.outvar.size
        place = splits.unit - start
        yield eqn, jnp.where((place >= 0) & (place < size), place, size)
        start += size


def _relaxed(task: Task, splits: Splits) -> dict[int, tuple[Lines, Interval]]:
    """Lines of every nonlinear equation on one subdomain, and the interval that they are made for.

    The interval is that of the inputs of ``max(x, c)``, or of a max pool's outputs.
    """
    least = jnp.where(splits.side > 0, splits.threshold, -jnp.inf)
    most = jnp.where(splits.side < 0, splits.threshold, jnp.inf)
    found = {}
    for eqn, place in _places(task.graph, splits):
        relaxed = _relaxed_maximum if is_maximum(eqn) else _relaxed_pool
        found[eqn.outvar.index] = relaxed(
            task.graph, eqn, task.intervals[eqn.invars[0].index], place, (least, most)
        )
    return found


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


def _lines(task: Task, splits: Splits) -> dict[int, Planes]:
    return _fixed(task) | {index: lines for index, (lines, _) in _relaxed(task, splits).items()}


def _fixed(task: Task) -> dict[int, Planes]:
    """The lines of what is never split."""
    graph = task.graph
    return {
        eqn.outvar.index: lines_of(
            graph, eqn, [task.intervals[v.index] for v in graph.inputs_of(eqn)]
        )
        for eqn in _never_split(graph)
    }


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
    for eqn, place in _places(task.graph, splits):
        held = eqn.invars[0] if is_maximum(eqn) else eqn.outvar
        rows = jnp.zeros(held.size, held.dtype).at[place].add(-push, mode="drop")
        also[held] = add(also.get(held), Whole(rows.reshape(1, *held.shape)), held)
    constant = push @ splits.threshold + mixture @ task.offsets
    return _Aim(Whole((mixture @ task.coefficients)[None, None]), also, constant)


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
        lines = _lines(task if within is None else clipped_task(task, within[0], ends), splits)
        weights = _below(task, lines, clause, splits, None).weights
        return lines, Choice(weights, clause / clause.sum(), jnp.zeros_like(splits.side))

    lines, choice = jax.vmap(one)(clauses, splits, None if within is None else within[1])
    return lines, choice, _ADAM.init(choice)


@one_off()
def _step(task, lines, clauses, splits, choice, memory, best, kept, rate) -> tuple:
    """One step of projected Adam on every subdomain's choice; keeps the best so far of each."""

    def bound(*own: Any) -> Array:
        return _least(task, _below(task, *own), task.box)

    def loss(choice: Choice) -> tuple[Array, Array]:
        found = jax.vmap(bound)(lines, clauses, splits, choice)
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
    kept = choice = choice if start is None else start
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
    lines = _fixed(task) | {index: pair[0] for index, pair in relaxed.items()}
    below = _below(task, lines, clause, splits, choice)
    found, by_box = jax.value_and_grad(partial(_least, task, below))(task.box)
    middle = (task.box.lower + task.box.upper) / 2
    point = jnp.where(by_box.upper < 0, task.box.upper, middle)
    point = jnp.where(by_box.lower > 0, task.box.lower, point)
    values = task.graph.environment(point)
    nothing = jnp.full(1, -jnp.inf, point.dtype)  # wins only where no unit is open
    gains, thresholds, scales = [], [], []
    for eqn in nonlinear(task.graph):
        index = eqn.outvar.index
        own = choice.weights[index][0]
        slope = whole(below.passed[index], eqn.outvar).rows[0]
        parts = _unit_scores(task.graph, eqn, lines[index], own, slope, relaxed[index][1], values)
        for kept, new in zip((gains, thresholds, scales), parts):
            kept.append(new.reshape(-1))
    gain, threshold, scale = (
        jnp.concatenate([*parts, nothing]) for parts in (gains, thresholds, scales)
    )
    best = jnp.argmax(gain)
    open_ = jnp.isfinite(gain).sum()
    scores = Scores(point[0], best, threshold[best], scale[best], gain[best], open_)
    return found, scores, below


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
