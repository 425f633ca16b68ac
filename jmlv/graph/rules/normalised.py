"""Recognises what divides by a sum over some axes, or takes a mean off: softmax and variance.

Both are written in ways that are good for floating point, or fast, and that no bound should follow
step by step. In real numbers they are

    softmax(x)_k = exp(x_k) / sum_j exp(x_j) = exp(x_k - c) / sum_j exp(x_j - c)    for any c,
    mean(x^2) - mean(x)^2 = mean((x - mean(x))^2).

The first holds in floating point too for ``c = max_j x_j``, and only that ``c`` is taken away: another
may have no value, or let exponentials overflow. The right-hand side of the second rounds less than the
left.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
from jax import lax

from jmlv.graph.builder import Builder
from jmlv.graph.ir import Literal, Variable
from jmlv.graph.operations import softmax_p
from jmlv.graph.rules.gates import multiple
from jmlv.graph.rules.layout import reshape
from jmlv.graph.rules.moves import entries_along, is_spread, origin, same_along, unmoved
from jmlv.graph.smooth import EXP, SQUARE


def softmax_of(b: Builder, x: Any, y: Any) -> Variable | None:
    """``exp(z)`` over the sum of its entries along some axes, as one operation; None if it is not."""
    top = b.definitions.get(x) if isinstance(x, Variable) else None
    if top is None or top.primitive is not EXP or not isinstance(y, Variable):
        return None
    below = origin(b, y)
    total = b.definitions.get(below.source)
    if total is None or total.primitive is not lax.reduce_sum_p or total.invars[0] != x:
        return None
    axes = tuple(int(a) for a in total.params["axes"])
    if not axes or not is_spread(below, axes, x.shape):
        return None
    z = top.invars[0]
    safe = _less_its_maximum(b, z, axes)
    if safe is not None:
        return b.emit(softmax_p, safe, axes=axes)
    count = math.prod(z.shape[a] for a in axes)
    return b.emit(softmax_p, z, axes=axes, within=_largest_exponent(b.dtype, count))


def _largest_exponent(dtype: str, count: int) -> float:
    """Of so many exponentials of at most this the sum is finite; where the largest is of minus this, those
    that vanish are less than one rounding of the sum."""
    info = np.finfo(dtype)
    highest = math.log(info.max), -math.log(info.tiny) - info.nmant * math.log(2)
    return min(highest) - math.log(count) - 1


def _less_its_maximum(b: Builder, z: Variable, axes: tuple[int, ...]) -> Variable | None:
    """The ``x`` of ``z = x - max(x)``, the maximum over the axes; None if ``z`` is not that."""
    eqn = b.definitions.get(z)
    if eqn is None or eqn.primitive is not lax.add_p:
        return None
    for x, term in (eqn.invars, eqn.invars[::-1]):
        turned = b.definitions.get(term)
        if turned is not None and turned.primitive is lax.neg_p and x.shape == z.shape:
            if _is_maximum_of(b, turned.invars[0], x, axes):
                return x
    return None


def _is_maximum_of(b: Builder, value: Variable, x: Variable, axes: tuple[int, ...]) -> bool:
    """Whether a value is the maximum of ``x`` over the axes, for every entry of ``x`` that it is over.

    It may have been taken of what ``x`` was before its axes were moved, as ``vmap`` does.
    """
    below = origin(b, value)
    pool = b.definitions.get(below.source)
    same = np.array_equal(below.numbers, same_along(below.numbers, axes))
    if pool is None or pool.primitive is not lax.reduce_window_max_p or not same:
        return False
    shape, window = pool.invars[0].shape, pool.params["window_dimensions"]
    reduced = tuple(a for a, (n, size) in enumerate(zip(shape, window)) if size == n)
    left = tuple(1 if a in reduced else n for a, n in enumerate(shape))
    if any(size not in (1, n) for n, size in zip(shape, window)) or pool.outvar.shape != left:
        return False
    if any(map(any, pool.params["padding"])):  # then a window as long as the axis leaves some out
        return False
    whole, part = origin(b, pool.invars[0]), origin(b, x)
    numbers = np.broadcast_to(below.numbers, x.shape)
    read = entries_along(whole.numbers, reduced)[entries_along(numbers, axes)[:, 0]]
    wanted = entries_along(part.numbers, axes)
    return whole.source == part.source and np.array_equal(np.sort(read), np.sort(wanted))


def variance(b: Builder, x: Any, y: Any) -> Variable | None:
    """``k sum(r^2) - m sum(r)^2`` as ``k sum((r - mean(r))^2)`` where that is the same, or None."""
    for squares, means in ((x, y), (y, x)):
        found = _variance(b, squares, means)
        if found is not None:
            return found
    return None


def _variance(b: Builder, squares: Any, means: Any) -> Variable | None:
    if not isinstance(squares, Variable) or not isinstance(means, Variable):
        return None
    (square, m), (inner, k) = multiple(b, means), _sum(b, squares)
    outer = b.definitions.get(square)
    if inner is None or outer is None or outer.primitive is not SQUARE:
        return None
    mean = outer.invars[0]
    second, share = _sum(b, mean)
    squared = b.definitions.get(inner.invars[0])
    if second is None or squared is None or squared.primitive is not SQUARE:
        return None
    r, axes = second.invars[0], tuple(int(a) for a in second.params["axes"])
    count = math.prod(r.shape[a] for a in axes)
    same = squared.invars[0] == r and axes == tuple(int(a) for a in inner.params["axes"])
    if not same or share != Fraction(1, count) or -m * share != k or k.numerator != 1:
        return None
    rest = tuple(1 if i in axes else n for i, n in enumerate(r.shape))
    centred = b.emit(lax.add_p, r, b.emit(lax.neg_p, reshape(b, mean, rest)))
    total = reshape(
        b, b.emit(lax.reduce_sum_p, b.emit(SQUARE, centred), **inner.params), square.shape
    )
    number = Literal(float(k.denominator), r.dtype)
    return b.record(lax.div_p, (total, number), {}, total.shape, r.dtype)


def _sum(b: Builder, value: Variable) -> tuple[Any, Fraction]:
    """The equation of a sum over axes of which a value is a multiple, and the factor; None if none."""
    source, factor = multiple(b, value)
    eqn = b.definitions.get(unmoved(b, source))
    return eqn if eqn is not None and eqn.primitive is lax.reduce_sum_p else None, factor
