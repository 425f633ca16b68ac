"""The lines around a nonlinear equation, in one form for maxima, max pools and smooth functions.

Products and softmax read several values, or mix them: they have planes, of their own kinds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Union

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jmlv.bounds.method import Interval
from jmlv.bounds.products import ProductLines, product_lines
from jmlv.bounds.relaxations import (
    max_pool_lines,
    maximum_lines,
    patches,
    patches_transpose,
    settled_windows,
)
from jmlv.bounds.softmax import SoftmaxLines, softmax_lines
from jmlv.bounds.tangents import Family, lines_at, smooth_interval, touching_lines
from jmlv.graph import Equation, Graph
from jmlv.graph.operations import (
    is_max_pool,
    is_maximum,
    is_product,
    is_relu,
    is_smooth,
    is_softmax,
    knee_of,
    relu_max_pool_p,
)
from jmlv.graph.smooth import Smooth


class Lines(NamedTuple):
    """``sum_j lower_weights_j x_j + lower_constant <= y <= sum_j upper_weights_j x_j + upper_constant``.

    The elements ``x_j`` are the window's entries for a max pool, and the one entry for ``max(x, c)``
    or a smooth function. With a finite floor (the ``c``) ``(1 - sum_j lower_weights_j) floor`` is added to the lower
    constant, for whatever lower weights are used. Smooth functions have a family of lines, of which
    the weights and constants here are one.
    """

    lower_weights: Float[Array, "element *out"]
    lower_constant: Float[Array, "*out"]
    upper_weights: Float[Array, "element *out"]
    upper_constant: Float[Array, "*out"]
    floor: Float[Array, "*out"] | None = None
    family: Family | None = None


Planes = Union[Lines, ProductLines, SoftmaxLines]
"""What encloses a nonlinear equation's output."""


def lines_of(graph: Graph, eqn: Equation, intervals: Sequence[Interval]) -> Planes:
    """Lines around a nonlinear equation of a graph whose operands lie in the intervals.

    Args:
        intervals: of the operands that depend on the network's input, in order.
    """
    if is_product(graph, eqn):
        return product_lines(*intervals)
    (interval,) = intervals
    if is_softmax(eqn):
        return softmax_lines(eqn, interval)
    if is_smooth(eqn):
        return smooth_lines(eqn.primitive, interval)
    if is_maximum(eqn):
        knee = knee_of(graph, eqn)
        slope, chord, intercept = maximum_lines(*interval, knee)
        floor = None if is_relu(eqn) else jnp.broadcast_to(knee, slope.shape)
        return Lines(slope[None], jnp.zeros_like(slope), chord[None], intercept, floor)
    return Lines(*max_pool_lines(*interval, eqn.params, floor_of(eqn)))


def smooth_lines(f: Smooth, interval: Interval) -> Lines:
    """The lines of least area around a smooth function, and the family that they are of."""
    family = touching_lines(f, interval)
    slope, constant = lines_at(f, family, family.start)
    return Lines(slope[:1], constant[0], slope[1:], constant[1], None, family)


def lines_above(eqn: Equation, interval: Interval, floor: Float[Array, "*out"]) -> Lines:
    """Lines around a max pool whose output is known to be at least ``floor``, entry by entry."""
    floor = jnp.maximum(floor, floor_of(eqn))
    lines = Lines(*max_pool_lines(*interval, eqn.params, floor), floor)
    constant = lines.lower_constant  # kept where it is NaN, or where a window has no element
    return lines._replace(lower_constant=jnp.where(jnp.isfinite(constant), 0, constant))


def floor_constant(lines: Lines, weights: Array, axis: int) -> Array:
    """What the floor adds to the lower line with the given lower weights."""
    floor = jnp.where(jnp.isfinite(lines.floor), lines.floor, 0)
    return (1 - weights.sum(axis)) * floor


def admissible(
    eqn: Equation, wanted: Array, low: Array, high: Array
) -> Float[Array, "row element ..."]:
    """The wanted lower weights, made into a valid lower line.

    For ``max(x, c)`` any slope in [0, 1]; for a max pool with a ReLU merged into it any weights that are
    not negative and sum to at most one (``max(0, z_1, .., z_n) >= sum_j w_j z_j``, and with a floor
    ``c`` in place of 0, ``>= sum_j w_j z_j + (1 - sum_j w_j) c``). A max pool alone keeps its
    element. Where the two lines are one and the same they stay.

    Args:
        eqn: ``max(x, c)`` or a max pool.
        wanted: any values, (row, element, ...).
        low, high: the equation's lower and upper weights, which broadcast against ``wanted``; a
            NaN in them is kept.
    """
    if not is_maximum(eqn) and floor_of(eqn) != 0:
        return jnp.broadcast_to(low, wanted.shape)
    positive = jnp.maximum(wanted, 0)
    free = positive / jnp.maximum(1, positive.sum(1, keepdims=True))
    exact = (low == high).all(1, keepdims=True) & (low > 0).any(1, keepdims=True)
    return jnp.where(exact | jnp.isnan(low), low, free)


def undecided(graph: Graph, eqn: Equation, interval: Interval) -> Bool[Array, "batch ..."]:
    """Which entries of the input a tighter interval could help.

    For ``max(x, c)`` those that may lie on both sides of ``c``. For a max pool, in every window that no element wins for sure,
    the elements that may exceed the floor and every other element's lower bound. For a smooth
    function those over which its lines lie apart, or where it may have no value. For products and softmax all that are not known.
    """
    lower, upper = interval
    if not (is_smooth(eqn) or is_maximum(eqn) or is_max_pool(eqn)):
        return lower < upper
    if is_smooth(eqn):
        low, high = smooth_interval(eqn.primitive, interval)
        rise = high - low  # NaN where the function has no value on all of the interval
        return (upper - lower > MINIMUM_WIDTH) & ((rise > MINIMUM_RISE) | jnp.isnan(rise))
    if is_maximum(eqn):
        knee = knee_of(graph, eqn)
        return (lower < knee) & (upper > knee)
    valid = patches(jnp.ones(lower.shape, bool), eqn.params)
    low, high = patches(lower, eqn.params), patches(upper, eqn.params)
    least = jnp.maximum(jnp.where(valid, low, -jnp.inf).max(0), floor_of(eqn))
    wanted = valid & (high > least) & ~settled_windows(low, high, valid, floor_of(eqn))
    return patches_transpose(wanted.astype(lower.dtype), eqn.params, lower.shape) > 0


MINIMUM_WIDTH, MINIMUM_RISE = 5e-3, 1e-5
"""A smooth function is as good as linear over an interval shorter than this, or if it rises less."""


def floor_of(eqn: Equation) -> float:
    """What a max pool's output cannot fall below: 0 when a ReLU is merged into it."""
    return 0.0 if eqn.primitive is relu_max_pool_p else -jnp.inf
