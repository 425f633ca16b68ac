"""The verdict rules: the one place where what was found becomes a verdict."""

from __future__ import annotations

from typing import Any

import numpy as np

from jmlv.errors import SoundnessError
from jmlv.numerics import CONTRADICTION, PROOF_TOLERANCE
from jmlv.oracles.oracle import Evidence, Query
from jmlv.oracles.rounding import margin_rounding
from jmlv.shown import at_least, at_most
from jmlv.verdict import Status, Verdict


def judge(query: Query, evidence: Evidence, method: str) -> Verdict:
    """The verdict rules, all of them: the only function that says ROBUST or NOT_ROBUST.

    A witness is clipped into the region, rounded inward, and replayed in float64 and on the deployed
    float32 path; both margins must be at most zero. Of a finite lower bound, whatever float64 may have
    rounded in it, at any point of the region, is taken off. A proof needs more than `PROOF_TOLERANCE` of
    what is left, and no NaN at a point; where no point comes with it, the box's centre is evaluated, so
    that the worst margin is enclosed.

    Raises:
        SoundnessError: a proven bound and a point's margin contradict each other.
    """
    witness, exact, deployed = _replay(query, evidence.point)
    found = evidence.lower if np.isfinite(evidence.lower) else -np.inf
    rounding = margin_rounding(query, found, PROOF_TOLERANCE) if found > -np.inf else 0.0
    lower = found - rounding
    broken = exact <= 0 and deployed <= 0  # no NaN is
    stats = {**evidence.stats, "method": method}
    if witness is not None:
        stats["witness_margin_float32"] = np.inf if np.isnan(deployed) else deployed
    if lower > PROOF_TOLERANCE and witness is None:
        exact = query.margin_exact(query.centre)
    slack = CONTRADICTION * max(1.0, abs(exact)) + rounding if np.isfinite(exact) else 0.0
    proven = lower > PROOF_TOLERANCE and not np.isnan(exact)
    if (proven and exact <= 0) or lower > exact + slack:
        raise SoundnessError(
            f"{method}: proved margin >= {evidence.lower}, but a witness reaches {exact}."
        )
    lower, exact = min(lower, exact), np.inf if np.isnan(exact) else exact
    if broken:
        reason = (
            f"a witness reaches margin {at_most(exact)} (float64), {at_most(deployed)} (float32)"
        )
        return Verdict(Status.NOT_ROBUST, lower, exact, witness, reason, stats)
    if proven:
        reason = _why_robust(evidence, lower)
        return Verdict(Status.ROBUST, lower, exact, witness, reason, stats)
    reason = _why_unknown(evidence, rounding, lower, exact, deployed)
    return Verdict(Status.UNKNOWN, lower, exact, witness, reason, stats)


def _replay(query: Query, point: Any) -> tuple[np.ndarray | None, float, float]:
    """The point clipped into the box, and its two margins (``inf`` where there is none)."""
    if point is None or not np.all(np.isfinite(point)):
        return None, np.inf, np.inf
    witness = query.settle(point)
    if query.ball is not None and not query.ball.contains(witness):
        return None, np.inf, np.inf
    return witness, query.margin_exact(witness), query.margin_deployed(witness)


def _why_robust(evidence: Evidence, lower: float) -> str:
    """The oracle's reason, which may name its own bound, and what is left of that if it reads otherwise."""
    if not evidence.reason:
        return f"the margin is at least {at_least(lower)} everywhere"
    left = f"; {at_least(lower)} without what float64 may have rounded"
    named = at_least(evidence.lower)
    return evidence.reason + (left if named in evidence.reason and named != at_least(lower) else "")


def _why_unknown(
    evidence: Evidence, rounding: float, lower: float, exact: float, deployed: float
) -> str:
    if min(exact, deployed) <= 0:
        return f"float64 ({exact:.3g}) and float32 ({deployed:.3g}) disagree on the witness"
    if evidence.lower > PROOF_TOLERANCE and np.isfinite(evidence.lower):
        return (
            f"a lower bound of {at_least(evidence.lower)} is lost in what float64 rounds by, "
            f"{rounding:.2g}"
        )
    return evidence.reason or f"the best proven lower bound is {at_least(lower)}"
