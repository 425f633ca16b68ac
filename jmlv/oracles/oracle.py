"""What an oracle is asked, and what it may answer."""

from __future__ import annotations

# A field is called property, which a checker then takes the decorator for.
# pyright: reportUnboundVariable=false
import abc
import dataclasses
from collections.abc import Mapping
from functools import cached_property
from types import MappingProxyType
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float64

from jmlv.errors import UnsupportedOperation
from jmlv.graph import Classifier, Equation, Graph, as_function, trace
from jmlv.graph.operations import describe, is_piecewise_linear
from jmlv.numerics import as_float64, certificate_precision, inward, outward
from jmlv.oracles.deadline import Deadline
from jmlv.properties import Property
from jmlv.regions import Ball, Region, box_of
from jmlv.require import require_kind


@dataclasses.dataclass(frozen=True, eq=False)
class Query:
    """'Does the property hold everywhere in the box?', with everything traced and checked once.

    Attributes:
        f: the deployed network, run as its user runs it.
        graph: its normalised graph in float32, for searching alone; :attr:`graph64` in float64, with
            the network's own weights, for proofs.
        lower, upper: the box that is proven, in the network's precision: the inputs meant are the
            reals between these numbers. Ends that it cannot hold are rounded outward.
        property: the property.
        inner: the ends of the box that witnesses lie in, where these are others: rounded inward.
        own: the graph of a float64 network with its own weights, which ``graph`` has rounded; None
            for others.
        ball: the region, where it is a ball: the box is then the one around it.
        wide: whether JAX had float64 switched on when ``f`` was read, and so when it is run.
    """

    f: Classifier
    graph: Graph
    lower: np.ndarray
    upper: np.ndarray
    property: Property
    inner: tuple[np.ndarray, np.ndarray] | None = None
    own: Graph | None = None
    wide: bool = False
    ball: Ball | None = None

    @staticmethod
    def of(f: Classifier, region: Region, property: Property, graph: Graph | None = None) -> Query:
        """Traces ``f`` (unless its graph is given) and checks region and property against it.

        Raises:
            UnsupportedOperation: ``f`` has operations without a sound rule.
            TypeError: the region or the property is something else.
            ValueError: the region's or the property's shape does not fit ``f``, or the region is
                empty or not finite.
            SoundnessError: the graph read from ``f`` does not compute what ``f`` does.
        """
        ends = _ends(region)
        require_kind("property", property, Property, "InTopK(label, k)")
        traced = trace(f, ends[0].shape, ends=ends) if graph is None else graph
        if traced.input_shape != ends[0].shape:
            raise ValueError(
                f"region: f takes {traced.input_shape}, the region has {ends[0].shape}."
            )
        lower, upper = outward(*ends, traced.dtype)
        if not (np.isfinite(lower).all() and np.isfinite(upper).all()):
            raise ValueError(f"region: its ends are beyond the range of {traced.dtype}.")
        property.tree(traced.label_count)
        exact = np.array_equal(lower, ends[0]) and np.array_equal(upper, ends[1])
        within = None if exact else inward(*ends, traced.dtype)
        own = traced if traced.dtype == "float64" else None
        search = traced.astype("float32")
        wide = bool(jax.config.jax_enable_x64)
        ball = region if isinstance(region, Ball) else None
        return Query(as_function(f), search, lower, upper, property, within, own, wide, ball)

    def about(self, property: Property) -> Query:
        """The same network and box, another property; nothing is traced or converted again.

        Raises:
            ValueError: the property does not fit the network.
        """
        property.tree(self.label_count)
        other = dataclasses.replace(self, property=property)
        vars(other)["graph64"] = self.graph64
        vars(other)["graph64_inside"] = self.graph64_inside
        return other

    def over(self, region: Region) -> Query:
        """The same network and property over another region; nothing is traced again.

        Raises:
            TypeError, ValueError: the region does not fit the network.
        """
        other = Query.of(self.f, region, self.property, self.network)
        other = dataclasses.replace(other, graph=self.graph, wide=self.wide)
        vars(other)["graph64"] = self.graph64
        return other

    def inside(self, lower: np.ndarray, upper: np.ndarray) -> Query:
        """The same question about a part of the box, given by float64 ends: for proofs alone."""
        part = dataclasses.replace(self, lower=lower, upper=upper, inner=None)
        vars(part)["graph64"] = self.graph64
        return part

    @property
    def network(self) -> Graph:
        """The graph with the network's own weights: what is handed on, and what the network is
        known by. (:attr:`graph` has rounded those of float64.)"""
        return self.graph if self.own is None else self.own

    @cached_property
    def graph64(self) -> Graph:
        if self.own is not None:
            return self.own
        with certificate_precision():
            return self.graph.astype("float64")

    @property
    def graph_inside(self) -> Graph:
        """:attr:`graph`, as :attr:`graph64_inside`."""
        return self.graph if self.ball is None else self.graph.within(self.ball.astype("float32"))

    @cached_property
    def graph64_inside(self) -> Graph:
        """:attr:`graph64`, for inputs in the ball only, where the region is one.

        What is bounded with it holds for this region alone, not for its box.
        """
        if self.ball is None:
            return self.graph64
        with certificate_precision():
            return self.graph64.within(self.ball.astype("float64"))

    @property
    def dtype(self) -> str:
        """The network's precision, ``"float32"`` or ``"float64"``."""
        return self.network.dtype

    @property
    def label_count(self) -> int:
        return self.graph.label_count

    def settle(self, points: np.ndarray) -> np.ndarray:
        """The nearest inputs that may be witnesses: inside the region as it was asked, not only
        inside of the box that is proven. A point on an end as float32 has it is on the end."""
        if self.ball is not None:
            return self._settle_in_ball(points)
        lower, upper = (self.lower, self.upper) if self.inner is None else self.inner
        points = np.asarray(points)
        found = np.clip(points.astype(lower.dtype), lower, upper)
        if lower.dtype == np.float64:
            found = np.where(points == lower.astype(np.float32), lower, found)
            found = np.where(points == upper.astype(np.float32), upper, found)
        return found

    def _settle_in_ball(self, points: np.ndarray) -> np.ndarray:
        """Points in the ball, each entry rounded toward the ball's centre; where that is no number of
        the network's precision and so the ball may be left, the points are float64, or its centre."""
        exact, centre = self.ball.clip(points), self.ball.exact().x
        found = exact.astype(self.dtype)
        away = np.abs(as_float64(found) - centre) > np.abs(exact - centre)
        found = np.where(away, np.nextafter(found, centre.astype(self.dtype)), found)
        single = found.reshape(-1, *centre.shape)
        if all(map(self.ball.contains, single)):
            return found
        inside = [p if self.ball.contains(p) else centre for p in exact.reshape(-1, *centre.shape)]
        return np.stack(inside).reshape(exact.shape)

    @property
    def centre(self) -> np.ndarray:
        """The input in the middle of the region."""
        if self.ball is not None:
            return self.settle(self.ball.exact().x)
        return self.settle((as_float64(self.lower) + as_float64(self.upper)) / 2)

    def margin_exact(self, x: np.ndarray) -> float:
        """The property's margin at ``x``, evaluated in float64."""
        with certificate_precision():
            return float(self.property.margin(self.scores_exact(x)))

    def margin_deployed(self, x: np.ndarray) -> float:
        """The property's margin at ``x``, evaluated by the network as deployed, in its precision."""
        with jax.enable_x64(self.wide), jax.default_matmul_precision("highest"):
            return float(self.property.margin(self.scores_deployed(x)))

    def scores_deployed(self, x: np.ndarray) -> np.ndarray:
        """The scores at ``x`` by the network as deployed, (label,), in its precision."""
        with jax.enable_x64(self.wide), jax.default_matmul_precision("highest"):
            return np.asarray(self.f(jnp.asarray(x, self.dtype)[None])[0])

    def scores_exact(self, x: np.ndarray) -> Float64[np.ndarray, " label"]:
        """The scores at ``x`` in float64."""
        with certificate_precision():
            return np.asarray(_scores(self.graph64, as_float64(x)))


