"""One question of a campaign: a frozen value that knows its key and how it is answered."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Hashable, Iterator, Mapping, Sequence
from functools import cache, cached_property
from typing import Any, ClassVar

import jax
import numpy as np
from jaxtyping import PyTree

from jmlv.campaigns.answer import Answer
from jmlv.campaigns.sources import Network
from jmlv.canonical import digest
from jmlv.graph import Classifier
from jmlv.numerics import own_copy
from jmlv.records import version

FORMAT = 2
"""Goes up when an answer can no longer be taken for that of the same question before."""

Tags = Mapping[str, Any]


@dataclasses.dataclass(frozen=True, eq=False)
class Question(abc.ABC):
    """What is asked of one network. Questions with the same key are the same question.

    Attributes:
        network: the network.
        budget: seconds; None for no limit.
        tags: what a table groups by, such as ``{"image": 3, "radius": 0.01}``: texts, numbers and
            booleans. They are kept as pairs and are not part of the key.
    """

    kind: ClassVar[str]

    network: Network | None
    budget: float | None = dataclasses.field(default=60.0, kw_only=True)
    tags: Tags | tuple[tuple[str, Any], ...] = dataclasses.field(default=(), kw_only=True)

    def __post_init__(self) -> None:
        self._require_network()
        if self.budget is not None and not self.budget > 0:
            raise ValueError(f"budget: must be a positive number of seconds, got {self.budget}.")
        pairs = tuple(sorted(dict(self.tags).items()))
        wrong = [name for name, tag in pairs if not isinstance(tag, (str, int, float, type(None)))]
        if wrong:
            raise TypeError(f"tags: {wrong} must be texts, numbers or booleans.")
        object.__setattr__(self, "tags", pairs)

    def _require_network(self) -> None:
        if not isinstance(self.network, Network):
            raise TypeError(
                f"network: got {type(self.network).__name__}; expected Network.of(source)."
            )

    def _freeze(self, **values: Any) -> None:
        """Sets fields while the value is made; arrays as copies that nobody else can change."""
        for name, value in values.items():
            own = own_copy(value, value.dtype) if isinstance(value, np.ndarray) else value
            object.__setattr__(self, name, own)

    @cached_property
    def key(self) -> str:
        """SHA-256 of everything that the answer depends on, jmlv's release included."""
        asked = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name not in ("network", "tags")
        }
        about = None if self.network is None else self.network.fingerprint
        return digest((FORMAT, release(), self.kind, about, asked), self.kind)

    @property
    def limit(self) -> float | None:
        """Seconds that answering may take; one that takes half as much again is stopped."""
        return self.budget

    @property
    def group(self) -> Hashable | None:
        """Questions of one group can be answered together; None for those that go alone."""
        return None

    @abc.abstractmethod
    def answer(self, f: Classifier) -> Answer:
        """Asks the library."""

    def answer_group(
        self, f: Classifier, questions: Sequence[Question]
    ) -> Iterator[tuple[int, Answer]]:
        """Answers several questions of this one's group, in any order."""
        for number, question in enumerate(questions):
            yield number, question.answer(f)

    def _group_but(self, *names: str) -> str:
        """Names the group of the questions that differ in these fields only."""
        left_out = {"network", "tags", *names}
        fields = [f.name for f in dataclasses.fields(self) if f.name not in left_out]
        same = {name: getattr(self, name) for name in fields}
        return digest((self.kind, self.network.fingerprint, same), self.kind)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Question) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={value!r}" for name, value in self.tags)
        where = "" if self.network is None else f"{self.network.name}; "
        return f"{type(self).__name__}({where}{shown or self.key[:12]})"


@cache
def release() -> str:
    """jmlv's release, looked up once."""
    return version()


def in_numpy(tree: PyTree) -> PyTree:
    """The same value with NumPy's arrays, copies that nobody else can change."""
    return jax.tree.map(lambda leaf: own_copy(leaf, np.asarray(leaf).dtype), tree)
