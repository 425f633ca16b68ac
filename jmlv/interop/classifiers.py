"""The published layouts of multi-label classifiers: PyTorch state dicts as Flax networks.

Each network has a table of what its parts are called elsewhere; all that has no entry has PyTorch's
name already.
"""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
from jaxtyping import Float

from jmlv.interop.state_dict import (
    LEAVES,
    Place,
    Shape,
    Tensor,
    dotted,
    filled,
    renaming,
    tensor,
    without_beginning,
)
from jmlv.interop.weights import read_weights
from jmlv.models import (
    GCNConfig,
    LIWConfig,
    MultiLabelGCN,
    MultiLabelLIW,
    MultiLabelQuery2Label,
    MultiLabelResNet,
    Query2LabelConfig,
    ResNetConfig,
)

TORCHVISION = {"backbone": ""}
TIMM = {"backbone": "body", "fc": "head.fc"}
TIMM_PATTERNS = (
    (r"downsample\.1\.", "downsample.1.bn."),
    (r"downsample\.0\.", "downsample.1.conv."),
    (r"(conv\d)\.weight$", r"\1.conv.weight"),
    (r"\bbn(\d)\.", r"conv\1.bn."),
)
"""There a convolution has its batch norm inside, and a shortcut's comes after its pool."""

QUERY2LABEL = {
    "backbone": "backbone.0.body",
    "encoder": "transformer.encoder.layers",
    "decoder": "transformer.decoder.layers",
    "norm": "transformer.decoder.norm",
}
MLGCN = {
    "backbone.conv1": "features.0",
    "backbone.bn1": "features.1",
    "backbone.layer1": "features.4",
    "backbone.layer2": "features.5",
    "backbone.layer3": "features.6",
    "backbone.layer4": "features.7",
}

POSITIONS = "backbone.1.pe"
"""Query2Label saves the positions of pixels, which are computed here."""

AUXILIARY = "AuxLogits."
"""Inception-v3's second head, which only training reads."""

NORMALISATION = ("mean", "std")
"""Attacks' wrappers keep these beside the network; here the sizes have them."""

EMBEDDINGS = "inp"
"""What attacks on ML-GCN call the labels' embeddings, which its own weights do not hold."""

PARTS = ("query", "key", "value")
"""In this order PyTorch stacks the projections of an attention."""


def resnet_from_torch(path: str | Path, config: ResNetConfig) -> MultiLabelResNet:
    """A :class:`jmlv.models.MultiLabelResNet` with weights in torchvision's layout (``conv1.weight``,
    ``layer1.0.bn1.running_mean``, ``fc.bias``).

    Args:
        path: ``.npz``, ``.safetensors`` or state-dict ``.pt`` file.
        config: the sizes that the network was trained with.

    Raises:
        FileNotFoundError: there is no such file.
        DamagedFile: it cannot be read, or tensors are missing, superfluous, of another shape or not
            finite; all are named.
    """
    return filled(config, read_weights(path), renaming(TORCHVISION), path)


def tresnet_from_timm(path: str | Path, config: ResNetConfig) -> MultiLabelResNet:
    """A :class:`jmlv.models.MultiLabelResNet` with weights in the layout that timm has for TResNet
    (``body.conv1.conv.weight``, ``body.layer1.0.conv1.bn.weight``, ``head.fc.bias``).

    The layout of TResNet's authors, whose batch norm is fused with the activation, is not read.

    Args:
        path: ``.npz``, ``.safetensors`` or state-dict ``.pt`` file.
        config: the sizes that the network was trained with, such as ``TRESNET_M``; TResNet takes
            pixels as they are, ``mean=(0.0,), std=(1.0,)``.

    Raises:
        FileNotFoundError: there is no such file.
        DamagedFile: it cannot be read, or tensors are missing, superfluous, of another shape or not
            finite; all are named.
    """
    return filled(config, read_weights(path), _tresnet, path)


def inception_from_torch(path: str | Path, config: LIWConfig) -> MultiLabelLIW:
    """A :class:`jmlv.models.MultiLabelLIW` with weights in torchvision's layout of Inception-v3
    (``Conv2d_1a_3x3.conv.weight``, ``Mixed_5b.branch1x1.bn.bias``, ``fc.weight``).

    The published ML-LIW wraps that network: its names begin with ``model.``, and its ``mean`` and
    ``std`` are not read, as ``config`` has them. Torchvision's ``transform_input``, on where a network
    was made with torchvision's own weights, changes pixels once more, and belongs into ``config`` too:
    it takes pixels normalised with ImageNet's mean and deviation to a mean and deviation of 0.5, the
    default; after a normalisation with 0.5, as in the published ML-LIW, it amounts to
    ``jmlv.models.mlliw.PUBLISHED_MEAN`` and ``PUBLISHED_STD``.

    Args:
        path: ``.npz``, ``.safetensors`` or state-dict ``.pt`` file.
        config: the sizes that the network was trained with.

    Raises:
        FileNotFoundError: there is no such file.
        DamagedFile: it cannot be read, or tensors are missing, superfluous, of another shape or not
            finite; all are named.
    """
    weights = without_beginning(read_weights(path), "model.")
    return filled(config, weights, renaming(TORCHVISION), path, _unread_in_inception)


