"""``where``: selections by a constant mask, and those that are a function of one value."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jmlv.graph.builder import Builder
from jmlv.graph.ir import Variable
from jmlv.graph.operations import Refused, is_relu
from jmlv.graph.rules.arithmetic import (
    add,
    by_number,
    constant_of,
    is_everywhere,
    is_moderate,
    multiply,
    neg,
)
from jmlv.graph.rules.gates import multiple
from jmlv.graph.rules.maxima import leaky_relu, maximum, minimum, relu
from jmlv.graph.rules.normalised import variance
from jmlv.graph.smooth import ELU, FINITE


def select(b: Builder, which: Any, *cases: Any) -> Any:
    """A selection by a constant mask, or by the sign of what is selected; any other stays, unsupported.

    Known are ``where(x > c, x, c)`` and its kind (maximum and minimum), ``where(x > 0, x, k x)``
    (leaky ReLU), and ``where(x > 0, x, a expm1(x))`` (ELU), however they are turned round; and
    ``where(isfinite(x), x, c)``, by which JAX's logsumexp guards itself: it is ``x``, and has no
    bound where ``x`` could overflow.
    """
    if not isinstance(which, Variable):
        return _masked(b, which, cases)
    if all(case is cases[0] for case in cases):
        return cases[0]
    if _guards_itself(b, which, cases):
        return b.emit(FINITE, cases[1])
    split = _split(b, which, cases)
    found = None if split is None else _continuous(b, split)
    if found is not None:
        return found
    like = next((c for c in cases if isinstance(c, Variable)), cases[0])
    return b.record(lax.select_n_p, (which, *cases), {}, tuple(like.shape), like.dtype)


def _masked(b: Builder, which: Any, cases: Sequence[Any]) -> Any:
    """The sum of each case times the mask of where it is chosen: all terms but one are zero."""
    if np.ndim(which) == 0 and not isinstance(which, jax.core.Tracer):
        return cases[int(which)]
    shape = next(c.shape for c in cases if isinstance(c, Variable))
    constant, total = jnp.zeros(shape, b.dtype), None
    for number, case in enumerate(cases):
        mask = jnp.broadcast_to(jnp.asarray(which) == number, shape)
        if isinstance(case, Variable):
            part = multiply(b, case, mask.astype(b.dtype))
            total = part if total is None else add(b, total, part)
        else:
            constant = jnp.where(mask, case, constant).astype(b.dtype)
    if is_everywhere(constant, 0):
        return total
    if not isinstance(constant, jax.core.Tracer) and not np.isfinite(constant).all():
        refused = Refused("select_n with a constant that is not finite")
        return b.record(refused, (total,), {}, shape, b.dtype)
    return add(b, total, constant)


def _guards_itself(b: Builder, which: Variable, cases: Sequence[Any]) -> bool:
    """Whether it is ``where(isfinite(x), x, c)``."""
    test = b.definitions.get(which)
    guard = test is not None and test.primitive is lax.is_finite_p and len(cases) == 2
    return guard and test.invars[0] == cases[1]


class _Split(NamedTuple):
    """``above`` where ``x > c`` and ``below`` where ``x < c``; either of them where they are equal."""

    x: Variable
    knee: Any
    above: Any
    below: Any


_GREATER = {lax.gt_p: True, lax.ge_p: True, lax.lt_p: False, lax.le_p: False}


def _split(b: Builder, which: Variable, cases: Sequence[Any]) -> _Split | None:
    test = b.definitions.get(which)
    if test is None or test.primitive not in _GREATER or len(cases) != 2:
        return None
    greater = _GREATER[test.primitive]
    left, right = (constant_of(b, v) for v in test.invars)
    if (left is None) == (right is None):
        return None
    x, knee = (test.invars[0], right) if left is None else (test.invars[1], left)
    greater = greater if left is None else not greater
    no, yes = cases
    return _Split(x, knee, yes, no) if greater else _Split(x, knee, no, yes)


def _continuous(b: Builder, s: _Split) -> Variable | None:
    """The selection as a function whose two sides meet at the knee, or None if they may not."""
    if _equal(s.below, s.knee) and _is_up_to(b, s.above, s, above=True):
        return maximum(b, s.above, s.below)
    if _equal(s.above, s.knee) and _is_up_to(b, s.below, s, above=False):
        return minimum(b, s.below, s.above)
    if not is_everywhere(s.knee, 0):
        return None
    if _equal(s.below, 0) and s.above == s.x:
        return relu(b, s.x)
    if s.above == s.x and isinstance(s.below, Variable):
        slope = _factor(b, s.below, s.x)
        b.folded.read(slope, "leaky ReLU")
        return _elu(b, s) if slope is None else leaky_relu(b, s.x, slope)
    if s.below == s.x and isinstance(s.above, Variable):
        slope = _factor(b, s.above, s.x)
        b.folded.read(slope, "leaky ReLU")
        return None if slope is None else neg(b, leaky_relu(b, neg(b, s.x), slope))
    return None


def _equal(value: Any, knee: Any) -> bool:
    if isinstance(value, (Variable, jax.core.Tracer)) or isinstance(knee, jax.core.Tracer):
        return False
    return bool(np.all(np.asarray(value) == np.asarray(knee)))


def _is_up_to(b: Builder, value: Any, s: _Split, above: bool) -> bool:
    """Whether a value is ``x``, or ``x`` clipped on the other side of the knee, on its own side."""
    if value == s.x:
        return True
    eqn = b.definitions.get(value) if isinstance(value, Variable) else None
    if eqn is None:
        return False
    if not above and eqn.primitive is lax.max_p and eqn.invars[0] == s.x:
        other = constant_of(b, eqn.invars[1])
        return _ordered(other, s.knee)
    if above and eqn.primitive is lax.neg_p:  # -max(-x, -k), with k above the knee
        inner = b.definitions.get(eqn.invars[0])
        turned = inner is not None and inner.primitive is lax.max_p
        turned = turned and _is_negative_of(b, inner.invars[0], s.x)
        return turned and _ordered(s.knee, -np.asarray(constant_of(b, inner.invars[1])))
    return False


def _ordered(low: Any, high: Any) -> bool:
    if low is None or isinstance(low, jax.core.Tracer) or isinstance(high, jax.core.Tracer):
        return False
    return bool(np.all(np.asarray(low) <= np.asarray(high)))


def _is_negative_of(b: Builder, value: Any, x: Variable) -> bool:
    eqn = b.definitions.get(value) if isinstance(value, Variable) else None
    return eqn is not None and eqn.primitive is lax.neg_p and eqn.invars[0] == x


def _factor(b: Builder, y: Variable, x: Variable) -> Any:
    """The constant ``k`` of ``y = k x``, or None; an array, or a number however it is written."""
    product = b.definitions.get(y)
    if product is not None and product.primitive is lax.mul_p and x in product.invars:
        return constant_of(b, product.invars[1] if product.invars[0] == x else product.invars[0])
    source, factor = multiple(b, y)
    return float(factor) if source == x else None


def _elu(b: Builder, s: _Split) -> Variable | None:
    """``x`` above zero and ``a expm1(x)`` below, where ``expm1`` may read ``min(x, 0)``."""
    y, a = multiple(b, s.below)
    eqn = b.definitions.get(y)
    if eqn is None or eqn.primitive is not lax.expm1_p or a <= 0:
        return None
    if eqn.invars[0] != s.x and not is_minimum_with_zero(b, eqn.invars[0], s.x):
        return None
    return elu(b, s.x, a)


def elu(b: Builder, x: Variable, a: Fraction) -> Variable:
    """Terms of one sign: ``a elu(x) + (1 - a) relu(x)``, or ``elu(x) + (a - 1) elu(min(x, 0))``."""
    whole = b.emit(ELU, x)
    if a == 1:
        return whole
    if a < 1:
        rest = by_number(b, lax.mul_p, relu(b, x), 1 - a)
        return add(b, by_number(b, lax.mul_p, whole, a), rest)
    below = b.emit(ELU, minimum(b, x, 0.0))
    return add(b, whole, by_number(b, lax.mul_p, below, a - 1))


def is_minimum_with_zero(b: Builder, value: Any, x: Variable) -> bool:
    """Whether a value is ``min(x, 0)``, which is ``-relu(-x)``."""
    eqn = b.definitions.get(value) if isinstance(value, Variable) else None
    inner = b.definitions.get(eqn.invars[0]) if eqn is not None else None
    return (
        inner is not None
        and eqn.primitive is lax.neg_p
        and inner.primitive is lax.max_p
        and is_everywhere(constant_of(b, inner.invars[1]), 0)
        and _is_negative_of(b, inner.invars[0], x)
    )


def plus(b: Builder, x: Any, y: Any) -> Any:
    """A sum; ``relu(r) + a expm1(min(r, 0) / a)`` (CELU) is ``a elu(r / a)``, and some are variances."""
    if isinstance(x, Variable) and isinstance(y, Variable):
        spread = variance(b, x, y)
        if spread is not None:
            return spread
        for above, below in ((x, y), (y, x)):
            found = _celu(b, above, below)
            if found is not None:
                return found
    return add(b, x, y)


def _celu(b: Builder, above: Variable, below: Variable) -> Variable | None:
    first = b.definitions.get(above)
    if first is None or not is_relu(first):
        return None
    r, (y, a) = first.invars[0], multiple(b, below)
    curve = b.definitions.get(y)
    if curve is None or curve.primitive is not lax.expm1_p:
        return None
    held, k = multiple(b, curve.invars[0])  # -k relu(-r), which is k min(r, 0)
    turned = b.definitions.get(held)
    if turned is None or not is_relu(turned) or not _is_negative_of(b, turned.invars[0], r):
        return None
    if a <= 0 or a * -k != 1 or not is_moderate(a):
        return None
    return by_number(b, lax.mul_p, b.emit(ELU, by_number(b, lax.div_p, r, a)), a)
