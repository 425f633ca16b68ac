"""Projected gradient descent on the margin: finds counterexamples, proves nothing."""

from __future__ import annotations

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jmlv.graph import Graph
from jmlv.numerics import search_precision
from jmlv.oracles.oracle import Deadline, Evidence, Oracle, Query
from jmlv.properties import MarginForm


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
        form = jax.tree.map(np.float32, query.property.form(query.label_count))
        for key in jax.random.split(jax.random.key(self.seed), self.rounds):
            if deadline.passed:
                break
            with search_precision():
                point, margin = descend(self, query.graph, form, query.lower, query.upper, key)
            done += 1
            if margin < best_margin:
                best, best_margin = np.asarray(point), float(margin)
            if best_margin <= 0:
                break
        reason = f"{done * self.restarts} starts of PGD reach margin {best_margin:.4g}"
        return Evidence(point=best, reason=reason, stats={"starts": done * self.restarts})


@partial(jax.jit, static_argnums=0)
def descend(
    pgd: PGD,
    graph: Graph,
    form: MarginForm,
    lower: Float[Array, "*image"],
    upper: Float[Array, "*image"],
    key: Array,
) -> tuple[Float[Array, "*image"], Float[Array, ""]]:
    """The point of least margin seen in one round of starts, and that margin."""

    def margins(x: Float[Array, "start *image"]) -> Float[Array, " start"]:
        return form.margin(graph.scores(x))

    radius = (upper - lower) / 2

    def step(state: tuple, eta: Array) -> tuple:
        x, best, least = state
        values, pull = jax.vjp(margins, x)
        (gradient,) = pull(jnp.ones_like(values))
        best, least = _keep_better(best, least, x, values)
        return (jnp.clip(x - eta * radius * jnp.sign(gradient), lower, upper), best, least), None

    x = _starts(pgd, lower, upper, key)
    schedule = pgd.step * jnp.linspace(1.0, 0.05, pgd.steps)
    state = (x, x, jnp.full(pgd.restarts, jnp.inf))
    (x, best, least), _ = jax.lax.scan(step, state, schedule)
    best, least = _keep_better(best, least, x, margins(x))
    winner = jnp.argmin(least)
    return best[winner], least[winner]


@partial(jax.jit, static_argnums=0)
def descend_in_each(
    pgd: PGD,
    graph: Graph,
    form: MarginForm,
    lower: Float[Array, "box *image"],
    upper: Float[Array, "box *image"],
    key: Array,
) -> tuple[Float[Array, "box *image"], Float[Array, " box"]]:
    """One round in each of several boxes, in one batch: their points of least margin."""
    search = partial(descend, pgd, graph, form)
    return jax.vmap(search)(lower, upper, jax.random.split(key, len(lower)))


def _starts(pgd: PGD, lower: Array, upper: Array, key: Array) -> Float[Array, "start *image"]:
    uniform = jax.random.uniform(key, (pgd.restarts, *lower.shape))
    corners = jnp.arange(pgd.restarts) % 2 == 1
    share = jnp.where(_column(corners, uniform), jnp.round(uniform), uniform).at[0].set(0.5)
    return jnp.clip(lower + share * (upper - lower), lower, upper)


def _keep_better(best: Array, least: Array, x: Array, values: Array) -> tuple[Array, Array]:
    better = values < least
    return jnp.where(_column(better, x), x, best), jnp.where(better, values, least)


def _column(flags: Array, like: Array) -> Array:
    return flags.reshape(-1, *(1,) * (like.ndim - 1))
