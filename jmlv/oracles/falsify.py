"""Projected gradient descent on the margin: finds counterexamples, proves nothing."""

from __future__ import annotations

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jmlv.compilation import one_off
from jmlv.graph import Graph
from jmlv.margin_form import MarginForm
from jmlv.numerics import search_precision
from jmlv.oracles.oracle import Deadline, Evidence, Oracle, Query
from jmlv.regions import Ball
from jmlv.require import require_fields
from jmlv.shown import at_most


@dataclasses.dataclass(frozen=True)
class PGD(Oracle):
    """Signed gradient descent on the margin inside the box, many starts in one batch.

    ``x <- clip(x - eta_i * radius * sign(grad margin(x)))`` with ``eta_i`` falling linearly from
    ``step`` to ``step / 20``; the first start is the centre, half of the rest are corners, half
    uniform. Source: Madry et al., ICLR 2018, with per-entry radii.

    Attributes:
        restarts: starts per round, all in one batch.
        steps: gradient steps from each start.
        rounds: batches of starts; the search ends early at the first counterexample.
        step: first step, as a share of each entry's radius.
        seed: of the starts; the same seed gives the same answer.
    """

    restarts: int = 16
    steps: int = 40
    rounds: int = 1
    step: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        require_fields(self)
        for field in ("restarts", "steps", "rounds"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field}: must be at least 1, got {getattr(self, field)}.")
        if not self.step > 0:
            raise ValueError(f"step: must be positive, got {self.step}.")

    @property
    def name(self) -> str:
        return "PGD"

    def search(self, query: Query, deadline: Deadline) -> Evidence:
        best, best_margin, done = None, np.inf, 0
        form = query.property.form(query.label_count).astype("float32")
        boxes = tuple(np.asarray(side, np.float32)[None] for side in (query.lower, query.upper))
        for key in jax.random.split(jax.random.key(self.seed), self.rounds):
            if deadline.passed:
                break
            with search_precision():
                points, margins = descend(self, query.graph_inside, form, *boxes, key, deadline)
            done += 1
            if margins[0] < best_margin:
                best, best_margin = points[0], float(margins[0])
            if best_margin <= 0:
                break
        reason = f"{done * self.restarts} starts of PGD reach margin {at_most(best_margin)}"
        return Evidence(point=best, reason=reason, stats={"starts": done * self.restarts})


def descend(
    pgd: PGD,
    graph: Graph,
    form: MarginForm,
    lower: Float[Array, "box *image"],
    upper: Float[Array, "box *image"],
    key: Array,
    deadline: Deadline | None = None,
) -> tuple[Float[np.ndarray, "box *image"], Float[np.ndarray, " box"]]:
    """One round of starts in each of several boxes: their points of least margin, and the margins.

    Where the graph is meant for inputs in a ball, points stay in it, up to rounding.
    The form is one for all boxes, or has a leading axis: one for each. After the deadline no further
    step is taken.

    The steps are a Python loop over one compiled step: XLA runs convolutions inside its own loops
    on one CPU thread, many times slower.
    """
    etas = pgd.step * np.linspace(1.0, 0.05, pgd.steps)
    starts = _starts(pgd, lower, upper, key, graph.inside)
    return descend_from(graph, form, lower, upper, starts, etas, deadline)


def descend_from(
    graph: Graph,
    form: MarginForm,
    lower: Float[Array, "box *image"],
    upper: Float[Array, "box *image"],
    points: Float[Array, "box start *image"],
    etas: Float[np.ndarray, " step"],
    deadline: Deadline | None = None,
) -> tuple[Float[np.ndarray, "box *image"], Float[np.ndarray, " box"]]:
    """As :func:`descend`, from given starts in each box, with given steps ``eta``."""
    x = _into(graph.inside, points)
    best, least = x, np.full(x.shape[:2], np.inf, x.dtype)
    for eta in (*etas, 0.0):
        x, best, least = _step(graph, form, lower, upper, x, best, least, np.float32(eta))
        if deadline is not None and _passed(deadline, least):
            break
    winner = np.argmin(least, axis=1)
    boxes = np.arange(len(winner))
    return np.asarray(best)[boxes, winner], np.asarray(least)[boxes, winner]


