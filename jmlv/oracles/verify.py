"""The verb ``verify``: one question, one oracle, one verdict."""

from __future__ import annotations

import dataclasses

from jmlv.graph import Classifier
from jmlv.oracles.cascade import Cascade
from jmlv.oracles.oracle import Deadline, Oracle, Query, judge
from jmlv.properties import Property
from jmlv.regions import Region
from jmlv.verdict import Verdict


def verify(
    f: Classifier,
    region: Region,
    property: Property,
    oracle: Oracle | None = None,
    *,
    budget: float | None = 60.0,
) -> Verdict:
    """Decides whether a property holds everywhere in a region.

    Args:
        f: any JAX function ``f(x) -> scores`` on batches of images, or a Flax NNX module; for
            Linen see :func:`jmlv.as_function`.
        region: a box or layered neighbourhood of one image (height, width, channel).
        property: what must hold.
        oracle: how to decide; by default a :class:`jmlv.Cascade`: from CROWN and PGD to SCIP.
        budget: seconds, honoured from outside the solvers; None for no limit.

    Returns:
        A verdict: ``ROBUST`` with a proven bound, ``NOT_ROBUST`` with a replayed witness, else
        ``UNKNOWN`` with both bounds and the reason.

    Raises:
        UnsupportedOperation: ``f`` has operations without a sound rule.
        ValueError: arguments do not fit together.

    >>> import jax.numpy as jnp, jmlv
    >>> f = lambda x: jnp.stack([x[:, 0, 0, 0], x[:, 0, 1, 0]], -1)
    >>> box = jmlv.Box.around(jnp.array([[[0.8], [0.3]]]), 0.1)
    >>> jmlv.verify(f, box, jmlv.InTopK(0, k=1)).status.name
    'ROBUST'
    """
    deadline = Deadline(budget)
    return ask(Query.of(f, region, property), Cascade() if oracle is None else oracle, deadline)


def ask(query: Query, oracle: Oracle, deadline: Deadline) -> Verdict:
    """The verdict on a query that has been traced and checked already."""
    start = deadline.elapsed
    evidence = oracle.search(query, deadline)
    verdict = judge(query, evidence, evidence.stats.get("method", oracle.name))
    seconds = deadline.elapsed - start
    return dataclasses.replace(verdict, stats={**verdict.stats, "seconds": seconds})
