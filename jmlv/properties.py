"""What must hold everywhere in a region, as one definition for bounds, oracles and attacks.

Every property is a tree of order statistics over linear rows of the scores. A leaf is one row
``c . F(x) + d``; an inner node is the k-th smallest of its children; the root's value is the
margin, and the property holds iff it is positive. The tree is monotone in its rows, so

* the margin is the tree at the rows' values,
* a lower (upper) bound on the margin is the tree at the rows' lower (upper) bounds, and
* 'the margin is at most -w' is a small set of mixed-integer rows: a node is that low iff at least
  k of its children are.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, Union

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


@dataclasses.dataclass(frozen=True)
class Row:
    """The leaf ``scores[plus] - scores[minus] + offset``; a label may be absent (None).

    ``weights`` adds any further (label, coefficient) pairs, for general linear rows.
    """

    plus: int | None
    minus: int | None
    offset: float = 0.0
    weights: tuple[tuple[int, float], ...] = ()

    @property
    def labels(self) -> tuple[int, ...]:
        """The labels that the row reads."""
        read = (self.plus, self.minus, *(label for label, _ in self.weights))
        return tuple(dict.fromkeys(label for label in read if label is not None))

    def dense(self, label_count: int) -> np.ndarray:
        """The row's coefficients, (label,)."""
        coefficients = np.zeros(label_count)
        if self.plus is not None:
            coefficients[self.plus] += 1
        if self.minus is not None:
            coefficients[self.minus] -= 1
        for label, weight in self.weights:
            coefficients[label] += weight
        return coefficients


@dataclasses.dataclass(frozen=True)
class KthSmallest:
    """The k-th smallest of its children: 1 is their minimum, ``len(children)`` their maximum."""

    k: int
    children: tuple[Tree, ...]


Tree = Union[Row, KthSmallest]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class MarginForm:
    """A margin whose labels are data, not structure: one compiled function serves every label.

    Attributes:
        coefficients, offsets: the rows ``C @ scores + d``.
        skeleton: the tree with anonymous leaves.
    """

    coefficients: Float[Array, "row label"]
    offsets: Float[Array, " row"]
    skeleton: Tree = dataclasses.field(metadata={"static": True})

    def combine(self, rows: Float[Array, "*batch row"]) -> Float[Array, "*batch"]:
        """The margin from the values, or from one side's bounds, of the rows."""
        return _evaluate(self.skeleton, rows, 0)[0]

    def margin(self, scores: Float[Array, "*batch label"]) -> Float[Array, "*batch"]:
        rows = jnp.einsum("...l,rl->...r", scores, self.coefficients, precision="highest")
        return self.combine(rows + self.offsets)


class Property(abc.ABC):
    """A statement about the scores of one image; it holds iff its margin is positive.

    Properties are frozen, hashable values. ``&`` joins two.
    """

    @abc.abstractmethod
    def tree(self, label_count: int) -> Tree:
        """The order-statistic tree that defines the margin.

        Raises:
            ValueError: a label or k is out of range for that many labels.
        """

    @property
    @abc.abstractmethod
    def labels(self) -> tuple[int, ...]:
        """The labels that the property is about."""

    def margin(self, scores: Float[Array, "*batch label"]) -> Float[Array, "*batch"]:
        """Positive iff the property holds; a tie counts against it.

        >>> import jax.numpy as jnp, jmlv
        >>> print(jmlv.InTopK(0, k=2).margin(jnp.array([1.0, 3.0, 0.5, 0.0])))
        0.5
        """
        scores = jnp.asarray(scores)
        rows = leaves(self.tree(scores.shape[-1]))
        values = jnp.stack([_row_value(row, scores) for row in rows], -1)
        return self.combine(values, scores.shape[-1])

    def combine(self, rows: Float[Array, "*batch row"], label_count: int) -> Float[Array, "*batch"]:
        """The margin from the values, or from bounds, of the rows in the order of :meth:`rows`."""
        value, _ = _evaluate(self.tree(label_count), rows, 0)
        return value

    def form(self, label_count: int) -> MarginForm:
        """The margin as arrays and a structure, for compiled functions."""
        coefficients, offsets = self.rows(label_count)
        return MarginForm(coefficients, offsets, _skeleton(self.tree(label_count)))

    def rows(
        self, label_count: int
    ) -> tuple[Float[np.ndarray, "row label"], Float[np.ndarray, " row"]]:
        """``(C, d)`` such that the rows' values are ``C @ scores + d``."""
        rows = leaves(self.tree(label_count))
        return np.stack([r.dense(label_count) for r in rows]), np.array([r.offset for r in rows])

    def __and__(self, other: Property) -> And:
        return And((*_parts(self), *_parts(other)))


