"""What a certificate claims, and whether its steps prove it.

A property is a tree of order statistics over linear rows of the scores; it holds where the tree is
positive. It is proven by *clauses*: sets of rows of which, everywhere in the box, one is positive. A
clause is proven by a tree: a node cuts its region in two, at a threshold of an entry (an input, or a
unit), and what remains holds on both sides; in a leaf, some mixture of the clause's rows (weights at
least 0, not all 0) has a positive lower bound on the region, so that not all of these rows can be 0 or
less there. A leaf may be a sum: the mixture is written by entries that are divided into parts, and every
part's share of it has a tree of its own, whose least bound it stays above.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from jmlv_check.ball import Ball
from jmlv_check.linear import Inner, Region, Split, Weights, bounded, cut, least, passed
from jmlv_check.network import Maximum, Network, require

FLOATS = (np.float16, np.float32, np.float64)
"""Types whose numbers are float64's too; a longer one would be rounded."""

CLAUSES = 100_000
"""A property that needs more is refused."""


class Aim(NamedTuple):
    """What is bounded: a row over some entries, and a constant."""

    row: np.ndarray
    entries: np.ndarray
    constant: Any


class Question:
    """A box, or a ball in it, and a property over a network, in one arithmetic.

    Args:
        arrays: of the certificate: ``lower``, ``upper`` (the box, flat), ``rows`` (row, score) and
            ``offsets`` (row,); of a ball ``ball.norm``, ``ball.centre``, ``ball.weights``, ``ball.radii``
            and ``ball.layer`` as :class:`jmlv_check.ball.Ball` has them; ``leaf.I.M``, bytes (unit,
            element), lower weights of maximum ``M`` in leaf ``I``, and if that is a sum ``leaf.I.part``, the part
            of each entry, or -1; ``inner.K.at``, entries that maximum ``K`` reads, and ``inner.K.M``, bytes
            (row, unit, element), weights for their lower ends, then their upper ones.
        tree: the property: a row's number, or ``[k, child, ..]`` for the k-th smallest child.
        known: the last box that was bounded, by all that it depends on: a question's bounds are
            found there, and left there for the next.
    """

    def __init__(
        self, network: Network, tier: Any, arrays: dict, tree: Any, known: dict | None = None
    ) -> None:
        self.network, self.tier, self.arrays, self.tree = network, tier, arrays, tree
        self._known = {} if known is None else known
        self.lower, self.upper, self.rows, self.offsets = (
            tier.lift(floats(arrays, name)) for name in ("lower", "upper", "rows", "offsets")
        )
        fits = self.lower.shape == (network.inputs,) == self.upper.shape
        require(fits and not np.any(self.lower > self.upper), "box: inverted, or of a wrong shape")
        fits = self.rows.shape == (*self.offsets.shape, len(network.scores))
        require(fits, "rows: not over the scores, or not with an offset each")
        require(
            sorted(leaves(tree)) == list(range(len(self.rows))), "property: a leaf for each row"
        )
        self.ball = self._ball() if any(name.startswith("ball.") for name in arrays) else None
        self._about = network.sha256(), tier, _content(arrays)

    def _ball(self) -> Ball:
        norm, layer = (np.asarray(self.arrays.get(f"ball.{name}")) for name in ("norm", "layer"))
        centre, weights, radii = (
            self.tier.lift(floats(self.arrays, f"ball.{name}"))
            for name in ("centre", "weights", "radii")
        )
        shapes = centre.shape == weights.shape == layer.shape == self.lower.shape
        require(shapes and radii.ndim == 1 and norm.shape == (), "ball: a wrong shape")
        require(norm.dtype.kind == "i" and int(norm) in (1, 2), "ball: its norm is not 1 or 2")
        require(bool((weights > 0).all() and (radii >= 0).all()), "ball: a negative size")
        known = layer.dtype.kind == "i" and 0 <= layer.min() and layer.max() < len(radii)
        require(known, "ball: an input of no layer")
        return Ball(int(norm), centre, weights, radii, layer)

    def region(self, path: tuple[Split, ...]) -> Region | None:
        """The part of the box that cuts lead to; None if no input is left."""
        inputs = self.network.inputs
        cuts, units = (tuple(s for s in path if (s.entry < inputs) is own) for own in (True, False))
        key = *self._about, cuts
        if key not in self._known:
            found = self._box(cuts)
            self._known.clear()
            self._known[key] = found
        box = self._known[key]
        return box.within(units) if box and units else box

    def _box(self, cuts: tuple[Split, ...]) -> Region | None:
        lower, upper = self.lower.copy(), self.upper.copy()
        cut(self.tier, lower, upper, cuts)
        if np.any(lower > upper):
            return None
        return bounded(self.network, self.tier, lower, upper, dict(self._inner()), self.ball)

    def _inner(self) -> Iterator[tuple[int, Inner]]:
        """Weights of their own for entries that maxima read, by number of the maximum."""
        for number, start in enumerate(self.network.starts()[:-1], 1):
            at = self.arrays.get(f"inner.{number}.at")
            if at is not None:
                good = at.ndim == 1 and at.dtype.kind == "i" and at.size
                good = good and 0 <= at.min() and at.max() < start
                require(good, f"inner.{number}.at: no entries before the node")
                yield number, Inner(at, self.weights(f"inner.{number}", 2 * at.size))

    def weights(self, prefix: str, *rows: int) -> Weights:
        """Lower weights that the certificate gives, in 128ths, perhaps for each row."""
        found = {}
        for number, node in enumerate(self.network.nodes, 1):
            name = f"{prefix}.{number}"
            if name in self.arrays and isinstance(node, Maximum):
                found[number] = self.arrays[name]
                fits = found[number].shape == (*rows, *node.source.shape)
                require(found[number].dtype == np.uint8, f"{name}: not of unsigned bytes")
                require(fits, f"{name}: a wrong shape")
        return found

    def part(self, leaf: int, trees: list) -> np.ndarray:
        """The part of each entry in a leaf that is a sum; -1 if of none."""
        part = self.arrays.get(f"leaf.{leaf}.part") if trees else None
        part = np.full(self.network.starts()[-1], -1) if part is None else part
        fits = part.shape == (self.network.starts()[-1],) and part.dtype.kind == "i"
        fits = fits and -1 <= part.min() and part.max() < len(trees)
        require(fits, f"leaf.{leaf}.part: not a part of each entry")
        return part

    def betas(self, leaf: int, count: int) -> np.ndarray:
        """A leaf's multipliers of the splits that lead to it."""
        found = floats(self.arrays, "leaf.beta")
        fits = found.ndim == 2 and 0 <= leaf < len(found) and count <= found.shape[1]
        good = fits and bool((found[leaf][:count] >= 0).all())
        require(good, f"leaf {leaf}: its multipliers are not there, or negative")
        return self.tier.lift(found[leaf][:count])

    def mixed(self, region: Region, leaf: int, rows: frozenset) -> Aim:
        """A leaf's mixture of a clause's rows."""
        mixtures, name = floats(self.arrays, "leaf.mixture"), f"leaf {leaf}"
        tier, (count, labels) = self.tier, self.rows.shape
        fits = mixtures.ndim == 2 and 0 <= leaf < len(mixtures) and mixtures.shape[1] == count
        require(fits, f"{name}: not in the arrays")
        mixture = mixtures[leaf]
        require(bool((mixture >= 0).all()) and mixture.any(), f"{name}: its mixture is not one")
        require(set(np.flatnonzero(mixture)) <= rows, f"{name}: mixes rows of another clause")
        groups, mixture = np.tile(np.arange(labels), count), tier.lift(mixture)
        row, slack = tier.sums(mixture.repeat(labels), self.rows.ravel(), groups, labels)
        cost = tier.dot(-slack[None], region.magnitude(self.network.scores))
        constant = tier.plus(cost, tier.dot(mixture[None], self.offsets))
        return Aim(row, self.network.scores, constant)


