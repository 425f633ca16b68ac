"""Reads a jaxpr into the normalised graph: one rule per primitive that needs rewriting.

Every call is inlined by interpreting its body anew, so each inlined copy has fresh variables.
(Two identical ``relu`` calls share one inner jaxpr; re-using its variables would merge them, an
unsound bound.) Loops of known length are unrolled, branches on constants taken.

Every rewriting (:mod:`jmlv.graph.rules`) is exact in floating point, up to the rounding that the
function's own operations have: nothing is added that is taken away again. ``max(x, c)`` stays as it
is, a minimum is one with both signs turned, a maximum of two computed values is a max pool of the
pair; absolute value and leaky ReLU become ReLU and affine operations whose terms do not cancel;
subtraction becomes addition and negation. What is a known function of one value becomes one
operation, in whatever way it is written: GELU, SiLU, softplus, ELU, hard swish, a square. So does
softmax, and a variance becomes the mean of squared deviations (:mod:`jmlv.graph.rules.normalised`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax import lax
from jax.extend import core as jex

from jmlv.graph.builder import REAL, Builder, evaluate
from jmlv.graph.ir import Variable
from jmlv.graph.operations import Refused
from jmlv.graph.rules import layout, maxima
from jmlv.graph.rules.arithmetic import (
    divide,
    is_everywhere,
    neg,
    power,
    product,
    real_power,
    square,
)
from jmlv.graph.rules.parameters import unread
from jmlv.graph.rules.selections import plus, select
from jmlv.graph.smooth import EXP, LOG, RSQRT, SIGMOID, SOFTPLUS, SQRT, TANH

Rule = Callable[..., Any]

LARGEST_LOOP = 4096
"""Steps of a loop that are unrolled at most."""


def interpret(builder: Builder, jaxpr: Any, consts: Sequence[Any], inputs: Sequence[Any]) -> list:
    """Walks a jaxpr, emitting into the builder; returns the values of its outputs."""
    env: dict[Any, Any] = dict(zip(jaxpr.constvars, consts)) | dict(zip(jaxpr.invars, inputs))

    def value(v: Any) -> Any:
        """A literal in the type that the jaxpr says: Python numbers would be of the widest."""
        return np.asarray(v.val, v.aval.dtype)[()] if isinstance(v, jex.Literal) else env[v]

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
    name = eqn.primitive.name
    if not any(isinstance(v, Variable) for v in operands):
        return _folded(builder, eqn, operands)
    builder.folded.meet(name, operands)
    problem = unread(name, eqn.params)
    if problem is not None:
        return _recorded(builder, Refused(problem), {}, eqn, operands)
    rule = RULES.get(name)
    if rule is not None:
        result = rule(builder, *operands, **eqn.params)
        return result if isinstance(result, list) else [result]
    if name == "scan" and eqn.params["length"] <= LARGEST_LOOP:
        return _unrolled(builder, operands, **eqn.params)
    if name == "cond" and not isinstance(operands[0], (Variable, jax.core.Tracer)):
        return _branch(builder, *operands, **eqn.params)
    return _recorded(builder, eqn.primitive, eqn.params, eqn, operands)


def _folded(builder: Builder, eqn: Any, operands: list) -> list:
    """The values of an operation between constants, products in full precision where that is free."""
    name, params = eqn.primitive.name, eqn.params
    if name in ("dot_general", "conv_general_dilated") and unread(name, params) is None:
        params = {**params, "precision": _HIGHEST}
    found = evaluate(eqn.primitive, operands, params)
    values = list(found) if eqn.primitive.multiple_results else [found]
    builder.folded.note(
        lambda *others: evaluate(eqn.primitive, others, params), name, operands, params, values
    )
    return values


def _recorded(builder: Builder, primitive: Any, params: dict, eqn: Any, operands: list) -> list:
    """The equation as it is: affine operations, and those that will be refused by name."""
    return [
        builder.record(primitive, operands, params, v.aval.shape, v.aval.dtype) for v in eqn.outvars
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


def _unrolled(
    b: Builder, operands: list, *, jaxpr: Any, length: int, reverse: bool, num_consts: int,
    num_carry: int, **_: Any,
) -> list:  # fmt: skip
    """A loop as its steps one after the other."""
    consts, carry = operands[:num_consts], operands[num_consts : num_consts + num_carry]
    sequences = operands[num_consts + num_carry :]
    rows: list[list] = []
    for step in reversed(range(length)) if reverse else range(length):
        entries = [_entry(b, s, step) for s in sequences]
        found = interpret(b, jaxpr.jaxpr, jaxpr.consts, [*consts, *carry, *entries])
        carry = found[:num_carry]
        rows.append(found[num_carry:])
    rows = rows[::-1] if reverse else rows
    return [*carry, *(_stacked(b, values) for values in zip(*rows))]


def _entry(b: Builder, sequence: Any, step: int) -> Any:
    if not isinstance(sequence, Variable):
        return sequence[step]
    return layout.squeeze(b, layout.cut(b, sequence, 0, step, step + 1), dimensions=(0,))


def _stacked(b: Builder, values: Sequence[Any]) -> Any:
    b.folded.meet("scan", values)
    if any(isinstance(v, Variable) for v in values):
        return layout.stack(b, *values, axis=0)
    return evaluate_stack(values)


def evaluate_stack(values: Sequence[Any]) -> Any:
    with jax.ensure_compile_time_eval():
        return jax.numpy.stack(values)


def _branch(b: Builder, index: Any, *operands: Any, branches: Sequence[Any], **_: Any) -> list:
    """The branch that a constant chooses."""
    chosen = branches[int(np.clip(index, 0, len(branches) - 1))]
    return interpret(b, chosen.jaxpr, chosen.consts, operands)


# ---------------------------------------------------------------------------------------------
# Rules: (builder, *operands, **params) -> value. At least one operand is a Variable.
# ---------------------------------------------------------------------------------------------


def convert(b: Builder, x: Variable, *, new_dtype: Any, **_: Any) -> Any:
    """A conversion between float32 and float64 is the identity of real arithmetic."""
    new = np.dtype(new_dtype)
    if {x.dtype, str(new)} <= REAL:
        return x
    refused = Refused(f"convert_element_type from {x.dtype} to {new}")
    return b.record(refused, (x,), {}, x.shape, new)


def convolution(b: Builder, x: Any, kernel: Any, **params: Any) -> Variable:
    """Negative padding is cut off first: XLA on CPUs computes something else with it (jaxlib 0.10)."""
    pads, holes = params["padding"], params["lhs_dilation"]
    if min((p for pair in pads for p in pair), default=0) < 0 and isinstance(x, Variable):
        _, _, *spatial = params["dimension_numbers"].lhs_spec
        config = [(0, 0, 0)] * len(x.shape)
        for axis, (low, high), hole in zip(spatial, pads, holes):
            config[axis] = (min(low, 0), min(high, 0), hole - 1)
        x = b.emit(lax.pad_p, x, np.zeros((), b.dtype)[()], padding_config=tuple(config))
        pads = tuple((max(low, 0), max(high, 0)) for low, high in pads)
        params = {**params, "padding": pads, "lhs_dilation": (1,) * len(holes)}
    return b.emit(lax.conv_general_dilated_p, x, kernel, **_highest(params))


def dot(b: Builder, x: Any, y: Any, **params: Any) -> Variable:
    return b.emit(lax.dot_general_p, x, y, **_highest(params))


def _highest(params: dict[str, Any]) -> dict[str, Any]:
    """Full matmul precision, whatever the network asked for; results in the operands' own type."""
    return {**params, "precision": _HIGHEST, "preferred_element_type": None}


