"""Where networks are found: values that any process understands, so that no code is pickled."""

from __future__ import annotations

import abc
import dataclasses
import importlib
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jmlv import checkpoints
from jmlv.errors import DamagedFile
from jmlv.graph import Classifier
from jmlv.graph.fingerprint import fingerprint
from jmlv.interop import read_onnx

Loaded = tuple[Classifier, tuple[int, ...]]
"""A network and the shape of one of its images."""


class Source(abc.ABC):
    """Where a network is found. A frozen dataclass."""

    @property
    @abc.abstractmethod
    def name(self) -> str:
        """Short name in tables."""

    @abc.abstractmethod
    def load(self) -> Loaded:
        """The network and the shape of one image, read anew."""

    def files(self) -> Path | None:
        """The file or folder that a machine without it must be sent, if any."""
        return None

    def at(self, path: Path) -> Source:
        """The same source with its files elsewhere."""
        return self


@dataclasses.dataclass(frozen=True)
class Checkpoint(Source):
    """A folder that :func:`jmlv.checkpoints.save` wrote."""

    folder: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "folder", str(self.folder))

    @property
    def name(self) -> str:
        return Path(self.folder).name

    def load(self) -> Loaded:
        model, _ = checkpoints.restore(self.folder)
        return model, tuple(model.config.input_shape)

    def files(self) -> Path:
        return Path(self.folder)

    def at(self, path: Path) -> Checkpoint:
        return Checkpoint(str(path))


@dataclasses.dataclass(frozen=True)
class OnnxFile(Source):
    """A file that :func:`jmlv.interop.read_onnx` reads (weights inside it, where it is to be shipped)."""

    path: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", str(self.path))

    @property
    def name(self) -> str:
        return Path(self.path).name.partition(".onnx")[0]

    def load(self) -> Loaded:
        f = read_onnx(self.path)
        return f, tuple(f.input_shape)

    def files(self) -> Path:
        return Path(self.path)

    def at(self, path: Path) -> OnnxFile:
        return OnnxFile(str(path))


@dataclasses.dataclass(frozen=True)
class Factory(Source):
    """A function of an importable module that makes the network: ``"module:function"``.

    Attributes:
        function: dotted module, a colon, the function's name.
        arguments: what it is called with.
        input_shape: (height, width, channel) of one image.

    >>> Factory("jmlv.interop:cnn_from_torch", ("weights.npz",), (32, 32, 1)).name
    "cnn_from_torch('weights.npz')"
    """

    function: str
    arguments: tuple[Any, ...] = ()
    input_shape: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "arguments", tuple(self.arguments))
        object.__setattr__(self, "input_shape", tuple(self.input_shape))
        if not self.input_shape:
            raise ValueError("input_shape: got none; expected (height, width, channel).")
        require_place("function", self.function)

    @property
    def name(self) -> str:
        called = ", ".join(map(repr, self.arguments))
        return f"{self.function.partition(':')[2]}({called})"

    def load(self) -> Loaded:
        return found("function", self.function)(*self.arguments), self.input_shape


@dataclasses.dataclass(frozen=True, eq=False)
class Held(Source):
    """A network of this process. Its questions cannot be sent to another one."""

    f: Classifier
    input_shape: tuple[int, ...]
    label: str = "network"

    @property
    def name(self) -> str:
        return self.label

    def load(self) -> Loaded:
        return self.f, tuple(self.input_shape)

    def __reduce__(self) -> Any:
        raise TypeError(
            "network: Held(...) lives in this process alone. Name a Checkpoint or a Factory to ask "
            "elsewhere, or run the campaign in this process."
        )


@dataclasses.dataclass(frozen=True)
class Shipped(Source):
    """A source together with the content of its files, for machines that lack them."""

    source: Source
    content: tuple[tuple[str, bytes], ...]

    @staticmethod
    def of(source: Source) -> Source:
        """The source with its files' content; as it is where it has none."""
        root = source.files()
        if root is None:
            return source
        paths = [root] if root.is_file() else sorted(p for p in root.rglob("*") if p.is_file())
        base = root.parent
        return Shipped(
            source, tuple((p.relative_to(base).as_posix(), p.read_bytes()) for p in paths)
        )

    @property
    def name(self) -> str:
        return self.source.name

    def load(self) -> Loaded:
        with tempfile.TemporaryDirectory(prefix="jmlv-") as folder:
            for name, data in self.content:
                path = Path(folder, name)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
            return self.source.at(Path(folder, self.source.files().name)).load()


@dataclasses.dataclass(frozen=True)
class Network:
    """A network that questions are about: where it is found, and its content's name.

    Attributes:
        source: where it is found.
        fingerprint: of :func:`jmlv.graph.fingerprint.fingerprint`; a process that loads the source and
            finds another network refuses it.
        name: in tables.
        input_shape: of one image.
    """

    source: Source
    fingerprint: str
    name: str
    input_shape: tuple[int, ...]

    @staticmethod
    def of(source: Source, name: str | None = None) -> Network:
        """Loads the network once and names it by its content.

        >>> import jax.numpy as jnp
        >>> network = Network.of(Held(lambda x: x.reshape(-1, 4), (2, 2, 1)))
        >>> len(network.fingerprint), network.load()(jnp.ones((1, 2, 2, 1))).shape
        (64, (1, 4))
        """
        f, shape = source.load()
        known = source.name if name is None else name
        named = Network(source, fingerprint(f, shape), known, shape)
        _LOADED.setdefault(named.fingerprint, f)
        return named

    @property
    def loaded(self) -> bool:
        """Whether this process has it already."""
        return self.fingerprint in _LOADED

    def load(self) -> Classifier:
        """The network, read at most once by a process.

        Raises:
            DamagedFile: the source holds another network than the questions were made for.
        """
        if not self.loaded:
            f, shape = self.source.load()
            got = fingerprint(f, shape)
            if got != self.fingerprint:
                raise DamagedFile(
                    f"network: {self.source.name} has the fingerprint {got[:12]}... here; expected "
                    f"{self.fingerprint[:12]}.... Its files were changed after the questions were "
                    "made, or another release of JAX reads it: make the questions anew."
                )
            _LOADED[self.fingerprint] = f
        return _LOADED[self.fingerprint]


_LOADED: dict[str, Classifier] = {}
"""The networks of this process by fingerprint: one object each, so that compiled code is found again."""


def require_place(name: str, place: Any) -> None:
    """Raises ValueError unless this reads ``module:function``."""
    module, colon, function = place.partition(":") if isinstance(place, str) else ("", "", "")
    if not (module and colon and function.isidentifier()):
        raise ValueError(f"{name}: got {place!r}; expected 'module:function'.")


def found(name: str, place: str) -> Callable[..., Any]:
    """The function that ``module:function`` names.

    Raises:
        ValueError: there is no such function.
    """
    module, _, function = place.partition(":")
    try:
        return getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"{name}: {place!r} cannot be imported here ({error}). Install its package, or put its "
            "folder on PYTHONPATH, wherever questions are answered."
        ) from error
