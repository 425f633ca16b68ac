"""Noise with a level of its own on every layer: the whitening theorem, the largest box, sampling, attack."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import ndtr

import jmlv
from jmlv.smoothing import (
    LayeredNoise,
    attack_smoothed,
    certified_intersection_size,
    certified_radius,
    jia_certified_intersection_size,
    predict,
    sample_counts,
)

KEY = jax.random.key(5)
LAYERS = jmlv.Layers.around(np.eye(3, 4, dtype=bool)[::-1])
SIGMA = np.float32([0.7, 0.2, 0.45])
NOISE = LayeredNoise(LAYERS, SIGMA)
X = np.linspace(0, 1, 24, dtype=np.float32).reshape(3, 4, 2)
WEIGHTS = np.random.default_rng(0).normal(size=(24, 5)).astype(np.float32)


def scores(x):
    return x.reshape(len(x), -1) @ WEIGHTS


def random_noise(rng):
    mask = rng.random((4, 5)) < 0.2
    mask[rng.integers(4), rng.integers(5)] = True
    layers = jmlv.Layers.around(mask)
    sigma = np.exp(rng.normal(-1, 1, layers.count)) * (rng.random(layers.count) < 0.8)
    sigma[0] = max(sigma[0], 0.1)
    return LayeredNoise(layers, sigma)


def test_the_same_level_everywhere_is_the_isotropic_case():
    same, call = LayeredNoise(LAYERS, 0.5), {"n": 400, "k_prime": 2, "key": KEY}
    counts = sample_counts(scores, X, sigma=same, **call)
    np.testing.assert_array_equal(counts, sample_counts(scores, X, sigma=0.5, **call))
    theorem = {"k": 3, "k_prime": 2, "alpha": 0.01}
    radii, labels = np.linspace(0, 1, 30), predict(counts, 2).labels
    for size in (certified_intersection_size, jia_certified_intersection_size):
        layered = size(counts, 400, labels, sigma=same, radius=radii / 0.5, **theorem)
        np.testing.assert_array_equal(
            layered, size(counts, 400, labels, sigma=0.5, radius=radii, **theorem)
        )
    layered = certified_radius(counts, 400, labels, sigma=same, e=1, **theorem)
    number = certified_radius(counts, 400, labels, sigma=0.5, e=1, **theorem)
    assert 0 < layered * 0.5 == pytest.approx(number, rel=1e-12)


def test_every_layer_has_its_own_noise():
    """The output is one label, which says which pixels of three, one a layer, rose above 0.5."""
    rows, columns = zip(*[np.argwhere(LAYERS.mask(d))[-1] for d in range(3)])
    f = lambda x: jax.nn.one_hot((x[:, rows, columns, 1] > 0.5) @ jnp.array([4, 2, 1]), 8)  # noqa: E731
    counts = sample_counts(f, 0 * X, sigma=NOISE, n=4000, k_prime=1, key=KEY)
    for d, place in enumerate((4, 2, 1)):
        risen = counts[[label for label in range(8) if label & place]].sum()
        expected = ndtr(-0.5 / SIGMA[d])
        assert abs(risen / 4000 - expected) < 5 * (expected * (1 - expected) / 4000) ** 0.5


def test_a_layer_without_noise_is_passed_on_as_it_is():
    still = LayeredNoise(LAYERS, [0.5, 0.0, 0.5])
    kept = LAYERS.mask(1)
    f = lambda x: jnp.stack([(x == X)[:, kept].all((1, 2)) * 1.0, 0.5 * jnp.ones(len(x))], 1)  # noqa: E731
    assert sample_counts(f, X, sigma=still, n=100, k_prime=1, key=KEY).tolist() == [100, 0]
    change = np.where(kept[..., None], np.float32(1e-6), 0) * np.ones(2, np.float32)
    assert still.distance(change) == np.inf
    assert still.box_distance([0.1, 1e-9, 0.1], X.shape) == np.inf
    assert (
        still.largest_box(3.0, np.ones(3), X.shape)[1] == 0
        and still.layer_radii(3.0, X.shape)[1] == 0
    )


def test_no_change_in_the_ellipsoid_breaks_what_is_certified_and_one_on_its_border_does():
    """Linear scores: the probability at any change is known, so the theorem is checked without sampling.

    With two labels, k = k' = 1 and p known, R is the distance to the nearest change at which the label
    is lost: the theorem is tight there, and anything larger than the ellipsoid would be wrong.
    """
    rng, certified = np.random.default_rng(1), 0
    for _ in range(100):
        noise = random_noise(rng)
        scale = np.broadcast_to(noise.scale((4, 5, 2)), (4, 5, 2)).astype(float)
        slope, margin = rng.normal(size=(4, 5, 2)), rng.random() * 3
        spread = np.sqrt(np.sum((slope * scale) ** 2))
        radius = margin / spread  # Phi^-1(p) with p the probability of the label
        weights = rng.random(noise.layers.count)
        for _ in range(20):
            white = rng.normal(size=slope.shape) - 2 * slope * scale / spread
            change = radius * scale * white / np.linalg.norm(white) * rng.random() ** 0.1
            assert noise.distance(change) <= radius * (1 + 1e-9)
            assert margin + np.sum(slope * change) >= -1e-9
        worst = -radius * scale * (slope * scale) / spread
        assert noise.distance(worst) == pytest.approx(radius)
        assert margin + np.sum(slope * 1.001 * worst) < 0
        box = noise.largest_box(radius, weights, shape=(4, 5, 2))
        corner = np.asarray(noise.layers.spread(box)) * -np.sign(slope)
        assert noise.distance(corner) <= radius and margin + np.sum(slope * corner) >= 0
        certified += box.sum() > 0
    assert certified > 75


def test_brute_force_by_direct_sampling():
    """Five labels, top 3 of top 2: at changes in the ellipsoid the sampled top 3 keeps what is certified."""
    labels, n = [1, 3], 4000
    x = (0.2 * (WEIGHTS[:, 1] + WEIGHTS[:, 3])).reshape(X.shape)
    call = {"sigma": NOISE, "n": n, "k_prime": 2}
    counts = sample_counts(scores, x, key=KEY, **call)
    theorem = {"k": 3, "k_prime": 2, "sigma": NOISE, "alpha": 0.001}
    radius = certified_radius(counts, n, labels, e=2, **theorem)
    assert 0.1 < radius < np.inf
    rng = np.random.default_rng(2)
    for number in range(20):
        white = rng.normal(size=x.shape) - 2 * (WEIGHTS[:, 1] + WEIGHTS[:, 3]).reshape(x.shape)
        change = radius * NOISE.scale(x.shape) * white / np.linalg.norm(white)
        key = jax.random.fold_in(KEY, number)
        moved = sample_counts(scores, (x + change).astype(np.float32), key=key, **call)
        assert set(labels) <= set(predict(moved, 3).labels.tolist())


def test_the_largest_box_is_inside_touches_and_none_is_larger():
    rng, capped, free = np.random.default_rng(0), 0, 0
    for _ in range(60):
        noise = random_noise(rng)
        weights = rng.random(noise.layers.count) * (rng.random(noise.layers.count) < 0.8)
        radius = np.exp(rng.normal(1, 1.5))
        box = noise.largest_box(radius, weights, shape=(4, 5, 3))
        length = noise.box_distance(box, shape=(4, 5, 3))
        assert length <= radius and box.min() >= 0 and box.max() <= 1
        if not np.any((noise.sigma > 0) & (weights > 0)):
            assert not box.any()
            continue
        used = (weights > 0) & (noise.sigma > 0)
        if box[used].min() < 1:
            assert length >= radius * (1 - 1e-4) - 1e-3
        capped, free = capped + (box == 1).any(), free + (box[used] < 1).all()
        directions = rng.random((200, noise.layers.count)) ** 3 * (noise.sigma > 0)
        others = np.concatenate([directions, box * (1 + 0.1 * rng.normal(size=(200, len(box))))])
        others = np.clip(others, 0, 1)
        lengths = np.array([noise.box_distance(e, shape=(4, 5, 3)) for e in others])
        others *= np.minimum(1, radius / np.maximum(lengths, 1e-12))[:, None]
        assert (others @ weights).max() <= box @ weights * (1 + 1e-5) + 1e-5
    assert capped > 5 and free > 5


def test_without_the_cap_the_box_has_its_closed_form():
    weights, radius = np.array([1.0, 2.0, 0.5]), 0.3
    entries, variance = NOISE.entries(X.shape), SIGMA.astype(float) ** 2
    expected = weights * variance / entries
    expected *= radius / np.sqrt(np.sum(weights**2 * variance / entries))
    np.testing.assert_allclose(NOISE.largest_box(radius, weights, X.shape), expected, rtol=1e-4)
    size = radius * np.sqrt(np.sum(weights**2 * variance / entries))
    assert weights @ NOISE.largest_box(radius, weights, X.shape) == pytest.approx(size, rel=1e-4)


def test_the_box_of_float32_is_inside():
    rng = np.random.default_rng(4)
    for _ in range(50):
        noise, x = random_noise(rng), rng.random((4, 5, 2), np.float32)
        radius = np.exp(rng.normal(0, 2))
        epsilon = noise.largest_box(radius, np.ones(noise.layers.count), shape=(4, 5, 2))
        region = jmlv.LayeredNeighborhood(x, noise.layers, epsilon)
        lower, upper = (np.asarray(side, np.float64) for side in (region.lower, region.upper))
        assert noise.distance(np.maximum(upper - x, x - lower)) <= radius


def test_nothing_to_certify_and_nothing_to_lose():
    assert not NOISE.largest_box(0.0, np.ones(3), X.shape).any()
    assert NOISE.largest_box(np.inf, np.ones(3), X.shape).tolist() == [1, 1, 1]
    np.testing.assert_allclose(NOISE.layer_radii(np.inf, X.shape), np.sqrt(NOISE.entries(X.shape)))
    np.testing.assert_allclose(NOISE.layer_radii(0.5, X.shape), 0.5 * SIGMA, rtol=1e-6)


def test_an_attack_stays_in_the_ellipsoid_and_is_a_real_one():
    x = (0.2 * (WEIGHTS[:, 1] + WEIGHTS[:, 3])).reshape(X.shape).astype(np.float32)
    tiny = LayeredNoise(LAYERS, [0.7, 1e-4, 0.45])
    attack = {"k": 2, "k_prime": 2, "e": 2, "key": KEY, "samples": 64}
    for noise, still in itertools.product((NOISE, tiny), (False, True)):
        sigma = noise.sigma.copy()
        sigma[2] *= not still
        noise = LayeredNoise(LAYERS, sigma)
        call = {"sigma": noise, "n": 2000, "k_prime": 2}
        counts = sample_counts(scores, x, key=KEY, **call)
        theorem = {"k": 2, "k_prime": 2, "sigma": noise, "alpha": 0.001}
        radius = certified_radius(counts, 2000, [1, 3], e=2, **theorem)
        assert radius > 0.1
        for factor, broken in ((1.0, False), (10.0, True)):
            moved = attack_smoothed(
                scores, x, [1, 3], sigma=noise, radius=factor * radius, **attack
            )
            assert noise.distance(moved.astype(float) - x) <= factor * radius
            found = predict(sample_counts(scores, moved, key=jax.random.key(1), **call), 2).labels
            assert (set(found.tolist()) != {1, 3}) == broken, (noise, factor)


def test_partial_counts_of_other_noise_are_refused(tmp_path):
    call = {"n": 50, "k_prime": 2, "key": KEY, "resume": tmp_path / "counts.npz"}
    sample_counts(scores, X, sigma=NOISE, **call)
    other = LayeredNoise(LAYERS, SIGMA * np.float32([1, 1, 1.5]))
    for sigma in (other, 0.5):
        with pytest.raises(ValueError, match="^resume: .* another sigma"):
            sample_counts(scores, X, sigma=sigma, **call)


def test_values_compare_and_print():
    assert LayeredNoise(LAYERS, SIGMA) == NOISE != LayeredNoise(LAYERS, 0.5)
    assert "0.2 to 0.7" in repr(NOISE)
    with pytest.raises(ValueError, match="read-only"):
        NOISE.sigma[0] = 3


@pytest.mark.parametrize(
    "make, error, message",
    [
        (lambda: LayeredNoise(X[..., 0], 0.5), TypeError, "layers: expected"),
        (lambda: LayeredNoise(LAYERS, [0.5, 0.5]), ValueError, "sigma: expected one number"),
        (lambda: LayeredNoise(LAYERS, -0.5), ValueError, "sigma: expected finite"),
        (lambda: LayeredNoise(LAYERS, [0.5, np.nan, 1]), ValueError, "sigma: expected finite"),
        (lambda: LayeredNoise(LAYERS, [0.5, np.inf, 1]), ValueError, "sigma: expected finite"),
        (lambda: LayeredNoise(LAYERS, 0.0), ValueError, "sigma: every layer"),
        (lambda: NOISE.scale((4, 4, 1)), ValueError, "layers: made for"),
        (lambda: NOISE.largest_box(-1.0, np.ones(3), X.shape), ValueError, "radius: expected"),
        (lambda: NOISE.largest_box(np.nan, np.ones(3), X.shape), ValueError, "radius: expected"),
        (lambda: NOISE.largest_box(1.0, np.ones(2), X.shape), ValueError, "weights: expected"),
        (
            lambda: sample_counts(scores, X[:2], sigma=NOISE, n=9, k_prime=1, key=KEY),
            ValueError,
            "layers: made for",
        ),
    ],
)
def test_bad_noise_is_named(make, error, message):
    with pytest.raises(error, match=f"^{message}"):
        make()
