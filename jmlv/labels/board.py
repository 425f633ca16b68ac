"""The state of one image: two questions for each label, and the points that answer several."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence

import jax
import numpy as np
from jaxtyping import Array, Float

from jmlv.graph import Graph
from jmlv.labels.result import LabelAnswer, LabelSet, LabelStatus
from jmlv.margin_form import MarginForm
from jmlv.numerics import as_float64, certificate_precision, search_precision
from jmlv.oracles import Deadline, Evidence, Query, judge
from jmlv.properties import InTopK, NotInTopK
from jmlv.verdict import Status, Verdict


@dataclasses.dataclass(eq=False)
class Question:
    """'Does this label stay in (or out of) the top k?', while evidence comes in.

    Attributes:
        label: the label.
        query: the question; its property is an ``InTopK`` or a ``NotInTopK``.
        form: the property's margin as arrays.
        verdict: what has been judged so far.
        evidence: the best bound and the best point that are known, judged or not.
        margin: the point's margin, the larger of those in float64 and in float32.
    """

    label: int
    query: Query
    form: MarginForm
    verdict: Verdict = Verdict(Status.UNKNOWN)
    evidence: Evidence = Evidence()
    margin: float = np.inf

    @property
    def open(self) -> bool:
        """Whether it has neither a proof nor a point that seems to break it."""
        return self.verdict.status is Status.UNKNOWN and self.margin > 0

    def learn(self, evidence: Evidence, margin: float) -> None:
        """Keeps the better bound and the better point.

        Args:
            evidence: new evidence.
            margin: of its point; ``inf`` without one.
        """
        lower = evidence.lower if np.isfinite(evidence.lower) else -np.inf
        point = evidence.point if margin < self.margin else self.evidence.point
        self.evidence = dataclasses.replace(
            evidence, lower=max(lower, self.evidence.lower), point=point
        )
        self.margin = min(margin, self.margin)

    def report(self) -> Verdict:
        """The verdict with the best bound, which may have been proven after it."""
        return dataclasses.replace(self.verdict, lower=self.evidence.lower)

    def standing(self, reason: str) -> Verdict:
        """What is known, without judging anything that has not been judged."""
        if self.verdict.status is not Status.UNKNOWN:
            return self.report()
        reasons = "; ".join(filter(None, (self.evidence.reason, reason)))
        method = self.evidence.stats.get("method", "")
        return Verdict(
            Status.UNKNOWN, self.evidence.lower, self.margin, self.evidence.point, reasons,
            {"method": method},
        )  # fmt: skip

    def adopt(self, verdict: Verdict) -> None:
        """Takes over what was judged before."""
        self.verdict = verdict
        method = {"method": verdict.method} if verdict.method else {}
        self.evidence = Evidence(verdict.lower, verdict.witness, verdict.reason, method)
        self.margin = np.inf if verdict.witness is None else verdict.upper

    def judge(self, method: str) -> None:
        """Judges all that is known: bound and point together, so one contradicts the other.

        Raises:
            SoundnessError: a proof and a replayed witness contradict each other.
        """
        self.verdict = judge(self.query, self.evidence, method)
        if self.margin <= 0 and self.verdict.status is Status.UNKNOWN:
            replayed = self.verdict.upper, self.verdict.stats["witness_margin_float32"]
            self.margin = float(np.nanmax([*replayed, np.finfo(float).tiny]))


@dataclasses.dataclass(eq=False)
class Board:
    """Both questions of every label, for the stages to answer.

    Attributes:
        query: the network and the box, traced and checked.
        k: the size of the label set.
        deadline: when to stop.
        always, never: the questions about ``InTopK`` and about ``NotInTopK``, one for each label.
        stages: by which stage each settled label was settled.
        forms: the margins of each side's questions, stacked.
        seconds: spent on each label.
        late: why stages were left behind.
    """

    query: Query
    k: int
    deadline: Deadline
    always: tuple[Question, ...] = ()
    never: tuple[Question, ...] = ()
    stages: dict[int, str] = dataclasses.field(default_factory=dict)
    forms: tuple[MarginForm, ...] = ()
    seconds: np.ndarray | None = None
    late: list[str] = dataclasses.field(default_factory=list)

    def __post_init__(self) -> None:
        self.always, self.never = (
            tuple(self._question(kind(label, self.k)) for label in range(self.query.label_count))
            for kind in (InTopK, NotInTopK)
        )
        self.forms = tuple(stack([q.form for q in side]) for side in (self.always, self.never))
        self.seconds = np.zeros(self.query.label_count)

    def _question(self, property: InTopK | NotInTopK) -> Question:
        form = property.form(self.query.label_count)
        return Question(property.label, self.query.about(property), form)

    def status(self, label: int) -> LabelStatus:
        return LabelStatus.of(self.always[label].verdict, self.never[label].verdict)

    @property
    def open_labels(self) -> list[int]:
        """The labels that are not settled."""
        every = range(self.query.label_count)
        return [label for label in every if self.status(label) is LabelStatus.UNKNOWN]

    def open_questions(self, side: Sequence[Question] | None = None) -> list[Question]:
        """What is left to answer of the open labels, on one side or on both."""
        unsettled = set(self.open_labels)
        asked = (*self.always, *self.never) if side is None else side
        return [question for question in asked if question.label in unsettled and question.open]

    def tell(self, question: Question, evidence: Evidence, method: str) -> None:
        """Gives a question evidence of a method, and judges what that may decide."""
        query, margin = question.query, np.inf
        if evidence.point is not None:
            point = query.settle(evidence.point)
            margin = float(np.fmax(query.margin_exact(point), query.margin_deployed(point)))
            evidence = dataclasses.replace(evidence, point=point)
        question.learn(evidence, margin)
        self._judge_if_ripe(question.label, method)

    def share(self, points: Float[np.ndarray, "point *image"], method: str) -> None:
        """Offers inputs to every question, answered ones too: one input says of every label whether
        it is in the top k there.

        Raises:
            SoundnessError: a point breaks what was proven.
        """
        points = self.query.settle(points)
        for side, margins in zip((self.always, self.never), self._margins(points)):
            for question, values in zip(side, margins):
                best = int(values.argmin())
                if values[best] < question.margin:
                    told = dataclasses.replace(question.evidence, point=points[best])
                    question.learn(told, float(values[best]))
        for label in range(self.query.label_count):
            self._judge_if_ripe(label, method)

    def _judge_if_ripe(self, label: int, method: str) -> None:
        """Judges a label's questions once that may settle it, or may contradict a proof of it."""
        both = self.always[label], self.never[label]
        broken = all(question.margin <= 0 for question in both)
        for question in both:
            proof = question.evidence.lower > 0 and not question.verdict.robust
            against = question.margin <= 0 and (broken or question.verdict.robust)
            if proof or (against and question.verdict.status is not Status.NOT_ROBUST):
                question.judge(method)
        if self.status(label) is not LabelStatus.UNKNOWN:
            self.stages.setdefault(label, method)

    def _margins(self, points: Float[np.ndarray, "point *image"]) -> list[np.ndarray]:
        """For each side (label, point): the larger margin of both precisions; NaN counts as inf."""
        with certificate_precision():
            exact = _margins(self.query.graph64, self.forms, as_float64(points))
        with search_precision():
            forms = tuple(form.astype("float32") for form in self.forms)
            deployed = _margins(self.query.graph, forms, points)
        larger = [np.maximum(*map(np.asarray, pair)) for pair in zip(exact, deployed)]
        return [np.where(np.isnan(margins), np.inf, margins) for margins in larger]

    @contextlib.contextmanager
    def timed(self, labels: Sequence[int]) -> Iterator[None]:
        """Books the block's seconds in equal shares on some labels."""
        start = self.deadline.elapsed
        yield
        if labels:
            self.seconds[list(labels)] += (self.deadline.elapsed - start) / len(labels)

    def adopt(self, known: LabelSet) -> None:
        """Takes over the labels that an earlier answer settled."""
        for answer in known.answers:
            if answer.status is not LabelStatus.UNKNOWN:
                self.always[answer.label].adopt(answer.always)
                self.never[answer.label].adopt(answer.never)
                self.stages[answer.label] = answer.stage
                self.seconds[answer.label] = answer.seconds

    def result(self) -> LabelSet:
        """Where every label stands now; what is known of open labels is judged, for its bounds."""
        for label in self.open_labels:
            for question in (self.always[label], self.never[label]):
                question.judge(question.evidence.stats.get("method", ""))
        return self._answers(Question.report)

    def standing(self, reason: str) -> LabelSet:
        """Where every label stands now, while somebody may still be at work; nothing is judged."""
        return self._answers(lambda question: question.standing(reason))

    def _answers(self, verdict_of: Callable[[Question], Verdict]) -> LabelSet:
        def told(question: Question) -> Verdict:
            verdict = verdict_of(question)
            if verdict.status is not Status.UNKNOWN or not self.late:
                return verdict
            reason = "; ".join(filter(None, (*self.late, verdict.reason)))
            return dataclasses.replace(verdict, reason=reason)

        answers = tuple(
            LabelAnswer(a.label, told(a), told(n), self.stages.get(a.label, "open"), float(seconds))
            for a, n, seconds in zip(self.always, self.never, self.seconds)
        )
        return LabelSet(self.k, answers, self.deadline.elapsed)


def stack(forms: Sequence[MarginForm]) -> MarginForm:
    """Forms of one structure as one form with a leading axis."""
    return jax.tree.map(lambda *arrays: np.stack(arrays), *forms)


@jax.jit
def _margins(
    graph: Graph, forms: tuple[MarginForm, ...], points: Array
) -> list[Float[Array, "label point"]]:
    scores = graph.scores(points)
    return [jax.vmap(lambda form: form.margin(scores))(side) for side in forms]
