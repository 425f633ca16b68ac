"""Answers questions where they have arrived: the part that every executor's workers share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from jmlv.campaigns.answer import Answer
from jmlv.campaigns.questions import Question
from jmlv.graph import Classifier

Outcome = tuple[Answer | None, str]
"""The answer, or why there is none."""


def answered(question: Question, begun: Callable[[], None] = lambda: None) -> Outcome:
    """The answer, or why there is none: an exception is a reason, not an end.

    Args:
        question: what is asked.
        begun: called once the network is here, when the budget begins.

    >>> from jmlv.campaigns.questions import CallQuestion
    >>> answered(CallQuestion("math:sqrt", {"x": -1}))
    (None, 'TypeError: math.sqrt() takes no keyword arguments')
    """
    try:
        f = network_of(question)
        begun()
        return question.answer(f), ""
    except Exception as error:  # whatever the library or a user's network raises
        return None, reason_of(error)


def answered_together(questions: Sequence[Question]) -> Iterator[tuple[int, Answer | None, str]]:
    """Answers a group of questions, each with its number; where that fails, each of the rest alone."""
    left = set(range(len(questions)))
    try:
        first = questions[0]
        for number, answer in first.answer_group(network_of(first), questions):
            left.discard(number)
            yield number, answer, ""
    except Exception:  # one of them spoils the batch; alone each says why
        for number in sorted(left):
            yield number, *answered(questions[number])


def network_of(question: Question) -> Classifier | None:
    """The question's network, read at most once by a process."""
    return None if question.network is None else question.network.load()


def reason_of(error: BaseException) -> str:
    """An exception as one line; running out of memory is named, on the host and on a device.

    >>> reason_of(MemoryError())
    'out of memory: MemoryError'
    """
    text = " ".join(str(error).split())[:500]
    memory = isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in text
    line = f"{type(error).__name__}: {text}".removesuffix(": ")
    return f"out of memory: {line}" if memory else line