@jax.jit
def _scores(graph: Graph, x: jax.Array) -> jax.Array:
    return graph(x[None])[0]


def label_count(f: Classifier, region: Region) -> int:
    """How many labels a network has: it is traced, and nothing is compiled."""
    if isinstance(f, Graph):
        return f.label_count
    image = jax.ShapeDtypeStruct((1, *box_of(region).shape), jnp.float32)
    return jax.eval_shape(as_function(f), image).shape[-1]


def _ends(region: Region) -> tuple[np.ndarray, np.ndarray]:
    """The box's two ends in float64, which holds them exactly."""
    box = box_of(region)
    lower, upper = as_float64(box.lower), as_float64(box.upper)
    if not (np.isfinite(lower).all() and np.isfinite(upper).all() and (lower <= upper).all()):
        raise ValueError("region: lower must not exceed upper, and both must be finite.")
    return lower, upper


@dataclasses.dataclass(frozen=True, eq=False)
class Evidence:
    """What an oracle found. It claims nothing about robustness: :func:`judge` does.

    Attributes:
        lower: a proven lower bound on the margin over the whole box, in real arithmetic: a float64
            bound, or `SOLVER_TOLERANCE` when a complete solver found 'margin <= SOLVER_TOLERANCE'
            infeasible. ``-inf`` when nothing was proven.
        point: the input with the smallest margin that the oracle knows, or None.
        reason: one sentence, above all on why nothing was found.
        stats: whatever is worth reporting: solver status, nodes, binaries, seconds.
    """

    lower: float = -np.inf
    point: np.ndarray | None = None
    reason: str = ""
    stats: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "stats", MappingProxyType(dict(self.stats)))


