"""Trained networks on disk: Orbax weights and a readable ``metadata.json``."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import linen, nnx
from jaxtyping import PyTree

from jmlv.errors import DamagedFile
from jmlv.models import (
    OWN,
    SAVED,
    LinenNetwork,
    ModelConfig,
    OwnModule,
    config_from_json,
    config_to_json,
    unfilled,
)

FORMAT_VERSION = 1
"""Goes up when older code can no longer read what is written."""

_METADATA = "metadata.json"
_WEIGHTS = "weights"
_COMMITTED = "commit_success.txt"
"""Orbax's marker holds the folder's absolute path; local files restore without it."""
_CHECKOUT = Path(__file__).parents[1] / "checkpoints"
_SHIPPED = Path(__file__).parent / "shipped" / "checkpoints"
"""Where the committed networks are: in a checkout, and in an installed wheel."""
_REMEDY = "Restore the folder (git checkout), or train it again: 'jmlv train --out checkpoints'."


@dataclass(frozen=True)
class Metadata:
    """What is known of a trained network; everything in it goes into JSON.

    Attributes:
        data: what it was trained on.
        training: how, with the seed and the defence.
        metrics: measured on test images.
        model: what is known of the network itself, its ``input_shape`` among it; filled in by
            :func:`restore`, and not compared.
    """

    data: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    model: Mapping[str, Any] = field(default_factory=dict, compare=False)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Of one input of the network that came with these metadata."""
        return tuple(self.model["input_shape"])


