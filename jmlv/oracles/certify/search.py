"""Looks for a proof in the form that :mod:`jmlv_check` replays: leaves of CROWN, and cuts."""

from __future__ import annotations

import dataclasses
import heapq
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jmlv.bounds import CROWN, Interval
from jmlv.certificate import Certificate
from jmlv.clauses import Clause, open_clauses
from jmlv.graph.fuse import fuse_relu_max_pool
from jmlv.numerics import as_float64, certificate_precision
from jmlv.oracles.branching.input_splitting import axis_to_halve
from jmlv.oracles.branching.subdomains import Task
from jmlv.oracles.certify.inner import tightened
from jmlv.oracles.certify.network import exported
from jmlv.oracles.certify.parts import by_parts
from jmlv.oracles.certify.trees import Leaf, Node, Trees
from jmlv.oracles.deadline import Deadline
from jmlv.oracles.oracle import Query
from jmlv.oracles.per_box import inner_intervals
from jmlv.properties import Row, Tree
from jmlv.regions import Ball
from jmlv_check.network import Network


@dataclasses.dataclass(frozen=True)
class Certifier:
    """How a certificate is looked for.

    Attributes:
        batch: subdomains bounded at a time.
        steps: gradient steps on each.
        learning_rate: the first of them.
        depth: cuts of units on one path, at most.
        moving: where no more inputs move than this, the box is halved along one of them once its
            units are cut in vain, and each half is proven anew.
        patience: subdomains that cuts of units may leave there before that.
        halvings: of the box on one path, at most.
        inner_steps: gradient steps on the lower weights of every inner neuron, where a proof with
            CROWN's own intervals would need cuts and the box is not to be halved.
        cutting: whether units are cut at all.
    """

    batch: int = 16
    steps: int = 8
    learning_rate: float = 0.5
    depth: int = 32
    moving: int = 32
    patience: int = 64
    halvings: int = 200
    inner_steps: int = 20
    cutting: bool = True

    def prove(
        self, query: Query, deadline: Deadline, network: Network | None = None
    ) -> Certificate | None:
        """A certificate that the property holds in the box, or None if none was found in time.

        Args:
            query: what is to be proven.
            deadline: when to stop looking.
            network: of the query, where it has been exported already.

        Raises:
            UnsupportedOperation: the network is not made of affine maps and maxima.
        """
        search = _Search(self, query, exported_from(query) if network is None else network)
        clauses = search.run(deadline)
        return None if clauses is None else search.certificate(clauses)


