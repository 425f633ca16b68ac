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

from jmlv.margin_form import MarginForm
from jmlv.require import integer


@dataclasses.dataclass(frozen=True)
class Row:
    """The leaf ``scores[plus] - scores[minus] + offset``; a label may be absent (None).

    ``weights`` adds any further (label, coefficient) pairs, for general linear rows.
    """

    plus: int | None
    minus: int | None
    offset: float = 0.0
    weights: tuple[tuple[int, float], ...] = ()

    @staticmethod
    def of(coefficients: Sequence[float], offset: float) -> Row:
        """The row ``coefficients @ scores + offset``, in its simplest form.

        >>> Row.of((0.0, 1.0, -1.0), 0.5)
        Row(plus=1, minus=2, offset=0.5, weights=())
        """
        weights = tuple((label, float(c)) for label, c in enumerate(coefficients) if c)
        plus = [label for label, c in weights if c == 1]
        minus = [label for label, c in weights if c == -1]
        if len(weights) == len(plus) + len(minus) and len(plus) <= 1 and len(minus) <= 1:
            return Row(next(iter(plus), None), next(iter(minus), None), offset)
        return Row(None, None, offset, weights)

    def negated(self) -> Row:
        """The row whose value is minus this one's."""
        weights = tuple((label, -weight) for label, weight in self.weights)
        return Row(self.minus, self.plus, -self.offset, weights)

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

    def negated(self) -> KthSmallest:
        """The tree whose value is minus this one's: the k-th smallest becomes the k-th largest."""
        return at_least(self.k, tuple(child.negated() for child in self.children))


Tree = Union[Row, KthSmallest]


def at_least(count: int, parts: tuple[Tree, ...]) -> KthSmallest:
    """Positive iff at least so many of the parts are: the ``count``-th largest of them."""
    return KthSmallest(len(parts) - count + 1, parts)


class Property(abc.ABC):
    """A statement about the scores of one image; it holds iff its margin is positive.

    Properties are frozen, hashable values. ``a & b`` holds where both do, ``a | b`` where one does,
    and ``~a`` where ``a`` fails by more than a tie: a tie counts against both.
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
        scores = _outside_jax(jnp.asarray(scores))
        rows = leaves(self.tree(scores.shape[-1]))
        stack = np.stack if isinstance(scores, np.ndarray) else jnp.stack
        values = stack([_row_value(row, scores) for row in rows], -1)
        return self.combine(values, scores.shape[-1])

    def combine(self, rows: Float[Array, "*batch row"], label_count: int) -> Float[Array, "*batch"]:
        """The margin from the values, or from bounds, of the rows in the order of :meth:`rows`."""
        return jnp.asarray(self.form(label_count).combine(_outside_jax(rows)))

    def form(self, label_count: int) -> MarginForm:
        """The margin as arrays and a structure, for compiled functions."""
        return MarginForm.of(*self.rows(label_count), self.tree(label_count))

    def rows(
        self, label_count: int
    ) -> tuple[Float[np.ndarray, "row label"], Float[np.ndarray, " row"]]:
        """``(C, d)`` such that the rows' values are ``C @ scores + d``."""
        rows = leaves(self.tree(label_count))
        return np.stack([r.dense(label_count) for r in rows]), np.array([r.offset for r in rows])

    def __and__(self, other: Property) -> And:
        return And((*_parts(self, And), *_parts(other, And)))

    def __or__(self, other: Property) -> Or:
        return Or((*_parts(self, Or), *_parts(other, Or)))

    def __invert__(self) -> Property:
        return self.part if isinstance(self, Not) else Not(self)


@dataclasses.dataclass(frozen=True)
class InTopK(Property):
    """Label ``label`` is among the ``k`` highest scores.

    margin = -(k-th largest of ``F_c - F_t`` over ``c != t``): fewer than k other labels score at
    least as high.
    """

    label: int
    k: int

    def __post_init__(self) -> None:
        _take_integers(self, "label", "k")

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

    def __post_init__(self) -> None:
        _take_integers(self, "label", "k")

    @property
    def labels(self) -> tuple[int, ...]:
        return (self.label,)

    def tree(self, label_count: int) -> KthSmallest:
        _require_label(self.label, label_count)
        _require_k(self.k, label_count)
        others = tuple(Row(c, self.label) for c in range(label_count) if c != self.label)
        return at_least(self.k, others)


