"""Subdomains in which inner intervals, and the box, are clipped by what a counterexample must satisfy.

The bound of a subdomain is the least value of a linear function below the clause (its *minorant*,
in which the multipliers of the splits are contained already). A counterexample in the subdomain has
all of the clause's rows, and so the minorant, at most at a ceiling: one linear constraint, which
clips the intervals of units whose linear bounds over the whole box are known, and the box. The
subdomain's halves are relaxed within these; what they prove they prove of violators, and say so
(:class:`jmlv.bounds.clipping.ForViolators`).

Source: output constraints as premises: Kotha et al., *Provably Bounding Neural Network Preimages*
(INVPROP), NeurIPS 2023; clipping: see :mod:`jmlv.bounds.clipping`. New here: one constraint that
holds all splits and the violated rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jmlv.bounds import Interval
from jmlv.bounds.backward import linear_bound
from jmlv.bounds.clipping import (
    ForViolators,
    Planes,
    clipped_by,
    minimum_with,
    multipliers_of,
)
from jmlv.bounds.crown import sources, with_negatives
from jmlv.bounds.functionals import one_hot, whole
from jmlv.bounds.lines import lines_of, undecided
from jmlv.compilation import one_off
from jmlv.graph import Graph, Variable
from jmlv.graph.ir import prefix
from jmlv.graph.operations import is_affine
from jmlv.numerics import certificate_precision
from jmlv.oracles.branching.bent import bent_equations
from jmlv.oracles.branching.ends import Ends, clipped_task
from jmlv.oracles.branching.subdomains import (
    Choice,
    Scores,
    Splits,
    Task,
    certified_one,
    in_precision_of,
    nonlinear,
)

CHUNK = 32
"""Units whose planes are computed at a time."""

LARGEST = 2**22
"""Numbers in the planes of all units, at most: there are fewer units where there are more inputs."""

BOX_INPUTS = 256
"""The box is clipped where it has so many inputs or fewer; among more a single one barely moves."""

CROSSED = 1e-7
"""Ends of a clipped interval that cross by more, relative to them above 1, leave nothing between."""


class UnitPlanes(NamedTuple):
    """Linear functions of the input below some units, and below minus each of them.

    Units are inputs of nonlinear equations, numbered through; a number beyond all is no unit.
    """

    unit: Int[Array, " unit"]
    planes: Planes


def unit_places(task: Task, count: int) -> int:
    """How many units are clipped in subdomains of a task, of ``count`` at most."""
    return min(count, LARGEST // (2 * task.box.lower.size))


def no_planes(task: Task, count: int) -> UnitPlanes:
    """Places for so many units, and no unit in them."""
    places = unit_places(task, count)
    beyond = np.full(places, sum(v.size for v in sources(task.graph)), np.int32)
    n = task.box.lower.size
    return UnitPlanes(beyond, Planes(np.zeros((2 * places, n)), np.zeros(2 * places)))


def no_ends(task: Task, count: int) -> Ends:
    """Ends that clip nothing."""
    nothing = np.full(unit_places(task, count), np.inf)
    box = (np.asarray(end).reshape(-1) for end in task.box)
    few = task.box.lower.size <= BOX_INPUTS
    return Ends(-nothing, nothing, *(end if few else end[:0] for end in box))


def unit_planes(task: Task, count: int, errors: Mapping[int, Array]) -> UnitPlanes:
    """Planes of the units that clipping tells most about: undecided ones, the last first.

    The nearer to the scores, the more a bound on the scores says about a unit; of one equation the
    widest come first. What float64 may have rounded is taken off: intervals that are empty by rounding
    alone would prove anything, however little the scores depend on the unit.

    Args:
        task: in float64.
        count: how many units, at most.
        errors: what such planes may be rounded by, by the variable's index
            (:attr:`jmlv.bounds.rounding.Rounded.inner`).
    """
    known = no_planes(task, count)
    unit, slopes, constants = (np.array(v) for v in (known.unit, *known.planes))
    places, filled = len(unit), 0
    with certificate_precision():
        for variable, entries in _wanted(task).items():
            start = _starts(task.graph)[variable]
            part = prefix(task.graph, variable)
            off = np.asarray(errors[variable.index]).reshape(-1)
            entries = entries[: places - filled]
            for chunk in np.split(entries, range(CHUNK, len(entries), CHUNK)):
                if not len(chunk):
                    continue
                found = _planes(part, task.box, task.intervals, np.resize(chunk, CHUNK))
                for side in (0, 1):
                    to = slice(filled + side * places, filled + side * places + len(chunk))
                    slopes[to], constants[to] = (np.asarray(v)[side, : len(chunk)] for v in found)
                    constants[to] -= off[chunk]
                unit[filled : filled + len(chunk)] = start + chunk
                filled += len(chunk)
    return UnitPlanes(unit, Planes(slopes, constants))


def _starts(graph: Graph) -> dict[Variable, int]:
    """The number of each source's first unit, and behind them all how many there are."""
    found = sources(graph)
    return dict(zip(found, np.cumsum([0, *(v.size for v in found)]).tolist()))


