"""The way of counts over one region before the oracle: a cheap bound, attacks, a dearer bound."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from jmlv.attacks import Attack, Decision
from jmlv.bounds import CROWN, AlphaCROWN, Relaxation
from jmlv.guarantees.attacking import attacked_points
from jmlv.guarantees.counting import Counting
from jmlv.numerics import certificate_precision
from jmlv.oracles import PGD, Deadline, Query, TimeUp
from jmlv.oracles.aside import run_until

ATTACKS = 0.25
"""The share of the time that is left for attacks, while a count is open."""


def bound_and_attack(
    query: Query,
    counts: Sequence[Counting],
    reference: np.ndarray,
    decision: Decision,
    methods: Sequence[Attack],
    deadline: Deadline,
) -> None:
    """Bounds each count by CROWN, replays what attacks find, then bounds what is open by alpha-CROWN.

    First PGD descends on the margin of the question itself; the methods are for what it leaves open.
    What one count's attack finds is offered to all: a point says of every label what it is there.
    """
    offer(counts, reference)
    bound(counts, CROWN(), deadline)
    for count in counts:
        count.descend(PGD(), deadline.share(ATTACKS))
        offer(counts, count.witness)
    groups = [
        g for count in counts if not count.closed for g in _nearest(count, decision, reference)
    ]
    limit = deadline.share(ATTACKS)
    for points in attacked_points(query, reference, groups, decision, methods, limit):
        for point in points:
            offer(counts, point)
    bound(counts, AlphaCROWN(), deadline.share(0.5))


def bound(counts: Sequence[Counting], relaxation: Relaxation, deadline: Deadline) -> None:
    """Bounds the counts that are open, one after the other, until the deadline."""
    for count in counts:
        try:
            proven = run_until(deadline, partial(_proven, count, relaxation))
        except TimeUp:
            return
        count.cap(proven, relaxation.name)


def _proven(count: Counting, relaxation: Relaxation, deadline: Deadline) -> int:
    return count.proven_by(relaxation)


def offer(counts: Sequence[Counting], point: np.ndarray | None) -> None:
    """Offers a point to every count, if there is one."""
    for count in counts if point is not None else ():
        count.offer(point)


def _nearest(count: Counting, decision: Decision, x: np.ndarray) -> list[tuple[int, ...]]:
    """The labels nearest to their change at an input: two, four, eight, and all that count.

    (One alone is for the oracle's own attack, on the margin of the question.)
    """
    labels = np.array(count.total.labels)
    with certificate_precision():
        margins = np.abs(np.asarray(decision.margins(count.query.scores_exact(x))))[labels]
    order = labels[np.argsort(margins, kind="stable")]
    sizes = {min(2**power, len(order)) for power in range(1, len(order).bit_length() + 1)}
    return [tuple(order[:size].tolist()) for size in sorted(sizes)]
