"""Writes a normalised network graph as an ONNX file that any other verifier reads.

The file's input is one image as the graph takes it, (1, height, width, channel), its output
(1, label). Convolutions and pools become ONNX's own; a value stays in their layout (channels first)
until an operation needs the other. An affine operation without an ONNX counterpart is written as
the matrix that it is. The package ``onnx`` is needed: ``pip install jmlv[interop]``.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jmlv.errors import UnsupportedOperation
from jmlv.graph import Classifier, Equation, Graph, Variable, trace
from jmlv.graph.ir import read
from jmlv.graph.operations import (
    is_affine,
    is_max_pool,
    is_maximum,
    is_product,
    is_relu,
    is_softmax,
)
from jmlv.graph.smooth import (
    CUBE,
    ELU,
    EXP,
    FINITE,
    GELU,
    GELU_TANH,
    GELU_TANH_64,
    GELU_TANH_CUBIC,
    GELU_TANH_SCALE,
    HARD_SWISH,
    LOG,
    RECIPROCAL,
    RSQRT,
    SIGMOID,
    SILU,
    SOFTPLUS,
    SQRT,
    SQUARE,
    TANH,
)

OPSET = 13
IR_VERSION = 7
"""Old enough for every reader in use."""

MAXIMUM_MATRIX = 1 << 26
"""Entries of a matrix that an affine operation may become."""

CHANNELS_FIRST = (0, 3, 1, 2)
INPUT, OUTPUT = "image", "scores"


def write_onnx(f: Classifier, image_shape: Sequence[int], path: str | Path) -> None:
    """Writes a network as ONNX in float32.

    Args:
        f: the network, or its graph.
        image_shape: (height, width, channel).
        path: of the file, replaced if it exists.

    Raises:
        ImportError: the package ``onnx`` is not installed.
        UnsupportedOperation: ``f`` has operations without a sound rule, or without a form in ONNX.
    """
    import onnx

    graph = trace(f, image_shape)
    writer = _Writer(graph)
    nodes = writer.write()
    content = onnx.helper.make_graph(
        nodes,
        "jmlv",
        inputs=[_described(INPUT, graph.input)],
        outputs=[_described(OUTPUT, graph.output)],
        initializer=[onnx.numpy_helper.from_array(v, n) for n, v in writer.constants.items()],
    )
    model = onnx.helper.make_model(
        content,
        opset_imports=[onnx.helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="jmlv",
    )
    onnx.checker.check_model(model)
    Path(path).write_bytes(model.SerializeToString())


def _described(name: str, variable: Variable) -> Any:
    import onnx

    return onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, variable.shape)


class _Writer:
    """Nodes and constants so far, and under which name and layout each value is at hand."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.values = {v: np.asarray(c) for v, c in graph.constants().items()}
        self.nodes: list[Any] = []
        self.constants: dict[str, np.ndarray] = {}
        self.views: dict[Variable, dict[tuple[int, ...], str]] = {}

    def write(self) -> list[Any]:
        self.views[self.graph.input] = {_as_is(self.graph.input): INPUT}
        for eqn in self.graph.eqns:
            self._equation(eqn)
        last = self.view(self.graph.output, _as_is(self.graph.output))
        self.node("Identity", [last], output=OUTPUT)
        return self.nodes

    def _equation(self, eqn: Equation) -> None:
        layout, name = self._translated(eqn)
        self.views[eqn.outvar] = {layout: name}

    def _translated(self, eqn: Equation) -> tuple[tuple[int, ...], str]:
        """Writes an equation; returns its output's layout (a permutation of axes) and name."""
        rule = _rule(self.graph, eqn)
        if rule is not None:
            return rule(self, eqn)
        if is_affine(self.graph, eqn):
            return _matrix(self, eqn)
        raise UnsupportedOperation(f"f: no form in ONNX for {eqn!r}.")

    def node(
        self, kind: str, inputs: Sequence[str], output: str | None = None, **attributes: Any
    ) -> str:
        import onnx

        output = f"value{len(self.nodes)}" if output is None else output
        self.nodes.append(onnx.helper.make_node(kind, list(inputs), [output], **attributes))
        return output

    def constant(self, value: Any) -> str:
        value = np.asarray(value)
        value = value.astype(np.float32) if value.dtype.kind == "f" else value
        name = f"constant{len(self.constants)}"
        self.constants[name] = np.ascontiguousarray(value).reshape(value.shape)
        return name

    def view(self, variable: Variable, layout: tuple[int, ...]) -> str:
        """The value's name with its axes in that order, transposed if it has to be."""
        views = self.views[variable]
        if layout not in views:
            stored, name = next(iter(views.items()))
            order = [stored.index(axis) for axis in layout]
            views[layout] = self.node("Transpose", [name], perm=order)
        return views[layout]

    def layout(self, variable: Variable) -> tuple[int, ...]:
        """The layout in which the value was computed."""
        return next(iter(self.views[variable]))

    def operand(self, atom: Any, shape: tuple[int, ...], layout: tuple[int, ...]) -> str:
        """An operand of an elementwise operation with that output shape, in that layout."""
        if isinstance(atom, Variable) and atom in self.views:
            return self.view(atom, layout)
        value = np.asarray(read(self.values, atom), np.float32)
        value = value.reshape((1,) * (len(shape) - value.ndim) + value.shape)
        return self.constant(value.transpose(layout))


