"""An ONNX file's content: its graph, its constants as arrays and its attributes as plain values."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jmlv.interop.onnx_reader.node import Damaged, Refused

NEWEST, OLDEST = 26, 7
"""Versions of the operators that are read; an attribute that is newer than its rule is refused."""


class Content(NamedTuple):
    """What a file says.

    Attributes:
        graph: the ONNX graph.
        opset: the version of its operators.
        constants: its initializers by name.
    """

    graph: Any
    opset: int
    constants: dict[str, np.ndarray]


class Described(NamedTuple):
    """An input or output: a size that is not a number is unknown, no shape at all is None."""

    name: str
    shape: tuple[int | None, ...] | None
    dtype: np.dtype


def load(path: Path) -> Content:
    """Reads a file, its external data too.

    Raises:
        ImportError: the package ``onnx`` is not installed.
        FileNotFoundError: there is no such file.
        Damaged: it is not an ONNX file, or what it refers to is missing.
        Refused: it asks for more than one set of operators of this kind, or too new ones.
    """
    onnx = _package()
    raw = path.read_bytes()
    if raw[:2] == b"\x1f\x8b":
        try:
            raw = gzip.decompress(raw)
        except (OSError, EOFError, zlib.error) as error:
            raise Damaged(f"its compressed content is damaged ({error})") from None
    try:
        model = onnx.load_model_from_string(raw)
    except Exception as error:  # protobuf's own, in a module that depends on its version
        raise Damaged(f"it is not an ONNX file ({_first_line(error)})") from None
    if not model.graph.node or not model.opset_import:
        raise Damaged("it is not an ONNX file, or one without operators")
    opset = _opset(model)
    if model.functions:
        model = _inlined(model)
    if model.graph.sparse_initializer:
        raise Refused("sparse initializers")
    constants = {tensor.name: _array(tensor, path.parent) for tensor in model.graph.initializer}
    return Content(model.graph, opset, constants)


def _package() -> Any:
    try:
        import onnx
        import onnx.numpy_helper
    except ImportError:
        raise ImportError(
            "read_onnx needs the package onnx: pip install 'jmlv[interop]', or pip install onnx."
        ) from None
    return onnx


def _opset(model: Any) -> int:
    versions = {entry.domain: entry.version for entry in model.opset_import}
    version = versions.get("", versions.get("ai.onnx"))
    if version is None:
        raise Refused(f"operators of {', '.join(versions)} alone")
    if not OLDEST <= version <= NEWEST:
        raise Refused(f"operators of version {version} (versions {OLDEST} to {NEWEST} are read)")
    return version


def _inlined(model: Any) -> Any:
    """Functions that the file defines, put in where they are called."""
    from onnx import inliner

    try:
        return inliner.inline_local_functions(model)
    except Exception as error:  # the checker's own errors, of several types
        raise Damaged(f"its functions cannot be put in ({_first_line(error)})") from None


def _array(tensor: Any, folder: Path) -> np.ndarray:
    """A tensor as an array that is checked for NaN."""
    onnx = _package()
    try:
        value = np.array(onnx.numpy_helper.to_array(tensor, str(folder)))
    except (OSError, onnx.checker.ValidationError) as error:
        raise Damaged(f"the external data of {tensor.name!r} is missing ({error})") from None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise Damaged(f"the tensor {tensor.name!r} is damaged ({_first_line(error)})") from None
    if value.dtype.kind not in "fiub" and value.dtype.name != "bfloat16":
        raise Refused(f"the tensor {tensor.name!r} of {value.dtype}")
    if value.dtype.kind not in "iub" and np.isnan(value).any():
        raise Damaged(f"the tensor {tensor.name!r} holds NaN")
    return value


def attributes(node: Any, opset: int, folder: Path) -> dict[str, Any]:
    """A node's attributes as numbers, text, tuples and arrays; types as NumPy's.

    Raises:
        Damaged: an attribute, or the number of operands or results, is not what the operator has.
        Refused: that version has no such operator.
    """
    onnx = _package()
    try:
        schema = onnx.defs.get_schema(node.op_type, opset, "")
    except onnx.defs.SchemaError:
        schema = None
    if schema is None or schema.deprecated:
        raise Refused(f"no such operator in version {opset}")
    _require_between("operands", len(node.input), schema.min_input, schema.max_input)
    _require_between("results", len(node.output), schema.min_output, schema.max_output)
    found = {}
    for attribute in node.attribute:
        expected = schema.attributes.get(attribute.name)
        if expected is not None and int(expected.type) != attribute.type:
            raise Damaged(f"has an attribute {attribute.name!r} of another type")
        found[attribute.name] = _plain(onnx.helper.get_attribute_value(attribute), folder)
    if node.op_type == "Cast" and "to" in found:
        found["to"] = _dtype(found["to"])
    return found


def _require_between(what: str, count: int, least: int, most: int) -> None:
    if not least <= count <= most:
        raise Damaged(f"has {count} {what}, expected {least} to {most}")


def _plain(value: Any, folder: Path) -> Any:
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, (int, float)):
        return value
    if isinstance(value, Sequence):
        return tuple(_plain(v, folder) for v in value)
    if hasattr(value, "raw_data"):
        return _array(value, folder)
    return tuple(value) if hasattr(value, "__len__") else value


def described(value: Any) -> Described:
    """What the file says of an input or output."""
    kind = value.type.tensor_type
    if not value.type.HasField("tensor_type"):
        raise Refused(f"{value.name!r}, which is no tensor")
    shape = None
    if kind.HasField("shape"):
        sizes = ((d.HasField("dim_value"), d.dim_value) for d in kind.shape.dim)
        shape = tuple(n if known and n > 0 else None for known, n in sizes)
    return Described(value.name, shape, _dtype(kind.elem_type))


def _dtype(number: int) -> np.dtype:
    try:
        return np.dtype(_package().helper.tensor_dtype_to_np_dtype(number))
    except (KeyError, TypeError):
        raise Refused(f"tensors of type {number}") from None


def needed(nodes: Sequence[Any], output: str) -> list[Any]:
    """The nodes that an output is computed from, in the file's order.

    Raises:
        Damaged: two nodes compute the same value.
    """
    makers: dict[str, Any] = {}
    for node in nodes:
        for name in filter(None, node.output):
            if name in makers:
                raise Damaged(f"{named(node)} computes {name!r}, as {named(makers[name])} does")
            makers[name] = node
    wanted, found = [output], set()
    while wanted:
        node = makers.get(wanted.pop())
        if node is not None and id(node) not in found:
            found.add(id(node))
            wanted.extend(node.input)
    return [node for node in nodes if id(node) in found]


def named(node: Any) -> str:
    """A node as errors show it; one without a name by what it computes."""
    name = node.name or next((name for name in node.output if name), "")
    return f"{node.op_type} {name!r}"


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
