"""An ONNX file as affine maps and maxima, entry by entry, read with NumPy and Python alone.

Of a file is taken: one float input whose first axis is one or open, one output, and the operators in
:data:`RULES`. Whatever else a file has (a field of the format, an operator, an attribute, an output)
is refused with a sentence, since it might change what is computed. Weights are taken as they are; only
batch normalisation's factor ``scale / sqrt(var + epsilon)`` is no number of any file, and is rounded
to float64.

A value of the graph is a constant, or an array of the network's entries (:class:`Value`), so that what
only moves entries needs no node. The format: onnx.proto3 of onnx/onnx, version 1.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from jmlv_check.network import Affine, Maximum, Network, Refused, of_arrays, require

OPSETS = range(7, 24)
"""Versions of the standard operators in which the rules below are right."""


class Value(np.ndarray):
    """Entries of the network, in the shape that the value has in the file."""


def load_onnx(path: str | Path) -> Network:
    """The network of a file.

    Raises:
        Refused: it cannot be read, or holds what there is no rule for.
    """
    try:
        return of_arrays(_network(_message("model", Path(path).read_bytes())).arrays())
    except Refused as problem:
        raise Refused(f"{path}: cannot be checked: {problem}") from problem
    except Exception as problem:  # whatever a damaged file provokes
        raise Refused(f"{path}: damaged ({type(problem).__name__}: {problem}).") from problem


def _network(model: dict) -> Network:
    versions = [o["version"] for o in model["opset_import"] if o["domain"] in ("", "ai.onnx")]
    require(len(versions) == 1 and versions[0] in OPSETS, f"operators of version {versions}")
    graph = model["graph"]
    values: dict[str, Any] = {t["name"]: _tensor(t) for t in graph["initializer"]}
    named = "" not in values and len(values) == len(graph["initializer"])
    require(named, "a constant without a name, or the name of one is taken")
    inputs = [i for i in graph["input"] if i["name"] not in values]
    for found, what in ((inputs, "input"), (graph["output"], "output")):
        require(len(found) == 1, f"{len(found)} {what}s where one is expected")
    name, shape = inputs[0]["name"], _shape(inputs[0]["type"]["tensor_type"])
    require(name, "an input without a name")
    net = _Builder(math.prod(shape))
    values[name] = np.arange(net.inputs).reshape(shape).view(Value)
    for node in graph["node"]:
        result, (name,) = _applied(net, node, values), node["output"]
        require(name and name not in values, f"the name {name!r} is taken, or none")
        values[name] = result
    return net.network(_looked_up(values, graph["output"][0]["name"]))


def _shape(kind: dict) -> tuple[int, ...]:
    """The shape of the input; its first axis may be open and is then one."""
    first, *rest = (axis["dim_value"] for axis in kind["shape"]["dim"])
    require(kind["elem_type"] in (1, 11), "an input that is not of floats")
    require(rest and first in (0, 1), "an input that is no batch of one")
    require(all(0 < size < 2**31 for size in rest), "an input with an open axis")
    return 1, *rest


def _applied(net: _Builder, node: dict, values: dict[str, Any]) -> Any:
    """What one operator of the file computes."""
    kind, attributes = node["op_type"], {a["name"]: _attribute(a) for a in node["attribute"]}
    known = node["domain"] in ("", "ai.onnx") and kind in RULES
    require(known, f"no rule for {kind} of the domain {node['domain']!r}")
    require(len(attributes) == len(node["attribute"]), f"{kind} has an attribute twice")
    require(len(node["output"]) == 1, f"{kind} with {len(node['output'])} outputs")
    operands = [_looked_up(values, name) for name in node["input"]]
    try:
        return RULES[kind](net, *operands, **attributes)
    except TypeError as problem:  # an operand or an attribute that the rule does not take
        raise Refused(f"no rule for such a {kind} ({problem}).") from problem


def _looked_up(values: dict[str, Any], name: str) -> Any:
    require(name in values, f"the value {name!r} is used before it is there")
    return values[name]


class _Builder:
    """The nodes of the network so far."""

    def __init__(self, inputs: int) -> None:
        self.inputs, self.nodes, self.starts = inputs, [], [inputs]

    def affine(self, shape, *terms, bias: Any = 0.0, divisor: Any = 1.0) -> Value:
        """``(bias + sum of weight * entry) / divisor``; a term is entries and their weights, (.., element)
        after as many axes as the shape has; an entry below 0 is none."""
        size, found = math.prod(shape), []
        for entry, weight in terms:
            entry, weight = (a.reshape(size, -1) for a in np.broadcast_arrays(entry, weight))
            row, element = np.nonzero((entry >= 0) & (weight != 0))
            found.append((row, entry[row, element], weight[row, element].astype(np.float64)))
        row, source, weight = map(np.concatenate, zip(*found))
        order = np.argsort(source, kind="stable")
        own = (np.broadcast_to(v, shape).ravel().astype(np.float64) for v in (bias, divisor))
        return self._append(Affine(row[order], source[order], weight[order], *own), shape)

    def maximum(self, window: np.ndarray, floor: float, shape) -> Value:
        """``max(floor, entries of the window)``, those below 0 none; joined with a maximum below that it
        is of, if one of both is of single entries: both are one maximum."""
        window = np.where(window < 0, window.max(1, keepdims=True), window)
        number = int(np.searchsorted(self.starts, window.min(), "right"))
        floors = np.full(len(window), floor)
        below = self.nodes[number - 1] if 0 < number <= len(self.nodes) else None
        inside = isinstance(below, Maximum) and window.max() < self.starts[number]
        if inside and 1 in (window.shape[1], below.source.shape[1]):
            own = window - self.starts[number - 1]
            floors = np.maximum(floors, below.floor[own].max(1))
            window = below.source[own].reshape(len(window), -1)
        return self._append(Maximum(window, floors), shape)

    def _append(self, node: Affine | Maximum, shape) -> Value:
        self.nodes.append(node)
        self.starts.append(self.starts[-1] + math.prod(shape))
        return np.arange(*self.starts[-2:]).reshape(shape).view(Value)

    def network(self, scores: Any) -> Network:
        """The nodes that the scores depend on."""
        require(isinstance(scores, Value), "the output is a constant")
        kept, nodes = np.arange(self.starts[-1]) < self.inputs, []
        kept[np.asarray(scores)] = True
        for number in range(len(self.nodes), 0, -1):
            span = slice(*self.starts[number - 1 : number + 1])
            if kept[span].any():
                nodes.insert(0, self.nodes[number - 1])
                kept[span] = kept[nodes[0].source] = True
        new = np.cumsum(kept) - 1
        nodes = tuple(node._replace(source=new[node.source]) for node in nodes)
        return Network(self.inputs, nodes, new[np.asarray(scores).ravel()])


# ---------------------------------------------------------------------------------------------
# Operators: of the builder, the operands (values, or constants as arrays), and the attributes
# ---------------------------------------------------------------------------------------------


def _scaled(net: _Builder, shape, *terms: tuple[Value, Any], bias: Any = 0.0) -> Value:
    """A sum of values, each times a weight that fits the shape, and of a bias."""
    require(all(isinstance(value, Value) for value, _ in terms), "an operation on a constant")
    fitting = ([np.broadcast_to(a, shape)[..., None] for a in term] for term in terms)
    return net.affine(shape, *fitting, bias=bias)


def _sum(sign: float, net: _Builder, a: Any, b: Any, /) -> Value:
    signed = (a, 1.0), (b, sign)
    terms = [(v, s) for v, s in signed if isinstance(v, Value)]
    require(terms, "a sum of constants")
    bias = sum(s * _floats(v) for v, s in signed if not isinstance(v, Value))
    return _scaled(net, np.broadcast_shapes(a.shape, b.shape), *terms, bias=bias)


def _reshape(_: _Builder, x: np.ndarray, shape: np.ndarray, /, *, allowzero=0) -> np.ndarray:
    fixed = not isinstance(shape, Value) and shape.dtype.kind == "i" and shape.ndim == 1
    require(fixed and not allowzero, "Reshape by a computed shape, or with allowzero")
    return x.reshape([x.shape[i] if size == 0 else int(size) for i, size in enumerate(shape)])


def _flatten(_: _Builder, x: np.ndarray, /, *, axis=1) -> np.ndarray:
    require(-x.ndim <= axis <= x.ndim, f"Flatten with axis = {axis}")
    return x.reshape(math.prod(x.shape[: axis + x.ndim if axis < 0 else axis]), -1)


def _transpose(_: _Builder, x: np.ndarray, /, *, perm=None) -> np.ndarray:
    return x.transpose(perm)


def _constant(_: _Builder, /, *, value: np.ndarray) -> np.ndarray:
    require(isinstance(value, np.ndarray), "Constant without a tensor")
    return value


def _matmul(net: _Builder, a: Any, b: Any, /, bias: Any = 0.0) -> Value:
    """Rows of entries, (.., k), times a matrix (k, n), or the other way round."""
    if not isinstance(a, Value):
        require(isinstance(b, Value) and b.ndim > 1, "a product of constants")
        return _matmul(net, b.swapaxes(-1, -2), np.transpose(a)).swapaxes(-1, -2)
    single = a.ndim > 1 and not isinstance(b, Value)
    require(single, "a product that is not of a computed value and a matrix")
    matrix = _floats(b)
    require(matrix.ndim == 2 and a.shape[-1] == len(matrix), "a product of wrong shapes")
    shape = (*a.shape[:-1], matrix.shape[1])
    return net.affine(shape, (a[..., None, :], matrix.T), bias=bias)


def _gemm(
    net: _Builder, a: Any, b: Any, c: Any = None, /, *, alpha=1.0, beta=1.0, transA=0, transB=0
) -> Value:
    require(alpha == beta == 1, f"Gemm with alpha = {alpha} and beta = {beta}")
    require(isinstance(a, Value) and a.ndim == 2, "Gemm of a constant by a value")
    a, b = a.T if transA else a, np.transpose(b) if transB else b
    return _matmul(net, a, b, 0.0 if c is None else _floats(c))


def _relu(net: _Builder, x: Value, /) -> Value:
    require(isinstance(x, Value), "an operation on a constant")
    return net.maximum(np.asarray(x).reshape(-1, 1), 0.0, x.shape)


def _leaky_relu(net: _Builder, x: Value, /, *, alpha=float(np.float32(0.01))) -> Value:
    """``a x + (1 - a) max(x, 0)``."""
    exact = Fraction(1) - Fraction(alpha) == Fraction(1 - alpha)
    require(exact, f"LeakyRelu: 1 - {alpha!r} is no number of float64")
    return _scaled(net, x.shape, (x, alpha), (_relu(net, x), 1 - alpha))


def _batch_norm(
    net: _Builder, x: Value, scale, bias, mean, variance, /, *,
    epsilon=float(np.float32(1e-5)), momentum=0.9, training_mode=0, spatial=1,
) -> Value:  # fmt: skip
    require(not training_mode and spatial == 1, "BatchNormalization with training_mode or spatial")
    channels, constants = (-1, *(1,) * (x.ndim - 2)), (scale, bias, mean, variance)
    scale, bias, mean, variance = (_floats(c).reshape(channels) for c in constants)
    factor = scale / np.sqrt(variance + epsilon)
    return _scaled(net, x.shape, (_scaled(net, x.shape, (x, 1.0), bias=-mean), factor), bias=bias)


def _windows(
    x: Value, kernel, *, strides=None, pads=None, dilations=None, auto_pad="NOTSET"
) -> np.ndarray:
    """Entries of the windows over the spatial axes, -1 outside: (channel, *place, *element)."""
    rank = len(kernel)
    single = isinstance(x, Value) and x.shape[0] == 1 and x.ndim == rank + 2
    require(single, "windows of no single image, or over other axes than its own")
    strides, dilations = ([1] * rank if v is None else v for v in (strides, dilations))
    pads = [0] * 2 * rank if pads is None or auto_pad == "VALID" else pads
    require(auto_pad in ("NOTSET", "VALID"), f"windows with auto_pad = {auto_pad}")
    require(min((*strides, *dilations)) > 0 <= min(pads), "windows with odd strides or pads")
    widths = [(0, 0), *zip(pads[:rank], pads[rank:], strict=True)]
    padded = np.pad(np.asarray(x[0]), widths, constant_values=-1)
    reach = [(size - 1) * step + 1 for size, step in zip(kernel, dilations, strict=True)]
    view = np.lib.stride_tricks.sliding_window_view(padded, reach, tuple(range(1, rank + 1)))
    require(len(strides) == rank, "strides of other axes")
    return view[(slice(None), *(slice(None, None, step) for step in (*strides, *dilations)))]


def _conv(
    net: _Builder, x: Value, kernel, bias=None, /, *, group=1, kernel_shape=None, **where
) -> Value:
    kernel = _floats(kernel)
    outs, own, *size = kernel.shape
    require(kernel_shape in (None, size), "Conv: kernel_shape is not its own")
    view = _windows(x, size, **where)
    places = view.shape[1 : 1 + len(size)]
    require(len(view) == group * own and outs % group == 0, "Conv: channels that do not fit")
    entries = view.reshape(group, 1, own, math.prod(places), -1).swapaxes(2, 3)
    weight = kernel.reshape(group, outs // group, 1, own, -1)
    bias = 0.0 if bias is None else _floats(bias).reshape(-1, *(1,) * len(size))
    return net.affine((1, outs, *places), (entries, weight), bias=bias)


def _pooled(x: Value, *, kernel_shape, ceil_mode=0, **where) -> tuple[np.ndarray, tuple[int, ...]]:
    """Windows (place, element) of every channel, and the pool's shape."""
    require(not ceil_mode, "a pool with ceil_mode")
    view = _windows(x, kernel_shape, **where)
    shape = view.shape[: 1 + len(kernel_shape)]
    return view.reshape(math.prod(shape), -1), (1, *shape)


