"""The stages that settle labels, from cheap to dear; each asks only what is still open."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jmlv.bounds import BoundMethod, Interval
from jmlv.labels.board import Board, Question, stack
from jmlv.margin_form import MarginForm
from jmlv.numerics import as_float64, certificate_precision, search_precision
from jmlv.oracles import PGD, Deadline, Evidence, Oracle, SoundnessError, TimeUp
from jmlv.oracles.answers import found_in_time
from jmlv.oracles.aside import run_until
from jmlv.oracles.falsify import descend
from jmlv.properties import leaves
from jmlv.shown import at_least

ROWS = 512
"""Pairs of labels that are bounded at a time."""

LEAST_BATCH = 4
"""Questions in the smallest batch that is attacked; fewer are repeated, each with its own starts."""

CLOSURE = "closure"
CENTRE = "centre"


def look_at_centre(board: Board) -> None:
    """The scores at the centre answer half of all questions: each label is in there or out."""
    with board.timed(range(board.query.label_count)):
        board.share(((board.query.lower + board.query.upper) / 2)[None], CENTRE)


def bound_pairs(board: Board, method: BoundMethod, limit: Deadline) -> None:
    """Bounds ``F_a - F_b`` for all pairs of labels at once, in float64, and each margin from them.

    Answered questions are told too: a bound that a witness contradicts is a defect. What takes
    longer than the limit is left behind.
    """
    with board.timed(board.open_labels):
        try:
            lower = run_until(limit, lambda own: _pair_bounds(board, method, own))
        except TimeUp as late:
            board.late.append(f"{method.name}: {late}")
            return
        for side, forms in zip((board.always, board.never), board.forms):
            least = _combined(side, forms, lower)
            for question in side:
                value = float(least[question.label])
                reason = f"{method.name} proves a margin of at least {at_least(value)}"
                board.tell(question, Evidence(lower=value, reason=reason), method.name)
    close(board)


def _combined(
    side: Sequence[Question], forms: MarginForm, lower: Float[np.ndarray, "label label"]
) -> Float[np.ndarray, " label"]:
    """A lower bound on each question's margin from those on its rows."""
    trees = [leaves(question.query.property.tree(len(lower))) for question in side]
    rows = np.array([[lower[row.plus, row.minus] for row in tree] for tree in trees])
    with certificate_precision():
        return np.asarray(_combine(forms, rows))


@jax.jit
def _combine(forms: MarginForm, rows: Array) -> Float[Array, " label"]:
    return jax.vmap(MarginForm.least)(forms, rows)


def _pair_bounds(
    board: Board, method: BoundMethod, limit: Deadline
) -> Float[np.ndarray, "label label"]:
    """Lower bounds on ``F_a - F_b`` over the box, by (a, b); minus infinity where time was up."""
    query, count = board.query, board.query.label_count
    first, second = np.array(list(itertools.combinations(range(count), 2))).T
    eye = np.eye(count)
    lower = np.where(eye > 0, 0.0, -np.inf)
    for start in range(0, len(first), ROWS):
        if limit.passed:
            break
        a, b = first[start : start + ROWS], second[start : start + ROWS]
        rows = eye[a] - eye[b]
        with certificate_precision():
            box = as_float64(query.lower), as_float64(query.upper)
            found = _rows(method, query.graph64_inside, *box, rows, np.zeros(len(rows)))
        lower[a, b], lower[b, a] = np.asarray(found.lower), -np.asarray(found.upper)
    return lower


@partial(jax.jit, static_argnums=0)
def _rows(method: BoundMethod, graph, lower, upper, coefficients, offsets) -> Interval:
    return method.rows(graph, lower, upper, coefficients, offsets)


def attack_all(board: Board, attack: PGD, limit: Deadline) -> None:
    """Attacks every open question in one batch a side, and shares every point that is found."""
    for side in (board.always, board.never):
        asked = board.open_questions(side)
        if asked and not limit.passed:
            with board.timed([question.label for question in asked]):
                try:
                    points = run_until(limit, partial(_attacked, board, asked, attack))
                except TimeUp as late:
                    board.late.append(f"{attack.name}: {late}")
                    return
                board.share(points, attack.name)
    close(board)


def _attacked(
    board: Board, asked: list[Question], attack: PGD, limit: Deadline
) -> Float[np.ndarray, "point *image"]:
    """The best point for each question; the batch is padded, so few shapes are compiled."""
    size = max(LEAST_BATCH, 1 << (len(asked) - 1).bit_length())
    padded = [asked[i % len(asked)] for i in range(size)]
    forms = stack([question.form for question in padded]).astype("float32")
    boxes = (
        np.broadcast_to(end, (size, *end.shape)) for end in (board.query.lower, board.query.upper)
    )
    key = jax.random.key(attack.seed)
    with search_precision():
        ends = map(jnp.asarray, boxes)
        points, _ = descend(attack, board.query.graph_inside, forms, *ends, key, limit)
    return points


def ask_oracle(board: Board, oracle: Oracle) -> None:
    """Asks the oracle about one open question after another, the most nearly proven first.

    Each gets an equal share of the time that is left; what one does not use is for the others.
    """
    asked: set[int] = set()
    while not board.deadline.passed:
        left = [question for question in board.open_questions() if id(question) not in asked]
        if not left:
            return
        question = max(left, key=lambda q: q.evidence.lower)
        asked.add(id(question))
        _ask_one(board, question, oracle, board.deadline.remaining / len(left))
        close(board)


def _ask_one(board: Board, question: Question, oracle: Oracle, share: float) -> None:
    with board.timed([question.label]):
        limit = board.deadline.within(share if np.isfinite(share) else None)
        evidence = found_in_time(question.query, oracle, limit)
        method = evidence.stats.get("method", oracle.name)
        board.tell(question, evidence, method)
        if evidence.point is not None and np.isfinite(evidence.point).all():
            board.share(np.asarray(evidence.point)[None], method)


def close(board: Board) -> None:
    """What settled labels imply for the others. With n labels:

    * k labels always in the top k leave no room: wherever a label of theirs is the lowest of them,
      fewer than k others reach it, so everything else is strictly below. The rest are never, with
      the least of the k margins.
    * n - k labels never in the top k: the highest of them has at least k strictly above it, which
      are all the others. The rest are always, with the least of the n - k margins.

    Raises:
        SoundnessError: more labels are settled than there is room for.
    """
    count = board.query.label_count
    sides = (board.always, board.never, board.k), (board.never, board.always, count - board.k)
    for proven_side, other_side, room in sides:
        proven = [question for question in proven_side if question.verdict.robust]
        if len(proven) > room:
            labels = [question.label for question in proven]
            raise SoundnessError(f"labels {labels}: proven on a side that has room for {room}.")
        if len(proven) == room:
            _imply(board, proven, other_side)


def _imply(board: Board, proven: list[Question], other_side: tuple[Question, ...]) -> None:
    settled = {question.label for question in proven}
    least = min(question.verdict.lower for question in proven)
    reason = f"labels {sorted(settled)} leave no other possibility"
    for question in other_side:
        if question.label not in settled and not question.verdict.robust:
            board.tell(question, Evidence(lower=least, reason=reason), CLOSURE)
