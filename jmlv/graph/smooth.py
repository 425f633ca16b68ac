"""The smooth elementwise functions that a normalised graph may hold, and where each one bends.

An inflection, a minimum and a formula for the slope are all that bounds need to know of a function
(:mod:`jmlv.bounds.tangents`), so a new one is a few lines here and a rule in the normaliser.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float

Elementwise = Callable[[Float[Array, "*n"]], Float[Array, "*n"]]


class Jet(NamedTuple):
    """A function's value and slope, entry by entry.

    ``size`` is the sum of the magnitudes of the terms of which ``slope`` is the sum: the rounding
    error of ``slope`` is a few units in the last place of that.
    """

    value: Float[Array, "*n"]
    slope: Float[Array, "*n"]
    size: Float[Array, "*n"]


@dataclasses.dataclass(frozen=True, eq=False)
class Smooth:
    """A function of one number that bends at few places, applied to every entry; a graph's operation.

    Attributes:
        name: as tables and errors show it.
        jet: its value and slope, accurate to a few units in the last place.
        knots: its inflections, in increasing order.
        bends: +1 where it is convex and -1 where it is concave: before, between and after the knots.
        minimum: where it is smallest and how small; it decreases before and increases after. None
            if it has none: it then increases, or decreases, throughout each piece of its domain.
        above: it is a function of what is larger than this alone.
        below: it is a function of what is smaller than this alone.
        pole: a number at which it is not defined, and which no interval may hold.
        least: what none of its values is below; None where that is its minimum, or where it has none.
        inside: a number at which it is defined.

    >>> import jax.numpy as jnp
    >>> print(SIGMOID.bind(jnp.zeros(2)), SIGMOID.jet(jnp.zeros(2)).slope)
    [0.5 0.5] [0.25 0.25]
    """

    name: str
    jet: Callable[[Float[Array, "*n"]], Jet]
    knots: tuple[float, ...]
    bends: tuple[int, ...]
    minimum: tuple[float, float] | None = None
    above: float = -np.inf
    below: float = np.inf
    pole: float | None = None
    least: float | None = None
    inside: float = 0.0

    @property
    def guarded(self) -> bool:
        """Whether there are numbers that it is not a function of."""
        return self.above > -np.inf or self.below < np.inf or self.pole is not None

    def defined(self, lower: Float[Array, "*n"], upper: Float[Array, "*n"]) -> Bool[Array, "*n"]:
        """Whether it is defined on the whole of an interval, entry by entry; never for NaN.

        >>> bool(RECIPROCAL.defined(jnp.array(-1.0), jnp.array(2.0)))
        False
        """
        known = lower <= upper
        if self.above > -np.inf:
            known = known & (lower > self.above)
        if self.below < np.inf:
            known = known & (upper < self.below)
        if self.pole is not None:
            known = known & ((lower > self.pole) | (upper < self.pole))
        return known

    def bind(self, x: Float[Array, "*n"]) -> Float[Array, "*n"]:
        """Applies the function: what a graph calls on any of its operations."""
        return self.jet(x).value

    def __repr__(self) -> str:
        return self.name


def _increasing(value: Elementwise, slope: Elementwise) -> Callable[[Array], Jet]:
    def jet(x: Array) -> Jet:
        rise = slope(x)
        return Jet(value(x), rise, rise)

    return jet


def _sigmoid_slope(x: Array) -> Array:
    """``s(x) s(-x)``: without the cancellation of ``s (1 - s)``."""
    return lax.logistic(x) * lax.logistic(-x)


def _tanh_slope(x: Array) -> Array:
    return 4 * _sigmoid_slope(2 * x)


#: ``1 / (1 + exp(-x))``; the second derivative has the sign of ``-x``.
SIGMOID = Smooth("sigmoid", _increasing(lax.logistic, _sigmoid_slope), (0.0,), (1, -1))

#: The hyperbolic tangent; the second derivative ``-2 tanh(x) (1 - tanh(x)^2)`` has the sign of ``-x``.
TANH = Smooth("tanh", _increasing(lax.tanh, _tanh_slope), (0.0,), (1, -1))

#: ``log(1 + exp(x))``, convex: its slope is the sigmoid.
SOFTPLUS = Smooth("softplus", _increasing(jax.nn.softplus, lax.logistic), (), (1,))


def _gated(
    name: str, gate: Elementwise, steepness: Elementwise, knot: float, minimum: tuple[float, float]
) -> Smooth:
    """``f(x) = x g(x)`` with an increasing gate for which ``g(x) + g(-x) = 1``.

    Every ``f`` below is concave, convex, concave with inflections at ``-knot`` and ``knot``. Going
    from minus infinity its slope falls from 0 to that at ``-knot``, then rises through zero to
    ``f'(0) = 1 / 2``; for positive ``x`` it is ``g + x g' > 0``. So there is one minimum, in
    (-knot, 0), and ``f`` decreases before it and increases after it.
    """

    def jet(x: Array) -> Jet:
        height, part = gate(x), x * steepness(x)
        return Jet(x * height, height + part, height + jnp.abs(part))

    return Smooth(name, jet, (-knot, knot), (-1, 1, -1), minimum)


#: ``z (1 + erf(z)) / 2``: exact GELU is ``GELU(c x) / c`` with ``c = 1 / sqrt(2)``. The second
#: derivative is ``2 exp(-z^2) (1 - z^2) / sqrt(pi)``: inflections at -1 and 1.
GELU = _gated(
    "gelu",
    lambda x: lax.erfc(-x) / 2,
    lambda x: jnp.exp(-x * x) / np.sqrt(np.pi).item(),
    1.0,
    (-0.53159688514939322, -0.12018779341550552),
)

#: ``x s(x)`` with the sigmoid ``s``, also called swish. The second derivative is
#: ``s'(x) (2 - x tanh(x / 2))``, and ``x tanh(x / 2)`` grows with ``|x|`` from 0 without bound.
SILU = _gated(
    "silu",
    lax.logistic,
    _sigmoid_slope,
    2.3993572805154677,
    (-1.2784645427610738, -0.27846454276107383),
)


def _gelu_tanh(
    name: str, scale: float, cubic: float, knot: float, minimum: tuple[float, float]
) -> Smooth:
    """``x (1 + tanh(v)) / 2`` with ``v = a (x + c x^3)``, JAX's default GELU.

    With ``w = 2 v`` the second derivative is ``s'(w) w' K`` for an even
    ``K = 4 - 2 / (1 + 3 c x^2) - x w' tanh(v)``, and ``K`` falls from 2 without bound for ``x > 0``, so
    it has one root there. Its derivative is at most
    ``12 c x / (1 + 3 c x^2)^2 - 2 a (1 + 9 c x^2) tanh(v)``. Where ``v <= 1``,
    ``tanh(v) >= 0.76 v >= 0.76 a x``, and ``1.52 a^2 = 0.97`` exceeds ``12 c = 0.54``. Where ``v > 1``,
    the second term is at least ``1.52 a = 1.21``, and the first is at most 0.48.
    """

    def inner(x: Array) -> Array:
        return 2 * scale * (x + cubic * x * x * x)

    def gate(x: Array) -> Array:
        """``(1 + tanh(v)) / 2 = s(2 v)``; it is 0 or 1 in floating point long before 100."""
        return lax.logistic(inner(jnp.clip(x, -100, 100)))

    def steepness(x: Array) -> Array:
        x = jnp.clip(x, -100, 100)
        return _sigmoid_slope(inner(x)) * 2 * scale * (1 + 3 * cubic * x * x)

    return _gated(name, gate, steepness, knot, minimum)


#: ``sqrt(2 / pi)`` and the cubic coefficient of the tanh approximation of GELU, as float32 holds
#: them: what the approximation computes in a float32 network.
GELU_TANH_SCALE, GELU_TANH_CUBIC = (
    float(np.float32(np.sqrt(2 / np.pi))),
    float(np.float32(0.044715)),
)

GELU_TANH = _gelu_tanh(
    "gelu_tanh",
    GELU_TANH_SCALE,
    GELU_TANH_CUBIC,
    1.4185039771280709,
    (-0.75246140440872264, -0.17004074610559434),
)

#: The same as float64 holds them, for a float64 network.
GELU_TANH_SCALE_64, GELU_TANH_CUBIC_64 = float(np.sqrt(2 / np.pi)), 0.044715

GELU_TANH_64 = _gelu_tanh(
    "gelu_tanh_64",
    GELU_TANH_SCALE_64,
    GELU_TANH_CUBIC_64,
    1.4185040087908283,
    (-0.75246142207101622, -0.17004075057125404),
)

#: ``x`` above zero and ``exp(x) - 1`` below: convex, for its slope rises to 1 and stays there.
ELU = Smooth(
    "elu",
    _increasing(
        lambda x: jnp.where(x > 0, x, jnp.expm1(jnp.minimum(x, 0))),
        lambda x: jnp.exp(jnp.minimum(x, 0)),
    ),
    (),
    (1,),
)

#: ``x^2``, convex.
SQUARE = Smooth("square", lambda x: Jet(x * x, 2 * x, 2 * jnp.abs(x)), (), (1,), minimum=(0.0, 0.0))


def _hard_swish(x: Array) -> Jet:
    outside = jnp.abs(x) > 3
    ends = (x > 0).astype(x.dtype)
    return Jet(
        x * jnp.clip(x / 6 + 0.5, 0, 1),
        jnp.where(outside, ends, x / 3 + 0.5),
        jnp.where(outside, ends, jnp.abs(x) / 3 + 0.5),
    )


#: ``x clip(x / 6 + 1 / 2, 0, 1)``: 0 up to -3, a parabola up to 3, then ``x``. The straight parts
#: count as concave. At its knots it has two slopes, of which the jet gives the parabola's: that
#: line lies above the straight part on its side of the knot too, so each part has a true tangent.
HARD_SWISH = Smooth("hard_swish", _hard_swish, (-3.0, 3.0), (-1, 1, -1), minimum=(-1.5, -0.375))

#: ``exp(x)``, convex.
EXP = Smooth("exp", _increasing(jnp.exp, jnp.exp), (), (1,), least=0.0)

#: The natural logarithm, concave.
LOG = Smooth("log", _increasing(jnp.log, lambda x: 1 / x), (), (-1,), above=0.0, inside=1.0)

#: The square root, concave; at zero, where it is infinitely steep, it counts as not defined.
SQRT = Smooth(
    "sqrt",
    _increasing(jnp.sqrt, lambda x: 0.5 / jnp.sqrt(x)),
    (),
    (-1,),
    above=0.0,
    least=0.0,
    inside=1.0,
)


def _reciprocal(x: Array) -> Jet:
    value = 1 / x
    return Jet(value, -value * value, value * value)


def _rsqrt(x: Array) -> Jet:
    value = 1 / jnp.sqrt(x)
    fall = value / (2 * x)
    return Jet(value, -fall, fall)


#: ``1 / x``: falls on both sides of zero, concave before it and convex after it.
RECIPROCAL = Smooth("reciprocal", _reciprocal, (0.0,), (-1, 1), pole=0.0, inside=1.0)

#: ``1 / sqrt(x)``, convex and falling.
RSQRT = Smooth("rsqrt", _rsqrt, (), (1,), above=0.0, least=0.0, inside=1.0)

#: ``x^3``.
CUBE = Smooth("cube", _increasing(lambda x: x * x * x, lambda x: 3 * x * x), (0.0,), (-1, 1))

#: ``x``, as ``where(isfinite(x), x, c)`` computes it: no bound may rest on ``x`` where it could
#: overflow. Far below the largest number of float32, so that no rounding matters.
FINITE = Smooth(
    "isfinite",
    lambda x: Jet(x, jnp.ones_like(x), jnp.ones_like(x)),
    (),
    (1,),
    above=-(2.0**125),
    below=2.0**125,
)

#: All of them.
SMOOTH = (
    SIGMOID,
    TANH,
    SOFTPLUS,
    GELU,
    SILU,
    GELU_TANH,
    GELU_TANH_64,
    ELU,
    SQUARE,
    HARD_SWISH,
    EXP,
    LOG,
    SQRT,
    RECIPROCAL,
    RSQRT,
    CUBE,
    FINITE,
)
