"""Certificates for the labels that are settled, each checked before it is handed out."""

from __future__ import annotations

import dataclasses
from functools import partial

from jmlv.errors import UnsupportedOperation
from jmlv.labels.result import LabelAnswer, LabelSet
from jmlv.oracles import Deadline, Query, TimeUp
from jmlv.oracles.aside import run_until
from jmlv.oracles.certify import certified, exported_from
from jmlv.properties import InTopK, NotInTopK
from jmlv.verdict import Status
from jmlv_check.network import Network


def certified_labels(query: Query, labels: LabelSet, deadline: Deadline) -> LabelSet:
    """The same answers, their verdicts with certificates where these were found in time.

    A label that is always or never in the top k has a proof, one that is both has two witnesses; each
    verdict has a certificate of its own, and each label an equal share of the time. Where one is missing, the verdict's ``stats["certificate"]``
    says why.
    """
    try:
        network = run_until(deadline, lambda _: exported_from(query))
    except (UnsupportedOperation, TimeUp) as problem:
        because = partial(_without, reason=f"no certificate: {problem}")
        return dataclasses.replace(labels, answers=tuple(map(because, labels.answers)))
    known: dict = {}
    answers = []
    for place, answer in enumerate(labels.answers):
        own = deadline.share(1 / (len(labels.answers) - place))
        answers.append(_certified(query, answer, labels.k, network, own, known))
    return dataclasses.replace(labels, answers=tuple(answers))


def _certified(
    query: Query, answer: LabelAnswer, k: int, network: Network, deadline: Deadline, known: dict
) -> LabelAnswer:
    sides = {"always": InTopK(answer.label, k), "never": NotInTopK(answer.label, k)}
    found = {
        side: certified(
            query.about(property), getattr(answer, side), deadline, None, network, known
        )
        for side, property in sides.items()
    }
    return dataclasses.replace(answer, **found)


def _without(answer: LabelAnswer, reason: str) -> LabelAnswer:
    sides = {side: getattr(answer, side) for side in ("always", "never")}
    told = {
        side: dataclasses.replace(verdict, stats={**verdict.stats, "certificate": reason})
        for side, verdict in sides.items()
        if verdict.status is not Status.UNKNOWN
    }
    return dataclasses.replace(answer, **told)
