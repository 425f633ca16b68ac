"""Reads state dicts that ``torch.save`` wrote, without PyTorch and without running their code.

Such a file is a ZIP archive of a pickle, ``<name>/data.pkl``, and one file of raw numbers for each
storage, ``<name>/data/<key>``. A pickle is a program. This reader's unpickler knows the handful of
names that rebuild tensors and maps each to a small checked function of its own; what any other name
makes is an empty object that stands for it. Nothing is looked up in a module, so nothing of the
file's choosing can run.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np
from jaxtyping import Num

from jmlv.errors import DamagedFile

STORAGES = {
    "FloatStorage": "f4",
    "DoubleStorage": "f8",
    "HalfStorage": "f2",
    "BFloat16Storage": "u2",
    "LongStorage": "i8",
    "IntStorage": "i4",
    "ShortStorage": "i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "?",
}
"""NumPy's type of each storage; bfloat16 is the upper half of a float32 and is widened to one."""

MAXIMUM_DIMENSIONS = 32

MAXIMUM_PICKLE = 1 << 26
"""Bytes; the numbers are not in the pickle, so that of a state dict is far smaller."""


def read_torch(path: str | Path) -> dict[str, Num[np.ndarray, "..."]]:
    """The tensors of a state dict, ``torch.save(model.state_dict(), path)``, by name.

    A dictionary that has the state dict under ``"state_dict"``, ``"model_state_dict"``, ``"model"``
    or ``"net"``, as training scripts save it beside their progress, is read too. What else is in it
    (an optimizer's state, arguments, dates) is dropped, and none of it is made.

    Raises:
        FileNotFoundError: there is no such file.
        DamagedFile: it is not such a file, or an entry of its state dict is anything but a tensor.
    """
    path = Path(path)
    try:
        with zipfile.ZipFile(path) as archive:
            return _state_dict(_Reader(archive).load())
    except _Refused as refused:
        raise DamagedFile(f"path: {path}: {refused}.") from None
    except (
        zipfile.BadZipFile,
        pickle.UnpicklingError,
        NotImplementedError,
        ArithmeticError,
        AttributeError,
        EOFError,
        LookupError,
        MemoryError,
        RecursionError,
        TypeError,
        ValueError,
    ) as error:
        raise DamagedFile(
            f"path: {path} is not a state dict that torch.save wrote ({type(error).__name__}: {error}). "
            "Save model.state_dict() with PyTorch 1.6 or later, or as .safetensors or .npz."
        ) from error


class _Refused(Exception):
    """What the file asks for and does not get."""


class _Callable:
    """What the pickle may call. It has no attributes to change, so that no opcode alters it."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        object.__setattr__(self, "_function", function)

    def __call__(self, *arguments: Any) -> Any:
        return self._function(*arguments)

    def __setattr__(self, name: str, value: Any) -> NoReturn:
        raise _Refused(f"its pickle sets the attribute {name!r}")

    def __setstate__(self, state: Any) -> NoReturn:
        raise _Refused("its pickle changes what it may only call")


class _Dict(dict):
    """Stands for ``collections.OrderedDict``; a state dict's extra attributes are dropped."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        pass


class _Skipped:
    """Stands for what the pickle makes of a name that is not read: takes all, keeps nothing."""

    __slots__ = ()
    asked = ""

    def __new__(cls, *_: Any, **__: Any) -> _Skipped:
        return object.__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def _drop(self, *_: Any, **__: Any) -> None:
        pass

    __call__ = __setstate__ = __setitem__ = __setattr__ = append = extend = add = _drop


def _skipped(module: str, name: str) -> type[_Skipped]:
    """A type of its own for a name, since a pickle makes objects of types only."""
    return type("_Skipped", (_Skipped,), {"__slots__": (), "asked": f"{module}.{name}"})


class _StorageType(NamedTuple):
    dtype: str
    bfloat16: bool


class _Storage(NamedTuple):
    values: np.ndarray


