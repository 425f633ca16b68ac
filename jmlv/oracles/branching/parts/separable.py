"""Clauses of a property, one after the other, on the parts of a network."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from jmlv.bounds import Relaxation
from jmlv.clauses import Clause
from jmlv.graph.fuse import fuse_relu_max_pool
from jmlv.numerics import PROOF_TOLERANCE, certificate_precision
from jmlv.oracles.branching.parts.compact import compact
from jmlv.oracles.branching.parts.layout import lay_out
from jmlv.oracles.branching.parts.part_search import Problem, Settings, Tree, roots
from jmlv.oracles.oracle import Deadline, Query
from jmlv.oracles.per_box import inner_intervals, once_per_box

FIRST_LOOK = 3
"""Rounds before other shares are looked for, and twice as many each time after."""


@once_per_box
def problem_of(query: Query, relaxation: Relaxation, settings: Settings) -> Problem | None:
    """The query's network in parts; None where it does not fall apart, or is too large.

    Args:
        query: the question; its property is not read.
        relaxation: bounds the inner values.
        settings: how parts are searched.
    """
    intervals = inner_intervals(query, relaxation)
    if not all(np.isfinite(side).all() for interval in intervals.values() for side in interval):
        return None
    with certificate_precision():
        graph = fuse_relu_max_pool(query.graph64)
        network = compact(graph, query.lower, query.upper, intervals)
    if network is None or not network.units:
        return None
    layout = lay_out(network)
    return Problem(network, layout, settings) if settings.usable(layout) else None


@dataclasses.dataclass(eq=False)
class Outcome:
    """What has been proven of a property's clauses.

    Attributes:
        closed: the least bound of the clauses that are proven.
        left: the others, in the order in which they were tried or would have been.
        lower: the least bound of those.
        bounded: how many subdomains were bounded.
    """

    closed: float = np.inf
    left: list[Clause] = dataclasses.field(default_factory=list)
    lower: float = np.inf
    bounded: int = 0


class PartRows:
    """The rows of one property on the parts of a network."""

    def __init__(self, problem: Problem, query: Query) -> None:
        self.problem, self.base = problem, query.lower
        coefficients, offsets = query.property.rows(query.label_count)
        self.rows = coefficients
        self.offsets = coefficients @ problem.network.offset + offsets

    def bounds(self) -> tuple[Float[np.ndarray, " row"], Float[np.ndarray, "row *image"]]:
        """A bound on each row over the whole box, and where it is reached."""
        found = roots(self.problem, self.rows, self.offsets, np.eye(len(self.rows)))
        points = [self.problem.image(root.point, self.base) for root in found]
        return np.array([root.lower for root in found]), np.stack(points)

    def prove(
        self, clauses: list[Clause], look: Callable[[np.ndarray], bool], deadline: Deadline,
        most: int,
    ) -> Outcome:  # fmt: skip
        """Proves clauses, the lowest bound first, until one resists.

        Args:
            clauses: what is to be proven.
            look: shown inputs of low margin; whether to stop.
            deadline: when to stop.
            most: subdomains open at a time, at most.
        """
        masks = np.zeros((len(clauses), len(self.rows)))
        for mask, clause in zip(masks, clauses):
            mask[sorted(clause)] = 1
        found = roots(self.problem, self.rows, self.offsets, masks)
        outcome, proven = Outcome(), []
        order = sorted(range(len(clauses)), key=lambda i: found[i].lower)
        for place, i in enumerate(order):
            if any(support <= clauses[i] for support in proven):
                continue
            root, best = found[i], found[i].lower
            if best <= PROOF_TOLERANCE:
                tree = Tree(self.problem, self.rows, self.offsets, masks[i], root)
                self._prove_one(tree, look, deadline, most)
                best, root = tree.best, root._replace(mixture=tree.proven_mixture)
                outcome.bounded += tree.bounded
            if not best > PROOF_TOLERANCE:
                rest = order[place:]
                outcome.left = [clauses[j] for j in rest]
                outcome.lower = min(best, *(found[j].lower for j in rest[1:]), np.inf)
                return outcome
            outcome.closed = min(outcome.closed, best)
            proven.append(frozenset(np.flatnonzero(root.mixture > 0).tolist()))
        return outcome

    def _prove_one(
        self, tree: Tree, look: Callable[[np.ndarray], bool], deadline: Deadline, most: int
    ) -> None:
        """Rounds until the clause is proven, nothing promises to prove it, or time is over."""
        next_look = FIRST_LOOK
        while tree.best <= PROOF_TOLERANCE and not deadline.passed and tree.open < most:
            over = tree.upper <= PROOF_TOLERANCE or tree.finished
            if over or tree.rounds >= next_look:
                next_look = 2 * tree.rounds
                if look(tree.images(self.base)):
                    return
                if tree.change_shares():
                    next_look = FIRST_LOOK
                elif over:
                    return
            else:
                tree.round()