def _max_pool(net: _Builder, x: Value, /, *, storage_order=0, **where) -> Value:
    require(not storage_order, "MaxPool with storage_order")
    window, shape = _pooled(x, **where)
    return net.maximum(window, -np.inf, shape)


def _average_pool(net: _Builder, x: Value, /, *, count_include_pad=0, **where) -> Value:
    window, shape = _pooled(x, **where)
    count = np.where(count_include_pad, window.shape[1], (window >= 0).sum(1))
    return net.affine(shape, (window, 1.0), divisor=count.reshape(shape))


RULES: dict[str, Callable] = {
    "Add": functools.partial(_sum, 1.0), "AveragePool": _average_pool,
    "BatchNormalization": _batch_norm, "Constant": _constant, "Conv": _conv, "Flatten": _flatten,
    "Gemm": _gemm, "Identity": lambda _, x, /: x, "LeakyRelu": _leaky_relu,
    "MatMul": lambda net, a, b, /: _matmul(net, a, b), "MaxPool": _max_pool, "Relu": _relu,
    "Reshape": _reshape, "Sub": functools.partial(_sum, -1.0), "Transpose": _transpose,
}  # fmt: skip


def _floats(array: Any) -> np.ndarray:
    """A constant's numbers in float64, which holds them exactly."""
    constant = isinstance(array, np.ndarray) and not isinstance(array, Value)
    require(constant and array.dtype.kind == "f", "a constant is not of floats")
    return array.astype(np.float64)