@dataclasses.dataclass(frozen=True)
class InTopK(Property):
    """Label ``label`` is among the ``k`` highest scores.

    margin = -(k-th largest of ``F_c - F_t`` over ``c != t``): fewer than k other labels score at
    least as high.
    """

    label: int
    k: int

    @property
    def labels(self) -> tuple[int, ...]:
        return (self.label,)

    def tree(self, label_count: int) -> KthSmallest:
        _require_label(self.label, label_count)
        _require_k(self.k, label_count)
        others = (c for c in range(label_count) if c != self.label)
        return KthSmallest(self.k, tuple(Row(self.label, c) for c in others))


@dataclasses.dataclass(frozen=True)
class NotInTopK(Property):
    """At least ``k`` other labels score strictly higher than ``label``.

    margin = k-th largest of ``F_c - F_t`` over ``c != t``.
    """

    label: int
    k: int

    @property
    def labels(self) -> tuple[int, ...]:
        return (self.label,)

    def tree(self, label_count: int) -> KthSmallest:
        _require_label(self.label, label_count)
        _require_k(self.k, label_count)
        others = tuple(Row(c, self.label) for c in range(label_count) if c != self.label)
        return KthSmallest(len(others) - self.k + 1, others)


@dataclasses.dataclass(frozen=True)
class KeepsLabels(Property):
    """All of ``keep``, or at least ``at_least`` of them, are among the ``k`` highest scores."""

    keep: tuple[int, ...]
    k: int
    at_least: int | None = None

    def __post_init__(self) -> None:
        keep = tuple(int(label) for label in self.keep)
        object.__setattr__(self, "keep", keep)
        if not keep or len(set(keep)) != len(keep):
            raise ValueError(f"keep: expected distinct labels, at least one, got {keep}.")
        if not 1 <= self._needed <= len(keep):
            raise ValueError(f"at_least: must be in 1..{len(keep)}, got {self.at_least}.")
        if self._needed > self.k:
            raise ValueError(f"k: {self._needed} labels never fit into the top {self.k}.")

    @property
    def _needed(self) -> int:
        return len(self.keep) if self.at_least is None else self.at_least

    @property
    def labels(self) -> tuple[int, ...]:
        return self.keep

    def tree(self, label_count: int) -> KthSmallest:
        parts = tuple(InTopK(label, self.k).tree(label_count) for label in self.keep)
        return KthSmallest(len(parts) - self._needed + 1, parts)


@dataclasses.dataclass(frozen=True)
class AboveThreshold(Property):
    """The raw score (logit) of ``label`` exceeds ``threshold``: margin = ``F_t - threshold``."""

    label: int
    threshold: float = 0.0

    def __post_init__(self) -> None:
        _require_threshold(self.threshold)

    @property
    def labels(self) -> tuple[int, ...]:
        return (self.label,)

    def tree(self, label_count: int) -> Row:
        _require_label(self.label, label_count)
        return Row(self.label, None, -self.threshold)


@dataclasses.dataclass(frozen=True)
class BelowThreshold(Property):
    """The raw score (logit) of ``label`` is under ``threshold``: margin = ``threshold - F_t``."""

    label: int
    threshold: float = 0.0

    def __post_init__(self) -> None:
        _require_threshold(self.threshold)

    @property
    def labels(self) -> tuple[int, ...]:
        return (self.label,)

    def tree(self, label_count: int) -> Row:
        _require_label(self.label, label_count)
        return Row(None, self.label, self.threshold)


