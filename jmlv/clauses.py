"""A property as clauses: sets of rows of which one must be positive everywhere."""

from __future__ import annotations

import itertools
from collections.abc import Sequence, Set

from jmlv.properties import Row, Tree, leaves

Clause = frozenset[int]


def open_clauses(tree: Tree, proven: Set[int], limit: int = 1024) -> list[Clause] | None:
    """The clauses that are not yet proven.

    A k-th smallest value is positive iff among any k children one is: the margin is positive iff in
    every clause (for ``InTopK(t, k)``: any k of the pairwise differences) some row is. Unlike rows
    one by one, a clause has a linear bound of its own, ``max_lambda min_x sum_i lambda_i row_i(x)``
    over convex weights, which proves what pairwise bounds can't.

    Args:
        tree: the property's; its leaves are numbered from left to right.
        proven: rows that are positive everywhere.
        limit: of clauses, beyond which there is no point in trying.

    Returns:
        The clauses without a proven row, those that contain another one left out; None if there
        are more than ``limit``.

    >>> import jmlv
    >>> [sorted(c) for c in open_clauses(jmlv.InTopK(0, k=2).tree(5), proven={1})]
    [[0, 2], [0, 3], [2, 3]]
    """
    try:
        found = _clauses(tree, 0, proven, limit)
    except _TooMany:
        return None
    return sorted(_minimal(found), key=sorted)


def weakest_clause(tree: Tree, rows: Sequence[float]) -> list[int]:
    """The clause whose largest row is least, where the rows have these values.

    That row's value is the margin, so the property is lost iff no row of the clause is positive.

    >>> import jmlv
    >>> weakest_clause(jmlv.InTopK(0, k=2).tree(4), [0.5, -1.0, 0.25])
    [1, 2]
    """
    return _weakest(tree, rows, 0)[1]


def width(tree: Tree) -> int:
    """The largest number of rows in a clause.

    >>> import jmlv
    >>> width((jmlv.InTopK(0, k=2) & jmlv.AboveThreshold(0, 0.5)).tree(4))
    2
    """
    if isinstance(tree, Row):
        return 1
    return sum(sorted(map(width, tree.children))[-tree.k :])


def _weakest(tree: Tree, rows: Sequence[float], start: int) -> tuple[float, list[int]]:
    """Margin and weakest clause of a tree whose rows begin at ``start``."""
    if isinstance(tree, Row):
        return rows[start], [start]
    found = []
    for child in tree.children:
        found.append(_weakest(child, rows, start))
        start += len(leaves(child))
    chosen = sorted(found)[: tree.k]
    return chosen[-1][0], [row for _, clause in chosen for row in clause]


class _TooMany(Exception):
    pass


def _clauses(tree: Tree, start: int, proven: Set[int], limit: int) -> set[Clause]:
    if isinstance(tree, Row):
        return set() if start in proven else {frozenset((start,))}
    parts = []
    for child in tree.children:
        parts.append(_clauses(child, start, proven, limit))
        start += len(leaves(child))
    return _k_of(parts, tree.k, limit)


def _k_of(parts: list[set[Clause]], k: int, limit: int) -> set[Clause]:
    """One child in every k holds: a clause of each of the k, joined. A child without clauses holds."""
    found: set[Clause] = set()
    for chosen in itertools.combinations([p for p in parts if p], k):
        for clauses in itertools.product(*chosen):
            found.add(frozenset().union(*clauses))
            if len(found) > limit:
                raise _TooMany
    return found


def _minimal(clauses: set[Clause]) -> list[Clause]:
    return [c for c in clauses if not any(other < c for other in clauses)]