# ---------------------------------------------------------------------------------------------
# The format: messages of numbered fields
# ---------------------------------------------------------------------------------------------


MESSAGES = {
    "model": "1 ir_version int, 2 producer_name text, 3 producer_version text, 4 domain text, "
    "5 model_version int, 6 doc_string text, 7 graph graph, 8 opset_import* opset, 14 metadata_props* bytes",
    "opset": "1 domain text, 2 version int",
    "graph": "1 node* node, 2 name text, 5 initializer* tensor, 10 doc_string text, 11 input* value, "
    "12 output* value, 13 value_info* bytes, 16 metadata_props* bytes",
    "node": "1 input* text, 2 output* text, 3 name text, 4 op_type text, 5 attribute* attribute, "
    "6 doc_string text, 7 domain text, 9 metadata_props* bytes",
    "value": "1 name text, 2 type type, 3 doc_string text",
    "type": "1 tensor_type tensor_type, 6 denotation text",
    "tensor_type": "1 elem_type int, 2 shape shape",
    "shape": "1 dim* dim",
    "dim": "1 dim_value int, 2 dim_param text, 3 denotation text",
    "tensor": "1 dims* int, 2 data_type int, 4 float_data* float, 5 int32_data* int, 7 int64_data* int, "
    "8 name text, 9 raw_data bytes, 10 double_data* double, 12 doc_string text",
    "attribute": "1 name text, 2 f float, 3 i int, 4 s text, 5 t tensor, 8 ints* int, "
    "13 doc_string text, 20 type int",
}
"""The fields that a message may have: number, name (with a star if there may be many), and kind."""