def save(
    folder: str | Path,
    model: nnx.Module | linen.Module,
    metadata: Metadata = Metadata(),
    *,
    configuration: Mapping[str, Any] | None = None,
    input_shape: Sequence[int] | None = None,
    variables: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> Path:
    """Writes the weights and ``metadata.json`` into ``folder``, which it creates.

    The files hold neither a path nor a host name, so they can be committed. The
    metadata hold the network's sizes and a digest of the files with its weights.

    Args:
        model: one of :mod:`jmlv.models`, which keeps its sizes as ``config``; or any NNX or Linen
            module of a class that can be imported.
        configuration: of a module of one's own: the keyword arguments of its constructor, except
            ``rngs``; of what JSON can hold.
        input_shape: of a module of one's own: of one input, without a batch axis.
        variables: of a Linen module, ``{"params": ...}``.

    Raises:
        FileExistsError: the folder has content and ``overwrite`` is false.
        ValueError: a module of one's own lacks one of these, or could not be built again from them.

    >>> import tempfile
    >>> from jmlv.models import CNNConfig
    >>> model = CNNConfig().build(rngs=nnx.Rngs(0))
    >>> folder = save(Path(tempfile.mkdtemp()) / "mine", model)
    >>> restore(folder)[0].config.labels
    10
    """
    path = Path(folder)
    model_json, weights = _described(model, configuration, input_shape, variables)
    if path.exists() and not overwrite and (not path.is_dir() or any(path.iterdir())):
        raise FileExistsError(
            f"folder: got {str(folder)!r}, which exists; expected a new or empty folder. "
            "Pass overwrite=True to replace the checkpoint."
        )
    with _checkpointer() as checkpointer:
        checkpointer.save((path / _WEIGHTS).absolute(), weights, force=overwrite)
    (path / _WEIGHTS / _COMMITTED).unlink(missing_ok=True)
    content = {
        "format_version": FORMAT_VERSION,
        "model": model_json,
        "weights_sha256": _digest(path / _WEIGHTS),
        "data": dict(metadata.data),
        "training": dict(metadata.training),
        "metrics": dict(metadata.metrics),
    }
    (path / _METADATA).write_text(json.dumps(content, indent=2) + "\n")
    return path


def restore(
    folder: str | Path, module: str | type | None = None
) -> tuple[nnx.Module | LinenNetwork, Metadata]:
    """The network that ``save`` wrote, bit for bit, in evaluation mode, and its metadata.

    Args:
        folder: of the checkpoint. The networks that come with the library are found as
            ``checkpoints/NAME`` from anywhere.
        module: of a network of one's own code: its class, or ``"package.module:Class"``. Nothing is
            imported that is not named here, whatever the folder says.

    Raises:
        FileNotFoundError: the folder or a part is missing.
        ValueError: the network is of code that was not named, or that does not build it.
        DamagedFile: a part is damaged, was changed after it was written, or is of another format
            version.
    """
    path = _located(folder)
    content = _read_metadata(path)
    own = isinstance(content["model"], Mapping) and content["model"].get("kind") == OWN
    described = (_own if own else _config)(content["model"], path)
    kind = described.require_named(module) if own else None
    _check_digest(path, content["weights_sha256"])
    if own and issubclass(kind, linen.Module):
        model = _restored_linen(path, described, kind)
    else:
        model = _restored(path, partial(described.build, kind) if own else described)
    known = content["data"], content["training"], content["metrics"], content["model"]
    return model, Metadata(*known)


def label_names(folder: str | Path) -> tuple[str, ...]:
    """The names that the labels of a checkpoint's network have, if its metadata tell them.

    They are in ``Metadata.data["label_names"]``, where ``jmlv train CONFIG.toml`` writes them.

    Raises:
        FileNotFoundError: there is no checkpoint.
        DamagedFile: its metadata are damaged, or the names are no list of texts.
    """
    names = _read_metadata(_located(folder))["data"].get("label_names", ())
    if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
        raise DamagedFile(f"folder: the label_names in {str(folder)!r} are no list of texts.")
    return tuple(names)


def _restored(path: Path, build: ModelConfig | Callable[[nnx.Rngs], nnx.Module]) -> nnx.Module:
    graph, state, random = unfilled(build)
    weights = _read_weights(path, nnx.to_pure_dict(state))
    _check_shapes(weights, nnx.to_pure_dict(state), path)
    nnx.replace_by_pure_dict(state, jax.tree.map(jax.numpy.asarray, weights))
    return nnx.merge(graph, state, random)


def _restored_linen(path: Path, own: OwnModule, kind: type) -> LinenNetwork:
    module = own.build(kind, nnx.Rngs(0))
    like = _linen_shapes(module, own.input_shape)
    weights = _read_weights(path, like)
    _check_shapes(weights, like, path)
    return LinenNetwork(module, jax.tree.map(jax.numpy.asarray, weights))


def _linen_shapes(module: linen.Module, input_shape: Sequence[int]) -> PyTree:
    x = jax.ShapeDtypeStruct((1, *input_shape), jax.numpy.float32)
    return dict(jax.eval_shape(module.init, jax.random.key(0), x))


def _described(
    model: Any, configuration: Any, input_shape: Any, variables: Any
) -> tuple[dict[str, Any], PyTree]:
    """What the metadata say of a network, and its weights."""
    config = getattr(model, "config", None)
    if isinstance(config, ModelConfig) and configuration is None:
        return config_to_json(config), _weights(model)
    given = {"configuration": configuration, "input_shape": input_shape}
    if isinstance(model, linen.Module):
        given["variables"] = variables
    missing = [name for name, value in given.items() if value is None]
    if missing:
        raise ValueError(
            f"{missing[0]}: {type(model).__name__} is a module of one's own; save it with "
            f"{', '.join(f'{name}=...' for name in given)}."
        )
    own = OwnModule.of(model, configuration, input_shape)
    weights = _weights(model) if variables is None else _plain(dict(variables))
    _require_rebuilt(own, type(model), weights)
    return own.to_json(), weights


def _require_rebuilt(own: OwnModule, kind: type, weights: PyTree) -> None:
    """The class and the configuration give a network of these weights."""
    try:
        if issubclass(kind, linen.Module):
            like = _linen_shapes(own.build(kind, nnx.Rngs(0)), own.input_shape)
        else:
            like = nnx.to_pure_dict(unfilled(partial(own.build, kind))[1])
    except Exception as error:  # whatever the user's constructor raises
        raise ValueError(
            f"configuration: {own.module} cannot be built of {dict(own.configuration)} "
            f"({type(error).__name__}: {_first_line(error)})."
        ) from error
    if _shapes(like) != _shapes(weights):
        raise ValueError(
            f"configuration: {own.module} built of {dict(own.configuration)} has other weights than "
            "the model."
        )


def available(folder: str | Path | None = None) -> tuple[Path, ...]:
    """The checkpoints in ``folder``, by name; ``None``: those that come with the library.

    These are in ``checkpoints/`` of a checkout, and in the package where it was installed from a wheel.
    """
    roots = (_CHECKOUT, _SHIPPED) if folder is None else (Path(folder),)
    found = (sorted(path.parent for path in root.glob(f"*/{_METADATA}")) for root in roots)
    return tuple(next(filter(None, found), ()))


def _located(folder: str | Path) -> Path:
    """The folder; where there are no ``checkpoints`` here at all, that of the library if it has one.

    One's own ``checkpoints`` without that name is a name that was misspelt.

    >>> _located("checkpoints/double_digits_linf").is_dir()
    True
    """
    path = Path(folder)
    if path.parts[:1] != ("checkpoints",) or Path("checkpoints").exists():
        return path
    others = (root.joinpath(*path.parts[1:]) for root in (_CHECKOUT, _SHIPPED))
    return next((other for other in others if other.exists()), path)


def _checkpointer() -> Any:
    """Orbax is imported late: it takes seconds, and few calls need it."""
    import orbax.checkpoint as ocp

    return ocp.StandardCheckpointer()


def _weights(model: nnx.Module) -> PyTree:
    """Plain NumPy arrays: Orbax writes no device or sharding for them."""
    return _plain(nnx.to_pure_dict(nnx.state(model, SAVED)))


def _plain(weights: PyTree) -> PyTree:
    return jax.tree.map(np.asarray, weights)


def _digest(folder: Path) -> str:
    """SHA-256 of the names and contents of all files in ``folder``."""
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(folder).as_posix()} {len(content)}\n".encode())
        digest.update(content)
    return digest.hexdigest()


