"""What an attack wants: goals as values, and what they mean for given predictions.

Labels may be given once for all images, or as one entry an image: ``Hide(3)``, ``Hide((3, 5))``
(both labels, on every image), ``Hide(((3,), (5,)))`` (label 3 on the first image, 5 on the second).
"""

from __future__ import annotations

import abc
import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from jmlv.attacks.decisions import Decision, TopK


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Aim:
    """A goal made concrete: the wanted value of each label, and which labels count.

    Attributes:
        wanted: whether the label should be predicted.
        attacked: labels whose value should change.
        kept: labels whose value should stay. Labels in neither set are free.
    """

    wanted: Bool[Array, "image label"]
    attacked: Bool[Array, "image label"]
    kept: Bool[Array, "image label"]

    @property
    def relevant(self) -> Bool[Array, "image label"]:
        return self.attacked | self.kept

    @property
    def signs(self) -> Float[Array, "image label"]:
        """+1 where a positive margin is wanted, else -1."""
        return jnp.where(self.wanted, 1.0, -1.0)

    def met(self, margins: Float[Array, "image label"]) -> Bool[Array, "image label"]:
        """Which labels have the wanted value."""
        return (margins > 0) == self.wanted

    def reached(self, margins: Float[Array, "image label"]) -> Bool[Array, " image"]:
        """Whether every label that counts has the wanted value."""
        return (self.met(margins) | ~self.relevant).all(-1)


class Goal(abc.ABC):
    """What the attacked image should be classified as. Goals are frozen, hashable values."""

    @abc.abstractmethod
    def aim(self, present: Bool[np.ndarray, "image label"]) -> Aim:
        """The goal for images whose predicted labels are ``present``.

        Raises:
            ValueError: a label does not exist, or the goal is for another number of images.
        """

    adds_only: ClassVar[bool] = False
    """Whether labels are added and none lost, for which a top k has no room."""

    @property
    def decision(self) -> Decision | None:
        """The rule that the goal itself implies, if any."""
        return None


@dataclasses.dataclass(frozen=True)
class FlipAll(Goal):
    """Every label changes its value; the count of flips is what matters."""

    def aim(self, present: Bool[np.ndarray, "image label"]) -> Aim:
        everything = np.ones_like(present)
        return Aim(~present, everything, ~everything)


@dataclasses.dataclass(frozen=True)
class _LabelsGoal(Goal):
    """The role of a goal for some labels: a number, several, or one or several for each image."""

    labels: Any

    def __post_init__(self) -> None:
        object.__setattr__(self, "labels", _frozen(self.labels))

    def attacked(self, present: Bool[np.ndarray, "image label"]) -> Bool[np.ndarray, "image label"]:
        """Which labels are meant."""
        return _chosen(self.labels, present.shape)


@dataclasses.dataclass(frozen=True)
class Flip(_LabelsGoal):
    """The given labels change their values; the others are free.

    >>> Flip((0, 2)).aim(np.array([[True, False, False]])).wanted.tolist()
    [[False, True, True]]
    """

    def aim(self, present: Bool[np.ndarray, "image label"]) -> Aim:
        attacked = self.attacked(present)
        return Aim(~present, attacked, np.zeros_like(present))


@dataclasses.dataclass(frozen=True)
class Hide(_LabelsGoal):
    """The given labels are no longer predicted, while all others keep their value.

    >>> Hide(0).aim(np.array([[True, True, False]])).wanted.tolist()
    [[False, True, False]]
    """

    def aim(self, present: Bool[np.ndarray, "image label"]) -> Aim:
        attacked = self.attacked(present)
        return Aim(present & ~attacked, attacked, ~attacked)


@dataclasses.dataclass(frozen=True)
class Show(_LabelsGoal):
    """The given labels are predicted, while all others keep their value.

    >>> Show(2).aim(np.array([[True, False, False]])).wanted.tolist()
    [[True, False, True]]
    """

    def aim(self, present: Bool[np.ndarray, "image label"]) -> Aim:
        attacked = self.attacked(present)
        return Aim(present | attacked, attacked, ~attacked)


