"""What depends on a query's network and box alone, computed once for all questions about them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Array, Float

from jmlv.bounds import CROWN, Interval, Relaxation, preactivation_bounds
from jmlv.bounds.crown import relaxed_within
from jmlv.compilation import one_off
from jmlv.graph import Graph, Variable
from jmlv.graph.fuse import fuse_relu_max_pool
from jmlv.margin_form import MarginForm
from jmlv.numerics import as_float64, certificate_precision
from jmlv.oracles.oracle import Query


def once_per_box(compute: Callable[..., Any]) -> Callable[..., Any]:
    """Keeps the last result for each choice of settings.

    The questions about the labels of one image are all about one box, one after the other.

    Args:
        compute: of a query, whose property it must not read, and hashable settings.

    Returns:
        The same, with ``is_known``, which tells of the same arguments whether their result is kept.
    """
    kept: dict[tuple[Hashable, ...], tuple[_Box, Any]] = {}

    def last_of(query: Query, settings: tuple[Hashable, ...]) -> tuple[_Box, Any] | None:
        last = kept.get(settings)  # read at once: other threads may replace it
        return last if last is not None and last[0].is_of(query) else None

    @functools.wraps(compute)
    def remembering(query: Query, *settings: Hashable) -> Any:
        if (last := last_of(query, settings)) is not None:
            return last[1]
        box = _Box(query.graph64_inside, query.lower.copy(), query.upper.copy())
        result = compute(query, *settings)
        kept[settings] = box, result
        return result

    remembering.is_known = lambda query, *settings: last_of(query, settings) is not None
    return remembering


class _Box(NamedTuple):
    """A network, with its ball if there is one, and copies of a box's ends, which nobody can change."""

    graph: Graph
    lower: np.ndarray
    upper: np.ndarray

    def is_of(self, query: Query) -> bool:
        ends = (self.lower, query.lower), (self.upper, query.upper)
        return self.graph is query.graph64_inside and all(np.array_equal(a, b) for a, b in ends)


@once_per_box
def inner_intervals(query: Query, relaxation: Relaxation) -> dict[Variable, Interval]:
    """Intervals, in float64, of all that nonlinear equations of the fused network read."""
    lower, upper = as_float64(query.lower), as_float64(query.upper)
    with certificate_precision():
        graph = fuse_relu_max_pool(query.graph64_inside)
        return preactivation_bounds(graph, lower, upper, relaxation)


def least_margin(query: Query, relaxation: Relaxation) -> float:
    """A lower bound on the property's margin, in float64, by two stages that others share.

    The inner intervals serve all properties, and the program for the rows all intervals.
    """
    form = query.property.form(query.label_count)
    return margin_of(form, least_rows(query, relaxation, form))


def least_rows(query: Query, relaxation: Relaxation, form: MarginForm) -> Float[np.ndarray, " row"]:
    """Lower bounds, in float64, on the rows of a margin over the query's box, whatever its property."""
    found = [
        least_within(query, method, inner_intervals(query, method), form.coefficients, form.offsets)
        for method in (relaxation, *relaxation.beside)
    ]
    return functools.reduce(np.maximum, found)


def margin_of(form: MarginForm, rows: Float[np.ndarray, " row"]) -> float:
    """The margin from lower bounds on the form's rows; plus infinity, an overflow, proves nothing."""
    return float(form.least(rows))


def least_within(
    query: Query,
    relaxation: Relaxation,
    intervals: Mapping[Variable, Interval],
    coefficients: Float[np.ndarray, "row label"],
    offsets: Float[np.ndarray, " row"],
) -> Float[np.ndarray, " row"]:
    """Lower bounds, in float64, on rows of the scores under given intervals of inner values.

    Args:
        query: the network and the box.
        relaxation: bounds the rows; the lines are those of the intervals.
        intervals: as :func:`inner_intervals` gives them, by any relaxation.
        coefficients, offsets: the rows.
    """
    box = as_float64(query.lower), as_float64(query.upper)
    with certificate_precision():
        graph = fuse_relu_max_pool(query.graph64_inside)
        program = _swept if isinstance(relaxation, CROWN) else _ascended
        return np.asarray(program(relaxation, graph, *box, intervals, coefficients, offsets))


def _least(
    relaxation: Relaxation, graph: Graph, lower: Array, upper: Array,
    intervals: Mapping[Variable, Interval], coefficients: Array, offsets: Array,
) -> Float[Array, " row"]:  # fmt: skip
    box = Interval(lower[None], upper[None])
    relaxed = relaxed_within(graph, box, intervals)
    return relaxation.least(graph, box, relaxed, coefficients, offsets)


_swept, _ascended = one_off(0)(_least), one_off(0, loops=True)(_least)
