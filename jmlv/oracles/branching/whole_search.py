"""Branch and bound over the units of the whole network: the pool of subdomains, best bound first."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterator, Sequence
from functools import cached_property, partial
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jmlv.bounds import Interval, Relaxation
from jmlv.bounds.clipping import CEILING
from jmlv.bounds.rounding import FLOAT64
from jmlv.clauses import Clause
from jmlv.graph.fuse import fuse_relu_max_pool
from jmlv.graph.operations import is_piecewise_linear
from jmlv.margin_form import padded_rows
from jmlv.numerics import SOLVER_TOLERANCE, as_float64, certificate_precision, search_precision
from jmlv.oracles.branching.clipped import certify_clipped, no_ends, no_planes, unit_planes
from jmlv.oracles.branching.ends import Ends
from jmlv.oracles.branching.hand_over import solve_subdomain
from jmlv.oracles.branching.parts.separable import Outcome
from jmlv.oracles.branching.subdomains import (
    Choice,
    Cut,
    Scores,
    Splits,
    Task,
    ascend,
    kinked_count,
    unit_count,
)
from jmlv.oracles.falsify import Weakest
from jmlv.oracles.milp.milp import MILP
from jmlv.oracles.oracle import Deadline, Evidence, Query
from jmlv.oracles.per_box import inner_intervals
from jmlv.oracles.rounding import margin_needed, score_errors
from jmlv.shown import at_least


@runtime_checkable
class Options(Protocol):
    """What the search reads of :class:`jmlv.oracles.BranchAndBound`, where it is explained."""

    relaxation: Relaxation
    batch: int
    steps: int
    learning_rate: float
    depth: int
    subdomains: int
    whole: bool
    few: int
    solver: MILP
    clipped: int

    @property
    def name(self) -> str: ...


PATIENCE = 256
"""So many subdomains are bounded before any is handed to a solver: most queries need fewer, and a
solver's process alone takes as long as bounding them."""


GLANCE = 2
"""Gradient steps on the halves by a candidate."""

WORTH_IT = 0.05
"""The share of what is missing that both halves have to gain for a glance at them to count."""


class Domain(NamedTuple):
    """An open subdomain; the heap takes the lowest bound first.

    Attributes:
        lower: its bound.
        number: counts through, so that nothing further is compared.
        clause: whose largest row is bounded.
        splits: what makes it a part of the box.
        beta: the multipliers of its splits.
        cuts: candidates for its next split, the best one first.
        ends: what units, and inputs, of a violator in it are known to lie between.
        open: how many units are open in it.
        few: with so many or fewer of them it is handed to the solver; -1 is never.
        asked: whether the solver has been asked about it.
    """

    lower: float
    number: int
    clause: int
    splits: Splits
    beta: np.ndarray
    ends: Ends
    cuts: Cut = Cut(np.zeros(1, int), np.zeros(1), np.zeros(1), np.full(1, -1.0))
    open: int = 0
    few: int = -1
    asked: bool = False


class _Bounded(NamedTuple):
    """A batch of subdomains with choices, proven bounds, where to split them, and tighter ends."""

    choice: Choice
    lower: Float[np.ndarray, " batch"]
    scores: Scores
    ends: Ends