def query2label_from_torch(path: str | Path, config: Query2LabelConfig) -> MultiLabelQuery2Label:
    """A :class:`jmlv.models.MultiLabelQuery2Label` with weights in the layout of its authors'
    repository (``backbone.0.body.conv1.weight``, ``transformer.decoder.layers.0.linear1.weight``,
    ``fc.W``).

    Args:
        path: ``.npz``, ``.safetensors`` or state-dict ``.pt`` file.
        config: the sizes that the network was trained with.

    Raises:
        FileNotFoundError: there is no such file.
        DamagedFile: it cannot be read, or tensors are missing, superfluous, of another shape or not
            finite; all are named.
    """
    return filled(config, read_weights(path), _query2label, path, lambda name: name == POSITIONS)


def mlgcn_from_torch(
    path: str | Path,
    config: GCNConfig,
    embeddings: Float[np.ndarray, "label embedding"] | None = None,
) -> MultiLabelGCN:
    r"""A :class:`jmlv.models.MultiLabelGCN` with weights in the layout of its authors' repository
    (``features.4.0.conv1.weight``, ``gc1.weight``, ``A``).

    The repository keeps the re-weighted matrix $A$ before its normalisation, and its graph is
    $D^{-1/2} A^T D^{-1/2}$ with the sums $D$ of the rows of $A$.

    Args:
        path: ``.npz``, ``.safetensors`` or state-dict ``.pt`` file.
        config: the sizes that the network was trained with.
        embeddings: one row a label, which the repository keeps in a file of their own; ``None``: the
            file has them as ``inp``.

    Raises:
        FileNotFoundError: there is no such file.
        DamagedFile: it cannot be read, or tensors are missing, superfluous, of another shape or not
            finite; all are named.
    """
    weights = dict(without_beginning(read_weights(path), "model."))
    if embeddings is not None:
        weights[EMBEDDINGS] = np.asarray(embeddings)
    elif np.ndim(weights.get(EMBEDDINGS)) == 3:
        weights[EMBEDDINGS] = weights[EMBEDDINGS][0]
    return filled(config, weights, _mlgcn, path, lambda name: name in NORMALISATION)


def _unread_in_inception(name: str) -> bool:
    return name.startswith(AUXILIARY) or name in NORMALISATION


def _tresnet(place: Place, shape: Shape) -> Tensor:
    name = dotted(place, TIMM)
    for pattern, other in TIMM_PATTERNS:
        name = re.sub(pattern, other, name)
    if ".se." in name and place[-1] == "kernel":
        return Tensor(name, (*shape[::-1], 1, 1), lambda value: value[:, :, 0, 0].T)
    return tensor(name, place[-1], shape)


def _query2label(place: Place, shape: Shape) -> Tensor:
    if place[0] == "fc":
        name = {"kernel": "fc.W", "bias": "fc.b"}[place[-1]]
        return Tensor(name, (1, *shape), lambda value: value[0])
    if place[-3:-2] in (("self_attn",), ("multihead_attn",)):
        return _attention(dotted(place[:-1], QUERY2LABEL).rpartition(".")[0], place[-2:], shape)
    return tensor(dotted(place, QUERY2LABEL), place[-1], shape)


def _attention(name: str, place: Place, shape: Shape) -> Tensor:
    """Flax keeps each head apart; PyTorch stacks the projections of query, key and value."""
    part, leaf = place
    parts, number = (1, 0) if part == "out" else (len(PARTS), PARTS.index(part))
    channels = shape[-1] if part == "out" else math.prod(shape[-2:])
    kind = LEAVES.get(leaf, leaf)
    return Tensor(
        f"{name}.out_proj.{kind}" if part == "out" else f"{name}.in_proj_{kind}",
        (parts * channels, channels) if leaf == "kernel" else (parts * channels,),
        lambda value: np.split(value, parts)[number].T.reshape(shape),
    )


def _mlgcn(place: Place, shape: Shape) -> Tensor:
    if place == ("embeddings",):
        return Tensor(EMBEDDINGS, shape)
    if place == ("graph",):
        return Tensor("A", shape, _published_graph)
    if place[0] in ("gc1", "gc2"):
        return Tensor(f"{place[0]}.weight", shape)
    return tensor(dotted(place, MLGCN), place[-1], shape)


def _published_graph(matrix: Float[np.ndarray, "label label"]) -> Float[np.ndarray, "label label"]:
    """$D^{-1/2} A^T D^{-1/2}$ with the sums $D$ of the rows of $A$."""
    scale = matrix.sum(1) ** -0.5
    return scale[:, None] * matrix.T * scale
