"""How far constants that a network computes from others may be from those of another machine.

A graph holds ``A @ B`` of two arrays of weights as one constant, as the machine that read it computed
it. The deployed network computes it anew, in an order of its own. Here every operation between constants
gets a bound ``r`` on the relative error of each entry of its value,

    c' = c (1 + d),   |d| <= r,

in float32, in any order, by Higham's bounds as in :mod:`jmlv.bounds.rounding`: a sum of ``n`` terms has
``gamma_{n+2}`` times the sum of their magnitudes over the magnitude of the sum. Roots are allowed 2^-21,
four units in the last place: compilers take them as exact (IEEE), as a reciprocal of a root (two roundings),
or by approximations of up to three (CUDA's tables). What has no such bound (exponentials, comparisons of what
is rounded, sums that cancel) has an infinite one, and nothing is proven of the deployed network.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jmlv.graph.ir import Folded
from jmlv.numerics import EXTRA

UNIT = 2.0**-24

ROOT = 2.0**-21

MOST = 2.0**-10
"""Larger errors are infinite, so that products of errors stay small."""

UNCUT = 2**8
"""Integers up to this are numbers of bfloat16, to which operands of products may be cut."""

TINY, LEAST, LARGEST = 2.0**-126, 2.0**-100, 2.0**127
"""Numbers below the first may be flushed to zero; what is computed lies between the others, or is zero."""

EXACT = Folded(0.0)

MOVES = frozenset(
    {"broadcast_in_dim", "concatenate", "copy", "copy_p", "dynamic_slice", "expand_dims", "gather", "pad", "reshape",
     "rev", "select_n", "slice", "split", "squeeze", "stack", "stop_gradient", "tile", "transpose",
     "neg", "abs", "max", "min", "reduce_max", "reduce_min"}
)  # fmt: skip
"""What they give is no further off than what they take, sign and order included."""

STEPS = frozenset(
    {"ceil", "convert_element_type", "eq", "floor", "ge", "gt", "iota", "is_finite", "le", "lt", "ne", "round", "sign",
     "sort", "argmax", "argmin", "clamp", "reduce_and", "reduce_or", "and", "or", "not", "random_bits", "random_seed",
     "random_wrap", "random_unwrap", "random_fold_in", "dynamic_update_slice", "shift_right_logical",
     "shift_left", "bitcast_convert_type", "threefry2x32"}
)  # fmt: skip
"""The same on every machine if what they take is."""

INTEGERS = frozenset({"cumsum", "rem", "reduce_prod", "xor", "shift_right_arithmetic"})

MEETING = frozenset({"add", "add_any", "sub", "mul", "div", "dot_general", "conv_general_dilated"})
"""What a rounded constant may meet a computed value in."""

SUMS = frozenset({"reduce_sum", "dot_general", "conv_general_dilated"})


class Ledger:
    """The errors of a graph's constants while it is built.

    Attributes:
        met: the largest error of those that a computed value has met.
        alike: whether one of these has the same number everywhere, so that rules may have read it.
    """

    def __init__(self) -> None:
        self.met, self.alike = EXACT, False
        # By id, with the arrays, which keeps their ids theirs.
        self._known: dict[int, tuple[Any, Folded]] = {}

    def of(self, value: Any) -> Folded:
        return self._known.get(id(value), (None, EXACT))[1]

    def note(
        self, again: Callable, name: str, operands: Sequence[Any], params: Mapping, values: Any
    ) -> None:
        """Notes what an operation between constants has given: ``again(*operands)`` does it again."""
        given = [self.of(v) for v in operands]
        found = _error(again, name, operands, params, values, given)
        if found != EXACT:
            self._known.update((id(v), (v, found)) for v in values)

    def meet(self, name: str, operands: Sequence[Any]) -> None:
        """Notes that an operation takes constants and computed values."""
        rounded = [v for v in operands if self.of(v) != EXACT]
        found = _worst([self.of(v) for v in rounded])
        if rounded and not (name in MEETING and found.share <= MOST):
            found = _lost(found.by or name)
        elif rounded:
            self.alike = self.alike or any(np.all(np.ravel(v) == np.ravel(v)[0]) for v in rounded)
        self.met = _worst([self.met, found])

    def read(self, value: Any, name: str) -> None:
        """Notes that a rule has put a constant where its relative error may grow."""
        if self.of(value) != EXACT or self.alike:
            self.met = _lost(name)

    @property
    def found(self) -> Folded:
        """Of two machines, up to a power of two, so that networks of one architecture share it."""
        share = 2.02 * self.met.share
        share = 2.0 ** math.ceil(math.log2(share)) if 0 < share < math.inf else share
        return Folded(share, self.met.products, self.met.by)


def _lost(name: str) -> Folded:
    return Folded(math.inf, by=name)


def _worst(found: Sequence[Folded]) -> Folded:
    worst = max(found, key=lambda one: one.share, default=EXACT)
    return Folded(worst.share, any(one.products for one in found), worst.by)


def _error(
    again: Callable,
    name: str,
    operands: Sequence[Any],
    params: Mapping[str, Any],
    values: Sequence[Any],
    found: Sequence[Folded],
) -> Folded:
    """The error of what an operation gives, by those of what it takes."""
    given = _worst(found)
    if math.isfinite(given.share) and (name in MOVES or _changes_nothing(name, operands, values)):
        return given
    steps = name in STEPS and _alike_everywhere(operands, params, values)
    if given == EXACT and (steps or _of_integers(name, operands, values)):
        return EXACT
    rule = ARITHMETIC.get(name)
    if (
        rule is None
        or math.isinf(given.share)
        or any(isinstance(v, jax.core.Tracer) for v in operands)
    ):
        return Folded(math.inf, by=given.by or name)
    arrays = [np.asarray(v) for v in operands]
    if any(str(a.dtype) != "float32" for a in (*arrays, *values)) or not _normal(arrays):
        return _lost(name)
    wide = arrays if name in SUMS else [a.astype(float) for a in arrays]
    value = np.asarray(values[0], float)
    with np.errstate(all="ignore"):
        share = rule(_Operation(again, wide, params, value, sum(one.share for one in found)))
    if not share <= MOST:
        return _lost(name)
    products = given.products or (share > 0 and name in SUMS and name != "reduce_sum")
    return Folded(share, products, name) if share > 0 else EXACT


def _alike_everywhere(operands: Sequence[Any], params: Mapping, values: Sequence[Any]) -> bool:
    """Not sorting that may put equal numbers in any order, nor random bits of a device's own making."""
    kinds = {str(v.dtype) for v in (*operands, *values)}
    keys = {kind for kind in kinds if kind.startswith("key<")}
    return params.get("is_stable", True) and keys <= {"key<fry>"}


