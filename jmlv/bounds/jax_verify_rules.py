"""Propagation rules for jax_verify: its own where they are sound, ours for the rest.

jax_verify walks a graph and looks up one rule per primitive. These dictionaries are built from
copies of its own; the originals stay as they are.

* IBP keeps jax_verify's arithmetic: bounds through monotone operations as they are, centre and
  radius through products. New are the operations that it does not know, and the parameters that
  its product rules reject (JAX has added some) or drop in silence (``batch_group_count``).
* CROWN-IBP: the stock rules of ``x - c`` (it adds ``c``) and of residual additions (an offset that
  is already there is counted on both branches) are unsound, and its rule of a matrix product
  crashes. All affine operations have one rule here, JAX's own transposition; maxima and max pools
  take the lines of :mod:`jmlv.bounds.relaxations`, smooth functions those of
  :mod:`jmlv.bounds.tangents`, products and softmax the planes of :mod:`jmlv.bounds.products` and
  :mod:`jmlv.bounds.softmax`.

A backward bound holds ``coefficients`` (row, *activation shape) and ``offset`` (row,).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from jmlv.bounds.lines import smooth_lines
from jmlv.bounds.method import Interval, with_nan
from jmlv.bounds.products import product_interval, product_lines, pull_product
from jmlv.bounds.relaxations import max_pool_lines, maximum_lines, patches_transpose
from jmlv.bounds.sizes import Size, exact, outward, size_through
from jmlv.bounds.softmax import pull_softmax, softmax_interval, softmax_lines
from jmlv.bounds.tangents import smooth_interval
from jmlv.graph.ir import Equation, Variable
from jmlv.graph.jax_verify import load
from jmlv.graph.operations import BILINEAR, LINEAR, relu_max_pool_p, softmax_p
from jmlv.graph.smooth import SMOOTH, Smooth

Rule = Callable[..., Any]

#: Non-decreasing in every operand: bounds go through as they are.
MONOTONE = (LINEAR - {lax.neg_p}) | {lax.max_p, lax.reduce_window_max_p, relu_max_pool_p}

#: Compiled, they may lose a NaN.
MAXIMA = (lax.max_p, lax.reduce_window_max_p, relu_max_pool_p)

#: Affine operations that may add a constant of their own.
SHIFTING = frozenset({lax.add_p, lax.sub_p, lax.concatenate_p, lax.pad_p})

AFFINE = LINEAR | BILINEAR | SHIFTING | {lax.div_p}


@functools.cache
def ibp_rules() -> Mapping[Any, Rule]:
    """Rules ``(index, *operands, **params) -> IntervalBound``; operands are bounds or arrays."""
    ibp = load().ibp
    monotone = {p: _drop_index(ibp._make_ibp_passthrough_primitive(p)) for p in MONOTONE}
    monotone |= {p: _seen(p, monotone[p]) for p in MAXIMA}
    products = {p: functools.partial(_ibp_product, p) for p in BILINEAR}
    others = {lax.neg_p: _ibp_neg, lax.div_p: _ibp_div, softmax_p: _ibp_softmax}
    smooth = {f: functools.partial(_ibp_smooth, f) for f in SMOOTH}
    own = {**monotone, **products, **others, **smooth}
    return {**ibp._primitive_transform, **{p: _sized(p, rule) for p, rule in own.items()}}


def _sized(primitive: Any, rule: Rule) -> Rule:
    """The same rule for bounds that know their size, which is computed when it is asked for."""

    def sized(index: int, *operands: Any, **params: Any) -> Any:
        out = rule(index, *operands, **params)

        @functools.cache
        def size() -> Size:
            known = [Interval(x.lower, x.upper) if _is_bound(x) else x for x in operands]
            sizes = [x.size if _is_bound(x) else None for x in operands]
            return size_through(primitive, params, known, sizes, Interval(out.lower, out.upper))

        out.size = size
        return out

    return sized


@functools.cache
def ibp_transform() -> Any:
    """jax_verify's forward transform with :func:`ibp_rules`."""
    jv = load()
    return jv.bound_propagation.OpwiseBoundTransform(_given, ibp_rules())


