"""Bounds on several rows at once: what pairwise bounds on the margin give away."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from jmlv.bounds.alpha_crown import AlphaCROWN, attained, bound_with, climb
from jmlv.bounds.backward import Weights
from jmlv.bounds.first_layer import first_layers
from jmlv.bounds.functionals import Whole
from jmlv.bounds.method import BoundMethod, Interval
from jmlv.clauses import open_clauses
from jmlv.graph import Graph
from jmlv.graph.fuse import fuse_relu_max_pool
from jmlv.properties import Property
from jmlv.require import require_fields


@dataclasses.dataclass(frozen=True)
class JointBounds(BoundMethod):
    """Alpha-CROWN on mixtures of rows, the mixture optimised together with the lines.

    A margin is the least over clauses (:mod:`jmlv.clauses`) of the largest row in each. Label ``t``
    leaves the top two, say, iff some two labels ``a`` and ``b`` score at least as high at one input;
    pairwise bounds ask for each whether it can, joint bounds whether both can at once::

        min over x of max_i r_i(x)  >=  max over convex lambda of  min over x of sum_i lambda_i r_i(x)

    with a linear bound on the right-hand side for each clause of rows ``r_i``. Never below what the
    bounds of single rows give together. For an affine network and one clause the two sides are equal.

    Attributes:
        method: bounds the single rows, and gives the lines and the inner intervals.
        steps: gradient steps on mixture and lines of each clause.
        learning_rate: Adam's first step; it falls to a tenth along a cosine.
        limit: of clauses. ``InTopK(t, k)`` has one for any k of the other labels, and memory grows
            with their number.

    >>> import jax.numpy as jnp, jmlv
    >>> f = lambda x: jnp.stack([0 * x, x - 0.5, 0.4 - x], -1).reshape(-1, 3)
    >>> box = jmlv.Box.between(jnp.zeros((1, 1, 1)), jnp.ones((1, 1, 1)))
    >>> for method in (jmlv.AlphaCROWN(), JointBounds()):
    ...     print(f"{float(jmlv.bound(f, box, jmlv.InTopK(0, k=2), method).lower):.2f}")
    -0.40
    0.05
    """

    method: AlphaCROWN = AlphaCROWN()
    steps: int = 20
    learning_rate: float = 0.2
    limit: int = 256

    def __post_init__(self) -> None:
        require_fields(self)
        if self.steps < 0 or self.limit < 1:
            raise ValueError("steps must not be negative and limit at least 1.")
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate: must be positive, got {self.learning_rate}.")

    @property
    def name(self) -> str:
        return "joint alpha-CROWN"

    def rows(self, graph, lower, upper, coefficients, offsets) -> Interval:
        return self.method.rows(graph, lower, upper, coefficients, offsets)

    def masks(self, property: Property, label_count: int) -> Float[np.ndarray, "clause row"]:
        """Ones for the rows of each clause of a property, else zeros.

        Raises:
            ValueError: it has more clauses than ``limit``.
        """
        tree = property.tree(label_count)
        clauses = open_clauses(tree, frozenset(), self.limit)
        if clauses is None:
            raise ValueError(
                f"property: it has more than limit={self.limit} clauses; raise the limit, or use "
                "AlphaCROWN(), which bounds single rows."
            )
        masks = np.zeros((len(clauses), len(property.rows(label_count)[1])))
        for mask, clause in zip(masks, clauses):
            mask[sorted(clause)] = 1
        return masks

    def clauses(
        self,
        graph: Graph,
        lower: Float[Array, "*image"],
        upper: Float[Array, "*image"],
        coefficients: Float[Array, "row label"],
        offsets: Float[Array, " row"],
        masks: Float[Array, "clause row"],
    ) -> tuple[Interval, Float[Array, " clause"]]:
        """Bounds on the rows over a box, and a lower bound on each clause's largest row.

        Arguments as in :meth:`rows`, of which this has all properties, and :meth:`masks`.
        """
        rows = self.rows(graph, lower, upper, coefficients, offsets)
        graph = fuse_relu_max_pool(graph)
        box = Interval(lower[None], upper[None])
        _, lines = self.method.relax(graph, box)
        planes = first_layers(graph, box) if self.method.planes else {}
        masks = masks.astype(graph.dtype)
        task = _Task(graph, lines, box, planes, coefficients, offsets, masks)
        start = _Choice(None, task.masks / task.masks.sum(-1, keepdims=True))
        fixed = partial(_bound, lax.stop_gradient(task))
        found = climb(fixed, fixed(start)[1], self.steps, self.learning_rate)
        joint = attained(_bound, (task,), *lax.stop_gradient(found))
        single = jnp.where(masks > 0, rows.lower, -jnp.inf).max(-1)
        return rows, jnp.maximum(joint, single)


class _Task(NamedTuple):
    """What a bound on clauses is computed from."""

    graph: Graph
    lines: Any
    box: Interval
    planes: Any
    coefficients: Float[Array, "row label"]
    offsets: Float[Array, " row"]
    masks: Float[Array, "clause row"]


class _Choice(NamedTuple):
    """What each clause may choose freely: lines, and shares of its rows."""

    weights: Weights | None
    mixture: Float[Array, "clause row"]


def _bound(task: _Task, choice: _Choice) -> tuple[Float[Array, " clause"], _Choice]:
    """A lower bound on each clause's largest row, and the choice made valid.

    Whatever the choice is: shares below zero count as none, and without any all rows have equal ones.
    """
    shares = jnp.maximum(choice.mixture, 0) * task.masks
    total = shares.sum(-1, keepdims=True)
    equal = task.masks / task.masks.sum(-1, keepdims=True)
    mixture = jnp.where(total > 0, shares / jnp.where(total > 0, total, 1), equal)
    rows = Whole((mixture @ task.coefficients)[:, None, :].astype(task.graph.dtype))
    found, weights = bound_with(task.graph, rows, task.lines, task.box, task.planes, choice.weights)
    return found + mixture @ task.offsets, _Choice(weights, mixture)
