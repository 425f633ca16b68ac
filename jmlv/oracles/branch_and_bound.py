"""Branch and bound on linear relaxations: the complete oracle for what is too large for a MILP."""

from __future__ import annotations

import dataclasses
import heapq
import itertools
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jmlv.bounds import AlphaCROWN, Interval, Relaxation
from jmlv.bounds.crown import sources
from jmlv.graph import Graph
from jmlv.graph.fuse import fuse_relu_max_pool
from jmlv.numerics import PROOF_TOLERANCE, as_float64, certificate_precision, search_precision
from jmlv.oracles.clauses import Clause, open_clauses
from jmlv.oracles.falsify import descend_from
from jmlv.oracles.oracle import Deadline, Evidence, Oracle, Query
from jmlv.oracles.subdomains import Choice, Splits, Task, ascend, certify, score, unit_count


@dataclasses.dataclass(frozen=True)
class BranchAndBound(Oracle):
    """Splits the box on ReLUs and max pools, many subdomains in one batch, until all are proven.

    The property is taken apart into clauses (:mod:`jmlv.oracles.clauses`), each with a linear bound
    of its own. The subdomain with the lowest bound is split on the neuron that loses most
    (:mod:`jmlv.oracles.subdomains`); its halves are bounded by gradient steps in float32 on lines,
    mixture and multipliers, and closed by a bound in float64. Every point at which a bound is
    reached is descended from, so counterexamples turn up on the way.

    Source: Wang et al., *Beta-CROWN*, NeurIPS 2021, arXiv:2103.06624; Bunel et al., *Branch and
    Bound for Piecewise Linear Neural Network Verification*, JMLR 2020.

    Attributes:
        relaxation: gives the neurons' intervals, in float64, once for the whole box.
        batch: subdomains bounded at a time.
        steps: gradient steps on a subdomain's bound.
        learning_rate: the first of them.
        depth: splits on one path, at most.
        subdomains: open at a time, at most; a memory cap of a few hundred bytes each.

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

    def __post_init__(self) -> None:
        for field in ("batch", "depth", "subdomains"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field}: must be at least 1, got {getattr(self, field)}.")
        if self.steps < 0 or not self.learning_rate > 0:
            raise ValueError("steps must not be negative and learning_rate must be positive.")

    @property
    def name(self) -> str:
        return "branch and bound"

    def search(self, query: Query, deadline: Deadline) -> Evidence:
        exact = _task(query, self.relaxation)
        with certificate_precision():
            rows = as_float64(_row_bounds(self.relaxation, exact))
        known = float(query.property.combine(rows, query.label_count))
        if known > PROOF_TOLERANCE or not np.isfinite(rows).all():
            return Evidence(known, reason=f"{self.relaxation.name} alone: at least {known:.4g}")
        proven = frozenset(np.flatnonzero(rows > PROOF_TOLERANCE).tolist())
        clauses = open_clauses(query.property.tree(query.label_count), proven)
        if clauses is None:
            return Evidence(known, reason="branch and bound: too many clauses are open")
        closed = min((rows[i] for i in proven), default=np.inf)
        return _Search(self, query, exact, clauses, known, float(closed)).run(deadline)


class _Domain(NamedTuple):
    """An open subdomain; the heap takes the lowest bound first."""

    lower: float
    number: int
    clause: int
    splits: Splits
    beta: np.ndarray


class _Search:
    """The pool of open subdomains of one query, and what has been found."""

    def __init__(
        self,
        options: BranchAndBound,
        query: Query,
        exact: Task,
        clauses: list[Clause],
        known: float,
        closed: float,
    ) -> None:
        self.options, self.query, self.exact, self.known = options, query, exact, known
        self.search = jax.tree.map(lambda v: np.asarray(v, np.float32), exact._replace(graph=None))
        self.search = self.search._replace(graph=fuse_relu_max_pool(query.graph))
        self.form = jax.tree.map(np.float32, query.property.form(query.label_count))
        self.masks = np.zeros((len(clauses), len(exact.offsets)), np.float32)
        for i, clause in enumerate(clauses):
            self.masks[i, sorted(clause)] = 1.0
        self.closed, self.stuck = closed, np.inf
        self.heap: list[_Domain] = []
        self.numbers = itertools.count()
        self.bounded = 0
        self.starts: list[Choice] = []
        self.point, self.margin = None, np.inf

    def run(self, deadline: Deadline) -> Evidence:
        self._roots(deadline)
        while self.heap and self.margin > 0 and len(self.heap) < self.options.subdomains:
            if deadline.passed:
                break
            self._round()
        return self._evidence(deadline)

    def _roots(self, deadline: Deadline) -> None:
        """One subdomain per clause; the choice found for it is where its halves begin."""
        empty = _no_splits(self.options.depth, unit_count(self.search.graph))
        for i in range(len(self.masks)):
            if deadline.passed:
                self.heap.append(_Domain(self.known, next(self.numbers), i, empty, empty.side))
                self.starts.append(None)
                continue
            root = _Domain(self.known, next(self.numbers), i, empty, empty.side)
            self.starts.append(None)
            choice, _ = self._bound([root], 2 * self.options.steps + 4)
            self.starts[i] = jax.tree.map(lambda v: np.asarray(v[0]), choice)

    def _round(self) -> None:
        """Splits the subdomains with the lowest bounds in two and bounds the halves."""
        count = max(1, self.options.batch // 2)
        parents = [heapq.heappop(self.heap) for _ in range(min(count, len(self.heap)))]
        halves = [half for domain in parents for half in self._halves(domain)]
        if halves:
            self._bound([_Domain(*half) for half in halves], self.options.steps)

    def _halves(self, domain: _Domain) -> list[tuple]:
        splits, number = domain.splits, domain.number
        place = int(np.sum(splits.side != 0))
        unit, threshold, scale, gain = self.scores.pop(number)
        if gain <= 0 or place == self.options.depth:
            self.stuck = min(self.stuck, domain.lower)
            return []
        found = []
        for side in (1.0, -1.0):
            new = Splits(*(array.copy() for array in splits))
            for array, value in zip(new, (unit, threshold, side, scale)):
                array[place] = value
            found.append((domain.lower, next(self.numbers), domain.clause, new, domain.beta))
        return found

    def _bound(self, domains: list[_Domain], steps: int) -> tuple[Choice, Array]:
        """Bounds subdomains, closes the proven ones and puts the others on the heap."""
        padded = domains + domains[:1] * (_padded(len(domains), self.options.batch) - len(domains))
        splits = Splits(*map(np.stack, zip(*(d.splits for d in padded))))
        masks = self.masks[[d.clause for d in padded]]
        start = self._start(padded)
        with search_precision():
            rate = self.options.learning_rate
            choice, _ = ascend(self.search, masks, splits, steps, rate, start)
            scores = jax.tree.map(np.asarray, score(self.search, masks, splits, choice))
        self._descend(scores.point)
        with certificate_precision():
            exact = np.asarray(certify(self.exact, masks, splits, choice))
        self.bounded += len(domains)
        for i, domain in enumerate(domains):
            lower = max(domain.lower, float(exact[i])) if np.isfinite(exact[i]) else domain.lower
            self._place(domain, lower, scores, np.asarray(choice.beta[i]), i)
        return choice, exact

    def _place(self, domain: _Domain, lower: float, scores: Any, beta: np.ndarray, i: int) -> None:
        if lower > PROOF_TOLERANCE:
            self.closed = min(self.closed, lower)
            return
        found = scores.unit[i], scores.threshold[i], scores.scale[i], scores.gain[i]
        self.scores[domain.number] = tuple(v.item() for v in found)
        heapq.heappush(self.heap, domain._replace(lower=lower, beta=beta))

    def _start(self, domains: list[_Domain]) -> Choice | None:
        """The root's choice of each subdomain's clause, with the parent's multipliers."""
        starts = [self.starts[d.clause] for d in domains]
        if any(start is None for start in starts):
            return None
        chosen = [start._replace(beta=d.beta) for start, d in zip(starts, domains)]
        return jax.tree.map(lambda *leaves: np.stack(leaves), *chosen)

    @property
    def scores(self) -> dict[int, tuple]:
        return self.__dict__.setdefault("_scores", {})

    def _descend(self, points: np.ndarray) -> None:
        """Descends on the margin from points at which bounds are reached."""
        lower, upper = self.query.lower, self.query.upper
        points = np.clip(points[:4], lower, upper)
        with search_precision():
            found, margin = descend_from(self.query.graph, self.form, lower, upper, points, steps=6)
        if margin < self.margin:
            self.point, self.margin = found, margin
        if (
            self.margin <= 0
            and max(self.query.margin_exact(found), self.query.margin_deployed(found)) > 0
        ):
            self.margin = np.inf  # does not replay: go on looking

    def _evidence(self, deadline: Deadline) -> Evidence:
        lower = min([self.closed, self.stuck, *(d.lower for d in self.heap)])
        stats = {"subdomains": self.bounded, "open": len(self.heap), "clauses": len(self.masks)}
        if not self.heap and np.isinf(self.stuck):
            reason = f"{self.bounded} subdomains are proven: the margin is at least {lower:.4g}"
        else:
            why = "the budget ended" if deadline.passed else "it came to its limits"
            reason = f"branch and bound: {why} with {len(self.heap)} subdomains open, at least {lower:.4g}"
        return Evidence(max(lower, self.known), self.point, reason, stats)


