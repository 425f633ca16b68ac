"""Fills a Flax network with the tensors of a PyTorch state dict, under whatever names they have there.

A rule says for each array of the network which tensor it comes from. Everything that does not fit - a
tensor that is missing, that nothing asked for, that has another shape or is not finite - is named in
one error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Num

from jmlv.errors import DamagedFile
from jmlv.models import ModelConfig, unfilled

COUNTER = "num_batches_tracked"
"""PyTorch's batch norm counts its batches; nothing reads the count at inference."""

LEAVES = {
    "kernel": "weight",
    "embedding": "weight",
    "scale": "weight",
    "mean": "running_mean",
    "var": "running_var",
}
"""What PyTorch calls the arrays that Flax calls otherwise."""

Place = tuple[str, ...]
"""Where an array is in the network: ``("backbone", "layer1", "0", "conv1", "kernel")``."""

Shape = tuple[int, ...]
Weights = Mapping[str, Num[np.ndarray, "..."]]


@dataclass(frozen=True)
class Tensor:
    """The tensor that an array comes from.

    Attributes:
        name: in the state dict.
        shape: that it must have.
        convert: the tensor as the array.
    """

    name: str
    shape: Shape
    convert: Callable[[np.ndarray], np.ndarray] = lambda value: value


Rule = Callable[[Place, Shape], Tensor]
"""Maps an array's place and shape to the tensor that it comes from."""


def renaming(renamed: Mapping[str, str]) -> Rule:
    """The rule of a network whose parts have PyTorch's names but for these beginnings."""
    return lambda place, shape: tensor(dotted(place, renamed), place[-1], shape)


def dotted(place: Place, renamed: Mapping[str, str]) -> str:
    """A place in PyTorch's way; a beginning that is renamed gets its other name.

    >>> dotted(("backbone", "layer1", "0", "bn1", "mean"), {"backbone": ""})
    'layer1.0.bn1.running_mean'
    """
    *parts, leaf = place
    name = ".".join((*parts, LEAVES.get(leaf, leaf)))
    for begin, other in renamed.items():
        if name.startswith(f"{begin}."):
            return (other + name[len(begin) :]).removeprefix(".")
    return name


def tensor(name: str, leaf: str, shape: Shape) -> Tensor:
    """The tensor for a Flax array: kernels of convolutions and dense layers have other axes there.

    >>> tensor("fc.weight", "kernel", (8, 5)).shape
    (5, 8)
    >>> tensor("conv1.weight", "kernel", (3, 3, 4, 6)).shape
    (6, 4, 3, 3)
    """
    if leaf != "kernel":
        return Tensor(name, shape)
    if len(shape) == 2:
        return Tensor(name, shape[::-1], np.transpose)
    height, width, inputs, outputs = shape
    return Tensor(name, (outputs, inputs, height, width), lambda value: value.transpose(2, 3, 1, 0))


def without_beginning(weights: Weights, begin: str) -> Weights:
    """The same tensors, names without that beginning where they have it: wrappers put it there."""
    return {name.removeprefix(begin): value for name, value in weights.items()}


def filled(
    config: ModelConfig,
    weights: Weights,
    rule: Rule,
    path: str | Path,
    ignored: Callable[[str], bool] = lambda name: False,
) -> nnx.Module:
    """The network of these sizes with these weights, in evaluation mode.

    Args:
        config: the sizes.
        weights: the state dict.
        rule: where each array comes from.
        path: of the file, for the error.
        ignored: which tensors may be there without a use; batch norm's counters always may.

    Raises:
        DamagedFile: tensors are missing, superfluous, of another shape, or not finite: all are named.
    """
    graph, shapes, random = unfilled(config)
    flat = dict(nnx.to_flat_state(shapes))
    sources = {place: rule(tuple(map(str, place)), held.shape) for place, held in flat.items()}
    _require_fit(list(sources.values()), weights, path, ignored)
    for place, source in sources.items():
        value = source.convert(np.asarray(weights[source.name], np.float32))
        flat[place] = flat[place].replace(jnp.asarray(value))
    return nnx.merge(graph, nnx.from_flat_state(flat), random)


def _require_fit(
    sources: Iterable[Tensor], weights: Weights, path: str | Path, ignored: Callable[[str], bool]
) -> None:
    expected = {source.name: source.shape for source in sources}
    present = {name: np.shape(value) for name, value in weights.items() if name in expected}
    others = (name for name in weights if name not in expected and not name.endswith(COUNTER))
    problems = {
        "missing": [name for name in expected if name not in weights],
        "unexpected": [name for name in others if not ignored(name)],
        "of another shape": [
            f"{name} {shape}, the sizes ask for {expected[name]}"
            for name, shape in present.items()
            if shape != expected[name]
        ],
        "not finite": [name for name in present if not np.isfinite(weights[name]).all()],
    }
    if any(problems.values()):
        found = "; ".join(
            f"{kind}: {', '.join(names)}" for kind, names in problems.items() if names
        )
        raise DamagedFile(
            f"path: the tensors in {path} are not those of the network that config describes. {found}. "
            "Pass the sizes that the network was trained with."
        )