@dataclasses.dataclass(frozen=True)
class KeepsLabels(Property):
    """All of ``keep``, or at least ``at_least`` of them, are among the ``k`` highest scores."""

    keep: tuple[int, ...]
    k: int
    at_least: int | None = None

    def __post_init__(self) -> None:
        keep = tuple(integer("keep", label) for label in self.keep)
        _take_integers(self, "k", *(() if self.at_least is None else ("at_least",)))
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
        return at_least(self._needed, parts)


@dataclasses.dataclass(frozen=True)
class MeetsTopK(Property):
    """At least ``at_least`` of ``meant`` are among the top ``k``, whichever of equal scores come first.

    margin = the ``e``-th largest score of ``meant`` minus the ``(k - e + 1)``-th largest of the
    others, ``e = at_least``: where it is positive, fewer than ``k - e + 1`` others have a place.

    :class:`KeepsLabels` asks for each label by itself whether it is in, and a tie counts against each
    of those that are tied; here k labels are in at any point, so one place is lost to one label.
    Source of the condition: Jia et al., *MultiGuard*, NeurIPS 2022, proof of Theorem 1.

    >>> import jmlv
    >>> for kind in (jmlv.MeetsTopK, jmlv.KeepsLabels):
    ...     print(kind((0, 1), k=2, at_least=1).margin([1.0, 1.0, 1.0, 0.0]))
    1.0
    0.0
    """

    meant: tuple[int, ...]
    k: int
    at_least: int

    def __post_init__(self) -> None:
        meant = tuple(integer("meant", label) for label in self.meant)
        object.__setattr__(self, "meant", meant)
        _take_integers(self, "k", "at_least")
        if not meant or len(set(meant)) != len(meant):
            raise ValueError(f"meant: expected distinct labels, at least one, got {meant}.")
        if not 1 <= self.at_least <= min(len(meant), self.k):
            raise ValueError(
                f"at_least: must be in 1..{min(len(meant), self.k)} for {len(meant)} labels and "
                f"k = {self.k}, got {self.at_least}."
            )

    @property
    def labels(self) -> tuple[int, ...]:
        return self.meant

    def tree(self, label_count: int) -> KthSmallest:
        for label in self.meant:
            _require_label(label, label_count)
        _require_k(self.k, label_count)
        others = tuple(label for label in range(label_count) if label not in self.meant)
        beaten = len(others) - (self.k - self.at_least)
        if beaten < 1:
            raise ValueError(
                f"at_least: with {len(others)} other labels, {self.at_least} of {len(self.meant)} "
                f"are always in the top {self.k}: there is nothing to ask."
            )
        parts = (at_least(beaten, tuple(Row(p, q) for q in others)) for p in self.meant)
        return at_least(self.at_least, tuple(parts))


@dataclasses.dataclass(frozen=True)
class AboveThreshold(Property):
    """The raw score (logit) of ``label`` exceeds ``threshold``: margin = ``F_t - threshold``."""

    label: int
    threshold: float = 0.0

    def __post_init__(self) -> None:
        _take_integers(self, "label")
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
        _take_integers(self, "label")
        _require_threshold(self.threshold)

    @property
    def labels(self) -> tuple[int, ...]:
        return (self.label,)

    def tree(self, label_count: int) -> Row:
        _require_label(self.label, label_count)
        return Row(None, self.label, self.threshold)


