"""What noise is chosen by: sizes with slopes, relaxed probabilities, and one ascent."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import ndtr

import jmlv
from jmlv.smoothing import LayeredNoise, Moments, NoiseSearch, SoftTopK, StraightThrough
from jmlv.smoothing.layered.objective import OBJECTIVES, box_size, certified_value, radii_sum
from jmlv.smoothing.layered.relaxation import gaps
from jmlv.smoothing.layered.search import GRADIENT, Ascent

SHAPE = (4, 6, 2)
LAYERS = jmlv.Layers.around(np.eye(4, 6, dtype=bool)[:, ::-1])


def random_case(rng):
    sigma = np.exp(rng.normal(-0.5, 1, LAYERS.count))
    weights = rng.random(LAYERS.count) * (rng.random(LAYERS.count) < 0.9) + 1e-3
    return LayeredNoise(LAYERS, sigma), weights, float(np.exp(rng.normal(0.5, 1)))


def test_the_size_with_a_slope_is_the_size_that_is_certified():
    rng, full = np.random.default_rng(0), 0
    entries = LayeredNoise(LAYERS, 1.0).entries(SHAPE).astype(np.float32)
    compiled = {name: jax.jit(size) for name, size in OBJECTIVES.items()}
    for _ in range(60):
        noise, weights, radius = random_case(rng)
        for name, size in compiled.items():
            smooth = size(
                jnp.float32(radius), noise.sigma, jnp.asarray(weights, jnp.float32), entries
            )
            exact = certified_value(name, noise, radius, weights, SHAPE)
            assert float(smooth) == pytest.approx(exact, rel=2e-4, abs=2e-5), name
        full += (noise.largest_box(radius, weights, SHAPE) == 1).any()
    assert 5 < full < 55
    assert certified_value("box", noise, -np.inf, weights, SHAPE) == 0.0


@pytest.mark.parametrize("size", [box_size, radii_sum])
def test_slopes_are_those_of_differences(size):
    rng = np.random.default_rng(1)
    entries = jnp.asarray(LayeredNoise(LAYERS, 1.0).entries(SHAPE), jnp.float32)
    slope, value = jax.jit(jax.grad(size, argnums=(0, 1))), jax.jit(size)
    for _ in range(10):
        noise, weights, radius = random_case(rng)
        weights = jnp.asarray(weights, jnp.float32)

        def at(r, s, w=weights):
            return float(value(jnp.float32(r), jnp.asarray(s, jnp.float32), w, entries))

        by_radius, by_sigma = slope(jnp.float32(radius), jnp.asarray(noise.sigma), weights, entries)
        step = 3e-3
        expected = (at(radius * (1 + step), noise.sigma) - at(radius * (1 - step), noise.sigma)) / 2
        assert float(by_radius) * radius * step == pytest.approx(expected, rel=0.1, abs=3e-5)
        for d in range(LAYERS.count):
            up, down = (
                noise.sigma * (1 + sign * step * (np.arange(LAYERS.count) == d)) for sign in (1, -1)
            )
            expected = (at(radius, up) - at(radius, down)) / 2
            assert float(by_sigma[d]) * noise.sigma[d] * step == pytest.approx(
                expected, rel=0.1, abs=3e-5
            )


@pytest.mark.parametrize("k_prime", [1, 2, 4])
def test_a_label_is_in_the_top_iff_its_gap_is_positive(k_prime):
    scores = np.random.default_rng(2).normal(size=(50, 5)).astype(np.float32)
    found = np.asarray(gaps(jnp.asarray(scores), k_prime))
    for row, own in zip(scores, found):
        for j in range(5):
            others = np.sort(np.delete(row, j))[::-1]
            assert own[j] == pytest.approx(row[j] - others[k_prime - 1], abs=1e-6)
    np.testing.assert_array_equal((found > 0).sum(1), k_prime)


def test_moments_are_exact_for_linear_scores_and_the_others_near():
    margins = 0.7 + 1.3 * jax.random.normal(jax.random.key(0), (20_000, 1))
    expected = ndtr(0.7 / 1.3)
    for relaxation, slack in (
        (Moments(), 0.01),
        (StraightThrough(), 0.015),
        (SoftTopK(0.05), 0.02),
    ):
        assert abs(float(relaxation.probabilities(margins)[0]) - expected) < slack
        slope = jax.grad(lambda shift, r=relaxation: r.probabilities(margins + shift)[0])(0.0)
        density = np.exp(-((0.7 / 1.3) ** 2) / 2) / np.sqrt(2 * np.pi) / 1.3
        assert float(slope) == pytest.approx(density, rel=0.15)


def test_a_lost_radius_is_cut_back_towards_what_was_good():
    search = NoiseSearch(steps=4, cut=0.25, learning_rate=0.5)
    ascent = Ascent.start(0.4, 2)
    ascent.step(search, 1.0, np.array([1.0, -1.0]))
    good, beyond = np.exp(ascent.good), np.exp(ascent.levels)
    np.testing.assert_allclose(good, 0.4)
    np.testing.assert_allclose(beyond, 0.4 * np.exp([0.5, -0.5]))
    ascent.step(search, -0.1, np.array([5.0, 5.0]))
    np.testing.assert_allclose(np.exp(ascent.levels), 0.25 * beyond + 0.75 * good)
    assert ascent.lost == 1
    for _ in range(9):
        ascent.step(dataclasses.replace(search, largest=1.5), 1.0, np.array([9.0, -9.0]))
    assert np.exp(ascent.levels[0]) == pytest.approx(1.5)
    never = NoiseSearch(cut=None, learning_rate=0.5)
    before = ascent.levels
    ascent.step(never, -0.1, np.array([1.0, 1.0]))
    assert ascent.levels[0] > before[0]


@pytest.mark.parametrize(
    "options, message",
    [
        ({"levels": (0.1, 0.0)}, "levels: "),
        ({"levels": (0.1,), "starts": 2}, "starts: "),
        ({"starts": -1}, "starts: "),
        ({"steps": 0}, "steps: "),
        ({"learning_rate": 0.0}, "learning_rate: "),
        ({"effort": -1}, "effort: "),
        ({"cut": 1.0}, "cut: "),
        ({"largest": 0.5}, "largest: "),
        ({"relaxation": "soft"}, "relaxation: "),
    ],
)
def test_bad_searches_are_named(options, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        NoiseSearch(**options)
    with pytest.raises(ValueError, match="^temperature: "):
        SoftTopK(0.0)


@pytest.mark.parametrize("search", [NoiseSearch(), NoiseSearch(starts=0), NoiseSearch(effort=0.5)])
@pytest.mark.parametrize("n", [2000, 10_000, 1_000_000])
def test_choosing_takes_no_more_than_its_effort(search, n):
    """In samples of forward passes, as what a gradient takes beyond them is counted too."""
    gradients = GRADIENT * search.starts * search.steps * search.stepped(n, n)
    scanned = len(search.levels) * search.scanned(n)
    taken = scanned + gradients + (search.starts + 1) * search.compared(n)
    assert taken <= search.effort * n
    assert search.starts == 0 or taken > 0.8 * search.effort * n
