"""An ONNX file as affine maps and maxima, entry by entry, read with NumPy and Python alone.

Of a file is taken: one float input whose first axis is one or open, one output, and the operators in
:data:`RULES`. Whatever else a file has (a field of the format, an operator, an attribute, an output)
is refused with a sentence, since it might change what is computed. Weights are taken as they are; only
batch normalisation's factor ``scale / sqrt(var + epsilon)`` is no number of any file, and is rounded
to float64.

A value of the graph is a constant, or an array of entries of a node of the network (:class:`Value`), so
that what only moves entries needs no node. The format: onnx.proto3 of onnx/onnx, version 1.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from jmlv_check.network import Affine, Maximum, Network, Part, Refused, of_arrays

OPSETS = range(7, 24)
"""Versions of the standard operators in which the rules below are right."""

TYPES = {1: "<f4", 6: "<i4", 7: "<i8", 11: "<f8"}
"""Numbers of types of tensors: float, int32, int64, double."""


class Value(NamedTuple):
    """Entries of one node of the network, in the shape that the value has in the file."""

    node: int
    index: np.ndarray


def load_onnx(path: str | Path) -> Network:
    """The network of a file.

    Raises:
        Refused: it cannot be read, or holds what there is no rule for.
    """
    try:
        return _network(Path(path).read_bytes())
    except Refused as problem:
        raise Refused(f"{path}: {problem}") from problem
    except Exception as problem:  # whatever a damaged file provokes
        raise Refused(f"{path}: damaged ({type(problem).__name__}: {problem}).") from problem


def _network(data: bytes) -> Network:
    model = _message(data, "model", {2, 3, 4, 6, 7, 8, 14}, {1: NUMBER, 5: NUMBER})
    opsets = [_message(entry, "opset", {1}, {2: NUMBER}) for entry in model.get(8, [])]
    versions = [_one(opset, 2) for opset in opsets if _text(opset, 1) in ("", "ai.onnx")]
    _require(len(versions) == 1 and versions[0] in OPSETS, f"operators of version {versions}")
    graph = _message(_one(model, 7), "graph", {1, 2, 5, 10, 11, 12, 13, 16})
    builder = _Builder()
    for entry in graph.get(5, []):
        name, array = _tensor(entry)
        builder.define(name, array)
    inputs = [_input(entry) for entry in graph.get(11, [])]
    inputs = [(name, shape) for name, shape in inputs if name not in builder.values]
    _require(len(inputs) == 1, f"{len(inputs)} inputs where one is expected")
    ((name, shape),) = inputs
    size = math.prod(shape)
    builder.sizes.append(size)
    builder.define(name, Value(0, np.arange(size).reshape(shape)))
    for entry in graph.get(1, []):
        builder.add(entry)
    outputs = [_text(_message(entry, "output", {1, 2, 3}), 1) for entry in graph.get(12, [])]
    _require(len(outputs) == 1, f"{len(outputs)} outputs where one is expected")
    return of_arrays(builder.network(builder.value(outputs[0])).arrays())


def _input(entry: bytes) -> tuple[str, tuple[int, ...]]:
    """Name and shape of an input; its first axis may be open and is then one."""
    info = _message(entry, "input", {1, 2, 3})
    name = _text(info, 1)
    kind = _message(
        _one(_message(_one(info, 2), "type", {1, 6}), 1), "tensor type", {2}, {1: NUMBER}
    )
    _require(_one(kind, 1) in (1, 11), f"the input {name!r} is not of floats")
    shape = []
    for axis, dim in enumerate(_message(_one(kind, 2), "shape", {1}).get(1, [])):
        size = _one(_message(dim, "axis", {2, 3}, {1: NUMBER}), 1, 0)
        shape.append(1 if axis == 0 and size == 0 else size)
    _require(len(shape) > 1 and shape[0] == 1, f"the input {name!r} is no batch of one")
    _require(all(0 < size < 2**31 for size in shape), f"the input {name!r} has an open axis")
    return name, tuple(shape)


class _Builder:
    """The nodes of the network so far, and the file's values by name."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.nodes: list[Affine | Maximum] = []
        self.sizes: list[int] = []

    def define(self, name: str, value: Any) -> None:
        _require(name and name not in self.values, f"the name {name!r} is taken, or none")
        self.values[name] = value

    def value(self, name: str) -> Any:
        _require(name in self.values, f"the value {name!r} is used before it is there")
        return self.values[name]

    def add(self, entry: bytes) -> None:
        """One operator of the file."""
        node = _message(entry, "node", {1, 2, 3, 4, 5, 6, 7, 9})
        kind, domain = _text(node, 4), _text(node, 7)
        known = domain in ("", "ai.onnx") and kind in RULES
        _require(known, f"no rule for {f'{domain}.' if domain else ''}{kind}")
        operands = [self.value(n) if n else None for n in map(bytes.decode, node.get(1, []))]
        outputs = [name.decode() for name in node.get(2, [])]
        _require(len(outputs) == 1, f"{kind} with {len(outputs)} outputs")
        attributes = list(map(_attribute, node.get(5, [])))
        settings = Settings(kind, dict(attributes))
        _require(len(settings.left) == len(attributes), f"{kind} has an attribute twice")
        result = RULES[kind](self, settings, *operands)
        _require(not settings.left, f"{kind}: no rule for {', '.join(settings.left)}")
        self.define(outputs[0], result)

    def affine(self, shape, terms, bias=0.0, divisor=None) -> Value:
        """``(bias + sum of weight * entry) / divisor``; a term is a value and (row, entry of the
        value, weight), an entry below 0 being none."""
        size, parts = math.prod(shape), []
        for source, row, entry, weight in terms:
            row, entry, weight = (a.ravel() for a in np.broadcast_arrays(row, entry, weight))
            used = (entry >= 0) & (weight != 0)
            row, entry, weight = row[used], entry[used], weight[used].astype(np.float64)
            order = np.argsort(row, kind="stable")
            start = np.r_[0, np.cumsum(np.bincount(row, minlength=size))]
            parts.append(Part(source.node, start, entry[order], weight[order]))
        bias = np.broadcast_to(bias, shape).ravel()
        return self._append(Affine(size, tuple(parts), bias, divisor), shape)

    def maximum(self, source: Value, window: np.ndarray, floor: float, shape) -> Value:
        """``max(floor, entries of the source)``; joined with a maximum of single entries below it, or
        of windows if this one is of single entries: both are one maximum."""
        parent, floor = source.node, np.full(len(window), floor)
        below = self.nodes[parent - 1] if parent else None
        if isinstance(below, Maximum) and 1 in (window.shape[1], below.window.shape[1]):
            real = window >= 0
            floor = np.maximum(floor, np.where(real, below.floor[window], -np.inf).max(1))
            window = np.where(real[..., None], below.window[window], -1).reshape(len(window), -1)
            parent = below.parent
        return self._append(Maximum(len(window), parent, window, floor), shape)

    def _append(self, node: Affine | Maximum, shape) -> Value:
        self.nodes.append(node)
        self.sizes.append(node.size)
        return Value(len(self.nodes), np.arange(node.size).reshape(shape))

    def network(self, scores: Any) -> Network:
        """All that the scores depend on; they are the last node."""
        _require(isinstance(scores, Value), "the output is a constant")
        last = self.nodes[scores.node - 1] if scores.node else None
        whole = last is not None and np.array_equal(scores.index.ravel(), np.arange(last.size))
        if not whole:
            scores = _elementwise(self, scores.index.shape, (scores, 1.0))
        kept, new = {scores.node}, {0: 0}
        for number in range(scores.node, 0, -1):
            kept |= set(_parents(self.nodes[number - 1])) if number in kept else set()
        nodes = []
        for number in sorted(kept - {0}):
            nodes.append(_renumbered(self.nodes[number - 1], new))
            new[number] = len(nodes)
        return Network(self.sizes[0], tuple(nodes))


