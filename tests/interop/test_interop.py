"""Files of other tools: weights in, networks and properties out and in, and every damaged file."""

from __future__ import annotations

import argparse
import base64
import collections
import datetime
import json
import os
import pathlib
import pickle
import struct
import sys
import types
import zipfile
import zlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import zoo
from vnnlib_text import evaluate

import jmlv
from jmlv.errors import DamagedFile
from jmlv.interop import (
    cnn_from_torch,
    config_of,
    convolution_kernel,
    read_onnx,
    read_safetensors,
    read_torch,
    read_weights,
    write_onnx,
    write_vnnlib,
)
from jmlv.interop.torch_archive import STORAGES
from jmlv.models import CNNConfig, MultiLabelCNN
from jmlv.oracles import PGD

CONFIG = CNNConfig((12, 12, 2), (3, 4), (3, 2), (2, 1), (1, 0), pool=2, labels=5)

# ---------------------------------------------------------------------------------------------
# Weights
# ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def weights():
    rng = np.random.default_rng(0)
    height, width, channels = CONFIG.feature_shape
    shapes = {
        "conv1.weight": (3, 2, 3, 3),
        "conv1.bias": (3,),
        "conv2.weight": (4, 3, 2, 2),
        "conv2.bias": (4,),
        "fc1.weight": (5, height * width * channels),
        "fc1.bias": (5,),
    }
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def write_safetensors(path, arrays, change=None):
    """A file of the format; ``change`` may break its header."""
    names = {
        np.dtype(v): k
        for k, v in (("F32", "f4"), ("F64", "f8"), ("I64", "i8"), ("BF16", "u2"), ("BOOL", "?"))
    }
    header, block = {"__metadata__": {"format": "pt"}}, b""
    for name, value in arrays.items():
        begin, block = len(block), block + value.tobytes()
        header[name] = {
            "dtype": names[value.dtype],
            "shape": list(value.shape),
            "data_offsets": [begin, len(block)],
        }
    if change is not None:
        header = change(header)
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + block)


class Storage:
    """What PyTorch hands to its pickler in place of numbers."""

    def __init__(self, kind, key, values):
        self.pid = ("storage", kind, key, "cpu", len(values))


class Tensor:
    def __init__(self, storage, offset, shape, strides, rebuild):
        self.parts = storage, offset, shape, strides, False, collections.OrderedDict()
        self.rebuild = rebuild

    def __reduce__(self):
        return self.rebuild, self.parts


class Pickler(pickle.Pickler):
    def persistent_id(self, obj):
        return obj.pid if isinstance(obj, Storage) else None


@pytest.fixture
def torch_names(monkeypatch):
    """Modules with the names that PyTorch's files mention, for the pickler to find."""
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
    torch._utils = utils
    for name in STORAGES:
        setattr(torch, name, type(name, (), {"__module__": "torch"}))

    def rebuild(*_):
        raise AssertionError("only its name is written")

    rebuild.__module__, rebuild.__name__, rebuild.__qualname__ = (
        "torch._utils",
        *["_rebuild_tensor_v2"] * 2,
    )
    utils._rebuild_tensor_v2 = rebuild
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setitem(sys.modules, "torch._utils", utils)
    return torch


