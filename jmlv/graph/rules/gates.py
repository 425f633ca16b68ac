"""Recognises ``x times a gate of x`` (GELU, SiLU) among products, by exact algebra.

A product of two computed values has planes around it that know nothing of how the two go together. There
is better where both are functions of one value ``r``: ``k r`` and ``a + b erf(c r)``, say. To see that, the equations behind
the factors are read back to ``r`` in rational arithmetic, in which floating-point constants are
exact; so every way of writing the function is recognised, and nothing that only resembles it.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import lax

from jmlv.graph.builder import Builder
from jmlv.graph.ir import Literal, Variable
from jmlv.graph.smooth import (
    CUBE,
    GELU,
    GELU_TANH,
    GELU_TANH_64,
    GELU_TANH_CUBIC,
    GELU_TANH_CUBIC_64,
    GELU_TANH_SCALE,
    GELU_TANH_SCALE_64,
    SIGMOID,
    SILU,
    SQUARE,
    TANH,
    Smooth,
)

LIMIT = 64
"""Equations behind a factor that are read at most."""

Polynomial = dict[int, Fraction]
"""Coefficient by power of ``r``; zeros are left out."""


class Gated(NamedTuple):
    """``factor * f(scale * r) / scale``, which equals the product of the two values."""

    f: Smooth
    r: Variable
    scale: Fraction
    factor: Fraction


class Form(NamedTuple):
    """``polynomial(r) + factor * atom(inner(r))`` with the atom ``erf`` or ``tanh``, or None."""

    polynomial: Polynomial
    factor: Fraction = Fraction(0)
    atom: str | None = None
    inner: Polynomial | None = None


def gated(b: Builder, x: Variable, y: Variable) -> Gated | None:
    """The product of two values as a gated function of one value, or None if it is not one."""
    for linear, gate in ((x, y), (y, x)):
        r, k = multiple(b, linear)
        form = _Reader(b, r).form(gate)
        found = None if form is None or form.atom is None else _recognised(r, k, form)
        if found is not None and x.shape == y.shape == r.shape:
            return found
    return None


def _recognised(r: Variable, k: Fraction, form: Form) -> Gated | None:
    """``k r (a + b atom(inner))`` with ``a = b``, or ``a = -b``, which is ``a + a atom(-inner)``."""
    constant = form.polynomial.get(0, Fraction(0))
    if set(form.polynomial) != {0} or abs(constant) != abs(form.factor):
        return None
    turn = 1 if constant == form.factor else -1
    inner = {power: turn * c for power, c in form.inner.items()}
    linear = inner.get(1, Fraction(0))
    if linear == 0:
        return None
    if form.atom == "erf" and set(inner) == {1}:
        return Gated(GELU, r, linear, 2 * k * constant)
    if form.atom == "tanh" and set(inner) == {1}:
        return Gated(SILU, r, 2 * linear, 2 * k * constant)
    for f, steepness, curvature in _GELUS:
        scale = linear / Fraction(steepness)
        cubic = linear * scale**2 * Fraction(curvature)
        if form.atom == "tanh" and inner == {1: linear, 3: cubic}:
            return Gated(f, r, scale, 2 * k * constant)
    return None


_GELUS = (
    (GELU_TANH, GELU_TANH_SCALE, GELU_TANH_CUBIC),
    (GELU_TANH_64, GELU_TANH_SCALE_64, GELU_TANH_CUBIC_64),
)
"""The tanh approximation with its constants as float32 and as float64 hold them."""


def multiple(b: Builder, x: Variable) -> tuple[Variable, Fraction]:
    """``(r, k)`` with ``x = k r``, read as far back as it goes."""
    factor = Fraction(1)
    for _ in range(LIMIT):
        eqn = b.definitions.get(x)
        if eqn is None or eqn.outvar.shape != x.shape:
            break
        step = _step(b, eqn)
        if step is None or step[0].shape != x.shape or step[1] == 0:
            break
        x, factor = step[0], factor * step[1]
    return x, factor


def _step(b: Builder, eqn: Any) -> tuple[Variable, Fraction] | None:
    """The operand and factor of a negation, or of a product with or division by a number."""
    operands = [number_of(b, v) for v in eqn.invars]
    if eqn.primitive is lax.neg_p:
        return eqn.invars[0], Fraction(-1)
    if eqn.primitive is lax.mul_p and sum(n is None for n in operands) == 1:
        place = operands.index(None)
        return eqn.invars[place], operands[1 - place]
    if eqn.primitive is lax.div_p and operands[0] is None and operands[1]:
        return eqn.invars[0], 1 / operands[1]
    return None


def number_of(b: Builder, atom: Any) -> Fraction | None:
    """The value of a known constant that is the same in every entry."""
    value = atom.val if isinstance(atom, Literal) else b.constants.get(atom)
    if value is None or isinstance(value, jax.core.Tracer):
        return None
    value = np.asarray(value)
    if value.size == 0 or not np.isfinite(value).all() or not (value == value.flat[0]).all():
        return None
    return Fraction(float(value.flat[0]))


class _Reader:
    """Reads values back to ``r``; each equation once, and not more than the limit."""

    def __init__(self, b: Builder, r: Variable) -> None:
        self.b, self.r = b, r
        self.known: dict[Variable, Form | None] = {r: Form({1: Fraction(1)})}

    def form(self, atom: Any) -> Form | None:
        number = number_of(self.b, atom)
        if number is not None:
            return Form(_clean({0: number}))
        if atom not in self.known:
            eqn = self.b.definitions.get(atom) if isinstance(atom, Variable) else None
            if eqn is None or atom.shape != self.r.shape or len(self.known) > LIMIT:
                return None
            self.known[atom] = None
            self.known[atom] = self._read(eqn)
        return self.known[atom]

    def _read(self, eqn: Any) -> Form | None:
        operands = [self.form(v) for v in eqn.invars]
        rule = _RULES.get(eqn.primitive)
        if rule is None or any(v is None for v in operands):
            return None
        return rule(*operands, **eqn.params)


def _add(x: Form, y: Form, **_: Any) -> Form | None:
    if x.atom is not None and y.atom is not None:
        return None
    gate = x if y.atom is None else y
    powers = x.polynomial.keys() | y.polynomial.keys()
    total = {n: x.polynomial.get(n, 0) + y.polynomial.get(n, 0) for n in powers}
    return gate._replace(polynomial=_clean(total))


def _scaled(x: Form, k: Fraction) -> Form:
    return x._replace(
        polynomial=_clean({n: k * c for n, c in x.polynomial.items()}), factor=k * x.factor
    )


def _mul(x: Form, y: Form, **_: Any) -> Form | None:
    for scalar, other in ((x, y), (y, x)):
        if scalar.atom is None and set(scalar.polynomial) <= {0}:
            return _scaled(other, scalar.polynomial.get(0, Fraction(0)))
    if x.atom is not None or y.atom is not None:
        return None
    total: Polynomial = {}
    for n, a in x.polynomial.items():
        for m, c in y.polynomial.items():
            total[n + m] = total.get(n + m, Fraction(0)) + a * c
    return Form(_clean(total)) if max(total) <= 3 else None


def _div(x: Form, y: Form, **_: Any) -> Form | None:
    number = y.atom is None and set(y.polynomial) == {0}
    return _scaled(x, 1 / y.polynomial[0]) if number else None


def _power(x: Form, *, y: int, **_: Any) -> Form | None:
    if y not in (2, 3):
        return None
    square = _mul(x, x)
    return square if y == 2 or square is None else _mul(square, x)


def _gate(atom: str, x: Form) -> Form | None:
    plain = x.atom is None and 0 not in x.polynomial
    return Form({}, Fraction(1), atom, x.polynomial) if plain else None


def _complement(x: Form, **_: Any) -> Form | None:
    """``erfc(x) = 1 - erf(x)``."""
    erf = _gate("erf", x)
    return None if erf is None else Form({0: Fraction(1)}, Fraction(-1), "erf", erf.inner)


def _logistic(x: Form, **_: Any) -> Form | None:
    """``sigmoid(x) = (1 + tanh(x / 2)) / 2``."""
    half = Fraction(1, 2)
    tanh = _gate("tanh", _scaled(x, half))
    return None if tanh is None else Form({0: half}, half, "tanh", tanh.inner)


def _clean(polynomial: Polynomial) -> Polynomial:
    return {n: Fraction(c) for n, c in polynomial.items() if c != 0}


_RULES = {
    lax.add_p: _add,
    lax.neg_p: lambda x, **_: _scaled(x, Fraction(-1)),
    lax.mul_p: _mul,
    lax.div_p: _div,
    lax.integer_pow_p: _power,
    SQUARE: lambda x, **_: _power(x, y=2),
    CUBE: lambda x, **_: _power(x, y=3),
    lax.erf_p: lambda x, **_: _gate("erf", x),
    lax.erfc_p: _complement,
    TANH: lambda x, **_: _gate("tanh", x),
    SIGMOID: _logistic,
}