def _parents(node: Affine | Maximum) -> list[int]:
    return [node.parent] if isinstance(node, Maximum) else [part.parent for part in node.parts]


def _renumbered(node: Affine | Maximum, new: dict[int, int]) -> Affine | Maximum:
    if isinstance(node, Maximum):
        return Maximum(node.size, new[node.parent], node.window, node.floor)
    parts = tuple(Part(new[p.parent], p.start, p.column, p.weight) for p in node.parts)
    return Affine(node.size, parts, node.bias, node.divisor)


class Settings:
    """An operator's attributes; what is left when its rule has run has no rule."""

    def __init__(self, kind: str, left: dict[str, Any]) -> None:
        self.kind, self.left = kind, left

    def take(self, name: str, default: Any = None) -> Any:
        return self.left.pop(name, default)

    def expect(self, name: str, *values: Any) -> None:
        """Refuses other values; an absent attribute has the first."""
        found = self.take(name, values[0])
        _require(found in values, f"{self.kind} with {name} = {found!r}")


# ---------------------------------------------------------------------------------------------
# Operators
# ---------------------------------------------------------------------------------------------


def _elementwise(builder: _Builder, shape, *terms: tuple[Value, Any], bias=0.0) -> Value:
    """A sum of values, each times a weight that fits the shape, and of a bias."""
    rows = np.arange(math.prod(shape))
    parts = []
    for value, weight in terms:
        index, weight = (np.broadcast_to(a, shape).ravel() for a in (value.index, weight))
        parts.append((value, rows, index, weight))
    return builder.affine(shape, parts, bias)


