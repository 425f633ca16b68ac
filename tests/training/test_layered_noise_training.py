"""Training under noise whose level changes from layer to layer."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jmlv.data import double_digits
from jmlv.models import CNNConfig
from jmlv.regions import Layers
from jmlv.training import LayeredGaussianNoise, TrainingConfig, train

SHAPE = (40, 24, 30, 2)
KEYS = jax.random.split(jax.random.key(0))


def explains(rectangle, scale, count):
    """Whether the layers around a rectangle, three a band, are where the levels change."""
    band = (np.asarray(Layers.around(rectangle).index) + 2) // 3
    bands = [np.unique(scale[band == b]) for b in range(band.max() + 1)]
    return len(bands) == count and all(len(levels) == 1 for levels in bands)


def test_levels_are_constant_on_bands_of_layers_around_a_rectangle():
    defence = LayeredGaussianNoise(lowest=0.1, highest=2.0, ring=3, silent=0.0)
    counted = []
    for one in np.asarray(defence.scale(*KEYS, SHAPE)):
        levels = np.unique(one)
        masks = [one == level for level in levels]
        rectangles = [mask for mask in masks if mask[np.ix_(mask.any(1), mask.any(0))].all()]
        assert any(explains(mask, one, len(levels)) for mask in rectangles)
        assert levels.min() >= 0.0999 and levels.max() <= 2.001
        counted.append(len(levels))
    assert min(counted) > 3


def test_so_many_bands_are_silent():
    defence = LayeredGaussianNoise(silent=0.3)
    scale = np.asarray(defence.scale(*KEYS, (400, 8, 8, 1)))
    assert 0.2 < (scale == 0).mean() < 0.4


def test_images_get_that_noise_and_are_not_clipped():
    images = jnp.full((2, 32, 32, 1), 0.5)
    defence = LayeredGaussianNoise(lowest=0.5, highest=0.5, silent=0.0)
    moved = np.asarray(jax.jit(lambda x, key: defence.apply(None, x, None, key))(images, KEYS[0]))
    assert moved.std() == pytest.approx(0.5, rel=0.1) and moved.min() < 0 and moved.max() > 1
    other = np.asarray(defence.apply(None, images, None, KEYS[1]))
    assert not np.array_equal(moved, other) and not np.array_equal(moved[0], moved[1])


def test_it_trains():
    data, model = double_digits(size=128), CNNConfig(channels=(4, 4), pool=None)
    config = TrainingConfig(epochs=2, batch_size=64)
    before, after = train(data, model, config, defence=LayeredGaussianNoise(highest=0.3)).losses
    assert after < before


def test_a_file_can_ask_for_it():
    from jmlv.cli.training_plan import DEFENCES

    assert DEFENCES["layered-noise"](highest=1.0) == LayeredGaussianNoise(highest=1.0)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"lowest": 0.0}, "lowest, highest: "),
        ({"lowest": 3.0}, "lowest, highest: "),
        ({"highest": float("inf")}, "lowest, highest: "),
        ({"ring": 0}, "ring: "),
        ({"silent": 1.0}, "silent: "),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        LayeredGaussianNoise(**options)
