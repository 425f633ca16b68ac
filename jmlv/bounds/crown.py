"""Full backward CROWN: every unstable neuron is bounded by a backward pass of its own.

Our own implementation, on the normalised graph. The intervals of stable neurons come from interval
arithmetic, which is enough; only the others are pulled back to the input, as windows where the
network is convolutional (:mod:`jmlv.bounds.functionals`), in chunks of static size.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable, Mapping
from functools import partial, reduce
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jmlv.bounds.backward import lower_bound
from jmlv.bounds.first_ball import has_closed_form, within_ball
from jmlv.bounds.functionals import Functional, Whole, Window, one_hot
from jmlv.bounds.interval import interval_step
from jmlv.bounds.last_layers import rows_from_intervals
from jmlv.bounds.lines import Planes, lines_of, undecided
from jmlv.bounds.loop import masked_map
from jmlv.bounds.method import BoundMethod, Interval, with_nan
from jmlv.bounds.sizes import Size, exact, guarded_sources, outward, size_through
from jmlv.compilation import one_off
from jmlv.graph import Equation, Graph, Variable
from jmlv.graph.fuse import fuse_relu_max_pool
from jmlv.graph.independent import independent
from jmlv.graph.ir import prefix, read
from jmlv.graph.operations import ELEMENTWISE, is_affine, is_smooth, is_softmax
from jmlv.require import require_fields

ROUNDING = 64
"""Two lower bounds closer than so many units in the last place count as equal."""

Relaxed = tuple[dict[Variable, Interval], dict[int, Planes]]
"""Intervals of every variable, and lines by the index of each nonlinear output."""


class Relaxation(BoundMethod):
    """The role of a bound that relaxes every nonlinear equation by a pair of lines.

    It has two stages: intervals of inner neurons, which depend on network and box alone, and rows of
    the scores under these. Programs compiled for one stage serve every property, and whoever else
    needs the intervals.
    """

    @abc.abstractmethod
    def relax(self, graph: Graph, box: Interval) -> Relaxed:
        """Intervals of inner neurons, as tight as the method has them, and the lines around them.

        Args:
            graph: with ReLU and max pool fused.
            box: the input interval, arrays of shape (1, height, width, channel).
        """

    @abc.abstractmethod
    def least(
        self,
        graph: Graph,
        box: Interval,
        relaxed: Relaxed,
        coefficients: Float[Array, "row label"],
        offsets: Float[Array, " row"],
    ) -> Float[Array, " row"]:
        """Lower bounds on ``coefficients @ f(x) + offsets`` with what :meth:`relax` gives.

        Args:
            graph, box: as in :meth:`relax`.
            relaxed: intervals and lines.
            coefficients, offsets: the rows. An upper bound is minus the lower bound of minus a row.
        """

    @property
    @abc.abstractmethod
    def beside(self) -> tuple[Relaxation, ...]:
        """Other bounds that its rows are intersected with, so that they are never looser."""


Stages = list[tuple[Relaxation, Relaxed]]
"""A relaxation and those beside it, each with its intervals and lines."""


def relaxed_stages(method: Relaxation, graph: Graph, box: Interval) -> Stages:
    """The relaxations that :func:`lower_rows` takes the best of, without a derivative.

    Args:
        method: the first of them.
        graph: with ReLU and max pool fused.
        box: arrays of shape (1, height, width, channel).
    """
    stages = method, *method.beside
    fixed = jax.lax.stop_gradient(box)
    return [(stage, jax.lax.stop_gradient(stage.relax(graph, fixed))) for stage in stages]


def lower_rows(
    stages: Stages,
    graph: Graph,
    box: Interval,
    coefficients: Float[Array, "row label"],
    offsets: Float[Array, " row"],
) -> Float[Array, " row"]:
    """The lower ends of a relaxation's bounds on rows, with the relaxation kept as it is.

    The values are those of :meth:`Relaxation.rows`; the gradient is that of the last backward pass
    alone, so that nothing else is differentiated or compiled.

    Args:
        stages: as :func:`relaxed_stages` gives them.
        graph, box: as there.
        coefficients, offsets: the rows.
    """
    found = [stage.least(graph, box, relaxed, coefficients, offsets) for stage, relaxed in stages]
    return reduce(jnp.maximum, found)


@dataclasses.dataclass(frozen=True)
class CROWN(Relaxation):
    """Backward linear relaxation from every unstable neuron to the input, intersected with IBP.

    Source: Zhang et al., NeurIPS 2018; lower slope of an unstable ReLU adaptive (1 if ``u > -l``
    else 0), max pools by the two lines of :mod:`jmlv.bounds.lines`.

    Attributes:
        chunk: how many unstable neurons are pulled back at a time; memory grows with it.
        frozen: when differentiating, take the lines around every nonlinear equation as constant.
            The gradient of a row is then that of the pass that bounds it: the last backward pass,
            or the intervals of the last layers where these are as tight. Cheaper; values do not
            change.
    """

    chunk: int = 64
    frozen: bool = False

    def __post_init__(self) -> None:
        require_fields(self)
        if self.chunk < 1:
            raise ValueError(f"chunk: must be at least 1, got {self.chunk}.")

    @property
    def name(self) -> str:
        return "CROWN"

    def rows(self, graph, lower, upper, coefficients, offsets) -> Interval:
        return self.rows_within(graph, lower, upper, coefficients, offsets, {})

    def rows_within(
        self, graph, lower, upper, coefficients, offsets, known: Mapping[Variable, Interval]
    ) -> Interval:
        """As :meth:`rows`, with what is known of inner neurons on a box that holds this one.

        Args:
            known: intervals of some of the :func:`sources` of the fused graph.

        Raises:
            ValueError: an interval is of another variable, or of another shape.
        """
        graph = fuse_relu_max_pool(graph)
        box = Interval(lower[None], upper[None])
        _check_known(graph, known)
        relaxed = relax(graph, box, self.chunk, known=known, frozen=self.frozen)
        low = self.least(graph, box, relaxed, coefficients, offsets)
        return Interval(low, -self.least(graph, box, relaxed, -coefficients, -offsets))

    def least(self, graph, box, relaxed, coefficients, offsets):
        intervals, lines = relaxed
        coefficients = coefficients.astype(graph.dtype)
        low = lower_bound(graph, Whole(coefficients[:, None, :]), lines, *box) + offsets
        within = rows_from_intervals(graph, intervals.get, coefficients, offsets)
        return _attained(low, within.lower)

    @property
    def beside(self) -> tuple[Relaxation, ...]:
        return ()

    def relax(self, graph, box):
        return relax(graph, box, self.chunk)


def preactivation_bounds(
    graph: Graph,
    lower: Float[Array, "*image"],
    upper: Float[Array, "*image"],
    method: Relaxation | None = None,
) -> dict[Variable, Interval]:
    """CROWN intervals for the input of every nonlinear equation of a graph, over a box.

    Args:
        graph: as :func:`jmlv.graph.fuse.fuse_relu_max_pool` returns it, in the precision wanted.
        lower, upper: the box, one image.
        method: ``CROWN()``, the default, or ``AlphaCROWN()``.

    Returns:
        For the input variable of each ReLU and max pool: an interval of its shape (1, ...).
    """
    method = CROWN() if method is None else method
    program = _jitted_intervals if isinstance(method, CROWN) else _ascended_intervals
    return program(method, graph, lower, upper)


def _source_intervals(
    method: Relaxation, graph: Graph, lower: Array, upper: Array
) -> dict[Variable, Interval]:
    intervals, _ = method.relax(graph, Interval(lower[None], upper[None]))
    return {v: intervals[v] for v in sources(graph)}


_jitted_intervals = one_off(0)(_source_intervals)
_ascended_intervals = one_off(0, loops=True)(_source_intervals)


def sources(graph: Graph) -> list[Variable]:
    """The variables that nonlinear equations read, in the order of the graph."""
    nonlinear = (eqn for eqn in graph.eqns if not is_affine(graph, eqn))
    return list(dict.fromkeys(v for eqn in nonlinear for v in graph.inputs_of(eqn)))


LowerBound = Callable[[Graph, Functional, Mapping[int, Planes], Interval], Float[Array, " row"]]


def plain(
    graph: Graph, functional: Functional, lines: Mapping[int, Planes], box: Interval
) -> Float[Array, " row"]:
    """CROWN's own lower bound, with the lines as they are."""
    return lower_bound(graph, functional, lines, *box)


