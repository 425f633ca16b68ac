"""Projected gradient descent on the decision margins, with restarts."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32

from jmlv.attacks.goals import Aim
from jmlv.attacks.momentum import direction
from jmlv.attacks.network import Network
from jmlv.attacks.problem import (
    Attack,
    Found,
    Problem,
    column,
    require_at_least,
    require_finite_gradients,
    require_positive,
)
from jmlv.attacks.projection import NORMS, Norm


@dataclasses.dataclass(frozen=True)
class PGD(Attack):
    r"""Projected gradient ascent on the clipped margins of the labels that count.

    $$\max_{x'} \sum_j \min(s_j d_j(x'), \kappa), \qquad
      x \leftarrow \Pi_{\epsilon}(x + \eta_i \epsilon\, \operatorname{dir} \nabla)$$

    where $s_j d_j$ is the margin toward the wanted value (under a top-k decision, the top-k margin)
    and $\eta_i$ falls linearly from ``step`` to ``step / 20``. The first restart begins at the image,
    the others at random points of the ball, the same for every image. The best iterate is kept: most
    labels as wanted, then the largest objective.

    Args:
        norm: of the budget.
        steps: iterations from each start.
        restarts: starts.
        step: first step, as a share of the budget.
        confidence: $\kappa$: a label counts for no more than this, so that none drowns the others.

    Source: Madry et al., *Towards Deep Learning Models Resistant to Adversarial Attacks*, ICLR 2018,
    on margins as in Carlini and Wagner, *Towards Evaluating the Robustness of Neural Networks*, 2017.
    """

    norm: Norm = "linf"
    steps: int = 40
    restarts: int = 3
    step: float = 0.5
    confidence: float = 1.0

    def __post_init__(self) -> None:
        if self.norm not in NORMS:
            raise ValueError(f"norm: expected one of {NORMS}, got {self.norm!r}.")
        require_at_least(self.steps, 1, "steps")
        require_at_least(self.restarts, 1, "restarts")
        require_positive(self.step, "step")
        require_positive(self.confidence, "confidence")

    @property
    def needs_budgets(self) -> bool:
        return True

    def run(self, problem: Problem, budgets: tuple[float, ...]) -> Found:
        images = [self._within(problem, budget) for budget in budgets]
        spent = np.full((len(budgets), len(problem.x)), self.steps * self.restarts)
        return Found(np.stack(images), spent)

    def _within(self, problem: Problem, epsilon: float) -> np.ndarray:
        x, arguments = jnp.asarray(problem.x), self._arguments(problem, epsilon)
        lowest = jnp.full(len(x), -1), jnp.full(len(x), -jnp.inf), jnp.array(True)
        best = (x, *lowest)
        for number, key in enumerate(jax.random.split(problem.key, self.restarts)):
            moved = x if number == 0 else _start(self.norm, key, *arguments[2:])
            for eta in self.step * np.linspace(1.0, 0.05, self.steps, dtype=np.float32):
                moved, best = _step(
                    self, problem.network, problem.weights, moved, best, eta, *arguments
                )
            _, best = _step(self, problem.network, problem.weights, moved, best, eta, *arguments)
        require_finite_gradients(best[3])
        return np.asarray(best[0])

    def _arguments(self, problem: Problem, epsilon: float) -> tuple:
        radius = epsilon if self.norm == "linf" else np.inf
        low, high = map(jnp.asarray, problem.bounds(radius))
        return (
            problem.aim,
            problem.aim.relevant,
            jnp.asarray(problem.x),
            low,
            high,
            jnp.float32(epsilon),
        )


@partial(jax.jit, static_argnums=(0, 1))
def _step(
    pgd: PGD,
    network: Network,
    weights: Any,
    moved: Float32[Array, "image *shape"],
    best: tuple,
    eta: Array,
    aim: Aim,
    relevant: Array,
    x: Array,
    low: Array,
    high: Array,
    epsilon: Array,
) -> tuple[Float32[Array, "image *shape"], tuple]:
    """Judges the point that it is at, then takes one step."""

    def objective(point: Array) -> tuple[Array, tuple]:
        margins = network.margins(weights, point)
        values = (relevant * jnp.minimum(aim.signs * margins, pgd.confidence)).sum(-1)
        return values.sum(), (values, (aim.met(margins) & relevant).sum(-1))

    gradient, (values, met) = jax.grad(objective, has_aux=True)(moved)
    images, most, largest, finite = best
    better = (met > most) | ((met == most) & (values > largest))
    best = (
        jnp.where(column(better, x), moved, images),
        jnp.where(better, met, most),
        jnp.where(better, values, largest),
        finite & jnp.isfinite(gradient).all(),
    )
    gradient = jnp.where(low < high, gradient, 0.0)
    moved = moved + eta * epsilon * direction(gradient, pgd.norm)
    return into_ball(pgd.norm, jnp.clip(moved, low, high), x, epsilon), best


def into_ball(norm: Norm, moved: Array, x: Array, epsilon: Array) -> Array:
    """Onto the l2 ball, along the line to its centre; the l-infinity ball is in the clip's bounds."""
    if norm == "linf":
        return moved
    change = moved - x
    length = jnp.sqrt(jnp.square(change).sum(tuple(range(1, x.ndim))))
    return x + change * column(jnp.minimum(1.0, epsilon / jnp.maximum(length, 1e-15)), x)


def _start(norm: Norm, key: Array, x: Array, low: Array, high: Array, epsilon: Array) -> Array:
    """One random point of the ball around each image: the same change for every image."""
    change = jax.random.uniform(key, (1, *x.shape[1:]), minval=-1.0, maxval=1.0)
    if norm == "l2":
        change = direction(change, norm)
    return into_ball(norm, jnp.clip(x + epsilon * change, low, high), x, epsilon)
