"""A subdomain of branch and bound as a mixed-integer model: where few units are open, a solver is faster."""

from __future__ import annotations

import numpy as np

from jmlv.clauses import Clause
from jmlv.graph.operations import is_maximum
from jmlv.numerics import as_float64
from jmlv.oracles.branching.subdomains import Splits, Task, nonlinear
from jmlv.oracles.milp.encoding import Held
from jmlv.oracles.milp.maxima import windows
from jmlv.oracles.milp.milp import MILP, decide_part
from jmlv.oracles.oracle import Deadline, Evidence, Query
from jmlv.properties import Linear, Or


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
    rows = query.property.rows(query.label_count)
    case = Or(tuple(Linear(*(array[i] for array in rows)) for i in sorted(clause)))
    bounds = {eqn.invars[0]: task.intervals[eqn.invars[0].index] for eqn in nonlinear(task.graph)}
    return decide_part(query.about(case), bounds, _held(task, splits), solver, deadline)


def _held(task: Task, splits: Splits) -> list[Held]:
    """The entries that are held in the subdomain.

    ``max(x, c)`` is split on its input. A max pool is split on its output, and where that is held under a
    threshold, so is every element of the window.
    """
    held, start = [], 0
    splits = Splits(*(array[splits.side != 0] for array in splits))
    for eqn in nonlinear(task.graph):
        source, size = eqn.invars[0], eqn.outvar.size
        mine = Splits(*(a[(splits.unit >= start) & (splits.unit < start + size)] for a in splits))
        units, start = mine.unit - start, start + size
        low = np.where(mine.side > 0, as_float64(mine.threshold), -np.inf)
        high = np.where(mine.side < 0, as_float64(mine.threshold), np.inf)
        held.append(Held(source if is_maximum(eqn) else eqn.outvar, units, low, high))
        if not is_maximum(eqn):
            members = windows(eqn)[units]
            inside = (members < source.size) & (mine.side < 0)[:, None]
            ceiling = np.broadcast_to(high[:, None], members.shape)[inside]
            nothing = np.full(len(ceiling), -np.inf)
            held.append(Held(source, members[inside], nothing, ceiling))
    return [part for part in held if len(part.entries)]
