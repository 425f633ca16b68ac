"""Which operations a normalised graph may hold, and what kind each one is.

``affine`` operations are linear in the operands that depend on the input, plus a constant;
``relu`` is ``max(x, 0)``; ``max_pool`` is a sliding maximum over windows; ``smooth`` operations act
on every entry alone and are those of :mod:`jmlv.graph.smooth`.
"""

from __future__ import annotations

from jax import lax

from jmlv.graph.ir import Equation, Graph, Literal, Variable
from jmlv.graph.smooth import Smooth

#: Linear whatever their operands are.
LINEAR = frozenset(
    {
        lax.add_p,
        lax.neg_p,
        lax.reshape_p,
        lax.transpose_p,
        lax.broadcast_in_dim_p,
        lax.reduce_sum_p,
        lax.reduce_window_sum_p,
        lax.concatenate_p,
        lax.pad_p,
        lax.slice_p,
        lax.rev_p,
    }
)

#: Linear when exactly one operand depends on the input.
BILINEAR = frozenset({lax.conv_general_dilated_p, lax.dot_general_p, lax.mul_p})

#: Act on each element alone, so that they keep interval bounds exact.
ELEMENTWISE = frozenset(
    {
        lax.add_p,
        lax.neg_p,
        lax.mul_p,
        lax.div_p,
        lax.reshape_p,
        lax.transpose_p,
        lax.broadcast_in_dim_p,
        lax.concatenate_p,
        lax.pad_p,
        lax.slice_p,
        lax.rev_p,
    }
)


def is_relu(eqn: Equation) -> bool:
    """``max(x, 0)`` with the literal zero second: the only maximum that normalisation leaves."""
    return (
        eqn.primitive is lax.max_p
        and isinstance(eqn.invars[0], Variable)
        and isinstance(eqn.invars[1], Literal)
        and eqn.invars[1].number == 0
    )


def is_max_pool(eqn: Equation) -> bool:
    """A sliding maximum without dilation, with or without a ReLU merged into it."""
    pools = eqn.primitive is lax.reduce_window_max_p or eqn.primitive is relu_max_pool_p
    return pools and set(eqn.params["base_dilation"]) | set(eqn.params["window_dilation"]) == {1}


def is_smooth(eqn: Equation) -> bool:
    """Sigmoid, tanh, softplus, GELU or SiLU: a differentiable function of every entry alone."""
    return isinstance(eqn.primitive, Smooth)


def is_affine(graph: Graph, eqn: Equation) -> bool:
    """Whether the equation is affine in the operands that depend on the input."""
    inputs = graph.inputs_of(eqn)
    if eqn.primitive in LINEAR:
        return True
    if eqn.primitive in BILINEAR:
        return len(inputs) == 1
    return eqn.primitive is lax.div_p and inputs == eqn.invars[:1]


def is_supported(graph: Graph, eqn: Equation) -> bool:
    """Whether every bound has a sound rule for the equation.

    The exact oracles (MILP, branch and bound) have none for smooth operations, and say so.
    """
    return is_affine(graph, eqn) or is_relu(eqn) or is_max_pool(eqn) or is_smooth(eqn)


class ReluMaxPool:
    """``max(0, max over window)``: a ReLU and the max pool after (or before) it as one operation."""

    name = "relu_max_pool"

    @staticmethod
    def bind(x, **params):
        pooled = lax.reduce_window_max_p.bind(x, **params)
        return lax.max(pooled, lax.full_like(pooled, 0))


relu_max_pool_p = ReluMaxPool()