def _sum(sign: float) -> Callable:
    def rule(builder: _Builder, _: Settings, a: Any, b: Any) -> Value:
        shapes = (v.index.shape if isinstance(v, Value) else v.shape for v in (a, b))
        shape = np.broadcast_shapes(*shapes)
        signed = ((a, 1.0), (b, sign))
        terms = [(v, s) for v, s in signed if isinstance(v, Value)]
        _require(terms, "a sum of constants")
        (bias,) = [s * _floats(v) for v, s in signed if not isinstance(v, Value)] or [0.0]
        return _elementwise(builder, shape, *terms, bias=bias)

    return rule


def _moved(move: Callable) -> Callable:
    """A rule for what moves the entries of a value, or of a constant."""

    def rule(_: _Builder, settings: Settings, x: Any, *others: Any) -> Any:
        if isinstance(x, Value):
            return Value(x.node, move(settings, x.index, *others))
        return move(settings, x, *others)

    return rule


def _reshape(settings: Settings, x: np.ndarray, shape: np.ndarray) -> np.ndarray:
    _require(shape.dtype.kind == "i" and shape.ndim == 1, "Reshape by a computed shape")
    settings.expect("allowzero", 0)
    return x.reshape([x.shape[i] if size == 0 else int(size) for i, size in enumerate(shape)])


def _flatten(settings: Settings, x: np.ndarray) -> np.ndarray:
    axis = settings.take("axis", 1)
    _require(-x.ndim <= axis <= x.ndim, f"Flatten with axis = {axis}")
    return x.reshape(math.prod(x.shape[: axis + x.ndim if axis < 0 else axis]), -1)


def _constant(_: _Builder, settings: Settings) -> np.ndarray:
    value = settings.take("value")
    _require(isinstance(value, np.ndarray), "Constant without a tensor")
    return value


def _product(builder: _Builder, x: Value, matrix: np.ndarray, bias=0.0) -> Value:
    """Rows of entries, (.., k), times a matrix (k, n)."""
    single = isinstance(x, Value) and x.index.ndim > 1 and not isinstance(matrix, Value)
    _require(single, "a product that is not of a computed value and a matrix")
    matrix, index = _floats(matrix), x.index
    _require(matrix.ndim == 2 and index.shape[-1] == len(matrix), "a product of wrong shapes")
    shape = (*index.shape[:-1], matrix.shape[1])
    rows = np.arange(math.prod(shape)).reshape(*shape, 1)
    return builder.affine(shape, [(x, rows, index[..., None, :], matrix.T)], bias)


