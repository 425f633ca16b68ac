"""Can an image near this one be classified as a goal says?"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Hashable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar

import jax
import numpy as np
from jaxtyping import Bool, Float

from jmlv.attacks import Attack, AttackResult, Decision, Goal, attack
from jmlv.campaigns.answer import Answer
from jmlv.campaigns.questions.question import Question
from jmlv.graph import Classifier
from jmlv.regions import IMAGES, Domain


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class AttackQuestion(Question):
    """:func:`jmlv.attacks.attack` of one image; a row has lists with one entry for each distance.

    Its arrays are ``images`` (distance, height, width, channel) and ``scores`` (distance, label).

    Attributes:
        x: the image.
        goal: what it should be classified as.
        method: how to search.
        distances: the budgets of the attack, in the method's norm; None where it needs none.
        seed: of random starts.
        mask: (height, width) pixels that may change; None for all.
        decision: which labels count as predicted.
        domain: which values inputs may have, as for :func:`jmlv.Box.around`.
    """

    kind: ClassVar[str] = "attack"

    x: Float[np.ndarray, "height width channel"]
    goal: Goal
    method: Attack
    distances: tuple[float, ...] | None = None
    seed: int = 0
    mask: Bool[np.ndarray, "height width"] | None = None
    decision: Decision | None = None
    domain: Domain = IMAGES
    budget: float | None = dataclasses.field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        distances = None if self.distances is None else tuple(map(float, self.distances))
        mask = None if self.mask is None else np.asarray(self.mask, bool)
        self._freeze(x=np.asarray(self.x), distances=distances, mask=mask)

    def answer(self, f: Classifier) -> Answer:
        ((_, answer),) = self._attacked(f, [(0, self)])
        return answer

    @property
    def group(self) -> Hashable | None:
        return (self.x.shape, self._group_but("x")) if self.mask is None else None

    def answer_group(
        self, f: Classifier, questions: Sequence[Question]
    ) -> Iterator[tuple[int, Answer]]:
        """The images in one batch a device, each attacked by a thread of its own."""
        devices = jax.devices()[: len(questions)]
        numbered = list(enumerate(questions))

        def part(number: int) -> list[tuple[int, Answer]]:
            with jax.default_device(devices[number]):
                return self._attacked(f, numbered[number :: len(devices)])

        with ThreadPoolExecutor(len(devices)) as pool:
            for answers in pool.map(part, range(len(devices))):
                yield from answers

    def _attacked(
        self, f: Classifier, numbered: Sequence[tuple[int, AttackQuestion]]
    ) -> list[tuple[int, Answer]]:
        """Attacks the images of several questions that differ in nothing else."""
        start = time.perf_counter()
        found = attack(
            f, np.stack([question.x for _, question in numbered]), self.goal, self.method,
            budgets=self.distances, key=jax.random.key(self.seed), mask=self.mask,
            decision=self.decision, domain=self.domain,
        )  # fmt: skip
        share = (time.perf_counter() - start) / len(numbered)
        return [(number, _row(found, i, share)) for i, (number, _) in enumerate(numbered)]


def _row(found: AttackResult, image: int, seconds: float) -> Answer:
    names = ("success", "flips", "linf", "l2", "rmsd", "iterations")
    values = {name: getattr(found, name)[:, image] for name in names}
    values |= {"distances": found.budgets, "already": found.already[image], "seconds": seconds}
    return Answer(values, {"images": found.images[:, image], "scores": found.scores[:, image]})
