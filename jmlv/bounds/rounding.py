"""How far a network that is evaluated in floating point can be from the real-valued one.

For sums in *any* order, of products that are rounded or not (fused multiply-add), the computed
``y = W x + b`` of an ``x`` that is already off by ``e`` entry by entry is off by at most

    e' = |W| e + gamma_{n+2} (|W| (|x| + e) + |b|),   gamma_n = n u / (1 - n u),

with ``n`` terms a sum and the unit round-off ``u`` (2^-24 in float32): Higham, *Accuracy and Stability
of Numerical Algorithms*, 2002, section 3.1, whose bound holds for every order. Operands of products
that are cut to fewer bits first (TF32, bfloat16) add ``(2 p + p^2) |W| (|x| + e)`` with the unit
round-off ``p`` of the cut. Maxima, negations and moves round nothing and stretch nothing.

Constants that the network computes from others (batch norm's ``scale / sqrt(variance + epsilon)``) are off
themselves where it is deployed, by a share of each entry that the graph knows (:mod:`jmlv.graph.folded`) and
that is added to that of every operation; those that it is given, or that were computed before it was traced,
are what they are.

Two roundings more than an operation needs are allowed to each, for what compilers do to elementwise
operations (division by a constant as a product with its inverse, two factors merged). Not covered:
convolutions by Winograd's or Fourier's transforms.

A smooth function is off by its largest slope times ``e`` and by a few units in the last place of its
value and of its argument, where its accuracy is stated (in float64; in float32 it is not, and
nothing is said); a product by ``|x| e_y + e_x |y| + e_x e_y`` and its own rounding; a softmax, with all
its arguments off by ``e`` at most, by a factor of ``exp(2 e)`` at most.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jmlv.bounds.interval import interval_step
from jmlv.bounds.method import Interval
from jmlv.bounds.sizes import most_terms, reach
from jmlv.bounds.softmax import EDGE
from jmlv.errors import UnsupportedOperation
from jmlv.graph import Equation, Graph, Variable
from jmlv.graph.ir import read
from jmlv.graph.operations import (
    describe,
    is_affine,
    is_max_pool,
    is_maximum,
    is_product,
    is_smooth,
    is_softmax,
    take_p,
)
from jmlv.graph.smooth import Smooth
from jmlv.numerics import EXTRA

SHARES = 1 / EDGE + 1
"""What the shares of a softmax's planes, below and above together, add up to at most."""

FUNCTIONS = 16
"""Units in the last place by which exp, tanh, .. may be off in float64, and their arguments."""


class Arithmetic(NamedTuple):
    """How a network is evaluated.

    Attributes:
        name: what messages call it.
        unit: unit round-off of every operation.
        cut: that of the operands of products.
        tiny: inputs, weights and results that are smaller than this may be flushed to zero.
        largest: sums that may exceed this may overflow: their error is infinite.
        functions: units in the last place by which smooth functions may be off; None: not stated.
        refolds: whether constants that are computed from others are computed anew.
    """

    name: str
    unit: float
    cut: float
    tiny: float
    largest: float
    functions: int | None
    refolds: bool


FLOAT64 = Arithmetic("float64", 2.0**-53, 0.0, 2.0**-1022, 2.0**1022, FUNCTIONS, refolds=False)

_CUTS = {"float32": 0.0, "tf32": 2.0**-10, "bfloat16": 2.0**-8}
"""TF32 has eleven significant bits: 2^-11 where operands are rounded to the nearest. Kernels that hand the bits
of float32 to tensor cores as they are have the rest cut off, which is twice as much."""


@dataclasses.dataclass(frozen=True)
class Float32:
    """A network deployed in float32, whatever the order of its sums.

    Attributes:
        products: to what operands of matrix products and convolutions are rounded, or cut off, before:
            ``"float32"`` (not at all), ``"tf32"`` (recent GPUs' default) or ``"bfloat16"`` (TPUs').

    >>> Float32().arithmetic.unit, Float32("tf32").arithmetic.cut
    (5.960464477539063e-08, 0.0009765625)
    """

    products: Literal["float32", "tf32", "bfloat16"] = "float32"

    def __post_init__(self) -> None:
        if self.products not in _CUTS:
            raise ValueError(f"products: expected one of {sorted(_CUTS)}, got {self.products!r}.")

    @property
    def arithmetic(self) -> Arithmetic:
        cut = _CUTS[self.products]
        return Arithmetic(
            str(self), 2.0**-24, cut, 2.0**-126, 2.0**127, functions=None, refolds=True
        )

    def __str__(self) -> str:
        cut = "" if self.products == "float32" else f" with products of {self.products} operands"
        return f"float32{cut}, any order of summation"


