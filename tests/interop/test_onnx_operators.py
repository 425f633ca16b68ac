"""Every operator that is read, with its attributes, against onnxruntime."""

from __future__ import annotations

import numpy as np
import pytest
from onnx_files import F32, I64, X, ints, of_node, seeded, session

from jmlv.interop import read_onnx

onnx = pytest.importorskip("onnx", reason="the package onnx is not installed")


IMAGE, ROW, SEQUENCE = (1, 4, 6, 5), (1, 6), (1, 4, 7)
KERNEL, BIAS = seeded(6, 4, 3, 2), seeded(6, seed=1)
STATISTICS = (
    seeded(4), seeded(4, seed=1), seeded(4, seed=2), seeded(4, low=0.5, high=2.0, seed=3),
)  # fmt: skip


def case(kind, shape, *operands, opset=13, domain=(-2.0, 2.0), **attributes):
    return kind, shape, (X, *operands), attributes, opset, domain


CASES = [
    *(  # without axes each number is an axis of its own
        case(kind, ROW, ints(), opset=18, noop_with_empty_axes=1)
        for kind in ("ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceSum", "ReduceMax")
    ),
    # Arithmetic
    case("Add", IMAGE, seeded(4, 1, 1)),
    case("Add", IMAGE, X),
    case("Sub", ROW, seeded(6)),
    case("Mul", IMAGE, seeded(1, 4, 6, 5)),
    case("Mul", ROW, X),
    case("Div", IMAGE, np.array(0.3081, F32)),
    case("Add", ROW, seeded(1, 3, 1, 6)),
    case("Sum", ROW, seeded(6), X),
    case("Mean", ROW, seeded(6), X),
    case("Min", ROW, seeded(6)),
    case("Max", ROW, np.array(0.25, F32), X),
    case("Neg", ROW),
    case("Abs", IMAGE),
    case("Sqrt", ROW, domain=(0.1, 2.0)),
    case("Exp", ROW),
    case("Log", ROW, domain=(0.1, 2.0)),
    case("Reciprocal", ROW, domain=(0.5, 2.0)),
    case("Sin", ROW),
    case("Cos", ROW),
    *(case("Pow", ROW, np.array(e, F32), domain=(0.2, 2.0)) for e in (1, 2, 3, -2, 0.5, 1.7)),
    case("Pow", ROW, ints(2).reshape(())),
    case("Pow", ROW, seeded(6), domain=(0.2, 2.0)),
    case("Clip", ROW, np.array(-0.5, F32), np.array(1, F32)),
    case("Clip", IMAGE, None, np.array(1, F32)),
    case("Clip", ROW, opset=10, min=0.0, max=6.0),
    case("Clip", ROW, opset=7),
    case("Identity", ROW),
    case("Dropout", ROW, opset=7, ratio=0.3),
    case("Dropout", ROW, np.array(0.3, F32), np.array(False)),
    # Activations
    *(
        case(kind, IMAGE)
        for kind in (
            "Relu", "LeakyRelu", "Elu", "Selu", "Celu", "HardSigmoid", "Sigmoid", "Tanh", "Softplus",
            "Softsign", "Erf",
        )
    ),  # fmt: skip
    case("LeakyRelu", ROW, alpha=0.3),
    case("PRelu", IMAGE, seeded(4, 1, 1)),
    case("PRelu", ROW, seeded(6)),
    case("Elu", ROW, alpha=0.5),
    case("Selu", ROW, alpha=1.5, gamma=2.0),
    case("Celu", ROW, alpha=0.5),
    case("HardSigmoid", ROW, alpha=0.3, beta=0.6),
    case("HardSwish", IMAGE, opset=14, domain=(-5.0, 5.0)),
    case("Gelu", ROW, opset=20),
    case("Gelu", ROW, opset=20, approximate="tanh"),
    case("Mish", ROW, opset=18),
    case("Swish", ROW, opset=24, alpha=2.0),
    case("Softmax", IMAGE),
    case("Softmax", IMAGE, axis=1),
    case("Softmax", IMAGE, opset=11),
    case("Softmax", IMAGE, opset=11, axis=2),
    case("LogSoftmax", ROW),
    # Products
    case("MatMul", ROW, seeded(6, 3)),
    case("MatMul", (6,), seeded(6, 3)),
    case("MatMul", IMAGE, seeded(1, 4, 5, 2)),
    case("Gemm", ROW, seeded(6, 3), seeded(3)),
    case("Gemm", ROW, seeded(3, 6), seeded(1, 3), transB=1, alpha=0.5, beta=2.0),
    case("Gemm", ROW, seeded(3, 6), transB=1, opset=11),
    case("Gemm", ROW, seeded(1, 3), transA=1),
    # Convolutions
    case("Conv", IMAGE, KERNEL, BIAS),
    case("Conv", IMAGE, KERNEL, strides=[2, 1], pads=[1, 0, 2, 1], kernel_shape=[3, 2]),
    case("Conv", IMAGE, KERNEL, dilations=[2, 3]),
    case("Conv", IMAGE, seeded(6, 2, 3, 3), BIAS, group=2, auto_pad="SAME_UPPER", strides=[2, 2]),
    case("Conv", IMAGE, seeded(4, 1, 2, 2), group=4, auto_pad="SAME_LOWER"),
    case("Conv", IMAGE, KERNEL, auto_pad="VALID"),
    case("Conv", SEQUENCE, seeded(3, 4, 3), pads=[1, 0], strides=[2]),
    case("Conv", (1, 2, 3, 4, 3), seeded(2, 2, 2, 2, 2)),
    case("ConvTranspose", IMAGE, seeded(4, 3, 3, 2), seeded(3)),
    case("ConvTranspose", IMAGE, seeded(4, 3, 3, 3), strides=[2, 3], pads=[1, 0, 2, 1],
         output_padding=[1, 0], dilations=[1, 2]),
    case("ConvTranspose", IMAGE, seeded(4, 2, 3, 3), group=2, strides=[2, 2], auto_pad="SAME_UPPER"),
    case("ConvTranspose", IMAGE, seeded(4, 2, 3, 3), strides=[2, 2], output_shape=[12, 10]),
    case("ConvTranspose", SEQUENCE, seeded(4, 2, 4), strides=[2], pads=[1, 1]),
    # Pools
    case("MaxPool", IMAGE, kernel_shape=[2, 3], strides=[2, 2], pads=[1, 1, 0, 1]),
    case("MaxPool", IMAGE, kernel_shape=[3, 2], strides=[2, 3], ceil_mode=1),
    case("MaxPool", IMAGE, kernel_shape=[2, 2], strides=[6, 4], pads=[1, 1, 1, 1], ceil_mode=1),
    case("MaxPool", IMAGE, kernel_shape=[2, 2], dilations=[2, 3]),
    case("MaxPool", IMAGE, kernel_shape=[3, 3], auto_pad="SAME_UPPER", strides=[2, 2], opset=8),
    case("MaxPool", SEQUENCE, kernel_shape=[3]),
    case("AveragePool", IMAGE, kernel_shape=[2, 2]),
    case("AveragePool", IMAGE, kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[2, 2]),
    case("AveragePool", IMAGE, kernel_shape=[3, 3], pads=[1, 0, 1, 1], count_include_pad=1),
    case("AveragePool", IMAGE, kernel_shape=[3, 3], strides=[2, 3], ceil_mode=1, opset=19),
    case("AveragePool", IMAGE, kernel_shape=[3, 2], strides=[2, 2], ceil_mode=1, opset=19,
         pads=[1, 0, 1, 1], count_include_pad=1),
    case("AveragePool", IMAGE, kernel_shape=[2, 2], auto_pad="SAME_LOWER"),
    case("GlobalAveragePool", IMAGE),
    case("GlobalMaxPool", SEQUENCE),
    # Normalisation
    case("BatchNormalization", IMAGE, *STATISTICS, opset=9, momentum=0.5),
    case("BatchNormalization", IMAGE, *STATISTICS, opset=15, epsilon=0.01, training_mode=0),
    case("BatchNormalization", (1, 4), *STATISTICS, opset=7),
    case("LayerNormalization", IMAGE, seeded(5), seeded(5), opset=17),
    case("LayerNormalization", IMAGE, seeded(6, 5), opset=17, axis=-2, epsilon=0.1),
    case("InstanceNormalization", IMAGE, seeded(4), seeded(4), epsilon=0.01),
    # Shapes
    case("Reshape", IMAGE, ints(0, -1, 5)),
    case("Flatten", IMAGE),
    case("Flatten", IMAGE, axis=-1),
    case("Flatten", IMAGE, axis=0),
    case("Squeeze", (1, 4, 1, 5), ints(2)),
    case("Squeeze", (1, 4, 1, 5), axes=[-2], opset=11),
    case("Squeeze", (1, 4, 1, 5)),
    case("Unsqueeze", ROW, ints(1, -1)),
    case("Unsqueeze", ROW, axes=[0, 3], opset=11),
    case("Transpose", IMAGE, perm=[0, 2, 3, 1]),
    case("Transpose", IMAGE),
    case("Expand", (1, 1, 5), ints(2, 4, 1)),
    case("DepthToSpace", (1, 8, 3, 2), blocksize=2),
    case("DepthToSpace", (1, 8, 3, 2), blocksize=2, mode="CRD"),
    case("SpaceToDepth", (1, 2, 4, 6), blocksize=2),
    # Selection
    case("Concat", IMAGE, seeded(1, 2, 6, 5), X, axis=1),
    case("Concat", ROW, X, axis=-1),
    case("Slice", IMAGE, ints(1, -3), ints(3, 100), ints(1, 2), ints(1, 2)),
    case("Slice", IMAGE, ints(-1, 4), ints(-100, 0), ints(3, 2), ints(-1, -2)),
    case("Slice", IMAGE, starts=[1, 0], ends=[4, -1], axes=[2, 3], opset=9),
    case("Slice", IMAGE, ints(-9, 2), ints(-9, 9), ints(2, 3), ints(-1, 3)),
    case("Slice", ROW, ints(0, 2), ints(1, 5)),
    case("Gather", IMAGE, ints(3, 0, 1), axis=2),
    case("Gather", IMAGE, np.array(-1, I64), axis=1),
    case("Gather", IMAGE, ints(0, 2, 4), axis=3),
    case("Gather", IMAGE, ints(4, 2, 0), axis=3),
    case("Gather", ROW, ints(0, 5, 5, 1).reshape(2, 2), axis=1),
    case("Pad", IMAGE, ints(0, 0, 1, 2, 0, 0, 0, 1)),
    case("Pad", IMAGE, ints(0, 0, -1, 2, 0, 1, 0, -1), np.array(0.5, F32)),
    case("Pad", IMAGE, opset=10, pads=[0, 1, 0, 0, 0, 0, 2, 0], value=-1.0),
    case("Pad", IMAGE, ints(1, 0, 2, 1), None, ints(2, 3), opset=18),
    case("Pad", IMAGE, ints(0, 0, 2, 1, 0, 0, 1, 3), mode="reflect"),
    case("Pad", IMAGE, ints(0, 0, 2, 1, 0, 0, 1, 3), mode="edge"),
    case("Pad", IMAGE, ints(0, 0, 2, 1, 0, 0, 1, 3), mode="wrap", opset=19),
    case("Tile", IMAGE, ints(1, 2, 1, 3)),
    case("CumSum", ROW, np.array(1, I64)),
    case("CumSum", ROW, np.array(-1, I64), exclusive=1, reverse=1),
    # Reductions
    *(
        case(kind, IMAGE, axes=[2, 3], opset=11)
        for kind in ("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL1", "ReduceL2",
                     "ReduceSumSquare", "ReduceProd")
    ),
    case("ReduceMean", IMAGE, axes=[-1], keepdims=0),
    case("ReduceMean", IMAGE, ints(1, 2), opset=18),
    case("ReduceSum", IMAGE, ints(1), keepdims=0),
    case("ReduceSum", IMAGE),
    case("ReduceSum", IMAGE, noop_with_empty_axes=1),
    # Resizing
    case("Upsample", IMAGE, np.array([1, 1, 2, 3], F32), opset=9),
    case("Upsample", IMAGE, opset=7, scales=[1.0, 1.0, 2.0, 2.0], mode="linear"),
    case("Resize", IMAGE, np.array([1, 1, 1.5, 2], F32), opset=10),
    *(
        case("Resize", IMAGE, None, None, ints(1, 4, 9, 8), coordinate_transformation_mode=space,
             nearest_mode=rounding)
        for space, rounding in (
            ("half_pixel", "round_prefer_floor"), ("asymmetric", "floor"), ("align_corners", "ceil"),
            ("pytorch_half_pixel", "round_prefer_ceil"),
        )
    ),
    *(
        case("Resize", IMAGE, None, None, ints(1, 4, 9, 3), mode="linear",
             coordinate_transformation_mode=space)
        for space in ("half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel")
    ),
    case("Resize", IMAGE, None, np.array([2, 2], F32), opset=18, axes=[2, 3],
         coordinate_transformation_mode="asymmetric", nearest_mode="floor"),
    case("Resize", IMAGE, None, np.array([1, 1, 0.5, 0.6], F32), mode="linear"),
]  # fmt: skip