def _wanted(task: Task) -> dict[Variable, np.ndarray]:
    """Of each source the undecided entries, the widest first; what has a kink before what bends smoothly,
    and of each kind the last in the graph first."""
    found = {}
    for eqn in (*nonlinear(task.graph)[::-1], *bent_equations(task.graph)[::-1]):
        for variable in task.graph.inputs_of(eqn):
            interval = task.intervals[variable.index]
            open_ = np.flatnonzero(undecided(task.graph, eqn, interval))
            width = np.asarray(interval.upper - interval.lower).reshape(-1)[open_]
            found.setdefault(variable, open_[np.argsort(-width, kind="stable")])
    return found


@one_off()
def _planes(part: Graph, box: Interval, intervals: dict, entries: Int[Array, " chunk"]) -> Planes:
    """Planes below entries of a graph's output, and below minus them: (2, chunk, ...)."""
    lines = {
        eqn.outvar.index: lines_of(part, eqn, [intervals[v.index] for v in part.inputs_of(eqn)])
        for eqn in part.eqns
        if not is_affine(part, eqn)
    }
    functionals = with_negatives(one_hot(part.output, entries))
    below, constants, *_ = linear_bound(part, functionals, lines)
    slopes = whole(below, part.input).rows
    return Planes(slopes.reshape(2, len(entries), -1), constants.reshape(2, -1))


def _clip(
    known: UnitPlanes, below: Planes, box: Interval, ends: Ends
) -> tuple[Ends, Bool[Array, ""]]:
    """Ends of what lies in the box where a function is at most zero; whether there is nothing.

    Multipliers are chosen in float32; what they prove is computed in the precision of the planes.
    """
    if ends.lower.size:
        box = clipped_by(below.slopes[0], below.constants[0], box)
        ends = ends._replace(lower=box.lower, upper=box.upper)
    single = jax.tree.map(lambda v: v.astype(jnp.float32), (known.planes, below, box))
    found = minimum_with(known.planes, below, box, multipliers_of(*single).astype(box.lower.dtype))
    found = jnp.where(jnp.isfinite(found), found, -jnp.inf)
    low, high = jnp.split(found, 2)
    low, high = jnp.maximum(ends.low, low), jnp.minimum(ends.high, -high)
    ends = ends._replace(low=low, high=high)
    nothing = _crossed(low, high) | _crossed(ends.lower, ends.upper)
    return Ends(*_sorted(low, high), *_sorted(ends.lower, ends.upper)), nothing


def _crossed(low: Array, high: Array) -> Bool[Array, ""]:
    return (low > high + CROSSED * jnp.maximum(1, jnp.abs(high))).any()


def _sorted(low: Array, high: Array) -> tuple[Array, Array]:
    """Ends that cross by rounding alone."""
    return jnp.minimum(low, high), jnp.maximum(low, high)


@one_off()
def certify_clipped(
    task: Task, known: UnitPlanes, clauses: Array, splits: Splits, choice: Choice, ends: Ends,
    ceiling: Float[Array, ""],
) -> tuple[ForViolators, Scores, Ends]:  # fmt: skip
    """Bounds of given choices in subdomains that are clipped already, and clipped further by them.

    Args:
        task, clauses, splits, choice: as for :func:`jmlv.oracles.branching.subdomains.certify`.
        known: planes of the units.
        ends: what violators in each subdomain are known to lie between.
        ceiling: which margin is a violator's; infinite where the ends are the whole box's, and no
            clipping is wanted.

    Returns:
        Bounds, scores and the new ends.
    """
    arguments = in_precision_of(task, (clauses, splits, choice))

    def bound(clause: Array, splits: Splits, choice: Choice, ends: Ends) -> tuple:
        own = clipped_task(task, known.unit, ends)
        found, scores, below = certified_one(own, clause, splits, choice)
        slopes = whole(below.below, own.graph.input).rows.reshape(1, -1)
        box = Interval(*(end.reshape(-1) for end in own.box))
        return found, scores, (Planes(slopes, below.constant - ceiling), box, ends)

    found, scores, each = jax.vmap(bound)(*arguments, ends)
    # one after the other: what is looked at for one fits a processor's cache, for all it does not
    ends, nothing = jax.lax.map(lambda own: _clip(known, *own), each)
    found = jnp.where(nothing, NOTHING, found)
    return ForViolators(found, ceiling), scores, ends


NOTHING = 1.0
"""Stands for the bound where no violator is left: any number above the ceiling."""