def relax(
    graph: Graph,
    box: Interval,
    chunk: int,
    least: LowerBound = plain,
    known: Mapping[Variable, Interval] = MappingProxyType({}),
    frozen: bool = False,
) -> Relaxed:
    """Intervals of every variable, and the lines around every nonlinear equation, in one sweep.

    Args:
        graph: with ReLU and max pool fused.
        box: the input interval, arrays of shape (1, height, width, channel).
        chunk: as in :class:`CROWN`.
        least: bounds functionals of an inner variable from below; hashable.
        known: intervals that hold on the box, of variables that nonlinear equations read.
        frozen: as in :class:`CROWN`.

    Returns:
        Intervals by variable, and lines by the index of the nonlinear equation's output.
    """
    settled = _exact_intervals(graph) | _bent(graph)
    readers = _readers(graph)

    def tightened(source: Variable, interval: Interval, lines: Mapping[int, Planes]) -> Interval:
        if source in known:
            interval = _intersection(interval, known[source])
        if source in settled:
            return interval
        for bound in _passes(readers[source], least):
            wanted = reduce(
                jnp.logical_or, (undecided(graph, e, interval) for e in readers[source])
            )
            interval = _tighten(graph, source, interval, wanted, lines, box, chunk, bound)
        return interval

    return _walk(graph, box, tightened, frozen)


