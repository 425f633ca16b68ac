r"""What the ends of an interval may be off by, where a function has no value beyond them.

Bounds are rounded to the nearest number. That moves a score by a little, which proofs leave room for;
but ``log`` of an end that is off by its own size is off by anything. So what a function with a domain
reads is widened first, by as much as its ends may be wrong by:

    e = K u M,

with the unit ``u`` of the precision, a number ``K`` of roundings, and the *size* ``M``: the sum of the
magnitudes of all terms that the value is the sum of. Through ``y = W x + b`` it is ``|W| M_x + |b|``, and a
sum of ``n`` terms is rounded by ``n`` units of that at most, in any order (Higham, *Accuracy and Stability
of Numerical Algorithms*, 2002, section 3.1).

Sizes begin anew with the range of what a function, a product or a softmax gives, which is taken to be
off by no more than `BEFORE` units of its largest magnitude.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from jmlv.bounds.method import Interval
from jmlv.graph import Graph, Variable
from jmlv.graph.operations import (
    BILINEAR,
    LINEAR,
    is_piecewise_linear,
    relu_max_pool_p,
    softmax_p,
    take_p,
)
from jmlv.graph.smooth import EXP, SIGMOID, SOFTPLUS, SQUARE, Smooth
from jmlv.numerics import EXTRA

BEFORE = {"float32": 16, "float64": 4096}
"""Units in the last place, of its largest magnitude, that what begins a size may be off by."""


class Size(NamedTuple):
    """The size of every entry of a value, and how many roundings led to it.

    Attributes:
        floor: what no entry is below, as a sum of terms that are not negative, such as squares: it is
            rounded by units of itself alone. Minus infinity where none is known.
    """

    most: Float[Array, "*shape"]
    roundings: int
    floor: Float[Array, "*shape"]


def exact(interval: Interval) -> Size:
    """That of numbers which are given."""
    return Size(reach(interval), 0, jnp.full_like(interval.lower, -jnp.inf))


def outward(interval: Interval, size: Size) -> Interval:
    """An interval that holds the true one for all that rounding can do.

    >>> import jax.numpy as jnp
    >>> size = Size(jnp.full(1, 1e3), 10, jnp.full(1, -jnp.inf))
    >>> ends = outward(Interval(jnp.zeros(1), jnp.ones(1)), size)
    >>> print(ends.lower[0] < -1e-3, ends.lower[0] > -1e-2)
    True True
    """
    eps = jnp.finfo(size.most.dtype).eps
    share = size.roundings * eps
    moved, floor = lax.stop_gradient((share * size.most, size.floor * (1 - share)))
    lower, upper = interval.lower - moved, interval.upper + moved
    return Interval(jnp.where(floor > lower, floor, lower), upper)


def guarded_sources(graph: Graph) -> tuple[frozenset[Variable], frozenset[Variable]]:
    """What functions with a domain read, and all whose size is part of the size of that."""
    read: set[Variable] = set()
    behind: set[Variable] = set()
    for eqn in reversed(graph.eqns):
        if isinstance(eqn.primitive, Smooth) and eqn.primitive.guarded:
            read.update(graph.inputs_of(eqn))
            behind.update(graph.inputs_of(eqn))
        elif eqn.outvar in behind and is_piecewise_linear(graph, eqn):
            behind.update(graph.inputs_of(eqn))
    return frozenset(read), frozenset(behind)


def size_through(
    primitive: Any,
    params: Mapping[str, Any],
    operands: Sequence[Interval | Any],
    sizes: Sequence[Callable[[], Size] | None],
    out: Interval,
) -> Size:
    """The size of an operation's output.

    Args:
        primitive, params: the operation.
        operands: an interval for each computed operand, else a number or an array.
        sizes: what gives those of computed operands, None for the others. Where sizes begin anew they
            are not read.
        out: an interval of the output.
    """
    computed = sum(isinstance(v, Interval) for v in operands)
    if primitive not in _KNOWN or (primitive in BILINEAR and computed > 1):
        least = 0.0 if primitive in _NOT_NEGATIVE else -jnp.inf
        return Size(reach(out), BEFORE[str(out.lower.dtype)], jnp.full_like(out.lower, least))
    known = [None if s is None else s() for s in sizes]
    roundings = max(s.roundings for s in known if s is not None)
    magnitudes = [abs(v) if s is None else s.most for v, s in zip(operands, known)]
    if primitive is lax.max_p:
        most = magnitudes[0] + jnp.where(jnp.isfinite(operands[1]), magnitudes[1], 0)
    else:
        most = magnitudes[0] if primitive is lax.neg_p else primitive.bind(*magnitudes, **params)
    terms = EXTRA + most_terms(primitive, params, operands, out)
    floors = [v if s is None else s.floor for v, s in zip(operands, known)]
    floor = _floor(primitive, params, floors)
    shape = out.lower.shape
    return Size(jnp.broadcast_to(most, shape), roundings + terms, jnp.broadcast_to(floor, shape))


def _floor(primitive: Any, params: Mapping[str, Any], floors: Sequence[Any]) -> Any:
    """Of sums and positive multiples of what is not negative, and of maxima with that."""
    if primitive is lax.max_p:
        return jnp.where(floors[1] >= 0, jnp.maximum(*floors), floors[0])
    if primitive is lax.add_p:
        return jnp.where((floors[0] >= 0) & (floors[1] >= 0), floors[0] + floors[1], -jnp.inf)
    if primitive is lax.mul_p or primitive is lax.div_p:
        x, y = (jnp.maximum(v, 0) for v in floors)
        positive = (floors[0] >= 0) & (floors[1] > 0)
        made = x * y if primitive is lax.mul_p else x / jnp.where(y > 0, y, 1)
        return jnp.where(positive, made, -jnp.inf)
    return primitive.bind(*floors, **params) if primitive in _SUMS else -jnp.inf


_SUMS = {lax.reduce_sum_p, lax.reshape_p, lax.broadcast_in_dim_p, lax.transpose_p, lax.slice_p}

_NOT_NEGATIVE = {SQUARE, EXP, SIGMOID, SOFTPLUS, softmax_p}


_KNOWN = LINEAR | BILINEAR | {lax.div_p, lax.max_p, lax.reduce_window_max_p, relu_max_pool_p}


def most_terms(primitive: Any, params: Mapping, operands: Sequence, out: Interval) -> int:
    """How many terms an entry of the output has, or an entry of a row that is pulled back, at most."""
    shapes = (v.lower.shape if isinstance(v, Interval) else np.shape(v) for v in operands)
    entries, made = [max(1, math.prod(shape)) for shape in shapes], max(1, out.lower.size)
    if primitive is lax.dot_general_p:
        x, y = entries
        return 1 + math.isqrt(max(x * y // made, y * made // x, x * made // y))
    if primitive is lax.conv_general_dilated_p:
        outputs, inputs = (np.shape(operands[1])[axis] for axis in params["dimension_numbers"].rhs_spec[:2])  # fmt: skip
        return entries[1] // min(outputs, inputs)
    if primitive is lax.reduce_window_sum_p:
        return int(np.prod(params["window_dimensions"]))
    if primitive is lax.cumsum_p or primitive is take_p:
        return max(made, entries[0])
    return max(made, entries[0]) // min(made, entries[0])


def reach(interval: Interval) -> Array:
    """The largest magnitude of each entry."""
    return jnp.maximum(*map(jnp.abs, interval))
