"""The convolutional network: sizes, flatten order, published shapes, refusals."""

import json
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jmlv.models import CNNConfig, MultiLabelCNN

PUBLISHED = CNNConfig(input_shape=(64, 64, 1), pool=4)
PUBLISHED_X2 = CNNConfig(
    input_shape=(64, 64, 1), channels=(16, 32), kernels=(4, 4), strides=(4, 4), pool=None
)
CASES = {
    # config: ReLU shapes, dense inputs
    "default": (CNNConfig(), ((16, 16, 8), (8, 8, 16)), 256),
    "published": (PUBLISHED, ((32, 32, 8), (16, 16, 16)), 256),
    "published x2": (PUBLISHED_X2, ((16, 16, 16), (4, 4, 32)), 512),
    "colour, oblong": (
        CNNConfig(input_shape=(20, 30, 3), labels=4),
        ((10, 15, 8), (5, 8, 16)),
        2 * 4 * 16,
    ),
    "overlapping pool": (CNNConfig(pool=3, pool_stride=1), ((16, 16, 8), (8, 8, 16)), 6 * 6 * 16),
}


@cache
def built(case: str) -> MultiLabelCNN:
    return MultiLabelCNN(CASES[case][0], rngs=nnx.Rngs(0))


@pytest.mark.parametrize("case", CASES)
def test_sizes(case):
    config, relus, inputs = CASES[case]
    model = built(case)
    assert config.relu_shapes == relus
    assert config.neurons == sum(np.prod(shape) for shape in relus)
    assert np.prod(config.feature_shape) == inputs
    assert model.dense.kernel.shape == (inputs, config.labels)
    assert model(jnp.zeros((3, *config.input_shape))).shape == (3, config.labels)


@pytest.mark.parametrize("case", CASES)
def test_agrees_with_plain_numpy(case):
    model = built(case)
    config = model.config
    x = np.random.default_rng(0).random((2, *config.input_shape)).astype(np.float32)
    assert np.allclose(model(x), numpy_scores(model, x), atol=1e-4)


def numpy_scores(model: MultiLabelCNN, x: np.ndarray) -> np.ndarray:
    config = model.config
    for layer, conv in enumerate((model.conv1, model.conv2)):
        padding, stride = config.paddings[layer], config.strides[layer]
        windows = numpy_windows(x, config.kernels[layer], stride, padding)
        kernel = np.asarray(conv.kernel[...]).transpose(2, 0, 1, 3)
        x = np.einsum("bijchw,chwo->bijo", windows, kernel) + np.asarray(conv.bias[...])
        x = np.maximum(x, 0)
    if config.pool is not None:
        stride = config.pool_stride or config.pool
        x = numpy_windows(x, config.pool, stride, 0).max(axis=(-1, -2))
    height_width_channel = x.reshape(len(x), -1)
    return height_width_channel @ np.asarray(model.dense.kernel[...]) + model.dense.bias[...]


def numpy_windows(x: np.ndarray, side: int, stride: int, padding: int) -> np.ndarray:
    x = np.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(x, (side, side), axis=(1, 2))
    return windows[:, ::stride, ::stride]


def test_seeds_decide_the_weights():
    def kernel(seed):
        return MultiLabelCNN(CNNConfig(), rngs=nnx.Rngs(seed)).conv1.kernel[...]

    assert (kernel(0) == kernel(0)).all()
    assert not (kernel(0) == kernel(1)).all()


def test_goes_through_jit_vmap_and_grad():
    model = built("default")
    graph, state = nnx.split(model)

    @jax.jit
    def score(image):
        return nnx.merge(graph, state)(image[None])[0, 3]

    images = jnp.full((2, 32, 32, 1), 0.5)
    assert jnp.allclose(jax.vmap(score)(images), model(images)[:, 3], atol=1e-5)
    assert jnp.abs(jax.grad(score)(images[0])).max() > 0


@pytest.mark.parametrize("case", CASES)
def test_config_survives_json(case):
    config, *_ = CASES[case]
    assert CNNConfig.from_json(json.loads(json.dumps(config.to_json()))) == config


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"input_shape": (32, 32)}, "input_shape"),
        ({"input_shape": (0, 32, 1)}, "input_shape"),
        ({"channels": (8, 0)}, "channels"),
        ({"kernels": [3, 3]}, "kernels"),
        ({"strides": (2, 2.0)}, "strides"),
        ({"paddings": (1, -1)}, "paddings"),
        ({"pool": 0}, "pool"),
        ({"pool_stride": 0}, "pool_stride"),
        ({"pool": None, "pool_stride": 2}, "pool_stride"),
        ({"labels": 0}, "labels"),
        ({"pool": 9}, "input_shape"),
        ({"input_shape": (2, 2, 1), "kernels": (5, 3)}, "input_shape"),
    ],
)
def test_impossible_sizes_are_named(options, name):
    """A runtime type checker, where one is on, may refuse with a TypeError first."""
    with pytest.raises((ValueError, TypeError), match=name):
        CNNConfig(**options)


@pytest.mark.parametrize("change", [{"labels": None}, {"width": 3}])
def test_from_json_refuses_other_names(change):
    values = CNNConfig().to_json() | change
    values = {name: value for name, value in values.items() if value is not None or name == "pool"}
    with pytest.raises(ValueError, match="values: got the names"):
        CNNConfig.from_json(values)