Rule = Callable[[_Writer, Equation], tuple[tuple[int, ...], str]]


def _rule(graph: Graph, eqn: Equation) -> Rule | None:
    """The rule of an equation that has a direct counterpart."""
    if is_maximum(eqn):
        return _unary("Relu") if is_relu(eqn) else _elementwise("Max")
    if is_max_pool(eqn):
        return _max_pool
    if eqn.primitive is lax.conv_general_dilated_p:
        return _convolution if _is_plain(graph, eqn) else None
    if eqn.primitive is lax.dot_general_p:
        if is_product(graph, eqn):
            return _einsum
        return _product if _is_dense(graph, eqn) else None
    if is_softmax(eqn):
        return _softmax
    return _SMOOTH.get(eqn.primitive) or _RULES.get(eqn.primitive.name)


def _as_is(variable: Variable) -> tuple[int, ...]:
    return tuple(range(len(variable.shape)))


def _unary(kind: str) -> Rule:
    def rule(w: _Writer, eqn: Equation) -> tuple[tuple[int, ...], str]:
        source = eqn.invars[0]
        return w.layout(source), w.node(kind, [w.view(source, w.layout(source))])

    return rule


def _chain(w: _Writer, eqn: Equation, *kinds: str) -> tuple[tuple[int, ...], str]:
    """One operator of one value after the other."""
    source = eqn.invars[0]
    layout = w.layout(source)
    name = w.view(source, layout)
    for kind in kinds:
        name = w.node(kind, [name])
    return layout, name


def _gate(gate: Callable[[_Writer, str], str]) -> Rule:
    """``x`` times a gate of ``x``, which is written first."""

    def rule(w: _Writer, eqn: Equation) -> tuple[tuple[int, ...], str]:
        source = eqn.invars[0]
        name = w.view(source, w.layout(source))
        return w.layout(source), w.node("Mul", [name, gate(w, name)])

    return rule


def _half_of_one_plus(w: _Writer, value: str) -> str:
    half = w.constant(np.float32(0.5))
    return w.node("Add", [w.node("Mul", [value, half]), half])


def _erf_gate(w: _Writer, x: str) -> str:
    return _half_of_one_plus(w, w.node("Erf", [x]))


def _tanh_gate(w: _Writer, x: str) -> str:
    """``(1 + tanh(a x (1 + c x^2))) / 2``."""
    bent = w.node("Mul", [w.node("Mul", [x, x]), w.constant(np.float32(GELU_TANH_CUBIC))])
    factor = w.node("Add", [bent, w.constant(np.float32(1))])
    scaled = w.node("Mul", [x, w.constant(np.float32(GELU_TANH_SCALE))])
    return _half_of_one_plus(w, w.node("Tanh", [w.node("Mul", [scaled, factor])]))


def _elementwise(kind: str) -> Rule:
    def rule(w: _Writer, eqn: Equation) -> tuple[tuple[int, ...], str]:
        source, shape = w.graph.inputs_of(eqn)[0], eqn.outvar.shape
        if any(len(v.shape) not in (0, len(shape)) for v in eqn.invars):
            return _matrix(w, eqn)
        layout = w.layout(source)
        return layout, w.node(kind, [w.operand(v, shape, layout) for v in eqn.invars])

    return rule