def _passes(readers: list[Equation], least: LowerBound) -> tuple[LowerBound, ...]:
    """What bounds a variable, one after the other: most of what interval arithmetic leaves undecided of
    maxima and max pools CROWN's own pass decides, so that a dearer one has less to do."""
    if all(is_smooth(eqn) for eqn in readers):
        return (least,)
    return tuple(dict.fromkeys((plain, least)))


def relaxed_within(graph: Graph, box: Interval, known: Mapping[Variable, Interval]) -> Relaxed:
    """As :func:`relax`, with the intervals of all :func:`sources` known: nothing is pulled back.

    Raises:
        ValueError: there is none for one of them.
    """
    missing = [v for v in sources(graph) if v not in known]
    if missing:
        raise ValueError(f"known: expected an interval of every source, got none for {missing}.")

    def given(source: Variable, interval: Interval, _: Mapping[int, Planes]) -> Interval:
        return _intersection(interval, known[source])

    return _walk(graph, box, given)


def _walk(
    graph: Graph,
    box: Interval,
    better: Callable[[Variable, Interval, Mapping[int, Planes]], Interval],
    frozen: bool = False,
) -> Relaxed:
    """Interval arithmetic, in which what nonlinear equations read is known better."""
    values: dict[Variable, Any] = graph.constants() | {graph.input: box}
    lines: dict[int, Planes] = {}
    improved: set[Variable] = set()
    unmixed = independent(graph)
    guarded, behind = guarded_sources(graph)
    sizes = {graph.input: partial(exact, box)}
    for eqn in graph.eqns:
        if not is_affine(graph, eqn):
            inputs = graph.inputs_of(eqn)
            for source in inputs:
                if source not in improved:
                    known = _without_overflow(better(source, values[source], lines))
                    values[source] = outward(known, sizes[source]()) if source in guarded else known
                    improved.add(source)
            around = lines_of(graph, eqn, [values[v] for v in inputs])
            lines[eqn.outvar.index] = jax.lax.stop_gradient(around) if frozen else around
        operands = [read(values, v) for v in eqn.invars]
        values[eqn.outvar] = interval_step(eqn, operands)
        if has_closed_form(graph, eqn, unmixed):
            around = within_ball(graph, eqn, box)
            values[eqn.outvar] = _intersection(values[eqn.outvar], around)
        if eqn.outvar in behind:
            own, made = [sizes.get(v) for v in eqn.invars], values[eqn.outvar]
            size = size_through(eqn.primitive, eqn.params, operands, own, made)
            sizes[eqn.outvar] = partial(Size, *size)
    return {v: i for v, i in values.items() if isinstance(i, Interval)}, lines


def _without_overflow(interval: Interval) -> Interval:
    """A lower end of plus infinity, or an upper one of minus infinity, overflowed: it says nothing."""
    low, high = interval
    return Interval(
        jnp.where(low == jnp.inf, -jnp.inf, low), jnp.where(high == -jnp.inf, jnp.inf, high)
    )