class Rounded(NamedTuple):
    """How far each score can be from the real-valued one's over a box.

    Attributes:
        errors: of the network's own evaluation.
        sizes: how large the scores can be.
        pulled: of the same numbers by linear functions that are pulled back from the scores to the input.
            Sums are then of terms that the network itself would have cancelled before: their size is
            that of the network of all magnitudes, ``M = |W| M + |b|``, and they have as many terms as all
            operations together, forward or transposed.
        inner: as ``pulled``, of every value that nonlinear operations read, by the variable's index.
    """

    errors: Float[Array, "1 label"]
    sizes: Float[Array, "1 label"]
    pulled: Float[Array, "1 label"]
    inner: dict[int, Float[Array, "1 ..."]]


def bounded_operations(graph: Graph) -> int:
    """How many operations read values that are bounded on their own, the scores among them."""
    return 1 + sum(not is_affine(graph, eqn) for eqn in graph.eqns)


def rounding_errors(
    graph: Graph,
    box: Interval,
    known: Mapping[Variable, Interval],
    arithmetic: Arithmetic,
) -> Rounded:
    """How far the scores of a network as it is evaluated can be from the real-valued ones.

    Args:
        graph: in float64, with ReLU and max pool fused.
        box: the inputs, (1, ..), which the network is given exactly, tiny ones perhaps as 0.
        known: intervals of some values over the box, tighter perhaps than interval arithmetic's.
        arithmetic: how it is evaluated.

    Raises:
        UnsupportedOperation: an operation has no stated accuracy.

    >>> import jax.numpy as jnp, jmlv
    >>> from jmlv.numerics import certificate_precision
    >>> graph = jmlv.trace(lambda x: x.reshape(-1, 4) @ jnp.ones((4, 1)), (4, 1, 1))
    >>> with certificate_precision():
    ...     ones = jnp.ones((1, 4, 1, 1))
    ...     point, exact = Interval(ones, ones), graph.astype("float64")
    ...     found = rounding_errors(exact, point, {}, Float32().arithmetic)
    ...     print(f"{float(found.errors[0, 0]):.3g}")
    1.43e-06
    """
    if arithmetic.refolds:
        _require_known_constants(graph, arithmetic)
    constants = graph.constants()
    values: dict[Variable, Any] = constants | {graph.input: box}
    errors: dict[Variable, Array] = {graph.input: jnp.full_like(box.lower, arithmetic.tiny)}
    whole, terms = {graph.input: reach(box)}, box.lower.size
    pulled = {graph.input: _pulled(whole[graph.input], terms, arithmetic)}
    for eqn in graph.eqns:
        operands = [read(values, v) for v in eqn.invars]
        found = _within(interval_step(eqn, operands), known.get(eqn.outvar))
        values[eqn.outvar] = found
        step = _Step(graph, eqn, constants, arithmetic, values, errors, whole)
        error, magnitude = (_known(value, found) for value in (step.error(), step.magnitude()))
        errors[eqn.outvar], whole[eqn.outvar] = error, magnitude
        terms += EXTRA + most_terms(eqn.primitive, eqn.params, operands, found)
        pulled[eqn.outvar] = _pulled(magnitude, terms, arithmetic)
    bent = (eqn for eqn in graph.eqns if not is_affine(graph, eqn))
    inner = {v.index: pulled[v] for eqn in bent for v in graph.inputs_of(eqn)}
    output = graph.output
    return Rounded(errors[output], reach(values[output]), pulled[output], inner)


def _pulled(magnitude: Array, terms: int, arithmetic: Arithmetic) -> Array:
    """How far what is pulled back from a value can be off, whose terms have magnitudes of that sum."""
    return min(terms * arithmetic.unit, 1.0) * 2 * magnitude


