"""How far a network that is evaluated in floating point can be from the real-valued one.

For sums in *any* order, of products that are rounded or not (fused multiply-add), the computed
``y = W x + b`` of an ``x`` that is already off by ``e`` entry by entry is off by at most

    e' = |W| e + gamma_{n+2} (|W| (|x| + e) + |b|),   gamma_n = n u / (1 - n u),

with ``n`` terms a sum and the unit round-off ``u`` (2^-24 in float32): Higham, *Accuracy and Stability
of Numerical Algorithms*, 2002, section 3.1, whose bound holds for every order. Operands of products
that are cut to fewer bits first (TF32, bfloat16) add ``(2 p + p^2) |W| (|x| + e)`` with the unit
round-off ``p`` of the cut. Maxima, negations and moves round nothing and stretch nothing.

Constants that the network computes from others (batch norm's ``scale / sqrt(variance + epsilon)``) are off
themselves, by a share of each entry that the graph knows (:mod:`jmlv.graph.folded`) and that is added to that
of every operation; those that it is given, or that were computed before it was traced, are what they are.

Two roundings more than an operation needs are allowed to each, for what compilers do to elementwise
operations (division by a constant as a product with its inverse, two factors merged). Not covered:
convolutions by Winograd's or Fourier's transforms, and functions whose implementations state no
accuracy (tanh, sigmoid, ..).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jmlv.bounds.interval import interval_step
from jmlv.bounds.method import Interval
from jmlv.errors import UnsupportedOperation
from jmlv.graph import Equation, Graph, Variable
from jmlv.graph.ir import read
from jmlv.graph.operations import describe, is_affine, is_max_pool, is_maximum, take_p

EXTRA = 2
"""Roundings that are allowed to every operation beyond its own."""

TINY = 2.0**-126
"""Inputs, weights and results that are smaller than this may be flushed to zero."""

LARGEST = 2.0**127
"""Sums that may exceed this may overflow: their error is infinite."""

_CUTS = {"float32": 0.0, "tf32": 2.0**-10, "bfloat16": 2.0**-8}
"""TF32 has eleven significant bits: 2^-11 where operands are rounded to the nearest. Kernels that hand the bits
of float32 to tensor cores as they are have the rest cut off, which is twice as much."""


@dataclasses.dataclass(frozen=True)
class Float32:
    """A network deployed in float32, whatever the order of its sums.

    Attributes:
        products: to what operands of matrix products and convolutions are rounded, or cut off, before:
            ``"float32"`` (not at all), ``"tf32"`` (recent GPUs' default) or ``"bfloat16"`` (TPUs').

    >>> Float32().unit, Float32("tf32").cut
    (5.960464477539063e-08, 0.0009765625)
    """

    products: Literal["float32", "tf32", "bfloat16"] = "float32"

    def __post_init__(self) -> None:
        if self.products not in _CUTS:
            raise ValueError(f"products: expected one of {sorted(_CUTS)}, got {self.products!r}.")

    @property
    def unit(self) -> float:
        """Unit round-off of every operation."""
        return 2.0**-24

    @property
    def cut(self) -> float:
        """Unit round-off of the operands of products."""
        return _CUTS[self.products]

    def __str__(self) -> str:
        cut = "" if self.products == "float32" else f" with products of {self.products} operands"
        return f"float32{cut}, any order of summation"


def rounding_errors(graph: Graph, box: Interval, deployed: Float32) -> Float[Array, "1 label"]:
    """How far each score of the deployed network can be from the real-valued one's over a box.

    Args:
        graph: in float64, with ReLU and max pool fused.
        box: the inputs, (1, ..), which the deployed network is given exactly, tiny ones perhaps as 0.
        deployed: its precision.

    Raises:
        UnsupportedOperation: an operation has no stated accuracy.

    >>> import jax.numpy as jnp, jmlv
    >>> from jmlv.numerics import certificate_precision
    >>> graph = jmlv.trace(lambda x: x.reshape(-1, 4) @ jnp.ones((4, 1)), (4, 1, 1))
    >>> with certificate_precision():
    ...     ones = jnp.ones((1, 4, 1, 1))
    ...     error = rounding_errors(graph.astype("float64"), Interval(ones, ones), Float32())
    ...     print(f"{float(error[0, 0]):.3g}")
    1.43e-06
    """
    _require_known_constants(graph, deployed)
    values: dict[Variable, Any] = graph.constants() | {graph.input: box}
    errors: dict[Variable, Array] = {graph.input: jnp.full_like(box.lower, TINY)}
    for eqn in graph.eqns:
        sizes = {v: jnp.maximum(*map(jnp.abs, values[v])) for v in graph.inputs_of(eqn)}
        errors[eqn.outvar] = _through(graph, eqn, sizes, errors, deployed)
        values[eqn.outvar] = interval_step(eqn, [read(values, v) for v in eqn.invars])
    return errors[graph.output]


def _require_known_constants(graph: Graph, deployed: Float32) -> None:
    """Raises UnsupportedOperation where constants that a network computes may be others elsewhere."""
    folded = graph.structure.folded
    if not folded.share < 0.5 or (folded.products and deployed.cut > 0):
        raise UnsupportedOperation(
            f"deployed: f computes a constant from others, by {folded.by}, and {deployed} may compute "
            "another one. Compute it beforehand and give f its value, or leave out deployed=.., for "
            "the real-valued network."
        )


def _through(
    graph: Graph,
    eqn: Equation,
    sizes: Mapping[Variable, Array],
    errors: Mapping[Variable, Array],
    deployed: Float32,
) -> Array:
    """The error of an equation's output."""
    if is_maximum(eqn) or is_max_pool(eqn):
        source = errors[eqn.invars[0]]
        return source if is_maximum(eqn) else eqn.bind(source)  # the largest in each window
    if not is_affine(graph, eqn):
        raise UnsupportedOperation(
            f"deployed: {describe(graph, eqn)} has no rule for its accuracy in float32, so that "
            "nothing can be proven of the deployed network. Leave out deployed=.., for the "
            "real-valued one."
        )
    constants = graph.constants()
    reached = {v: size + errors[v] for v, size in sizes.items()}
    moved = eqn.primitive in _EXACT
    wrong = errors if moved else {v: errors[v] + TINY for v in sizes}
    spread = _magnitudes(eqn, constants, wrong, with_constants=False)
    whole = _magnitudes(eqn, constants, reached, with_constants=True)
    if moved:
        return spread
    share = _gamma(_terms(eqn) + EXTRA, deployed.unit)
    if eqn.primitive in (lax.dot_general_p, lax.conv_general_dilated_p):
        share += 2 * deployed.cut + deployed.cut**2
    folded = graph.structure.folded.share
    share = (1 + share) * (1 + folded / (1 - folded)) - 1
    flushed = _terms(eqn) * TINY * (1 + jnp.max(jnp.stack([r.max() for r in reached.values()])))
    error = spread + share * whole + flushed
    return jnp.where(whole < LARGEST, error, jnp.inf)


