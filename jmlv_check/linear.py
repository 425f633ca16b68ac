"""Linear bounds by a backward pass, with every rounding paid for.

Let ``a . x`` be a linear function (a row) of a network's entries, on a region where every entry is known
to lie in an interval ``[l, u]``. Going backwards, the last entries are written by earlier ones:

* affine, ``y = (b + A x) / d``: ``a . y = (a / d) . b + (A^T (a / d)) . x``;
* maximum, ``y = max(c, x_1, .., x_m)``. With ``c' = max(c, l_1, .., l_m, l)``, ``l`` what is known of
  ``y`` itself, which changes nothing,
  below: ``y >= sum_j w_j x_j + (1 - sum_j w_j) c'`` for any ``w >= 0`` with ``sum w <= 1``, since the
  right side is a mean of numbers that are at most ``y``;
  above: ``y <= s x_i + t`` for any ``s`` in [0, 1] and ``t = max(e - s l_i, u_i - s u_i)`` with ``e``
  the largest of ``c'`` and of the other elements' ``u``: what is not ``x_i`` is at most ``e``, and
  ``x_i - s x_i <= (1 - s) u_i``. Positive coefficients take the line below, negative ones that above;
* a sum of rows stays above the sum of what each of them stays above, and each may be proven on its own;
* a split, a set where ``s (h - t) >= 0`` for an entry ``h``: there ``f >= f - beta s (h - t)``
  for any ``beta >= 0``;
* the input: ``a . x >= sum_j min(a_j l_j, a_j u_j)``, or the bound of :mod:`jmlv_check.ball` if that is
  better.

A computed coefficient differs from the exact one by at most its slack; that costs at most the slack
times the largest magnitude of what it multiplies, and is taken off the constant at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from jmlv_check.ball import Ball
from jmlv_check.network import Affine, Maximum, Network

STEPS = 128
"""Lower weights are counted in so many parts of 1."""

ROWS = 64
"""How many neurons go through a backward pass at a time."""

ENTRIES = 4_000_000
"""How many products are held at a time, about."""

Weights = Mapping[int, np.ndarray]
"""Lower weights ``w`` in 128ths, bytes (unit, element) or (row, unit, element), by number of maximum."""


class Split(NamedTuple):
    """An entry held on one side of a threshold."""

    entry: int
    threshold: float
    side: int


class Inner(NamedTuple):
    """Lower weights for single entries that a maximum reads: a row each from below, then from above."""

    entries: np.ndarray
    weights: Weights


class Lines(NamedTuple):
    """Floor ``c'``, the element above, its slope ``s`` and ``t``, the rule's ``w``, and where one
    element wins for sure: there no other weights are worth trying."""

    floor: np.ndarray
    leader: np.ndarray
    slope: np.ndarray
    intercept: np.ndarray
    weight: np.ndarray
    settled: np.ndarray


class Region:
    """A box, a ball if there is one, the splits that cut both, and the intervals of all entries on
    what is left.

    Args:
        network: its numbers are of the arithmetic.
        lower, upper: of the box, or of all entries.
    """

    def __init__(
        self, network: Network, tier, lower, upper, ball: Ball | None = None, splits=()
    ) -> None:
        self.network, self.tier, self.ball, self.splits = network, tier, ball, splits
        self.starts, self.lines = network.starts(), {}
        rest = (0, self.starts[-1] - len(lower))
        self.lower = np.pad(lower, rest, constant_values=-np.inf)
        self.upper = np.pad(upper, rest, constant_values=np.inf)

    def span(self, number: int) -> slice:
        """The entries of a node."""
        return slice(self.starts[number - 1], self.starts[number])

    def magnitude(self, entries) -> np.ndarray:
        return np.maximum(np.maximum(self.upper[entries], -self.lower[entries]), 0)

    def within(self, splits: tuple[Split, ...]) -> Region:
        """A part of the region: its intervals cut by splits, their proofs not repeated."""
        part = Region(self.network, self.tier, self.lower, self.upper, self.ball, splits)
        cut(self.tier, part.lower, part.upper, splits)
        for number, node in enumerate(self.network.nodes, 1):
            if isinstance(node, Maximum):
                _relax(part, number, node)
        return part


def cut(tier, lower: np.ndarray, upper: np.ndarray, splits: tuple[Split, ...]) -> None:
    """Cuts intervals by splits."""
    for split in splits:
        side, best = (lower, np.maximum) if split.side > 0 else (upper, np.minimum)
        at = [split.entry]
        side[at] = best(side[at], tier.lift([split.threshold]))


def bounded(
    network: Network, tier, lower, upper, inner: Mapping[int, Inner], ball: Ball | None = None
) -> Region:
    """The region of a box, with a backward pass for every entry that may be on both sides of a kink.

    Args:
        lower, upper: the box, numbers of the tier.
        inner: weights for backward passes of some entries that a maximum reads, by the maximum's
            number; others have those of :func:`_lines`.
        ball: if given, the region is what box and ball have in common.
    """
    region = Region(network.lifted(tier), tier, lower, upper, ball)
    direct = -1 if ball else network.inputs  # what reads only these has intervals that are exact
    exact = np.arange(region.starts[-1]) < direct
    for number, node in enumerate(region.network.nodes, 1):
        if isinstance(node, Affine):
            _affine_interval(region, number, node)
            exact[region.span(number)] = node.source.max(initial=0) < direct
        else:
            _tighten(region, number, node, inner.get(number), exact)
            _relax(region, number, node)
    return region


def lower_bounds(
    region: Region, rows: np.ndarray, entries: np.ndarray, given: Weights | None = None, betas=()
) -> np.ndarray:
    """Numbers that the rows (row, entry of those named) stay above on the region."""
    pending, constant = passed(region, rows, entries, given, betas)
    return region.tier.plus(constant, least(region, pending[:, : region.network.inputs]))


def passed(
    region: Region, rows: np.ndarray, entries: np.ndarray, given: Weights | None, betas, held=()
) -> tuple[np.ndarray, np.ndarray]:
    """Rows over the entries that are held and the inputs, and constants, which together the rows stay
    above on the region; what else stands in them has been passed on.

    Args:
        held: for each entry, whether it is; none are by default.
    """
    tier, splits = region.tier, region.splits[: len(betas)]
    push = np.asarray(betas) * np.array([split.side for split in splits], int)
    rows = np.concatenate([rows, np.repeat(-push[None], len(rows), 0)], 1)
    entries = np.concatenate([entries, np.array([split.entry for split in splits], int)])
    shape = len(rows), max(region.network.inputs, 1 + int(entries.max()))
    pending, constant = np.zeros(shape, rows.dtype), np.zeros(len(rows), rows.dtype)
    constant += tier.dot(push[None], tier.lift([split.threshold for split in splits]))
    one, every = tier.lift(np.ones(len(entries))), np.arange(len(entries))
    constant = _moved(region, pending, constant, rows, every, one, entries)
    free = np.ones(region.starts[-1], bool) if len(held) == 0 else ~held
    for number in range(len(region.network.nodes), 0, -1):
        here = pending[:, region.span(number)]
        used = np.flatnonzero((here != 0).any(0) & free[region.span(number)][: here.shape[1]])
        if used.size:
            node = region.network.nodes[number - 1]
            pull = _pull_affine if isinstance(node, Affine) else _pull_maximum
            constant = pull(region, number, node, here, used, pending, constant, given or {})
    return pending, constant


def least(region: Region, rows) -> np.ndarray:
    """Numbers that rows over the inputs stay above."""
    tier, count = region.tier, rows.shape[1]
    lower, upper = region.lower[:count], region.upper[:count]
    found = tier.plus(tier.dot(np.maximum(rows, 0), lower), tier.dot(np.minimum(rows, 0), upper))
    if region.ball is None:
        return found
    inside = region.ball.least(tier, rows, lower, upper)
    return np.where(inside > found, inside, found)


# ---------------------------------------------------------------------------------------------


def _moved(region: Region, pending, constant, rows, column, weight, targets):
    """Adds ``rows[:, column] * weight`` to what is pending at the targets, and pays for rounding."""
    tier, (where, groups) = region.tier, np.unique(targets, return_inverse=True)
    step, size = max(1, ENTRIES // max(1, len(column))), region.magnitude(where)
    constant = constant.copy()
    for start in range(0, len(rows), step):
        at = slice(start, start + step)
        own = weight[at] if weight.ndim > 1 else weight
        value, slack = tier.sums(rows[at][:, column], own, groups, len(where))
        pending[at, where], lost = tier.add(pending[at, where], value)
        for error in (slack, lost):
            constant[at] = tier.plus(constant[at], tier.dot(-error, size))
    return constant


def _pull_affine(region, number, node, here, used, pending, constant, _):
    tier, mask = region.tier, np.zeros(len(node.bias), bool)
    rows, slack = tier.divide(here[:, used], node.divisor[used])
    whole = -tier.times_below(-region.magnitude(region.span(number))[used], node.divisor[used])
    for own, values in ((-slack, whole), (rows, node.bias[used])):
        constant = tier.plus(constant, tier.dot(own, values))
    mask[used] = True
    at, column = np.flatnonzero(mask[node.row]), np.cumsum(mask) - 1
    weight, source = node.weight[at], node.source[at]
    return _moved(region, pending, constant, rows, column[node.row[at]], weight, source)


def _pull_maximum(region, number, node, here, used, pending, constant, given):
    tier, lines = region.tier, Lines(*(part[used] for part in region.lines[number]))
    rows, window, weight = here[:, used], node.source[used], lines.weight
    if number in given:
        wanted = given[number][..., used, :] / STEPS
        bad = lines.settled[:, None] | (wanted.sum(-1, keepdims=True) > 1)
        weight = np.where(bad, weight, wanted)
    base = tier.times_below(tier.lift(1 - weight.sum(-1)), lines.floor)
    constant = tier.plus(constant, tier.dot(np.maximum(rows, 0), base))
    constant = tier.plus(constant, tier.dot(np.minimum(rows, 0), lines.intercept))
    above = np.zeros(window.shape, rows.dtype)
    above[np.arange(len(used)), lines.leader] = lines.slope
    chosen = np.where(rows[..., None] > 0, tier.lift(weight), above).reshape(len(rows), -1)
    column = np.repeat(np.arange(len(used)), window.shape[1])
    return _moved(region, pending, constant, rows, column, chosen, window.ravel())


def _affine_interval(region: Region, number: int, node: Affine) -> None:
    tier, sides = region.tier, (region.lower, region.upper)
    for sign, (near, far) in ((1, sides), (-1, sides[::-1])):
        ends = np.where(node.weight > 0, near[node.source], far[node.source])
        sums = tier.sums(sign * node.weight, ends, node.row, len(node.bias))
        least = tier.plus(sign * node.bias, tier.below(*sums))
        near[region.span(number)] = sign * tier.below(*tier.divide(least, node.divisor))


def _relax(region: Region, number: int, node: Maximum) -> None:
    """The interval of a maximum, and its lines; what it is at most its elements are too."""
    span = region.span(number)
    np.minimum.at(region.upper, node.source, region.upper[span][:, None])
    low, high = region.lower[node.source], region.upper[node.source]
    floor = np.maximum(np.maximum(node.floor, region.lower[span]), low.max(1))
    region.lower[span], region.upper[span] = floor, np.maximum(floor, high.max(1))
    region.lines[number] = _lines(region.tier, low, high, floor, node.source)


def _lines(tier, low, high, floor, window) -> Lines:
    """The two lines around each maximum, over the intervals of its elements."""
    every, leader, chosen = np.arange(len(floor)), high.argmax(1), low.argmax(1)
    same = window == window[every, leader][:, None]
    ceiling = np.maximum(floor, np.where(same, -np.inf, high).max(1))
    l, u = low[every, leader], high[every, leader]
    settled = l >= ceiling
    slope = np.where(settled, tier.lift([1]), tier.share(u - ceiling, u - l))
    others, own = (tier.plus(tier.times_below(slope, x), -y) for x, y in ((l, ceiling), (u, u)))
    weight = np.zeros(low.shape)
    least, most = low[every, chosen], high[every, chosen]
    weight[every, chosen] = (least >= floor) | (most - floor > floor - least)
    return Lines(floor, leader, slope, np.maximum(-others, -own), weight, settled)


def _tighten(region: Region, number: int, node: Maximum, inner: Inner | None, exact) -> None:
    """Backward passes for the entries that a maximum reads and that lie on both sides of its kink."""
    low, high = region.lower[node.source], region.upper[node.source]
    floor = np.maximum(node.floor, low.max(1))
    may = high > floor[:, None]
    undecided = may & (may.sum(1) + (node.floor >= floor) > 1)[:, None]
    wanted = np.unique(node.source[undecided])
    wanted = wanted[~exact[wanted]]
    if inner is not None:
        count, wanted = len(inner.entries), np.setdiff1d(wanted, inner.entries)
        for at in _chunks(np.arange(count)):
            rows = np.concatenate([at, count + at])
            own = {number: weights[rows] for number, weights in inner.weights.items()}
            _pass(region, inner.entries[at], own)
    for at in _chunks(wanted):
        _pass(region, at, None)


def _pass(region: Region, at: np.ndarray, weights: Weights | None) -> None:
    """One backward pass for both ends of some entries' intervals."""
    one = region.tier.lift(np.eye(len(at)))
    found = lower_bounds(region, np.concatenate([one, -one]), at, weights)
    found = np.where(np.abs(found) < np.inf, found, -np.inf)
    region.lower[at] = np.maximum(region.lower[at], found[: len(at)])
    region.upper[at] = np.minimum(region.upper[at], -found[len(at) :])


def _chunks(indices: np.ndarray):
    return (indices[i : i + ROWS] for i in range(0, len(indices), ROWS))