def _require_known_constants(graph: Graph, arithmetic: Arithmetic) -> None:
    """Raises UnsupportedOperation where constants that a network computes may be others elsewhere."""
    folded = graph.structure.folded
    if not folded.share < 0.5 or (folded.products and arithmetic.cut > 0):
        raise UnsupportedOperation(
            f"deployed: f computes a constant from others, by {folded.by}, and {arithmetic.name} may "
            "compute another one. Compute it beforehand and give f its value, or leave out deployed=.., "
            "for the real-valued network."
        )


def _within(found: Interval, known: Interval | None) -> Interval:
    """Both hold; what is not a number says nothing."""
    if known is None:
        return found
    return Interval(jnp.fmax(found.lower, known.lower), jnp.fmin(found.upper, known.upper))


def _known(value: Array, interval: Interval) -> Array:
    """Infinite where it, or an end of what it is about, is no number: compiled maxima may lose that."""
    missing = jnp.isnan(value) | jnp.isnan(interval.lower) | jnp.isnan(interval.upper)
    return jnp.where(missing, jnp.inf, value)


class _Step(NamedTuple):
    """One equation, with what is known of its operands.

    Attributes:
        values: intervals, of its output too, and constants.
        errors: how far the operands can be off.
        whole: the sums of the magnitudes of all their terms.
    """

    graph: Graph
    eqn: Equation
    constants: Mapping[Variable, Any]
    arithmetic: Arithmetic
    values: Mapping[Variable, Any]
    errors: Mapping[Variable, Array]
    whole: Mapping[Variable, Array]

    def error(self) -> Array:
        """That of the equation's output."""
        eqn = self.eqn
        if is_maximum(eqn):
            return jnp.where(self._off, 0.0, self.errors[eqn.invars[0]])
        if is_max_pool(eqn):
            return eqn.bind(self.errors[eqn.invars[0]])  # the largest in each window
        if is_affine(self.graph, eqn):
            return self._affine()
        units = self.arithmetic.functions
        if units is None:
            raise UnsupportedOperation(
                f"deployed: {describe(self.graph, eqn)} has no rule for its accuracy in float32, so "
                "that nothing can be proven of the deployed network. Leave out deployed=.., for the "
                "real-valued one."
            )
        if is_product(self.graph, eqn):
            return self._product()
        (source,) = self.graph.inputs_of(eqn)
        share = units * self.arithmetic.unit
        if is_smooth(eqn):
            return _smooth(eqn.primitive, self.values[source], self.errors[source], share)
        assert is_softmax(eqn), eqn.primitive
        return _softmax(eqn.params["axes"], self.values[source], self.errors[source], share)

    def magnitude(self) -> Array:
        """The sum of the magnitudes of all terms of the output, with lines and planes in place of what
        is not linear."""
        eqn = self.eqn
        if is_affine(self.graph, eqn):
            whole = {v: self.whole[v] for v in self.graph.inputs_of(eqn)}
            return _magnitudes(eqn, self.constants, whole, with_constants=True)
        if is_product(self.graph, eqn):
            (x, y), (mx, my) = (
                [of(v) for v in eqn.invars] for of in (self._reached, self.whole.get)
            )
            return eqn.bind(mx, y) + eqn.bind(x, my) + 4 * eqn.bind(x, y)
        (source,) = self.graph.inputs_of(eqn)
        reached = self._reached(source)
        terms = self.whole[source] + reached
        if is_maximum(eqn):
            knee = read(self.constants, eqn.invars[1])
            own = jnp.where(jnp.isfinite(knee), jnp.abs(knee), 0)
            return jnp.where(self._off, 0.0, terms) + own
        if is_max_pool(eqn):
            return math.prod(eqn.params["window_dimensions"]) * eqn.bind(terms)
        if is_smooth(eqn):
            steep, value = _steepest(eqn.primitive, self.values[source], self.errors[source])
            return steep * terms + value
        largest = self.values[eqn.outvar].upper
        return _softmax_magnitude(eqn.params["axes"], largest, self.whole[source], reached)

    def _reached(self, v: Variable) -> Array:
        """How large an operand can be as it is computed."""
        return reach(self.values[v]) + self.errors[v]

    @property
    def _off(self) -> Array:
        """Where the constant of a maximum is the larger one throughout, as it is of a ReLU that is off."""
        source, knee = self.eqn.invars
        upper = self.values[source].upper + self.errors[source]
        return upper < read(self.constants, knee)

    def _affine(self) -> Array:
        eqn, inputs = self.eqn, self.graph.inputs_of(self.eqn)
        tiny, unit, cut = self.arithmetic.tiny, self.arithmetic.unit, self.arithmetic.cut
        reached = {v: self._reached(v) for v in inputs}
        moved = eqn.primitive in _EXACT
        wrong = {v: self.errors[v] + (0 if moved else tiny) for v in inputs}
        spread = _magnitudes(eqn, self.constants, wrong, with_constants=False)
        whole = _magnitudes(eqn, self.constants, reached, with_constants=True)
        if moved:
            return spread
        share = _gamma(_terms(eqn) + EXTRA, unit)
        if eqn.primitive in (lax.dot_general_p, lax.conv_general_dilated_p):
            share += 2 * cut + cut**2
        if self.arithmetic.refolds:
            folded = self.graph.structure.folded.share
            share = (1 + share) * (1 + folded / (1 - folded)) - 1
        flushed = _terms(eqn) * tiny * (1 + jnp.max(jnp.stack([r.max() for r in reached.values()])))
        error = spread + share * whole + flushed
        return jnp.where(whole < self.arithmetic.largest, error, jnp.inf)

    def _product(self) -> Array:
        eqn = self.eqn
        (x, y), (ex, ey) = ([of(v) for v in eqn.invars] for of in (self._reached, self.errors.get))
        whole = eqn.bind(x, y)
        spread = eqn.bind(x, ey) + eqn.bind(ex, y)
        share = _gamma(_terms(eqn) + EXTRA, self.arithmetic.unit)
        error = spread + share * whole + _terms(eqn) * self.arithmetic.tiny
        return jnp.where(whole < self.arithmetic.largest, error, jnp.inf)


