"""A noise-aware gradient attack on the smoothed label set: what a certificate must withstand."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from jmlv.graph import Classifier
from jmlv.graph.split import scores_of, split_network
from jmlv.smoothing.arguments import (
    Labels,
    finite_input,
    multi_hot,
    require_count,
    require_positive,
    threefry_key,
)
from jmlv.smoothing.noise import LayeredNoise, Noise, scale_of
from jmlv.smoothing.sampling import label_count

INWARD = 1e-6
"""Share by which an attack stays inside its radius, above the rounding of float32 sums."""


def attack_smoothed(
    f: Classifier,
    x: Float[Array | np.ndarray, "..."],
    labels: Labels,
    *,
    k: int,
    k_prime: int,
    sigma: Noise,
    radius: float,
    e: int,
    key: Key[Array, ""],
    steps: int = 20,
    samples: int = 128,
    temperature: float = 0.2,
) -> Float[np.ndarray, "..."]:
    r"""Seeks an input within an l2 radius at which fewer than ``e`` true labels are predicted.

    Descends on the smoothed margin

    $$\tilde p_{(e)}(\delta) - \tilde q_{(s)}(\delta), \qquad
      \tilde p_j(\delta) = \tfrac{1}{m} \sum_i
      \operatorname{sigmoid}\big((F_j(x + \delta + \sigma z_i) - \theta_i) / \tau\big)$$

    where $\tilde p_{(e)}$ is the $e$-th largest of the true labels, $\tilde q_{(s)}$ the
    $(k - e + 1)$-th largest of the others, and $\theta_i$ lies midway between the $k'$-th and the next
    score. Each step moves along the normalised gradient and back into the ball, with new noise. The
    result is not clipped to [0, 1]: the certificate covers those inputs too. Under layered noise all
    this is done in the coordinates in which the noise is standard normal, so the ball is the ellipsoid
    that a certificate is about.

    Args:
        f, x, k_prime, sigma, key: as in :func:`jmlv.smoothing.sample_counts`.
        labels: numbers of the true labels, or multi-hot booleans.
        k: number of labels that the smoothed classifier predicts.
        radius: l2 radius of the ball; under layered noise counted in standard deviations.
        e: the size to break, in 1..min(k, number of true labels).
        steps: gradient steps, of length ``2.5 * radius / steps``.
        samples: noisy inputs a step, $m$.
        temperature: $\tau$; smaller follows the hard top k' more closely.

    Returns:
        The attacked input; its distance from ``x`` is at most ``radius``.

    Raises:
        ValueError: a number is out of range, or nothing outside the true labels can push one out.

    Source: the idea of attacking the smoothed classifier through its noise is that of Salman et al.,
    *Provably Robust Deep Learning via Adversarially Trained Smoothed Classifiers*, NeurIPS 2019.

    >>> f = lambda x: x.reshape(-1, 4)
    >>> x = np.float32([1.0, 0.5, 0.0, 0.0])
    >>> moved = attack_smoothed(f, x, [0], k=1, k_prime=1, sigma=0.5, radius=1.0, e=1,
    ...                         key=jax.random.key(0))
    >>> bool(moved[0] < moved[1])
    True
    """
    x, key, radius = finite_input(x), threefry_key(key), require_positive("radius", radius)
    network, weights = split_network(f)
    count = label_count(network, weights, x)
    hot = multi_hot(labels, (count,))
    k, k_prime = (
        require_count("k", k, most=count),
        require_count("k_prime", k_prime, most=count - 1),
    )
    e = require_count("e", e, most=min(k, int(hot.sum())))
    if k - e + 1 > count - hot.sum():
        raise ValueError(f"e: {e} true labels stay whatever the input is, as k is {k} of {count}.")
    scale = scale_of(sigma, x.shape)
    stretch = scale if isinstance(sigma, LayeredNoise) else np.float32(1)
    step = partial(
        _step, network, weights, x, hot, scale, stretch,
        e=e, s=k - e + 1, k_prime=k_prime, samples=require_count("samples", samples),
    )  # fmt: skip
    change = jnp.zeros_like(x)
    for number in range(require_count("steps", steps)):
        change = step(
            change, jax.random.fold_in(key, number), radius, 2.5 * radius / steps, temperature
        )
    return _inside(sigma, np.asarray(x), np.asarray(stretch * change), radius)


@partial(jax.jit, static_argnames=("network", "e", "s", "k_prime", "samples"))
def _step(
    network, weights, x, hot, scale, stretch, change, key, radius, length, temperature,
    *, e, s, k_prime, samples,
):  # fmt: skip
    """One normalised step downhill, then back into the ball; ``change`` is in units of the radius."""
    noise = scale * jax.random.normal(key, (samples, *x.shape), jnp.float32)

    def margin(change: Array) -> Array:
        scores = scores_of(network, weights, x + stretch * change + noise)
        ranked = jnp.sort(scores, axis=1)[:, ::-1]
        middle = (ranked[:, k_prime - 1] + ranked[:, k_prime]) / 2
        share = jax.nn.sigmoid((scores - middle[:, None]) / temperature).mean(axis=0)
        true = jnp.sort(jnp.where(hot, share, -jnp.inf))[-e]
        return true - jnp.sort(jnp.where(hot, -jnp.inf, share))[-s]

    slope = jax.grad(margin)(change)
    change = change - length * slope / jnp.maximum(_norm(slope), 1e-12)
    return change * jnp.minimum(1.0, radius * (1 - INWARD) / jnp.maximum(_norm(change), 1e-12))


def _inside(sigma: Noise, x: np.ndarray, change: np.ndarray, radius: float) -> np.ndarray:
    """The changed input, pulled in where the rounding of float32 would put it beyond the radius."""
    distance = sigma.distance if isinstance(sigma, LayeredNoise) else np.linalg.norm
    slack = 0.0
    while slack < 1:
        moved = x + np.float32(1 - slack) * change
        if distance(moved.astype(np.float64) - x) <= radius:
            return moved
        slack = max(2 * slack, INWARD)
    return x


def _norm(values: Array) -> Array:
    return jnp.sqrt(jnp.sum(values**2))
