"""Checkpoints during a training, by Orbax, from which it goes on bit for bit."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, PyTree

from jmlv.data import MultiLabelImages, Photographs
from jmlv.errors import DamagedFile


@dataclass(frozen=True)
class Checkpoints:
    """Where and how often a training writes all that it needs to go on.

    The folder is that of one training: another one (other data, sizes, options, loss or defence)
    is refused. Orbax writes a checkpoint under a temporary name and renames it when it is whole,
    so a training that is killed at any moment leaves none that is cut off.

    Attributes:
        folder: created where there is none.
        every_epochs: a checkpoint after every so many epochs; the last epoch always makes one.
        every_steps: also after every so many steps of an epoch; ``None`` for none.
        keep: how many of the newest stay.

    Raises:
        ValueError: a number is below 1.
    """

    folder: str | Path
    every_epochs: int = 1
    every_steps: int | None = None
    keep: int = 2

    def __post_init__(self) -> None:
        for name in ("every_epochs", "every_steps", "keep"):
            value = getattr(self, name)
            if value is not None and (type(value) is not int or value < 1):
                raise ValueError(f"{name}: got {value!r}; expected an integer of at least 1.")


@dataclass(frozen=True)
class History:
    """How far a training is.

    Attributes:
        losses: mean loss of each finished epoch.
        validation: the validation's value after each of them; empty without early stopping.
        partial: the losses of the steps of the epoch that is not finished.
    """

    losses: tuple[float, ...] = ()
    validation: tuple[float, ...] = ()
    partial: tuple[float, ...] = ()


class Store:
    """The checkpoint folder of one training."""

    def __init__(self, manager: Any, purpose: Mapping[str, str]) -> None:
        self._manager, self._purpose = manager, dict(purpose)

    def save(self, number: int, history: History, arrays: PyTree) -> None:
        """Writes the checkpoint of step ``number``, unless it is there."""
        import orbax.checkpoint as ocp

        if number in self._manager.all_steps():
            return
        content = {"history": dataclasses.asdict(history), "training": self._purpose}
        self._manager.save(
            number,
            args=ocp.args.Composite(
                arrays=ocp.args.StandardSave(_plain(arrays)), progress=ocp.args.JsonSave(content)
            ),
        )

    def latest(self, like: PyTree) -> tuple[History, PyTree] | None:
        """The newest checkpoint, or ``None`` where there is none.

        Args:
            like: arrays of the same structure, shapes and types.

        Raises:
            ValueError: the folder belongs to another training.
            DamagedFile: the checkpoint cannot be read.
        """
        import orbax.checkpoint as ocp

        number = self._manager.latest_step()
        if number is None:
            return None
        try:
            content = self._restored(number, progress=ocp.args.JsonRestore()).progress
            self._require_same(content["training"])
            target = ocp.args.StandardRestore(_plain(like))
            arrays = self._restored(number, arrays=target).arrays
            history = History(**{k: tuple(v) for k, v in content["history"].items()})
        except AnotherTraining:
            raise
        except Exception as error:  # Orbax and TensorStore raise many types
            raise DamagedFile(
                f"checkpoints: step {number} in {str(self._manager.directory)!r} cannot be read "
                f"({type(error).__name__}). Remove that step's folder to go on from the one before."
            ) from error
        return history, _as_in(arrays, like)

    def _restored(self, number: int, **args: Any) -> Any:
        import orbax.checkpoint as ocp

        return self._manager.restore(number, args=ocp.args.Composite(**args))

    def _require_same(self, found: Mapping[str, str]) -> None:
        other = [k for k in self._purpose | dict(found) if self._purpose.get(k) != found.get(k)]
        if other:
            raise AnotherTraining(
                f"checkpoints: {str(self._manager.directory)!r} belongs to a training with another "
                f"{', '.join(other)}. Choose another folder, or remove this one to train anew."
            )


class AnotherTraining(ValueError):
    """A checkpoint folder belongs to another training."""


@contextmanager
def opened(checkpoints: Checkpoints, purpose: Mapping[str, str]) -> Iterator[Store]:
    """The store of a training.

    Args:
        purpose: by name, all that makes one training another than the next.
    """
    import orbax.checkpoint as ocp

    options = ocp.CheckpointManagerOptions(
        max_to_keep=checkpoints.keep, enable_async_checkpointing=False
    )
    folder = Path(checkpoints.folder).absolute()
    with ocp.CheckpointManager(folder, options=options) as manager:
        yield Store(manager, purpose)


def fingerprint(data: MultiLabelImages | Photographs) -> str:
    """What tells two sets of images apart: number, origin, labels and a sample of the pixels."""
    digest = hashlib.sha256(np.packbits(data.labels).tobytes())
    rows = np.linspace(0, len(data) - 1, min(4, len(data))).astype(int)
    digest.update(np.ascontiguousarray(data.pixels(rows)).tobytes())
    return f"{len(data)} images from {data.origin}, {digest.hexdigest()[:16]}"


def _plain(tree: PyTree) -> dict[str, np.ndarray]:
    """The arrays by number, random keys as the integers that they are."""
    return {str(i): np.asarray(_bits(leaf)) for i, leaf in enumerate(jax.tree.leaves(tree))}


def _as_in(plain: Mapping[str, np.ndarray], like: PyTree) -> PyTree:
    leaves, structure = jax.tree.flatten(like)
    found = [_typed(plain[str(i)], leaf) for i, leaf in enumerate(leaves)]
    return jax.tree.unflatten(structure, found)


def _is_key(value: Any) -> bool:
    return jax.numpy.issubdtype(value.dtype, jax.dtypes.prng_key)


def _bits(value: Array) -> Array:
    return jax.random.key_data(value) if _is_key(value) else value


def _typed(found: np.ndarray, like: Array) -> Array:
    if found.shape != _bits(like).shape or found.dtype != _bits(like).dtype:
        raise ValueError(f"expected {like.shape} {like.dtype}, found {found.shape} {found.dtype}")
    value = jax.numpy.asarray(found)
    return (
        jax.random.wrap_key_data(value, impl=jax.random.key_impl(like)) if _is_key(like) else value
    )
