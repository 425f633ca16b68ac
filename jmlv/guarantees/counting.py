"""One count, from both sides: oracles lower what is possible, witnesses raise what is known."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from jmlv.bounds import Relaxation
from jmlv.certificate import Certificate
from jmlv.errors import SoundnessError
from jmlv.guarantees.result import Count
from jmlv.guarantees.totals import Total
from jmlv.numerics import certificate_precision
from jmlv.oracles import Deadline, Evidence, Oracle, Query, ask, judge
from jmlv.oracles.per_box import least_rows
from jmlv.properties import Property
from jmlv.verdict import Status, Verdict


class Counting:
    """The largest total that a point of the region has, while evidence comes in.

    Attributes:
        query: the network and the region; its property does not matter.
        total: what is counted.
        unit: what each of it is worth in the result.
        lower, upper: both bounds on the largest total.
        witness, labels: the point that has ``lower``, and what counts there.
        queries: how often an oracle was asked.
        proofs: the verdicts that say 'no more than', by what they are about.
    """

    def __init__(self, query: Query, total: Total, unit: int = 1) -> None:
        self.query, self.total, self.unit = query, total, unit
        self.lower, self.upper = total.least, total.most
        self.witness: np.ndarray | None = None
        self.labels: tuple[int, ...] = ()
        self.by, self.unproven = "there are no more", ""
        self.queries = 0
        self.proofs: dict[Property, Verdict] = {}

    @property
    def claim(self) -> Property | None:
        """What :attr:`upper` says; None where there is nothing that could be more."""
        return None if self.upper == self.total.most else self.total.at_most(self.upper)

    @property
    def closed(self) -> bool:
        return self.lower == self.upper

    def proven_by(self, relaxation: Relaxation) -> int:
        """The least count that is proven: the rows, which serve all questions, are bounded once."""
        if self.closed:
            return self.upper
        labels = self.query.label_count
        rows = least_rows(self.query, relaxation, self.total.at_most(self.lower).form(labels))
        for m in range(self.lower, self.upper):
            lower = float(self.total.at_most(m).form(labels).least(rows))
            if not lower > 0:
                continue
            verdict = self._judged(m, Evidence(lower=lower), relaxation.name)
            if verdict.robust:
                self.proofs[self.total.at_most(m)] = verdict
                return m
        return self.upper

    def offer(self, point: np.ndarray) -> None:
        """Replays a point, and keeps it where its total is larger than what was known.

        Raises:
            SoundnessError: it is larger than what is proven.
        """
        if not np.all(np.isfinite(point)):
            return
        point = self.query.settle(point)
        total = self._total_at(point)
        if total > self.upper:
            raise SoundnessError(f"proved a count of at most {self.upper}; a witness has {total}.")
        if total > self.lower or (total == self.lower > 0 and self.witness is None):
            self.lower, self.witness = total, point
            self.labels = tuple(sorted(self.total.counted(self.query.scores_exact(point))))

    def descend(self, attack: Oracle, deadline: Deadline) -> None:
        """Asks an attack for a point with more, as long as it finds one."""
        known = -1
        while known < self.lower < self.upper and not deadline.passed:
            known = self.lower
            self._ask(known, attack, deadline)

    def close(self, oracle: Oracle, deadline: Deadline) -> None:
        """Asks the oracle until both bounds meet, there is nothing left to ask, or time is up.

        First whether the known witness is the worst: where the answer is yes, that is all. Then the
        middle of what is left, each time with half of the time that is left.
        """
        asked: set[int] = set()
        while not self.closed and not deadline.passed:
            left = [m for m in range(self.lower, self.upper) if m not in asked]
            if not left:
                return
            m = left[0] if left[0] == self.lower else left[len(left) // 2]
            asked.add(m)
            self._ask(m, oracle, deadline.share(0.5 if len(left) > 1 else 1.0))

    def cap(self, upper: int, reason: str) -> None:
        """Takes over what is proven.

        Raises:
            SoundnessError: a witness has more.
        """
        if upper >= self.upper:
            return
        if upper < self.lower:
            raise SoundnessError(f"{reason}: at most {upper}, but {self.lower} at a witness.")
        self.upper, self.by = upper, reason

    def result(self, certified: Mapping[Property, Verdict] | None = None) -> Count:
        """Both bounds as they are now.

        Args:
            certified: verdicts for which a certificate was looked for, if it was.
        """
        lower, upper = self.unit * self.lower, self.unit * self.upper
        reason = f"no more than {upper}: {self.by}"
        reason += "" if self.closed else self.unproven
        certificate, why = self._certificate(certified)
        return Count(lower, upper, self.witness, self.labels, reason + why, certificate)

    def _certificate(
        self, certified: Mapping[Property, Verdict] | None
    ) -> tuple[Certificate | None, str]:
        """The certificate of the upper bound, or why there is none."""
        if certified is None or self.claim is None:
            return None, ""
        verdict = certified.get(self.claim)
        if verdict is None:
            return None, "; no certificate: it follows from other counts"
        why = verdict.stats.get("certificate")
        return verdict.certificate, "" if verdict.certificate is not None else f"; {why}"

    def _ask(self, m: int, oracle: Oracle, deadline: Deadline) -> None:
        verdict = ask(self.query.about(self.total.at_most(m)), oracle, deadline)
        self.queries += 1
        if verdict.witness is not None:
            self.offer(verdict.witness)
        if verdict.status is Status.ROBUST:
            self.proofs[self.total.at_most(m)] = verdict
            self.cap(m, verdict.method)
        elif verdict.status is Status.UNKNOWN:
            self.unproven = f"; whether {m}: {verdict.reason}"

    def _judged(self, m: int, evidence: Evidence, method: str) -> Verdict:
        return judge(self.query.about(self.total.at_most(m)), evidence, method)

    def _total_at(self, point: np.ndarray) -> int:
        """The total at a point; more than is known only where 'no more' is judged to fail there."""
        scores = self.query.scores_deployed(point)
        with certificate_precision():
            both = self.query.scores_exact(point), scores
            found = min(self.total.value(scores) for scores in both)
        evidence = Evidence(point=point)
        while found > self.lower:
            if self._judged(found - 1, evidence, "replay").status is Status.NOT_ROBUST:
                break
            found -= 1
        return found