@dataclasses.dataclass(frozen=True)
class And(Property):
    """Every part holds; margin = the smallest of theirs. Written ``a & b``."""

    parts: tuple[Property, ...]

    @property
    def labels(self) -> tuple[int, ...]:
        return tuple(dict.fromkeys(label for part in self.parts for label in part.labels))

    def tree(self, label_count: int) -> KthSmallest:
        return KthSmallest(1, tuple(part.tree(label_count) for part in self.parts))


@dataclasses.dataclass(frozen=True)
class Excludes(Property):
    """None of the cases happens; a case happens where all its rows are at most zero.

    margin = smallest over the cases of the largest over the case's rows. This is any boolean
    combination of linear inequalities, as verification competitions state what must not happen.

    >>> import jax.numpy as jnp
    >>> wins = Excludes(((Row(0, 1),), (Row(0, None, -0.5), Row(2, None, -0.5))))
    >>> print(wins.margin(jnp.array([0.75, 0.5, 0.25])))
    0.25
    """

    cases: tuple[tuple[Row, ...], ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "cases", tuple(map(tuple, self.cases)))
        rows = [row for case in self.cases for row in case]
        if not all(self.cases) or not rows:
            raise ValueError("cases: expected at least one, and at least one row in each.")
        numbers = [n for row in rows for n in (row.offset, *(w for _, w in row.weights))]
        if not np.isfinite(numbers).all() or not all(row.labels for row in rows):
            raise ValueError("cases: every row needs a label and finite numbers.")

    @property
    def labels(self) -> tuple[int, ...]:
        return tuple(dict.fromkeys(i for case in self.cases for row in case for i in row.labels))

    def tree(self, label_count: int) -> KthSmallest:
        for label in self.labels:
            _require_label(label, label_count)
        return KthSmallest(1, tuple(KthSmallest(len(case), case) for case in self.cases))


def leaves(tree: Tree) -> list[Row]:
    """The rows of a tree, left to right."""
    return [tree] if isinstance(tree, Row) else list(_descend(tree))


def _skeleton(tree: Tree) -> Tree:
    if isinstance(tree, Row):
        return Row(None, None)
    return KthSmallest(tree.k, tuple(map(_skeleton, tree.children)))


def _descend(tree: KthSmallest) -> Iterator[Row]:
    for child in tree.children:
        yield from leaves(child)


def _evaluate(tree: Tree, rows: Array, start: int) -> tuple[Array, int]:
    """Value of a tree whose rows begin at ``start``, and where the next tree's begin."""
    if isinstance(tree, Row):
        return rows[..., start], start + 1
    values = []
    for child in tree.children:
        value, start = _evaluate(child, rows, start)
        values.append(value)
    return _kth_smallest(jnp.stack(values, -1), tree.k), start


def _kth_smallest(values: Float[Array, "*batch n"], k: int) -> Float[Array, "*batch"]:
    """NaN anywhere gives NaN, so that a failed bound cannot be sorted out of sight."""
    chosen = jnp.sort(values, axis=-1)[..., k - 1]
    return jnp.where(jnp.isnan(values).any(-1), jnp.nan, chosen)


def _row_value(row: Row, scores: Array) -> Array:
    plus = 0.0 if row.plus is None else scores[..., row.plus]
    minus = 0.0 if row.minus is None else scores[..., row.minus]
    value = plus - minus + row.offset
    return sum((weight * scores[..., label] for label, weight in row.weights), value)


def _parts(p: Property) -> Sequence[Property]:
    return p.parts if isinstance(p, And) else (p,)


def _require_label(label: Any, label_count: int) -> None:
    if not 0 <= label < label_count:
        raise ValueError(f"label: must be in 0..{label_count - 1}, got {label}.")


def _require_k(k: Any, label_count: int) -> None:
    if not 1 <= k < label_count:
        raise ValueError(
            f"k: must be in 1..{label_count - 1} for {label_count} labels, got {k} "
            "(with k equal to the label count every label is always in the top k)."
        )


def _require_threshold(threshold: float) -> None:
    if not np.isfinite(threshold):
        raise ValueError(f"threshold: must be a finite logit, got {threshold}.")
