"""How labels are written for people: by name where names are known, with the number beside it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def label_text(label: int, names: Sequence[str] = ()) -> str:
    """A label as text.

    >>> label_text(1), label_text(1, ["cat", "dog"]), label_text(1, ["0", "1"])
    ('1', 'dog (1)', '1')
    """
    if not 0 <= label < len(names) or names[label] == str(label):
        return str(label)
    return f"{names[label]} ({label})"


def labels_text(labels: Iterable[int], names: Sequence[str] = ()) -> str:
    """Labels as text, ``-`` where there are none.

    >>> labels_text([0, 1], ["cat", "dog"]), labels_text([])
    ('cat (0), dog (1)', '-')
    """
    return ", ".join(label_text(label, names) for label in labels) or "-"