def _smooth(f: Smooth, interval: Interval, error: Array, share: float) -> Array:
    lower, upper = interval.lower - error, interval.upper + error
    steep, value = _steepest(f, interval, error)
    largest = jnp.maximum(jnp.abs(lower), jnp.abs(upper))
    found = steep * error + share * (value + steep * largest)
    return jnp.where(f.defined(lower, upper), found, jnp.inf)


def _steepest(f: Smooth, interval: Interval, error: Array) -> tuple[Array, Array]:
    """The largest slope, and the largest value, over an interval whose ends may be off.

    Between knots the slope is monotone, so that it is largest at an end or at a knot.
    """
    lower, upper = interval.lower - error, interval.upper + error
    ends = [f.jet(lower), f.jet(upper)]
    steep = jnp.maximum(*(jnp.abs(end.slope) for end in ends))
    for knot in f.knots:
        within = (lower < knot) & (knot < upper)
        steep = jnp.where(
            within, jnp.maximum(steep, jnp.abs(f.jet(jnp.asarray(knot)).slope)), steep
        )
    value = jnp.maximum(*(jnp.abs(end.value) for end in ends))
    value = value if f.minimum is None else jnp.maximum(value, abs(f.minimum[1]))
    return steep, value


def _softmax(axes: tuple[int, ...], interval: Interval, error: Array, share: float) -> Array:
    """Shares are at most 1; the exponents are rounded where the largest is taken off them."""
    largest = reach(interval) + error
    exponent = jnp.max(error + share * largest, axes, keepdims=True)
    entries = math.prod(interval.lower.shape[axis] for axis in axes)
    found = jnp.expm1(2 * exponent) + share * entries
    return jnp.broadcast_to(jnp.minimum(found, 1.0), interval.lower.shape)


def _softmax_magnitude(axes: tuple[int, ...], upper: Array, whole: Array, reached: Array) -> Array:
    """The sum of the magnitudes of the terms of planes around a softmax (:mod:`jmlv.bounds.softmax`).

    A plane of entry ``k`` is ``f (x_k - sum_j share_j x_j) + c``, with ``f`` at most the largest value ``p`` of
    the entry. Its constant is computed from numbers in the box, less their largest: they add up to
    ``p (1 + |x_k| + 3 sum_j share_j max |x| + log n) + 1`` at most. From a functional's coefficients a mean is
    taken off before: each may come back once, on all entries.
    """
    n = math.prod(whole.shape[axis] for axis in axes)
    around = jnp.max(whole, axes, keepdims=True) + 3 * jnp.max(reached, axes, keepdims=True)
    each = upper * (whole + reached + SHARES * around + 2 + math.log(n)) + 1
    return each + jnp.sum(each, axes, keepdims=True)


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
