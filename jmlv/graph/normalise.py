"""Reads a jaxpr into the normalised graph: one rule per primitive that needs rewriting.

Every call is inlined by interpreting its body anew, so each inlined copy has fresh variables.
(Two identical ``relu`` calls share one inner jaxpr; re-using its variables would merge them, an
unsound bound.)

Every rewriting is exact in floating point, up to the rounding that the function's own operations
have: nothing is added that is taken away again. ``max(x, c)`` stays as it is, a minimum is one with
both signs turned, a maximum of two computed values is a max pool of the pair; absolute value and
leaky ReLU become ReLU and affine operations whose terms do not cancel; subtraction becomes addition
and negation. GELU and SiLU, in whatever way they are written, become one operation
(:mod:`jmlv.graph.gates`), and so does softplus.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import jax
import numpy as np
from jax import lax
from jax.extend import core as jex

from jmlv.graph.builder import Builder
from jmlv.graph.gates import gated
from jmlv.graph.ir import Literal, Variable
from jmlv.graph.smooth import SIGMOID, SOFTPLUS, TANH

Rule = Callable[..., Any]


def interpret(builder: Builder, jaxpr: Any, consts: Sequence[Any], inputs: Sequence[Any]) -> list:
    """Walks a jaxpr, emitting into the builder; returns the values of its outputs."""
    env: dict[Any, Any] = dict(zip(jaxpr.constvars, consts)) | dict(zip(jaxpr.invars, inputs))

    def value(v: Any) -> Any:
        return v.val if isinstance(v, jex.Literal) else env[v]

    for eqn in jaxpr.eqns:
        outputs = _apply(builder, eqn, [value(v) for v in eqn.invars])
        env.update(zip(eqn.outvars, outputs))
    return [value(v) for v in jaxpr.outvars]


def _apply(builder: Builder, eqn: Any, operands: list) -> list:
    body = _body(eqn)
    if body is not None and _is_softplus(eqn, operands):
        return [builder.emit(SOFTPLUS, operands[0])]
    if body is not None:
        jaxpr, consts = body
        return interpret(builder, jaxpr, consts, operands)
    if not any(isinstance(v, Variable) for v in operands):
        outputs = eqn.primitive.bind(*operands, **eqn.params)
        return list(outputs) if eqn.primitive.multiple_results else [outputs]
    rule = RULES.get(eqn.primitive.name)
    if rule is not None:
        result = rule(builder, *operands, **eqn.params)
        return result if isinstance(result, list) else [result]
    return [
        builder.record(eqn.primitive, operands, eqn.params, v.aval.shape, v.aval.dtype)
        for v in eqn.outvars
    ]


def _body(eqn: Any) -> tuple[Any, Sequence[Any]] | None:
    """The jaxpr and constants of a call primitive, whatever JAX's release calls its parameter."""
    for name in ("call_jaxpr", "jaxpr", "fun_jaxpr"):
        inner = eqn.params.get(name)
        if eqn.primitive.name in CALLS and inner is not None:
            return (inner.jaxpr, inner.consts) if hasattr(inner, "jaxpr") else (inner, ())
    return None


CALLS = frozenset(
    {
        "jit",
        "pjit",
        "closed_call",
        "core_call",
        "remat",
        "checkpoint",
        "remat2",
        "custom_jvp_call",
        "custom_vjp_call",
        "custom_vjp_call_jaxpr",
    }
)


# ---------------------------------------------------------------------------------------------
# Rules: (builder, *operands, **params) -> value. At least one operand is a Variable.
# ---------------------------------------------------------------------------------------------


def add(b: Builder, x: Any, y: Any) -> Variable:
    """Addition; plain values only, so JAX's own parameters of the primitive don't matter."""
    return b.emit(lax.add_p, x, y)


def neg(b: Builder, x: Any) -> Any:
    return b.emit(lax.neg_p, x)


def multiply(b: Builder, x: Any, y: Any) -> Any:
    return b.emit(lax.mul_p, x, y, **_multiplication())


