"""Certificates of grown neighbourhoods: of the whole, or of the largest part that has one."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from jmlv.errors import UnsupportedOperation
from jmlv.neighborhoods.grown import GrownNeighborhood
from jmlv.oracles import Deadline, Query, TimeUp
from jmlv.oracles.aside import run_until
from jmlv.oracles.certify import Certifier, certified, exported_from
from jmlv.regions import LayeredNeighborhood
from jmlv.verdict import Status, Verdict

SHARES = (1.0, 0.95, 0.9, 0.8, 0.7)
"""Of all epsilons, tried in this order: each has half of the time that is left. Units are cut for the whole
alone: what cuts would add to a part, a part that is a little smaller has without, and at once."""


def with_certificate(
    query: Callable[[], Query], grown: GrownNeighborhood, deadline: Deadline
) -> GrownNeighborhood:
    """The same neighbourhood with a certificate of it, else of the largest part that has one in time.

    What is proven of the neighbourhood holds in every part, but a proof by a solver, or one that is
    tuned to the last digit, may have no counterpart that can be replayed; a slightly smaller
    neighbourhood has. The verdict carries the certificate only where it is of the whole.

    Args:
        query: makes the question, of the network and the property; its box is not read.
        grown: what was grown.
        deadline: when to stop looking.
    """
    if grown.verdict.status is not Status.ROBUST:
        return grown
    try:
        asked, network = run_until(deadline, lambda _: _exported(query))
    except (UnsupportedOperation, TimeUp) as problem:
        return dataclasses.replace(grown, verdict=_told(grown.verdict, problem))
    whole = grown.verdict
    for share in SHARES:
        epsilon = np.where(grown.free, grown.epsilon, grown.epsilon * np.float32(share))
        own = asked.over(LayeredNeighborhood(grown.x, grown.layers, epsilon))
        certifier = Certifier(cutting=share == 1)
        found = certified(own, grown.verdict, deadline.share(0.5), certifier, network)
        whole = found if share == 1 else whole
        if found.certificate is not None:
            return dataclasses.replace(
                grown, verdict=whole, certificate=found.certificate, certificate_epsilon=epsilon
            )
        if deadline.passed:
            break
    return dataclasses.replace(grown, verdict=whole)


def _exported(query: Callable[[], Query]) -> tuple[Query, Any]:
    """What is asked and the network in the checker's form: reading it may take as long as it likes."""
    asked = query()
    return asked, exported_from(asked)


def _told(verdict: Verdict, problem: Exception) -> Verdict:
    stats = {**verdict.stats, "certificate": f"no certificate: {problem}"}
    return dataclasses.replace(verdict, stats=stats)