def _passed(deadline: Deadline, array: Array) -> bool:
    """Whether a deadline has passed once an array is computed: JAX runs ahead of its caller."""
    jax.block_until_ready(array)
    return deadline.passed


DESCENTS = 4
"""How many points :class:`Weakest` descends from at a time."""

STEPS = 0.2 * np.linspace(1.0, 0.1, 6)
"""Its steps, as shares of each entry's radius."""


class Weakest:
    """The weakest point that a search has come by, by the larger of its margins in both precisions.

    Attributes:
        point: (height, width, channel) float32 in the query's box, or None.
        margin: ``inf`` without a point; at most zero once a counterexample is known that replays.
    """

    def __init__(self, query: Query) -> None:
        self.query, self.point, self.margin = query, None, np.inf
        self.form = query.property.form(query.label_count).astype("float32")

    def descend(self, points: Float[np.ndarray, "point *image"]) -> None:
        """Descends on the margin from the first `DESCENTS` points, clipped into the box."""
        query = self.query
        points = np.resize(np.asarray(points, np.float32), (DESCENTS, *query.lower.shape))
        points = np.clip(points, query.lower, query.upper)
        boxes = (jnp.asarray(v)[None] for v in (query.lower, query.upper, points))
        with search_precision():
            found, margins = descend_from(query.graph_inside, self.form, *boxes, STEPS)
        if margins[0] < self.margin:
            self.keep(found[0])

    def keep(self, point: Float[np.ndarray, "*image"]) -> None:
        """Remembers a point of the box if none was weaker. A NaN in a margin is no reason to."""
        point = self.query.settle(point)
        margin = float(np.max([self.query.margin_exact(point), self.query.margin_deployed(point)]))
        if margin < self.margin:
            self.point, self.margin = point, margin


@one_off()
def _step(graph: Graph, form: MarginForm, lower, upper, x, best, least, eta) -> tuple:
    """Keeps the best of the points so far, and moves every point against its gradient's sign."""

    def margins(x: Float[Array, "box start *image"]) -> Float[Array, "box start"]:
        scores = graph.scores(x.reshape(-1, *graph.input_shape)).reshape(*x.shape[:2], -1)
        each = 0 if form.coefficients.ndim == 3 else None
        return jax.vmap(MarginForm.margin, in_axes=(each, 0))(form, scores)

    values, pull = jax.vjp(margins, x)
    (gradient,) = pull(jnp.ones_like(values))
    better = values < least
    best = jnp.where(better.reshape(*better.shape, *(1,) * (x.ndim - 2)), x, best)
    radius = (upper - lower)[:, None] / 2
    if graph.inside is None:
        step = radius * jnp.sign(gradient)
    else:
        step = graph.inside.steepest(gradient)
    moved = jnp.clip(x - eta * step, lower[:, None], upper[:, None])
    return _into(graph.inside, moved), best, jnp.where(better, values, least)


@partial(jax.jit, static_argnums=0)
def _starts(
    pgd: PGD, lower: Array, upper: Array, key: Array, ball: Ball | None = None
) -> Float[Array, "box start *image"]:
    """The centre, then corners and uniform points in turn; pulled into the ball, if there is one."""
    shape = (lower.shape[0], pgd.restarts, *lower.shape[1:])
    share = jax.random.uniform(key, shape)
    corner = (jnp.arange(pgd.restarts) % 2 == 1).reshape(-1, *(1,) * (lower.ndim - 1))
    share = jnp.where(corner, jnp.round(share), share).at[:, 0].set(0.5)
    lower, upper = lower[:, None], upper[:, None]
    return _into(ball, jnp.clip(lower + share * (upper - lower), lower, upper))


def _into(ball: Ball | None, points: Array) -> Array:
    return points if ball is None else ball.pulled(points)
