"""The backward pass of CROWN: linear functionals of any variable, pulled back to the input box.

Source: Zhang et al., *Efficient Neural Network Robustness Certification with General Activation
Functions*, NeurIPS 2018, Eq. (7)-(8), in the form of Xu et al., NeurIPS 2020 (auto_LiRPA).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jmlv.bounds.balls import minimum_over
from jmlv.bounds.first_layer import FirstLayer
from jmlv.bounds.functionals import (
    Functional,
    Whole,
    Window,
    add,
    apply,
    crop,
    flat_sum,
    is_small,
    whole,
)
from jmlv.bounds.lines import Lines, Planes, admissible, floor_constant
from jmlv.bounds.products import ProductLines, pull_product
from jmlv.bounds.relaxations import patches
from jmlv.bounds.softmax import SoftmaxLines, pull_softmax
from jmlv.bounds.tangents import SIDED, Family, lines_at
from jmlv.bounds.windows import pool_settings, pull_window, slide
from jmlv.graph import Equation, Graph, Variable
from jmlv.graph.affine import pull_back
from jmlv.graph.operations import is_affine, is_maximum, is_smooth

Weights = dict[int, Float[Array, "row element ..."]]
"""For each nonlinear equation, by the index of its output, every row's own choice of lines.

For ``max(x, c)`` or a max pool the lower weights; for a smooth function two numbers in [0, 1], which say
where the lower line touches it and where the upper one does; for softmax likewise, entry by entry;
for a product one number for every summand.
"""


def lower_bound(
    graph: Graph,
    functional: Functional,
    lines: Mapping[int, Planes],
    lower: Float[Array, "1 *image"],
    upper: Float[Array, "1 *image"],
) -> Float[Array, " row"]:
    """The least value over the box of functionals of ``graph.output``, by linear relaxation.

    Args:
        graph: ends in the variable that the functionals read; where its inputs are inside of a ball,
            the bound is over the ball and the box at once.
        functional: the functionals.
        lines: for each nonlinear equation, by the index of its output, the two lines around it.
        lower, upper: the input box.

    Returns:
        A lower bound for each row. (An upper bound is minus the lower bound of minus the row.)
    """
    return sweep(graph, functional, lines, lower, upper)[0]


def sweep(
    graph: Graph,
    functional: Functional,
    lines: Mapping[int, Planes],
    lower: Float[Array, "1 *image"],
    upper: Float[Array, "1 *image"],
    wanted: Weights | None = None,
    also: Mapping[Variable, Functional] = MappingProxyType({}),
    planes: Mapping[int, FirstLayer] = MappingProxyType({}),
) -> tuple[Float[Array, " row"], Weights]:
    """As :func:`lower_bound`, with lines of each row's own.

    Args:
        wanted, also, planes: as in :func:`linear_bound`.

    Returns:
        A lower bound for each row, and the weights that each row used.
    """
    found = linear_bound(graph, functional, lines, wanted, also, planes)
    least = minimum_over(found.below, lower, upper, graph.inside)
    return found.constant + least, found.weights


class LinearBound(NamedTuple):
    """Functionals that lie, with a constant, below functionals of a graph's output.

    Attributes:
        below: of the input.
        constant: of each row.
        weights: that each row used.
        passed: the functional on the output of each nonlinear equation, by that output's index. Its
            positive coefficients are the bound's derivatives with respect to the constants of the
            lower line, its negative ones with respect to those of the upper line.
    """

    below: Functional
    constant: Float[Array, " row"]
    weights: Weights
    passed: dict[int, Functional]


def linear_bound(
    graph: Graph,
    functional: Functional,
    lines: Mapping[int, Planes],
    wanted: Weights | None = None,
    also: Mapping[Variable, Functional] = MappingProxyType({}),
    planes: Mapping[int, FirstLayer] = MappingProxyType({}),
) -> LinearBound:
    """Functionals of the input that lie, with a constant, below functionals of ``graph.output``.

    Args:
        graph, functional, lines: as in :func:`lower_bound`.
        wanted: weights to use in place of those of ``lines``, in the shapes that are returned;
            whatever they are, they are made admissible first.
        also: functionals of inner variables to add to the one of the output.
        planes: first layers whose ReLUs get upper planes of each row's own, where they fit.
    """
    constants = graph.constants()
    pending: dict[Variable, Functional] = {**also}
    pending[graph.output] = add(pending.get(graph.output), functional, graph.output)
    constant = jnp.zeros(functional.rows.shape[0], graph.dtype)
    used: Weights = {}
    passed: dict[int, Functional] = {}
    for eqn in reversed(graph.eqns):
        if eqn.outvar not in pending:
            continue
        current = _sized(pending.pop(eqn.outvar), eqn.outvar)
        if is_affine(graph, eqn):
            pulled, offset = _pull_affine(graph, eqn, current, constants)
        else:
            index = eqn.outvar.index
            passed[index] = current
            own = None if wanted is None else wanted[index]
            layer = planes.get(index)
            if layer is not None and layer.fits(current):
                pull = layer.pull
            else:
                pull = pull_lines if isinstance(lines[index], Lines) else pull_planes
            pulled, offset, used[index] = pull(eqn, current, lines[index], own)
        constant = constant + offset
        for variable, part in pulled.items():
            pending[variable] = add(pending.get(variable), part, variable)
    return LinearBound(pending[graph.input], constant, used, passed)


Pulled = tuple[dict[Variable, Functional], Float[Array, " row"], Float[Array, "row element ..."]]


def pull_lines(
    eqn: Equation, functional: Functional, lines: Lines, own: Array | None = None
) -> Pulled:
    """Replaces a nonlinear output by its lower line where the coefficient is positive, else upper.

    Args:
        own: each row's own weights, or None for those of ``lines``.

    Returns:
        Functionals on the operand, the constant of each row, and the weights used.
    """
    if isinstance(functional, Window) and _has_window_rule(eqn, lines):
        return _pull_lines_window(eqn, functional, lines, own)
    rows = whole(functional, eqn.outvar).rows
    if is_smooth(eqn):
        spread, offset, used = _pull_smooth(eqn, rows, _by_row(lines), own)
        return {eqn.invars[0]: Whole(spread)}, offset, used
    source = eqn.invars[0]
    low, high = lines.lower_weights[None], lines.upper_weights[None]
    low = low if own is None else admissible(eqn, own, low, high)
    offset = apply(jnp.maximum(rows, 0), lines.lower_constant)
    offset += apply(jnp.minimum(rows, 0), lines.upper_constant)
    if lines.floor is not None:
        offset += flat_sum(jnp.maximum(rows, 0) * floor_constant(lines, low, 1))
    spread = _choose(rows[:, None], low, high)
    low = jnp.broadcast_to(low, spread.shape)
    if is_maximum(eqn):
        return {source: Whole(spread[:, 0])}, offset, low if own is None else own
    transposed = jax.linear_transpose(lambda x: patches(x, eqn.params), source.aval)
    (rows,) = jax.vmap(transposed)(spread)
    return {source: Whole(rows)}, offset, low if own is None else own


def pull_planes(
    eqn: Equation, functional: Functional, planes: ProductLines | SoftmaxLines, own: Array | None
) -> Pulled:
    """As :func:`pull_lines`, for an operation that has planes in several values."""
    rows = whole(functional, eqn.outvar).rows
    rule = pull_product if isinstance(planes, ProductLines) else pull_softmax
    parts, offset, used = rule(eqn, rows, planes, own)
    pulled: dict[Variable, Functional] = {}
    computed = [v for v in eqn.invars if isinstance(v, Variable)]
    for variable, part in zip(computed, parts):
        pulled[variable] = add(pulled.get(variable), Whole(part), variable)
    return pulled, offset, used


def _pull_smooth(
    eqn: Equation, rows: Array, lines: Lines, own: Array | None
) -> tuple[Array, Float[Array, " row"], Float[Array, "row 2 ..."]]:
    """Rows times the slopes of the lines that are chosen, the constants' sum, and the choice.

    Args:
        lines: with an axis of rows in place of that of elements.
    """
    slopes = lines.lower_weights, lines.upper_weights
    constants = lines.lower_constant, lines.upper_constant
    used = lines.family.start if own is None else jnp.clip(jnp.moveaxis(own, 1, 0), 0, 1)
    if own is not None:
        slopes, constants = lines_at(eqn.primitive, lines.family, used)
    used = jnp.moveaxis(jnp.broadcast_to(used, (2, *rows.shape)), 0, 1)
    return _choose(rows, *slopes), flat_sum(_choose(rows, *constants)), used


def _by_row(lines: Lines, part: Callable[[Array], Array] = lambda array: array[None]) -> Lines:
    """Lines of a smooth function with an axis of rows first, or behind that of the sides.

    Args:
        part: what of a map belongs to each row; all of it by default.
    """
    family = {
        name: jax.vmap(part)(field) if name in SIDED else jax.tree.map(part, field)
        for name, field in lines.family._asdict().items()
    }
    return Lines(
        part(lines.lower_weights[0]), part(lines.lower_constant),
        part(lines.upper_weights[0]), part(lines.upper_constant), None, Family(**family),
    )  # fmt: skip


def _choose(rows: Array, low: Array, high: Array) -> Array:
    """Rows times the lower line where they are positive, else times the upper."""
    return rows * jnp.where(rows > 0, low, high)


def _pull_affine(graph: Graph, eqn: Equation, current: Functional, constants: Mapping) -> Any:
    if isinstance(current, Window):
        pulled = pull_window(graph, eqn, current, constants)
        if pulled is not None:
            return pulled
    pulled, offset = pull_back(graph, eqn, whole(current, eqn.outvar).rows, constants)
    return {variable: Whole(rows) for variable, rows in pulled.items()}, offset


def _sized(functional: Functional, variable: Variable) -> Functional:
    small = isinstance(functional, Whole) or is_small(functional, variable)
    return functional if small else whole(functional, variable)


def _has_window_rule(eqn: Equation, lines: Lines) -> bool:
    if is_maximum(eqn) or is_smooth(eqn):
        return True
    return lines.floor is None and pool_settings(eqn) is not None


def _pull_lines_window(eqn: Equation, window: Window, lines: Lines, own: Array | None) -> Pulled:
    rows = window.rows
    if is_smooth(eqn):
        own_lines = _by_row(lines, lambda array: crop(array[0], window))
        spread, offset, used = _pull_smooth(eqn, rows, own_lines, own)
        return {eqn.invars[0]: Window(spread, window.corner)}, offset, used
    low, high = (
        jnp.stack([crop(w[0], window) for w in weights], 1)
        for weights in (lines.lower_weights, lines.upper_weights)
    )
    low = low if own is None else admissible(eqn, own, low, high)
    spread = _choose(rows[:, None], low, high)
    constants = crop(lines.lower_constant[0], window), crop(lines.upper_constant[0], window)
    offset = flat_sum(_choose(rows, *constants))
    if lines.floor is not None:
        within = lines._replace(floor=crop(lines.floor[0], window))
        offset += flat_sum(jnp.maximum(rows, 0) * floor_constant(within, low, 1))
    source = eqn.invars[0]
    if is_maximum(eqn):
        return {source: Window(spread[:, 0], window.corner)}, offset, low if own is None else own
    valid = {**eqn.params, "padding": ((0, 0),) * 4}

    def local(patch: Array) -> Array:
        return patches(patch[None], valid)[:, 0]

    pulled = slide(Window(spread, window.corner), source, local, pool_settings(eqn))
    return {source: pulled}, offset, low if own is None else own