@dataclasses.dataclass(frozen=True, repr=False)
class Linear(Property):
    """Linear inequalities over the scores, all of which hold: ``A @ scores + b > 0``.

    margin = smallest entry of ``A @ scores + b``.

    Args:
        coefficients: ``A``, (row, label), or (label,) for one inequality.
        offsets: ``b``, one for each row, or one for all.

    Raises:
        ValueError: shapes do not fit, a number is not finite, or a row reads no score.

    >>> import jmlv
    >>> balanced = jmlv.Linear([[1, -2, 0], [0, 0, 1]], [0.5, 0])
    >>> print(balanced, balanced.margin([1.0, 0.5, 3.0]))
    Linear(F0 - 2 F1 > -0.5, F2 > 0) 0.5
    """

    coefficients: tuple[tuple[float, ...], ...]
    offsets: tuple[float, ...] = (0.0,)

    def __post_init__(self) -> None:
        rows = np.atleast_2d(np.asarray(self.coefficients, float))
        offsets = np.atleast_1d(np.asarray(self.offsets, float))
        if rows.ndim != 2 or not rows.size:
            raise ValueError(f"coefficients: expected (row, label), got shape {rows.shape}.")
        if offsets.shape not in ((1,), (len(rows),)):
            raise ValueError(f"offsets: expected one for each of {len(rows)} rows, got {offsets}.")
        if not (np.isfinite(rows).all() and np.isfinite(offsets).all()):
            raise ValueError("coefficients, offsets: hold NaN or infinite values.")
        if not rows.any(1).all():
            raise ValueError("coefficients: every row needs a score that is not multiplied by 0.")
        offsets = np.broadcast_to(offsets, len(rows))
        object.__setattr__(self, "coefficients", tuple(map(tuple, rows.tolist())))
        object.__setattr__(self, "offsets", tuple(offsets.tolist()))

    @property
    def labels(self) -> tuple[int, ...]:
        return tuple(np.flatnonzero(np.any(self.coefficients, axis=0)).tolist())

    def tree(self, label_count: int) -> Tree:
        if len(self.coefficients[0]) != label_count:
            raise ValueError(
                f"coefficients: {len(self.coefficients[0])} a row, the network has {label_count} "
                "scores."
            )
        rows = tuple(map(Row.of, self.coefficients, self.offsets))
        return rows[0] if len(rows) == 1 else at_least(len(rows), rows)

    def __repr__(self) -> str:
        return f"Linear({', '.join(map(_inequality, self.coefficients, self.offsets))})"


@dataclasses.dataclass(frozen=True, repr=False)
class And(Property):
    """Every part holds; margin = the smallest of theirs. Written ``a & b``."""

    parts: tuple[Property, ...]

    def __post_init__(self) -> None:
        _require_parts(self)

    @property
    def labels(self) -> tuple[int, ...]:
        return _labels(self.parts)

    def tree(self, label_count: int) -> KthSmallest:
        return at_least(len(self.parts), _trees(self.parts, label_count))

    def __repr__(self) -> str:
        return f"({' & '.join(map(repr, self.parts))})"


@dataclasses.dataclass(frozen=True, repr=False)
class Or(Property):
    """Some part holds, not the same one everywhere; margin = the largest of theirs: ``a | b``.

    >>> import jax.numpy as jnp, jmlv
    >>> either = jmlv.InTopK(0, k=1) | jmlv.AboveThreshold(2, 0.5)
    >>> print(either.margin(jnp.array([1.0, 2.0, 0.75])))
    0.25
    """

    parts: tuple[Property, ...]

    def __post_init__(self) -> None:
        _require_parts(self)

    @property
    def labels(self) -> tuple[int, ...]:
        return _labels(self.parts)

    def tree(self, label_count: int) -> KthSmallest:
        return at_least(1, _trees(self.parts, label_count))

    def __repr__(self) -> str:
        return f"({' | '.join(map(repr, self.parts))})"


@dataclasses.dataclass(frozen=True)
class AtLeast(Property):
    """At least ``count`` of the parts hold; margin = the ``count``-th largest of theirs.

    >>> import jax.numpy as jnp, jmlv
    >>> two = jmlv.AtLeast(2, [jmlv.AboveThreshold(label) for label in range(3)])
    >>> print(two.margin(jnp.array([1.0, -2.0, 0.5])))
    0.5
    """

    count: int
    parts: tuple[Property, ...]

    def __post_init__(self) -> None:
        _require_parts(self)
        _take_integers(self, "count")
        if not 1 <= self.count <= len(self.parts):
            raise ValueError(f"count: must be in 1..{len(self.parts)}, got {self.count}.")

    @property
    def labels(self) -> tuple[int, ...]:
        return _labels(self.parts)

    def tree(self, label_count: int) -> KthSmallest:
        return at_least(self.count, _trees(self.parts, label_count))


@dataclasses.dataclass(frozen=True)
class WithSlack(Property):
    """The part holds with something to spare: each of its rows counts as that much smaller.

    Args:
        part: a property.
        slack: what is taken off each row of the part, in the order of :meth:`Property.rows`.

    >>> import jax.numpy as jnp, jmlv
    >>> print(WithSlack(jmlv.AboveThreshold(0), (0.25,)).margin(jnp.array([1.0, 3.0])))
    0.75
    """

    part: Property
    slack: tuple[float, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "slack", tuple(map(float, self.slack)))
        if not np.isfinite(self.slack).all() or min(self.slack, default=0.0) < 0:
            raise ValueError(
                f"slack: expected finite numbers that are at least 0, got {self.slack}."
            )

    @property
    def labels(self) -> tuple[int, ...]:
        return self.part.labels

    def tree(self, label_count: int) -> Tree:
        tree = self.part.tree(label_count)
        if len(leaves(tree)) != len(self.slack):
            raise ValueError(
                f"slack: {len(leaves(tree))} rows need as many, got {len(self.slack)}."
            )
        return _lowered(tree, iter(self.slack))