def check_robust(question: Question, clauses: list) -> tuple[float, int]:
    """Checks that the property holds everywhere in the box.

    Returns:
        The least of the leaves' bounds, and how many leaves there were.

    Raises:
        Refused: with the first step that does not hold.
    """
    proven = [frozenset(map(int, clause["rows"])) for clause in clauses]
    require_enough(question.tree, proven)
    found = [_bound(question, c["proof"], (), rows) for rows, c in zip(proven, clauses)]
    bounds = [question.tier.show(bound) for bound, _ in found]
    return min(bounds, default=np.inf), sum(count for _, count in found)


def _bound(
    question: Question,
    tree: Any,
    path: tuple[Split, ...],
    rows: frozenset,
    share: Aim | None = None,
) -> tuple[Any, int]:
    """A number that a part's share, or if there is none a mixture of the clause's rows in each leaf, stays
    above on the region that cuts lead to; and how many leaves there are.

    Raises:
        Refused: a bound is no number, or that of a mixture is not positive.
    """
    tier, network = question.tier, question.network
    if "leaf" not in tree:
        entry, threshold, found = int(tree["entry"]), float(tree["at"]), []
        require(0 <= entry < network.starts()[-1], f"proof: there is no entry {entry}")
        require(np.isfinite(threshold), "proof: a threshold that is not a number")
        for side, name in ((-1, "low"), (1, "high")):
            further = (*path, Split(entry, threshold, side))
            found.append(_bound(question, tree[name], further, rows, share))
        return min(bound for bound, _ in found), sum(count for _, count in found)
    leaf, region = int(tree["leaf"]), question.region(path)
    if region is None:
        return np.inf, 1
    aim, trees, count = share or question.mixed(region, leaf, rows), tree.get("trees", []), 1
    part = question.part(leaf, trees)
    weights, betas = question.weights(f"leaf.{leaf}"), question.betas(leaf, len(region.splits))
    pending, bound = passed(region, aim.row[None], aim.entries, weights, betas, part >= 0)
    free = np.where(part[: network.inputs] < 0, pending[:, : network.inputs], 0)
    bound = tier.plus(tier.plus(bound, aim.constant), least(region, free))
    for number, own in enumerate(trees):
        at = np.flatnonzero(part[: pending.shape[1]] == number)
        found, more = _bound(question, own, path, rows, Aim(pending[0, at], at, 0))
        bound, count = tier.plus(bound, found), count + more
    good = (-np.inf if share else 0) < bound[0] < np.inf
    require(good, f"leaf {leaf}: its bound is {tier.show(bound[0]):.6g}, not positive")
    return bound[0], count