def _changes_nothing(name: str, operands: Sequence[Any], values: Sequence[Any]) -> bool:
    return name == "convert_element_type" and operands[0].dtype == values[0].dtype


def _of_integers(name: str, operands: Sequence[Any], values: Sequence[Any]) -> bool:
    floats = (jax.numpy.issubdtype(v.dtype, jax.numpy.inexact) for v in (*operands, *values))
    return (name in ARITHMETIC or name in INTEGERS) and not any(floats)


def _normal(arrays: Sequence[np.ndarray]) -> bool:
    sizes = [np.abs(a) for a in arrays]
    return all(np.all((s == 0) | ((s >= TINY) & (s <= LARGEST))) for s in sizes)


def _gamma(n: int) -> float:
    roundings = (n + EXTRA) * UNIT
    return 1.01 * roundings if roundings <= 0.01 else math.inf


def _amplified(size: np.ndarray, value: np.ndarray, error: float, terms: int = 1) -> float:
    """Terms of magnitude ``size`` in all, each off by a share ``error``, as a share of their sum."""
    value = np.abs(value)
    if not np.all((size <= LARGEST) & ((size == 0) | (value >= LEAST))):
        return math.inf
    worst = float(
        np.max(np.divide(size, value, out=np.ones_like(value), where=size > 0), initial=1.0)
    )
    return 1.01 * worst * error + terms * TINY / LEAST


