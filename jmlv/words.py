"""What results claim, in plain words: one wording for figures, pages and tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jmlv.label_names import labels_text
from jmlv.properties import InTopK, KeepsLabels, NotInTopK, Property


def kept(result: Any, names: Sequence[str] = ()) -> str:
    """What holds in a neighbourhood, or what a property says, in words.

    Args:
        result: a property, or a result with one; of smoothing, its labels, ``keep`` and ``k``.
        names: the labels' names.

    >>> kept(InTopK(1, k=2), ["cat", "dog"])
    'label dog (1) stays in the top 2'
    >>> kept(KeepsLabels((0, 1), k=2, at_least=1))
    'at least 1 of labels 0, 1 stays in the top 2'
    """
    told = getattr(result, "property", result)
    if isinstance(told, NotInTopK):
        return f"label {labels_text(told.labels, names)} stays out of the top {told.k}"
    if isinstance(told, Property) and not isinstance(told, (InTopK, KeepsLabels)):
        return _with_names(told, names)
    labels, needed = told.labels, _needed(told)
    if needed < len(labels):
        verb = "stays" if needed == 1 else "stay"
        return (
            f"at least {needed} of labels {labels_text(labels, names)} {verb} in the top {told.k}"
        )
    which, verb = ("label", "stays") if len(labels) == 1 else ("labels", "stay")
    return f"{which} {labels_text(labels, names)} {verb} in the top {told.k}"


def _needed(told: Any) -> int:
    """How many of the labels stay, by a property or by smoothing's certificate."""
    asked = getattr(told, "at_least", getattr(told, "keep", None))
    return asked if isinstance(asked, int) else len(told.labels)


def _with_names(property: Property, names: Sequence[str]) -> str:
    """A property without a sentence of its own, and what its labels are called."""
    told = labels_text(property.labels, names)
    plain = labels_text(property.labels)
    return f"{property!r} holds" + (f", with labels {told}" if told != plain else "")