def _attained(lower: Float[Array, " row"], within: Float[Array, " row"]) -> Float[Array, " row"]:
    """The larger of two lower bounds; the second where they are equal up to rounding.

    Where a max pool's upper line is flat the backward pass ties with the intervals and, its lines
    frozen, has no gradient.
    """
    slack = ROUNDING * jnp.finfo(lower.dtype).eps * (1 + jnp.abs(lower))
    return jnp.where((lower <= within + slack) | jnp.isnan(within), within, lower)


def _check_known(graph: Graph, known: Mapping[Variable, Interval]) -> None:
    read = sources(graph)
    for variable, interval in known.items():
        shapes = {side.shape for side in interval}
        if variable not in read or shapes != {variable.shape}:
            raise ValueError(
                f"known: expected intervals of {read}, got {variable}, shapes {shapes}."
            )


def _intersection(a: Interval, b: Interval) -> Interval:
    both = Interval(jnp.maximum(a.lower, b.lower), jnp.minimum(a.upper, b.upper))
    return with_nan(both, *a, *b)


def _tighten(
    graph: Graph,
    source: Variable,
    interval: Interval,
    wanted: Bool[Array, "batch ..."],
    lines: Mapping[int, Planes],
    box: Interval,
    chunk: int,
    least: LowerBound,
) -> Interval:
    """Intersects a variable's interval with a backward pass for each wanted entry."""
    part = prefix(graph, source)
    needed = {
        eqn.outvar.index: lines[eqn.outvar.index] for eqn in part.eqns if not is_affine(part, eqn)
    }
    function = partial(_bound_entries, part.structure, least)
    size = min(chunk, source.size)
    operands = part.consts, part.inside, needed, box
    found: Interval = masked_map(function, size, wanted.reshape(-1), operands)
    return _intersection(interval, Interval(*(side.reshape(source.shape) for side in found)))


def _bound_entries(structure: Any, least: LowerBound, operands: Any, indices: Array) -> Interval:
    """Intervals of single entries of the structure's output, by their flat index."""
    consts, inside, lines, box = operands
    graph = Graph(structure, consts, inside)
    entries = one_hot(graph.output, indices)
    low, high = jnp.split(least(graph, with_negatives(entries), lines, box), 2)
    return Interval(low, -high)


def with_negatives(functional: Functional) -> Functional:
    """The functionals, then minus each of them: lower bounds of both are lower and upper bounds."""
    rows = jnp.concatenate([functional.rows, -functional.rows])
    if isinstance(functional, Window):
        return Window(rows, jnp.concatenate([functional.corner] * 2))
    return Whole(rows)


def _readers(graph: Graph) -> dict[Variable, list[Equation]]:
    """The nonlinear equations that read each of their operands."""
    readers: dict[Variable, list[Equation]] = {}
    for eqn in graph.eqns:
        if not is_affine(graph, eqn):
            for variable in dict.fromkeys(graph.inputs_of(eqn)):
                readers.setdefault(variable, []).append(eqn)
    return readers


def _bent(graph: Graph) -> set[Variable]:
    """What smooth functions and softmax make, moved or scaled at most.

    A backward pass through their lines hardly knows it better than its range over what they read.
    """
    found: set[Variable] = set()
    for eqn in graph.eqns:
        inputs = graph.inputs_of(eqn)
        moved = is_affine(graph, eqn) and eqn.primitive in ELEMENTWISE and len(inputs) == 1
        if is_smooth(eqn) or is_softmax(eqn) or (moved and inputs[0] in found):
            found.add(eqn.outvar)
    return found


def _exact_intervals(graph: Graph) -> set[Variable]:
    """Variables whose interval bounds are attained: no backward pass can tighten them.

    Elementwise operations keep attained bounds; one operation that mixes entries (convolution,
    dense, average pool) keeps them too if its operand's entries vary independently, which they do
    in a box. In a ball they do not: there the bounds of :func:`within_ball` are nearly attained.
    """
    unmixed = independent(graph)
    exact = set(unmixed)
    for eqn in graph.eqns:
        inputs = graph.inputs_of(eqn)
        if not is_affine(graph, eqn) or len(inputs) != 1:
            continue
        if eqn.primitive in ELEMENTWISE:
            known = inputs[0] in exact
        else:
            known = inputs[0] in unmixed and (
                graph.inside is None or has_closed_form(graph, eqn, unmixed)
            )
        if known:
            exact.add(eqn.outvar)
    return exact