def _given(_index: int, lower: Array, upper: Array) -> Any:
    """The box, which is what it says."""
    return exact_bound(Interval(lower, upper))


def exact_bound(interval: Interval) -> Any:
    """An interval as jax_verify's, whose ends are not rounded."""
    bound = interval_bound(interval)
    bound.size = lambda: exact(interval)
    return bound


def readable(f: Smooth, x: Any) -> Interval:
    """What a function reads; one with a domain reads an interval that holds it whatever was rounded."""
    interval = Interval(x.lower, x.upper)
    return outward(interval, x.size()) if f.guarded else interval


@functools.cache
def crown_rules() -> Mapping[Any, Rule]:
    """Rules ``(index, out_bound, *operands, **params) -> bounds`` on the operands, or None."""
    pools = {
        lax.reduce_window_max_p: functools.partial(_crown_pool, -jnp.inf),
        relu_max_pool_p: functools.partial(_crown_pool, 0.0),
    }
    affine = {p: functools.partial(_crown_affine, p) for p in AFFINE}
    smooth = {f: functools.partial(_crown_smooth, f) for f in SMOOTH}
    affine |= {p: functools.partial(_crown_product, p) for p in (lax.mul_p, lax.dot_general_p)}
    own = {**affine, lax.max_p: _crown_maximum, softmax_p: _crown_softmax, **pools, **smooth}
    return {**load().crown_ibp._primitive_transform, **own}


def interval_bound(interval: Interval) -> Any:
    """An interval as jax_verify's."""
    return load().ibp.IntervalBound(*interval)


def backward_bound(
    lower: tuple[Float[Array, "row *activation"], Float[Array, " row"]],
    upper: tuple[Float[Array, "row *activation"], Float[Array, " row"]],
) -> Any:
    """Linear functions that enclose the rows: (coefficients, offset) below and above."""
    jv = load()
    linear = jv.fastlin.LinearExpression
    return jv.crown_ibp.CrownBackwardBound(linear(*lower), linear(*upper))


# ---------------------------------------------------------------------------------------------
# Intervals, forward
# ---------------------------------------------------------------------------------------------


def _drop_index(function: Callable[..., Any]) -> Rule:
    return lambda _index, *operands, **params: function(*operands, **params)


def _ibp_neg(_index: int, x: Any) -> Any:
    return interval_bound(Interval(-x.upper, -x.lower))


def _seen(primitive: Any, rule: Rule) -> Rule:
    """The same rule, by which a NaN stays one; of a pool in all of its windows."""

    def seen(index: int, x: Any, *knee: Any, **params: Any) -> Any:
        out = rule(index, x, *knee, **params)
        missing = jnp.where(jnp.isnan(x.lower) | jnp.isnan(x.upper), jnp.nan, 0)
        missing = missing if primitive is lax.max_p else missing.sum()
        return interval_bound(with_nan(Interval(out.lower, out.upper), missing, *knee))

    return seen


def _ibp_div(_index: int, x: Any, divisor: Any, **_: Any) -> Any:
    ends = x.lower / divisor, x.upper / divisor
    return interval_bound(with_nan(Interval(jnp.minimum(*ends), jnp.maximum(*ends)), *ends))


def _ibp_smooth(f: Smooth, _index: int, x: Any) -> Any:
    return interval_bound(smooth_interval(f, readable(f, x)))


def _ibp_product(primitive: Any, _index: int, x: Any, y: Any, **params: Any) -> Any:
    """A bound times an array, either way round: ``|W| r`` around ``W c``, centre c, radius r.

    Of two bounds: the range of every summand, summed.
    """
    if _is_bound(x) and _is_bound(y):
        sides = (Interval(v.lower, v.upper) for v in (x, y))
        return interval_bound(product_interval(_equation(primitive, (x, y), params), *sides))
    split = load().ibp._decompose_affine_argument
    (x_radius, x_center), (y_radius, y_center) = split(x), split(y)
    center = primitive.bind(x_center, y_center, **params)
    radius = primitive.bind(x_radius, y_radius, **params)
    return interval_bound(Interval(center - radius, center + radius))


