"""Splits of what smooth functions, products and softmax read: intervals narrowed, and where it pays.

None of these has a kink at which a split would make its lines exact. But all of them have better lines
over a shorter interval of what they read: so the unit is an entry of an operand, held on one side of a
threshold within its interval, and every line that reads it is made anew.

Which entry: shortening an interval by halves moves the bound, to first order, by half its width times
the bound's derivative in the end that moves (for a product with its planes through the centre
exactly so, since its gap is the product of both widths). Both halves have to gain.

Source: Shi et al., *Neural Network Verification with Branch-and-Bound for General Nonlinearities* (GenBaB),
TACAS 2025, arXiv:2405.21063, who score by the relaxation's gap. New here: the bound's own derivative in
all intervals at once, which one backward pass gives.
"""

from __future__ import annotations

from collections.abc import Mapping

import jax.numpy as jnp
from jaxtyping import Array, Int

from jmlv.bounds import Interval
from jmlv.graph import Equation, Graph, Variable
from jmlv.graph.operations import is_piecewise_linear

MINIMUM_WIDTH = 1e-5
"""An operand that is known this well, relative to its size above 1, is not split further: float32 has to
hold the threshold well inside."""

LONGER_HALF = 0.25
"""How much the half that gains more counts beside the other one."""

ANYWAY = 0.01
"""How much any derivative counts: where lines are not the best ones yet it may have either sign."""


def bent_equations(graph: Graph) -> list[Equation]:
    """Smooth functions, products of two computed values, and softmax."""
    return [eqn for eqn in graph.eqns if not is_piecewise_linear(graph, eqn)]


def bent_sources(graph: Graph) -> list[Variable]:
    """What they read, in the order of the graph, each once."""
    return list(dict.fromkeys(v for eqn in bent_equations(graph) for v in graph.inputs_of(eqn)))


def held_within(
    known: Interval, place: Int[Array, " depth"], ends: tuple[Array, Array]
) -> Interval:
    """An interval whose entries at some places are held above the first of two ends, and below the second.

    Ends that cross, by rounding or because nothing is left, change places: the interval is then the larger
    one, and holds whatever there is.
    """
    lower = known.lower.reshape(-1).at[place].max(ends[0], mode="drop")
    upper = known.upper.reshape(-1).at[place].min(ends[1], mode="drop")
    low, high = jnp.minimum(lower, upper), jnp.maximum(lower, upper)
    unknown = jnp.isnan(lower) | jnp.isnan(upper)
    sides = (jnp.where(unknown, jnp.nan, side) for side in (low, high))
    return Interval(*(side.reshape(known.lower.shape) for side in sides))


def bent_scores(within: Interval, slopes: Interval, value: Array) -> tuple[Array, Array, Array]:
    """For each entry of an operand the gain of splitting it, the threshold, and the multiplier's scale.

    Args:
        within: its interval in the subdomain.
        slopes: the bound's derivatives in the ends of that.
        value: where the subdomain's bound is reached.
    """
    width = within.upper - within.lower
    size = 1 + jnp.maximum(jnp.abs(within.lower), jnp.abs(within.upper))
    rise, fall = slopes.lower * width / 2, -slopes.upper * width / 2
    less, more = (jnp.maximum(pick(rise, fall), 0) for pick in (jnp.minimum, jnp.maximum))
    gain = less + LONGER_HALF * more + ANYWAY * (jnp.abs(rise) + jnp.abs(fall))
    open_ = (width > MINIMUM_WIDTH * size) & jnp.isfinite(gain) & (gain > 0)
    share = (value - within.lower) / jnp.where(open_, width, 1)
    threshold = within.lower + width * jnp.clip(share, 0.4, 0.6)
    scale = jnp.where(open_, (jnp.abs(slopes.lower) + jnp.abs(slopes.upper)) / 2, 0)
    return jnp.where(open_, gain, -jnp.inf), jnp.where(open_, threshold, 0), scale


def held_intervals(
    intervals: Mapping[int, Interval],
    places: Mapping[Variable, Int[Array, " depth"]],
    ends: tuple[Array, Array],
) -> dict[int, Interval]:
    """The intervals of a task, with the operands' entries held."""
    held = {v.index: held_within(intervals[v.index], place, ends) for v, place in places.items()}
    return {**intervals, **held}