def write_torch(path, torch, arrays, *, kind=None, content=None, raw=None, **zip_options):
    """A state dict as ``torch.save`` lays it out."""
    kinds = {np.dtype(v): k for k, v in STORAGES.items() if k != "BFloat16Storage"}
    files, state = {}, collections.OrderedDict()
    for key, (name, value) in enumerate(arrays.items()):
        files[f"data/{key}"] = np.ascontiguousarray(value).tobytes()
        storage = Storage(getattr(torch, kind or kinds[value.dtype]), str(key), value.reshape(-1))
        steps = [step // value.itemsize for step in np.array(value, order="C").strides]
        state[name] = Tensor(storage, 0, value.shape, tuple(steps), torch._utils._rebuild_tensor_v2)
    state._metadata = {"": {"version": 1}}
    with zipfile.ZipFile(path, "w", **zip_options) as archive:
        with archive.open("net/data.pkl", "w") as file:
            if raw is None:
                Pickler(file, protocol=2).dump(state if content is None else content(state))
            else:
                file.write(raw)
        archive.writestr("net/byteorder", "little")
        archive.writestr("net/version", "3\n")
        for name, data in files.items():
            archive.writestr(f"net/{name}", data)


def _torch_forward(weights, x):
    """The network in PyTorch's conventions: channels first, flattened channel by channel."""
    h = jnp.asarray(x).transpose(0, 3, 1, 2)
    for name, stride, padding in (("conv1", 2, 1), ("conv2", 1, 0)):
        numbers = ("NCHW", "OIHW", "NCHW")
        h = jax.lax.conv_general_dilated(
            h,
            weights[f"{name}.weight"],
            (stride,) * 2,
            [(padding,) * 2] * 2,
            dimension_numbers=numbers,
        )
        h = jax.nn.relu(h + weights[f"{name}.bias"][:, None, None])
    h = jax.lax.reduce_window(h, -jnp.inf, jax.lax.max, (1, 1, 2, 2), (1, 1, 2, 2), "VALID")
    return h.reshape(len(x), -1) @ weights["fc1.weight"].T + weights["fc1.bias"]


@pytest.mark.parametrize("ending", ["npz", "safetensors", "pt"])
def test_every_format_gives_the_network(ending, tmp_path, weights, torch_names):
    path = tmp_path / f"weights.{ending}"
    if ending == "npz":
        np.savez(path, **weights)
    elif ending == "safetensors":
        write_safetensors(path, weights)
    else:
        write_torch(path, torch_names, weights)
    read = read_weights(path)
    assert read.keys() == weights.keys()
    assert all(
        np.array_equal(read[name], value) and read[name].dtype == value.dtype
        for name, value in weights.items()
    )
    model = cnn_from_torch(path, CONFIG)
    x = np.random.default_rng(1).random((3, 12, 12, 2), np.float32)
    np.testing.assert_allclose(model(x), _torch_forward(weights, x), atol=1e-4)
    assert config_of(path, (12, 12, 2), (2, 1), (1, 0), 2) == CONFIG


def test_layouts_are_put_right():
    assert convolution_kernel(np.zeros((5, 4, 3, 2))).shape == (3, 2, 4, 5)


def test_weights_that_do_not_fit_are_named(tmp_path, weights):
    path = tmp_path / "weights.npz"
    for change, message in (
        ({"fc1.bias": np.zeros(4)}, "fc1 has shape"),
        ({"conv1.weight": np.zeros((3, 2, 3))}, "has 3 axes, expected 4"),
        ({"fc1.weight": np.zeros((5, 7))}, "fc1 reads 7 features"),
        ({"conv2.bias": np.full(4, np.nan)}, "NaN or infinite"),
    ):
        np.savez(path, **{**weights, **change})
        with pytest.raises(DamagedFile, match=message):
            cnn_from_torch(path, CONFIG)
    np.savez(path, other=np.zeros(1))
    with pytest.raises(DamagedFile, match="no array 'conv1.weight'"):
        cnn_from_torch(path, CONFIG)
    with pytest.raises(ValueError, match="expected a name that ends in"):
        read_weights(tmp_path / "weights.bin")
    path.write_bytes(b"PK nothing")
    with pytest.raises(DamagedFile, match="not an NPZ file"):
        read_weights(path)


def test_safetensors_types(tmp_path):
    path = tmp_path / "types.safetensors"
    half = np.array([1.5, -2.0, 3.0], np.float32)
    arrays = {
        "wide": np.array([[0.1], [0.2]]),
        "whole": np.array([1, -2]),
        "half": (half.view(np.uint32) >> 16).astype(np.uint16),
        "flags": np.array([True, False]),
        "nothing": np.zeros((0, 3), np.float32),
        "scalar": np.array(2.5, np.float32),
    }
    write_safetensors(path, arrays)
    read = read_safetensors(path)
    assert np.array_equal(read["half"], half) and read["half"].dtype == np.float32
    for name in ("wide", "whole", "flags", "nothing", "scalar"):
        assert np.array_equal(read[name], arrays[name]) and read[name].shape == arrays[name].shape


def _entry(**changes):
    return lambda header: {**header, "b": {**header["b"], **changes}}


BROKEN_HEADERS = {
    "overlap": (_entry(data_offsets=[0, 8]), "overlap"),
    "gap": (lambda h: {"b": h["b"]}, "gap"),
    "beyond the end": (_entry(data_offsets=[8, 24], shape=[4]), "its block has"),
    "size": (_entry(shape=[3]), "needs 12 bytes"),
    "negative": (_entry(data_offsets=[-8, 0]), "not lists of sizes"),
    "shape of flags": (_entry(shape=[True, 2]), "not lists of sizes"),
    "type": (_entry(dtype="F8_E4M3"), "the type 'F8_E4M3'"),
    "keys": (_entry(extra=1), "no dtype, shape and data_offsets"),
    "entry": (lambda h: {**h, "b": 3}, "no dtype, shape and data_offsets"),
    "metadata": (lambda h: {**h, "__metadata__": 3}, "__metadata__"),
    "not an object": (lambda h: b"[1]", "not a JSON object"),
    "not JSON": (lambda h: b"{", "not JSON"),
    "twice": (lambda h: b'{"a": 1, "a": 2}', "occurs twice"),
    "not text": (lambda h: b"\xff\xfe", "not JSON"),
}


@pytest.mark.parametrize("name", BROKEN_HEADERS)
def test_broken_safetensors_are_refused(name, tmp_path):
    change, message = BROKEN_HEADERS[name]
    path = tmp_path / "broken.safetensors"
    write_safetensors(path, {"a": np.zeros(2, np.float32), "b": np.ones(2, np.float32)}, change)
    with pytest.raises(DamagedFile, match=f"not a valid safetensors file.*{message}"):
        read_safetensors(path)


@pytest.mark.parametrize(
    "content", [b"", b"\0" * 7, struct.pack("<Q", 1 << 60) + b"{}", struct.pack("<Q", 9) + b"{}"]
)
def test_headers_longer_than_the_file_are_refused(content, tmp_path):
    path = tmp_path / "short.safetensors"
    path.write_bytes(content)
    with pytest.raises(DamagedFile, match="bytes"):
        read_safetensors(path)


def test_torch_types_views_and_shared_storages(tmp_path, torch_names):
    path = tmp_path / "net.pt"
    half = np.array([1.5, -2.0], np.float32)
    write_torch(
        path,
        torch_names,
        {"h": (half.view(np.uint32) >> 16).astype(np.uint16)},
        kind="BFloat16Storage",
    )
    assert np.array_equal(read_torch(path)["h"], half)
    arrays = {
        "whole": np.array([[1, 2], [3, 4]]),
        "scalar": np.array(2.5),
        "flags": np.array([True]),
    }
    write_torch(path, torch_names, arrays)
    assert all(np.array_equal(read_torch(path)[name], value) for name, value in arrays.items())

    def views(state):
        storage = state["a"].parts[0]
        rebuild = torch_names._utils._rebuild_tensor_v2
        return {"t": Tensor(storage, 1, (2, 2), (1, 2), rebuild), "a": state["a"]}

    write_torch(path, torch_names, {"a": np.arange(6.0)}, content=views)
    assert read_torch(path)["t"].tolist() == [[1, 3], [2, 4]] and read_torch(path)["a"].size == 6


#: ``torch.save`` of PyTorch 1.13.0, compressed: a dense layer's state dict and a bfloat16 transpose.
WRITTEN_BY_PYTORCH = zlib.decompress(base64.b85decode(
    b'c-ozl-D(p-6vt<GlTETo{is^2t*u`d5o(%5P(f+JB6~9z#uQ=kX4!0p?BbgA>`v;16mrvmw_c0X2hdmW0lX5Qp@<'
    b';9f#7_EbhEJ)9hg1r%=w-FnR8}ZSj!-k&!f3fLQAMm=w{cYZe{0rXqk)X+1wbZo;L_X;?ZExkB!GsmqeudDDbEO='
    b'vEt)vaPdVFG<kzDX1PDM4n%9hBOFc!-+^|7=&Gil72jhoZY$sTDffJ7!fm1w?`l&5yJ`xF5Q-k24ro8`BXu-HD<k'
    b'?A>^=5A^!v;tYLKw1*~Fa4907pXHle3YQuufj*2>g8^bA|>G&C6#;L(+KZi96X9T|wXR)#mi;_J@;d~n|h-1)U)F'
    b')k7lJq1qQ>0eAJ5BDQ2wI0_UnF&j2UW2)hRaytxvj{+s}!!ZVQshv>vn+w&I>|aUTwH4_OIEz4RC!AZitHPk|<_H'
    b'hMQQ4<G534;avWE=jX3iOpVXhv8^=F!nBo}Rm&_KHBvf^w%DhEP?OCOn+FXZynXm>eVJ|Wc~bD|QSh2&Zv5ev96y'
    b'-eC#j8^T=Vebfm0H<?_|w~N1AoZy#G&{Dg7<fXf{R-dFCJQD_{SvUqlat{-h<AdGCJ{xMOhDFYkI!RTftjstPw#-'
    b'DHbPbD1PxXqrs+&zPY;D=2Xx(p<6!vs_tCaJ4j-tlcd4Hp$h~T=MkA8E#cW$vU^Nu5V1X*0kGGw`|I;DAK;sq-7j'
    b'`K<Gn8{wrcFt4k&;{H5=2PMrw}'
))  # fmt: skip


def test_a_file_that_pytorch_wrote(tmp_path):
    path = tmp_path / "net.pt"
    path.write_bytes(WRITTEN_BY_PYTORCH)
    read = read_torch(path)
    assert list(read) == ["weight", "bias", "turned"]
    assert read["weight"].tolist() == [[0, 0.25], [0.5, 0.75], [1, 1.25]]
    assert read["bias"].tolist() == [-1, 0.5, 2]
    assert np.array_equal(read["turned"], read["weight"].T)


def _with_tensor(**changes):
    def content(state):
        tensor = state["a"]
        storage, offset, shape, strides, *rest = tensor.parts
        parts = {"offset": offset, "shape": shape, "strides": strides} | changes
        tensor.parts = storage, *parts.values(), *rest
        return state

    return content


BAD_STATES = {
    "leaves its storage": (_with_tensor(offset=5), "leaves its storage"),
    "too long": (_with_tensor(shape=(7,)), "leaves its storage"),
    "negative stride": (_with_tensor(strides=(-1,), offset=5), "strides"),
    "negative offset": (_with_tensor(offset=-1), "offset -1"),
    "copies without end": (_with_tensor(shape=(10**12,), strides=(0,)), "leaves its storage"),
    "fewer strides": (_with_tensor(strides=()), "too few strides"),
    "not integers": (_with_tensor(shape=("x",)), "shape"),
    "a list": (lambda state: [1, 2], "expected a state dict"),
    "a number": (lambda state: {"epoch": 3}, "not a tensor"),
    "empty": (lambda state: {}, "expected a state dict"),
}


@pytest.mark.parametrize("name", BAD_STATES)
def test_state_dicts_that_are_none_are_refused(name, tmp_path, torch_names):
    content, message = BAD_STATES[name]
    path = tmp_path / "net.pt"
    write_torch(path, torch_names, {"a": np.arange(6.0)}, content=content)
    with pytest.raises(DamagedFile, match=message):
        read_torch(path)


@pytest.mark.parametrize("name", ["state_dict", "model_state_dict", "model", "net"])
def test_a_training_scripts_state_dict_is_found(name, tmp_path, torch_names):
    """Its progress beside it is dropped; what is inside is checked as ever."""
    path, arrays = tmp_path / "model_best.pth.tar", {"a": np.arange(6.0)}
    for broken in (False, True):
        inside = (lambda state: {"b": "text"}) if broken else (lambda state: state)
        content = lambda state: {"epoch": 3, "arch": "resnet101", name: inside(state)}  # noqa: B023, E731
        write_torch(path, torch_names, arrays, content=content)
        if broken:
            with pytest.raises(DamagedFile, match="'b' is a str"):
                read_weights(path)
        else:
            assert {key: value.tolist() for key, value in read_weights(path).items()} == {
                "a": [0, 1, 2, 3, 4, 5]
            }


def test_what_lies_beside_a_state_dict_is_never_made(tmp_path, torch_names):
    """Arguments, dates, NumPy's scalars, an optimizer's state, and what would run code."""
    path, mark = tmp_path / "model_best.pth.tar", tmp_path / "mark"
    beside = {
        "args": argparse.Namespace(lr=0.1, name="net"),
        "best": np.float64(0.93),
        "when": datetime.datetime(2024, 2, 29),
        "scheduler": {"milestones": collections.Counter([30, 60]), "kept": {1, 2}},
        "history": collections.defaultdict(list, {"loss": [0.5]}),
        "where": pathlib.PurePosixPath("runs") / "1",
        "hook": Runs(os.system, f"touch {mark}"),
    }

    def content(state):
        moments = {0: {"step": 3, "exp_avg": state["module.a"]}}
        return {"optimizer": {"state": moments, "lr": 0.1}, **beside, "state_dict": state}

    write_torch(path, torch_names, {"module.a": np.arange(6.0)}, content=content)
    assert {name: value.tolist() for name, value in read_weights(path).items()} == {
        "a": [0, 1, 2, 3, 4, 5]
    }
    assert not mark.exists()


def test_wrappers_are_taken_from_names(tmp_path):
    path = tmp_path / "weights.npz"
    for names, expected in (
        (["module.a", "_orig_mod.module.b.module.c"], ["a", "b.module.c"]),
        (["module.a", "n_averaged"], ["a", "n_averaged"]),
        (["module.a", "a"], ["module.a", "a"]),
    ):
        np.savez(path, **{name: np.zeros(1) for name in names})
        assert list(read_weights(path)) == expected


class Runs:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


#: Sets an attribute of what find_class gave, replaces its state, and calls what is not callable.
OPCODES = {
    "build a slot": b"\x80\x02ctorch._utils\n_rebuild_parameter\nN}X\x09\x00\x00\x00_functionK\x01s\x86b.",
    "build a callable": b"\x80\x02ccollections\nOrderedDict\n}X\x01\x00\x00\x00aK\x01sb.",
    "new object": b"\x80\x02ccollections\nOrderedDict\n)\x81.",
    "call a type": b"\x80\x02ctorch\nFloatStorage\n)R.",
    "stack": b"\x80\x02.",
    "unknown": b"\x80\x02\xfe.",
    "attribute chain": b"\x80\x04\x8c\x0bcollections\x8c\x1aOrderedDict.__init__.__self__\x93.",
    "extension": b"\x80\x02\x82\x01.",
    "builtin": b"\x80\x02cbuiltins\neval\nX\x05\x00\x00\x001 + 1\x85R.",
}


@pytest.mark.parametrize("name", OPCODES)
def test_hostile_opcodes_are_refused(name, tmp_path, torch_names):
    path = tmp_path / "net.pt"
    write_torch(path, torch_names, {}, raw=OPCODES[name])
    with pytest.raises(DamagedFile, match="net.pt"):
        read_torch(path)


def test_code_in_a_pickle_never_runs(tmp_path, torch_names):
    path, mark = tmp_path / "net.pt", tmp_path / "mark"
    for function, argument in ((os.system, f"touch {mark}"), (eval, f"open({str(mark)!r}, 'w')")):
        write_torch(path, torch_names, {}, content=lambda _: {"a": Runs(function, argument)})  # noqa: B023
        with pytest.raises(DamagedFile, match="its pickle asks for"):
            read_torch(path)
    assert not mark.exists()


def test_archives_that_are_none_are_refused(tmp_path, torch_names):
    path = tmp_path / "net.pt"
    for content in (b"", pickle.dumps({"a": 1}), b"PK\x03\x04broken"):
        path.write_bytes(content)
        with pytest.raises(DamagedFile, match="not a state dict"):
            read_torch(path)
    write_torch(path, torch_names, {"a": np.zeros(9)}, compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(DamagedFile, match="compressed"):
        read_torch(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("other/constants.pkl", b"")
    with pytest.raises(DamagedFile, match="0 pickles"):
        read_torch(path)


# ---------------------------------------------------------------------------------------------
# ONNX
# ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def onnx():
    return pytest.importorskip("onnx", reason="the package onnx is not installed")


def _sessions(path):
    """Every evaluator of ONNX files that is installed."""
    from onnx.reference import ReferenceEvaluator

    reference = ReferenceEvaluator(str(path))
    yield lambda x: reference.run(None, {"image": x})[0]
    try:
        import onnxruntime
    except ImportError:
        return
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    yield lambda x: session.run(None, {"image": x})[0]


@pytest.mark.parametrize(
    "name", zoo.mostly_slow(zoo.NETS, "dense", "dilated", "pool", "odds_and_ends", "linen")
)
def test_onnx_computes_what_the_network_does(name, tmp_path, onnx):
    f = zoo.NETS[name](zoo.Weights(0))
    path = tmp_path / "net.onnx"
    write_onnx(f, zoo.SHAPE, path)
    x = np.random.default_rng(0).random((2, 1, *zoo.SHAPE), np.float32)
    for run in _sessions(path):
        for image in x:
            np.testing.assert_allclose(run(image), np.asarray(f(image)), atol=2e-5, rtol=1e-4)
    again = read_onnx(path)
    np.testing.assert_allclose(again(x[0]), np.asarray(f(x[0])), atol=2e-5, rtol=1e-4)
    assert jmlv.check(again, x[0, 0]) == []


def test_a_published_architecture_keeps_its_convolutions(tmp_path, onnx):
    from flax import nnx

    model = MultiLabelCNN(CONFIG, rngs=nnx.Rngs(0))
    path = tmp_path / "net.onnx"
    write_onnx(model, CONFIG.input_shape, path)
    kinds = [node.op_type for node in onnx.load(str(path)).graph.node]
    assert kinds.count("Conv") == 2 and kinds.count("MaxPool") == 1 and kinds.count("MatMul") == 1
    assert kinds.count("Transpose") == 2, "once to channels first, once back"


def test_what_has_no_form_is_named(tmp_path, onnx):
    with pytest.raises(jmlv.UnsupportedOperation, match="floor"):
        write_onnx(lambda x: jnp.floor(x.sum((1, 2))), (2, 2, 1), tmp_path / "net.onnx")
    many = lambda x: jnp.flip(jnp.pad(x, ((0, 0), (0, 900), (0, 900), (0, 0))), 1).sum((1, 2))  # noqa: E731
    with pytest.raises(jmlv.UnsupportedOperation, match="too large for a matrix"):
        write_onnx(many, (90, 90, 1), tmp_path / "net.onnx")
    assert not (tmp_path / "net.onnx").exists()


def test_a_witness_satisfies_the_exported_files(tmp_path, onnx):
    """Another tool that evaluates the network file on the witness finds every assertion true."""
    f = zoo.NETS["dense"](zoo.Weights(0))
    x = np.random.default_rng(2).random(zoo.SHAPE, np.float32)
    label = int(np.argmax(f(x[None])[0]))
    property = jmlv.InTopK(label, 1)
    write_onnx(f, zoo.SHAPE, tmp_path / "net.onnx")
    for radius, robust in ((0.5, False), (1e-4, True)):
        region = jmlv.Box.around(x, np.float32(radius))
        write_vnnlib(region, property, zoo.LABELS, tmp_path / "query.vnnlib")
        text = (tmp_path / "query.vnnlib").read_text()
        verdict = jmlv.verify(f, region, property, jmlv.Cascade((PGD(), jmlv.Bounds())))
        assert verdict.robust == robust
        point = x if robust else verdict.witness
        for run in _sessions(tmp_path / "net.onnx"):
            inputs, outputs = point.reshape(-1).astype(float), run(point[None])[0].astype(float)
            assert evaluate(text, inputs, outputs) != robust


SHARED = Path(__file__).parents[3] / "shared" / "data" / "mulloc"


@pytest.mark.skipif(
    not SHARED.is_dir(), reason="the published networks are not in ../shared/data/mulloc"
)
def test_a_published_network_goes_to_onnx(tmp_path, onnx):
    import published

    model, images = published.network("linf"), published.images().images
    write_onnx(model, (64, 64, 1), tmp_path / "net.onnx")
    for run in _sessions(tmp_path / "net.onnx"):
        np.testing.assert_allclose(run(images[:1]), np.asarray(model(images[:1])), atol=1e-4)