def product(b: Builder, x: Any, y: Any) -> Any:
    """A product; of two computed values only if it is a function of one (GELU, SiLU)."""
    found = gated(b, x, y) if isinstance(x, Variable) and isinstance(y, Variable) else None
    if found is None:
        return multiply(b, x, y)
    inner = _by_number(b, lax.mul_p, found.r, found.scale)
    outer = _by_number(b, lax.mul_p, b.emit(found.f, inner), found.factor)
    return _by_number(b, lax.div_p, outer, found.scale)


def _by_number(b: Builder, primitive: Any, x: Variable, number: Fraction) -> Variable:
    """Multiplies or divides by a number; it stays exact, as far as float64 goes, in any precision."""
    if number == 1:
        return x
    params = _multiplication() if primitive is lax.mul_p else {}
    return b.record(primitive, (x, Literal(float(number), x.dtype)), params, x.shape, x.dtype)


def subtract(b: Builder, x: Any, y: Any) -> Variable:
    return add(b, x, neg(b, y))


def relu(b: Builder, x: Any) -> Any:
    return b.emit(lax.max_p, x, _scalar(x, 0))


def maximum(b: Builder, x: Any, y: Any) -> Variable:
    """``max(x, c)`` with the constant second, ``-inf`` being void; of two computed values a pool."""
    if isinstance(x, Variable) and isinstance(y, Variable):
        return reduce_max(b, stack(b, x, y, axis=len(x.shape)), axes=(len(x.shape),))
    x, y = (x, y) if isinstance(x, Variable) else (y, x)
    return x if _is_everywhere(y, -np.inf) else b.emit(lax.max_p, x, _knee(x, y))


def _knee(x: Variable, value: Any) -> Any:
    """The constant of ``max(x, c)``: one number where it is known to be, else an array like ``x``."""
    if not isinstance(value, jax.core.Tracer):
        first = np.asarray(value).flat[0] if np.size(value) else 0
        if _is_everywhere(value, first):
            return _scalar(x, first)
    return jax.numpy.broadcast_to(value, x.shape)


def minimum(b: Builder, x: Any, y: Any) -> Variable:
    """``min(x, y) = -max(-x, -y)``."""
    return neg(b, maximum(b, neg(b, x), neg(b, y)))


def absolute(b: Builder, x: Variable) -> Variable:
    """``relu(x) + relu(-x)``, of which one is zero."""
    return add(b, relu(b, x), relu(b, neg(b, x)))


def clamp(b: Builder, low: Any, x: Any, high: Any) -> Variable:
    return minimum(b, maximum(b, x, low), high)


def select(b: Builder, which: Any, *cases: Any) -> Variable:
    """``where(x >= 0, x, slope * x)`` is leaky ReLU; any other selection stays, unsupported."""
    match = _leaky(b, which, cases)
    if match is None:
        shape, dtype = next((c.shape, c.dtype) for c in (*cases, which) if isinstance(c, Variable))
        return b.record(lax.select_n_p, (which, *cases), {}, shape, dtype)
    return leaky_relu(b, *match)


def leaky_relu(b: Builder, x: Variable, slope: Any) -> Variable:
    """``x`` above zero and ``slope x`` below, in terms that never cancel.

    For slopes from 0 to 1 it is ``slope x + (1 - slope) relu(x)``, which has the tightest lines; for
    negative ones ``relu(x) - slope relu(-x)``, and for larger ones ``x - (slope - 1) relu(-x)``.
    With slopes of several kinds in one array the entries are chosen from all three.
    """
    if np.ndim(slope) == 0 and not isinstance(slope, jax.core.Tracer):
        return _leaky_relu_of_number(b, x, Fraction(float(slope)))
    flat, steep = jax.numpy.clip(slope, 0, 1), jax.numpy.maximum(slope, 1)
    above = relu(b, x)
    found = add(b, multiply(b, x, flat), subtract(b, above, multiply(b, above, flat)))
    if not isinstance(slope, jax.core.Tracer) and np.all((slope >= 0) & (slope <= 1)):
        return found
    below = relu(b, neg(b, x))
    beyond = subtract(b, multiply(b, below, steep), below)  # zero up to a slope of 1
    turned = multiply(b, below, jax.numpy.minimum(slope, 0))
    return subtract(b, subtract(b, found, beyond), turned)