EMPTY = {"int": 0, "float": 0.0, "text": "", "bytes": b""}
"""What a field holds that is not there; a message that is not there is None."""

WIRE = {"int": 0, "double": 1, "float": 5}
"""How numbers are written one a field; all else, and many at once, as bytes of a given length: 2."""


def _message(what: str, data: bytes) -> dict[str, Any]:
    """A message's fields by name.

    Raises:
        Refused: it is cut off, has a field beyond those that are known or of another kind, which is none
            to other readers, or a second where it would be merged, or would win.
    """
    fields = {int(f[0]): f[1:] for f in map(str.split, MESSAGES[what].split(", "))}
    found: dict[str, list] = {name: [] for name, _ in fields.values()}
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        name, kind = fields.get(tag >> 3, ("", ""))
        wires = {WIRE.get(kind, 2), 2 if name.endswith("*") else WIRE.get(kind, 2)}
        require(name and tag & 7 in wires, f"field {tag >> 3} of a {what}, of kind {tag & 7}")
        size = {1: 8, 5: 4}.get(tag & 7)
        value, at = (size, at) if size else _varint(data, at)
        if tag & 7:
            require(at + value <= len(data), "a file that is cut off")
            value, at = data[at : at + value], at + value
        found[name] += _values(kind, value)
        once = name.endswith("*") or len(found[name]) == 1
        require(once, f"{name} of a {what} {len(found[name])} times")
    single = lambda name, kind: (found[name] or [EMPTY.get(kind)])[0]  # noqa: E731
    return {
        name.rstrip("*"): found[name] if name.endswith("*") else single(name, kind)
        for name, kind in fields.values()
    }


