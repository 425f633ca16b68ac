"""Linear constraints on the input make bounds of linear functions over a box tighter.

A split of a unit, a clause that is to be violated, a cut: each says ``c x + d <= 0`` at the inputs
that are still of interest. For a linear function ``a x + b`` over a box with centre ``x0`` and
radius ``e`` duality gives, with one multiplier for each constraint::

    min {a x + b : C x + d <= 0}  >=  (a + beta C) x0 - |a + beta C| e + beta d + b,   beta >= 0

for *any* such ``beta``. So multipliers are looked for in float32 and their bounds proven in float64.
The right-hand side is concave and piecewise linear in each multiplier, and its maximum in one is
found exactly; a sweep takes one after the other.

Source: Zhou et al., *Clip-and-Verify: Linear Constraint-Driven Domain Clipping for Accelerating
Neural Network Verification*, NeurIPS 2025, in which the breakpoints are sorted. New here: the
maximum between two tangents, without sorting.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jmlv.bounds.method import Interval
from jmlv.numerics import SOLVER_TOLERANCE


class Planes(NamedTuple):
    """Linear functions ``slopes @ x + constants`` of a flat input."""

    slopes: Float[Array, "row n"]
    constants: Float[Array, " row"]


CEILING = SOLVER_TOLERANCE
"""The margin up to which an input counts as a violator where bounds are made for violators alone."""


@partial(jax.tree_util.register_dataclass, data_fields=("at_violators", "ceiling"), meta_fields=())
@dataclasses.dataclass(frozen=True, eq=False)
class ForViolators:
    """Lower bounds on a margin that hold only at inputs whose margin is at most a ceiling.

    What was derived with 'the margin is at most the ceiling' as a premise says nothing of other
    inputs. This is no number and no array: whatever computes or compares with it raises TypeError,
    and :meth:`everywhere` is the only way to a bound on the margin.

    Attributes:
        at_violators: the bounds; where they exceed the ceiling, there is no violator.
        ceiling: of the premise; infinite where nothing was assumed.

    >>> import jax.numpy as jnp
    >>> print(ForViolators(jnp.array([-0.5, 3.0, jnp.inf]), 1e-5).everywhere())
    [-5.e-01  1.e-05    -inf]
    """

    at_violators: Float[Array, "*batch"]
    ceiling: Float[Array, ""] | float

    def everywhere(self) -> Float[np.ndarray, "*batch"]:
        """Bounds that hold at all inputs: the others' margin exceeds the ceiling.

        What overflowed, or is no number, proves nothing.
        """
        bounds = np.asarray(self.at_violators)
        return np.where(np.isfinite(bounds), np.minimum(bounds, self.ceiling), -np.inf)


def minimum_with(
    planes: Planes, below: Planes, box: Interval, multipliers: Float[Array, "row constraint"]
) -> Float[Array, " row"]:
    """The bounds that given multipliers prove, whatever they are: others than positive ones count as 0.

    Args:
        planes: what is bounded from below.
        below: the constraints: functions that are at most zero.
        box: of flat inputs, two arrays of shape (n,).
    """
    beta = jnp.where(multipliers > 0, multipliers, 0)
    slopes = planes.slopes + beta @ below.slopes
    constants = planes.constants + beta @ below.constants
    centre, radius = (box.lower + box.upper) / 2, (box.upper - box.lower) / 2
    return slopes @ centre - jnp.abs(slopes) @ radius + constants


def multipliers_of(
    planes: Planes, below: Planes, box: Interval, sweeps: int = 1
) -> Float[Array, "row constraint"]:
    """Multipliers for :func:`minimum_with`, each the best one while the others stand still.

    A constraint that no input of the box satisfies gets none: whoever has such a constraint knows
    already that nothing is left.

    Args:
        planes, below, box: as there.
        sweeps: how often each multiplier is chosen.
    """
    centre, radius = (box.lower + box.upper) / 2, (box.upper - box.lower) / 2
    heights = below.slopes @ centre + below.constants
    slopes, along = planes.slopes * radius, below.slopes * radius
    count = len(below.constants)
    found = jnp.zeros((len(planes.constants), count), slopes.dtype)

    def choose(turn: Array, found: Array) -> Array:
        place = turn % count
        others = found.at[:, place].set(0)
        mine = (jnp.take(v, place, 0) for v in (along, heights))
        return found.at[:, place].set(_best_multiplier(slopes + others @ along, *mine))

    return jax.lax.fori_loop(0, sweeps * count, choose, found)


def clipped_minimum(
    planes: Planes, below: Planes, box: Interval, sweeps: int = 1
) -> Float[Array, " row"]:
    """Lower bounds on linear functions where others are at most zero: both steps in one precision.

    Args:
        planes, below, box: as in :func:`minimum_with`.
        sweeps: as in :func:`multipliers_of`; for one constraint one sweep is exact.

    >>> import jax.numpy as jnp
    >>> box = Interval(jnp.zeros(2), jnp.ones(2))
    >>> least = Planes(jnp.array([[1.0, 1.0]]), jnp.array([0.0]))
    >>> below = Planes(jnp.array([[-2.0, -1.0]]), jnp.array([1.5]))  # 2 x + y >= 1.5
    >>> print(clipped_minimum(least, below, box))
    [0.75]
    """
    return minimum_with(planes, below, box, multipliers_of(planes, below, box, sweeps))


def clipped_box(below: Planes, box: Interval) -> Interval:
    """The box around what satisfies each constraint, one after the other; empty ones have ends crossed.

    ``c_i x_i <= -d - sum over j != i of min c_j x_j``.

    >>> import jax.numpy as jnp
    >>> box = Interval(jnp.zeros(2), jnp.ones(2))
    >>> print(clipped_box(Planes(jnp.array([[2.0, -1.0]]), jnp.array([0.5])), box))
    Interval(lower=Array([0. , 0.5], dtype=float32), upper=Array([0.25, 1.  ], dtype=float32))
    """
    for slopes, constant in zip(*below):
        box = clipped_by(slopes, constant, box)
    return box


def clipped_by(slopes: Float[Array, " n"], constant: Float[Array, ""], box: Interval) -> Interval:
    """:func:`clipped_box` for one constraint. One with NaN or an overflow in it clips nothing."""
    least = jnp.where(slopes > 0, slopes * box.lower, slopes * box.upper)
    left = -constant - least.sum() + least
    end = left / jnp.where(slopes == 0, 1, slopes)
    known = jnp.isfinite(end) & (slopes != 0)
    lower = jnp.where(known & (slopes < 0), jnp.maximum(box.lower, end), box.lower)
    upper = jnp.where(known & (slopes > 0), jnp.minimum(box.upper, end), box.upper)
    return Interval(lower, upper)


TURNS = 24
"""Tangents that are tried for one multiplier, at most; about half as many are needed."""

ROUNDING = 8
"""The function touches a point that it comes this near to, in units of the last place of its terms."""


class _Tangent(NamedTuple):
    """``rise * beta + start``, which is nowhere below the function."""

    rise: Float[Array, " row"]
    start: Float[Array, " row"]


def _best_multiplier(
    slopes: Float[Array, "row n"], along: Float[Array, " n"], height: Float[Array, ""]
) -> Float[Array, " row"]:
    """The ``beta >= 0`` with the largest ``beta height - sum |slopes + beta along|``, row by row.

    Two tangents, one rising and one falling, meet above the maximum. The tangent where they meet
    takes the place of one of them; where the function touches that point, it is the maximum.
    """

    def tangent(beta: Array, signs: Float[Array, "row n"]) -> tuple[Array, _Tangent]:
        found = beta * height - jnp.abs(slopes + beta[:, None] * along).sum(-1)
        rise = height - signs @ along
        return found, _Tangent(rise, found - beta * rise)

    def at(beta: Float[Array, " row"]) -> tuple[Array, _Tangent]:
        signs = jnp.where(slopes + beta[:, None] * along >= 0, 1, -1)
        return tangent(beta, signs.astype(slopes.dtype))

    zero = jnp.zeros(len(slopes), slopes.dtype)
    first, rising = tangent(zero, jnp.where(slopes == 0, jnp.sign(along), jnp.sign(slopes)))
    signs = jnp.where(along == 0, jnp.sign(slopes), jnp.sign(along))
    falling = _Tangent(height - signs @ along, -(signs * slopes).sum(-1))
    slack = ROUNDING * jnp.finfo(slopes.dtype).eps * jnp.abs(slopes).sum(-1)
    open_ = (rising.rise > 0) & (falling.rise < 0)
    state = zero, first, rising, falling, open_, jnp.zeros((), jnp.int32)

    def turn(state: tuple) -> tuple:
        best, most, rising, falling, open_, count = state
        gap = jnp.where(open_, rising.rise - falling.rise, 1)
        beta = jnp.where(open_, jnp.maximum((falling.start - rising.start) / gap, 0), best)
        found, new = at(beta)
        meeting = beta * rising.rise + rising.start
        up, down = open_ & (new.rise > 0), open_ & ~(new.rise > 0)
        rising = _Tangent(*(jnp.where(up, n, o) for n, o in zip(new, rising)))
        falling = _Tangent(*(jnp.where(down, n, o) for n, o in zip(new, falling)))
        better = open_ & (found > most)
        best, most = jnp.where(better, beta, best), jnp.where(better, found, most)
        return best, most, rising, falling, open_ & (found < meeting - slack), count + 1

    def unfinished(state: tuple) -> Array:
        return state[-2].any() & (state[-1] < TURNS)

    return jax.lax.while_loop(unfinished, turn, state)[0]
