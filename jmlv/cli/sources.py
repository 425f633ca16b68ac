"""Networks and images from the user's own files, for commands that take them."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, Shaped

from jmlv.cli.inputs import network, test_images
from jmlv.errors import DamagedFile
from jmlv.graph import Graph, trace
from jmlv.interop import cnn_from_torch, config_of
from jmlv.regions import require_image

PICTURES = (".png", ".bmp", ".gif", ".jpg", ".jpeg", ".tif", ".tiff", ".pgm", ".ppm")
ARRAYS = (".npy", ".npz")
NAMES = ("images", "x")
"""What the images in an NPZ file may be called."""

Named = tuple[str, Float[np.ndarray, "height width channel"]]


def add_file_arguments(command: argparse.ArgumentParser) -> None:
    """Options for a network in PyTorch's layout and for images in files."""
    command.add_argument(
        "--weights",
        type=Path,
        help="imported network instead of a checkpoint: .npz, .safetensors or state-dict .pt with two "
        "convolutions (conv1, conv2) and a dense layer (fc1); the next four options describe it",
    )
    command.add_argument("--input-shape", type=int, nargs=3, default=(64, 64, 1), metavar=("H", "W", "C"),
                         help="images of the imported network")  # fmt: skip
    command.add_argument("--strides", type=int, nargs=2, default=(2, 2), help="of its convolutions")
    command.add_argument(
        "--paddings", type=int, nargs=2, default=(1, 1), help="of its convolutions"
    )
    command.add_argument("--pool", type=int, default=4, help="side of its max pool; 0 for none")
    command.add_argument(
        "--images", type=Path, metavar="PATH",
        help="picture, .npy or .npz file, or a folder of such files, instead of the test images",
    )  # fmt: skip


def chosen_network(arguments: argparse.Namespace) -> Graph:
    """The imported network if one is named, else the checkpoint's."""
    if arguments.weights is None:
        return network(arguments.checkpoint)[0]
    config = config_of(
        arguments.weights,
        tuple(arguments.input_shape),
        tuple(arguments.strides),
        tuple(arguments.paddings),
        arguments.pool or None,
    )
    return trace(cnn_from_torch(arguments.weights, config), config.input_shape)


def chosen_images(arguments: argparse.Namespace, shape: tuple[int, ...]) -> list[Named]:
    """Name and values of every image that is named, else of the test images."""
    if arguments.images is not None:
        return image_files(arguments.images, shape)
    data = test_images(arguments.mnist)
    if data.image_shape != shape:
        raise ValueError(
            f"images: the network takes {shape}, the test images are {data.image_shape}. "
            "Name files of its own with --images."
        )
    return [(f"test image {i}", image) for i, image in enumerate(data.images)]


def image_files(path: Path, shape: tuple[int, ...]) -> list[Named]:
    """The images of one file, or of all files in a folder in the order of their names.

    Args:
        path: a picture (grey levels divided by 255), an array file, or a folder of them.
        shape: (height, width, channel) that the network takes; arrays may have the channel first.

    Raises:
        FileNotFoundError: there is no such path.
        DamagedFile: a file cannot be read.
        ValueError: there is no image, its shape is another, or its values leave [0, 1].
    """
    known = (*PICTURES, *ARRAYS)
    files = [path]
    if path.is_dir():
        files = sorted(f for f in path.iterdir() if f.suffix.lower() in known)
    if not files or any(f.suffix.lower() not in known for f in files):
        raise ValueError(
            f"images: expected {', '.join(known)} files, none or another found at {path}."
        )
    return [image for file in files for image in _from_file(file, shape)]


def _from_file(path: Path, shape: tuple[int, ...]) -> list[Named]:
    try:
        content = _array(path) if path.suffix.lower() in ARRAYS else _picture(path, shape[-1])
    except FileNotFoundError:
        raise
    except (OSError, ValueError, EOFError, SyntaxError, KeyError) as error:
        raise DamagedFile(f"images: {path} cannot be read ({error}).") from error
    values = _scaled(content, path)
    images = _channels_last(values, shape, path)
    numbered = len(images) > 1
    return [(f"{path.stem}[{i}]" if numbered else path.stem, x) for i, x in enumerate(images)]


def _array(path: Path) -> np.ndarray:
    content = np.load(path, allow_pickle=False)
    if isinstance(content, np.ndarray):
        return content
    with content:
        names = [name for name in NAMES if name in content] or content.files
        if len(names) != 1 and names != list(NAMES):
            raise ValueError(f"expected one array, or one called {' or '.join(NAMES)}, got {names}")
        return content[names[0]]


def _picture(path: Path, channels: int) -> np.ndarray:
    from PIL import Image

    if channels not in (1, 3):
        raise ValueError(f"the network reads {channels} channels, pictures have 1 or 3")
    with Image.open(path) as picture:
        return np.asarray(picture.convert("L" if channels == 1 else "RGB"))


def _scaled(content: Shaped[np.ndarray, "..."], path: Path) -> Float[np.ndarray, "..."]:
    if content.dtype == np.uint8:
        return content.astype(np.float32) / np.float32(255)
    if content.dtype.kind != "f":
        raise ValueError(
            f"images: {path} holds {content.dtype}, expected bytes or floats in [0, 1]."
        )
    values = content.astype(np.float32)
    require_image(values, f"images: {path}")
    return values


def _channels_last(
    values: Float[np.ndarray, "..."], shape: Sequence[int], path: Path
) -> Float[np.ndarray, "image height width channel"]:
    """A grey image, an image, or a stack, with the channel in either place."""
    height, width, channels = shape
    if channels == 1 and values.shape[-2:] == (height, width):
        return values.reshape(-1, height, width, 1)
    if values.ndim in (3, 4) and values.shape[-3:] == (height, width, channels):
        return values.reshape(-1, height, width, channels)
    if values.ndim in (3, 4) and values.shape[-3:] == (channels, height, width):
        return np.moveaxis(values.reshape(-1, channels, height, width), 1, -1)
    raise ValueError(f"images: {path} has shape {values.shape}, the network takes {tuple(shape)}.")
