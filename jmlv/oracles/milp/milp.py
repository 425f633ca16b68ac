"""The complete oracle: one mixed-integer model a query, solved by SCIP or, exactly, by CP-SAT."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np

from jmlv.bounds import CROWN, TIGHT, Interval, Relaxation
from jmlv.bounds.lines import undecided
from jmlv.errors import SoundnessError
from jmlv.graph import Classifier, Graph, Variable
from jmlv.graph.fuse import fuse_relu_max_pool
from jmlv.graph.operations import is_affine
from jmlv.margin_form import padded_rows
from jmlv.numerics import SOLVER_TOLERANCE, as_float64, certificate_precision
from jmlv.oracles.deadline import NEVER, TimeUp
from jmlv.oracles.milp.encoding import Encoding, Held, encode
from jmlv.oracles.milp.solvers import SOLVERS, Outcome, solve
from jmlv.oracles.oracle import (
    Deadline,
    Evidence,
    Oracle,
    Query,
    require_encodable,
)
from jmlv.oracles.per_box import inner_intervals, least_within
from jmlv.properties import Property
from jmlv.regions import Region
from jmlv.require import require_fields
from jmlv.shown import at_least

CLEARANCE = 1e-4
"""An input that a solver says is this far below zero replays, in float32 too."""

FEW = 100
"""A model with so many undecided inner values is solved faster than they are bounded tightly."""


@dataclasses.dataclass(frozen=True)
class MILP(Oracle):
    """Decides a query by mixed-integer programming, with bounds on the inner values.

    The question is 'is there an input with margin at most `SOLVER_TOLERANCE`?'. Only the solver's
    *infeasible* answers it with a proof; everything else gives at most a point and a dual bound.

    Source: Tjeng, Xiao and Tedrake, *Evaluating Robustness of Neural Networks with Mixed Integer
    Programming*, ICLR 2019; the formulation is in :mod:`jmlv.oracles.milp.encoding`.

    Attributes:
        solver: ``"scip"``, or ``"cp-sat"`` as a second opinion on small instances that is exact in
            integer arithmetic.
        weakest_point: look for the input with the smallest margin, not just for any that breaks
            the property: the optimum, many times dearer than the decision. Its dual bound is in
            ``stats`` and proves nothing: where it is positive, the decision is asked as well.
        time_limit: seconds for one query, or None for the caller's budget alone.
        largest: models with more binaries than this are given up at once; None tries them all.
        relaxation: bounds the inner values.
        tighter: bounds them where ``relaxation`` leaves more than `FEW` undecided: fewer binaries
            and tighter coefficients, or a proof without a solver, for seconds that a large model
            costs many times over. None keeps to ``relaxation``.

    >>> import jax.numpy as jnp, jmlv
    >>> from jmlv.oracles.milp.milp import MILP
    >>> from jmlv.oracles import Deadline, Query, judge
    >>> f = lambda x: jnp.abs(x.reshape(x.shape[0], 2) @ jnp.array([[1.0, 1.0], [-1.0, 2.0]]))
    >>> box = jmlv.Box.between(jnp.array([[[0.1], [0.3]]]), jnp.array([[[0.4], [0.5]]]))
    >>> query = Query.of(f, box, jmlv.InTopK(1, k=1))
    >>> print(judge(query, MILP().search(query, Deadline(10)), "MILP").status)
    Status.ROBUST
    """

    piecewise_linear: ClassVar[bool] = True
    boxes_only: ClassVar[bool] = True

    solver: str = "scip"
    weakest_point: bool = False
    time_limit: float | None = None
    largest: int | None = None
    relaxation: Relaxation = CROWN()
    tighter: Relaxation | None = TIGHT

    def __post_init__(self) -> None:
        require_fields(self)
        if self.solver not in SOLVERS:
            raise ValueError(f"solver: expected one of {SOLVERS}, got {self.solver!r}.")
        if self.time_limit is not None and not self.time_limit > 0:
            raise ValueError(f"time_limit: must be a positive number, got {self.time_limit}.")

    @property
    def name(self) -> str:
        return f"MILP ({self.solver})"

    def search(self, query: Query, deadline: Deadline) -> Evidence:
        require_encodable(self, query)
        deadline = deadline.within(self.time_limit)
        ask = _find_weakest if self.weakest_point else _decide
        return ask(query, self, deadline)


class WeakestPoint(NamedTuple):
    """The input of smallest margin that is known, and what is proven about all others.

    Attributes:
        point: (height, width, channel) float32, inside the region.
        margin: its margin in float64.
        lower: the solver's dual bound on the margin over the region, up to its tolerances
            (``-inf`` if none); a verdict never rests on it.
        reason: how the solver ended.
    """

    point: np.ndarray
    margin: float
    lower: float
    reason: str


def weakest_point(
    f: Classifier,
    region: Region,
    property: Property,
    *,
    budget: float | None = None,
    solver: str = "scip",
) -> WeakestPoint:
    """The input in the region at which the property comes closest to failing, or fails most.

    ``argmin of margin(f(x)) over x in the region``. On small instances ``margin`` and ``lower``
    meet up to `SOLVER_TOLERANCE`; on others they enclose the optimum when the budget ends.

    Args:
        f: the network.
        region: where the input may lie.
        property: what should hold; for ``InTopK(t, k)`` the point maximises the k-th largest
            ``F_c - F_t``.
        budget: seconds, or None for no limit.
        solver: ``"scip"`` or ``"cp-sat"``.

    Raises:
        UnsupportedOperation: ``f`` has operations without a sound rule.

    >>> import jax.numpy as jnp, jmlv
    >>> from jmlv.oracles.milp.milp import weakest_point
    >>> f = lambda x: jnp.abs(x.reshape(x.shape[0], 1) - 0.3)
    >>> box = jmlv.Box.between(jnp.zeros((1, 1, 1)), jnp.ones((1, 1, 1)))
    >>> print(f"{weakest_point(f, box, jmlv.AboveThreshold(0), budget=10).point.item():.3f}")
    0.300
    """
    query = Query.of(f, region, property)
    evidence = MILP(solver, weakest_point=True).search(query, Deadline(budget))
    dual = evidence.stats["dual_bound"]
    return WeakestPoint(evidence.point, query.margin_exact(evidence.point), dual, evidence.reason)


def _decide(query: Query, options: MILP, deadline: Deadline) -> Evidence:
    """Asks for a margin of at most the tolerance; if what is found does not replay, for less."""
    evidence = _ask(query, options, deadline, SOLVER_TOLERANCE)
    if evidence.point is None or _replays(query, evidence.point) or deadline.passed:
        return evidence
    second = _ask(query, options, deadline, -CLEARANCE)
    point = evidence.point if second.point is None else second.point
    lower = max(evidence.lower, second.lower)
    return dataclasses.replace(second, point=point, lower=lower)


def _ask(query: Query, options: MILP, deadline: Deadline, ceiling: float) -> Evidence:
    """Is there an input with a margin of at most ``ceiling``?"""
    try:
        encoding = build(query, ceiling, options, deadline)
    except TimeUp as late:
        return _unstarted(options, late)
    return _answer(query, encoding, options, deadline, ceiling)


def _unstarted(options: MILP, late: TimeUp) -> Evidence:
    stats = {"solver": options.solver, "solver_status": "NOT_STARTED"}
    return Evidence(reason=f"{options.solver}: {late} before it was started", stats=stats)


def decide_part(
    query: Query,
    bounds: Mapping[Variable, Interval],
    held: Sequence[Held],
    options: MILP,
    deadline: Deadline,
) -> Evidence:
    """Is there an input with a margin of at most `SOLVER_TOLERANCE` in a part of the box?

    Args:
        bounds: on the inner values of the fused graph over the box, in float64.
        held: what makes it a part.
        options: whose solver, time limit and largest model are used.

    Returns:
        Evidence whose ``lower`` is of this part alone.
    """
    lower, upper = as_float64(query.lower), as_float64(query.upper)
    deadline = deadline.within(options.time_limit)
    try:
        with certificate_precision():
            graph = fuse_relu_max_pool(query.graph64)
            part = {"held": held, "deadline": deadline}
            encoding = encode(graph, lower, upper, bounds, query.property, **part)
    except TimeUp as late:
        return _unstarted(options, late)
    return _answer(query, encoding, options, deadline, SOLVER_TOLERANCE)


def _answer(
    query: Query, encoding: Encoding, options: MILP, deadline: Deadline, ceiling: float
) -> Evidence:
    if encoding.model is None:
        return Evidence(encoding.margin.lower, stats=_stats(encoding, options.solver))
    solver = options.solver
    outcome = _solve(encoding, options, deadline, first=True)
    stats = _stats(encoding, solver, outcome)
    if outcome.infeasible:
        reason = f"{solver}: no input has a margin of at most {ceiling:g}"
        return Evidence(_proven_at(ceiling), reason=reason, stats=stats)
    lower = _proven(encoding, outcome, ceiling)
    return Evidence(lower, _point(query, encoding, outcome), _open(outcome, lower), stats)


def _replays(query: Query, point: np.ndarray) -> bool:
    return max(query.margin_exact(point), query.margin_deployed(point)) <= 0


def _find_weakest(query: Query, options: MILP, deadline: Deadline) -> Evidence:
    solver = options.solver
    centre = ((as_float64(query.lower) + as_float64(query.upper)) / 2).astype(np.float32)
    centre = np.clip(centre, query.lower, query.upper)
    ceiling = query.margin_exact(centre) + SOLVER_TOLERANCE
    try:
        encoding = build(query, ceiling, options, deadline)
    except TimeUp as late:
        found = _unstarted(options, late)
        return dataclasses.replace(
            found, point=centre, stats={**found.stats, "dual_bound": -np.inf}
        )
    if encoding.model is None:
        raise SoundnessError(f"CROWN: all margins above {ceiling}, but the centre's is below.")
    outcome = _solve(encoding, options, deadline, first=False)
    if outcome.infeasible:
        raise SoundnessError(f"{solver}: no margin up to {ceiling}, but the centre's is below.")
    known = [centre] if outcome.values is None else [centre, _point(query, encoding, outcome)]
    dual = _proven(encoding, outcome, ceiling)
    weakest = Evidence(
        lower=max(encoding.margin.lower, min(dual, 0.0)),
        point=min(known, key=query.margin_exact),
        reason=_open(outcome, dual),
        stats={**_stats(encoding, solver, outcome), "dual_bound": dual},
    )
    return _with_decision(query, options, deadline, weakest) if dual > 0 else weakest


def _with_decision(query: Query, options: MILP, deadline: Deadline, weakest: Evidence) -> Evidence:
    """A positive dual bound promises a proof; only *infeasible* for the decision is one."""
    decision = _ask(query, options, deadline, SOLVER_TOLERANCE)
    lower = max(weakest.lower, decision.lower)
    return dataclasses.replace(weakest, lower=lower)


def build(
    query: Query, ceiling: float, options: MILP = MILP(), deadline: Deadline = NEVER
) -> Encoding:
    """The query's model, with bounds by the oracle's relaxations, all in float64.

    Raises:
        TimeUp: the deadline has passed between two steps.
    """
    lower, upper = as_float64(query.lower), as_float64(query.upper)
    with certificate_precision():
        graph = fuse_relu_max_pool(query.graph64)
        bounds = inner_intervals(query, options.relaxation)
        deadline.check()
        if options.tighter is not None and _undecided(graph, bounds) > FEW:
            bounds = inner_intervals(query, options.tighter)
            deadline.check()
        rows = _row_bounds(query, bounds)
        return encode(
            graph, lower, upper, bounds, query.property,
            ceiling=ceiling, row_bounds=rows, deadline=deadline,
        )  # fmt: skip


def _row_bounds(query: Query, bounds: Mapping[Variable, Interval]) -> Interval:
    """CROWN's bounds on the property's rows under the inner bounds."""
    coefficients, offsets = query.property.rows(query.label_count)
    rows = padded_rows(coefficients, offsets)
    low, high = (
        sign * least_within(query, CROWN(), bounds, *(sign * v for v in rows)) for sign in (1, -1)
    )
    return Interval(low[: len(offsets)], high[: len(offsets)])


def _undecided(graph: Graph, bounds: Mapping[Variable, Interval]) -> int:
    """How many inner values a tighter interval could help."""
    readers = {eqn.invars[0]: eqn for eqn in graph.eqns if not is_affine(graph, eqn)}
    return sum(int(undecided(graph, readers[v], interval).sum()) for v, interval in bounds.items())


def _solve(encoding: Encoding, options: MILP, deadline: Deadline, first: bool) -> Outcome:
    solver, binaries = options.solver, encoding.model.binaries
    if deadline.passed:
        return Outcome(status="NOT_STARTED", reason=f"{solver}: no time was left to start it")
    if options.largest is not None and binaries > options.largest:
        return Outcome(status="NOT_STARTED", reason=f"{solver}: {binaries} binaries are too many")
    return solve(encoding.model, solver, deadline, first=first)


def _proven_at(ceiling: float) -> float:
    """What 'no margin up to the ceiling' proves: `SOLVER_TOLERANCE` only as the verdict rules say."""
    return ceiling if ceiling == SOLVER_TOLERANCE else ceiling - SOLVER_TOLERANCE


def _proven(encoding: Encoding, outcome: Outcome, ceiling: float) -> float:
    """A lower bound on the margin: what bounds alone give, or minus the solver's bound on ``w``.

    The model holds margins up to the ceiling only, so a bound on ``w`` proves no more than that.
    """
    return max(encoding.margin.lower, min(-outcome.bound, ceiling) - SOLVER_TOLERANCE)


def _point(query: Query, encoding: Encoding, outcome: Outcome) -> np.ndarray | None:
    """The solver's input, rounded to float32 inside the box."""
    if outcome.values is None:
        return None
    image = encoding.point(outcome.values).astype(np.float32)
    return np.clip(image, query.lower, query.upper)


def _open(outcome: Outcome, lower: float) -> str:
    return f"{outcome.reason}; the margin is proven to be at least {at_least(lower)}"


def _stats(encoding: Encoding, solver: str, outcome: Outcome | None = None) -> dict[str, Any]:
    model = encoding.model
    size = {} if model is None else {"binaries": model.binaries, "rows": model.rows}
    solved = {} if outcome is None else {"solver_status": outcome.status, **outcome.stats}
    return {"solver": solver, "undecided": encoding.undecided, **size, **solved}
