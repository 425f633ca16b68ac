"""Small ONNX files for tests, and what onnxruntime computes of them."""

from __future__ import annotations

import numpy as np
import pytest

F32, I64 = np.float32, np.int64
X = "x"
"""The network's input among a node's operands."""


def seeded(*shape, low=-1.0, high=1.0, seed=0):
    return np.random.default_rng(seed).uniform(low, high, shape).astype(F32)


def ints(*values):
    return np.array(values, I64)


def save(path, nodes, shape, constants, opset, outputs=("y",), source=1):
    """A file of these nodes, with an input of this shape and ONNX's number of its type."""
    import onnx

    graph = onnx.helper.make_graph(
        nodes,
        "table",
        [onnx.helper.make_tensor_value_info(X, source, shape)],
        [onnx.helper.make_tensor_value_info(name, source, None) for name in outputs],
        [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid("", opset)], ir_version=8
    )
    path.write_bytes(model.SerializeToString())
    return path


def of_node(kind, shape, operands, attributes, opset, path):
    """A file of one node; its operands are the input, constants, or left out."""
    import onnx

    names, constants = [], {}
    for number, operand in enumerate(operands):
        if isinstance(operand, np.ndarray):
            constants[f"c{number}"] = operand
        names.append(f"c{number}" if isinstance(operand, np.ndarray) else operand or "")
    nodes = [onnx.helper.make_node(kind, names, ["y"], name="node", **attributes)]
    return save(path, nodes, shape, constants, opset)


def session(path):
    """Runs the file in onnxruntime, or skips the test."""
    runtime = pytest.importorskip("onnxruntime", reason="the package onnxruntime is not installed")
    options = runtime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    return runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
