"""Networks, label names and images from the user's own files, for commands that take them."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, Shaped

from jmlv import checkpoints
from jmlv.cli.inputs import network, test_images
from jmlv.cli.options import refuse
from jmlv.data import MultiLabelImages
from jmlv.errors import DamagedFile
from jmlv.graph import Graph, trace
from jmlv.interop import OnImages, cnn_from_torch, config_of, read_onnx
from jmlv.oracles import Query
from jmlv.properties import AboveThreshold, InTopK, KeepsLabels, Property
from jmlv.regions import Box, require_image

PICTURES = (".png", ".bmp", ".gif", ".jpg", ".jpeg", ".tif", ".tiff", ".pgm", ".ppm")
ARRAYS = (".npy", ".npz")
NAMES = ("images", "x")
"""What the images in an NPZ file may be called."""

Named = tuple[str, Float[np.ndarray, "height width channel"]]


def add_file_arguments(command: argparse.ArgumentParser) -> None:
    """Options for a network of one's own, in two forms, and for images in files."""
    add_onnx_arguments(command)
    add_image_arguments(command)
    command.add_argument(
        "--weights",
        type=Path,
        help="imported network instead of a checkpoint: .npz, .safetensors or state-dict .pt with two "
        "convolutions (conv1, conv2) and a dense layer (fc1); the next four options describe it",
    )
    command.add_argument("--input-shape", type=int, nargs=3, default=(64, 64, 1), metavar=("H", "W", "C"),
                         help="images of that network")  # fmt: skip
    command.add_argument("--strides", type=int, nargs=2, default=(2, 2), help="of its convolutions")
    command.add_argument(
        "--paddings", type=int, nargs=2, default=(1, 1), help="of its convolutions"
    )
    command.add_argument("--pool", type=int, default=4, help="side of its max pool; 0 for none")


def add_onnx_arguments(command: argparse.ArgumentParser) -> None:
    """Options for a network in an ONNX file, which is asked about images in [0, 1]."""
    command.add_argument(
        "--network", type=Path, metavar="FILE", help="ONNX file instead of a checkpoint"
    )
    command.add_argument("--image-shape", type=int, nargs=3, metavar=("H", "W", "C"),
                         help="images of the ONNX network, where its file does not say it")  # fmt: skip
    command.add_argument("--mean", type=float, nargs="+", default=[0.0],
                         help="what it was trained to subtract from images in [0, 1]")  # fmt: skip
    command.add_argument("--std", type=float, nargs="+", default=[1.0],
                         help="and to divide by; one number, or one a channel")  # fmt: skip
    command.add_argument("--names", type=Path, metavar="FILE", help="label names, one a line")


def add_image_arguments(command: argparse.ArgumentParser, flag: str = "--images") -> None:
    """Options for images in files."""
    command.add_argument(
        flag, type=Path, metavar="PATH",
        help="picture, .npy or .npz file, or a folder of such files, instead of the test images",
    )  # fmt: skip
    command.add_argument("--resize", action="store_true",
                         help="fit pictures and masks of other sizes to the network")  # fmt: skip


def own_network(arguments: argparse.Namespace) -> OnImages:
    """The ONNX network as a function of images in [0, 1]."""
    network = read_onnx(arguments.network)
    return OnImages(
        network,
        network.input_shape,
        None if arguments.image_shape is None else tuple(arguments.image_shape),
        mean=tuple(arguments.mean),
        std=tuple(arguments.std),
    )


def label_names(arguments: argparse.Namespace, count: int) -> tuple[str, ...]:
    """The names of the labels: the file's, else the checkpoint's, else their numbers.

    Raises:
        ValueError: there are another number of names, or one twice.
    """
    if arguments.names is not None:
        lines = arguments.names.read_text(encoding="utf-8-sig").splitlines()
        names = tuple(line.strip() for line in lines if line.strip())
    else:
        own = arguments.network is not None or getattr(arguments, "weights", None) is not None
        names = () if own else checkpoints.label_names(arguments.checkpoint)
        if not names:
            return tuple(map(str, range(count)))
    if len(names) != count or len(set(names)) != count:
        raise ValueError(
            f"names: {arguments.names or arguments.checkpoint} has {len(names)} names, "
            f"{len(set(names))} of them different; the network has {count} labels."
        )
    return names


def label_number(label: str, names: Sequence[str]) -> int:
    """A label from its name or number.

    Raises:
        ValueError: it is neither.
    """
    if label in names:
        return names.index(label)
    if label.isdecimal() and int(label) < len(names):
        return int(label)
    raise ValueError(f"label: expected a name or a number in 0..{len(names) - 1}, got {label!r}.")


def label_asked(arguments: argparse.Namespace, graph: Graph) -> int:
    """The label that ``--label`` names."""
    return label_number(arguments.label, label_names(arguments, graph.label_count))