class WholeSearch:
    """The pool of open subdomains of one query, and what has been found."""

    def __init__(self, options: Options, query: Query) -> None:
        self.options, self.query = options, query
        self.exact = _task(query, options.relaxation)
        fast = jax.tree.map(lambda v: np.asarray(v, np.float32), self.exact._replace(graph=None))
        self.fast = fast._replace(graph=fuse_relu_max_pool(query.graph_inside))
        graph = query.graph
        self.piecewise_linear = all(is_piecewise_linear(graph, eqn) for eqn in graph.eqns)
        self.kinked = kinked_count(self.fast.graph)
        self.whole = options.whole or not self.piecewise_linear
        self.few, self.clipped = options.few if self.piecewise_linear else 0, options.clipped
        self.units, self.ceiling = no_planes(self.exact, self.clipped), np.inf
        self.known, self.closed, self.stuck = -np.inf, np.inf, np.inf
        rows = len(query.property.rows(query.label_count)[1])
        self.masks = np.eye(rows, len(self.exact.offsets), dtype=np.float32)
        self.starts: list[Choice] = []
        self.heap: list[Domain] = []
        self.numbers = itertools.count()
        self.bounded = self.handed_over = self.retired = 0
        self.rounds: list[float] = []
        self.weakest = Weakest(query)

    @cached_property
    def needed(self) -> float:
        """What a bound has to exceed: the search goes on until rounding takes no proof away."""
        return margin_needed(self.query)

    def row_bounds(
        self, deadline: Deadline
    ) -> tuple[Float[np.ndarray, " row"], Float[np.ndarray, "row *image"]]:
        """A bound on each row over the whole box, not finite where there is none, and where it is reached.

        Raises:
            TimeUp: the deadline has passed between two batches of rows.
        """
        bounds, points = [], []
        for rows, found in self._whole_box():
            bounds.append(found.lower[: len(rows)])
            points.append(found.scores.point[: len(rows)])
            deadline.check()
        return np.concatenate(bounds), np.concatenate(points)

    def look(self, points: Float[np.ndarray, "point *image"]) -> bool:
        """Descends from some points; whether a counterexample is known."""
        self.weakest.descend(points)
        return self.weakest.margin <= 0

    def learn(self, outcome: Outcome) -> list[Clause]:
        """Takes over what the search by parts has proven; the clauses that are left."""
        self.closed = min(self.closed, outcome.closed)
        self.known = max(self.known, min(self.closed, outcome.lower))
        self.bounded += outcome.bounded
        return outcome.left

    def run(self, clauses: list[Clause], deadline: Deadline) -> Evidence:
        """Splits until all is proven, a counterexample is found, or the deadline passes.

        Args:
            clauses: what is to be proven.
            deadline: when to stop.
        """
        if not clauses or deadline.passed or self.weakest.margin <= 0 or not self.whole:
            self.stuck = self.known if clauses else np.inf
            return self._evidence(deadline)
        self.clauses, self.deadline = clauses, deadline
        self.masks = np.zeros((len(clauses), self.masks.shape[1]), np.float32)
        for i, clause in enumerate(clauses):
            self.masks[i, sorted(clause)] = 1.0
        if self.clipped:
            errors = score_errors(self.query, FLOAT64).inner
            self.units = unit_planes(self.exact, self.clipped, errors)
            self.ceiling = CEILING if self.needed < CEILING else self.needed + CEILING
        self._roots(deadline)
        if self.few and self.needed < SOLVER_TOLERANCE:
            roots = list(self.heap)
            self._split_until(deadline, self.bounded + PATIENCE)
            self._begin_again(roots)
        self._split_until(deadline, np.inf)
        return self._evidence(deadline)

    def _split_until(self, deadline: Deadline, bounded: float) -> None:
        """Goes on until nothing is open, so many are bounded, or the search has to end."""
        while self.heap and self.weakest.margin > 0 and self.bounded < bounded:
            if self._out_of_time(deadline) or len(self.heap) >= self.options.subdomains:
                return
            began = deadline.elapsed
            self._round()
            self.rounds.append(deadline.elapsed - began)

    def _out_of_time(self, deadline: Deadline) -> bool:
        """Whether another round, as long as the shortest so far, would end too late to be told of.

        The first one compiles.
        """
        return deadline.passed or deadline.remaining < min(self.rounds[1:], default=0.0)

    def _begin_again(self, roots: list[Domain]) -> None:
        """From the whole box once more, now with the solver: it wants subdomains few and large."""
        if (not self.heap and not self.retired) or not self._may_ask():
            return
        self.known = max(self.known, self._lower())
        self.heap, self.stuck, self.retired = [], np.inf, 0
        for root in roots:
            self._open(root._replace(few=self.few))

    def _roots(self, deadline: Deadline) -> None:
        """One subdomain per clause; the choice found for it is where its halves begin."""
        none = _no_splits(self.options.depth, unit_count(self.fast.graph))
        ends = no_ends(self.exact, self.clipped)
        for clauses, found in self._whole_box():
            self._look_where_open(found)
            for i, clause in enumerate(clauses):
                self.starts.append(jax.tree.map(partial(_entry, i), found.choice))
                root = Domain(self.known, next(self.numbers), clause, none, none.side, ends)
                self._place(root, found, none.side, i)
            if deadline.passed and len(self.starts) < len(self.masks):
                self.stuck = self.known
                return

    def _whole_box(self) -> Iterator[tuple[range, _Bounded]]:
        """Bounds of the clauses without splits, in batches."""
        batch, count = self.options.batch, len(self.masks)
        none = _no_splits(self.options.depth, unit_count(self.fast.graph))
        splits = Splits(*(np.stack([array] * batch) for array in none))
        ends = no_ends(self.exact, self.clipped)
        ends = Ends(*(np.stack([array] * batch) for array in ends))
        for start in range(0, count, batch):
            clauses = range(start, min(start + batch, count))
            masks = self.masks[_padded(clauses, batch)]
            yield clauses, self._bound(masks, splits, ends, 2 * self.options.steps + 4, None)

    def _round(self) -> None:
        """Splits the subdomains with the lowest bounds in two and bounds the halves."""
        count = max(1, self.options.batch // 2)
        parents = [heapq.heappop(self.heap) for _ in range(min(count, len(self.heap)))]
        parents = self._ahead(parents)
        halves = [half for domain in parents for half in self._halves(domain)]
        if halves:
            padded = _padded(halves, max(2, self.options.batch))
            splits = Splits(*map(np.stack, zip(*(d.splits for d in padded))))
            ends = Ends(*map(np.stack, zip(*(d.ends for d in padded))))
            masks = self.masks[[d.clause for d in padded]]
            found = self._bound(masks, splits, ends, self.options.steps, self._start(padded))
            self._look_where_open(found)
            for i, half in enumerate(halves):
                self._place(half, found, np.asarray(found.choice.beta[i]), i)

    def _halves(self, domain: Domain) -> list[Domain]:
        if not self._splittable(domain):
            self._retire(domain)
            return []
        return self._cut(domain, 0)

    def _splittable(self, domain: Domain) -> bool:
        return domain.cuts.gain[0] > 0 and np.sum(domain.splits.side != 0) < self.options.depth

    def _cut(self, domain: Domain, which: int) -> list[Domain]:
        """Both halves of a subdomain, by one of its candidates."""
        place = int(np.sum(domain.splits.side != 0))
        unit, threshold, scale, _ = (array[which] for array in domain.cuts)
        found = []
        for side in (1.0, -1.0):
            new = Splits(*(array.copy() for array in domain.splits))
            for array, value in zip(new, (unit, threshold, side, scale)):
                array[place] = value
            found.append(domain._replace(number=next(self.numbers), splits=new, asked=False))
        return found

    def _ahead(self, domains: list[Domain]) -> list[Domain]:
        """The subdomains with that candidate first whose worse half gains most.

        Asked where the first candidate has no kink, so that its gain is a guess; they stay as they are
        where no candidate gains much at once.
        """
        asked = [
            (i, c)
            for i, domain in enumerate(domains)
            if self._splittable(domain) and domain.cuts.unit[0] >= self.kinked
            for c in np.flatnonzero(domain.cuts.gain > 0)
        ]
        halves = [half for i, c in asked for half in self._cut(domains[i], c)]
        glances = [self._glance(part) for part in _parts(halves, self.options.batch)]
        worse = np.concatenate([np.zeros(0), *glances]).reshape(-1, 2).min(1)
        found, best = list(domains), np.array([domain.lower for domain in domains])
        best += WORTH_IT * (self.needed - best)
        for (i, c), bound in zip(asked, worse):
            if bound > best[i]:
                best[i] = bound
                found[i] = domains[i]._replace(cuts=Cut(*(a[c : c + 1] for a in domains[i].cuts)))
        return found

    def _glance(self, halves: list[Domain]) -> Float[np.ndarray, " half"]:
        """Bounds in float32 of at most a batch of subdomains, for comparing them alone."""
        padded = _padded(halves, self.options.batch)
        masks = self.masks[[d.clause for d in padded]]
        splits = Splits(*map(np.stack, zip(*(d.splits for d in padded))))
        ends = Ends(*map(np.stack, zip(*(d.ends for d in padded))))
        within = self.units.unit, jax.tree.map(np.float32, ends)
        with search_precision():
            rate = self.options.learning_rate
            _, found = ascend(self.fast, masks, splits, GLANCE, rate, self._start(padded), within)
        return np.nan_to_num(np.asarray(found)[: len(halves)], nan=-np.inf)

    def _retire(self, domain: Domain) -> None:
        """What cannot be split further stays open for good, unless the solver closes it."""
        if domain.few >= 0 and not domain.asked and self._may_ask():
            domain = self._asked(domain)
        if domain.lower > self.needed:
            self.closed = min(self.closed, domain.lower)
        else:
            self.stuck, self.retired = min(self.stuck, domain.lower), self.retired + 1

    def _bound(
        self, masks: np.ndarray, splits: Splits, ends: Ends, steps: int, start: Choice | None
    ) -> _Bounded:
        """Searches for good choices in float32, and bounds with them in float64."""
        with search_precision():
            rate = self.options.learning_rate
            within = self.units.unit, jax.tree.map(np.float32, ends)
            choice, _ = ascend(self.fast, masks, splits, steps, rate, start, within)
        with certificate_precision():
            given = self.exact, self.units, masks, splits, choice, ends
            found, scores, ends = certify_clipped(*given, np.float64(self.ceiling))
        found, scores, ends = jax.tree.map(np.asarray, (found, scores, ends))
        return _Bounded(choice, found.everywhere(), scores, ends)

    def _look_where_open(self, found: _Bounded) -> None:
        """Descends from where the bounds of subdomains that are not proven are reached."""
        left = found.lower <= self.needed
        if left.any():
            self.weakest.descend(found.scores.point[left])

    def _place(self, domain: Domain, found: _Bounded, beta: np.ndarray, i: int) -> None:
        """Closes a subdomain that is proven, else puts it on the heap. NaN proves nothing."""
        self.bounded += 1
        bound, scores = float(found.lower[i]), found.scores
        lower = max(domain.lower, bound) if np.isfinite(bound) else domain.lower
        cuts = Cut(*(array[i] for array in scores.cuts))
        ends, left = Ends(*(array[i] for array in found.ends)), int(scores.open[i])
        new = {"lower": lower, "beta": beta, "ends": ends, "cuts": cuts, "open": left}
        self._open(domain._replace(**new))

    def _open(self, domain: Domain) -> None:
        """Puts a subdomain on the heap, unless it is small and the solver closes it."""
        if domain.lower <= self.needed and domain.open <= domain.few and self._may_ask():
            domain = self._asked(domain)
        if domain.lower > self.needed:
            self.closed = min(self.closed, domain.lower)
        else:
            heapq.heappush(self.heap, domain)

    def _may_ask(self) -> bool:
        return self.weakest.margin > 0 and not self.deadline.passed

    def _asked(self, domain: Domain) -> Domain:
        """The subdomain with what the solver proves of it; remembers the point that it finds."""
        found = solve_subdomain(
            self.query, self.exact, self.clauses[domain.clause], domain.splits,
            self.options.solver, self.deadline,
        )  # fmt: skip
        self.handed_over += 1
        if found.point is not None:
            self.weakest.keep(found.point)
        lower = max(domain.lower, found.lower)
        return domain._replace(lower=lower, few=domain.open // 2, asked=True)

    def _start(self, domains: list[Domain]) -> Choice:
        """The root's choice of each subdomain's clause, with the parent's multipliers."""
        chosen = [self.starts[d.clause]._replace(beta=d.beta) for d in domains]
        return jax.tree.map(lambda *leaves: np.stack(leaves), *chosen)

    def _lower(self) -> float:
        """Of all that is closed, open or stuck: together the whole box."""
        return min([self.closed, self.stuck, *(d.lower for d in self.heap)])

    def _evidence(self, deadline: Deadline) -> Evidence:
        lower, left = self._lower(), len(self.heap) + self.retired
        stats = {"subdomains": self.bounded, "open": left, "clauses": len(self.masks)}
        stats["handed_over"] = self.handed_over
        if not self.heap and np.isinf(self.stuck):
            reason = (
                f"{self.bounded} subdomains are proven: the margin is at least {at_least(lower)}"
            )
        else:
            why = "the budget ended" if self._out_of_time(deadline) else "it came to its limits"
            why = "a counterexample was found" if self.weakest.margin <= 0 else why
            reason = f"{self.options.name}: {why} with {left} subdomains open, at least {at_least(lower)}"
        return Evidence(max(lower, self.known), self.weakest.point, reason, stats)


def _parts(items: list[Any], size: int) -> Iterator[list[Any]]:
    return (items[start : start + size] for start in range(0, len(items), size))


def _padded(items: Sequence[Any], size: int) -> list[Any]:
    """The first repeated until there are ``size``: one shape, so that all is compiled once."""
    return [*items, *[items[0]] * (size - len(items))]


def _entry(i: int, array: Any) -> np.ndarray:
    return np.asarray(array[i])


def _no_splits(depth: int, units: int) -> Splits:
    zeros = np.zeros(depth, np.float32)
    return Splits(np.full(depth, units, np.int32), zeros, zeros, zeros)


def _task(query: Query, relaxation: Relaxation) -> Task:
    """The query in float64, with the neurons' intervals."""
    with certificate_precision():
        graph = fuse_relu_max_pool(query.graph64_inside)
        box = Interval(
            *(jnp.asarray(as_float64(side))[None] for side in (query.lower, query.upper))
        )
        rows = padded_rows(*query.property.rows(query.label_count))
        intervals = {v.index: i for v, i in inner_intervals(query, relaxation).items()}
        return Task(graph, box, intervals, *map(jnp.asarray, rows))