# ---------------------------------------------------------------------------------------------
# Linear functions, backward
# ---------------------------------------------------------------------------------------------


def _crown_affine(primitive: Any, _index: int, out: Any, *operands: Any, **params: Any) -> list:
    """``a . (M_1 x_1 + .. + M_n x_n + b)``: ``a M_i`` for each ``x_i``, and ``a . b`` once.

    The offset goes to the first operand alone: jax_verify adds up what reaches the input along
    all branches, so on each of them it would be counted as often as there are branches.
    """
    dependent = [i for i, x in enumerate(operands) if _is_bound(x)]

    def function(*values: Array) -> Array:
        filled = dict(zip(dependent, values))
        return primitive.bind(*(filled.get(i, x) for i, x in enumerate(operands)), **params)

    zeros = [jnp.zeros_like(operands[i].lower) for i in dependent]
    constant, transposed = jax.vjp(function, *zeros)
    lower = _pull(out.lower_lin, transposed, constant if primitive in SHIFTING else None)
    upper = _pull(out.upper_lin, transposed, constant if primitive in SHIFTING else None)
    pulled = dict(zip(dependent, map(backward_bound, lower, upper)))
    return [pulled.get(i) for i in range(len(operands))]


def _pull(rows: Any, transposed: Callable[..., Any], constant: Array | None) -> list:
    """(coefficients, offset) on each operand; the offset on the first, zero on the others."""
    coefficients = jax.vmap(transposed)(rows.lin_coeffs)
    offset = rows.offset if constant is None else rows.offset + _dot(rows.lin_coeffs, constant)
    offsets = [offset, *(jnp.zeros_like(offset) for _ in coefficients[1:])]
    return list(zip(coefficients, offsets))


def _ibp_softmax(_index: int, x: Any, **params: Any) -> Any:
    eqn = _equation(softmax_p, (x,), params)
    return interval_bound(softmax_interval(eqn, Interval(x.lower, x.upper)))


def _equation(primitive: Any, operands: Sequence[Any], params: dict[str, Any]) -> Equation:
    """An operation on bounds, as an equation without a graph around it."""
    invars = tuple(Variable(i, tuple(x.shape), str(x.lower.dtype)) for i, x in enumerate(operands))
    return Equation(primitive, invars, (), tuple(sorted(params.items())))


def _crown_product(primitive: Any, index: int, out: Any, x: Any, y: Any, **params: Any) -> list:
    """Affine if one factor is constant; else the planes with the slopes at the centre."""
    if not (_is_bound(x) and _is_bound(y)):
        return _crown_affine(primitive, index, out, x, y, **params)
    lines = product_lines(*(Interval(v.lower, v.upper) for v in (x, y)))
    eqn = _equation(primitive, (x, y), params)
    return _by_planes(out, lambda rows: pull_product(eqn, rows, lines)[:2])


def _crown_softmax(_index: int, out: Any, x: Any, **params: Any) -> list:
    """The planes that touch in the middle."""
    eqn = _equation(softmax_p, (x,), params)
    lines = softmax_lines(eqn, Interval(x.lower, x.upper))
    return _by_planes(out, lambda rows: pull_softmax(eqn, rows, lines)[:2])


def _by_planes(out: Any, pull: Callable[[Array], tuple[list[Array], Array]]) -> list:
    """Bounds on all operands; the offset on the first alone, for the same reason as in affine rules."""
    below, low = pull(out.lower_lin.lin_coeffs)
    above, high = pull(-out.upper_lin.lin_coeffs)
    ends = out.lower_lin.offset + low, out.upper_lin.offset - high
    offsets = [ends, *(tuple(map(jnp.zeros_like, ends)) for _ in below[1:])]
    return [
        backward_bound((a, low), (-b, high)) for a, b, (low, high) in zip(below, above, offsets)
    ]


