"""Does a property hold everywhere in a region?"""

from __future__ import annotations

# A field is called property, which a checker then takes the decorator for.
# pyright: reportUnboundVariable=false
import dataclasses
import time
from collections.abc import Hashable, Iterator, Sequence
from typing import ClassVar

import numpy as np

from jmlv.bounds import bound
from jmlv.bounds.rounding import Float32
from jmlv.campaigns.answer import Answer, was_cold
from jmlv.campaigns.questions.question import Question, in_numpy
from jmlv.campaigns.spreading import spread
from jmlv.graph import Classifier
from jmlv.numerics import as_float64, certificate_precision
from jmlv.oracles import Bounds, Cascade, Evidence, Oracle, Query, judge, verify
from jmlv.properties import Property
from jmlv.records import verdict_record
from jmlv.regions import Box, Region
from jmlv.shown import at_least
from jmlv.verdict import Status, Verdict


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class VerifyQuestion(Question):
    """:func:`jmlv.verify` of one region. Its array is ``witness``.

    Attributes:
        region: where the input may lie.
        property: what must hold there.
        oracle: who decides. Questions of one network and property that ask ``Bounds`` alone can be
            answered in one batch.
        deployed: prove it of the network as it is evaluated in this precision; by default of the
            real-valued one.

    >>> import jax.numpy as jnp, jmlv
    >>> from jmlv.campaigns import Held, Network
    >>> network = Network.of(Held(lambda x: x.reshape(-1, 2), (1, 2, 1)))
    >>> box = jmlv.Box.around(jnp.array([[[0.8], [0.3]]]), 0.1)
    >>> question = VerifyQuestion(network, box, jmlv.InTopK(0, k=1), tags={"image": 3})
    >>> question.answer(network.load()).values["status"]
    'ROBUST'
    """

    kind: ClassVar[str] = "verify"

    region: Region
    property: Property
    oracle: Oracle = Cascade()
    deployed: Float32 | None = dataclasses.field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._freeze(region=in_numpy(self.region))

    def answer(self, f: Classifier) -> Answer:
        verdict = verify(
            f, self.region, self.property, self.oracle, budget=self.budget, deployed=self.deployed
        )
        return answer_of(verdict, verdict.stats["seconds"])

    @property
    def group(self) -> Hashable | None:
        batched = isinstance(self.oracle, Bounds) and self.deployed is None
        return self._group_but("region") if batched else None

    def answer_group(
        self, f: Classifier, questions: Sequence[Question]
    ) -> Iterator[tuple[int, Answer]]:
        """All boxes in one batch, spread over the devices."""
        start, method = time.perf_counter(), self.oracle.method
        queries = self._queries(f, questions)
        with certificate_precision():
            ends = zip(*((as_float64(query.lower), as_float64(query.upper)) for query in queries))
            box = Box(*(spread(np.stack(end)) for end in ends))
            lower = np.asarray(bound(queries[0].graph64, box, self.property, method).lower)
        share = (time.perf_counter() - start) / len(queries)
        for number, (query, least) in enumerate(zip(queries, map(float, lower))):
            reason = f"{method.name} proves a margin of at least {at_least(least)}"
            verdict = judge(query, Evidence(least, reason=reason), method.name)
            yield number, answer_of(verdict, share)

    def _queries(self, f: Classifier, questions: Sequence[Question]) -> list[Query]:
        """Traced once; network and graph are compared over the hull of all boxes."""
        boxes = [question.region.box() for question in questions]
        lower = np.min([box.lower for box in boxes], 0)
        upper = np.max([box.upper for box in boxes], 0)
        hull = Query.of(f, Box(lower, upper), self.property)
        return [hull.over(question.region) for question in questions]


def answer_of(verdict: Verdict, seconds: float) -> Answer:
    """A verdict as a row and its witness."""
    record = verdict_record(verdict)
    del record["stats"]
    cold = verdict.status is Status.UNKNOWN and was_cold(verdict.reason)
    return Answer({**record, "seconds": seconds}, {"witness": verdict.witness}, cold)