def _leaky_relu_of_number(b: Builder, x: Variable, slope: Fraction) -> Variable:
    """Factors as exact as float64 holds them, in any precision of the network."""
    if slope == 0:
        return relu(b, x)
    if slope < 0:
        return add(b, relu(b, x), _by_number(b, lax.mul_p, relu(b, neg(b, x)), -slope))
    if slope > 1:
        beyond = _by_number(b, lax.mul_p, relu(b, neg(b, x)), 1 - slope)
        return add(b, x, beyond)
    above = _by_number(b, lax.mul_p, relu(b, x), 1 - slope)
    return add(b, _by_number(b, lax.mul_p, x, slope), above) if slope < 1 else x


def squeeze(b: Builder, x: Variable, *, dimensions: Sequence[int]) -> Variable:
    shape = tuple(s for i, s in enumerate(x.shape) if i not in dimensions)
    return reshape(b, x, shape)


def reshape(
    b: Builder,
    x: Variable,
    new_sizes: Sequence[int],
    dimensions: Sequence[int] | None = None,
    **_: Any,
) -> Variable:
    """A reshape in row-major order; ``dimensions`` (of ``order="F"``, say) transposes first."""
    if dimensions is not None and tuple(dimensions) != tuple(range(len(x.shape))):
        x = b.emit(lax.transpose_p, x, permutation=tuple(dimensions))
    return b.emit(lax.reshape_p, x, new_sizes=tuple(new_sizes), dimensions=None, sharding=None)


def reduce_max(b: Builder, x: Variable, *, axes: Sequence[int], **_: Any) -> Variable:
    """A maximum over whole axes is a max pool with one window, its axes then dropped."""
    window = tuple(s if i in axes else 1 for i, s in enumerate(x.shape))
    ones, zeros = (1,) * len(window), ((0, 0),) * len(window)
    pooled = b.emit(
        lax.reduce_window_max_p,
        x,
        window_dimensions=window,
        window_strides=ones,
        padding=zeros,
        base_dilation=ones,
        window_dilation=ones,
    )
    return squeeze(b, pooled, dimensions=axes)


def split(b: Builder, x: Variable, *, sizes: Sequence[int], axis: int) -> list[Variable]:
    ends = np.cumsum(sizes)
    return [_cut(b, x, axis, int(end - size), int(end)) for size, end in zip(sizes, ends)]


def convert(b: Builder, x: Variable, *, new_dtype: Any, **_: Any) -> Any:
    """A conversion between float32 and float64 is the identity of real arithmetic."""
    new = np.dtype(new_dtype)
    if {x.dtype, str(new)} <= {"float32", "float64"}:
        return x
    return b.record(lax.convert_element_type_p, (x,), {"new_dtype": new}, x.shape, new)


def convolution(b: Builder, x: Any, kernel: Any, **params: Any) -> Variable:
    return b.emit(lax.conv_general_dilated_p, x, kernel, **_highest(params))


def dot(b: Builder, x: Any, y: Any, **params: Any) -> Variable:
    return b.emit(lax.dot_general_p, x, y, **_highest(params))


def concatenate(b: Builder, *operands: Any, dimension: int) -> Variable:
    return b.emit(lax.concatenate_p, *operands, dimension=dimension)


def stack(b: Builder, *operands: Any, axis: int) -> Variable:
    """Concatenation along a new axis of length one."""
    shape = next(v.shape for v in operands if isinstance(v, Variable))
    longer = (*shape[:axis], 1, *shape[axis:])
    parts = (
        reshape(b, v, longer) if isinstance(v, Variable) else v.reshape(longer) for v in operands
    )
    return concatenate(b, *parts, dimension=axis)


def identity(b: Builder, x: Any, **_: Any) -> Any:
    return x


RULES: dict[str, Rule] = {
    "add": lambda b, x, y, **_: add(b, x, y),
    "add_any": lambda b, x, y, **_: add(b, x, y),
    "sub": lambda b, x, y, **_: subtract(b, x, y),
    "mul": lambda b, x, y, **_: product(b, x, y),
    "logistic": lambda b, x, **_: b.emit(SIGMOID, x),
    "tanh": lambda b, x, **_: b.emit(TANH, x),
    "max": lambda b, x, y, **_: maximum(b, x, y),
    "min": lambda b, x, y, **_: minimum(b, x, y),
    "abs": lambda b, x, **_: absolute(b, x),
    "clamp": lambda b, low, x, high, **_: clamp(b, low, x, high),
    "select_n": lambda b, *operands, **_: select(b, *operands),
    "squeeze": squeeze,
    "reshape": lambda b, x, **params: reshape(b, x, **params),
    "reduce_max": reduce_max,
    "split": split,
    "stack": stack,
    "convert_element_type": convert,
    "conv_general_dilated": convolution,
    "dot_general": dot,
    "copy": identity,
    "copy_p": identity,
    "sharding_constraint": identity,
}


