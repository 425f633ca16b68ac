"""Pulling linear functionals back through the graph's affine operations.

A functional on a variable of shape (1, ...) is an array of ``rows`` such functionals, shape
(rows, 1, ...). Through ``y = op(x_1, .., x_n) = M_1 x_1 + .. + M_n x_n + b`` the rows ``a`` become
``a M_i`` on each ``x_i`` and the constant ``a . b``. JAX's own transposition supplies ``a M_i``, so
convolutions stay convolutions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jmlv.graph.ir import Equation, Graph, Variable, read

Rows = Float[Array, "rows ..."]


def pull_back(
    graph: Graph, eqn: Equation, rows: Rows, constants: Mapping[Variable, Any]
) -> tuple[dict[Variable, Rows], Float[Array, " rows"] | float]:
    """The same functionals on the operands of an affine equation, and their constant part.

    Args:
        graph: the graph that the equation is part of.
        eqn: an affine equation.
        rows: functionals on its output, (rows, *output shape).
        constants: the graph's constants.

    Returns:
        Functionals on each operand that depends on the input, and ``rows . b``.
    """
    inputs = tuple(dict.fromkeys(graph.inputs_of(eqn)))
    function = _function_of(eqn, inputs, constants)
    if eqn.primitive is lax.add_p and len(graph.inputs_of(eqn)) == 1:
        offset = _dot(rows, jnp.broadcast_to(_constant(eqn, inputs, constants), eqn.outvar.shape))
        function = _linear_part_of_shift(eqn)
    elif eqn.primitive in (lax.concatenate_p, lax.pad_p):
        offset = _dot(rows, function(*(jnp.zeros(v.shape, v.dtype) for v in inputs)))
        function = _without_constant(function, inputs)
    else:
        offset = 0.0
    transposed = jax.linear_transpose(function, *(v.aval for v in inputs))
    return dict(zip(inputs, jax.vmap(transposed)(rows))), offset


def _function_of(
    eqn: Equation, inputs: tuple[Variable, ...], constants: Mapping[Variable, Any]
) -> Callable[..., Array]:
    def function(*values: Array) -> Array:
        env = {**constants, **dict(zip(inputs, values))}
        return eqn.bind(*(read(env, v) for v in eqn.invars))

    return function


def _constant(
    eqn: Equation, inputs: tuple[Variable, ...], constants: Mapping[Variable, Any]
) -> Any:
    (atom,) = (v for v in eqn.invars if v not in inputs)
    return read(constants, atom)


def _linear_part_of_shift(eqn: Equation) -> Callable[[Array], Array]:
    """``x`` in ``x + b``, broadcast where ``b`` is the larger."""
    return lambda x: jnp.broadcast_to(x, eqn.outvar.shape)


def _without_constant(function: Callable[..., Array], inputs: tuple[Variable, ...]):
    """The linear part of an affine function, as JAX's derivative gives it."""
    zeros = tuple(jnp.zeros(v.shape, v.dtype) for v in inputs)
    return lambda *values: jax.jvp(function, zeros, values)[1]


def _dot(rows: Rows, value: Array) -> Float[Array, " rows"]:
    return jnp.einsum("ri,i->r", rows.reshape(rows.shape[0], -1), value.reshape(-1))