def _reshape(w: _Writer, eqn: Equation) -> tuple[tuple[int, ...], str]:
    (source,), out = eqn.invars, eqn.outvar
    shape = w.constant(np.asarray(out.shape, np.int64))
    return _as_is(out), w.node("Reshape", [w.view(source, _as_is(source)), shape])


def _transpose(w: _Writer, eqn: Equation) -> tuple[tuple[int, ...], str]:
    name = w.view(eqn.invars[0], tuple(eqn.params["permutation"]))
    return _as_is(eqn.outvar), name


def _take(w: _Writer, eqn: Equation) -> tuple[tuple[int, ...], str]:
    source, places = eqn.invars[0], w.constant(eqn.params["places"].numbers.astype(np.int64))
    return (0, 1), w.node("Gather", [w.view(source, (0, 1)), places], axis=1)


def _concatenate(w: _Writer, eqn: Equation) -> tuple[tuple[int, ...], str]:
    layout = _as_is(eqn.outvar)
    parts = [w.operand(v, eqn.outvar.shape, layout) for v in eqn.invars]
    return layout, w.node("Concat", parts, axis=int(eqn.params["dimension"]))


def _is_dense(graph: Graph, eqn: Equation) -> bool:
    """A row of features times a constant matrix."""
    (contracted, batch) = eqn.params["dimension_numbers"]
    left, right = eqn.invars
    plain = tuple(map(tuple, contracted)) == ((1,), (0,)) and not any(map(len, batch))
    return plain and left in graph.inputs_of(eqn) and len(left.shape) == len(right.shape) == 2


def _product(w: _Writer, eqn: Equation) -> tuple[tuple[int, ...], str]:
    left, right = eqn.invars
    matrix = w.constant(w.values[right])
    return (0, 1), w.node("MatMul", [w.view(left, (0, 1)), matrix])


def _einsum(w: _Writer, eqn: Equation) -> tuple[tuple[int, ...], str]:
    """A matrix product of two computed values, by letters for its axes."""
    (left, right), (left_batch, right_batch) = eqn.params["dimension_numbers"]
    x, y = eqn.invars
    names = iter(string.ascii_lowercase)
    first = [next(names) for _ in x.shape]
    second = {b: first[a] for a, b in zip((*left, *left_batch), (*right, *right_batch))}
    second = [second.get(i) or next(names) for i in range(len(y.shape))]
    out = [first[i] for i in left_batch]
    out += [n for i, n in enumerate(first) if i not in (*left, *left_batch)]
    out += [n for i, n in enumerate(second) if i not in (*right, *right_batch)]
    equation = f"{''.join(first)},{''.join(second)}->{''.join(out)}"
    operands = [w.view(v, _as_is(v)) for v in (x, y)]
    return _as_is(eqn.outvar), w.node("Einsum", operands, equation=equation)


def _softmax(w: _Writer, eqn: Equation) -> tuple[tuple[int, ...], str]:
    """Along one axis; several are one in a reshaped view, last."""
    source, axes = eqn.invars[0], tuple(eqn.params["axes"])
    if len(axes) == 1:
        name = w.view(source, _as_is(source))
        return _as_is(source), w.node("Softmax", [name], axis=int(axes[0]))
    layout = (*(i for i in _as_is(source) if i not in axes), *axes)
    shape = [source.shape[i] for i in layout]
    flat = w.constant(np.asarray([*shape[: -len(axes)], -1], np.int64))
    name = w.node("Reshape", [w.view(source, layout), flat])
    name = w.node("Softmax", [name], axis=-1)
    return layout, w.node("Reshape", [name, w.constant(np.asarray(shape, np.int64))])


def _is_plain(graph: Graph, eqn: Equation) -> bool:
    """A two-dimensional convolution by a constant kernel that ONNX's ``Conv`` can express."""
    params = eqn.params
    padding = [p for pair in params["padding"] for p in pair]
    return (
        graph.inputs_of(eqn) == eqn.invars[:1]
        and len(eqn.outvar.shape) == 4
        and set(params["lhs_dilation"]) == {1}
        and params["batch_group_count"] == 1
        and min(padding) >= 0
    )


def _convolution(w: _Writer, eqn: Equation) -> tuple[tuple[int, ...], str]:
    source, kernel = eqn.invars
    params, numbers = eqn.params, eqn.params["dimension_numbers"]
    weight = w.constant(w.values[kernel].transpose(numbers.rhs_spec))
    before, after = zip(*params["padding"])
    name = w.node(
        "Conv", [w.view(source, tuple(numbers.lhs_spec)), weight],
        strides=list(params["window_strides"]), pads=[*before, *after],
        dilations=list(params["rhs_dilation"]), group=int(params["feature_group_count"]),
    )  # fmt: skip
    return tuple(numbers.out_spec), name