@dataclasses.dataclass(frozen=True, repr=False)
class Not(Property):
    """The part fails, and by more than a tie; margin = minus the part's. Written ``~a``.

    >>> import jax.numpy as jnp, jmlv
    >>> print((~jmlv.InTopK(0, k=1)).margin(jnp.array([1.0, 3.0])))
    2.0
    """

    part: Property

    def __post_init__(self) -> None:
        if not isinstance(self.part, Property):
            raise TypeError(f"part: expected a property, got {self.part!r}.")

    @property
    def labels(self) -> tuple[int, ...]:
        return self.part.labels

    def tree(self, label_count: int) -> Tree:
        return self.part.tree(label_count).negated()

    def __repr__(self) -> str:
        return f"~{self.part!r}"


def leaves(tree: Tree) -> list[Row]:
    """The rows of a tree, left to right."""
    return [tree] if isinstance(tree, Row) else list(_descend(tree))


def _lowered(tree: Tree, slack: Iterator[float]) -> Tree:
    if isinstance(tree, Row):
        return dataclasses.replace(tree, offset=tree.offset - next(slack))
    return KthSmallest(tree.k, tuple(_lowered(child, slack) for child in tree.children))


def _descend(tree: KthSmallest) -> Iterator[Row]:
    for child in tree.children:
        yield from leaves(child)


def _outside_jax(values: Any) -> Any:
    """NumPy's copy of what is not traced: eager JAX would compile every operation on it."""
    return values if isinstance(values, jax.core.Tracer) else np.asarray(values)


def _row_value(row: Row, scores: Array) -> Array:
    plus = 0.0 if row.plus is None else scores[..., row.plus]
    minus = 0.0 if row.minus is None else scores[..., row.minus]
    value = sum((weight * scores[..., label] for label, weight in row.weights), plus - minus)
    return value + row.offset  # last, so that it counts however large the scores are


def _parts(p: Property, kind: type) -> Sequence[Property]:
    return p.parts if isinstance(p, kind) else (p,)


def _labels(parts: Sequence[Property]) -> tuple[int, ...]:
    return tuple(dict.fromkeys(label for part in parts for label in part.labels))


def _trees(parts: Sequence[Property], label_count: int) -> tuple[Tree, ...]:
    return tuple(part.tree(label_count) for part in parts)


def _require_parts(p: And | Or | AtLeast) -> None:
    object.__setattr__(p, "parts", tuple(p.parts))
    wrong = [part for part in p.parts if not isinstance(part, Property)]
    if wrong or not p.parts:
        raise TypeError(f"parts: expected properties, at least one, got {wrong or p.parts}.")


def _inequality(coefficients: Sequence[float], offset: float) -> str:
    """``coefficients @ F + offset > 0``, as people write it."""
    terms = [
        f"{'-' if c < 0 else '+'} {'' if abs(c) == 1 else _written(abs(c)) + ' '}F{label}"
        for label, c in enumerate(coefficients)
        if c
    ]
    text = " ".join(terms).removeprefix("+ ")
    text = "-" + text[2:] if text.startswith("- ") else text
    return f"{text} > {_written(0.0 - offset)}"


def _written(number: float) -> str:
    return repr(number).removesuffix(".0")


def _require_label(label: Any, label_count: int) -> None:
    if not 0 <= label < label_count:
        raise ValueError(f"label: must be in 0..{label_count - 1}, got {label}.")


def _take_integers(p: Property, *names: str) -> None:
    for name in names:
        object.__setattr__(p, name, integer(name, getattr(p, name)))


def _require_k(k: Any, label_count: int) -> None:
    if label_count < 2:
        raise ValueError(
            "k: the network has one label, which is always in the top k. Ask whether its score is "
            "AboveThreshold(0, t) or BelowThreshold(0, t)."
        )
    if not 1 <= k < label_count:
        raise ValueError(
            f"k: must be in 1..{label_count - 1} for {label_count} labels, got {k} "
            "(with k equal to the label count every label is always in the top k)."
        )


def _require_threshold(threshold: float) -> None:
    if not np.isfinite(threshold):
        raise ValueError(f"threshold: must be a finite logit, got {threshold}.")
