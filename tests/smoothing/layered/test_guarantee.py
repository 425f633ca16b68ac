"""Is the stated probability kept? Networks whose smoothed probabilities are known, many certificates."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import ndtr
from scipy.stats import binom

import jmlv
from jmlv.smoothing import LayeredNoise, NoiseSearch, certified_radius, grow_smoothed, sample_counts
from jmlv.smoothing.layered.task import Task

ALPHA = 0.05
LAYERS = jmlv.Layers.around(np.eye(1, 4, dtype=bool))
THEOREM = {"k": 1, "k_prime": 1, "alpha": ALPHA, "e": 1}


def linear(x):
    """Two labels; the first is predicted where pixels 0 and 1, counted twice, exceed what 2 and 3 lack."""
    margin = x.reshape(len(x), 4) @ jnp.array([1.0, 2.0, -0.5, 0.7])
    return jnp.stack([margin, -margin], axis=1)


def thresholds(x):
    """The first label is predicted iff pixels 0 and 2 are both above 0."""
    least = jnp.minimum(x[:, 0, 0, 0], x[:, 0, 2, 0])
    return jnp.stack([least, -least], axis=1)


def true_radius_of_linear(x, sigma):
    slope = np.array([1.0, 2.0, -0.5, 0.7])
    return x.ravel() @ slope / np.linalg.norm(slope * sigma)


def true_radius_of_thresholds(x, sigma):
    """The largest R at which no change in the ellipsoid makes the first label the less likely one.

    In whitened coordinates its probability is Phi(u - a) Phi(v - b), ``a^2 + b^2 <= R^2``; it falls in
    both, so the worst is on the quarter circle.
    """
    u, v = x.ravel()[0] / sigma[0], x.ravel()[2] / sigma[2]
    angles = np.linspace(0, np.pi / 2, 181)
    low, high = np.zeros(len(angles)), np.full(len(angles), 20.0)
    for _ in range(50):
        r = (low + high) / 2
        kept = ndtr(u - r * np.cos(angles)) * ndtr(v - r * np.sin(angles)) > 0.5
        low, high = np.where(kept, r, low), np.where(kept, high, r)
    return low.min() if ndtr(u) * ndtr(v) > 0.5 else -np.inf


NETWORKS = {
    "linear": (linear, true_radius_of_linear),
    "thresholds": (thresholds, true_radius_of_thresholds),
}


def failures(f, true_radius, count, seed):
    """How many of so many certificates claim more than is true, and how many claim anything."""
    rng, failed, certified = np.random.default_rng(seed), 0, 0
    for number in range(count):
        sigma = np.exp(rng.normal(-1, 0.7, LAYERS.count)).astype(np.float32)
        x = (sigma * rng.uniform(0.3, 1.5, 4)).reshape(1, 4, 1).astype(np.float32)
        noise, key = LayeredNoise(LAYERS, sigma), jax.random.fold_in(jax.random.key(seed), number)
        counts = sample_counts(f, x, sigma=noise, n=100, k_prime=1, key=key)
        radius = certified_radius(counts, 100, [0], sigma=noise, **THEOREM)
        failed += radius > true_radius(x, sigma)
        certified += radius > 0
    return failed, certified


@pytest.mark.parametrize("name", NETWORKS)
def test_no_more_certificates_fail_than_alpha_allows(name):
    failed, certified = failures(*NETWORKS[name], 200, seed=0)
    assert certified > 120
    assert failed <= binom.isf(1e-3, 200, ALPHA)


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_of_ten_thousand_certificates_no_more_fail_than_alpha_allows(name):
    failed, certified = failures(*NETWORKS[name], 10_000, seed=1)
    assert certified > 6_000
    assert failed <= binom.isf(1e-3, 10_000, ALPHA)
    # Tight where the theorem is: two bounds share alpha, and one of them decides.
    assert failed > binom.ppf(1e-3, 10_000, 0.2 * ALPHA) or name == "thresholds"


def candidates(count):
    """Noise on one of many pixels each, and a network for which all certify equally much in truth."""
    layers = jmlv.Layers(np.arange(count)[None], count)
    for d in range(count):
        yield LayeredNoise(layers, np.eye(count)[d])


def test_choosing_and_certifying_on_the_same_samples_breaks_the_guarantee():
    """The planted fault: of 24 noises the one of the largest radius is kept, judged by its own samples."""
    pixels, n, trials = 24, 500, 40
    f = lambda x: jnp.stack([x.sum((1, 2, 3)), 0 * x[:, 0, 0, 0]], axis=1)  # noqa: E731
    x = np.full((1, pixels, 1), 1.2 / pixels, np.float32)
    noises = list(candidates(pixels))
    wrong = {"mixed": 0, "apart": 0}
    for trial in range(trials):
        task = Task.of(
            f, x, noises[0].layers, [0], k=1, k_prime=1, keep=None, weights=None, objective="radii",
            alpha=ALPHA, n=n, key=jax.random.key(trial), batch_size=n,
        )  # fmt: skip
        draw = lambda noise, key, task=task: task.radius(  # noqa: E731
            task.count(noise, key, n, jmlv.NoProgress()), n, ALPHA
        )
        keys = jax.random.split(task.choosing_key, pixels)
        radii = [draw(noise, key) for noise, key in zip(noises, keys)]
        best = int(np.argmax(radii))
        wrong["mixed"] += radii[best] > 1.2
        wrong["apart"] += draw(noises[best], task.certifying_key(0)) > 1.2
    assert wrong["apart"] <= binom.isf(1e-3, trials, ALPHA)
    assert wrong["mixed"] > binom.isf(1e-3, trials, ALPHA), "the fault must be felt"


SEARCH = NoiseSearch(levels=tuple(np.geomspace(0.3, 3, 20)), starts=1, steps=1, effort=160.0)


def claims(count, x=1.0, n=500):
    """How many searches over 20 common levels claim more than is true; every level has the same size.

    One pixel and a threshold at 0, so that an epsilon fails iff it is above ``x``.
    """
    f = lambda x: jnp.stack([x[:, 0, 0, 0], 0 * x[:, 0, 0, 0]], axis=1)  # noqa: E731
    layers = jmlv.Layers.around(np.ones((1, 1), bool))
    image, failed = np.full((1, 1, 1), x, np.float32), 0
    for seed in range(count):
        grown = grow_smoothed(
            f, image, layers, [0], k=1, k_prime=1, objective="radii", alpha=ALPHA, n=n,
            key=jax.random.key(seed), looks=1, search=SEARCH, batch_size=n,
        )  # fmt: skip
        failed += grown.radius * grown.sigma[0] > x
    return failed


@pytest.mark.slow
def test_the_whole_search_keeps_the_guarantee():
    assert claims(300) <= binom.isf(1e-3, 300, ALPHA)