@dataclasses.dataclass(frozen=True)
class ShowAll(Goal):
    """Every label is predicted; how many are added is what matters, and none may be lost.

    Under thresholds only: a top k has no room for more. Source: *Showing Many Labels in Multi-label
    Classification Models: An Empirical Study of Adversarial Examples*, arXiv:2409.17568.
    """

    adds_only = True

    def aim(self, present: Bool[np.ndarray, "image label"]) -> Aim:
        return Aim(np.ones_like(present), ~present, present)


@dataclasses.dataclass(frozen=True)
class HideAll(Goal):
    """No label is predicted; how many are removed is what matters, and none may be added."""

    def aim(self, present: Bool[np.ndarray, "image label"]) -> Aim:
        return Aim(np.zeros_like(present), present, ~present)


@dataclasses.dataclass(frozen=True)
class Target(Goal):
    """Exactly the given label vector, (label,) or (image, label), is predicted."""

    label_vector: Any

    def __post_init__(self) -> None:
        vector = np.asarray(self.label_vector)
        if vector.ndim not in (1, 2) or not np.isin(vector, (0, 1)).all():
            raise ValueError("label_vector: expected zeros and ones, (label,) or (image, label).")
        object.__setattr__(self, "label_vector", _frozen(vector.astype(bool).tolist()))

    def aim(self, present: Bool[np.ndarray, "image label"]) -> Aim:
        wanted = np.array(self.label_vector)
        if wanted.shape not in (present.shape, present.shape[1:]):
            raise ValueError(
                f"label_vector: shape {wanted.shape} does not fit predictions of {present.shape}."
            )
        wanted = np.broadcast_to(wanted, present.shape)
        return Aim(wanted, wanted != present, wanted == present)


@dataclasses.dataclass(frozen=True)
class _TopKGoal(Goal):
    """One label and the ``k`` highest scores; ``label`` is a number, or a tuple of one an image."""

    label: int | tuple[int, ...]
    k: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "label", _frozen(self.label))

    @property
    def decision(self) -> TopK:
        return TopK(self.k)


@dataclasses.dataclass(frozen=True)
class LeaveTopK(_TopKGoal):
    """The label is not among the ``k`` highest scores: breaks :class:`jmlv.InTopK`.

    ``label`` is one number, or a tuple with one for each image.
    """

    def aim(self, present: Bool[np.ndarray, "image label"]) -> Aim:
        attacked = _one_each(self.label, present.shape)
        nothing = np.zeros_like(present)
        return Aim(nothing, attacked, nothing)


@dataclasses.dataclass(frozen=True)
class EnterTopK(_TopKGoal):
    """The label is among the ``k`` highest scores; ``label`` as for :class:`LeaveTopK`."""

    def aim(self, present: Bool[np.ndarray, "image label"]) -> Aim:
        attacked = _one_each(self.label, present.shape)
        return Aim(attacked, attacked, np.zeros_like(present))


def _frozen(value: Any) -> Any:
    """Nested sequences and arrays as nested tuples of Python numbers."""
    if isinstance(value, (np.ndarray, jax.Array)):
        value = np.asarray(value).tolist()
    if isinstance(value, (list, tuple)):
        return tuple(map(_frozen, value))
    return value if isinstance(value, bool) else int(value)


def _chosen(labels: Any, shape: tuple[int, int]) -> Bool[np.ndarray, "image label"]:
    """The labels of each image, multi-hot."""
    if isinstance(labels, int):
        labels = (labels,)
    per_image = bool(labels) and all(isinstance(entry, tuple) for entry in labels)
    rows = labels if per_image else (labels,) * shape[0]
    if len(rows) != shape[0]:
        raise ValueError(f"labels: got entries for {len(rows)} images; expected {shape[0]}.")
    chosen = np.zeros(shape, bool)
    for image, row in enumerate(rows):
        _require_labels(row, shape[1])
        chosen[image, list(row)] = True
    return chosen


def _one_each(label: Any, shape: tuple[int, int]) -> Bool[np.ndarray, "image label"]:
    return _chosen(label if isinstance(label, int) else tuple((one,) for one in label), shape)


def _require_labels(labels: tuple, label_count: int) -> None:
    if not labels:
        raise ValueError("labels: no label is given, so there is nothing to attack.")
    wrong = [label for label in labels if not 0 <= label < label_count]
    if wrong:
        raise ValueError(f"labels: must be in 0..{label_count - 1}, got {wrong}.")