@functools.cache
def _multiplication() -> dict[str, Any]:
    """The parameters of a product in this JAX release (0.10 added one)."""
    return jax.make_jaxpr(lax.mul)(1.0, 1.0).eqns[0].params


def _is_softplus(eqn: Any, operands: Sequence[Any]) -> bool:
    """Whether a call is ``logaddexp(x, 0)``: its body reads as that of JAX's own softplus does."""
    if eqn.primitive.name != "custom_jvp_call" or len(operands) != 2:
        return False
    x, zero = operands
    if not isinstance(x, Variable) or not _is_everywhere(zero, 0) or _body(eqn)[1]:
        return False
    return str(_body(eqn)[0]) == _softplus_body(x.shape, x.dtype)


@functools.lru_cache
def _softplus_body(shape: tuple[int, ...], dtype: str) -> str:
    """The body of the innermost call that JAX makes for softplus, as text."""
    jaxpr = jax.make_jaxpr(jax.nn.softplus)(jax.ShapeDtypeStruct(shape, dtype)).jaxpr
    while len(jaxpr.eqns) == 1 and _body(jaxpr.eqns[0]) is not None:
        jaxpr = _body(jaxpr.eqns[0])[0]
    return str(jaxpr)


def _cut(b: Builder, x: Variable, axis: int, start: int, stop: int) -> Variable:
    starts = tuple(start if i == axis else 0 for i in range(len(x.shape)))
    stops = tuple(stop if i == axis else s for i, s in enumerate(x.shape))
    return b.emit(lax.slice_p, x, start_indices=starts, limit_indices=stops, strides=None)


def _highest(params: dict[str, Any]) -> dict[str, Any]:
    """Full matmul precision, whatever the network asked for; results in the operands' own type."""
    precision = (lax.Precision.HIGHEST, lax.Precision.HIGHEST)
    kept = {k: v for k, v in params.items() if v is not None or k != "preferred_element_type"}
    return {**kept, "precision": precision, "preferred_element_type": None}


def _scalar(x: Any, value: float) -> Any:
    return np.asarray(value, x.dtype)[()]


def _is_everywhere(value: Any, number: float) -> bool:
    """Whether a value is a known constant that equals the number in every entry."""
    if isinstance(value, (Variable, jax.core.Tracer)):
        return False
    return bool(np.all(np.asarray(value) == number))


def _leaky(b: Builder, which: Any, cases: Sequence[Any]) -> tuple[Variable, Any] | None:
    """``(x, slope)`` when the selection is ``where(x >= 0, x, slope * x)``, else None."""
    test = b.definitions.get(which) if isinstance(which, Variable) else None
    if test is None or test.primitive not in (lax.ge_p, lax.gt_p) or len(cases) != 2:
        return None
    x, zero = test.invars
    negative, positive = cases
    if positive is not x or not _is_literal_zero(b, zero):
        return None
    if not isinstance(negative, Variable):
        return (x, _scalar(x, 0)) if _is_everywhere(negative, 0) else None
    return _multiple_of(b, negative, x)


def _multiple_of(b: Builder, y: Variable, x: Variable) -> tuple[Variable, Any] | None:
    product = b.definitions.get(y)
    if product is None or product.primitive is not lax.mul_p or x not in product.invars:
        return None
    factor = product.invars[1] if product.invars[0] is x else product.invars[0]
    if isinstance(factor, Literal):
        return x, factor.val
    return (x, b.constants[factor]) if factor in b.constants else None


def _is_literal_zero(b: Builder, atom: Any) -> bool:
    value = atom.val if isinstance(atom, Literal) else b.constants.get(atom, atom)
    return not isinstance(value, Variable) and _is_everywhere(value, 0)