#: Round nothing: they move entries, or change signs.
_EXACT = frozenset(
    {
        lax.neg_p, lax.reshape_p, lax.transpose_p, lax.broadcast_in_dim_p, lax.concatenate_p,
        lax.pad_p, lax.slice_p, lax.rev_p, take_p,
    }
)  # fmt: skip


def _magnitudes(
    eqn: Equation,
    constants: Mapping[Variable, Any],
    values: Mapping[Variable, Array],
    with_constants: bool,
) -> Array:
    """The affine map with magnitudes of all weights, of non-negative values: ``|W| v (+ |b|)``."""
    if eqn.primitive is lax.neg_p:
        return values[eqn.invars[0]]
    adds = eqn.primitive in (lax.add_p, lax.concatenate_p, lax.pad_p)
    operands = []
    for atom in eqn.invars:
        if atom in values:
            operands.append(values[atom])
        else:
            size = jnp.abs(read(constants, atom))
            operands.append(jnp.zeros_like(size) if adds and not with_constants else size)
    return eqn.bind(*operands)


def _terms(eqn: Equation) -> int:
    """How many products, or numbers, one entry of the output is the sum of."""
    shape = eqn.invars[0].shape
    if eqn.primitive is lax.dot_general_p:
        (contracted, _), _ = eqn.params["dimension_numbers"]
        return math.prod(shape[axis] for axis in contracted)
    if eqn.primitive is lax.conv_general_dilated_p:
        kernel = eqn.invars[1].shape
        outputs = kernel[eqn.params["dimension_numbers"].rhs_spec[0]]
        return math.prod(kernel) // outputs
    if eqn.primitive is lax.reduce_sum_p:
        return math.prod(shape[axis] for axis in eqn.params["axes"])
    if eqn.primitive is lax.reduce_window_sum_p:
        return math.prod(eqn.params["window_dimensions"])
    return 2 if eqn.primitive in _SIMPLE else math.prod(shape)


_SIMPLE = frozenset({lax.add_p, lax.mul_p, lax.div_p})


def _gamma(n: int, unit: float) -> float:
    if n * unit >= 0.5:
        raise UnsupportedOperation(f"deployed: a sum of {n} terms has no useful error bound.")
    return n * unit / (1 - n * unit)
