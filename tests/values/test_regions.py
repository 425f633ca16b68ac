"""Boxes, layers and layered neighbourhoods: definitions, limits and errors."""

import warnings

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


@pytest.mark.filterwarnings("ignore:epsilon")
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


@pytest.mark.parametrize("kind", [np.uint8, np.int8, np.int64, bool, np.float16, jnp.bfloat16])
def test_types_are_converted_before_anything_is_computed(kind):
    """In uint8, 0 - 1 is 255 and 1 + 255 is 0: a wrong box, and once a wrong proof."""
    x = np.array([0, 1, 1]).astype(kind)
    box = Box.around(x, np.array([0.25, 0.5, 0]).astype(kind), domain=None)
    wanted = np.array([0.25, 0.5, 0]).astype(kind).astype(float)
    np.testing.assert_array_equal(box.lower, x.astype(float) - wanted)
    np.testing.assert_array_equal(box.upper, x.astype(float) + wanted)
    between = Box.between(x, x.astype(kind))
    np.testing.assert_array_equal(between.upper, x.astype(float))


def test_integers_never_wrap():
    ones = np.ones((2, 2, 1), np.uint8)
    layers = Layers.around(np.ones((2, 2)))
    with pytest.warns(UserWarning, match="reaches all of"):
        around = Box.around(ones, np.uint8(255))
    region = LayeredNeighborhood(ones, layers, np.array([255], np.uint8))
    for box in (around, region.box()):
        assert np.all(np.asarray(box.lower) == 0) and np.all(np.asarray(box.upper) == 1)


def test_float64_stays_float64():
    x = np.array([0.1, 0.3])
    assert Box.around(x, 0.05).lower.dtype == np.float64
    assert Box.around(x, 0.05).contains(x - 0.05)
    assert Box.around(x.astype(np.float32), 0.05).lower.dtype == np.float32


@pytest.mark.parametrize("epsilon, warns", [(8, True), (1.0, True), (0.5, False)])
def test_an_epsilon_that_reaches_everything_warns(epsilon, warns):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        Box.around(X, epsilon)
        Box.around(X, np.eye(6)[..., None])  # all of some pixels is a question
        Box.around(X, epsilon, domain=None)
    assert len(caught) == warns


MEAN, STD = np.array([0.5, 0.4]), np.array([0.25, 0.2])
DOMAINS = {
    "none": (None, -np.inf, np.inf),
    "pair": ((-1, 2.5), -1, 2.5),
    "normalised, channel last": ((-MEAN / STD, (1 - MEAN) / STD), -MEAN / STD, (1 - MEAN) / STD),
}


@pytest.mark.parametrize("name", DOMAINS)
def test_a_region_is_intersected_with_its_domain(name):
    domain, least, greatest = DOMAINS[name]
    x = np.array([[[-1.0, 2.5], [0.5, 0.0]]])
    box = Box.around(x, 0.75, domain)
    np.testing.assert_allclose(box.lower, np.maximum(x - 0.75, least))
    np.testing.assert_allclose(box.upper, np.minimum(x + 0.75, greatest))
    assert Box.between(x - 0.75, x + 0.75, domain) == box
    layers = Layers.around(np.array([[True, False]]))
    region = LayeredNeighborhood(x, layers, np.array([0.75, 0.75]), domain)
    np.testing.assert_allclose(region.lower, box.lower, rtol=1e-6)
    np.testing.assert_allclose(jax.jit(lambda r: r.upper)(region), box.upper, rtol=1e-6)


