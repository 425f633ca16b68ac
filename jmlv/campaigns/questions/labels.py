"""Every label of one image: always, never or both in the top k."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import numpy as np

from jmlv.campaigns.answer import Answer, was_cold
from jmlv.campaigns.questions.question import Question, in_numpy
from jmlv.graph import Classifier
from jmlv.labels import LabelAnswer, LabelStatus, Plan, classify_labels
from jmlv.regions import Region


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class LabelsQuestion(Question):
    """:func:`jmlv.classify_labels` of one region.

    A row has the counts, and every label's ``status``, ``stage`` and ``seconds`` in lists; its arrays
    are ``proven`` (label, 2) and ``reached`` (label, 2), the margins that are proven and reached, and
    for each label with witnesses ``witness_always_3`` (breaks 'always') and ``witness_never_3``.

    Attributes:
        region: a box or layered neighbourhood of one image.
        k: the size of the label set.
        plan: how labels are settled.
    """

    kind: ClassVar[str] = "labels"

    region: Region
    k: int
    plan: Plan = Plan()

    def __post_init__(self) -> None:
        super().__post_init__()
        self._freeze(region=in_numpy(self.region))

    def answer(self, f: Classifier) -> Answer:
        found = classify_labels(f, self.region, self.k, plan=self.plan, budget=self.budget)
        values = {
            **found.counts,
            "labels": [answer.status.value for answer in found.answers],
            "stages": [answer.stage for answer in found.answers],
            "label_seconds": [answer.seconds for answer in found.answers],
            "seconds": found.seconds,
        }
        arrays = {name: np.array([getattr(a, name) for a in found.answers], float)
                  for name in ("proven", "reached")}  # fmt: skip
        for answer in found.answers:
            arrays |= _witnesses(answer)
        open_labels = [a for a in found.answers if a.status is LabelStatus.UNKNOWN]
        cold = any(was_cold(a.always.reason, a.never.reason) for a in open_labels)
        return Answer(values, arrays, cold)


def _witnesses(answer: LabelAnswer) -> dict[str, np.ndarray]:
    found = {}
    for side in ("always", "never"):
        witness = getattr(answer, side).witness
        if witness is not None:
            found[f"witness_{side}_{answer.label}"] = witness
    return found
