"""Lower weights of every inner neuron's own: a certificate's intervals as tight as alpha-CROWN's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import lax
from jaxtyping import Array, Float, UInt8

from jmlv.bounds import Interval
from jmlv.bounds.alpha_crown import bound_with, climb
from jmlv.bounds.backward import Weights
from jmlv.bounds.functionals import Whole
from jmlv.bounds.lines import Planes, lines_of, undecided
from jmlv.compilation import one_off
from jmlv.graph import Equation, Graph
from jmlv.graph.ir import prefix
from jmlv.graph.operations import is_affine
from jmlv.numerics import certificate_precision, search_precision
from jmlv.oracles.branching.subdomains import Task
from jmlv.oracles.certify.network import windows
from jmlv.oracles.deadline import Deadline
from jmlv_check.linear import STEPS
from jmlv_check.network import Network

CHUNK = 64
"""Neurons bounded at a time, from below and above."""

LARGEST = 1 << 27
"""Bytes of weights that a certificate holds of one layer's neurons, at most; it is compressed."""


class Inner(NamedTuple):
    """Tighter intervals of what maxima read, and what makes the checker find them too.

    Attributes:
        intervals: by the variable's index, in float64.
        arrays: of a certificate: ``inner.K.at``, entries that maximum ``K`` reads, and
            ``inner.K.M``, the lower weights of maximum ``M`` for each of these from below, then above.
    """

    intervals: dict[int, Interval]
    arrays: dict[str, np.ndarray]


def tightened(
    exact: Task,
    fast: Task,
    maxima: Sequence[tuple[int, Equation]],
    network: Network,
    steps: int,
    rate: float,
    deadline: Deadline,
) -> Inner:
    """Intervals with weights that gradient steps find for every undecided neuron.

    Args:
        exact: graph, box and CROWN's intervals in float64.
        fast: the same in float32.
        maxima: the network's maxima by number.
        network: in the checker's form.
        steps, rate: of the ascent.
        deadline: layers that it leaves no time for keep their intervals.
    """
    numbers = {eqn.outvar.index: number for number, eqn in maxima}
    known, arrays = dict(exact.intervals), {}
    for number, eqn in maxima:
        source = eqn.invars[0]
        parts = up_to(exact.graph, source.index), up_to(fast.graph, source.index)
        below = [e for e in parts[0].eqns if not is_affine(parts[0], e)]
        with certificate_precision():
            wanted = np.flatnonzero(undecided(exact.graph, eqn, known[source.index]))
        size = sum(2 * len(wanted) * known[e.invars[0].index].lower.size for e in below)
        if not below or not len(wanted) or size > LARGEST or deadline.passed:
            continue
        lines = _lines(exact.graph, below, known)
        ends, weights = _ascended(parts, wanted, lines, (exact.box, fast.box), steps, rate)
        known[source.index] = _narrowed(known[source.index], wanted, ends)
        entries, window = np.empty(source.size, np.int64), windows(eqn)
        entries[window[window >= 0]] = network.nodes[number - 1].source[window >= 0]
        arrays[f"inner.{number}.at"] = entries[wanted]
        for e in below:
            own = weights[e.outvar.index] * (windows(e) >= 0)
            arrays[f"inner.{number}.{numbers[e.outvar.index]}"] = own
    return Inner(known, arrays)


def up_to(graph: Graph, index: int) -> Graph:
    """What computes a variable, which has the same number in both precisions."""
    return prefix(
        graph, {v.index: v for v in (graph.input, *(e.outvar for e in graph.eqns))}[index]
    )


def _lines(
    graph: Graph, eqns: Sequence[Equation], known: Mapping[int, Interval]
) -> dict[int, Planes]:
    with certificate_precision():
        return {
            e.outvar.index: lines_of(graph, e, [known[v.index] for v in graph.inputs_of(e)])
            for e in eqns
        }


def _ascended(
    parts: tuple[Graph, Graph],
    wanted: np.ndarray,
    lines: dict[int, Planes],
    boxes: tuple[Interval, Interval],
    steps: int,
    rate: float,
) -> tuple[np.ndarray, dict[int, np.ndarray]]:
    """Ends of the wanted entries, (2, entry), and 128ths (2 * entry, unit, element) by maximum."""
    shape, size = parts[0].output.shape, parts[0].output.size
    narrow = jax.tree.map(lambda v: np.asarray(v, np.float32), lines)
    ends, found = np.empty((2, len(wanted))), []
    for start in range(0, len(wanted), CHUNK):
        at = np.resize(wanted[start : start + CHUNK], CHUNK)
        rows = np.zeros((2 * CHUNK, size), np.float32)
        rows[np.arange(CHUNK), at], rows[CHUNK + np.arange(CHUNK), at] = 1, -1
        rows = rows.reshape(-1, *shape)
        with search_precision():
            weights = _climbed(steps, rate, parts[1], rows, narrow, boxes[1])
        weights = jax.tree.map(rounded, weights)
        with certificate_precision():
            bounds = np.asarray(_bounded(parts[0], rows.astype(float), lines, boxes[0], weights))
        count = min(CHUNK, len(wanted) - start)
        ends[0, start : start + count], ends[1, start : start + count] = (
            bounds[:count], -bounds[CHUNK : CHUNK + count],
        )  # fmt: skip
        found.append([{k: written(w[side : side + count]) for k, w in weights.items()}
                      for side in (0, CHUNK)])  # fmt: skip
    both = [[chunk[side] for chunk in found] for side in (0, 1)]
    return ends, {k: np.concatenate([c[k] for c in (*both[0], *both[1])]) for k in lines}


def rounded(weights: Float[Array, "row element ..."]) -> Float[np.ndarray, "row element ..."]:
    """Lower weights as they are written: 128ths, not negative, of a sum of at most one."""
    positive = np.maximum(np.asarray(weights), 0)
    free = positive / np.maximum(1, positive.sum(1, keepdims=True))
    return np.floor(np.clip(free, 0, 1) * STEPS) / STEPS


def written(weights: Float[np.ndarray, "row element ..."]) -> UInt8[np.ndarray, "row unit element"]:
    """Rounded weights as a certificate has them."""
    flat = weights.reshape(*weights.shape[:2], -1).transpose(0, 2, 1)
    return np.round(flat * STEPS).astype(np.uint8)


def _narrowed(known: Interval, at: np.ndarray, ends: np.ndarray) -> Interval:
    lower, upper = (np.array(side).reshape(-1) for side in known)
    lower[at], upper[at] = np.fmax(lower[at], ends[0]), np.fmin(upper[at], ends[1])
    shape = known.lower.shape
    return Interval(lower.reshape(shape), np.maximum(lower, upper).reshape(shape))


@one_off(0, 1, loops=True)
def _climbed(
    steps: int, rate: float, graph: Graph, rows: Array, lines: Any, box: Interval
) -> Weights:
    bound = partial(bound_with, graph, Whole(rows), lines, box, {})
    _, start = bound(None)
    return climb(bound, lax.stop_gradient(start), steps, rate)[1]


@one_off()
def _bounded(graph: Graph, rows: Array, lines: Any, box: Interval, weights: Weights) -> Array:
    return bound_with(graph, Whole(rows), lines, box, {}, weights)[0]