class _Search(Trees):
    """The trees of one query's clauses, on its box or on a part of it.

    Args:
        options: how to look.
        query: its box is the part.
        network: in the checker's form.
        halvings: of the box that may still follow.
    """

    def __init__(
        self, options: Certifier, query: Query, network: Network, halvings: int | None = None
    ) -> None:
        self.query = query
        self.halvings = options.halvings if halvings is None else halvings
        moving = int(np.sum(query.lower < query.upper))
        self.may_halve = 0 < moving <= options.moving and self.halvings > 0
        with certificate_precision():
            graph = fuse_relu_max_pool(query.graph64_inside)
            box = (jnp.asarray(as_float64(side))[None] for side in (query.lower, query.upper))
            rows, offsets = map(jnp.asarray, query.property.rows(query.label_count))
            intervals = {v.index: i for v, i in inner_intervals(query, CROWN()).items()}
            exact = Task(graph, Interval(*box), intervals, rows, offsets)
        fast = jax.tree.map(lambda v: np.asarray(v, np.float32), exact._replace(graph=None))
        fast = fast._replace(graph=fuse_relu_max_pool(query.graph_inside))
        super().__init__(options, network, exact, fast)
        self.inner: dict[str, np.ndarray] = {}

    def run(self, deadline: Deadline) -> list[tuple[list[int], Node]] | None:
        """Rows first, then the clauses that are left, then cuts, until all is proven."""
        found, left = self._by_rows()
        roots = self.roots(left) if left else []
        if any(root.leaf is None for root in roots) and not self.may_halve:
            self._tighten(deadline)
            found, left = self._by_rows()
            roots = self.roots(left) if left else []
        if left is None:
            return None
        for clause, root in zip(left, roots):
            tree = self._tree(clause, root, deadline)
            if tree is None:
                return None
            found.append((sorted(clause), tree))
        return found

    def _by_rows(self) -> tuple[list[tuple[list[int], Node]], list[Clause] | None]:
        """What single rows prove, and the clauses that are left; None where these are too many."""
        tree = self.query.property.tree(self.query.label_count)
        rows = self.roots([frozenset((row,)) for row in range(len(self.exact.offsets))])
        single = frozenset(row for row, node in enumerate(rows) if node.leaf is not None)
        return [([row], rows[row]) for row in sorted(single)], open_clauses(tree, single)

    def _tighten(self, deadline: Deadline) -> None:
        """Takes intervals of inner neurons by weights of their own, which the certificate tells."""
        steps, rate = self.options.inner_steps, self.options.learning_rate
        inner = tightened(self.exact, self.fast, self.maxima(), self.network, steps, rate, deadline)
        narrow = jax.tree.map(lambda v: np.asarray(v, np.float32), inner.intervals)
        self.inner = inner.arrays
        self.exact = self.exact._replace(intervals=inner.intervals)
        self.fast = self.fast._replace(intervals=narrow)

    def _tree(self, clause: Clause, root: Node, deadline: Deadline) -> Node | None:
        """A proof of the clause: the root's own leaf, a sum over parts, cuts of units, or two halves of the
        box."""
        if root.leaf is not None:
            return root
        if self.options.cutting:
            own = deadline.share(1 / 2) if self.may_halve else deadline
            parts = None if self.query.ball is not None else by_parts(self, root.mixture, own)
            if parts is not None or self._cut(clause, root, deadline):
                return parts or root
        return self._halved(clause, deadline) if self.may_halve else None

    def _halved(self, clause: Clause, deadline: Deadline) -> Node | None:
        """Proofs for both halves of the box along one input, or None."""
        axis = axis_to_halve(self.query)
        ends = [as_float64(side) for side in (self.query.lower, self.query.upper)]
        middle = float(sum(side.reshape(-1)[axis] for side in ends) / 2)
        halves = []
        for side in (1, 0):
            if deadline.passed:
                return None
            cut = [end.copy() for end in ends]
            cut[side].reshape(-1)[axis] = middle
            if self.query.ball is not None and not self.query.ball.meets(*cut):
                halves.append(self._empty(clause))
                continue
            half = _Search(self.options, self.query.inside(*cut), self.network, self.halvings - 1)
            tree = half._tree(clause, half.roots([clause])[0], deadline)
            if tree is None:
                return None
            halves.append(tree)
        return Node(None, cut=(axis, middle, 0.0), halves=tuple(halves))

    def _empty(self, clause: Clause) -> Node:
        """A region without an input: whatever its leaf is, the checker finds that it is closed."""
        mixture = np.zeros(len(self.exact.offsets))
        mixture[sorted(clause)] = 1
        return Node(None, leaf=Leaf(mixture, np.zeros(self.options.depth), {}))

    def _cut(self, clause: Clause, root: Node, deadline: Deadline) -> bool:
        """Cuts the region with the least bound until all leaves are proven."""
        heap = [(0.0, next(self.numbers), root)]
        while heap:
            if deadline.passed or (self.may_halve and len(heap) > self.options.patience):
                return False
            popped = [
                heapq.heappop(heap)[2] for _ in range(min(len(heap), self.options.batch // 2))
            ]
            for node in popped:
                if node.cut is None or not self.split(node):
                    return False
            halves = [half for node in popped for half in node.halves]
            bounds = self.close(halves, [clause] * len(halves), self.options.steps)
            for bound, half in zip(bounds, halves):
                if half.leaf is None:
                    heapq.heappush(heap, (bound, next(self.numbers), half))
        return True

    def certificate(self, clauses: list[tuple[list[int], Node]]) -> Certificate:
        """All trees as one certificate."""
        leaves: list[Leaf] = []
        proofs = [{"rows": rows, "proof": self.proof(root, leaves)} for rows, root in clauses]
        arrays = {
            **question_arrays(self.query),
            **self.inner,
            "leaf.mixture": np.stack([leaf.mixture for leaf in leaves]),
            "leaf.beta": np.stack([leaf.beta for leaf in leaves]),
        }
        for i, leaf in enumerate(leaves):
            for number, weights in leaf.weights.items():
                arrays[f"leaf.{i}.{number}"] = weights
            if leaf.part is not None:
                arrays[f"leaf.{i}.part"] = leaf.part
        return Certificate(
            self.network, arrays, head_of(self.query, self.network, "robust", proofs)
        )


def exported_from(query: Query) -> Network:
    """The query's network in the checker's form.

    Raises:
        UnsupportedOperation: it is not made of affine maps and maxima.
    """
    with certificate_precision():
        return exported(fuse_relu_max_pool(query.graph64))


def question_arrays(query: Query) -> dict[str, np.ndarray]:
    """Region and rows as a certificate holds them."""
    rows, offsets = query.property.rows(query.label_count)
    return {
        **({} if query.ball is None else _ball_arrays(query.ball.exact())),
        "lower": as_float64(query.lower).ravel(),
        "upper": as_float64(query.upper).ravel(),
        "rows": np.asarray(rows, np.float64),
        "offsets": np.asarray(offsets, np.float64),
    }


def _ball_arrays(ball: Ball) -> dict[str, np.ndarray]:
    return {
        "ball.norm": np.asarray(ball.norm),
        "ball.centre": ball.x.ravel(),
        "ball.weights": ball.weights.ravel(),
        "ball.radii": ball.radii,
        "ball.layer": ball.membership.argmax(1),
    }


def head_of(query: Query, network: Network, claim: str, clauses: list | None = None) -> dict:
    """What a certificate says, as JSON."""
    tree = _numbered(query.property.tree(query.label_count), itertools.count())
    head = {"claim": claim, "network": network.sha256(), "property": tree}
    return head if clauses is None else {**head, "clauses": clauses}


def _numbered(tree: Tree, numbers: Any) -> Any:
    if isinstance(tree, Row):
        return next(numbers)
    return [tree.k, *(_numbered(child, numbers) for child in tree.children)]