class _Reader:
    """One archive: its pickle, and the storages that the pickle names."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self.archive = archive
        pickles = [n for n in archive.namelist() if n == "data.pkl" or n.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise _Refused(f"it has {len(pickles)} pickles called data.pkl, expected one")
        self.pickle = pickles[0]
        self.root = pickles[0].removesuffix("data.pkl")
        self.order = ">" if self._byte_order() == b"big" else "<"
        self.storages: dict[str, _Storage] = {}

    def _byte_order(self) -> bytes:
        name = f"{self.root}byteorder"
        return self.archive.read(name).strip() if name in self.archive.namelist() else b"little"

    def load(self) -> Any:
        if self.archive.getinfo(self.pickle).file_size > MAXIMUM_PICKLE:
            raise _Refused(f"its pickle has more than {MAXIMUM_PICKLE} bytes")
        unpickler = _Unpickler(io.BytesIO(self.archive.read(self.pickle)))
        unpickler.storage = self.storage
        return unpickler.load()

    def storage(self, kind: Any, key: Any, count: Any) -> _Storage:
        """The numbers of one storage; tensors that share it share them."""
        if not isinstance(kind, _StorageType) or type(count) is not int or count < 0:
            raise _Refused("its pickle names a storage without type or size")
        if str(key) not in self.storages:
            self.storages[str(key)] = self._read(kind, f"{self.root}data/{key}", count)
        return self.storages[str(key)]

    def _read(self, kind: _StorageType, name: str, count: int) -> _Storage:
        info = self.archive.getinfo(name)
        dtype = np.dtype(kind.dtype).newbyteorder(self.order)
        if info.compress_type != zipfile.ZIP_STORED or info.file_size != count * dtype.itemsize:
            raise _Refused(f"{name} is compressed or does not have {count} numbers of {dtype}")
        values = np.frombuffer(self.archive.read(info), dtype)
        if kind.bfloat16:
            return _Storage((values.astype(np.uint32) << 16).view(np.float32))
        return _Storage(values.astype(dtype.newbyteorder("=")))


class _Unpickler(pickle.Unpickler):
    storage: Callable[[Any, Any, Any], _Storage]

    def find_class(self, module: str, name: str) -> Any:
        """The few names that a state dict needs, or a stand-in; modules are never looked at."""
        if (module, name) in _ALLOWED:
            return _Callable(_ALLOWED[module, name])
        if module == "torch" and name in STORAGES:
            return _StorageType(STORAGES[name], name == "BFloat16Storage")
        return _skipped(module, name)

    def persistent_load(self, pid: Any) -> _Storage:
        if not (isinstance(pid, tuple) and len(pid) == 5 and pid[0] == "storage"):
            raise _Refused("its pickle names something other than a storage")
        _, kind, key, _, count = pid
        return self.storage(kind, key, count)


def _rebuild_tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> np.ndarray:
    """The tensor as an array of its own, after a check that it lies inside its storage."""
    sizes = (offset, *shape, *strides)
    if not isinstance(storage, _Storage) or len(shape) != len(strides):
        raise _Refused("its pickle builds a tensor without storage, or with too few strides")
    if (
        not all(type(size) is int and size >= 0 for size in sizes)
        or len(shape) > MAXIMUM_DIMENSIONS
    ):
        raise _Refused(f"a tensor has offset {offset}, shape {shape} and strides {strides}")
    values = storage.values
    last = offset + sum((n - 1) * step for n, step in zip(shape, strides))
    count = int(np.prod(shape, dtype=object)) if shape else 1
    if count and last >= len(values) or count > len(values):
        raise _Refused(f"a tensor of shape {shape} leaves its storage of {len(values)} numbers")
    steps = tuple(step * values.itemsize for step in strides)
    view = np.lib.stride_tricks.as_strided(values[offset:], shape, steps, writeable=False)
    return view.copy()


def _rebuild_parameter(data: Any, *_: Any) -> Any:
    return data


def _ordered_dict(*pairs: Any) -> _Dict:
    return _Dict(*pairs)


_ALLOWED = {
    ("collections", "OrderedDict"): _ordered_dict,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
}


WRAPPERS = ("state_dict", "model_state_dict", "model", "net")
"""Under one of these names training scripts keep a state dict."""


def _state_dict(content: Any) -> dict[str, np.ndarray]:
    if isinstance(content, dict):
        wrapped = (content[name] for name in WRAPPERS if isinstance(content.get(name), dict))
        content = next(wrapped, content)
    if not isinstance(content, dict) or not content:
        raise _Refused(f"it holds {_what(content)}, expected a state dict. {WAY_OUT}")
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, np.ndarray):
            raise _Refused(f"entry {name!r} is {_what(value)}, not a tensor. {WAY_OUT}")
    return dict(content)


WAY_OUT = "Save model.state_dict(), not the model"


def _what(value: Any) -> str:
    if isinstance(value, type) and issubclass(value, _Skipped):
        return f"{value.asked}, which its pickle asks for"
    if isinstance(value, _Skipped):
        return f"made by {value.asked}, which its pickle asks for and which never runs"
    return f"a {type(value).__name__}"
