"""What a certificate claims, and whether its steps prove it.

A property is a tree of order statistics over linear rows of the scores; it holds where the tree is
positive. It is proven by *clauses*: sets of rows of which, everywhere in the box, one is positive. A
clause is proven by a tree: a node cuts its region in two, at a unit's threshold or at an input's, and
what remains holds on both sides; in a leaf, some mixture of the clause's rows (weights at least 0, not
all 0) has a positive lower bound on the region, so that not all of these rows can be 0 or less there.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from jmlv_check.ball import Ball
from jmlv_check.linear import Inner, Region, Slopes, Split, bounded, lower_bounds
from jmlv_check.network import Maximum, Network, Refused

FLOATS = (np.float16, np.float32, np.float64)
"""Types whose numbers are float64's too; a longer one would be rounded."""

CLAUSES = 100_000
"""A property that needs more is refused."""


class Path(NamedTuple):
    """How a leaf is reached: cuts of inputs (index, threshold, side), then of units."""

    cuts: tuple[tuple[int, float, int], ...] = ()
    splits: tuple[Split, ...] = ()


class Question:
    """A box, or a ball in it, and a property over a network, in one arithmetic.

    Args:
        arrays: of the certificate: ``lower``, ``upper`` (the box, flat), ``rows`` (row, score) and
            ``offsets`` (row,); of a ball ``ball.norm``, ``ball.centre``, ``ball.weights``, ``ball.radii``
            and ``ball.layer`` as :class:`jmlv_check.ball.Ball` has them; ``leaf.I.M``, bytes (unit,
            element), lower weights of maximum ``M`` in leaf ``I``; ``inner.K.at``, entries of what maximum ``K`` reads, and ``inner.K.M``, bytes
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
        self.lower, self.upper = (_numbers(tier, arrays, name) for name in ("lower", "upper"))
        self.rows, self.offsets = (_numbers(tier, arrays, name) for name in ("rows", "offsets"))
        labels = network.size(len(network.nodes))
        _require(self.lower.shape == (network.inputs,) == self.upper.shape, "box: a wrong shape")
        _require(not np.any(self.lower > self.upper), "box: lower exceeds upper")
        _require(self.rows.ndim == 2 and self.rows.shape[1] == labels, "rows: not over the scores")
        _require(self.offsets.shape == (len(self.rows),), "offsets: one for each row is needed")
        _require(
            sorted(leaves(tree)) == list(range(len(self.rows))), "property: a leaf for each row"
        )
        self.ball = self._ball() if any(name.startswith("ball.") for name in arrays) else None
        self._about = network.sha256(), tier, _digest(arrays)

    def _ball(self) -> Ball:
        norm, layer = (np.asarray(self.arrays.get(f"ball.{name}")) for name in ("norm", "layer"))
        centre, weights, radii = (
            _numbers(self.tier, self.arrays, f"ball.{name}")
            for name in ("centre", "weights", "radii")
        )
        shapes = centre.shape == weights.shape == layer.shape == self.lower.shape
        _require(shapes and radii.ndim == 1 and norm.shape == (), "ball: a wrong shape")
        _require(norm.dtype.kind == "i" and int(norm) in (1, 2), "ball: its norm is not 1 or 2")
        _require(bool((weights > 0).all() and (radii >= 0).all()), "ball: a negative size")
        known = layer.dtype.kind == "i" and 0 <= layer.min() and layer.max() < len(radii)
        _require(known, "ball: an input of no layer")
        return Ball(int(norm), centre, weights, radii, layer)

    def region(self, path: Path) -> Region | None:
        """The part of the box that a path leads to; None if no input is left."""
        key = (*self._about, path.cuts)
        whole = self._known.get(key, ...)
        if whole is ...:
            whole = self._box(path.cuts)
            self._known.clear()
            self._known[key] = whole
        return whole.within(path.splits) if whole is not None and path.splits else whole

    def _box(self, cuts: tuple) -> Region | None:
        lower, upper = self.lower.copy(), self.upper.copy()
        for index, threshold, side in cuts:
            at = self.tier.lift([threshold])[0]
            if side > 0:
                lower[index] = max(lower[index], at)
            else:
                upper[index] = min(upper[index], at)
        if np.any(lower > upper):
            return None
        numbers = [
            n for n in range(1, len(self.network.nodes) + 1) if f"inner.{n}.at" in self.arrays
        ]
        inner = {n: found for n in numbers if (found := self._inner(n)) is not None}
        return bounded(self.network, self.tier, lower, upper, inner, self.ball)

    def _inner(self, number: int) -> Inner | None:
        """Weights of their own for entries of what a maximum reads."""
        node, at = self.network.nodes[number - 1], self.arrays[f"inner.{number}.at"]
        good = isinstance(node, Maximum) and at.ndim == 1 and at.dtype.kind == "i" and at.size
        good = good and 0 <= at.min() and at.max() < self.network.size(node.parent)
        _require(good, f"inner.{number}.at: no entries of what a maximum reads")
        slopes = self.slopes(f"inner.{number}", 2 * at.size)
        return None if slopes is None else Inner(at, slopes)

    def slopes(self, prefix: str, *rows: int) -> Slopes | None:
        """A set of lower weights that the certificate gives, in 128ths, perhaps for each row."""
        found = {}
        for number, node in enumerate(self.network.nodes, 1):
            array = self.arrays.get(f"{prefix}.{number}")
            if array is not None and isinstance(node, Maximum):
                name = f"{prefix}.{number}"
                _require(array.dtype == np.uint8, f"{name}: not of unsigned bytes")
                _require(array.shape == (*rows, *node.window.shape), f"{name}: a wrong shape")
                found[number] = array
        return Slopes(found) if found else None

    def bound(self, region: Region, mixture: np.ndarray, slopes: Slopes | None, betas) -> Any:
        """A number that the mixture of the rows stays above on the region."""
        tier, (count, labels) = self.tier, self.rows.shape
        groups = np.tile(np.arange(labels), count)
        repeated = np.repeat(mixture, labels)[None]
        row, slack = tier.sums(repeated, self.rows.reshape(-1), groups, labels)
        last = len(self.network.nodes)
        every = np.zeros(labels, np.int64)
        cost = tier.below(*tier.sums(-slack, region.magnitude(last), every, 1))[:, 0]
        constant = tier.below(*tier.sums(mixture[None], self.offsets, every[:1].repeat(count), 1))
        found = lower_bounds(region, last, row, slopes, betas)
        for part in (cost, constant[:, 0]):
            found = tier.below(*tier.add(found, part))
        return found[0]


def check_robust(question: Question, clauses: list) -> tuple[float, int]:
    """Checks that the property holds everywhere in the box.

    Returns:
        The least of the leaves' bounds, and how many leaves there were.

    Raises:
        Refused: with the first step that does not hold.
    """
    proven = [frozenset(_row(question, row) for row in clause["rows"]) for clause in clauses]
    require_enough(question.tree, proven)
    least, count = np.inf, 0
    for number, clause in enumerate(clauses):
        for path, leaf in _walk(question.network, clause["proof"]):
            name = f"clause {number}, leaf {leaf}"
            least = min(least, _check_leaf(question, proven[number], path, leaf, name))
            count += 1
    return least, count


def _check_leaf(question: Question, rows: frozenset, path: Path, leaf: int, name: str) -> float:
    tier, arrays = question.tier, question.arrays
    mixtures, betas = floats(arrays, "leaf.mixture"), floats(arrays, "leaf.beta")
    fits = mixtures.ndim == betas.ndim == 2 and 0 <= leaf < min(len(mixtures), len(betas))
    _require(fits and mixtures.shape[1] == len(question.rows), f"{name}: not in the arrays")
    mixture, beta = mixtures[leaf], betas[leaf][: len(path.splits)]
    _require(bool((mixture >= 0).all()) and mixture.any(), f"{name}: its mixture is not one")
    _require(set(np.flatnonzero(mixture)) <= rows, f"{name}: mixes rows of another clause")
    _require(len(beta) == len(path.splits) and bool((beta >= 0).all()), f"{name}: multipliers")
    region = question.region(path)
    if region is None:
        return np.inf
    slopes = question.slopes(f"leaf.{leaf}")
    found = question.bound(region, tier.lift(mixture), slopes, tier.lift(beta))
    if not (tier.finite(found) and found > 0):
        raise Refused(f"{name}: its bound is {tier.show(found):.6g}, which is not positive.")
    return tier.show(found)


def check_violated(question: Question, witness: np.ndarray) -> float:
    """Checks that the property fails at a point of the box; returns the most its margin can be.

    Raises:
        Refused: the point leaves the box, or its margin may be positive.
    """
    tier, last = question.tier, len(question.network.nodes)
    _require(witness.shape == question.lower.shape, "witness: a wrong shape")
    point = tier.lift(witness)
    inside = (question.lower <= point) & (point <= question.upper)
    _require(bool(inside.all()), "witness: leaves the box")
    within = question.ball is None or question.ball.holds(tier, point)
    _require(within, "witness: leaves the ball")
    region = bounded(question.network, tier, point, point, {})
    lower, upper = region.intervals[last]
    values = []
    for row, offset in zip(question.rows, question.offsets):
        ends = np.where(row > 0, upper, lower)
        sums = tier.sums((-row)[None], ends, np.zeros(len(row), np.int64), 1)
        values.append(-tier.below(*tier.add(tier.below(*sums)[0, 0], -offset)))
    _require(all(tier.finite(value) for value in values), "witness: a row overflows there")
    most = evaluate(question.tree, values)
    if not (tier.finite(most) and most <= 0):
        raise Refused(f"witness: its margin may be as large as {tier.show(most):.6g}.")
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
    _require(good and 1 <= tree[0] < len(tree), "property: expected a row or [k, child, ..]")
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
        _require(count < CLAUSES, "property: it has too many clauses")
        if not any(rows <= clause for rows in proven):
            raise Refused(
                f"clauses: none proves that one of the rows {sorted(clause)} is positive."
            )


def _clauses(tree: Any) -> Iterator[frozenset]:
    if isinstance(tree, int):
        yield frozenset((tree,))
        return
    for chosen in itertools.combinations(tree[1:], tree[0]):
        for parts in itertools.product(*map(_clauses, chosen)):
            yield frozenset().union(*parts)


def _walk(network: Network, proof: Any) -> Iterator[tuple[Path, int]]:
    """The leaves of a proof, each with the path to it; both sides of every cut are walked."""
    waiting = [(Path(), proof)]
    while waiting:
        path, tree = waiting.pop()
        _require(isinstance(tree, dict), "proof: expected a leaf or a cut")
        if "leaf" in tree:
            yield path, int(tree["leaf"])
            continue
        _require("low" in tree and "high" in tree, "proof: a cut with one side only")
        for side, name in ((-1, "low"), (1, "high")):
            waiting.append((_further(network, path, tree, side), tree[name]))


def _further(network: Network, path: Path, tree: dict, side: int) -> Path:
    threshold = float(tree["at"])
    _require(np.isfinite(threshold), "proof: a threshold that is not a number")
    if "input" in tree:
        index = int(tree["input"])
        _require(0 <= index < network.inputs, f"proof: there is no input {index}")
        _require(not path.splits, "proof: inputs have to be cut before units")
        return path._replace(cuts=(*path.cuts, (index, threshold, side)))
    node, index = int(tree["node"]), int(tree["unit"])
    known = 1 <= node <= len(network.nodes) and isinstance(network.nodes[node - 1], Maximum)
    _require(known and 0 <= index < network.size(node), f"proof: no unit {index} at node {node}")
    return path._replace(splits=(*path.splits, Split(node, index, threshold, side)))


def _row(question: Question, row: Any) -> int:
    _require(
        isinstance(row, int) and 0 <= row < len(question.rows), f"clauses: there is no row {row}"
    )
    return row


def _digest(arrays: dict) -> str:
    """The hash of all arrays that the bounds of inner neurons depend on."""
    digest = hashlib.sha256()
    for name in sorted(
        n for n in arrays if n in ("lower", "upper") or n.startswith(("ball.", "inner."))
    ):
        array = np.ascontiguousarray(arrays[name])
        name = name.encode()  # behind its length, so that no name can stand for numbers
        digest.update(
            f"{len(name)} {array.dtype.str} {array.shape}\n".encode() + name + array.tobytes()
        )
    return digest.hexdigest()


def _numbers(tier: Any, arrays: dict, name: str) -> np.ndarray:
    return tier.lift(floats(arrays, name))


def floats(arrays: dict, name: str) -> np.ndarray:
    """An array of numbers that float64 holds exactly.

    Raises:
        Refused: it is missing, or of another kind.
    """
    array = arrays.get(name)
    _require(array is not None and array.dtype in FLOATS, f"{name}: missing, or not of floats")
    _require(bool(np.isfinite(array).all()), f"{name}: holds a NaN or an infinity")
    return array.astype(np.float64)


def _require(holds: Any, what: str) -> None:
    if not holds:
        raise Refused(f"{what}.")