def _crown_maximum(_index: int, out: Any, x: Any, knee: Any) -> list:
    """``max(x, c)``; adaptive lower slope, chord above. ReLU's lower line has no constant."""
    lines = maximum_lines(x.lower, x.upper, knee)
    is_zero = isinstance(knee, np.generic) and knee == 0
    finite = jnp.where(jnp.isfinite(knee), knee, 0)
    below = lines.lower_slope, None if is_zero else (1 - lines.lower_slope) * finite
    above = lines.upper_slope, lines.upper_intercept
    return [*_between(out, below, above), None]


def _crown_smooth(f: Smooth, _index: int, out: Any, x: Any) -> list:
    """A smooth function: the lines of least area."""
    lines = smooth_lines(f, readable(f, x))
    below = lines.lower_weights[0], lines.lower_constant
    above = lines.upper_weights[0], lines.upper_constant
    return _between(out, below, above)


def _between(out: Any, below: tuple[Array, Any], above: tuple[Array, Any]) -> list:
    """The bound on the operand of an elementwise function between two lines (slope, constant)."""

    def pull(rows: Any, positive: tuple, negative: tuple) -> tuple[Array, Array]:
        coefficients = _by_sign(rows.lin_coeffs, positive[0], negative[0])
        offset = rows.offset
        for part, (_, constant) in ((jnp.maximum, positive), (jnp.minimum, negative)):
            if constant is not None:
                offset = offset + _dot(part(rows.lin_coeffs, 0), constant)
        return coefficients, offset

    return [backward_bound(pull(out.lower_lin, below, above), pull(out.upper_lin, above, below))]


def _crown_pool(floor: float, _index: int, out: Any, x: Any, **params: Any) -> list:
    """``max(floor, max over each window)``: one window element below, one above."""
    lines = max_pool_lines(x.lower, x.upper, params, floor)
    back = jax.vmap(lambda elements: patches_transpose(elements, params, x.shape))
    low, high = lines[:2], lines[2:]

    def pull(rows: Any, positive: tuple, negative: tuple) -> tuple[Array, Array]:
        elements = _by_sign(rows.lin_coeffs[:, None], positive[0], negative[0])
        plus, minus = jnp.maximum(rows.lin_coeffs, 0), jnp.minimum(rows.lin_coeffs, 0)
        return back(elements), rows.offset + _dot(plus, positive[1]) + _dot(minus, negative[1])

    return [backward_bound(pull(out.lower_lin, low, high), pull(out.upper_lin, high, low))]


def concretize(
    linear: Any, lower: Float[Array, "*image"], upper: Float[Array, "*image"]
) -> Interval:
    """The range of a backward bound on the input over the box; jax_verify's, as matrix products."""
    below, above = linear.lower_lin, linear.upper_lin
    return Interval(
        below.offset + _least(below.lin_coeffs, lower, upper),
        above.offset - _least(-above.lin_coeffs, lower, upper),
    )


def _least(rows: Float[Array, "row ..."], lower: Array, upper: Array) -> Float[Array, " row"]:
    return _dot(jnp.maximum(rows, 0), lower) + _dot(jnp.minimum(rows, 0), upper)


def _by_sign(rows: Array, positive: Array, negative: Array) -> Array:
    """``rows`` times one slope where they are positive and the other where they are not.

    A selection rather than a sum of two products: its gradient with respect to the slopes, a sum
    over the rows, compiles to a loop several times as fast on CPUs.
    """
    return rows * jnp.where(rows > 0, positive, negative)


def _dot(rows: Float[Array, "row ..."], values: Array) -> Float[Array, " row"]:
    """``rows . values``; a matrix product, since XLA's sums of broadcast products are slow."""
    flat = rows.reshape(rows.shape[0], -1)
    return jnp.dot(flat, values.reshape(-1), precision=lax.Precision.HIGHEST)


def _is_bound(x: Any) -> bool:
    return isinstance(x, load().bound_propagation.Bound)
