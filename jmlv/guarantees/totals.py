"""What is counted: labels by weight, or members of the top k; each count as properties."""

from __future__ import annotations

import abc
import dataclasses

import numpy as np
from jaxtyping import Float

from jmlv.properties import AtLeast, InTopK, MeetsTopK, NotInTopK, Property


class Total(abc.ABC):
    """The role of a number that depends on the scores, such as how many labels have changed.

    Attributes:
        labels: those that may count.
    """

    labels: tuple[int, ...]

    @property
    @abc.abstractmethod
    def most(self) -> int:
        """What it never exceeds, whatever the scores."""

    @property
    @abc.abstractmethod
    def least(self) -> int:
        """What it never falls short of, whatever the scores."""

    @abc.abstractmethod
    def at_most(self, m: int) -> Property:
        """Holds iff the number is ``m`` or less, for ``m`` in least..most - 1, with something to spare.

        The rows are the same for all m, and the margin rises with m.
        """

    @abc.abstractmethod
    def counted(self, scores: Float[np.ndarray, " label"]) -> tuple[int, ...]:
        """The labels that count at some scores."""

    def value(self, scores: Float[np.ndarray, " label"]) -> int:
        """The number at some scores; the property of one less has a margin that is not positive."""
        return len(self.counted(scores))


@dataclasses.dataclass(frozen=True)
class Stay:
    """What must hold for a label not to count, and what it counts for if it does.

    Attributes:
        tied: whether it counts at a point where the property's margin is zero. A proof has the margin
            positive in any case.
    """

    label: int
    property: Property
    weight: int = 1
    tied: bool = True

    def fails(self, scores: Float[np.ndarray, " label"]) -> bool:
        margin = float(self.property.margin(scores))
        return margin <= 0 if self.tied else margin < 0


@dataclasses.dataclass(frozen=True)
class Weighed(Total):
    """The weight of the labels whose property fails, each for itself.

    >>> import jmlv
    >>> lost = Weighed(tuple(Stay(label, jmlv.AboveThreshold(label)) for label in range(3)))
    >>> print(lost.at_most(1).margin([1.0, -2.0, 0.5]), lost.at_most(0).margin([1.0, -2.0, 0.5]))
    0.5 -2.0
    """

    stays: tuple[Stay, ...]

    @property
    def least(self) -> int:
        return 0

    @property
    def most(self) -> int:
        return sum(stay.weight for stay in self.stays)

    @property
    def labels(self) -> tuple[int, ...]:
        return tuple(stay.label for stay in self.stays if stay.weight)

    def at_most(self, m: int) -> Property:
        parts = tuple(stay.property for stay in self.stays for _ in range(stay.weight))
        return AtLeast(len(parts) - m, parts)

    def counted(self, scores: Float[np.ndarray, " label"]) -> tuple[int, ...]:
        return tuple(stay.label for stay in self._failing(scores) if stay.weight)

    def value(self, scores: Float[np.ndarray, " label"]) -> int:
        return sum(stay.weight for stay in self._failing(scores))

    def _failing(self, scores: np.ndarray) -> list[Stay]:
        return [stay for stay in self.stays if stay.fails(scores)]


@dataclasses.dataclass(frozen=True)
class WeighedInTopK(Weighed):
    """The weight of labels that leave the top k, or enter it, of which each has a weight of its own.

    At a point, whichever of equal scores weigh most come first. A proof asks for each label alone, with
    all ties against it: where they are for one label at most, it proves less.

    Attributes:
        losing: of the labels, those that were among the top k.
    """

    losing: tuple[int, ...]
    k: int

    def _failing(self, scores: np.ndarray) -> list[Stay]:
        place = np.zeros(len(scores))
        for stay in self.stays:
            place[stay.label] = stay.weight if stay.label in self.losing else -stay.weight
        top = set(np.lexsort((place, -scores))[: self.k].tolist())
        return [stay for stay in self.stays if (stay.label in top) != (stay.label in self.losing)]


