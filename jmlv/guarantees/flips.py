"""The verb ``flips``: how many labels an attacker can change at once, from both sides."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from jmlv.attacks import Attack, Decision, TopK
from jmlv.graph import Classifier
from jmlv.guarantees.arguments import (
    chosen_attacks,
    chosen_labels,
    chosen_weights,
    reference_of,
    require_decision,
    stays_in,
    stays_out,
)
from jmlv.guarantees.certificates import certified_counts
from jmlv.guarantees.counting import Counting
from jmlv.guarantees.result import Count, Flips
from jmlv.guarantees.search import bound_and_attack, offer
from jmlv.guarantees.totals import (
    ChangedInTopK,
    InsideTopK,
    OutOfTopK,
    Stay,
    Total,
    Weighed,
    WeighedInTopK,
)
from jmlv.numerics import certificate_precision
from jmlv.oracles import Cascade, Deadline, Oracle, Query, TimeUp
from jmlv.oracles.aside import run_until
from jmlv.oracles.oracle import label_count
from jmlv.regions import Region
from jmlv.require import require_kind


def flips(
    f: Classifier,
    region: Region,
    decision: Decision,
    *,
    x: Any = None,
    labels: Any = None,
    weights: Any = None,
    oracle: Oracle | None = None,
    attacks: Sequence[Attack] | None = None,
    budget: float | None = 60.0,
    certify: bool = False,
) -> Flips:
    """How many labels change at one point of a region, at most: proven, and known by a witness.

    A label changes where it is predicted at the reference and not at the point (``removed``), or the
    other way round (``added``). 'At most m change' is a property of the region, asked of an oracle
    from cheap to dear; 'so many change' is a witness, found by attacks and by the same oracle, and
    replayed in float64 and on the deployed path.

    Args:
        f: the network.
        region: a region of one input.
        decision: which labels are predicted: ``TopK(k)`` or ``Threshold(probability)``.
        x: the reference, an input of the region; by default what the region is around, or the
            middle of a box.
        labels: those that count; all by default.
        weights: what each label of the network counts for, whole numbers; 1 by default.
        oracle: decides; by default a :class:`jmlv.Cascade`.
        attacks: methods of :mod:`jmlv.attacks` to look for witnesses; by default
            ``AutoMultiLabel()``.
        budget: seconds for everything; None for no limit. Both bounds hold whenever it ends.
        certify: look, in what is left of the budget, for certificates of the upper bounds that
            ``jmlv-check`` replays without JAX.

    Returns:
        Three counts with both bounds. Where a top k decides and all labels count alike, as many can
        be added as are removed: one proof serves both.

    Raises:
        UnsupportedOperation: ``f`` has operations without a sound rule.
        TypeError, ValueError: arguments do not fit together; raised before any work.
        SoundnessError: a proof and a replayed witness contradict each other: a defect.

    >>> import jax.numpy as jnp, jmlv
    >>> f = lambda x: jnp.stack([x[:, 0], x[:, 1], 0.1 + 0 * x[:, 0]], -1)
    >>> box = jmlv.Box.around(jnp.array([0.9, 0.2]), 0.15)
    >>> found = jmlv.flips(f, box, jmlv.TopK(2), attacks=())
    >>> print(found.removed, found.removed.labels, found.changed)
    Count(1) (1,) Count(2)
    """
    deadline = Deadline(budget)
    oracle, methods = Cascade() if oracle is None else oracle, chosen_attacks(attacks, region)
    require_kind("oracle", oracle, Oracle, "Cascade() or Bounds(CROWN())")
    require_kind("decision", decision, Decision, "TopK(2) or Threshold(0.5)")
    try:
        query = run_until(deadline, lambda _: Query.of(f, region, stays_in(decision, 0)))
    except TimeUp as late:
        count = label_count(f, region)
        known = chosen_labels(labels, count), chosen_weights(weights, count)
        return _nothing_known(*known, late, deadline)
    require_decision(decision, query.label_count)
    chosen = chosen_labels(labels, query.label_count)
    weight = chosen_weights(weights, query.label_count)
    reference = reference_of(region, x, query)
    present = _predicted(query, decision, reference)
    unit = math.gcd(*(weight[j] for j in chosen)) or 1
    totals = _totals(decision, present, chosen, [w // unit for w in weight])
    counts = tuple(Counting(query, total, unit) for total in totals)
    everything = len(chosen) == query.label_count
    alike = everything and isinstance(totals[0], OutOfTopK)
    bound_and_attack(query, counts[: 1 if alike else 3], reference, decision, methods, deadline)
    _close_all(counts, alike, oracle, deadline)
    certificates = certified_counts(counts, deadline) if certify else None
    removed, added, changed = (count.result(certificates) for count in counts)
    queries = sum(count.queries for count in counts)
    return Flips(changed, removed, added, present, queries, deadline.elapsed)


def _close_all(
    counts: tuple[Counting, ...], alike: bool, oracle: Oracle, deadline: Deadline
) -> None:
    """Asks the oracle about what is removed, added and changed; each answer bounds the next.

    Args:
        alike: as many are added as are removed.
    """
    removed, added, changed = counts
    _close(counts, removed, oracle, deadline.share(1.0 if alike else 1 / 3))
    if alike:
        added.cap(removed.upper, "as many are added to a top k as are removed")
    _close(counts, added, oracle, deadline.share(0.5))
    changed.cap(removed.upper + added.upper, "those removed and those added together")
    _close(counts, changed, oracle, deadline)


def _close(counts: Sequence[Counting], count: Counting, oracle: Oracle, deadline: Deadline) -> None:
    """Asks the oracle about one count; all counts hear of its witness."""
    count.close(oracle, deadline)
    offer(counts, count.witness)


def _nothing_known(
    labels: Sequence[int], weights: Sequence[int], late: TimeUp, deadline: Deadline
) -> Flips:
    """The network could not be read in time."""
    most = sum(weights[label] for label in labels)
    count = Count(0, most, reason=f"reading the network: {late}")
    return Flips(count, count, count, (), 0, deadline.elapsed)


def _predicted(query: Query, decision: Decision, x: np.ndarray) -> tuple[int, ...]:
    """The labels that are predicted at an input, in float64."""
    with certificate_precision():
        scores = query.scores_exact(x)
        if isinstance(decision, TopK):
            return tuple(sorted(np.argsort(-scores, kind="stable")[: decision.k].tolist()))
        every = range(query.label_count)
        return tuple(j for j in every if float(stays_in(decision, j).margin(scores)) > 0)


def _totals(
    decision: Decision, present: Sequence[int], labels: Sequence[int], weights: Sequence[int]
) -> tuple[Total, Total, Total]:
    """What counts as removed, as added, and as changed."""
    losing = tuple(j for j in labels if j in present)
    gaining = tuple(j for j in labels if j not in present)
    if isinstance(decision, TopK) and all(weights[j] == 1 for j in labels):
        size = decision.k, len(weights)
        both = OutOfTopK(losing, *size), InsideTopK(gaining, *size)
        return *both, ChangedInTopK(losing, gaining, *size)
    lost = tuple(Stay(j, stays_in(decision, j), weights[j]) for j in losing)
    won = tuple(Stay(j, stays_out(decision, j), weights[j], tied=False) for j in gaining)
    if isinstance(decision, TopK):
        own = losing, decision.k
        return tuple(WeighedInTopK(stays, *own) for stays in (lost, won, lost + won))
    return Weighed(lost), Weighed(won), Weighed(lost + won)
