"""The verb ``kept``: how many of some labels stay in the top k', without chance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jmlv.attacks import Attack, TopK
from jmlv.graph import Classifier
from jmlv.guarantees.arguments import chosen_attacks, chosen_labels, reference_of
from jmlv.guarantees.certificates import certified_counts
from jmlv.guarantees.counting import Counting
from jmlv.guarantees.result import Count, Kept
from jmlv.guarantees.search import bound_and_attack
from jmlv.guarantees.totals import OutOfTopK
from jmlv.oracles import Cascade, Deadline, Oracle, Query, TimeUp
from jmlv.oracles.aside import run_until
from jmlv.oracles.oracle import label_count
from jmlv.properties import InTopK
from jmlv.regions import Region
from jmlv.require import integer, require_kind


def kept(
    f: Classifier,
    region: Region,
    labels: Any,
    k: int,
    *,
    x: Any = None,
    oracle: Oracle | None = None,
    attacks: Sequence[Attack] | None = None,
    budget: float | None = 60.0,
    certify: bool = False,
) -> Kept:
    """At least how many of some labels are among the ``k`` highest scores, everywhere in a region.

    The quantity that MultiGuard certifies of a smoothed classifier with some confidence, here of
    ``f`` itself and without chance: the least size of ``labels`` intersected with the top k,
    whichever of equal scores come first (:class:`jmlv.MeetsTopK`).

    Args:
        f: the network.
        region: a region of one input.
        labels: the true labels, or any others.
        k: how many labels are predicted.
        x: where attacks begin; by default what the region is around, or the middle of a box.
        oracle, attacks, budget: as in :func:`jmlv.flips`.
        certify: as there; the certificate is that of ``lost``.

    Returns:
        Both bounds: ``lower`` are kept everywhere, proven; no more than ``upper`` are at the witness.

    Raises:
        UnsupportedOperation: ``f`` has operations without a sound rule.
        TypeError, ValueError: arguments do not fit together; raised before any work.
        SoundnessError: a proof and a replayed witness contradict each other: a defect.

    >>> import jax.numpy as jnp, jmlv
    >>> f = lambda x: jnp.stack([x[:, 0], x[:, 1], 0.1 + 0 * x[:, 0]], -1)
    >>> box = jmlv.Box.around(jnp.array([0.9, 0.2]), 0.15)
    >>> found = jmlv.kept(f, box, labels=(0, 1), k=2, attacks=())
    >>> print(found.lower, found.upper)
    1 1
    """
    deadline = Deadline(budget)
    k, oracle = integer("k", k), Cascade() if oracle is None else oracle
    methods = chosen_attacks(attacks, region)
    require_kind("oracle", oracle, Oracle, "Cascade() or Bounds(CROWN())")
    try:
        query = run_until(deadline, lambda _: Query.of(f, region, InTopK(0, k)))
    except TimeUp as late:
        chosen = chosen_labels(labels, label_count(f, region))
        nothing = Count(0, len(chosen), reason=f"reading the network: {late}")
        return Kept(chosen, k, nothing, 0, deadline.elapsed)
    chosen = chosen_labels(labels, query.label_count)
    reference = reference_of(region, x, query)
    lost = Counting(query, OutOfTopK(chosen, k, query.label_count))
    bound_and_attack(query, [lost], reference, TopK(k), methods, deadline)
    lost.close(oracle, deadline)
    certificates = certified_counts([lost], deadline) if certify else None
    return Kept(chosen, k, lost.result(certificates), lost.queries, deadline.elapsed)