def _padded(count: int, batch: int) -> int:
    """Few batch sizes, so that little is compiled: one, four, or whole batches."""
    return count if count == 1 else min(batch, 4) if count <= 4 else max(batch, count)


def _no_splits(depth: int, units: int) -> Splits:
    zeros = np.zeros(depth, np.float32)
    return Splits(np.full(depth, units, np.int32), zeros, zeros, zeros)


def _task(query: Query, relaxation: Relaxation) -> Task:
    """The query in float64, with the neurons' intervals."""
    with certificate_precision():
        graph = fuse_relu_max_pool(query.graph64)
        box = Interval(
            *(jnp.asarray(as_float64(side))[None] for side in (query.lower, query.upper))
        )
        coefficients, offsets = map(jnp.asarray, query.property.rows(query.label_count))
        return Task(graph, box, _intervals(relaxation, graph, box), coefficients, offsets)


@partial(jax.jit, static_argnums=0)
def _intervals(relaxation: Relaxation, graph: Graph, box: Interval) -> tuple[Interval, ...]:
    found, _ = relaxation.relax(graph, box)
    return tuple(found[v] for v in sources(graph))


@partial(jax.jit, static_argnums=0)
def _row_bounds(relaxation: Relaxation, task: Task) -> Float[Array, " row"]:
    lower, upper = (side[0] for side in task.box)
    return relaxation.rows(task.graph, lower, upper, task.coefficients, task.offsets).lower
