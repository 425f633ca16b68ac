"""What an oracle's search comes to: evidence and verdict; a failure of its own proves nothing."""

from __future__ import annotations

import logging
from typing import NamedTuple

from jmlv.errors import SoundnessError, UnsupportedOperation
from jmlv.oracles.aside import run_until
from jmlv.oracles.deadline import Deadline, TimeUp
from jmlv.oracles.judge import judge
from jmlv.oracles.oracle import Evidence, Oracle, Query
from jmlv.verdict import Verdict

_log = logging.getLogger(__name__)


class Answer(NamedTuple):
    """What was found about a query, and what the verdict rules make of it."""

    evidence: Evidence
    verdict: Verdict


def searched(query: Query, oracle: Oracle, deadline: Deadline) -> Evidence:
    """What an oracle finds. Where it fails, that is the reason why it found nothing.

    The query has been checked, so an exception is a failure of the oracle: memory that ran out, a
    solver's crash, weights that are no numbers. It is logged for those who look into it.

    Raises:
        SoundnessError: a proof and a replayed witness contradict each other.
        UnsupportedOperation: the oracle cannot be asked about such a network.
    """
    try:
        return oracle.search(query, deadline)
    except (SoundnessError, UnsupportedOperation):
        raise
    except TimeUp as late:
        return Evidence(reason=f"{oracle.name}: {late}")
    except Exception as error:
        _log.debug("%s failed", oracle.name, exc_info=True)
        return Evidence(reason=f"{oracle.name} failed ({type(error).__name__}: {error})")


def found_in_time(query: Query, oracle: Oracle, deadline: Deadline) -> Evidence:
    """As :func:`searched`, by the deadline: an oracle that may compile is left behind then."""
    if oracle.punctual:
        return searched(query, oracle, deadline)
    try:
        return run_until(deadline, lambda own: searched(query, oracle, own))
    except TimeUp as late:
        return Evidence(reason=f"{oracle.name}: {late}")


def answer(query: Query, oracle: Oracle, deadline: Deadline) -> Answer:
    """What an oracle finds, judged."""
    evidence = searched(query, oracle, deadline)
    return Answer(evidence, judge(query, evidence, evidence.stats.get("method", oracle.name)))