def test_layers_of_any_layout():
    mask = np.zeros((3, 4), bool)
    mask[1, 2] = True
    layers, epsilon = Layers.around(mask), np.array([0.5, 0.25, 0.125])
    x = np.full((3, 4, 2), 0.5, np.float32)
    wanted = np.asarray(LayeredNeighborhood(x, layers, epsilon).lower)
    moved = {
        "channel first": (layers.on((2, 3, 4), (1, 2)), (2, 0, 1)),
        "width first": (layers.on((4, 2, 3), (2, 0)), (1, 2, 0)),
    }
    point = wanted + np.linspace(0, 0.1, wanted.size).reshape(wanted.shape)
    for other, order in moved.values():
        region = LayeredNeighborhood(x.transpose(order), other, epsilon)
        np.testing.assert_array_equal(region.lower, wanted.transpose(order))
        reached = other.reach(region.x, point.transpose(order))
        np.testing.assert_array_equal(reached, layers.reach(x, point))
    for order, axes in (((0, 1, 2), (0, 1)), ((2, 0, 1), (1, 2))):
        flat = layers.on(x.transpose(order).shape, axes, flat=True)
        region = LayeredNeighborhood(x.transpose(order).reshape(-1), flat, epsilon)
        np.testing.assert_array_equal(region.lower, wanted.transpose(order).reshape(-1))
    banded = layers.on((2, 3, 4), (1, 2)).banded(1)
    assert banded.count == 1 and banded.places.shape == (1, 3, 4)


EYE = Layers.around(np.eye(6))
BAD = {
    "above one": (lambda: Box.around(X + 1, 0.1), "x: values must lie in"),
    "nan image": (lambda: Box.around(X * np.nan, 0.1), "x: holds NaN"),
    "negative epsilon": (lambda: Box.around(X, -0.1), "epsilon: must not be negative"),
    "nan epsilon": (lambda: Box.around(X, np.nan), "epsilon: holds NaN"),
    "epsilon shape": (lambda: Box.around(X, np.ones((6, 6))), "epsilon: shape"),
    "crossed": (lambda: Box.between(X + 0.1, X), "lower, upper"),
    "outside": (lambda: Box.between(X + 2, X + 3), "no value in"),
    "shapes": (lambda: Box.between(X, X[:3]), "upper: shape"),
    "eight bits": (lambda: Box.around(X * 255, 8), "Divide eight-bit images by 255"),
    "eight bits, integers": (
        lambda: Box.around((X * 255).astype(np.uint8), np.uint8(8)),
        "Divide eight-bit images by 255",
    ),
    "layers of eight bits": (
        lambda: LayeredNeighborhood((X * 255).astype(np.uint8), EYE, np.zeros(EYE.count)),
        "Divide eight-bit images by 255",
    ),
    "complex": (lambda: Box.around(X.astype(complex), 0.1), "x: expected real numbers"),
    "words": (lambda: Box.around(np.array(["a"]), 0.1), "x: expected real numbers"),
    "domain of three": (lambda: Box.around(X, 0.1, (0, 1, 2)), "domain: expected None or a pair"),
    "domain of one": (lambda: Box.around(X, 0.1, 1), "domain: expected None or a pair"),
    "crossed domain": (lambda: Box.around(X, 0.1, (1, 0)), "domain: its least value exceeds"),
    "nan domain": (lambda: Box.around(X, 0.1, (np.nan, 1)), "domain: its least value exceeds"),
    "domain's shape": (lambda: Box.around(X, 0.1, (0, np.ones(7))), "domain: its ends do not"),
    "outside the domain": (lambda: Box.around(X, 0.1, (0, 0.5)), "x: values must lie in"),
    "layers of a flat image": (
        lambda: LayeredNeighborhood(X.reshape(-1), EYE, np.zeros(EYE.count)),
        "Say how an input is laid out",
    ),
    "channel first": (
        lambda: LayeredNeighborhood(X.reshape(1, 6, 6), EYE, np.zeros(EYE.count)),
        "Say how an input is laid out",
    ),
    "wrong axes": (lambda: EYE.on((1, 6, 6), (0, 1)), "axes: the mask is"),
    "no axes": (lambda: EYE.on((1, 6, 6), (1, 3)), "axes: expected two of"),
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
