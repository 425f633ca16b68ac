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
from jmlv.graph.rules.gates import gated, multiple
from jmlv.graph.rules.ramps import gated_ramp
from jmlv.graph.smooth import SQUARE


def add(b: Builder, x: Any, y: Any) -> Any:
    return b.emit(lax.add_p, x, y)


def neg(b: Builder, x: Any) -> Any:
    return b.emit(lax.neg_p, x)


def subtract(b: Builder, x: Any, y: Any) -> Any:
    """``x + (-y)``, which is the same number in floating point."""
    return add(b, x, neg(b, y))


def multiply(b: Builder, x: Any, y: Any) -> Any:
    """A product with a constant; of two computed values it stays, unsupported."""
    return b.emit(lax.mul_p, x, y, **_multiplication())


def product(b: Builder, x: Any, y: Any) -> Any:
    """A product; of two computed values only if it is a known function of one (square, GELU, SiLU)."""
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
    """``x^1``, ``x^2`` and ``x^4``; other powers stay for :mod:`jmlv.graph.rules.gates` to read."""
    if y == 1:
        return x
    if y in (2, 4):
        return square(b, x) if y == 2 else square(b, square(b, x))
    return b.record(lax.integer_pow_p, (x,), {"y": y}, x.shape, x.dtype)


def divide(b: Builder, x: Any, y: Any) -> Any:
    """A quotient by a constant, none of whose entries is zero or too small to have a reciprocal."""
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