def check_violated(question: Question, witness: np.ndarray) -> float:
    """Checks that the property fails at a point of the box; returns the most its margin can be.

    Raises:
        Refused: the point leaves the box, or its margin may be positive.
    """
    tier, scores = question.tier, question.network.scores
    require(witness.shape == question.lower.shape, "witness: a wrong shape")
    point = tier.lift(witness)
    inside = (question.lower <= point) & (point <= question.upper)
    require(bool(inside.all()), "witness: leaves the box")
    within = question.ball is None or question.ball.holds(tier, point)
    require(within, "witness: leaves the ball")
    region = bounded(question.network, tier, point, point, {})
    ends = np.where(question.rows > 0, region.upper[scores], region.lower[scores])
    values = -tier.plus(tier.dot(-question.rows, ends), -question.offsets)
    require(bool((np.abs(values) < np.inf).all()), "witness: a row overflows there")
    most = evaluate(question.tree, list(values))
    require(most <= 0, f"witness: its margin may be as large as {tier.show(most):.6g}")
    return tier.show(most)


# ---------------------------------------------------------------------------------------------


def leaves(tree: Any) -> list[int]:
    """The rows of a property's tree.

    Raises:
        Refused: it is no tree of order statistics.
    """
    if isinstance(tree, int) and not isinstance(tree, bool):
        return [tree]
    good = isinstance(tree, list) and len(tree) > 1 and isinstance(tree[0], int)
    require(good and 1 <= tree[0] < len(tree), "property: expected a row or [k, child, ..]")
    return [row for child in tree[1:] for row in leaves(child)]


def evaluate(tree: Any, values: list) -> Any:
    """The value of a tree where its rows have these values."""
    if isinstance(tree, int):
        return values[tree]
    return sorted(evaluate(child, values) for child in tree[1:])[tree[0] - 1]


def require_enough(tree: Any, proven: list[frozenset]) -> None:
    """The property follows from the clauses: whenever in each some row is positive, it holds.

    The k-th smallest of some children is positive iff of any k of them one is; so the property is a
    conjunction of clauses of its own, and each of these has to contain a proven one.

    Raises:
        Refused: names a clause of the property that contains none.
    """
    for count, clause in enumerate(_clauses(tree)):
        require(count < CLAUSES, "property: it has too many clauses")
        what = f"clauses: none proves that one of the rows {sorted(clause)} is positive"
        require(any(rows <= clause for rows in proven), what)


def _clauses(tree: Any) -> Iterator[frozenset]:
    if isinstance(tree, int):
        yield frozenset((tree,))
        return
    for chosen in itertools.combinations(tree[1:], tree[0]):
        for parts in itertools.product(*map(_clauses, chosen)):
            yield frozenset().union(*parts)


def _content(arrays: dict) -> tuple:
    """All arrays that the bounds of inner neurons depend on."""
    names = sorted(
        n for n in arrays if n in ("lower", "upper") or n.startswith(("ball.", "inner."))
    )
    found = [(name, np.ascontiguousarray(arrays[name])) for name in names]
    return tuple((name, a.dtype.str, a.shape, a.tobytes()) for name, a in found)


def floats(arrays: dict, name: str) -> np.ndarray:
    """An array of numbers that float64 holds exactly.

    Raises:
        Refused: it is missing, or of another kind.
    """
    array = arrays.get(name)
    require(array is not None and array.dtype in FLOATS, f"{name}: missing, or not of floats")
    require(bool(np.isfinite(array).all()), f"{name}: holds a NaN or an infinity")
    return array.astype(np.float64)
