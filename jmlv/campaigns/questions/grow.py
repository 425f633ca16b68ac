"""The largest certified layered neighbourhood that a strategy finds."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Iterator, Sequence
from typing import ClassVar

import numpy as np

from jmlv.bounds import CROWN, BoundMethod
from jmlv.campaigns.answer import Answer, was_cold
from jmlv.campaigns.questions.layered import LayeredQuestion
from jmlv.campaigns.questions.question import Question
from jmlv.graph import Classifier
from jmlv.neighborhoods import GrownNeighborhood, LayerSearch, Strategy, grow, grow_many
from jmlv.oracles import PGD, Oracle


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class GrowQuestion(LayeredQuestion):
    """:func:`jmlv.grow` of one image; questions that differ in their images can grow together.

    A row is ``GrownNeighborhood.as_dict()``; its arrays are ``x``, ``layer``, ``epsilon``, ``weights``,
    ``free``, and the neighbourhood's ``lower`` and ``upper`` end. An image that is misclassified is a
    row of size 0 with the status ``MISCLASSIFIED``, which is no verdict.

    Attributes:
        strategy, bound, oracle, maximality, optimality: as for :func:`jmlv.grow`.
    """

    kind: ClassVar[str] = "grow"

    strategy: Strategy = LayerSearch()
    bound: BoundMethod = dataclasses.field(default=CROWN(), kw_only=True)
    oracle: Oracle | None = dataclasses.field(default=None, kw_only=True)
    maximality: PGD | None = dataclasses.field(default=PGD(restarts=4, steps=30), kw_only=True)
    optimality: float | None = dataclasses.field(default=None, kw_only=True)

    def answer(self, f: Classifier) -> Answer:
        wrong = self.misclassified(f)
        if wrong is not None:
            return wrong
        return _answer(
            grow(
                f,
                self.x,
                self.layers,
                self.property,
                self.strategy,
                weights=self.weights,
                budget=self.budget,
                bound=self.bound,
                oracle=self.oracle,
                maximality=self.maximality,
                optimality=self.optimality,
            )  # fmt: skip
        )

    @property
    def limit(self) -> float | None:
        if self.budget is None:
            return None
        return self.budget + (self.optimality or 0.0)

    @property
    def group(self) -> Hashable | None:
        alone = self.optimality is not None or not callable(self.weights)
        return None if alone else (self.x.shape, self._group_but("x", "layers", "property"))

    def answer_group(
        self, f: Classifier, questions: Sequence[Question]
    ) -> Iterator[tuple[int, Answer]]:
        """All images advance together, as many at a time as there are questions."""
        wrong = {i: question.misclassified(f) for i, question in enumerate(questions)}
        yield from ((i, answer) for i, answer in wrong.items() if answer is not None)
        right = [i for i, answer in wrong.items() if answer is None]
        if not right:
            return
        chosen = [questions[i] for i in right]
        grown = grow_many(
            f, np.stack([q.x for q in chosen]), [q.layers for q in chosen],
            [q.property for q in chosen], self.strategy, weights=self.weights, budget=self.budget,
            bound=self.bound, oracle=self.oracle, maximality=self.maximality, together=len(chosen),
        )  # fmt: skip
        for number, result in grown:
            yield right[number], _answer(result)


def _answer(grown: GrownNeighborhood) -> Answer:
    arrays = {
        "x": grown.x,
        "layer": np.asarray(grown.layers.index),
        "epsilon": grown.epsilon,
        "weights": grown.weights,
        "free": grown.free,
        "lower": np.asarray(grown.region.lower),
        "upper": np.asarray(grown.region.upper),
    }
    return Answer(grown.as_dict(), arrays, was_cold(grown.reason, grown.verdict.reason))