_HIGHEST = (lax.Precision.HIGHEST, lax.Precision.HIGHEST)


def identity(b: Builder, x: Any, **_: Any) -> Any:
    return x


RULES: dict[str, Rule] = {
    "add": lambda b, x, y: plus(b, x, y),
    "add_any": lambda b, x, y: plus(b, x, y),
    "sub": lambda b, x, y: plus(b, x, neg(b, y)),
    "neg": lambda b, x: neg(b, x),
    "mul": lambda b, x, y, **_: product(b, x, y),
    "div": lambda b, x, y: divide(b, x, y),
    "square": lambda b, x: square(b, x),
    "integer_pow": power,
    "pow": real_power,
    "exp": lambda b, x, **_: b.emit(EXP, x),
    "log": lambda b, x, **_: b.emit(LOG, x),
    "sqrt": lambda b, x, **_: b.emit(SQRT, x),
    "rsqrt": lambda b, x, **_: b.emit(RSQRT, x),
    "logistic": lambda b, x, **_: b.emit(SIGMOID, x),
    "tanh": lambda b, x, **_: b.emit(TANH, x),
    "max": lambda b, x, y: maxima.maximum(b, x, y),
    "min": lambda b, x, y: maxima.minimum(b, x, y),
    "abs": lambda b, x: maxima.absolute(b, x),
    "clamp": lambda b, low, x, high: maxima.clamp(b, low, x, high),
    "select_n": select,
    "reduce_max": maxima.reduce_max,
    "reduce_min": maxima.reduce_min,
    "reduce_window_max": maxima.max_pool,
    "reduce_window_min": maxima.min_pool,
    "squeeze": layout.squeeze,
    "reshape": layout.reshape,
    "split": layout.split,
    "stack": layout.stack,
    "tile": layout.tile,
    "gather": layout.gather,
    "dynamic_slice": layout.dynamic_slice,
    "scatter": layout.scatter,
    "dynamic_update_slice": layout.dynamic_update_slice,
    "concatenate": layout.concatenate,
    "convert_element_type": convert,
    "conv_general_dilated": convolution,
    "dot_general": dot,
    "copy": identity,
    "copy_p": identity,
    "stop_gradient": identity,
    "sharding_constraint": identity,
    "optimization_barrier": lambda b, *values: list(values),
}


def _is_softplus(eqn: Any, operands: Sequence[Any]) -> bool:
    """Whether a call is ``logaddexp(x, 0)``: its body reads as that of JAX's own softplus does."""
    if eqn.primitive.name != "custom_jvp_call" or len(operands) != 2:
        return False
    x, zero = operands
    if not isinstance(x, Variable) or not is_everywhere(zero, 0) or _body(eqn)[1]:
        return False
    return str(_body(eqn)[0]) == _softplus_body(x.shape, x.dtype)


@functools.lru_cache
def _softplus_body(shape: tuple[int, ...], dtype: str) -> str:
    """The body of the innermost call that JAX makes for softplus, as text."""
    jaxpr = jax.make_jaxpr(jax.nn.softplus)(jax.ShapeDtypeStruct(shape, dtype)).jaxpr
    while len(jaxpr.eqns) == 1 and _body(jaxpr.eqns[0]) is not None:
        jaxpr = _body(jaxpr.eqns[0])[0]
    return str(jaxpr)
