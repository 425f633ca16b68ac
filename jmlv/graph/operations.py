"""Which operations a normalised graph may hold, and what kind each one is.

``affine`` operations are linear in the operands that depend on the input, plus a constant;
``maximum`` is ``max(x, c)`` with a constant ``c``, and ``relu`` the case ``c = 0``; ``max_pool`` is
a sliding maximum over windows; ``smooth`` operations act on every entry alone and are those of
:mod:`jmlv.graph.smooth`; a ``product`` is linear in each of two computed operands; ``softmax`` mixes
the entries along some axes.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jmlv.graph.ir import Equation, Graph, Literal, read
from jmlv.graph.smooth import Smooth


@dataclasses.dataclass(frozen=True)
class Places:
    """Which entries are taken: flat numbers, as the bytes of an int32 array, so that they hash fast."""

    data: bytes

    @property
    def numbers(self) -> np.ndarray:
        return np.frombuffer(self.data, np.int32)

    def __repr__(self) -> str:
        return f"Places({self.numbers})"


class Take:
    """Entries of a (1, n) array at constant places, in any order and any number of times."""

    name = "take"

    @staticmethod
    def bind(x, *, places):
        return jnp.take(x, places.numbers, axis=1, mode="clip")


take_p = Take()


class Softmax:
    """``exp(x_k) / sum_j exp(x_j)`` along some axes.

    With a number ``within`` it is computed as it is written, without a maximum taken off, and counts
    as defined where no entry exceeds that number and one of them is at least minus that: elsewhere
    exponentials could overflow, or all of them vanish.
    """

    name = "softmax"

    @staticmethod
    def bind(x, *, axes, within=None):
        return jax.nn.softmax(x, axes)


softmax_p = Softmax()


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
        lax.cumsum_p,
        take_p,
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
        take_p,
    }
)


def is_maximum(eqn: Equation) -> bool:
    """``max(x, c)`` with a constant: normalisation puts it second, and leaves no other maximum."""
    return eqn.primitive is lax.max_p


def is_relu(eqn: Equation) -> bool:
    """``max(x, 0)`` with the literal zero."""
    constant = eqn.invars[1] if is_maximum(eqn) else None
    return isinstance(constant, Literal) and constant.number == 0


def knee_of(graph: Graph, eqn: Equation) -> Any:
    """The ``c`` of ``max(x, c)``: a number, or an array of the shape of ``x``; entries may be -inf."""
    return read(graph.constants(), eqn.invars[1])


def is_max_pool(eqn: Equation) -> bool:
    """A sliding maximum without dilation, with or without a ReLU merged into it."""
    pools = eqn.primitive is lax.reduce_window_max_p or eqn.primitive is relu_max_pool_p
    return pools and set(eqn.params["base_dilation"]) | set(eqn.params["window_dilation"]) == {1}


def is_smooth(eqn: Equation) -> bool:
    """Sigmoid, GELU, exp, a reciprocal, ..: a differentiable function of every entry alone."""
    return isinstance(eqn.primitive, Smooth)


def is_softmax(eqn: Equation) -> bool:
    return eqn.primitive is softmax_p


def is_product(graph: Graph, eqn: Equation) -> bool:
    """A product of two computed values: entry by entry, or a (batched) matrix product."""
    kinds = eqn.primitive is lax.mul_p or eqn.primitive is lax.dot_general_p
    return kinds and len(graph.inputs_of(eqn)) == 2


def is_piecewise_linear(graph: Graph, eqn: Equation) -> bool:
    """Affine, a maximum or a max pool: what exact oracles and certificates know."""
    return is_affine(graph, eqn) or is_maximum(eqn) or is_max_pool(eqn)


def describe(graph: Graph, eqn: Equation) -> str:
    """What an operation is called in a message."""
    refused = isinstance(eqn.primitive, Refused)
    two = " of two computed values" if len(graph.inputs_of(eqn)) > 1 and not refused else ""
    return f"{eqn.primitive.name}{two}"


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

    The exact oracles (MILP, branch and bound) have none for smooth operations, products and softmax,
    and say so.
    """
    if is_maximum(eqn):
        return graph.inputs_of(eqn) == eqn.invars[:1]
    if is_product(graph, eqn):
        return True
    return is_affine(graph, eqn) or is_max_pool(eqn) or is_smooth(eqn) or is_softmax(eqn)


@dataclasses.dataclass(frozen=True)
class Refused:
    """Stands in a graph for an operation without a sound rule, and says in its name what it is."""

    name: str


class ReluMaxPool:
    """``max(0, max over window)``: a ReLU and the max pool after (or before) it as one operation."""

    name = "relu_max_pool"

    @staticmethod
    def bind(x, **params):
        pooled = lax.reduce_window_max_p.bind(x, **params)
        return lax.max(pooled, lax.full_like(pooled, 0))


relu_max_pool_p = ReluMaxPool()
