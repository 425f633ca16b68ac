"""Alpha-CROWN: CROWN whose lower lines are optimised, for the scores and for every inner neuron."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Bool, Float

from jmlv.bounds.backward import Weights, sweep
from jmlv.bounds.crown import CROWN, Relaxation, relax
from jmlv.bounds.first_layer import FirstLayer, first_layers
from jmlv.bounds.functionals import Functional, Whole
from jmlv.bounds.lines import Planes
from jmlv.bounds.method import Interval, with_nan
from jmlv.graph import Graph
from jmlv.graph.fuse import fuse_relu_max_pool
from jmlv.require import require_fields


@dataclasses.dataclass(frozen=True)
class AlphaCROWN(Relaxation):
    """CROWN with lower slopes chosen by gradient ascent on the bound itself.

    Any slope in [0, 1] bounds an unstable ReLU from below, and any sub-convex combination of a
    window's elements bounds ``max(0, max pool)``; CROWN takes one by a rule, alpha-CROWN the best
    that projected Adam finds, for every row of its own. With ``intermediate="per-neuron"`` each
    unstable neuron gets slopes of its own for its own interval too, which is where most of the
    gain is on convolutional networks; ReLUs of the first layer are then bounded by planes from the
    convex hull over their pixels. Intersected with CROWN (tighter inner intervals alone may
    move a rule's choice of lines for the worse), so never looser.

    Source: Xu et al., *Fast and Complete: Enabling Complete Verification with Rapid and Massively
    Parallel Incomplete Verifiers*, ICLR 2021, arXiv:2011.13824.

    Attributes:
        steps: gradient steps on the slopes of the rows.
        learning_rate: Adam's first step; it falls to a tenth along a cosine.
        intermediate: ``"per-neuron"``, or ``"shared"``: inner intervals as CROWN has them, by one
            relaxation shared by all neurons.
        intermediate_steps: gradient steps on the slopes of each inner neuron.
        chunk: as in :class:`jmlv.bounds.CROWN`.
        planes: bound the ReLUs of the first layer from above by planes over their pixels, each row
            by its own (:mod:`jmlv.bounds.first_layer`), where CROWN takes a chord.

    >>> import jax, jax.numpy as jnp, jmlv
    >>> a, b = jnp.array([[1.0, 1.0], [1.0, -1.0]]), jnp.array([[1.0], [-1.0]])
    >>> f = lambda x: jax.nn.relu(jax.nn.relu(x.reshape(-1, 2) - 0.5) @ a) @ b
    >>> box = jmlv.Box.between(jnp.zeros((2, 1, 1)), jnp.ones((2, 1, 1)))
    >>> for method in (jmlv.CROWN(), jmlv.AlphaCROWN()):
    ...     print(f"{float(jmlv.bound(f, box, jmlv.AboveThreshold(0), method).lower):.2f}")
    -0.25
    -0.25
    """

    steps: int = 20
    learning_rate: float = 0.5
    intermediate: Literal["per-neuron", "shared"] = "per-neuron"
    intermediate_steps: int = 10
    chunk: int = 64
    planes: bool = True

    def __post_init__(self) -> None:
        require_fields(self)
        if self.intermediate not in ("per-neuron", "shared"):
            raise ValueError(
                f"intermediate: expected 'per-neuron' or 'shared', got {self.intermediate!r}."
            )
        for field in ("steps", "intermediate_steps"):
            if getattr(self, field) < 0:
                raise ValueError(f"{field}: must not be negative, got {getattr(self, field)}.")
        if not self.learning_rate > 0 or self.chunk < 1:
            raise ValueError("learning_rate must be positive and chunk at least 1.")

    @property
    def name(self) -> str:
        return "alpha-CROWN"

    def rows(self, graph, lower, upper, coefficients, offsets) -> Interval:
        fused = fuse_relu_max_pool(graph)
        box = Interval(lower[None], upper[None])
        both = (jnp.concatenate([rows, -rows]) for rows in (coefficients, offsets))
        low, high = jnp.split(self.least(fused, box, self.relax(fused, box), *both), 2)
        (crown,) = (m.rows(graph, lower, upper, coefficients, offsets) for m in self.beside)
        both = Interval(jnp.maximum(low, crown.lower), jnp.minimum(-high, crown.upper))
        return with_nan(both, low, high, *crown)

    def least(self, graph, box, relaxed, coefficients, offsets):
        ascent = SlopeAscent(self.steps, self.learning_rate, self.planes)
        rows = Whole(coefficients[:, None, :].astype(graph.dtype))
        return ascent.lower_bound(graph, rows, relaxed[1], box) + offsets

    @property
    def beside(self) -> tuple[Relaxation, ...]:
        return (CROWN(self.chunk),)

    def relax(self, graph, box):
        own = self.intermediate == "per-neuron"
        steps = self.intermediate_steps if own else 0
        ascent = SlopeAscent(steps, self.learning_rate, self.planes)
        return relax(graph, box, self.chunk, ascent.lower_bound)


TIGHT = AlphaCROWN(intermediate_steps=20)
"""Where CROWN ends: growing and the MILP on large networks rest on it."""


@dataclasses.dataclass(frozen=True)
class SlopeAscent:
    """Projected Adam on weights, every row for itself; hashable, so that loops compile once."""

    steps: int
    learning_rate: float
    planes: bool

    def lower_bound(
        self,
        graph: Graph,
        functional: Functional,
        lines: Mapping[int, Planes],
        box: Interval,
    ) -> Float[Array, " row"]:
        """The best bound of all steps for each row; differentiable with the weights held fixed."""
        planes = first_layers(graph, box) if self.planes else {}
        task = graph, functional, dict(lines), box, planes
        first, weights = bound_with(*task, None)
        if self.steps == 0 or not weights:
            return first
        fixed = partial(bound_with, *lax.stop_gradient(task))
        weights = lax.stop_gradient(weights)
        return attained(bound_with, task, *climb(fixed, weights, self.steps, self.learning_rate))


def climb(
    bound: Callable[[Any], tuple[Float[Array, " row"], Any]],
    start: Any,
    steps: int,
    learning_rate: float,
) -> tuple[Float[Array, " row"], Any]:
    """The best bound that projected Adam finds, every row for itself, and the choice that gives it.

    One loop over one body, in which each turn bounds and differentiates: whatever is evaluated
    before or after it once more would be compiled once more.

    Args:
        bound: lower bounds with a choice, and the choice made valid, from which the next step goes;
            a choice is a pytree of numbers in [0, 1] with a leading axis of rows.
        start: where to begin, made valid.
        steps: how many.
        learning_rate: the first of them; it falls to a tenth along a cosine.
    """
    adam = optax.adam(optax.cosine_decay_schedule(learning_rate, max(steps, 1), alpha=0.1), b2=0.98)

    def loss(choice: Any) -> tuple[Array, tuple[Array, Any]]:
        found, used = bound(choice)
        return -found.sum(), (found, used)

    def step(_: int, state: tuple) -> tuple:
        choice, memory, best, kept = state
        slopes, (found, used) = jax.grad(loss, has_aux=True)(choice)
        kept = keep_better(found > best, used, kept)
        moves, memory = adam.update(slopes, memory, used)
        choice = jax.tree.map(lambda c, m: jnp.clip(c + m, 0, 1), used, moves)
        return choice, memory, jnp.maximum(best, found), kept

    leaf = jax.tree.leaves(start)[0]
    nothing = jnp.full(len(leaf), -jnp.inf, leaf.dtype)
    state = start, adam.init(start), nothing, start
    _, _, best, kept = lax.fori_loop(0, steps + 1, step, state)
    return best, kept


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def attained(bound: Callable, task: tuple, best: Float[Array, " row"], choice: Any) -> Array:
    """Bounds that are known already, with the derivative of ``bound(*task, choice)[0]`` in the task.

    Where nothing is differentiated, nothing is computed or compiled.
    """
    return best


@attained.defjvp
def _attained_jvp(bound: Callable, primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    task, best, choice = primals
    _, tangent = jax.jvp(lambda task: bound(*task, choice)[0], (task,), tangents[:1])
    return best, tangent


def bound_with(
    graph: Graph,
    functional: Functional,
    lines: Mapping[int, Planes],
    box: Interval,
    planes: Mapping[int, FirstLayer],
    weights: Weights | None,
) -> tuple[Float[Array, " row"], Weights]:
    """Lower bounds of functionals with the given weights (None: those of the lines), and the weights used."""
    return sweep(graph, functional, lines, *box, weights, planes=planes)


def keep_better(better: Bool[Array, " row"], new: Any, old: Any) -> Any:
    """Two pytrees with a leading axis merged: the new rows where they are better."""
    return jax.tree.map(
        lambda n, o: jnp.where(better.reshape(-1, *(1,) * (n.ndim - 1)), n, o), new, old
    )
