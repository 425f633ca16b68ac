"""Boxes, layers and layered neighbourhoods: definitions, limits and errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jmlv
from jmlv.regions import Box, LayeredNeighborhood, Layers

X = np.linspace(0, 1, 36, dtype=np.float32).reshape(6, 6, 1)


def brute_force_distance(mask):
    """Chebyshev distance to the nearest set pixel, pixel by pixel."""
    place = np.stack(np.meshgrid(*map(np.arange, mask.shape), indexing="ij"), -1)
    objects = place[mask]
    return np.abs(place[:, :, None] - objects).max(-1).min(-1)


@pytest.mark.parametrize("seed", range(20))
def test_layers_are_chebyshev_distances(seed):
    rng = np.random.default_rng(seed)
    mask = rng.random((9, 7)) < 0.1
    mask[rng.integers(9), rng.integers(7)] = True
    layers = Layers.around(mask)
    np.testing.assert_array_equal(layers.index, brute_force_distance(mask))
    assert layers.counts().sum() == mask.size
    np.testing.assert_array_equal(layers.mask(0), mask)


@pytest.mark.parametrize("epsilon", [0.0, 0.1, 2.0, X * 0.5])
def test_box_is_intersected_with_the_unit_box(epsilon):
    box = Box.around(X, epsilon)
    np.testing.assert_allclose(box.lower, np.maximum(X - epsilon, 0), atol=1e-7)
    np.testing.assert_allclose(box.upper, np.minimum(X + epsilon, 1), atol=1e-7)
    assert box.contains(X) and box.contains(box.clip(X + 5)) and not box.contains(X + 5)


def test_neighborhood_is_one_epsilon_per_layer():
    layers = Layers.around(X[..., 0] > 0.9)
    epsilon = jnp.linspace(0.5, 0, layers.count)
    region = LayeredNeighborhood(X, layers, epsilon)
    box = Box.around(X, np.asarray(epsilon)[np.asarray(layers.index)][..., None])
    assert region.box() == box and region.shape == X.shape
    weights = np.arange(layers.count)
    assert float(region.size(weights)) == pytest.approx(float(weights @ np.asarray(epsilon)))


def test_regions_are_pytrees_and_differentiable():
    layers = Layers.around(X[..., 0] > 0.9)

    @jax.jit
    def width(region):
        return jnp.sum(region.upper - region.lower)

    def of_epsilon(epsilon):
        return width(LayeredNeighborhood(jnp.full_like(X, 0.5), layers, epsilon))

    slope = jax.grad(of_epsilon)(jnp.full(layers.count, 0.1))
    np.testing.assert_allclose(slope, 2 * layers.counts(), rtol=1e-6)
    batch = jax.vmap(lambda e: Box.around(X, e))(jnp.array([0.0, 0.1]))
    assert batch.shape == (2, 6, 6, 1)


BAD = {
    "above one": (lambda: Box.around(X + 1, 0.1), "x: values must lie in"),
    "nan image": (lambda: Box.around(X * np.nan, 0.1), "x: holds NaN"),
    "negative epsilon": (lambda: Box.around(X, -0.1), "epsilon: must not be negative"),
    "nan epsilon": (lambda: Box.around(X, np.nan), "epsilon: holds NaN"),
    "epsilon shape": (lambda: Box.around(X, np.ones((6, 6))), "epsilon: shape"),
    "crossed": (lambda: Box.between(X + 0.1, X), "lower, upper"),
    "outside": (lambda: Box.between(X + 2, X + 3), "no value in"),
    "shapes": (lambda: Box.between(X, X[:3]), "upper: shape"),
    "empty mask": (lambda: Layers.around(np.zeros((3, 3))), "mask: no pixel"),
    "flat mask": (lambda: Layers.around(np.ones(3)), "mask: expected"),
    "epsilon count": (
        lambda: LayeredNeighborhood(X, Layers.around(np.eye(6)), np.zeros(2)),
        "epsilon: expected one value per layer",
    ),
    "layers of another size": (
        lambda: LayeredNeighborhood(X, Layers.around(np.eye(5)), np.zeros(5)),
        "layers: made for",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_named(name):
    call, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        call()


def test_values_print_and_compare():
    assert repr(Box.around(X, 0.1)).startswith("Box(shape=(6, 6, 1)")
    assert Box.around(X, 0.1) == Box.around(X, 0.1) != Box.around(X, 0.2)
    assert jmlv.InTopK(1, 2) == jmlv.InTopK(1, 2)