@dataclasses.dataclass(frozen=True)
class OutOfTopK(Total):
    """How many of some labels are not among the top k, whichever of equal scores come first.

    >>> OutOfTopK((0, 1), 2, 4).counted(np.array([1.0, 3.0, 2.0, 0.0]))
    (0,)
    """

    labels: tuple[int, ...]
    k: int
    label_count: int

    @property
    def most(self) -> int:
        """All of them, or as many as there are others and places beyond the top k."""
        return min(len(self.labels), self.label_count - self.k)

    @property
    def least(self) -> int:
        """Those for which there are not enough places."""
        return max(0, len(self.labels) - self.k)

    def at_most(self, m: int) -> Property:
        return MeetsTopK(self.labels, self.k, len(self.labels) - m)

    def counted(self, scores: Float[np.ndarray, " label"]) -> tuple[int, ...]:
        top = _top(scores, self.k, last=self.labels)
        return tuple(label for label in self.labels if label not in top)


@dataclasses.dataclass(frozen=True)
class InsideTopK(Total):
    """How many of some labels are among the top k, whichever of equal scores come first."""

    labels: tuple[int, ...]
    k: int
    label_count: int

    @property
    def least(self) -> int:
        """As many places as there are too few others for."""
        return max(0, self.k - (self.label_count - len(self.labels)))

    @property
    def most(self) -> int:
        return min(len(self.labels), self.k)

    def at_most(self, m: int) -> Property:
        others = tuple(j for j in range(self.label_count) if j not in self.labels)
        return MeetsTopK(others, self.k, self.k - m)

    def counted(self, scores: Float[np.ndarray, " label"]) -> tuple[int, ...]:
        others = tuple(j for j in range(self.label_count) if j not in self.labels)
        top = _top(scores, self.k, last=others)
        return tuple(label for label in self.labels if label in top)


@dataclasses.dataclass(frozen=True)
class ChangedInTopK(Total):
    """How many of some labels leave the top k, or enter it, whichever of equal scores come first.

    Attributes:
        losing: labels that were among the top k.
        gaining: labels that were not.
    """

    losing: tuple[int, ...]
    gaining: tuple[int, ...]
    k: int
    label_count: int

    @property
    def least(self) -> int:
        return 0

    @property
    def labels(self) -> tuple[int, ...]:
        return (*self.losing, *self.gaining)

    @property
    def most(self) -> int:
        out, inside = self._sides
        return out.most + inside.most

    def at_most(self, m: int) -> Property:
        """Where all labels count, as many enter as leave; else each label is asked for by itself."""
        if len(self.labels) == self.label_count:
            return self._sides[0].at_most(m // 2)
        lost = tuple(Stay(label, InTopK(label, self.k)) for label in self.losing)
        won = tuple(Stay(label, NotInTopK(label, self.k)) for label in self.gaining)
        return Weighed(lost + won).at_most(m)

    def counted(self, scores: Float[np.ndarray, " label"]) -> tuple[int, ...]:
        top = _top(scores, self.k, last=self.losing, first=self.gaining)
        lost = (label for label in self.losing if label not in top)
        return (*lost, *(label for label in self.gaining if label in top))

    @property
    def _sides(self) -> tuple[OutOfTopK, InsideTopK]:
        return (
            OutOfTopK(self.losing, self.k, self.label_count),
            InsideTopK(self.gaining, self.k, self.label_count),
        )


def _top(
    scores: np.ndarray, k: int, last: tuple[int, ...], first: tuple[int, ...] = ()
) -> set[int]:
    """The k highest scores; of equal ones, those of ``first`` come first and those of ``last`` last."""
    every = np.arange(len(scores))
    place = np.isin(every, last).astype(int) - np.isin(every, first)
    return set(np.lexsort((place, -scores))[:k].tolist())
