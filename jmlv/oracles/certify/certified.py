"""A verdict together with a certificate, checked before it is handed out."""

from __future__ import annotations

import dataclasses

from jmlv.certificate import Certificate
from jmlv.errors import SoundnessError, UnsupportedOperation
from jmlv.numerics import as_float64
from jmlv.oracles.aside import run_until
from jmlv.oracles.certify.search import Certifier, exported_from, head_of, question_arrays
from jmlv.oracles.deadline import Deadline, TimeUp
from jmlv.oracles.oracle import Query
from jmlv.verdict import Status, Verdict
from jmlv_check import Refused
from jmlv_check.network import Network


def certified(
    query: Query,
    verdict: Verdict,
    deadline: Deadline,
    certifier: Certifier | None = None,
    network: Network | None = None,
    known: dict | None = None,
) -> Verdict:
    """The verdict with a certificate that the checker has accepted, or with the reason for none.

    A proof is looked for anew: what a solver said is no certificate, and subdomains that one closed
    are cut further instead.

    Args:
        query: what the verdict is about.
        verdict: as an oracle gave it; one that is unknown is returned as it is.
        deadline: when to stop looking.
        certifier: how to look.
        network: of the query, where it has been exported already (:func:`exported_from`).
        known: what checks of certificates about one box share (:meth:`Certificate.check`).
    """
    if verdict.status is Status.UNKNOWN:
        return verdict
    certifier = Certifier() if certifier is None else certifier
    try:
        found = run_until(
            deadline, lambda own: _checked(query, verdict, own, certifier, network, known)
        )
        if found is not None:
            return dataclasses.replace(verdict, certificate=found)
        reason = "no certificate was found"
    except (Refused, UnsupportedOperation, TimeUp) as problem:
        reason = f"no certificate: {problem}"
    except SoundnessError:
        raise
    except Exception as failure:  # the verdict stands without a certificate
        reason = f"no certificate: the search failed ({type(failure).__name__}: {failure})"
    return _without(verdict, reason)


def _without(verdict: Verdict, reason: str) -> Verdict:
    return dataclasses.replace(verdict, stats={**verdict.stats, "certificate": reason})


def _checked(
    query: Query,
    verdict: Verdict,
    deadline: Deadline,
    certifier: Certifier,
    network: Network | None,
    known: dict | None,
) -> Certificate | None:
    network = exported_from(query) if network is None else network
    if verdict.status is Status.ROBUST:
        found = certifier.prove(query, deadline, network)
    else:
        arrays = {**question_arrays(query), "witness": as_float64(verdict.witness).ravel()}
        found = Certificate(network, arrays, head_of(query, network, "not robust"))
    if found is not None:
        found.check(known=known)
    return found