def _values(kind: str, value: int | bytes) -> list:
    """One value, or those that are packed in one."""
    if isinstance(value, int):
        return [value - 2**64 if value >= 2**63 else value]
    if kind == "int":
        at, found = 0, []
        while at < len(value):
            number, at = _varint(value, at)
            found += _values(kind, number)
        return found
    if kind in ("float", "double"):
        return np.frombuffer(value, {"float": "<f4", "double": "<f8"}[kind]).tolist()
    read = {"bytes": bytes, "text": bytes.decode}.get(kind, functools.partial(_message, kind))
    return [read(value)]


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """An integer of seven bits a byte, the lowest first, and where it ends."""
    for end in range(at, at + 10):
        require(end < len(data), "a file that is cut off")
        if data[end] < 128:
            return sum((byte & 127) << 7 * i for i, byte in enumerate(data[at : end + 1])), end + 1
    raise Refused("an integer that does not end.")


TYPES = {1: ("<f4", "float"), 6: ("<i4", "int32"), 7: ("<i8", "int64"), 11: ("<f8", "double")}
"""By number of the type: what NumPy calls it, and its name among the fields."""


def _tensor(tensor: dict) -> np.ndarray:
    name, kind = tensor["name"], TYPES.get(tensor["data_type"])
    require(kind, f"the tensor {name!r} of type {tensor['data_type']}")
    given = [f for f in tensor if f.endswith("_data") and tensor[f]]
    raw, values = tensor["raw_data"], tensor[f"{kind[1]}_data"]
    once = given in ([], ["raw_data"], [f"{kind[1]}_data"])
    require(once, f"the tensor {name!r} holds its numbers twice, or others")
    numbers = np.frombuffer(raw, kind[0]) if raw else np.array(values, kind[0])
    return numbers.reshape(tensor["dims"])


def _attribute(attribute: dict) -> Any:
    own = {1: "f", 2: "i", 3: "s", 4: "t", 7: "ints"}.get(attribute["type"])
    others = [n for n in ("f", "i", "s", "t", "ints") if attribute[n] and n != own]
    require(own and not others, f"the attribute {attribute['name']!r} of type {attribute['type']}")
    return _tensor(attribute["t"]) if own == "t" else attribute[own]
