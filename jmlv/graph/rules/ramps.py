"""Recognises ``x`` times a ramp of ``x`` (hard swish) among products, by exact algebra."""

from __future__ import annotations

from fractions import Fraction
from typing import Any, NamedTuple

from jax import lax

from jmlv.graph.builder import Builder
from jmlv.graph.ir import Variable
from jmlv.graph.rules.gates import LIMIT, Gated, multiple, number_of
from jmlv.graph.smooth import HARD_SWISH


class _Ramp(NamedTuple):
    """``offset + slope r``, held between ``low`` and ``high``; None where it is not held."""

    slope: Fraction
    offset: Fraction
    low: Fraction | None = None
    high: Fraction | None = None

    def times(self, k: Fraction) -> _Ramp:
        ends = tuple(None if v is None else k * v for v in (self.low, self.high))
        return _Ramp(k * self.slope, k * self.offset, *(ends if k > 0 else ends[::-1]))

    def plus(self, c: Fraction) -> _Ramp:
        ends = (None if v is None else v + c for v in (self.low, self.high))
        return _Ramp(self.slope, self.offset + c, *ends)

    def at_least(self, c: Fraction) -> _Ramp:
        low = c if self.low is None else max(self.low, c)
        high = None if self.high is None else max(self.high, c)
        return self._replace(low=low, high=high)


def gated_ramp(b: Builder, x: Variable, y: Variable) -> Gated | None:
    """``k r`` times ``h clip(r / w + 1 / 2, 0, 1)`` as a multiple of hard swish, or None.

    With ``s = 6 / w`` that is ``k h hard_swish(s r) / s``.
    """
    for linear, gate in ((x, y), (y, x)):
        r, k = multiple(b, linear)
        ramp = _read(b, gate, r)
        if ramp is None or not (x.shape == y.shape == r.shape):
            continue
        rises = ramp.low == 0 and ramp.high is not None and ramp.high > 0 and ramp.slope != 0
        if rises and ramp.offset == ramp.high / 2:
            scale = 6 * ramp.slope / ramp.high
            return Gated(HARD_SWISH, r, scale, k * ramp.high)
    return None


def _read(b: Builder, value: Any, r: Variable, depth: int = LIMIT) -> _Ramp | None:
    if value == r:
        return _Ramp(Fraction(1), Fraction(0))
    eqn = b.definitions.get(value) if isinstance(value, Variable) else None
    if eqn is None or depth == 0 or value.shape != r.shape:
        return None
    numbers = [number_of(b, v) for v in eqn.invars]
    if eqn.primitive is lax.neg_p:
        inner = _read(b, eqn.invars[0], r, depth - 1)
        return None if inner is None else inner.times(Fraction(-1))
    if len(numbers) != 2 or (numbers[0] is None) == (numbers[1] is None):
        return None
    place = numbers.index(None)
    inner, number = _read(b, eqn.invars[place], r, depth - 1), numbers[1 - place]
    if inner is None:
        return None
    if eqn.primitive is lax.add_p:
        return inner.plus(number)
    if eqn.primitive is lax.max_p:
        return inner.at_least(number)
    if eqn.primitive is lax.mul_p and number != 0:
        return inner.times(number)
    if eqn.primitive is lax.div_p and place == 0 and number != 0:
        return inner.times(1 / number)
    return None
