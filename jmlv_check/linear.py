"""Linear bounds by a backward pass, with every rounding paid for.

Let ``a . x^k`` be linear functions (rows) of a node's value, on a region where every node's entries
are known to lie in intervals ``[l, u]``. Going backwards:

* affine, ``y = (b + A x) / d``: ``a . y = (a / d) . b + (A^T (a / d)) . x``;
* maximum, ``y = max(c, x_1, .., x_m)``. With ``c' = max(c, l_1, .., l_m)``, which changes nothing,
  below: ``y >= sum_j w_j x_j + (1 - sum_j w_j) c'`` for any ``w >= 0`` with ``sum w <= 1``, since the
  right side is a mean of numbers that are at most ``y``;
  above: ``y <= s x_i + t`` for any ``s`` in [0, 1] and ``t = max(e - s l_i, (1 - s) u_i)`` with ``e``
  the largest of ``c'`` and of the other elements' ``u``: what is not ``x_i`` is at most ``e``, and
  ``x_i - s x_i <= (1 - s) u_i``. Positive coefficients take the line below, negative ones that above;
* a split, a set where ``s (h - t) >= 0`` for a unit's value ``h``: there ``f >= f - beta s (h - t)``
  for any ``beta >= 0``;
* the input: ``a . x >= sum_j min(a_j l_j, a_j u_j)``, or the bound of :mod:`jmlv_check.ball` if that is better.

A computed coefficient differs from the exact one by at most its slack; that costs at most the slack
times the largest magnitude of what it multiplies, and is taken off the constant at once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from jmlv_check.ball import Ball
from jmlv_check.network import Affine, Maximum, Network, Part

STEPS = 128
"""Lower weights are counted in so many parts of 1."""

ROWS = 64
"""How many rows go through a backward pass at a time."""

ENTRIES = 4_000_000
"""How many products are held at a time, about."""


@dataclasses.dataclass(frozen=True)
class Split:
    """A unit held on one side of a threshold: its value for a maximum of one element (the
    element's, before it), for a larger one the maximum's own."""

    node: int
    index: int
    threshold: float
    side: int


@dataclasses.dataclass(frozen=True, eq=False)
class Slopes:
    """Lower weights ``w`` in 128ths, bytes (unit, element) or (row, unit, element), by the number of
    the maximum."""

    weights: Mapping[int, np.ndarray]

    def rows(self, chosen: np.ndarray) -> Slopes:
        return Slopes({number: weights[chosen] for number, weights in self.weights.items()})


@dataclasses.dataclass(frozen=True, eq=False)
class Inner:
    """Lower weights for single entries of what a maximum reads: a row each from below, then from
    above."""

    entries: np.ndarray
    slopes: Slopes


Interval = tuple[np.ndarray, np.ndarray]


class Region:
    """A box, a ball if there is one, the splits that cut both, and the intervals of every node on
    what is left."""

    def __init__(
        self, network: Network, tier, lower, upper, ball: Ball | None = None, splits=()
    ) -> None:
        self.network, self.tier = network, tier
        self.ball, self.splits = ball, tuple(splits)
        self.intervals: dict[int, Interval] = {0: (lower, upper)}
        self.lines: dict[int, _Lines] = {}

    def within(self, splits: tuple[Split, ...]) -> Region:
        """A part of the region: its intervals cut by splits, their proofs not repeated."""
        part = Region(self.network, self.tier, *self.intervals[0], self.ball, splits)
        part.intervals = dict(self.intervals)
        for number, node in enumerate(self.network.nodes, 1):
            if isinstance(node, Maximum):
                _cut(part, number, node)
        return part

    def magnitude(self, node: int) -> np.ndarray:
        lower, upper = self.intervals[node]
        return np.maximum(np.maximum(upper, -lower), 0)


def bounded(
    network: Network, tier, lower, upper, inner: Mapping[int, Inner], ball: Ball | None = None
) -> Region:
    """The region of a box, with a backward pass for every neuron whose interval straddles a kink.

    Args:
        lower, upper: the box, numbers of the tier.
        inner: weights for backward passes of some entries of a maximum's parent, by the maximum's
            number; others have those of :func:`_lines`.
        ball: if given, the region is what box and ball have in common.
    """
    region = Region(network, tier, lower, upper, ball)
    for number, node in enumerate(network.nodes, 1):
        if isinstance(node, Affine):
            region.intervals[number] = _affine_interval(region, node)
            continue
        if ball is not None or not _reads_input(network, node.parent):
            _tighten(region, node, inner.get(number))
        _cut(region, number, node)
    return region


def lower_bounds(
    region: Region, node: int, rows: np.ndarray, slopes: Slopes | None = None, betas=()
) -> np.ndarray:
    """Numbers that the rows (row, entries of the node) stay above on the region."""
    tier, network = region.tier, region.network
    pending = {node: rows}
    constant = tier.lift(np.zeros(len(rows)))
    for split, beta in zip(region.splits, betas):
        held, place = _held(network, split)
        push = np.zeros((len(rows), network.size(held)), rows.dtype)
        push[:, place] = -split.side * beta
        gain = tier.times_below(split.side * beta, _threshold(tier, split))
        constant = _plus(tier, constant, gain)
        pending, constant = _gathered(region, pending, held, push, constant)
    for number in range(max(pending), 0, -1):
        current = pending.pop(number, None)
        if current is None:
            continue
        pull = _pull_affine if isinstance(network.nodes[number - 1], Affine) else _pull_maximum
        pending, constant = pull(region, number, current, pending, constant, slopes)
    if 0 not in pending:
        return constant
    return _plus(tier, constant, _least(region, pending[0]))


# ---------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, eq=False)
class _Lines:
    """Floor ``c'``, the element above, its slope ``s`` and ``t``, the rule's ``w``, and where one
    element wins for sure: there no other weights are worth trying."""

    floor: np.ndarray
    leader: np.ndarray
    slope: np.ndarray
    intercept: np.ndarray
    weight: np.ndarray
    settled: np.ndarray


def _held(network: Network, split: Split) -> tuple[int, int]:
    node = network.nodes[split.node - 1]
    if node.window.shape[1] == 1:
        return node.parent, int(node.window[split.index, 0])
    return split.node, split.index


def _threshold(tier, split: Split):
    return tier.lift([split.threshold])[0]


def _cut(region: Region, number: int, node: Maximum) -> None:
    """Applies the splits of a maximum to its parent's interval, and makes its lines."""
    tier, single = region.tier, node.window.shape[1] == 1
    lower, upper = (side.copy() for side in region.intervals[node.parent])
    raised = []
    for split in (s for s in region.splits if s.node == number):
        places, at = node.window[split.index], _threshold(tier, split)
        places = places[places >= 0]
        if split.side < 0:
            upper[places] = np.minimum(upper[places], at)
            lower[places] = np.minimum(lower[places], upper[places])
        elif single:
            lower[places] = np.maximum(lower[places], at)
            upper[places] = np.maximum(lower[places], upper[places])
        else:
            raised.append(split)
    region.intervals[node.parent] = lower, upper
    real = node.window >= 0
    low, high = lower[node.window], upper[node.window]
    least = low.min(1) if single else _largest(low, real)
    given = np.isfinite(node.floor)
    floor = np.where(given, np.maximum(tier.lift(np.where(given, node.floor, 0)), least), least)
    for split in raised:
        floor[split.index] = max(floor[split.index], _threshold(tier, split))
    region.lines[number] = _lines(tier, low, high, real, floor)
    region.intervals[number] = floor, np.maximum(floor, _largest(high, real))


def _lines(tier, low, high, real, floor) -> _Lines:
    """The two lines around each maximum, over the intervals of its elements."""
    rows = np.arange(len(floor))
    leader = _argmax(high, real)
    others = real.copy()
    others[rows, leader] = False
    ceiling = np.where(others.any(1), np.maximum(floor, _largest(high, others)), floor)
    l, u = low[rows, leader], high[rows, leader]
    slope = np.where(u > ceiling, tier.share(u - ceiling, u - l), tier.lift(np.zeros(len(l))))
    slope = np.where(l >= ceiling, tier.lift(np.ones(len(l))), slope)
    one = tier.lift(np.ones(len(l)))
    above = _plus(tier, tier.times_below(slope, l), -ceiling)
    rest = _plus(tier, one, -slope), -_plus(tier, slope, -one)
    own = np.maximum(*(-tier.times_below(-share, u) for share in rest))
    intercept = np.where(slope == one, np.maximum(-above, 0), np.maximum(-above, own))
    chosen = _argmax(low, real)
    cl, cu = low[rows, chosen], high[rows, chosen]
    follows = (cl >= floor) | (cu - floor > floor - cl)
    weight = np.zeros(low.shape)
    weight[rows, chosen] = follows
    return _Lines(floor, leader, slope, intercept, weight, l >= ceiling)


def _affine_interval(region: Region, node: Affine) -> Interval:
    tier = region.tier
    low, high = tier.lift(node.bias), -tier.lift(node.bias)
    for part in node.parts:
        l, u = region.intervals[part.parent]
        weight = tier.lift(part.weight)
        groups = np.repeat(np.arange(node.size), np.diff(part.start))
        ends = np.where(weight > 0, l[part.column], u[part.column])
        low = _plus(tier, low, tier.below(*tier.sums(weight, ends, groups, node.size)))
        ends = np.where(weight > 0, u[part.column], l[part.column])
        high = _plus(tier, high, tier.below(*tier.sums(-weight, ends, groups, node.size)))
    if node.divisor is not None:
        divisor = tier.lift(node.divisor)
        low = tier.below(*tier.divide(low, divisor))
        high = tier.below(*tier.divide(high, divisor))
    return low, -high


def _tighten(region: Region, node: Maximum, inner: Inner | None) -> None:
    """Backward passes for the entries of a maximum's parent that lie on both sides of its kink."""
    lower, upper = region.intervals[node.parent]
    wanted = _undecided(region, node, lower, upper)
    if inner is not None:
        count, wanted = len(inner.entries), np.setdiff1d(wanted, inner.entries)
        for at in _chunks(np.arange(count)):
            own = inner.slopes.rows(np.concatenate([at, count + at]))
            _pass(region, node.parent, inner.entries[at], own)
    for at in _chunks(wanted):
        _pass(region, node.parent, at, None)


def _pass(region: Region, parent: int, at: np.ndarray, slopes: Slopes | None) -> None:
    """One backward pass for both ends of some entries' intervals."""
    lower, upper = (side.copy() for side in region.intervals[parent])
    hot = np.zeros((2 * len(at), len(lower)))
    hot[np.arange(len(at)), at] = 1
    hot[len(at) + np.arange(len(at)), at] = -1
    found = lower_bounds(region, parent, region.tier.lift(hot), slopes)
    good = region.tier.finite(found)
    low, high = found[: len(at)], -found[len(at) :]
    lower[at] = np.where(good[: len(at)], np.maximum(lower[at], low), lower[at])
    upper[at] = np.where(good[len(at) :], np.minimum(upper[at], high), upper[at])
    region.intervals[parent] = lower, np.maximum(lower, upper)


def _reads_input(network: Network, node: int) -> bool:
    """Whether a node is the input or one affine map of it, whose intervals nothing can tighten."""
    return node == 0 or (
        isinstance(network.nodes[node - 1], Affine)
        and all(part.parent == 0 for part in network.nodes[node - 1].parts)
    )


def _undecided(region: Region, node: Maximum, lower, upper) -> np.ndarray:
    """Entries that may lie on either side of a floor, or in a window that no element wins for sure."""
    real = node.window >= 0
    low, high = lower[node.window], upper[node.window]
    given = np.isfinite(node.floor)
    least = _largest(low, real)
    floor = region.tier.lift(np.where(given, node.floor, 0))
    least = np.where(given, np.maximum(floor, least), least)
    count = (real & (high > least[:, None])).sum(1) + (given & (least == floor))
    wanted = real & (high > least[:, None]) & (count > 1)[:, None]
    return np.unique(node.window[wanted])


def _chunks(indices: np.ndarray):
    return (indices[i : i + ROWS] for i in range(0, len(indices), ROWS))


def _pull_affine(region, number, rows, pending, constant, _):
    tier, node = region.tier, region.network.nodes[number - 1]
    if node.divisor is not None:
        divisor = tier.lift(node.divisor)
        rows, slack = tier.divide(rows, divisor)
        whole = -tier.times_below(-region.magnitude(number), divisor)
        constant = _pay(tier, constant, slack, whole)
    constant = _plus(tier, constant, _dot(tier, rows, tier.lift(node.bias)))
    for part in node.parts:
        pulled, constant = _transposed(region, part, rows, constant)
        pending, constant = _gathered(region, pending, part.parent, pulled, constant)
    return pending, constant


def _transposed(region: Region, part: Part, rows, constant):
    """``A^T a`` for every row, over the entries of ``A`` whose row is used."""
    tier, size = region.tier, region.network.size(part.parent)
    used = np.flatnonzero((rows != 0).any(0))
    counts = part.start[used + 1] - part.start[used]
    total = int(counts.sum())
    offsets = np.repeat(part.start[used] - np.r_[0, np.cumsum(counts)[:-1]], counts)
    entries = np.arange(total) + offsets if total else np.zeros(0, np.int64)
    order = np.argsort(part.column[entries], kind="stable")
    entries, source = entries[order], np.repeat(used, counts)[order]
    columns, weight = part.column[entries], tier.lift(part.weight[entries])
    pulled, step = [], max(1, ENTRIES // max(1, total))
    slacks = []
    for start in range(0, len(rows), step):
        value, slack = tier.sums(rows[start : start + step][:, source], weight, columns, size)
        pulled.append(value)
        slacks.append(slack)
    constant = _pay(tier, constant, np.concatenate(slacks), region.magnitude(part.parent))
    return np.concatenate(pulled), constant


def _pull_maximum(region, number, rows, pending, constant, slopes):
    tier, node, lines = region.tier, region.network.nodes[number - 1], region.lines[number]
    used = np.flatnonzero((rows != 0).any(0))
    rows, real, weight = rows[:, used], node.window[used] >= 0, lines.weight[used]
    given = None if slopes is None else slopes.weights.get(number)
    if given is not None:
        given = np.where(real, given[..., used, :] / STEPS, 0)
        bad = lines.settled[used, None] | (given.sum(-1, keepdims=True) > 1)
        weight = np.where(bad, weight, given)
    base = tier.times_below(tier.lift(1 - weight.sum(-1)), lines.floor[used])
    constant = _plus(tier, constant, _dot(tier, np.maximum(rows, 0), base))
    constant = _plus(tier, constant, _dot(tier, np.minimum(rows, 0), lines.intercept[used]))
    upper = np.zeros(real.shape, rows.dtype)
    upper[np.arange(len(used)), lines.leader[used]] = lines.slope[used]
    chosen = np.where(rows[..., None] > 0, tier.lift(weight), upper)
    terms = np.repeat(rows, real.shape[1], axis=1)
    targets = np.where(real, node.window[used], 0).reshape(-1)
    size = region.network.size(node.parent)
    pulled, slack = tier.sums(terms, chosen.reshape(len(rows), -1), targets, size)
    constant = _pay(tier, constant, slack, region.magnitude(node.parent))
    return _gathered(region, pending, node.parent, pulled, constant)


def _gathered(region: Region, pending, node, rows, constant):
    """Adds rows to those that wait at a node."""
    tier = region.tier
    if node not in pending:
        return {**pending, node: rows}, constant
    total, slack = tier.add(pending[node], rows)
    return {**pending, node: total}, _pay(tier, constant, slack, region.magnitude(node))


def _dot(tier, rows, values):
    groups = np.zeros(rows.shape[1], np.int64)
    value, slack = tier.sums(rows, values, groups, 1)
    return tier.below(value, slack)[:, 0]


def _pay(tier, constant, slack, magnitude):
    """The constant less what coefficients that are wrong by their slack can cost."""
    if not np.any(slack != 0):
        return constant
    return _plus(tier, constant, _dot(tier, -slack, magnitude))


def _least(region: Region, rows):
    tier, (lower, upper) = region.tier, region.intervals[0]
    found = _plus(
        tier, _dot(tier, np.maximum(rows, 0), lower), _dot(tier, np.minimum(rows, 0), upper)
    )
    if region.ball is None:
        return found
    inside = region.ball.least(tier, rows, lower, upper)
    return np.where(inside > found, inside, found)


def _plus(tier, a, b):
    return tier.below(*tier.add(a, b))


def _largest(values, real):
    """Each window's largest element that is real; anything at most that where none is."""
    return np.where(real, values, values.min()).max(1)


def _argmax(values, real):
    """An element of each window that is real, and the largest unless an absent one is as large."""
    found = np.argmax(np.where(real, values, values.min()), axis=1)
    return np.where(real[np.arange(len(found)), found], found, np.argmax(real, axis=1))
