"""Weights trained elsewhere, read into Flax models with the layout put right."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Float

from jmlv.errors import DamagedFile
from jmlv.models import CNNConfig, MultiLabelCNN


def cnn_from_torch(path: str | Path, config: CNNConfig) -> MultiLabelCNN:
    """A :class:`jmlv.models.MultiLabelCNN` with the weights of a PyTorch network, from an NPZ file.

    PyTorch keeps convolution kernels as (out, in, height, width), dense weights as (out, in), and
    flattens features channel by channel; Flax keeps (height, width, in, out), (in, out), and the
    model flattens pixel by pixel.

    Args:
        path: NPZ file with ``conv1.weight``, ``conv1.bias``, ``conv2.*`` and ``fc1.*``.
        config: the network's sizes.

    Raises:
        FileNotFoundError: there is no such file.
        DamagedFile: it is not an NPZ file, an array is missing, or its shape does not fit.
    """
    weights = _arrays(Path(path))
    model = MultiLabelCNN(config, rngs=nnx.Rngs(0))
    for name in ("conv1", "conv2"):
        kernel = _checked(weights, f"{name}.weight", path).transpose(2, 3, 1, 0)
        _assign(getattr(model, name), kernel, _checked(weights, f"{name}.bias", path), name)
    height, width, channels = config.feature_shape
    kernel = _checked(weights, "fc1.weight", path)
    if kernel.shape[1] != height * width * channels:
        raise DamagedFile(f"path: fc1 reads {kernel.shape[1]} features, config gives {config.feature_shape}.")
    kernel = kernel.reshape(-1, channels, height, width).transpose(2, 3, 1, 0)
    kernel = kernel.reshape(-1, kernel.shape[-1])
    _assign(model.dense, kernel, _checked(weights, "fc1.bias", path), "fc1")
    return model


def _assign(layer: nnx.Module, kernel: np.ndarray, bias: np.ndarray, name: str) -> None:
    for parameter, value in ((layer.kernel, kernel), (layer.bias, bias)):
        if parameter.shape != value.shape:
            raise DamagedFile(f"path: {name} has shape {value.shape}, config gives {parameter.shape}.")
        parameter[...] = jnp.asarray(value)


def _arrays(path: Path) -> Mapping[str, Float[np.ndarray, "..."]]:
    try:
        with np.load(path, allow_pickle=False) as content:
            return {name: content[name] for name in content.files}
    except (zipfile.BadZipFile, ValueError, EOFError) as error:
        raise DamagedFile(f"path: {path} is not an NPZ file of arrays ({error}).") from error


def _checked(weights: Mapping[str, np.ndarray], name: str, path: str | Path) -> np.ndarray:
    if name not in weights:
        raise DamagedFile(f"path: {path} has no array {name!r}; it has {sorted(weights)}.")
    value = np.asarray(weights[name], np.float32)
    if not np.isfinite(value).all():
        raise DamagedFile(f"path: {name!r} in {path} holds NaN or infinite values.")
    return value
