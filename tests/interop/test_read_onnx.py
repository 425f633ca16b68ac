"""ONNX files as networks: batches, layouts, folded constants, precision, and every damaged file."""

from __future__ import annotations

import gzip
import pickle
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from onnx_files import F32, I64, ints, save, seeded, session

import jmlv
from jmlv.errors import DamagedFile, UnsupportedOperation
from jmlv.interop import OnnxNetwork, from_torch, read_onnx

onnx = pytest.importorskip("onnx", reason="the package onnx is not installed")
make = onnx.helper.make_node


def expected(path, x):
    return session(path).run(None, {"x": x})[0]


# ---------------------------------------------------------------------------------------------
# A small convolutional network, as exporters write them
# ---------------------------------------------------------------------------------------------

WEIGHTS = {
    "k": seeded(6, 3, 3, 3),
    "b": seeded(6, seed=1),
    "w": seeded(4, 6 * 2 * 2, seed=2),
    "c": seeded(4, seed=3),
    "first": np.array(0, I64),
    "front": ints(0),
    "rest": ints(-1),
}

CONVOLUTION = [
    make("Conv", ["x", "k", "b"], ["a"], name="conv", pads=[1, 1, 1, 1]),
    make("Relu", ["a"], ["r"]),
    make("MaxPool", ["r"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
]

VIEW = [
    make("Shape", ["p"], ["shape"]),
    make("Gather", ["shape", "first"], ["size"]),
    make("Unsqueeze", ["size", "front"], ["sizes"]),
    make("Concat", ["sizes", "rest"], ["target"], axis=0),
    make("Reshape", ["p", "target"], ["flat"]),
]
"""``x.view(x.size(0), -1)``."""

HEAD = [make("Gemm", ["flat", "w", "c"], ["y"], name="head", transB=1)]

SMALL = CONVOLUTION + VIEW + HEAD


def small(folder, nodes=SMALL, shape=("batch", 3, 4, 4), opset=13, **weights):
    return save(folder / "net.onnx", nodes, shape, {**WEIGHTS, **weights}, opset)


def test_a_network_is_a_value(tmp_path):
    f = read_onnx(small(tmp_path))
    assert (f.input_shape, f.input_name, f.output_name) == ((3, 4, 4), "x", "y")
    assert (f.label_count, f.dtype) == (4, "float32")
    assert "OnnxNetwork('x' (3, 4, 4) -> 'y' (4,)" in repr(f)
    again, other = read_onnx(small(tmp_path)), read_onnx(small(tmp_path, c=seeded(4, seed=9)))
    assert f == again and hash(f) == hash(again) and f != other and f != 1
    assert f.program == other.program and hash(f.program) == hash(other.program)
    sent = pickle.loads(pickle.dumps(f))
    assert "_hash" not in vars(sent.program) and sent == f, "a hash is of one process"
    leaves, structure = jax.tree.flatten(f)
    assert len(leaves) == 4 and structure == jax.tree.structure(other)


def test_what_is_compiled_is_found_again(tmp_path):
    traced = []

    @jax.jit
    def scores(network, x):
        traced.append(network)
        return network(x)

    x = seeded(2, 3, 4, 4)
    for weights in ({}, {}, {"c": seeded(4, seed=9)}):
        scores(read_onnx(small(tmp_path, **weights)), x)
    assert len(traced) == 1, "the weights are arguments"


def test_it_goes_through_transformations(tmp_path):
    path = small(tmp_path)
    f, x = read_onnx(path), seeded(3, 3, 4, 4)
    reference = expected(path, x)
    np.testing.assert_allclose(f(x), reference, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(jax.vmap(lambda one: f(one[None])[0])(x), f(x), rtol=1e-5, atol=1e-6)
    slope = jax.jit(jax.grad(lambda x: f(x)[0, 1]))(x[:1])
    step = 1e-2 * np.sign(slope)
    rise = (expected(path, x[:1] + step)[0, 1] - expected(path, x[:1] - step)[0, 1]) / 2
    assert abs(rise - float(jnp.vdot(slope, step))) < 0.05 * abs(rise)
    with jax.enable_x64(True):
        wide = f(x.astype(np.float64))
        assert wide.dtype == np.float64 and np.abs(wide - reference).max() < 1e-5
    assert f(np.zeros((0, 3, 4, 4), F32)).shape == (0, 4)
    with pytest.raises(ValueError, match=r"x: expected a batch of inputs \(3, 4, 4\), got"):
        f(x[0])


def test_the_verbs_take_it(tmp_path):
    f, x = read_onnx(small(tmp_path)), seeded(3, 4, 4, low=0.0)
    assert jmlv.check(f, x) == []
    box, best = jmlv.Box.around(x, 1e-4), jmlv.InTopK(int(np.argmax(f(x[None]))), 1)
    assert jmlv.verify(f, box, best, jmlv.Bounds()).robust
    corners = [f(np.asarray(end)[None])[0] for end in (box.lower, box.upper)]
    bound = jmlv.bound(f, box, best, jmlv.CROWN())
    assert all(bound.lower <= best.margin(scores) <= bound.upper for scores in corners)


# ---------------------------------------------------------------------------------------------
# Layouts
# ---------------------------------------------------------------------------------------------


def _functions(f):
    return [step.function.__name__ for step in f.program.steps]


def test_channels_are_last_between_the_first_and_the_last_convolution(tmp_path):
    """Once to channels last, once back; factors and terms in between follow."""
    nodes = [
        make("Conv", ["x", "k"], ["a"], pads=[1, 1, 1, 1]),
        make("Add", ["a", "shift"], ["s"]),
        make("Relu", ["s"], ["r"]),
        make("Conv", ["r", "k2"], ["a2"], pads=[1, 1, 1, 1]),
        make("Add", ["a2", "s"], ["sum"]),
        make("Concat", ["sum", "sum"], ["both"], axis=1),
        make("Pad", ["both", "pads"], ["padded"]),
        make("Flatten", ["padded"], ["y"]),
    ]
    more = {
        "shift": seeded(6, 1, 4),
        "k2": seeded(6, 6, 3, 3),
        "pads": ints(0, 1, 2, 0, 0, 0, 0, 3),
    }
    path = small(tmp_path, nodes, (1, 3, 4, 4), **more)
    f, x = read_onnx(path), seeded(1, 3, 4, 4)
    assert _functions(f).count("transpose") == 2
    assert _functions(f)[0] == "transpose" and _functions(f)[-2:] == ["transpose", "reshape"]
    np.testing.assert_allclose(f(x), expected(path, x), rtol=1e-5, atol=1e-5)


def test_transpositions_of_the_file_are_names(tmp_path):
    """A network that takes channels last, with channels first inside as ONNX wants it."""
    nodes = [
        make("Transpose", ["x"], ["t"], perm=[0, 3, 1, 2]),
        make("Conv", ["t", "k"], ["a"]),
        make("PRelu", ["a", "slope"], ["r"]),
        make("Transpose", ["r"], ["back"], perm=[0, 2, 3, 1]),
        make("Flatten", ["back"], ["y"]),
    ]
    path = small(tmp_path, nodes, (1, 4, 5, 3), slope=seeded(6, 1, 1))
    f, x = read_onnx(path), seeded(1, 4, 5, 3)
    assert "transpose" not in _functions(f)
    np.testing.assert_allclose(f(x), expected(path, x), rtol=1e-5, atol=1e-6)


def test_values_of_different_rank_meet_in_the_layout_of_the_file(tmp_path):
    nodes = [
        make("Transpose", ["x"], ["t"], perm=[0, 2, 1]),
        make("Unsqueeze", ["x", "front"], ["u"]),
        make("Sub", ["t", "u"], ["y"]),
    ]
    path = small(tmp_path, nodes, (1, 4, 4))
    f, x = read_onnx(path), seeded(1, 4, 4)
    np.testing.assert_allclose(f(x), expected(path, x).reshape(1, -1), rtol=1e-6)


# ---------------------------------------------------------------------------------------------
# Batches and shapes
# ---------------------------------------------------------------------------------------------


def test_a_batch_of_one_in_the_file_serves_any(tmp_path):
    """Even where the file has the one in its own shapes."""
    nodes = CONVOLUTION + [make("Reshape", ["p", "fixed"], ["flat"])] + HEAD
    path = small(tmp_path, nodes, (1, 3, 4, 4), fixed=ints(1, 24))
    f, x = read_onnx(path), seeded(5, 3, 4, 4)
    each = np.concatenate([expected(path, one[None]) for one in x])
    np.testing.assert_allclose(f(x), each, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", [(6,), (3, 2)])
def test_an_input_without_a_batch(tmp_path, shape):
    nodes = [
        make("Reshape", ["x", "flat"], ["f"]),
        make("MatMul", ["f", "w"], ["m"]),
        make("Relu", ["m"], ["y"]),
    ]
    path = small(tmp_path, nodes, shape, flat=ints(6), w=seeded(6, 4))
    f, x = read_onnx(path), seeded(3, *shape)
    assert f.input_shape == shape and f.label_count == 4
    np.testing.assert_allclose(f(x), [expected(path, one) for one in x], rtol=1e-5, atol=1e-6)
    assert f(x[:1]).shape == (1, 4) and jmlv.check(f, x[0]) == []


def test_sizes_that_the_file_leaves_open_are_given(tmp_path):
    nodes = [make("GlobalAveragePool", ["x"], ["g"]), make("Flatten", ["g"], ["y"])]
    path = small(tmp_path, nodes, ("n", 3, "h", "w"))
    with pytest.raises(ValueError, match=r"leaves the shape \(\?, 3, \?, \?\) of 'x' open"):
        read_onnx(path)
    with pytest.raises(ValueError, match=r"has inputs \(3, \?, \?\), got \(4, 5, 5\)"):
        read_onnx(path, input_shape=(4, 5, 5))
    f, x = read_onnx(path, input_shape=(3, 5, 6)), seeded(2, 3, 5, 6)
    np.testing.assert_allclose(f(x), x.mean((2, 3)), rtol=1e-5, atol=1e-6)


def test_a_fixed_batch_is_refused(tmp_path):
    path = save(tmp_path / "net.onnx", [make("Relu", ["x"], ["y"])], (8, 5), {}, 13)
    model = onnx.load(str(path))
    model.graph.output[0].CopyFrom(onnx.helper.make_tensor_value_info("y", 1, (8, 5)))
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ValueError, match="a batch of 8 perhaps"):
        read_onnx(path)
    with pytest.raises(ValueError, match="only one of one can be taken apart"):
        read_onnx(path, batched=True)
    assert read_onnx(path, batched=False).input_shape == (8, 5)


def test_one_of_several_outputs(tmp_path):
    nodes = [
        make("Relu", ["x"], ["r"]),
        make("Det", ["r"], ["unread"], name="det"),
        make("Neg", ["r"], ["y"]),
    ]
    path = save(tmp_path / "net.onnx", nodes, (1, 5), {}, 13, outputs=("r", "y", "unread"))
    with pytest.raises(ValueError, match="has the outputs r, y, unread. Pass output="):
        read_onnx(path)
    with pytest.raises(ValueError, match="output: .*, got 'z'"):
        read_onnx(path, output="z")
    assert len(read_onnx(path, output="r").program.steps) == 1
    assert len(read_onnx(path, output="y").program.steps) == 2


# ---------------------------------------------------------------------------------------------
# Constants
# ---------------------------------------------------------------------------------------------


def test_constants_are_folded_as_onnxruntime_computes_them(tmp_path):
    """Shapes, masks and integers: what depends on no input is in no step."""
    nodes = [
        make("Shape", ["x"], ["shape"]),
        make("Size", ["x"], ["size"]),
        make("Slice", ["shape", "one", "three"], ["part"]),
        make("ReduceProd", ["part"], ["prod"], keepdims=0),
        make("Div", ["size", "prod"], ["quotient"]),
        make("Mod", ["prod", "five"], ["rest"]),
        make("Range", ["zero", "prod", "two"], ["range"]),
        make("Cast", ["range"], ["floats"], to=onnx.TensorProto.FLOAT),
        make("Sqrt", ["floats"], ["roots"]),
        make("Floor", ["roots"], ["floors"]),
        make("Greater", ["floats", "seven"], ["great"]),
        make("Not", ["great"], ["small"]),
        make("Where", ["great", "floors", "floats"], ["chosen"]),
        make("ConstantOfShape", ["shape2"], ["filled"],
             value=onnx.numpy_helper.from_array(np.array([0.5], F32))),
        make("Trilu", ["filled", "minus"], ["triangle"], upper=0),
        make("Concat", ["chosen", "more"], ["joined"], axis=0),
        make("Flatten", ["x"], ["flat"]),
        make("MatMul", ["flat", "triangle"], ["m"]),
        make("Add", ["m", "joined"], ["a"]),
        make("Cast", ["quotient"], ["q"], to=onnx.TensorProto.FLOAT),
        make("Cast", ["rest"], ["r"], to=onnx.TensorProto.FLOAT),
        make("Mul", ["a", "q"], ["b"]),
        make("Sub", ["b", "r"], ["y"]),
    ]  # fmt: skip
    constants = {
        "one": ints(1), "three": ints(3), "five": np.array(5, I64), "zero": np.array(0, I64),
        "two": np.array(2, I64), "seven": np.array(7, F32), "shape2": ints(24, 9),
        "minus": np.array(-1, I64), "more": seeded(3),
    }  # fmt: skip
    path = save(tmp_path / "net.onnx", nodes, (1, 4, 3, 2), constants, 14)
    f, x = read_onnx(path), seeded(1, 4, 3, 2)
    assert _functions(f) == ["reshape", "product", "add", "multiply", "subtract"]
    np.testing.assert_allclose(f(x), expected(path, x), rtol=1e-6)


SELECTED = {
    "split": ([make("Split", ["x"], ["a", "b"], axis=1), make("Sub", ["a", "b"], ["y"])], {}, 11),
    "sizes": (
        [make("Split", ["x", "s"], ["a", "b"], axis=-1), make("Concat", ["b", "a"], ["y"], axis=1)],
        {"s": ints(2, 4)},
        13,
    ),
    "uneven": (
        [make("Split", ["x"], ["a", "b", "y"], axis=1, num_outputs=3)],
        {},
        18,
    ),
    "sequence": (
        [
            make("SplitToSequence", ["x", "s"], ["q"], axis=1),
            make("SequenceAt", ["q", "p"], ["a"]),
            make("Relu", ["a"], ["y"]),
        ],
        {"s": np.array(4, I64), "p": np.array(-1, I64)},
        13,
    ),
    "mask": (
        [make("Neg", ["x"], ["n"]), make("Where", ["m", "x", "n"], ["y"])],
        {"m": np.array([[True, False, True, True, False, False]])},
        13,
    ),
    **{
        kind: (
            [
                make(kind, ["x", "t"], ["g"]),
                make("Exp", ["x"], ["e"]),
                make("Where", ["g", "x", "e"], ["y"]),
            ],
            {"t": seeded(1, 6)},
            16,
        )
        for kind in ("Greater", "GreaterOrEqual", "Less", "LessOrEqual")
    },
    "casts": (
        [
            make("Cast", ["x"], ["d"], to=onnx.TensorProto.FLOAT),
            make("CastLike", ["c", "d"], ["e"]),
            make("Mul", ["d", "e"], ["y"]),
        ],
        {"c": ints(3)},
        15,
    ),
    "einsum": ([make("Einsum", ["x", "w"], ["y"], equation="bi,oi->bo")], {"w": seeded(3, 6)}, 13),
}


@pytest.mark.parametrize("name", SELECTED)
def test_parts_masks_and_casts(name, tmp_path):
    nodes, constants, opset = SELECTED[name]
    path = save(tmp_path / "net.onnx", nodes, (1, 6), constants, opset)
    f, x = read_onnx(path), seeded(1, 6)
    np.testing.assert_allclose(f(x), expected(path, x), rtol=1e-6)


# ---------------------------------------------------------------------------------------------
# Precision
# ---------------------------------------------------------------------------------------------

DENSE = [make("MatMul", ["x", "w"], ["m"]), make("Relu", ["m"], ["y"])]


def test_float64_is_never_rounded(tmp_path):
    constants = {"w": seeded(5, 3).astype(np.float64) * 1e10 + 0.1}
    path = save(tmp_path / "net.onnx", DENSE, (1, 5), constants, 13, source=onnx.TensorProto.DOUBLE)
    x = np.random.default_rng(0).random((1, 5))
    with pytest.raises(ValueError, match="a network of float64, which JAX would round"):
        read_onnx(path)
    with jax.enable_x64(True):
        f = read_onnx(path)
        assert f.dtype == "float64" and f(x).dtype == np.float64
        np.testing.assert_allclose(f(x), expected(path, x), rtol=1e-14)
        assert jmlv.trace(f, f.input_shape).dtype == "float64"
    with pytest.raises(ValueError, match="inside jax.enable_x64"):
        f(x)


def test_doubles_that_are_folded_away_do_not_count(tmp_path):
    nodes = [make("Cast", ["w64"], ["w"], to=onnx.TensorProto.FLOAT), *DENSE]
    constants = {"w64": np.random.default_rng(0).random((5, 3))}
    path = save(tmp_path / "net.onnx", nodes, (1, 5), constants, 13)
    f, x = read_onnx(path), seeded(1, 5)
    assert f.dtype == "float32"
    np.testing.assert_allclose(f(x), expected(path, x), rtol=1e-6)


HALF = onnx.TensorProto.FLOAT16


def test_weights_in_half_precision_are_widened(tmp_path):
    half = seeded(5, 3).astype(np.float16)
    nodes = [make("Cast", ["h"], ["w"], to=onnx.TensorProto.FLOAT), *DENSE]
    path = save(tmp_path / "net.onnx", nodes, (1, 5), {"h": half}, 13)
    f, x = read_onnx(path), seeded(1, 5)
    assert np.array_equal(f.weights[0], half.astype(F32)) and f.dtype == "float32"
    np.testing.assert_allclose(f(x), expected(path, x), rtol=1e-6)


def test_rounding_to_half_precision_is_refused_or_left_out_where_asked(tmp_path):
    half, x = seeded(5, 3).astype(np.float16), seeded(1, 5)
    path = save(tmp_path / "net.onnx", DENSE, (1, 5), {"w": half}, 13, source=HALF)
    with pytest.raises(ValueError, match="computes in float16 and rounds every value. Pass widen="):
        read_onnx(path)
    exact = np.maximum(x @ half.astype(F32), 0)
    np.testing.assert_allclose(read_onnx(path, widen=True)(x), exact, rtol=1e-5, atol=1e-6)
    nodes = [
        make("Cast", ["x"], ["h"], to=HALF),
        make("MatMul", ["h", "w"], ["m"]),
        make("Relu", ["m"], ["r"]),
        make("Cast", ["r"], ["y"], to=onnx.TensorProto.FLOAT),
    ]
    path = save(tmp_path / "net.onnx", nodes, (1, 5), {"w": half}, 13)
    with pytest.raises(
        UnsupportedOperation, match="Cast 'h' .computed values are rounded to float16"
    ):
        read_onnx(path)
    np.testing.assert_allclose(read_onnx(path, widen=True)(x), exact, rtol=1e-5, atol=1e-6)


# ---------------------------------------------------------------------------------------------
# Files
# ---------------------------------------------------------------------------------------------


def test_compressed_files_and_external_data(tmp_path):
    path = small(tmp_path)
    f, x = read_onnx(path), seeded(1, 3, 4, 4)
    packed = tmp_path / "net.onnx.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert read_onnx(packed) == f
    model, folder = onnx.load(str(path)), tmp_path / "external"
    folder.mkdir()
    onnx.save_model(
        model, str(folder / "net.onnx"), save_as_external_data=True, location="weights",
        size_threshold=0,
    )  # fmt: skip
    assert read_onnx(folder / "net.onnx") == f
    np.testing.assert_allclose(f(x), expected(path, x), rtol=1e-5, atol=1e-6)
    (folder / "weights").write_bytes((folder / "weights").read_bytes()[:40])
    with pytest.raises(DamagedFile, match="net.onnx: the tensor '.*' is damaged|external data"):
        read_onnx(folder / "net.onnx")
    (folder / "weights").unlink()
    with pytest.raises(DamagedFile, match="the external data of '.*' is missing"):
        read_onnx(folder / "net.onnx")


def test_functions_of_the_file_are_put_in(tmp_path):
    model = onnx.load(str(small(tmp_path, [make("Relu", ["x"], ["y"])], (1, 5))))
    body = [make("Neg", ["a"], ["n"]), make("Relu", ["n"], ["b"])]
    versions = [onnx.helper.make_opsetid("", 13), onnx.helper.make_opsetid("own", 1)]
    model.functions.append(
        onnx.helper.make_function("own", "Below", ["a"], ["b"], body, versions[:1])
    )
    model.opset_import.append(versions[1])
    model.graph.node[0].CopyFrom(make("Below", ["x"], ["y"], domain="own"))
    path = tmp_path / "own.onnx"
    path.write_bytes(model.SerializeToString())
    assert _functions(read_onnx(path)) == ["negate", "relu"]


def _without(name):
    return {key: value for key, value in WEIGHTS.items() if key != name}


def _bent(**changes):
    return {**WEIGHTS, **changes}


CYCLE = [make("Add", ["x", "b"], ["a"], name="one"), make("Relu", ["a"], ["b"], name="two")]

DAMAGED = {
    "missing initializer": (SMALL, _without("k"), "Conv 'conv' reads 'k', which the file does not"),
    "unsorted": (SMALL[::-1], WEIGHTS, "which only a later node computes"),
    "cycle": ([*CYCLE, make("Relu", ["b"], ["y"])], {}, "Add 'one' reads 'b', which only a later"),
    "twice": ([*SMALL[:2], make("Relu", ["r"], ["a"]), *SMALL[2:]], WEIGHTS, "Relu 'a' computes 'a', as Conv 'conv' does"),
    "of an initializer": (
        [make("Relu", ["x"], ["b"]), make("Relu", ["b"], ["y"])], WEIGHTS, "computes 'b', which",
    ),
    "rank of a kernel": (SMALL, _bent(k=seeded(6, 3, 3)), r"Conv 'conv' has a kernel \(6, 3, 3\)"),
    "channels": (SMALL, _bent(k=seeded(6, 2, 3, 3)), "a kernel for 2 channels in 1 groups"),
    "bias": (SMALL, _bent(b=seeded(5)), r"has a bias \(5,\) for 6 channels"),
    "features": (SMALL, _bent(w=seeded(4, 20)), "Gemm 'head' does not fit its operands .*20"),
    "rank": ([make("Gemm", ["x", "w"], ["y"])], WEIGHTS, "Gemm 'y' multiplies operands"),
    "NaN": (SMALL, _bent(w=np.full((4, 24), np.nan, F32)), "the tensor 'w' holds NaN"),
    "infinite": (SMALL, _bent(w=np.full((4, 24), np.inf, F32)), "'head' has an operand that is inf"),
    "NaN folded": (
        [make("Sqrt", ["m"], ["s"]), make("Add", ["x", "s"], ["y"])],
        {"m": np.array(-1, F32)},
        "Sqrt 's' computes NaN",
    ),
    "types": ([make("Add", ["x", "i"], ["y"])], {"i": ints(1)}, "Add 'y' computes with int64"),
    "window": ([make("MaxPool", ["x"], ["y"], kernel_shape=[9, 1])], {}, "larger than its operand"),
    "pads": (
        [make("MaxPool", ["x"], ["y"], kernel_shape=[2, 2], pads=[1])], {}, "pads .1,. for 2 axes",
    ),
    "reshape": ([make("Reshape", ["x", "s"], ["y"])], {"s": ints(5, -1)}, "reshapes .* to .5, -1."),
    "axis": ([make("Softmax", ["x"], ["y"], axis=4)], {}, "has axis 4, its operand has 4 axes"),
    "index": (
        [make("Gather", ["x", "i"], ["y"], axis=1)], {"i": ints(3)}, "takes entries beyond axis 1",
    ),
    "no attribute": ([make("Concat", ["x", "x"], ["y"])], {}, "has no attribute 'axis'"),
    "type of an attribute": ([make("Flatten", ["x"], ["y"], axis=1.5)], {}, "'axis' of another type"),
    "operands": ([make("Relu", ["x", "x"], ["y"])], {}, "has 2 operands, expected 1 to 1"),
    "no output": ([make("Relu", ["x"], ["z"])], {}, "its output 'y' is not computed"),
    "constant output": ([make("Relu", ["m"], ["y"])], {"m": seeded(3)}, None),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_files_are_one_sentence(name, tmp_path):
    nodes, constants, message = DAMAGED[name]
    path = save(tmp_path / "broken.onnx", nodes, (1, 3, 4, 4), constants, 13)
    if message is None:
        with pytest.raises(ValueError, match="scores do not depend"):
            jmlv.trace(read_onnx(path), (3, 4, 4))
        return
    with pytest.raises(DamagedFile, match=f"path: .*broken.onnx: .*{message}") as raised:
        read_onnx(path)
    assert "\n" not in str(raised.value)


def test_files_that_are_none(tmp_path):
    raw = small(tmp_path).read_bytes()
    path = tmp_path / "broken.onnx"
    packed = gzip.compress(raw)
    for content in (b"", b"PK\x03\x04", b"hello world", packed[:-20], b"\x1f\x8b"):
        path.write_bytes(content)
        with pytest.raises(DamagedFile, match="broken.onnx: it"):
            read_onnx(path)
    with pytest.raises(FileNotFoundError):
        read_onnx(tmp_path / "none.onnx")


def test_no_damage_escapes(tmp_path):
    """A cut or altered file is read, or refused in one sentence; nothing else happens."""
    raw, rng, path = small(tmp_path).read_bytes(), np.random.default_rng(0), tmp_path / "cut.onnx"
    outcomes = set()
    for trial in range(60):
        if trial % 2:
            content = bytearray(raw)
            content[rng.integers(0, 600)] = rng.integers(0, 256)
        else:
            content = raw[: rng.integers(0, len(raw))]
        path.write_bytes(bytes(content))
        try:
            outcomes.add(type(read_onnx(path)))
        except (DamagedFile, UnsupportedOperation) as error:
            outcomes.add(type(error))
            assert str(error).startswith(f"path: {path}: ")
    assert outcomes >= {OnnxNetwork, DamagedFile}


def test_all_that_is_unsupported_is_named_at_once(tmp_path):
    nodes = [
        make("Det", ["x"], ["d"], name="first"),
        make("Relu", ["d"], ["r"], name="fine"),
        make("TopK", ["r", "k"], ["t", "i"], name="second"),
        make("Resize", ["x", "", "s"], ["z"], name="third", mode="cubic"),
        make("MaxPool", ["x"], ["p", "q"], name="fourth", kernel_shape=[1, 1]),
        make("Floor", ["x"], ["f"], name="fifth"),
        make("Own", ["f"], ["o"], name="sixth", domain="some.where"),
        make("Conv", ["x", "x"], ["c"], name="seventh"),
        make("Sum", ["t", "z", "p", "q", "o", "c"], ["y"]),
    ]
    constants = {"k": ints(1), "s": np.ones(4, F32)}
    path = save(tmp_path / "net.onnx", nodes, (1, 3, 4, 4), constants, 13)
    with pytest.raises(UnsupportedOperation) as raised:
        read_onnx(path)
    for part in (
        "Det 'first'", "TopK 'second'", "Resize 'third' (mode=cubic)",
        "MaxPool 'fourth' (its output 'q' is read)",
        "Floor 'fifth' (its operand is computed from the network's input)",
        "Own 'sixth' of some.where", "Conv 'seventh' (its kernel is computed",
    ):  # fmt: skip
        assert part in str(raised.value)
    assert "fine" not in str(raised.value)


REFUSED = {
    "training": (
        make("BatchNormalization", ["x", *"abcd"], ["y"], training_mode=1), "training_mode=1", 15,
    ),
    "unread": (make("Relu", ["x"], ["y"], extra=1), "attributes extra in version 13", 13),
    "since": (make("Gelu", ["x"], ["y"]), "no such operator in version 13", 13),
    "version": (make("Relu", ["x"], ["y"]), "operators of version 6", 6),
    "padding": (
        make("MaxPool", ["x"], ["y"], kernel_shape=[2, 2], auto_pad="SAME_UPPER", dilations=[2, 2]),
        "auto_pad=SAME_UPPER with dilations", 13,
    ),
    "to integers": (make("Cast", ["x"], ["y"], to=7), "a computed value becomes int64", 13),
    "until": (make("Upsample", ["x", "a"], ["y"]), "no such operator in version 13", 13),
    "eight bits": (make("Cast", ["a"], ["b"], to=17), "a conversion to float8_e4m3fn", 19),
    "truth": (make("Less", ["x", "a"], ["y"]), "scores 'y' that are truth values", 13),
    "shrinking": (
        make("Resize", ["x", "s"], ["y"], mode="nearest"), "shrinking by 0.75 to the nearest", 10,
    ),
    "computed axes": (make("ReduceSum", ["x", "x"], ["y"]), "its axes is computed", 13),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_rule_is_refused(name, tmp_path):
    node, message, opset = REFUSED[name]
    constants = {letter: np.ones((3, 1, 1), F32) for letter in "abcd"}
    constants["s"] = np.array([1, 1, 0.75, 0.75], F32)
    nodes = [node] if "y" in node.output else [node, make("Add", ["x", "b"], ["y"])]
    constants = {name: constants[name] for name in node.input if name != "x"}
    path = save(tmp_path / "net.onnx", nodes, (1, 3, 4, 4), constants, opset)
    with pytest.raises(UnsupportedOperation, match=f"net.onnx: no rule for .*{message}"):
        read_onnx(path)


def test_without_the_package_the_way_out_is_named(tmp_path, monkeypatch):
    path, x = small(tmp_path), np.zeros((1, 3), F32)
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ImportError, match="pip install 'jmlv"):
        read_onnx(path)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ImportError, match="pip install torch"):
        from_torch(None, x)