class Oracle(abc.ABC):
    """A frozen dataclass that looks for a proof, for a counterexample, or for both.

    Attributes:
        piecewise_linear: whether it can be asked about affine operations and maxima only.
        boxes_only: whether a ball is beyond it.
        punctual: whether its search returns in time even where something has to be compiled; any
            other is asked in a thread that can be left behind (:mod:`jmlv.oracles.aside`).
    """

    piecewise_linear: ClassVar[bool] = False
    boxes_only: ClassVar[bool] = False
    punctual: ClassVar[bool] = False

    @property
    @abc.abstractmethod
    def name(self) -> str:
        """Short name in tables and in ``Verdict.stats``."""

    @abc.abstractmethod
    def search(self, query: Query, deadline: Deadline) -> Evidence:
        """Looks for evidence until the deadline. Errors raise; a time-out returns what is known."""


def refusal(oracle: Oracle, query: Query) -> str | None:
    """Why an oracle cannot be asked about a network at all; None if it can."""
    if oracle.boxes_only and query.ball is not None:
        return f"{oracle.name} knows boxes only, and the region is a ball"
    others = sorted({describe(query.graph, eqn) for eqn in _others(query.graph)})
    if not (oracle.piecewise_linear and others):
        return None
    return (
        f"{oracle.name} knows affine operations, ReLU and max pool only, and the network has "
        f"{', '.join(others)}{_AT_THE_END if _ends_in_order(query.graph) else ''}"
    )


def _others(graph: Graph) -> list[Equation]:
    """What exact oracles have no rule for."""
    return [eqn for eqn in graph.eqns if not is_piecewise_linear(graph, eqn)]


_AT_THE_END = " at the end, which you may leave out: raw scores have the same order"


def _ends_in_order(graph: Graph) -> bool:
    """Whether nothing stands in the way but a function at the end that keeps the order of scores."""
    last = graph.eqns[-1]
    return last.primitive.name in ("sigmoid", "softmax") and _others(graph) == [last]


def require_encodable(oracle: Oracle, query: Query) -> None:
    """Raises before any work where an oracle cannot be asked.

    Raises:
        UnsupportedOperation: with :func:`refusal`.
    """
    reason = refusal(oracle, query)
    if reason is not None:
        raise UnsupportedOperation(
            f"f: {reason}. Ask Bounds(AlphaCROWN()) for a proof, PGD() for a witness, a Cascade, or "
            "InputSplitting() where few inputs move."
        )
