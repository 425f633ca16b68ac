"""Branch and bound on linear relaxations: the complete oracle for what is too large for a MILP."""

from __future__ import annotations

import dataclasses

import numpy as np

from jmlv.bounds import CROWN, AlphaCROWN, Relaxation
from jmlv.clauses import open_clauses
from jmlv.oracles.branching.parts.part_search import Settings
from jmlv.oracles.branching.parts.separable import PartRows, problem_of
from jmlv.oracles.branching.whole_search import WholeSearch
from jmlv.oracles.milp.milp import MILP
from jmlv.oracles.oracle import Deadline, Evidence, Oracle, Query
from jmlv.oracles.per_box import inner_intervals, margin_of
from jmlv.require import require_fields
from jmlv.shown import at_least


@dataclasses.dataclass(frozen=True)
class BranchAndBound(Oracle):
    """Splits the box on units of the network, many subdomains in one batch, until all are proven.

    The property is taken apart into clauses (:mod:`jmlv.clauses`), each with a linear bound
    of its own. The subdomain with the lowest bound is split on the neuron that loses most
    (:mod:`jmlv.oracles.branching.subdomains`); its halves are bounded by gradient steps in float32 on lines,
    mixture and multipliers, and closed by a bound in float64. Every point at which a bound is
    reached in the first subdomains of a batch is descended from: counterexamples turn up on the way.

    Units are ReLUs, max pools, and what smooth functions, products and softmax read
    (:mod:`jmlv.oracles.branching.bent`): of these a split shortens the interval, with a look ahead at some
    candidates. It goes on until a bound exceeds what float64 may have rounded in it, too.

    A network that falls apart over the box, into parts that share no pixel, is searched part by part
    first (:mod:`jmlv.oracles.branching.parts.part_search`), and as a whole only where that proves too little.

    Source: Wang et al., *Beta-CROWN*, NeurIPS 2021, arXiv:2103.06624; Bunel et al., *Branch and
    Bound for Piecewise Linear Neural Network Verification*, JMLR 2020; Shi et al., *GenBaB*, TACAS 2025.

    Attributes:
        relaxation: gives the neurons' intervals, in float64, once for the whole box.
        batch: subdomains bounded at a time.
        steps: gradient steps on a subdomain's bound.
        learning_rate: the first of them.
        depth: splits on one path, at most.
        subdomains: open at a time, at most; a memory cap, of about a kilobyte each. With 1 nothing is
            split: every clause is bounded once, and descended from where its bound is reached.
        time_limit: seconds for one query, or None for the caller's budget alone.
        parts: how a network that falls apart is searched part by part; None searches it as a whole.
        whole: whether to search as a whole what its parts leave open. Without that a network that
            does not fall apart is left alone at once, unless it has operations that a MILP knows
            nothing of: such a network is searched as a whole always.
        few: subdomains of the whole with at most this many open units are handed to ``solver``.
        solver: what they are handed to, each with the solver's own time limit.
        clipped: of so many units, at most, the intervals are clipped in every subdomain of the whole
            by what a counterexample there must satisfy (:mod:`jmlv.oracles.branching.clipped`); what
            is proven then is a margin of :data:`jmlv.bounds.clipping.CEILING` at most.
        hurried: take CROWN's intervals where those by ``relaxation`` are not known yet of this box:
            on deep networks these take minutes.

    >>> import jax.numpy as jnp, jmlv
    >>> f = lambda x: jnp.abs(x.reshape(x.shape[0], 2) @ jnp.array([[1.0, 1.0], [-1.0, 2.0]]))
    >>> box = jmlv.Box.between(jnp.array([[[0.1], [0.3]]]), jnp.array([[[0.4], [0.5]]]))
    >>> jmlv.verify(f, box, jmlv.InTopK(1, k=1), jmlv.BranchAndBound()).status.name
    'ROBUST'
    """

    relaxation: Relaxation = AlphaCROWN()
    batch: int = 16
    steps: int = 4
    learning_rate: float = 0.5
    depth: int = 48
    subdomains: int = 200_000
    time_limit: float | None = None
    parts: Settings | None = Settings()
    whole: bool = True
    few: int = 100
    solver: MILP = MILP(time_limit=10.0)
    clipped: int = 64
    hurried: bool = False

    def __post_init__(self) -> None:
        require_fields(self)
        for field in ("batch", "depth", "subdomains"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field}: must be at least 1, got {getattr(self, field)}.")
        for field in ("few", "clipped"):
            if getattr(self, field) < 0:
                raise ValueError(f"{field}: must not be negative, got {getattr(self, field)}.")
        if self.steps < 0 or not self.learning_rate > 0:
            raise ValueError("steps must not be negative and learning_rate must be positive.")
        if self.time_limit is not None and not self.time_limit > 0:
            raise ValueError(f"time_limit: must be a positive number, got {self.time_limit}.")
        if self.parts is None and not self.whole:
            raise ValueError("whole: without parts there is nothing else to search.")

    @property
    def name(self) -> str:
        if self.subdomains == 1:
            return "branch and bound at the root"
        return "branch and bound" if self.whole else "branch and bound by parts"

    def search(self, query: Query, deadline: Deadline) -> Evidence:
        deadline = deadline.within(self.time_limit)
        if self.hurried and not inner_intervals.is_known(query, self.relaxation):
            at_once = dataclasses.replace(self, relaxation=CROWN(), hurried=False)
            return at_once.search(query, deadline)
        search = WholeSearch(self, query)
        by_parts = self.parts is not None and search.piecewise_linear
        problem = problem_of(query, self.relaxation, self.parts) if by_parts else None
        if problem is None and not search.whole:
            return Evidence(reason=f"{self.name}: the network does not fall apart over the box")
        parts = None if problem is None else PartRows(problem, query)
        deadline.check()
        rows, points = search.row_bounds(deadline) if parts is None else parts.bounds()
        known = margin_of(query.property.form(query.label_count), rows)
        reason = f"bounds of single rows: at least {at_least(known)}"
        if known > search.needed:
            return Evidence(known, reason=reason)
        search.look(points[np.argsort(rows)])
        if not np.isfinite(rows).all():
            return Evidence(known, search.weakest.point, reason)
        proven = frozenset(np.flatnonzero(rows > search.needed).tolist())
        clauses = open_clauses(query.property.tree(query.label_count), proven)
        if clauses is None:
            reason = "branch and bound: too many clauses are open"
            return Evidence(known, search.weakest.point, reason)
        search.known = known
        search.closed = float(min((rows[i] for i in proven), default=np.inf))
        if parts is not None and search.weakest.margin > 0:
            outcome = parts.prove(clauses, search.look, deadline, self.subdomains)
            clauses = search.learn(outcome)
        return search.run(clauses, deadline)
