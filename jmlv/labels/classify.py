"""The verb ``classify_labels``: always, never or sometimes in the top k, for every label."""

from __future__ import annotations

import dataclasses

from jmlv.bounds import CROWN, AlphaCROWN, BoundMethod
from jmlv.graph import Classifier
from jmlv.labels.board import Board
from jmlv.labels.certificates import certified_labels
from jmlv.labels.result import LabelSet, unsettled
from jmlv.labels.stages import ask_oracle, attack_all, bound_pairs, look_at_centre
from jmlv.oracles import (
    MILP,
    PGD,
    Bounds,
    Cascade,
    Deadline,
    InputSplitting,
    Oracle,
    Query,
    TimeUp,
)
from jmlv.oracles.aside import Watch, run_until
from jmlv.oracles.cascade import AT_THE_ROOT, BY_PARTS
from jmlv.oracles.oracle import label_count
from jmlv.properties import InTopK
from jmlv.regions import Region
from jmlv.require import require_fields


@dataclasses.dataclass(frozen=True)
class Plan:
    """How labels are settled, from cheap to dear.

    The default attacks first: that settles most labels of a wide box, and every later proof is
    judged beside points that tried to break it. (On the published networks a first step of the
    whole radius left fewer labels open than half of it; more starts and steps left no fewer.)

    Attributes:
        stages: attacks (each attacks all open questions at once) and bounds (each bounds all pairs
            of labels at once), in the order in which they are tried.
        oracle: decides what these leave open, one question at a time; None leaves it open.
    """

    stages: tuple[PGD | BoundMethod, ...] = (
        PGD(restarts=2, steps=12),
        CROWN(),
        PGD(restarts=8, steps=60, step=1.0, seed=1),
    )
    oracle: Oracle | None = Cascade(
        (
            PGD(restarts=32, steps=100, step=1.0, seed=2),
            Bounds(AlphaCROWN()),
            BY_PARTS,
            InputSplitting(),
            AT_THE_ROOT,
            MILP(),
        )
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "stages", tuple(self.stages))
        wrong = [s for s in self.stages if not isinstance(s, (PGD, BoundMethod))]
        if wrong:
            raise TypeError(
                f"stages: expected attacks PGD(...) and bounds such as CROWN(), got {wrong}."
            )
        require_fields(self)


def classify_labels(
    f: Classifier,
    region: Region,
    k: int,
    oracle: Oracle | None = None,
    *,
    plan: Plan = Plan(),
    budget: float | None = 60.0,
    certify: bool = False,
) -> LabelSet:
    """Settles each label as always, never or both in the top k over a region.

    ``always`` iff everywhere fewer than k other labels score at least as high; ``never`` iff
    everywhere at least k others score strictly higher; else ``both``, with a replayed witness
    against each. A tie at the border of the top k counts against both.

    The centre, batched attacks, and one pass of a bound over all pairs of labels settle most
    labels; each point found is tried on all labels, and settled labels may settle others. What
    is left goes to the oracle, one question at a time.

    Source of the question: Mour and Drachsler-Cohen, *Robustness Verification of Multi-label
    Neural Network Classifiers*, SAS 2024.

    Args:
        f: the network.
        region: a box or layered neighbourhood of one image, inside [0, 1].
        k: the size of the label set, less than the number of labels.
        oracle: decides what bounds and attacks leave open; by default ``plan``'s, which is PGD
            with more starts, alpha-CROWN, branch and bound where the network falls apart, input
            splitting where few inputs move, and then SCIP.
        plan: the attacks and bounds before it.
        budget: seconds for everything, tracing and compiling included; None for no limit. What is
            still compiling when they end is left behind, and the reasons of open labels say so.
        certify: look, in what is left of the budget, for certificates of the answers that
            :mod:`jmlv_check` can replay: ``answers[i].always.certificate`` and ``.never.certificate``.

    Returns:
        The status of every label, with evidence, bounds, stage and seconds.

    Raises:
        UnsupportedOperation: ``f`` has operations without a sound rule.
        ValueError: arguments do not fit together.
        SoundnessError: a proof and a replayed witness contradict each other: a defect.

    >>> import jax.numpy as jnp, jmlv
    >>> f = lambda x: jnp.stack([x[:, 0, 0, 0], x[:, 0, 1, 0], 0.5 * x[:, 0, 2, 0]], -1)
    >>> box = jmlv.Box.around(jnp.array([[[0.8], [0.3], [0.5]]]), 0.1)
    >>> [status.value for status in jmlv.classify_labels(f, box, 1).status]
    ['always', 'never', 'never']
    >>> [status.value for status in jmlv.classify_labels(f, box, 2).status]
    ['always', 'both', 'both']
    """
    deadline = Deadline(budget)
    if oracle is not None:
        plan = dataclasses.replace(plan, oracle=oracle)
    try:
        query = run_until(deadline, lambda _: Query.of(f, region, InTopK(0, k)))
    except TimeUp as late:
        count = run_until(Deadline(None), lambda _: label_count(f, region))
        return unsettled(count, k, f"reading the network: {late}", deadline.elapsed)
    labels = settle(query, k, plan, deadline)
    return certified_labels(query, labels, deadline) if certify else labels


def settle(
    query: Query,
    k: int,
    plan: Plan,
    deadline: Deadline,
    known: LabelSet | None = None,
    watch: Watch | None = None,
) -> LabelSet:
    """Runs a plan on a network and box that have been traced and checked; its property is not read.

    Args:
        known: an earlier answer; only the labels that it leaves open are looked at.
        watch: told when something begins to compile, and when it no longer does.
    """
    boards: list[Board] = []

    def work(own: Deadline) -> LabelSet:
        boards.append(Board(query, k, own))
        return _settled(boards[0], plan, known)

    try:
        result = run_until(deadline, work, watch)
    except TimeUp as late:
        if not boards:
            return known or unsettled(query.label_count, k, str(late), deadline.elapsed)
        result = boards[0].standing(str(late))
    return dataclasses.replace(result, seconds=deadline.elapsed)


def _settled(board: Board, plan: Plan, known: LabelSet | None) -> LabelSet:
    """Stage after stage; each has half of the time that is left, the last one all of it."""
    if known is not None:
        board.adopt(known)
    look_at_centre(board)
    for place, stage in enumerate(plan.stages):
        if board.open_labels and not board.deadline.passed:
            last = plan.oracle is None and place == len(plan.stages) - 1
            run = attack_all if isinstance(stage, PGD) else bound_pairs
            run(board, stage, board.deadline.share(1.0 if last else 0.5))
    if plan.oracle is not None:
        ask_oracle(board, plan.oracle)
    if board.deadline.passed:
        board.late.append("the time was up")
    return board.result()
