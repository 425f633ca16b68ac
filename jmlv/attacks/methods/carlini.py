"""The search that ML-CW and the ML-Rank attacks share: Adam under a tanh, lambda by bisection."""

from __future__ import annotations

import abc
import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from jmlv.attacks.goals import Aim
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
from jmlv.attacks.projection import Norm
from jmlv.regions import domain_ends

_SQUEEZE = 0.999999
"""Keeps arctanh finite at black and white pixels, as published."""


@dataclasses.dataclass(frozen=True)
class PenaltyAttack(Attack):
    r"""Minimises $\|x' - x\|_2^2 + \lambda\, h(x')$ with $x' = a + (b - a)
    (\tanh(w) + 1) / 2$, where $[a, b]$ is the images' domain.

    Adam on $w$; $\lambda$ by bisection for each image, ten times as large as long as nothing is
    found, as large as the best known in the last round. In each round an image stops when its loss has
    not fallen within a tenth of the iterations. The nearest image that reaches the goal is returned, else the one
    with the most labels as wanted.

    Args:
        iterations: of Adam in each round.
        rounds: values of $\lambda$.
        initial: the first $\lambda$.
        learning_rate: of Adam.
    """

    iterations: int = 1000
    rounds: int = 10
    initial: float = 1e5
    learning_rate: float = 0.01

    def __post_init__(self) -> None:
        require_at_least(self.iterations, 1, "iterations")
        require_at_least(self.rounds, 1, "rounds")
        require_positive(self.initial, "initial")
        require_positive(self.learning_rate, "learning_rate")

    @abc.abstractmethod
    def penalty(self, margins: Float[Array, "image label"], aim: Aim) -> Float[Array, " image"]:
        """$h$: zero where the goal is reached (or the method believes so)."""

    @property
    def norm(self) -> Norm:
        return "l2"

    @property
    def needs_budgets(self) -> bool:
        return False

    def run(self, problem: Problem, budgets: tuple[float, ...]) -> Found:
        count = len(problem.x)
        best = (
            jnp.asarray(problem.x),
            jnp.full(count, -1),
            jnp.full(count, jnp.inf),
            jnp.array(True),
        )
        low, high = np.zeros(count), np.full(count, np.inf)
        weight, spent = np.full(count, self.initial), np.zeros(count, int)
        for number in problem.progress.wrap(range(self.rounds), "rounds of lambda"):
            if number == self.rounds - 1 and number:
                weight = np.where(np.isfinite(high), high, weight)
            best, reached, steps = self._round(problem, weight, best)
            spent += steps
            high = np.where(reached, np.minimum(high, weight), high)
            low = np.where(reached, low, np.maximum(low, weight))
            weight = np.where(np.isfinite(high), (low + np.minimum(high, 1e30)) / 2, weight * 10)
        require_finite_gradients(best[3])
        images = np.asarray(best[0])
        return Found(np.stack([images] * len(budgets)), np.stack([spent] * len(budgets)))

    def _round(self, problem: Problem, weight: np.ndarray, best: tuple) -> tuple:
        x, free = jnp.asarray(problem.x), jnp.asarray(problem.free)
        least, width = _range(problem)
        start = jnp.arctanh((2 * (x - least) / width - 1) * _SQUEEZE)
        state = (start, _adam(self).init(start), jnp.zeros(len(x), bool))
        arguments = (x, free, problem.aim, jnp.asarray(weight, jnp.float32), least, width)
        active, previous = np.ones(len(x), bool), np.full(len(x), np.inf)
        spent, check = np.zeros(len(x), int), max(1, self.iterations // 10)
        for number in range(self.iterations):
            state, best, total = _step(
                self, problem.network, problem.weights, state, best, jnp.asarray(active), *arguments
            )
            spent += active
            if number % check == 0:
                active &= ~(np.asarray(total) > previous * 0.9999)
                previous = np.asarray(total)
            if not active.any():
                break
        return best, np.asarray(state[2]), spent


def _range(problem: Problem) -> tuple[np.ndarray, np.ndarray]:
    """The domain's least value, and how wide it is."""
    least, greatest = domain_ends(problem.domain, problem.x)
    if not (np.isfinite(least).all() and np.isfinite(greatest).all() and (least < greatest).all()):
        raise ValueError("domain: this method searches a finite range, got one without an end.")
    return least, greatest - least


def _adam(method: PenaltyAttack) -> optax.GradientTransformation:
    return optax.adam(method.learning_rate)


@partial(jax.jit, static_argnums=(0, 1))
def _step(
    method: PenaltyAttack,
    network: Network,
    weights: Any,
    state: tuple,
    best: tuple,
    active: Array,
    x: Array,
    free: Array,
    aim: Aim,
    weight: Array,
    least: Array,
    width: Array,
) -> tuple[tuple, tuple, Array]:
    """Judges the point, then takes one step of Adam."""
    w, optimizer, reached = state
    axes = tuple(range(1, x.ndim))

    def objective(w: Array) -> tuple[Array, tuple]:
        moved = jnp.where(free, least + width * (jnp.tanh(w) + 1) / 2, x)
        margins = network.margins(weights, moved)
        square = jnp.square(moved - x).sum(axes)
        total = square + weight * method.penalty(margins, aim)
        return total.sum(), (moved, margins, square, total)

    (_, (moved, margins, square, total)), slope = jax.value_and_grad(objective, has_aux=True)(w)
    hit = aim.reached(margins)
    images, most, least, finite = best
    met = (aim.met(margins) & aim.relevant).sum(-1)
    better = (met > most) | ((met == most) & (square < least))
    best = (
        jnp.where(column(better, x), moved, images),
        jnp.where(better, met, most),
        jnp.where(better, square, least),
        finite & jnp.isfinite(slope).all(),
    )
    change, optimizer = _adam(method).update(slope, optimizer)
    change = jnp.where(column(active, x), change, 0.0)
    return (optax.apply_updates(w, change), optimizer, reached | hit), best, total