def _max_pool(w: _Writer, eqn: Equation) -> tuple[tuple[int, ...], str]:
    """A pool over height and width, or a maximum over whole axes."""
    (source, *_), params = eqn.invars, eqn.params
    window, strides, padding = (
        tuple(params[n]) for n in ("window_dimensions", "window_strides", "padding")
    )
    whole = all(n in (1, size) for n, size in zip(window, source.shape))
    if whole and not any(map(any, padding)) and set(strides) == {1}:
        axes = [axis for axis, n in enumerate(window) if n > 1]
        name = w.view(source, _as_is(source))
        return _as_is(source), w.node("ReduceMax", [name], axes=axes, keepdims=1) if axes else name
    outside = [(window[i], strides[i], *padding[i]) for i in range(len(window)) if i not in (1, 2)]
    if len(window) != 4 or any(settings != (1, 1, 0, 0) for settings in outside):
        raise UnsupportedOperation(f"f: no form in ONNX for a max pool with windows {window}.")
    name = w.node(
        "MaxPool", [w.view(source, CHANNELS_FIRST)], kernel_shape=list(window[1:3]),
        strides=list(strides[1:3]), pads=[padding[1][0], padding[2][0], padding[1][1], padding[2][1]],
    )  # fmt: skip
    return CHANNELS_FIRST, name


def _matrix(w: _Writer, eqn: Equation) -> tuple[tuple[int, ...], str]:
    """An affine operation as ``sum over its inputs of x M`` plus its value at zero."""
    sources = tuple(dict.fromkeys(w.graph.inputs_of(eqn)))
    out = eqn.outvar

    def function(*flat: jax.Array) -> jax.Array:
        given = {v: x.reshape(v.shape) for v, x in zip(sources, flat)}
        operands = (read(w.values | given, v) for v in eqn.invars)
        return eqn.bind(*operands).reshape(-1)

    zeros = [jnp.zeros(v.size, v.dtype) for v in sources]
    if max(v.size for v in sources) * out.size > MAXIMUM_MATRIX:
        raise UnsupportedOperation(f"f: {eqn!r} has no form in ONNX and is too large for a matrix.")
    total = w.constant(np.asarray(function(*zeros))[None])
    for i, source in enumerate(sources):
        matrix = np.asarray(jax.jacobian(function, argnums=i)(*zeros)).T
        size = w.constant(np.asarray((1, source.size), np.int64))
        flat = w.node("Reshape", [w.view(source, _as_is(source)), size])
        total = w.node("Add", [w.node("MatMul", [flat, w.constant(matrix)]), total])
    return _as_is(out), w.node("Reshape", [total, w.constant(np.asarray(out.shape, np.int64))])


_RULES: dict[str, Rule] = {
    "add": _elementwise("Add"),
    "mul": _elementwise("Mul"),
    "div": _elementwise("Div"),
    "neg": _unary("Neg"),
    "reshape": _reshape,
    "transpose": _transpose,
    "concatenate": _concatenate,
    "take": _take,
}

_SMOOTH: dict[Any, Rule] = {
    SIGMOID: _unary("Sigmoid"),
    TANH: _unary("Tanh"),
    SOFTPLUS: _unary("Softplus"),
    GELU: _gate(_erf_gate),
    GELU_TANH: _gate(_tanh_gate),
    GELU_TANH_64: _gate(_tanh_gate),  # the file is in float32
    SILU: _gate(lambda w, x: w.node("Sigmoid", [x])),
    SQUARE: _gate(lambda w, x: x),
    HARD_SWISH: _gate(lambda w, x: w.node("HardSigmoid", [x], alpha=1 / 6, beta=0.5)),
    ELU: _unary("Elu"),
    EXP: _unary("Exp"),
    FINITE: _unary("Identity"),
    LOG: _unary("Log"),
    SQRT: _unary("Sqrt"),
    RECIPROCAL: _unary("Reciprocal"),
    RSQRT: lambda w, eqn: _chain(w, eqn, "Sqrt", "Reciprocal"),
    CUBE: _gate(lambda w, x: w.node("Mul", [x, x])),
}
