"""The verb ``verify``: one question, one oracle, one verdict."""

from __future__ import annotations

import dataclasses

from jmlv.asked import asked_about
from jmlv.bounds.rounding import Float32
from jmlv.graph import Classifier
from jmlv.oracles.answers import answer
from jmlv.oracles.aside import run_until
from jmlv.oracles.cascade import Cascade
from jmlv.oracles.certify import certified
from jmlv.oracles.deadline import Deadline, TimeUp
from jmlv.oracles.deployed import verify_deployed
from jmlv.oracles.oracle import Oracle, Query
from jmlv.properties import Property
from jmlv.regions import Region
from jmlv.require import require_kind
from jmlv.verdict import Status, Verdict


def verify(
    f: Classifier,
    region: Region,
    property: Property,
    oracle: Oracle | None = None,
    *,
    budget: float | None = 60.0,
    certify: bool = False,
    deployed: Float32 | None = None,
) -> Verdict:
    """Decides whether a property holds everywhere in a region.

    Args:
        f: any JAX function ``f(x) -> scores`` on batches of images, or a Flax NNX module; for
            Linen see :func:`jmlv.as_function`.
        region: a box or layered neighbourhood of one image (height, width, channel).
        property: what must hold.
        oracle: how to decide; by default a :class:`jmlv.Cascade`: from CROWN and PGD to SCIP.
        budget: seconds for everything, tracing and compiling included; None for no limit. What is
            still compiling when they end is left behind (:mod:`jmlv.oracles.aside`), and the
            reason says so.
        certify: look, in what is left of the budget, for a certificate of the answer that
            :mod:`jmlv_check` can replay: ``Verdict.certificate``, None where none was found
            (``stats["certificate"]`` then says why).
        deployed: prove the property of the network as it is evaluated in this precision, whatever
            the order of its sums; by default of the real-valued one. ``Verdict.about`` says which.

    Returns:
        A verdict: ``ROBUST`` with a proven bound, ``NOT_ROBUST`` with a replayed witness, else
        ``UNKNOWN`` with both bounds and the reason.

    Raises:
        UnsupportedOperation: ``f`` has operations without a sound rule.
        TypeError: an argument is of another kind.
        ValueError: arguments do not fit together.
        SoundnessError: a proof and a replayed witness contradict each other: a defect.

    >>> import jax.numpy as jnp, jmlv
    >>> f = lambda x: jnp.stack([x[:, 0, 0, 0], x[:, 0, 1, 0]], -1)
    >>> box = jmlv.Box.around(jnp.array([[[0.8], [0.3]]]), 0.1)
    >>> jmlv.verify(f, box, jmlv.InTopK(0, k=1)).status.name
    'ROBUST'
    """
    deadline = Deadline(budget)
    oracle = Cascade() if oracle is None else oracle
    require_kind("oracle", oracle, Oracle, "Cascade() or Bounds(CROWN())")
    try:
        query = run_until(deadline, lambda _: Query.of(f, region, property))
    except TimeUp as late:
        stats = {"method": "", "seconds": deadline.elapsed}
        reason = f"reading the network: {late}"
        return Verdict(
            Status.UNKNOWN, reason=reason, stats=stats, asked=asked_about(region, property)
        )
    if deployed is None:
        verdict = ask(query, oracle, deadline)
    else:
        query, verdict = verify_deployed(query, deployed, lambda q: ask(q, oracle, deadline))
    verdict = dataclasses.replace(verdict, asked=asked_about(region, property))
    return certified(query, verdict, deadline) if certify else verdict


def ask(query: Query, oracle: Oracle, deadline: Deadline) -> Verdict:
    """The verdict on a query that has been traced and checked already, by the deadline."""
    start = deadline.elapsed
    try:
        if oracle.punctual:
            verdict = answer(query, oracle, deadline).verdict
        else:
            verdict = run_until(deadline, lambda own: answer(query, oracle, own)).verdict
    except TimeUp as late:
        reason, stats = f"{oracle.name}: {late}", {"method": oracle.name}
        verdict = Verdict(Status.UNKNOWN, reason=reason, stats=stats)
    seconds = deadline.elapsed - start
    return dataclasses.replace(verdict, stats={**verdict.stats, "seconds": seconds})