def _matmul(builder: _Builder, _: Settings, a: Any, b: Any) -> Value:
    if isinstance(a, Value):
        return _product(builder, a, b)
    turned = _product(builder, Value(b.node, b.index.swapaxes(-1, -2)), np.transpose(a))
    return Value(turned.node, turned.index.swapaxes(-1, -2))


def _gemm(builder: _Builder, settings: Settings, a: Any, b: Any, c: Any = None) -> Value:
    settings.expect("alpha", 1.0)
    settings.expect("beta", 1.0)
    _require(isinstance(a, Value) and not isinstance(c, Value), "Gemm of a constant by a value")
    a = Value(a.node, a.index.T) if settings.take("transA", 0) else a
    b = np.transpose(b) if settings.take("transB", 0) else b
    return _product(builder, a, b, 0.0 if c is None else _floats(c))


def _relu(builder: _Builder, _: Settings, x: Value) -> Value:
    return builder.maximum(x, x.index.reshape(-1, 1), 0.0, x.index.shape)


def _leaky_relu(builder: _Builder, settings: Settings, x: Value) -> Value:
    """``a x + (1 - a) max(x, 0)``."""
    alpha = settings.take("alpha", float(np.float32(0.01)))
    exact = math.isfinite(alpha) and Fraction(1) - Fraction(alpha) == Fraction(1 - alpha)
    _require(exact, f"LeakyRelu: 1 - {alpha!r} is no number of float64")
    positive = _relu(builder, settings, x)
    return _elementwise(builder, x.index.shape, (x, alpha), (positive, 1 - alpha))


def _batch_norm(builder: _Builder, settings: Settings, x: Value, *constants: np.ndarray) -> Value:
    settings.expect("training_mode", 0)
    settings.expect("spatial", 1)
    settings.take("momentum")
    channels = (-1, *(1,) * (x.index.ndim - 2))
    scale, bias, mean, variance = (_floats(c).reshape(channels) for c in constants)
    factor = scale / np.sqrt(variance + settings.take("epsilon", float(np.float32(1e-5))))
    shape = x.index.shape
    return _elementwise(
        builder, shape, (_elementwise(builder, shape, (x, 1.0), bias=-mean), factor), bias=bias
    )


class _Window(NamedTuple):
    """Entries of the windows over the spatial axes, -1 outside: (channel, place, element)."""

    entries: np.ndarray
    shape: tuple[int, ...]


def _windows(settings: Settings, x: Value, kernel: tuple[int, ...]) -> _Window:
    _require(isinstance(x, Value) and x.index.shape[0] == 1, f"{settings.kind} of no single image")
    rank = len(kernel)
    _require(x.index.ndim == rank + 2, f"{settings.kind}: a kernel of other axes than the image's")
    mode = settings.take("auto_pad", "NOTSET")
    pads = settings.take("pads", [0] * 2 * rank)
    _require(mode in ("NOTSET", "VALID"), f"{settings.kind} with auto_pad = {mode}")
    strides, dilations = (settings.take(n, [1] * rank) for n in ("strides", "dilations"))
    _require(min((*strides, *dilations)) > 0 <= min(pads), f"{settings.kind}: odd steps or pads")
    pads = [0] * 2 * rank if mode == "VALID" else pads
    widths = list(zip(pads[:rank], pads[rank:], strict=True))
    padded = np.pad(x.index[0], [(0, 0), *widths], constant_values=-1)
    reach = [(size - 1) * step + 1 for size, step in zip(kernel, dilations, strict=True)]
    view = np.lib.stride_tricks.sliding_window_view(padded, reach, tuple(range(1, rank + 1)))
    steps = (*strides, *dilations)
    view = view[(slice(None), *(slice(None, None, step) for step in steps))]
    _require(len(steps) == 2 * rank, f"{settings.kind}: steps of other axes")
    shape = view.shape[1 : rank + 1]
    return _Window(view.reshape(len(padded), math.prod(shape), -1), shape)