def _check_digest(path: Path, expected: str) -> None:
    """Comes before Orbax, whose background reads of damaged files complain late."""
    if not (path / _WEIGHTS).is_dir():
        raise FileNotFoundError(
            f"folder: got {str(path)!r}, which has no {_WEIGHTS}/; expected Orbax's "
            f"files in it. {_REMEDY}"
        )
    found = _digest(path / _WEIGHTS)
    if found != expected:
        raise DamagedFile(
            f"folder: the weights in {str(path)!r} are damaged, or not those that its "
            f"{_METADATA} was written for: got the SHA-256 {found[:12]}...; expected "
            f"{str(expected)[:12]}... . {_REMEDY}"
        )


def _read_metadata(path: Path) -> dict[str, Any]:
    """The content of ``metadata.json``, with every key that is needed."""
    if not (path / _METADATA).is_file():
        raise FileNotFoundError(
            f"folder: got {str(path)!r}, which has no {_METADATA}; expected a checkpoint "
            f"of jmlv. Check the path; jmlv.checkpoints.available() lists those there "
            f"are. {_REMEDY}"
        )
    try:
        content = json.loads((path / _METADATA).read_text())
        missing = {"model", "weights_sha256", "data", "training", "metrics"} - set(content)
        version = content.get("format_version")
    except (ValueError, TypeError, AttributeError) as error:
        raise DamagedFile(
            f"folder: {_METADATA} in {str(path)!r} is damaged: got {error}; expected a "
            f"JSON object. {_REMEDY}"
        ) from error
    if version != FORMAT_VERSION or missing:
        raise DamagedFile(
            f"folder: {_METADATA} in {str(path)!r} has format version {version!r} and "
            f"lacks {sorted(missing)}; expected version {FORMAT_VERSION} and nothing "
            f"lacking. Use the jmlv that wrote it. {_REMEDY}"
        )
    return content


def _config(values: object, path: Path) -> ModelConfig:
    try:
        return config_from_json(values)
    except (ValueError, TypeError) as error:
        raise DamagedFile(
            f"folder: {_METADATA} in {str(path)!r} describes no network: {error} {_REMEDY}"
        ) from error


def _own(values: Mapping[str, Any], path: Path) -> OwnModule:
    try:
        return OwnModule.from_json(values)
    except (ValueError, TypeError, KeyError) as error:
        raise DamagedFile(
            f"folder: {_METADATA} in {str(path)!r} describes no module: {error!r}. {_REMEDY}"
        ) from error


def _read_weights(path: Path, like: PyTree) -> PyTree:
    """The weights as NumPy arrays, of the shapes in ``like``."""
    target = jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), like)
    try:
        with _checkpointer() as checkpointer:
            return checkpointer.restore((path / _WEIGHTS).absolute(), target)
    except Exception as error:  # Orbax and TensorStore raise many types
        raise DamagedFile(
            f"folder: the weights in {str(path)!r} are damaged or of another network: "
            f"got {type(error).__name__}: {_first_line(error)}; expected Orbax's files "
            f"as written. {_REMEDY}"
        ) from error


def _check_shapes(weights: PyTree, like: PyTree, path: Path) -> None:
    """Orbax restores whatever shape is on disk, also where another was asked for."""
    got, expected = _shapes(weights), _shapes(like)
    if got != expected:
        raise DamagedFile(
            f"folder: the weights in {str(path)!r} are of another network: got the shapes "
            f"{got}; expected {expected}, from its {_METADATA}. {_REMEDY}"
        )


def _shapes(weights: PyTree) -> PyTree:
    return jax.tree.map(lambda w: (tuple(w.shape), str(w.dtype)), weights)


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:200]
