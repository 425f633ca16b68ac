"""Sums, products and quotients."""

from __future__ import annotations

import functools
from fractions import Fraction
from typing import Any

import jax
import numpy as np
from jax import lax

from jmlv.graph.builder import Builder
from jmlv.graph.ir import Literal, Variable
from jmlv.graph.operations import Refused
from jmlv.graph.rules.gates import gated, multiple, number_of
from jmlv.graph.rules.normalised import softmax_of
from jmlv.graph.rules.ramps import gated_ramp
from jmlv.graph.smooth import CUBE, EXP, LOG, RECIPROCAL, RSQRT, SIGMOID, SQRT, SQUARE


def add(b: Builder, x: Any, y: Any) -> Any:
    return b.emit(lax.add_p, x, y)


def neg(b: Builder, x: Any) -> Any:
    return b.emit(lax.neg_p, x)


def subtract(b: Builder, x: Any, y: Any) -> Any:
    """``x + (-y)``, which is the same number in floating point."""
    return add(b, x, neg(b, y))


def multiply(b: Builder, x: Any, y: Any) -> Any:
    """A product with a constant, or of two computed values."""
    return b.emit(lax.mul_p, x, y, **_multiplication())


def product(b: Builder, x: Any, y: Any) -> Any:
    """A product; one of two computed values that is a function of one (square, GELU, SiLU) is that."""
    if not (isinstance(x, Variable) and isinstance(y, Variable)):
        return multiply(b, x, y)
    (r, k), (s, m) = multiple(b, x), multiple(b, y)
    if x == y:
        return square(b, x)
    if r == s and is_moderate(k) and is_moderate(m):
        return by_number(b, lax.mul_p, square(b, r), k * m)
    found = gated(b, x, y) or gated_ramp(b, x, y)
    if found is None or not (is_moderate(found.scale) and is_moderate(found.factor)):
        return multiply(b, x, y)
    inner = by_number(b, lax.mul_p, found.r, found.scale)
    outer = by_number(b, lax.mul_p, b.emit(found.f, inner), found.factor)
    return by_number(b, lax.div_p, outer, found.scale)


def is_moderate(number: Fraction) -> bool:
    """Whether a factor that is moved past a function can neither overflow nor underflow there."""
    return Fraction(1, 2**20) <= abs(number) <= 2**20


def square(b: Builder, x: Variable) -> Variable:
    return b.emit(SQUARE, x)


def power(b: Builder, x: Variable, *, y: int) -> Variable:
    """An integer power, by squares and cubes; ``x^0``, which is constant, stays, unsupported."""
    if y == 0:
        return b.record(lax.integer_pow_p, (x,), {"y": y}, x.shape, x.dtype)
    if y < 0:
        return reciprocal(b, power(b, x, y=-y))
    if y == 1:
        return x
    if y == 3:
        return b.emit(CUBE, x)
    if y % 2 == 0:
        return power(b, square(b, x), y=y // 2)
    return product(b, power(b, x, y=y - 1), x)


def real_power(b: Builder, x: Any, y: Any) -> Any:
    """``x^y`` with one number ``y`` for all: an integer power, a root, or ``exp(y log(x))``.

    The last, which has no value unless ``x`` is positive, rounds as the power itself does.
    """
    exponent = None if isinstance(y, (Variable, jax.core.Tracer)) else np.asarray(y)
    if not isinstance(x, Variable) or exponent is None or not is_everywhere(y, exponent.flat[0]):
        shape = (x if isinstance(x, Variable) else y).shape
        return b.record(
            Refused("pow with computed or several exponents"), (x, y), {}, shape, b.dtype
        )
    number = Fraction(float(exponent.flat[0]))
    if number.denominator == 1 and number != 0 and abs(number) <= LARGEST_POWER:
        return power(b, x, y=int(number))
    if number == Fraction(1, 2):
        return b.emit(SQRT, x)
    if number == Fraction(-1, 2):
        return b.emit(RSQRT, x)
    return b.emit(EXP, by_number(b, lax.mul_p, b.emit(LOG, x), number))


LARGEST_POWER = 64


def reciprocal(b: Builder, x: Variable) -> Variable:
    """``1 / x``; of a square root, and of ``1 + exp(-z)`` (sigmoid), as one function."""
    eqn = b.definitions.get(x)
    if eqn is not None and eqn.primitive is SQRT:
        return b.emit(RSQRT, eqn.invars[0])
    if eqn is not None and eqn.primitive is lax.add_p:
        for term, one in (eqn.invars, eqn.invars[::-1]):
            power = b.definitions.get(term)
            if power is not None and power.primitive is EXP and number_of(b, one) == 1:
                return b.emit(SIGMOID, neg(b, power.invars[0]))
    return b.emit(RECIPROCAL, x)


def divide(b: Builder, x: Any, y: Any) -> Any:
    """A quotient; by a constant, none of its entries may be zero or too small to have a reciprocal.

    By a computed value it is a product with its reciprocal, unless it is a softmax.
    """
    if isinstance(y, Variable):
        return softmax_of(b, x, y) or product(b, x, reciprocal(b, y))
    if isinstance(x, Variable) and not isinstance(y, (Variable, jax.core.Tracer)):
        least = 1 / np.finfo(b.dtype).max
        if np.any(np.abs(np.asarray(y)) < least):
            return b.record(Refused("div by zero"), (x,), {}, x.shape, x.dtype)
    return b.emit(lax.div_p, x, y)


def by_number(b: Builder, primitive: Any, x: Variable, number: Fraction) -> Variable:
    """Multiplies or divides by a number; it stays exact, as far as float64 goes, in any precision."""
    if number == 1:
        return x
    params = _multiplication() if primitive is lax.mul_p else {}
    return b.record(primitive, (x, Literal(float(number), x.dtype)), params, x.shape, x.dtype)


def scalar(x: Any, value: float) -> Any:
    """A number in the precision of ``x``."""
    return np.asarray(value, x.dtype)[()]


def is_everywhere(value: Any, number: float) -> bool:
    """Whether a value is a known constant that equals the number in every entry."""
    if isinstance(value, (Variable, jax.core.Tracer)):
        return False
    return bool(np.all(np.asarray(value) == number))


def constant_of(b: Builder, atom: Any) -> Any:
    """The value of a constant operand of an equation; None if it is computed."""
    if isinstance(atom, Literal):
        return atom.val
    return b.constants.get(atom) if isinstance(atom, Variable) else atom


@functools.cache
def _multiplication() -> dict[str, Any]:
    """The parameters of a product in this JAX release (0.10 added one)."""
    return jax.make_jaxpr(lax.mul)(1.0, 1.0).eqns[0].params