def _convolution(builder: _Builder, settings: Settings, x: Value, kernel, bias=None) -> Value:
    kernel, groups = _floats(kernel), settings.take("group", 1)
    size = kernel.shape[2:]
    _require(
        tuple(settings.take("kernel_shape", size)) == size, "Conv: kernel_shape is not its own"
    )
    window = _windows(settings, x, size)
    channels, places, _ = window.entries.shape
    outs, own = kernel.shape[:2]
    _require(channels == groups * own and outs % groups == 0, "Conv: channels that do not fit")
    entries = window.entries.reshape(groups, 1, own, places, -1)
    weight = kernel.reshape(groups, outs // groups, own, 1, -1)
    rows = np.arange(outs * places).reshape(groups, outs // groups, 1, places, 1)
    shape = (1, outs, *window.shape)
    bias = 0.0 if bias is None else _floats(bias).reshape(-1, *(1,) * len(window.shape))
    return builder.affine(shape, [(x, rows, entries, weight)], bias)


def _pooled(settings: Settings, x: Value) -> tuple[np.ndarray, tuple[int, ...]]:
    """Windows (place, element) of every channel, and the pool's shape."""
    settings.expect("ceil_mode", 0)
    window = _windows(settings, x, tuple(settings.take("kernel_shape")))
    channels, places, _ = window.entries.shape
    return window.entries.reshape(channels * places, -1), (1, channels, *window.shape)


def _max_pool(builder: _Builder, settings: Settings, x: Value) -> Value:
    settings.expect("storage_order", 0)
    window, shape = _pooled(settings, x)
    return builder.maximum(x, window, -np.inf, shape)


def _average_pool(builder: _Builder, settings: Settings, x: Value) -> Value:
    padded = settings.take("count_include_pad", 0)
    window, shape = _pooled(settings, x)
    count = np.where(padded, window.shape[1], (window >= 0).sum(1)).astype(np.float64)
    rows = np.arange(len(window))[:, None]
    return builder.affine(shape, [(x, rows, window, 1.0)], 0.0, count)


RULES: dict[str, Callable] = {
    "Add": _sum(1.0), "AveragePool": _average_pool, "BatchNormalization": _batch_norm,
    "Constant": _constant, "Conv": _convolution, "Flatten": _moved(_flatten), "Gemm": _gemm,
    "Identity": _moved(lambda settings, x: x), "LeakyRelu": _leaky_relu, "MatMul": _matmul,
    "MaxPool": _max_pool, "Relu": _relu, "Reshape": _moved(_reshape), "Sub": _sum(-1.0),
    "Transpose": _moved(lambda settings, x: x.transpose(settings.take("perm"))),
}  # fmt: skip
"""By operator: of the builder, the attributes, and the operands (values, or constants as arrays)."""


# ---------------------------------------------------------------------------------------------
# The format: messages of numbered fields
# ---------------------------------------------------------------------------------------------


NUMBER, BYTES = (0,), (2,)
NUMBERS, FLOAT, FLOATS, DOUBLES = (0, 2), (5,), (5, 2), (1, 2)
"""The kinds of fields: integers, strings and messages, of 32 and 64 bits; of many numbers also packed."""


def _message(
    data: bytes,
    what: str,
    texts: set[int],
    others: Mapping[int, tuple[int, ...]] = MappingProxyType({}),
) -> dict[int, list]:
    """A message's fields by number: integers, or bytes.

    Args:
        data: the message.
        what: its name.
        texts: its fields that are strings or messages.
        others: the kinds that its other fields may have. A field of another kind is none to other
            readers.

    Raises:
        Refused: it is cut off, or has a field beyond those that are known.
    """
    found: dict[int, list] = {}
    for number, kind, value in _fields(data):
        known = BYTES if number in texts else others.get(number, ())
        _require(kind in known, f"field {number} of a {what}, of kind {kind}")
        found.setdefault(number, []).append(value)
    return found


def _fields(data: bytes) -> Iterator[tuple[int, int, Any]]:
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        if tag & 7 == 0:
            value, at = _varint(data, at)
        else:
            _require(tag & 7 in (1, 2, 5), f"a field of the kind {tag & 7}")
            size, at = _varint(data, at) if tag & 7 == 2 else ({1: 8, 5: 4}[tag & 7], at)
            _require(at + size <= len(data), "a file that is cut off")
            value, at = data[at : at + size], at + size
        yield tag >> 3, tag & 7, value


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """An integer of seven bits a byte, the lowest first, and where it ends."""
    value = 0
    for place in range(10):
        _require(at + place < len(data), "a file that is cut off")
        byte = data[at + place]
        value |= (byte & 127) << 7 * place
        if byte < 128:
            return value, at + place + 1
    raise Refused("an integer that does not end.")


def _one(message: dict[int, list], number: int, default: Any = None) -> Any:
    """The value of a field that is there once; a second would be merged, or would win."""
    values = message.get(number, [] if default is None else [default])
    _require(len(values) == 1, f"field {number} {len(values)} times")
    return values[0]


def _text(message: dict[int, list], number: int) -> str:
    return _one(message, number, b"").decode()


def _integers(values: list) -> list[int]:
    """Signed integers, one a field or many packed in one."""
    found = []
    for value in values:
        at, packed = 0, value if isinstance(value, bytes) else b""
        while at < len(packed):
            number, at = _varint(packed, at)
            found.append(number)
        found += [] if isinstance(value, bytes) else [value]
    return [number - 2**64 if number >= 2**63 else number for number in found]


def _tensor(entry: bytes) -> tuple[str, np.ndarray]:
    numbers = {1: NUMBERS, 2: NUMBER, 4: FLOATS, 5: NUMBERS, 7: NUMBERS, 10: DOUBLES}
    tensor = _message(entry, "tensor", {8, 9, 12}, numbers)
    name, number = _text(tensor, 8), _one(tensor, 2)
    _require(number in TYPES, f"the tensor {name!r} of type {number}")
    kind, shape = np.dtype(TYPES[number]), _integers(tensor.get(1, []))
    given = {4: "<f4", 5: "<i4", 7: "<i8", 9: kind.str, 10: "<f8"}
    fields = [field for field in given if field in tensor]
    _require(len(fields) <= 1, f"the tensor {name!r} holds its numbers twice")
    field = fields[0] if fields else 9
    _require(given[field] == kind.str, f"the tensor {name!r} holds numbers of another type")
    if field in (5, 7):
        values = np.array(_integers(tensor[field]), kind)
    else:
        values = np.frombuffer(b"".join(tensor.get(field, [])), kind)
    return name, values.reshape(shape)


def _attribute(entry: bytes) -> tuple[str, Any]:
    numbers = {2: FLOAT, 3: NUMBER, 7: FLOATS, 8: NUMBERS, 20: NUMBER}
    attribute = _message(entry, "attribute", {1, 4, 5, 13}, numbers)
    name, kind = _text(attribute, 1), _one(attribute, 20)
    own = {1: 2, 2: 3, 3: 4, 4: 5, 6: 7, 7: 8}.get(kind)
    _require(set(attribute) <= {1, 13, 20, own}, f"the attribute {name!r} of several types")
    read = {
        1: lambda: struct.unpack("<f", _one(attribute, 2, bytes(4)))[0],
        2: lambda: _integers([_one(attribute, 3, 0)])[0],
        3: lambda: _text(attribute, 4),
        4: lambda: _tensor(_one(attribute, 5))[1],
        6: lambda: np.frombuffer(b"".join(attribute.get(7, [])), "<f4").tolist(),
        7: lambda: _integers(attribute.get(8, [])),
    }
    _require(kind in read, f"the attribute {name!r} of type {kind}")
    return name, read[kind]()


def _floats(array: Any) -> np.ndarray:
    """A constant's numbers in float64, which holds them exactly."""
    _require(
        isinstance(array, np.ndarray) and array.dtype.kind == "f", "a constant is not of floats"
    )
    return array.astype(np.float64)


def _require(holds: Any, what: str) -> None:
    if not holds:
        raise Refused(f"cannot be checked: {what}.")
