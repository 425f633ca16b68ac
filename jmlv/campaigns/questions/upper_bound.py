"""How large can any robust layered neighbourhood be?"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from jmlv.campaigns.answer import Answer
from jmlv.campaigns.questions.layered import LayeredQuestion
from jmlv.graph import Classifier
from jmlv.neighborhoods import size_upper_bound


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class UpperBoundQuestion(LayeredQuestion):
    """:func:`jmlv.size_upper_bound` of one image. Its arrays are ``epsilon`` and ``cuts``.

    Attributes:
        bands: so many bands of layers with equal epsilon; None for single layers.
    """

    kind: ClassVar[str] = "upper-bound"

    bands: int | None = dataclasses.field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.budget is None:
            raise ValueError("budget: got None; expected the seconds of the upper bound.")

    def answer(self, f: Classifier) -> Answer:
        wrong = self.misclassified(f)
        if wrong is not None:
            return wrong
        found = size_upper_bound(
            f, self.x, self.layers, self.property, weights=self.weights, bands=self.bands,
            budget=self.budget,
        )  # fmt: skip
        values = {
            "upper_bound": found.value,
            "cut_count": len(found.cuts),
            "boxes": found.boxes,
            "trace": found.trace,
            "reason": found.reason,
            "seconds": found.seconds,
        }
        return Answer(values, {"epsilon": found.epsilon, "cuts": found.cuts})
