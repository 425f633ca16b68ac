r"""Choosing a noise level for every layer: from the best common level, uphill on the certified size.

Choosing has three stages, all on samples that no certificate ever sees. A *scan* of levels that are
common to all layers; *ascents* of $\log \sigma$ from the best of them, along the gradient of the
logarithm of the size through the noise $x + \sigma_{d(p)} z_p$ (reparametrised), with the radius

$$\tilde R = \tfrac12 \big( \Phi^{-1}(\tilde p_{(e)}) - \Phi^{-1}(\tilde q_{(s)}) \big), \qquad
  s = k - e + 1$$

where $\tilde p_{(e)}$ is the $e$-th largest of the labels' relaxed probabilities and $\tilde q_{(s)}$ the
$s$-th largest of the others', moved down and up by Wilson's interval to where $n$ samples would put
their bounds; and a *comparison* of what came out. Where a step loses the radius ($\tilde R \le 0$), the
noise is cut back as the source of layered neighbourhoods does it:
$\sigma \leftarrow c\, \sigma + (1 - c)\, \sigma_{\text{good}}$.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtri
from jaxtyping import Array, Float
from scipy import special

from jmlv.graph.split import scores_of
from jmlv.smoothing.arguments import require_count, require_positive
from jmlv.smoothing.layered.objective import OBJECTIVES
from jmlv.smoothing.layered.relaxation import Relaxation, SoftTopK, gaps
from jmlv.smoothing.layered.task import Task
from jmlv.smoothing.sampling import over_devices

LEAST_SIGMA = 1e-3
"""Levels stay above this: pixels have eight bits."""

LEAST_RADIUS = 0.05
"""Below this the size is continued by an exponential, so that a lost radius still has a slope."""

AVERAGED = 0.25
"""Share of an ascent's last steps whose levels are averaged: what its samples' noise moves cancels."""

PADDED = 16
"""Numbers of layers are padded to multiples of this by empty ones, so that images share programs."""

ENOUGH = 1000
"""Samples that tell one level of the scan from twice that level."""

DECAYS = (0.9, 0.999)
"""Adam's."""

GRADIENT = 4
"""What one noisy image's gradient is counted as, in samples: on convolutional networks it takes the seconds
of about so many that are only counted."""


@dataclasses.dataclass(frozen=True)
class NoiseSearch:
    """How a noise level is chosen for every layer.

    Attributes:
        levels: standard deviations common to all layers, in the order in which they are scanned;
            where time is short some of the last are left out.
        starts: from how many of the best of them to ascend; 0 keeps to common levels, which is
            isotropic smoothing at its best level.
        steps: of each ascent.
        learning_rate: Adam's, of the logarithms of the levels.
        relaxation: what stands for the probabilities' slopes: :class:`SoftTopK`,
            :class:`StraightThrough` or :class:`Moments`.
        cut: how much of a step that lost the radius is kept, in [0, 1); ``None`` never cuts back.
        effort: samples that choosing may take, in units of ``n``; a gradient is :data:`GRADIENT` of them.
        largest: level of any layer. Far above 1 a layer is drowned: its epsilon may be 1, and the
            smoothed classifier sees nothing of it. A smaller one keeps the classifier informed, at the
            price of size.

    Raises:
        ValueError: a number is out of range, or there are fewer levels than starts.
    """

    levels: tuple[float, ...] = (0.25, 0.12, 0.5, 0.06, 1.0, 0.03)
    starts: int = 2
    steps: int = 30
    learning_rate: float = 0.5
    relaxation: Relaxation = SoftTopK()
    cut: float | None = 0.5
    effort: float = 2.0
    largest: float = 30.0

    def __post_init__(self) -> None:
        levels = tuple(require_positive("levels", level) for level in self.levels)
        object.__setattr__(self, "levels", levels)
        require_count("starts", self.starts, least=0, most=len(levels))
        require_count("steps", self.steps)
        require_positive("learning_rate", self.learning_rate)
        require_positive("effort", self.effort)
        if not LEAST_SIGMA < require_positive("largest", self.largest) >= max(levels):
            raise ValueError(
                f"largest: expected at least the largest of the levels, {max(levels)}, got "
                f"{self.largest!r}."
            )
        if not isinstance(self.relaxation, Relaxation):
            raise ValueError(f"relaxation: expected SoftTopK(), got {self.relaxation!r}.")
        if self.cut is not None and not 0 <= self.cut < 1:
            raise ValueError(f"cut: expected a share in [0, 1) or None, got {self.cut!r}.")

    def scanned(self, n: int) -> int:
        """Samples of each level of the scan: together at most an eighth of the effort."""
        return min(ENOUGH, max(1, int(self.effort * n / 8 / len(self.levels))))

    def stepped(self, n: int, most: int) -> int:
        """Samples of each step, at most ``most``: three quarters of the effort are for the ascents."""
        steps = max(1, self.starts * self.steps)
        return min(most, max(2, int(self.effort * n * 3 / 4 / GRADIENT / steps)))

    def compared(self, n: int) -> int:
        """Samples of each candidate: an eighth is for the comparison."""
        return max(1, int(self.effort * n / 8 / (self.starts + 1)))


