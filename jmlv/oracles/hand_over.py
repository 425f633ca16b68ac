"""A subdomain of branch and bound as a mixed-integer model: where few units are open, a solver is faster."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from jmlv.bounds import Interval
from jmlv.clauses import Clause
from jmlv.graph import Variable
from jmlv.graph.operations import is_relu
from jmlv.numerics import as_float64
from jmlv.oracles.encoding import Held
from jmlv.oracles.maxima import windows
from jmlv.oracles.milp import MILP, decide_part
from jmlv.oracles.oracle import Deadline, Evidence, Query
from jmlv.oracles.subdomains import Splits, Task, nonlinear
from jmlv.properties import Excludes, leaves


def solve_subdomain(
    query: Query, task: Task, clause: Clause, splits: Splits, solver: MILP, deadline: Deadline
) -> Evidence:
    """Whether all rows of a clause can be low at once in one subdomain.

    Args:
        query: its property is what the clause is of.
        task: the query in float64.
        clause: numbers of the property's rows.
        splits: of the subdomain.

    Returns:
        A bound on the clause's largest row over the subdomain, and a point that may break the
        property (which lies in the box, not always in the subdomain).
    """
    rows = leaves(query.property.tree(query.label_count))
    case = Excludes((tuple(rows[i] for i in sorted(clause)),))
    bounds, held = _restricted(task, splits)
    return decide_part(query.about(case), bounds, held, solver, deadline)


def _restricted(task: Task, splits: Splits) -> tuple[dict[Variable, Interval], list[Held]]:
    """The bounds on inner values that hold in the subdomain, and the entries that make it one.

    A ReLU is split on its input. A max pool is split on its output, and where that is held under a
    threshold, so is every element of the window.
    """
    bounds, held, start = {}, [], 0
    splits = Splits(*(array[splits.side != 0] for array in splits))
    for eqn in nonlinear(task.graph):
        source, size = eqn.invars[0], eqn.outvar.size
        mine = Splits(*(a[(splits.unit >= start) & (splits.unit < start + size)] for a in splits))
        units, start = mine.unit - start, start + size
        low = np.where(mine.side > 0, as_float64(mine.threshold), -np.inf)
        high = np.where(mine.side < 0, as_float64(mine.threshold), np.inf)
        interval = bounds.get(source, task.intervals[source.index])
        if is_relu(eqn):
            bounds[source] = _clipped(interval, zip(units[:, None], low, high))
        else:
            below = zip(windows(eqn)[units], np.full(len(high), -np.inf), high)
            bounds[source] = _clipped(interval, below)
        if len(units):
            held.append(Held(source if is_relu(eqn) else eqn.outvar, units, low, high))
    return bounds, held


def _clipped(
    interval: Interval, splits: Iterable[tuple[np.ndarray, float, float]]
) -> Interval:
    """The interval with some entries clipped; where nothing is left, a point: the model is empty then."""
    lower, upper = (as_float64(end).copy() for end in interval)
    flat_lower, flat_upper = lower.reshape(-1), upper.reshape(-1)
    for entries, low, high in splits:
        entries = entries[entries < flat_lower.size]
        flat_lower[entries] = np.maximum(flat_lower[entries], low)
        flat_upper[entries] = np.minimum(flat_upper[entries], high)
    return Interval(np.minimum(lower, upper), upper)
