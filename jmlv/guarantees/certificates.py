"""Certificates of counts: that no more counts anywhere, replayed without JAX."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from jmlv.guarantees.counting import Counting
from jmlv.oracles import Deadline
from jmlv.oracles.certify import certified
from jmlv.properties import Property
from jmlv.verdict import Verdict


def certified_counts(counts: Sequence[Counting], deadline: Deadline) -> Mapping[Property, Verdict]:
    """The verdicts that upper bounds stand on, each with a certificate or the reason for none.

    Counts that ask the same, such as of what is removed from a top k and what is added, share one.

    Args:
        counts: about one network and region.
        deadline: when to stop looking.
    """
    proofs = {p: verdict for count in counts for p, verdict in count.proofs.items()}
    wanted = dict.fromkeys(count.claim for count in counts if count.claim in proofs)
    shared: dict = {}
    return {
        claim: certified(counts[0].query.about(claim), proofs[claim], deadline, known=shared)
        for claim in wanted
    }