@dataclasses.dataclass
class Ascent:
    """One ascent, as far as it is: levels as logarithms, and Adam's two moments.

    Attributes:
        levels: (layer,) where it is.
        good: the last levels whose radius was not lost.
        total: sum of the levels of the last steps, for their mean.
    """

    levels: Float[np.ndarray, " layer"]
    good: Float[np.ndarray, " layer"]
    first: Float[np.ndarray, " layer"]
    second: Float[np.ndarray, " layer"]
    total: Float[np.ndarray, " layer"]
    averaged: int = 0
    done: int = 0
    lost: int = 0

    @staticmethod
    def start(level: float, layers: int) -> Ascent:
        zero, levels = np.zeros(layers), np.full(layers, np.log(level))
        return Ascent(levels, levels, zero, zero, zero)

    @property
    def sigma(self) -> Float[np.ndarray, " layer"]:
        """What the ascent has come to."""
        return np.exp(self.total / self.averaged if self.averaged else self.good)

    def step(self, search: NoiseSearch, radius: float, slope: Float[np.ndarray, " layer"]) -> None:
        """One step uphill of Adam, or back towards the last good levels where the radius is lost."""
        self.done += 1
        if radius <= 0 and search.cut is not None:
            self.lost += 1
            sigma = search.cut * np.exp(self.levels) + (1 - search.cut) * np.exp(self.good)
            self.levels = np.log(sigma)
        else:
            self.good = self.levels
            self.levels = self.levels + search.learning_rate * self._adam(np.nan_to_num(slope))
        self.levels = np.clip(self.levels, np.log(LEAST_SIGMA), np.log(search.largest))
        if self.done > (1 - AVERAGED) * search.steps:
            self.total, self.averaged = self.total + self.levels, self.averaged + 1

    def _adam(self, slope: np.ndarray) -> np.ndarray:
        moves = self.done - self.lost
        self.first = DECAYS[0] * self.first + (1 - DECAYS[0]) * slope
        self.second = DECAYS[1] * self.second + (1 - DECAYS[1]) * slope**2
        mean = self.first / (1 - DECAYS[0] ** moves)
        return mean / (np.sqrt(self.second / (1 - DECAYS[1] ** moves)) + 1e-8)


def slope_of(
    task: Task, search: NoiseSearch, alpha: float, start: int, ascent: Ascent
) -> tuple[float, Float[np.ndarray, " layer"]]:
    """The relaxed radius at an ascent's levels, and the gradient of the size's logarithm."""
    network, parameters = task.network
    key = jax.random.fold_in(jax.random.fold_in(task.choosing_key, 1 + start), ascent.done)
    entries = task.entries
    padding = (0, -len(entries) % PADDED)
    by_layer = (np.pad(v, padding) for v in (entries, task.weights, ascent.levels))
    radius, slope = _slope(
        network, parameters, task.x, jnp.asarray(task.layers.places),
        *(jnp.asarray(values, jnp.float32) for values in by_layer), task.hot, key, float(task.n),
        -float(special.ndtri(alpha / len(task.hot))),
        ranks=(task.k_prime, task.keep, task.k - task.keep + 1),
        samples=search.stepped(task.n, task.batch_size), objective=task.objective,
        relaxation=search.relaxation,
    )  # fmt: skip
    return float(radius), np.asarray(slope, np.float64)[: len(entries)]


@partial(jax.jit, static_argnames=("network", "ranks", "samples", "objective", "relaxation"))
def _slope(
    network: Any, parameters: Any, x: Array, places: Array, entries: Array, weights: Array,
    levels: Array, hot: Array, key: Array, n: Array, deviations: Array,
    *, ranks: tuple[int, int, int], samples: int, objective: str, relaxation: Relaxation,
) -> tuple[Array, Array]:  # fmt: skip
    noise = jax.random.normal(key, (samples, *x.shape), jnp.float32)
    if samples % len(jax.devices()) == 0:
        noise = jax.lax.with_sharding_constraint(noise, over_devices())

    def log_size(levels: Array) -> tuple[Array, Array]:
        sigma = jnp.exp(levels)
        scores = scores_of(network, parameters, x + sigma[places] * noise)
        probabilities = relaxation.probabilities(gaps(scores, ranks[0]))
        radius = _radius(probabilities, hot, n, deviations, *ranks[1:])
        beyond = LEAST_RADIUS * jnp.exp(jnp.minimum(radius / LEAST_RADIUS - 1, 0.0))
        kept = jnp.where(radius > LEAST_RADIUS, radius, beyond)
        return jnp.log(OBJECTIVES[objective](kept, sigma, weights, entries)), radius

    slope, radius = jax.grad(log_size, has_aux=True)(levels)
    return radius, slope


def _radius(
    probabilities: Array, hot: Array, n: Array, deviations: Array, keep: int, others: int
) -> Array:
    """The relaxed radius: the theorem's terms of single labels, where the two sides are equal."""
    lower, upper = (ndtri(_wilson(probabilities, n, d)) for d in (-deviations, deviations))
    kept = jnp.sort(jnp.where(hot, lower, -jnp.inf))[-keep]
    return (kept - jnp.sort(jnp.where(hot, -jnp.inf, upper))[-others]) / 2


def _wilson(p: Array, n: Array, deviations: Array) -> Array:
    """An end of Wilson's interval, so many deviations from ``p``: Clopper-Pearson's with a slope."""
    square = deviations**2 / n
    spread = deviations * jnp.sqrt(jnp.maximum(p * (1 - p), 0.0) / n + square / (4 * n))
    return jnp.clip((p + square / 2 + spread) / (1 + square), 1e-6, 1 - 1e-6)
