"""Answers questions where they have arrived: the part that every executor's workers share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from jmlv.campaigns.answer import Answer
from jmlv.campaigns.questions import Question
from jmlv.compilation import release_programs
from jmlv.graph import Classifier

COLD = 2
"""How often a question is asked again by a worker that was still compiling for it."""

Outcome = tuple[Answer | None, str]
"""The answer, or why there is none."""


def asking(question: Question) -> Iterator[Outcome | None]:
    """Answers a question: None whenever a budget begins, and the outcome at last.

    The first budget begins once the network is here. An exception is a reason, not an end.

    A worker's first questions may leave their budgets to the compiler, whose programs are there
    afterwards. Such a question is asked again, so that its answer depends on no worker's past.
    """
    release_programs()
    try:
        f = network_of(question)
        for _ in range(1 + COLD):
            yield None
            answer = question.answer(f)
            if not answer.cold:
                break
        outcome = answer, ""
    except Exception as error:  # whatever the library or a user's network raises
        outcome = None, reason_of(error)
    yield outcome


def answered(question: Question, begun: Callable[[], None] = lambda: None) -> Outcome:
    """The outcome alone; ``begun`` is called whenever a budget begins.

    >>> from jmlv.campaigns.questions import CallQuestion
    >>> answered(CallQuestion("math:sqrt", {"x": -1}))
    (None, 'TypeError: math.sqrt() takes no keyword arguments')
    """
    for outcome in asking(question):
        if outcome is None:
            begun()
    return outcome


def answered_together(questions: Sequence[Question]) -> Iterator[tuple[int, Answer | None, str]]:
    """Answers a group of questions, each with its number.

    Where that fails, the rest are asked one by one, and so is each whose time went into compiling.
    """
    left = set(range(len(questions)))
    release_programs()
    try:
        first = questions[0]
        for number, answer in first.answer_group(network_of(first), questions):
            if not answer.cold:
                left.discard(number)
                yield number, answer, ""
    except Exception:  # one of them spoils the batch; alone each says why
        pass
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