def kept(arguments: argparse.Namespace, graph: Graph, x: np.ndarray) -> Property:
    """The label that is asked for stays in the top k; by default all of the image's top k do."""
    if arguments.label is not None:
        return InTopK(label_asked(arguments, graph), arguments.k)
    best = np.argsort(-np.asarray(graph.scores(x[None])[0]), kind="stable")[: arguments.k]
    return KeepsLabels(tuple(sorted(map(int, best))), arguments.k)


def own_batch(arguments: argparse.Namespace) -> tuple[OnImages, MultiLabelImages]:
    """The ONNX network and the images in files, with the network's own top k as their labels."""
    if arguments.images_from is None:
        raise ValueError("network: name its images with --images-from.")
    model = own_network(arguments)
    named = image_files(arguments.images_from, model.image_shape, arguments.resize)
    images = np.stack([x for _, x in named])
    scores = np.asarray(model(images))
    order = np.argsort(-scores, axis=1, kind="stable")
    labels = np.zeros(scores.shape, bool)
    np.put_along_axis(labels, order[:, : arguments.k], True, axis=1)
    data = MultiLabelImages(
        images=images,
        labels=labels,
        masks=np.zeros((len(images), 1, *model.image_shape[:2]), bool),
        object_labels=order[:, :1],
        source_indices=np.arange(len(images))[:, None],
        label_names=label_names(arguments, scores.shape[1]),
        split="test",
        origin=str(arguments.images_from),
    )
    return model, data


def chosen_network(arguments: argparse.Namespace) -> Graph:
    """The network of one's own if one is named, else the checkpoint's.

    Raises:
        ValueError: options of one were given beside another.
    """
    _refuse_other_networks(arguments)
    if arguments.network is not None:
        f = own_network(arguments)
        every = Box(np.zeros(f.image_shape, np.float32), np.ones(f.image_shape, np.float32))
        return Query.of(f, every, AboveThreshold(0)).network  # compared with f all over the images
    if arguments.weights is None:
        return network(arguments.checkpoint, arguments.module)[0]
    config = config_of(
        arguments.weights,
        tuple(arguments.input_shape),
        tuple(arguments.strides),
        tuple(arguments.paddings),
        arguments.pool or None,
    )
    return trace(cnn_from_torch(arguments.weights, config), config.input_shape)


def _refuse_other_networks(arguments: argparse.Namespace) -> None:
    weights = getattr(arguments, "weights", None)
    if arguments.network is not None:
        refuse(arguments, "not beside --network: there is one network.", "checkpoint", "weights")
    elif weights is not None:
        refuse(arguments, "not beside --weights: there is one network.", "checkpoint")
    if arguments.network is None:
        refuse(arguments, "these describe --network, which is missing.", *ONNX)
    if weights is None:
        refuse(arguments, "these describe --weights, which is missing.", *GEOMETRY)
    if arguments.images is not None:
        refuse(arguments, "not beside --images: these are other images.", "mnist")


ONNX = ("image_shape", "mean", "std")
GEOMETRY = ("input_shape", "strides", "paddings", "pool")
"""Options that describe a network in a file."""


def chosen_images(arguments: argparse.Namespace, shape: tuple[int, ...]) -> list[Named]:
    """Name and values of every image that is named, else of the test images."""
    if arguments.images is not None:
        return image_files(arguments.images, shape, arguments.resize)
    data = test_images(arguments.mnist)
    if data.image_shape != shape:
        raise ValueError(
            f"images: the network takes {shape}, the test images are {data.image_shape}. "
            "Name files of its own with --images."
        )
    return [(f"test image {i}", image) for i, image in enumerate(data.images)]


def image_files(path: Path, shape: tuple[int, ...], resize: bool = False) -> list[Named]:
    """The images of one file, or of all files in a folder in the order of their names.

    Args:
        path: a picture (grey levels divided by 255), an array file, or a folder of them.
        shape: (height, width, channel) that the network takes; arrays may have the channel first.
        resize: whether pictures of another size are fitted to it.

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
    return [image for file in files for image in _from_file(file, shape, resize)]


def _from_file(path: Path, shape: tuple[int, ...], resize: bool) -> list[Named]:
    size = shape[:2] if resize else None
    try:
        content = _array(path) if path.suffix.lower() in ARRAYS else _picture(path, shape[-1], size)
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


def _picture(path: Path, channels: int, size: tuple[int, int] | None) -> np.ndarray:
    from PIL import Image

    if channels not in (1, 3):
        raise ValueError(f"the network reads {channels} channels, pictures have 1 or 3")
    with Image.open(path) as picture:
        picture = picture.convert("L" if channels == 1 else "RGB")
        if size is not None:
            picture = picture.resize(size[::-1], Image.Resampling.BILINEAR)
        return np.asarray(picture)


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
    raise ValueError(
        f"images: {path} has shape {values.shape}, the network takes {tuple(shape)}. Fit pictures to "
        "it with --resize."
    )
