"""Weights trained in PyTorch, put into Flax models with the layout put right.

PyTorch keeps convolution kernels as (out, in, height, width), dense weights as (out, in), and
flattens features channel by channel; Flax keeps (height, width, in, out), (in, out), and the models
here flatten pixel by pixel.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Float

from jmlv.errors import DamagedFile
from jmlv.interop.weights import read_weights
from jmlv.models import CNNConfig, MultiLabelCNN

NAMES = ("conv1", "conv2", "fc1")
"""What the layers of the published networks are called."""


def cnn_from_torch(
    path: str | Path, config: CNNConfig, names: Sequence[str] = NAMES
) -> MultiLabelCNN:
    """A :class:`jmlv.models.MultiLabelCNN` with the weights of a PyTorch network.

    Args:
        path: ``.npz``, ``.safetensors`` or state-dict ``.pt`` file with a ``weight`` and a ``bias``
            for each layer, such as ``conv1.weight``.
        config: the network's sizes.
        names: what the two convolutions and the dense layer are called.

    Raises:
        FileNotFoundError: there is no such file.
        DamagedFile: it cannot be read, an array is missing, or its shape does not fit.
    """
    weights = read_weights(path)
    model = nnx.eval_shape(lambda: MultiLabelCNN(config, rngs=nnx.Rngs(0)))
    *convolutions, dense = names
    for layer, name in zip((model.conv1, model.conv2), convolutions):
        kernel = convolution_kernel(_checked(weights, f"{name}.weight", 4, path))
        _assign(layer, kernel, _checked(weights, f"{name}.bias", 1, path), name)
    weight = _checked(weights, f"{dense}.weight", 2, path)
    if weight.shape[1] != np.prod(config.feature_shape):
        raise DamagedFile(
            f"path: {dense} reads {weight.shape[1]} features, config gives {config.feature_shape}."
        )
    kernel = dense_kernel(weight, config.feature_shape)
    _assign(model.dense, kernel, _checked(weights, f"{dense}.bias", 1, path), dense)
    return model


def config_of(
    path: str | Path,
    input_shape: tuple[int, int, int],
    strides: tuple[int, int],
    paddings: tuple[int, int],
    pool: int | None,
    names: Sequence[str] = NAMES,
) -> CNNConfig:
    """The sizes of a network: what its weights don't tell, and from them the rest.

    Raises:
        DamagedFile: an array is missing, or is not a square kernel.
    """
    weights = read_weights(path)
    shapes = [_checked(weights, f"{name}.weight", 4, path).shape for name in names[:2]]
    if any(height != width for *_, height, width in shapes):
        raise DamagedFile(f"path: the kernels in {path} are not square: {shapes}.")
    return CNNConfig(
        input_shape=input_shape,
        channels=tuple(int(shape[0]) for shape in shapes),
        kernels=tuple(int(shape[-1]) for shape in shapes),
        strides=strides,
        paddings=paddings,
        pool=pool,
        labels=len(_checked(weights, f"{names[2]}.bias", 1, path)),
    )


def convolution_kernel(
    weight: Float[np.ndarray, "out in height width"],
) -> Float[np.ndarray, "height width in out"]:
    """PyTorch's convolution weight as Flax's kernel."""
    return weight.transpose(2, 3, 1, 0)


def dense_kernel(
    weight: Float[np.ndarray, "out feature"], feature_shape: tuple[int, int, int] | None = None
) -> Float[np.ndarray, "feature out"]:
    """PyTorch's dense weight as Flax's kernel.

    Args:
        weight: as PyTorch keeps it.
        feature_shape: (height, width, channel) of what was flattened before the layer, if it was.

    >>> weight = np.arange(4.0)[None]  # two channels of two pixels: (c0 p0, c0 p1, c1 p0, c1 p1)
    >>> dense_kernel(weight, (1, 2, 2)).ravel()
    array([0., 2., 1., 3.])
    """
    if feature_shape is None:
        return weight.T
    height, width, channels = feature_shape
    kernel = weight.reshape(-1, channels, height, width).transpose(2, 3, 1, 0)
    return kernel.reshape(-1, kernel.shape[-1])


def _assign(layer: nnx.Module, kernel: np.ndarray, bias: np.ndarray, name: str) -> None:
    for parameter, value in ((layer.kernel, kernel), (layer.bias, bias)):
        if parameter.shape != value.shape:
            raise DamagedFile(
                f"path: {name} has shape {value.shape}, config gives {parameter.shape}."
            )
        parameter.set_value(jnp.asarray(value))


def _checked(
    weights: Mapping[str, np.ndarray], name: str, dimensions: int, path: str | Path
) -> np.ndarray:
    if name not in weights:
        raise DamagedFile(f"path: {path} has no array {name!r}; it has {sorted(weights)}.")
    value = np.asarray(weights[name], np.float32)
    if value.ndim != dimensions:
        raise DamagedFile(f"path: {name!r} in {path} has {value.ndim} axes, expected {dimensions}.")
    if not np.isfinite(value).all():
        raise DamagedFile(f"path: {name!r} in {path} holds NaN or infinite values.")
    return value
