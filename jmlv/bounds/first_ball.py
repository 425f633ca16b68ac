r"""Intervals of a first convolution or matrix product over a ball, for all outputs at once.

Of ``w . x + b`` over ``||x - c|| <= r`` and ``l <= x <= u`` the lower end is

    w . c + b - r ||w'||_*,

where ``w'`` has the coefficients of the entries that can move the way that lowers it: one at the lower end of
its domain, such as a black pixel, cannot if its coefficient is positive. Pulling every neuron back to the
input instead takes most of the time of CROWN on a ball and tightens little (docs/guarantees.md).

Where the box leaves out the centre, ``c`` is the box's nearest point, and of ``r`` is left what the way there does
not use: in l2 ``||e + f||^2 >= ||e||^2 + ||f||^2`` for changes ``e`` that go on the way that ``f`` began.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jmlv.bounds.balls import ROUNDINGS
from jmlv.bounds.first_layer import entries_read, is_matrix_product
from jmlv.bounds.method import Interval
from jmlv.bounds.windows import is_plain_convolution, kernel_of
from jmlv.graph import Equation, Graph, Variable
from jmlv.graph.ir import prefix, read
from jmlv.regions import Ball


def has_closed_form(graph: Graph, eqn: Equation, unmixed: Collection[Variable]) -> bool:
    """Whether :func:`within_ball` knows the output of an equation.

    Args:
        graph: whose inputs are in a ball, or are not.
        eqn: one of its equations.
        unmixed: the variables whose entries vary independently in a box.
    """
    return (
        graph.inside is not None
        and graph.inside.layers is None
        and (is_plain_convolution(eqn) or is_matrix_product(eqn))
        and graph.inputs_of(eqn) == eqn.invars[:1]
        and eqn.invars[0] in unmixed
    )


class _Moves(NamedTuple):
    """What an operation reads: where it is least changed, and how far an entry moves down and up
    while the input moves by one in the ball's norm; nowhere if the box is in the way."""

    start: Float[Array, "1 ..."]
    down: Float[Array, "1 ..."]
    up: Float[Array, "1 ..."]


def within_ball(graph: Graph, eqn: Equation, box: Interval) -> Interval:
    """Bounds on the output over the graph's ball and a box at once.

    Args:
        graph: whose inputs are in a ball.
        eqn: one that :func:`has_closed_form` says is known.
        box: the input, arrays of shape (1, ...).
    """
    start, left = _nearest(graph.inside, box)
    start, down, up = _moves(graph, eqn, box, start)
    kernel = _kernel(graph, eqn)
    entries = partial(entries_read, eqn, kernel.shape[:-1])
    kernel = kernel.reshape(-1, kernel.shape[-1])
    dual = partial(_dual_norm, graph.inside.norm, entries(down), entries(up))
    reach = (left * dual(k).reshape(eqn.outvar.shape) for k in (kernel, -kernel))
    middle = eqn.bind(start, read(graph.constants(), eqn.invars[1]))
    return Interval(middle - next(reach), middle + next(reach))


def _nearest(ball: Ball, box: Interval) -> tuple[Float[Array, "1 ..."], Array]:
    """The point of a box that is nearest to a ball's centre, and how much of the radius is left there."""
    start = jnp.clip(ball.x[None], *box)
    way = ball.stretched(start[0] - ball.x)
    if ball.norm == 1:
        return start, jnp.maximum(ball.radius - jnp.sum(jnp.abs(way)), 0)
    rounding = ROUNDINGS * way.size * jnp.finfo(way.dtype).eps
    way = way / jnp.where(ball.radius > 0, ball.radius, 1)  # its square may be too small a number
    left = (1 + rounding) - (1 - rounding) * jnp.sum(way**2)
    return start, ball.radius * _root(left)


def _moves(graph: Graph, eqn: Equation, box: Interval, start: Array) -> _Moves:
    """Through what moves and scales the input entry by entry, and may turn it around."""
    ball, operand = graph.inside, prefix(graph, eqn.invars[0])
    step = jnp.ones_like(start) if ball.weights is None else 1 / ball.weights[None]
    at, along = jax.jvp(operand, (start,), (step,))
    ends = [operand(end) for end in box]
    down, up = (jnp.where(side, jnp.abs(along), 0) for side in (at > jnp.minimum(*ends), at < jnp.maximum(*ends)))  # fmt: skip
    return _Moves(at, down, up)


def _kernel(graph: Graph, eqn: Equation) -> Float[Array, "*patch output"]:
    if is_plain_convolution(eqn):
        return kernel_of(eqn, graph.constants())
    return read(graph.constants(), eqn.invars[1])


def _dual_norm(
    norm: int,
    down: Float[Array, "height width entry"],
    up: Float[Array, "height width entry"],
    kernel: Float[Array, "entry output"],
) -> Float[Array, "height width output"]:
    """Of the coefficients, each times how far its entry moves the way that lowers the output."""
    falls, rises = jnp.maximum(kernel, 0), jnp.maximum(-kernel, 0)
    if norm == 2:  # of shares of the largest: squares may be too small, or too large, for a number
        moved, weighed = _scale(jnp.maximum(down, up), None), _scale(jnp.abs(kernel), 0)
        downs, ups = (_product((d / moved) ** 2, (k / weighed) ** 2) for d, k in ((down, falls), (up, rises)))  # fmt: skip
        return moved * weighed * _root(downs + ups)
    worth = down[..., None] * falls, up[..., None] * rises
    missing = jnp.isnan(worth[0]).any(-2) | jnp.isnan(worth[1]).any(-2)  # compiled maxima lose it
    return jnp.where(missing, jnp.nan, jnp.max(jnp.maximum(*worth), -2, initial=0.0))


def _product(entries: Array, kernel: Array) -> Array:
    return jnp.matmul(entries, kernel, precision="highest")


def _scale(sizes: Array, axis: int | None) -> Array:
    """The largest, or one where all are zero."""
    largest = lax.stop_gradient(jnp.max(sizes, axis, initial=0.0))
    return jnp.where(largest == 0, 1, largest)


def _root(squares: Array) -> Array:
    """Of what is positive, else zero, with a gradient there too; what overflowed to NaN stays NaN."""
    positive = squares > 0
    otherwise = jnp.where(jnp.isnan(squares), jnp.nan, 0)
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, squares, 1)), otherwise)