@pytest.mark.parametrize(
    "kind, shape, operands, attributes, opset, domain",
    CASES,
    ids=[f"{i}-{c[0]}" for i, c in enumerate(CASES)],
)
def test_an_operator_computes_what_onnxruntime_does(
    kind, shape, operands, attributes, opset, domain, tmp_path
):
    path = of_node(kind, shape, operands, attributes, opset, tmp_path / "net.onnx")
    f = read_onnx(path)
    x = seeded(*shape, low=domain[0], high=domain[1], seed=7)
    expected = session(path).run(None, {X: x})[0]
    found = np.asarray(f(x if f.program.batched else x[None]))
    assert found.shape == (1, expected.size) and f.label_count == expected.size
    np.testing.assert_allclose(found, expected.reshape(1, -1), rtol=1e-5, atol=1e-6)


def test_the_table_has_every_operator_but_those_for_constants():
    from jmlv.interop.onnx_reader.operators import RULES, constants

    tested = {c[0] for c in CASES}
    elsewhere = constants.RULES.keys() | {
        "Split", "SplitToSequence", "SequenceAt", "Where", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Einsum", "Cast", "CastLike",
        "Shape", "Size",
    }  # fmt: skip
    assert tested.isdisjoint(elsewhere) and tested | elsewhere == RULES.keys()


def test_the_documentation_lists_every_operator():
    import re

    from jmlv.interop.onnx_reader.operators import RULES

    listed = read_onnx.__doc__.partition("Operators of versions")[2].partition(":func:")[0]
    assert set(re.findall(r"\b[A-Z]\w+", listed)) - {"Which"} == RULES.keys()