class _Operation(NamedTuple):
    """An operation between constants.

    Attributes:
        again: evaluates it on other operands.
        arrays: its operands; those of sums as they are, others in float64, where products are exact.
        params: its parameters.
        value: what it gave, in float64.
        given: the sum of the errors of the operands: to first order, that of a product.
    """

    again: Callable[..., Any]
    arrays: Sequence[np.ndarray]
    params: Mapping[str, Any]
    value: np.ndarray
    given: float


def _sum_of_two(sign: int) -> Callable[[_Operation], float]:
    def rule(op: _Operation) -> float:
        a, b = op.arrays[0], sign * op.arrays[1]
        total = a + b
        rest = (a - (total - b)) + (b - (total - (total - b)))  # Knuth's: what the sum has lost
        if op.given == 0 and np.all(rest == 0) and np.array_equal(total, op.value):
            return 0.0
        return _amplified(np.abs(a) + np.abs(b), op.value, op.given + _gamma(1))

    return rule


def _product(op: _Operation) -> float:
    exact = op.arrays[0] * op.arrays[1]
    if op.given == 0 and np.array_equal(exact, op.value):
        return 0.0
    return _amplified(np.abs(exact), op.value, op.given + _gamma(1))


def _quotient(op: _Operation) -> float:
    a, b = op.arrays
    if np.any(b == 0):
        return math.inf
    halving = np.all(np.abs(np.frexp(b)[0]) == 0.5)  # by powers of two, whose inverses are exact
    same = np.array_equal(op.value * b, np.broadcast_to(a, op.value.shape))
    if op.given == 0 and halving and same:
        return 0.0
    return _amplified(np.abs(a / b), op.value, op.given + _gamma(1))


def _power(op: _Operation) -> float:
    (a,), y = op.arrays, op.params.get("y", 2)
    if abs(y) > 64 or (y < 0 and np.any(a == 0)):
        return math.inf
    exact = a**y
    if op.given == 0 and y in (0, 1, 2) and np.array_equal(exact, op.value):
        return 0.0
    return _amplified(np.abs(exact), op.value, 1.1 * (abs(y) * op.given + _gamma(abs(y))))


def _root(op: _Operation) -> float:
    (a,) = op.arrays
    return op.given + ROOT if np.all((a == 0) | (a >= LEAST)) else math.inf


def _reciprocal_root(op: _Operation) -> float:
    return op.given + ROOT if np.all(op.arrays[0] >= LEAST) else math.inf


def _sum(op: _Operation) -> float:
    """Sums of numbers, or of products: the number of terms is what ones sum up to."""
    size = np.asarray(op.again(*map(np.abs, op.arrays)), float)
    terms = int(np.max(np.asarray(op.again(*map(np.ones_like, op.arrays)), float), initial=1))
    whole = all(np.array_equal(a, np.round(a)) for a in op.arrays)
    short = len(op.arrays) == 1 or all(np.all(np.abs(a) <= UNCUT) for a in op.arrays)
    if op.given == 0 and whole and short and np.all(size <= 2**24):
        return 0.0
    return _amplified(size, op.value, op.given + _gamma(terms), terms)


ARITHMETIC = {
    "add": _sum_of_two(1), "add_any": _sum_of_two(1), "sub": _sum_of_two(-1),
    "mul": _product, "div": _quotient, "square": _power, "integer_pow": _power,
    "sqrt": _root, "rsqrt": _reciprocal_root, **dict.fromkeys(SUMS, _sum),
}  # fmt: skip
