"""The trajectory that MI-FGSM, SLAM, CLASS and the probes of the analysis share."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32

from jmlv.attacks.goals import Aim
from jmlv.attacks.network import Network
from jmlv.attacks.problem import Problem, column, require_finite_gradients
from jmlv.attacks.projection import Norm

STEP = 1 / 2560
"""A tenth of one of 256 grey levels: the published step."""


def iterations_for(epsilon: float, length: float) -> int:
    """``ceil(epsilon / length)``, at least one; rounding errors don't add a step."""
    return max(1, math.ceil(epsilon / length - 1e-6))


def step_length(problem: Problem, step: float, norm: Norm) -> float:
    """A step's length in the norm; in l2, that of a step that changes every entry by ``step``."""
    return step if norm == "linf" else step * math.sqrt(problem.entries)


def trajectory(
    problem: Problem,
    *,
    label_weights: Any,
    mix: float,
    step: float = STEP,
    decay: float = 1.0,
    norm: Norm = "linf",
) -> Iterator[tuple[Float[Array, "image *shape"], Array]]:
    r"""Images after 1, 2, 3, ... momentum steps, each with a flag 'all gradients were finite'.

    $$g_{i+1} = \mu g_i + \frac{\nabla L(x_i)}{\|\nabla L(x_i)\|_1}, \qquad
      x_{i+1} = \Pi\big(x_i - \alpha \operatorname{sign} g_{i+1}\big)$$

    with the loss of :func:`loss`, and $g / \|g\|_2$ for the sign in l2. $\Pi$ keeps the image in
    its domain and the mask. After $i$ steps the change is at most $i \alpha$ long, so the images for every
    smaller budget lie on the way to those for the largest: a budget's own projection only ever
    shortens the last step.

    Loops outside ``jit``: inside a ``lax`` loop XLA runs convolutions on a CPU ten times slower.
    """
    low, high = map(jnp.asarray, problem.bounds())
    weights = jnp.asarray(label_weights, jnp.float32)
    length = jnp.float32(step_length(problem, step, norm))
    state = (jnp.asarray(problem.x), jnp.zeros(problem.x.shape, jnp.float32), jnp.array(True))
    arguments = (problem.aim, weights, jnp.float32(mix), low, high, length, jnp.float32(decay))
    while True:
        state = momentum_step(norm, problem.network, problem.weights, state, *arguments)
        yield state[0], state[2]


def snapshots(
    problem: Problem, budgets: tuple[float, ...], step: float, norm: Norm, **options: Any
) -> tuple[list[np.ndarray], list[int]]:
    """The images of one trajectory at the iteration of each budget, and those iterations."""
    length = step_length(problem, step, norm)
    counts = [iterations_for(budget, length) for budget in budgets]
    taken: dict[int, np.ndarray] = {}
    steps = zip(range(1, max(counts) + 1), trajectory(problem, step=step, norm=norm, **options))
    for number, (x, finite) in problem.progress.wrap(steps, "momentum steps", max(counts)):
        if number in counts:
            require_finite_gradients(finite)
            taken[number] = np.asarray(x)
    return [taken[count] for count in counts], counts


def loss(
    margins: Float[Array, "image label"], aim: Aim, label_weights: Array, mix: Array
) -> Float[Array, " image"]:
    r"""Per image, the weighted mean over labels of a mixture of two losses.

    $$\lambda \log(1 + e^{-s_j d_j}) + (1 - \lambda)\, \sigma(-s_j d_j)$$

    where $s_j d_j$ is the margin toward the wanted value: binary cross-entropy and the linear loss
    (the probability of the unwanted value).
    """
    wanted = aim.signs * margins
    terms = mix * jax.nn.softplus(-wanted) + (1 - mix) * jax.nn.sigmoid(-wanted)
    return (label_weights * terms).mean(-1)


@partial(jax.jit, static_argnums=(0, 1))
def momentum_step(
    norm: Norm,
    network: Network,
    weights: Any,
    state: tuple[Float32[Array, "image *shape"], Float32[Array, "image *shape"], Array],
    aim: Aim,
    label_weights: Float[Array, "image label"],
    mix: Array,
    low: Array,
    high: Array,
    length: Array,
    decay: Array,
) -> tuple[Float32[Array, "image *shape"], Float32[Array, "image *shape"], Array]:
    """One step: (images, momentum, all gradients finite so far) -> the same, one step on."""
    x, momentum, finite = state

    def total(moved: Array) -> Array:
        return loss(network.margins(weights, moved), aim, label_weights, mix).sum()

    gradient = jax.grad(total)(x)
    finite &= jnp.isfinite(gradient).all()
    gradient = jnp.where(low < high, gradient, 0.0)
    axes = tuple(range(1, x.ndim))
    scale = jnp.abs(gradient).sum(axes)
    momentum = decay * momentum + gradient / column(jnp.maximum(scale, 1e-30), x)
    return jnp.clip(x - length * direction(momentum, norm), low, high), momentum, finite


def direction(gradient: Float[Array, "image *shape"], norm: Norm) -> Float[Array, "image *shape"]:
    """The steepest direction of length one in the norm."""
    if norm == "linf":
        return jnp.sign(gradient)
    square = jnp.square(gradient).sum(tuple(range(1, gradient.ndim)))
    return gradient / column(jnp.maximum(jnp.sqrt(square), 1e-15), gradient)
