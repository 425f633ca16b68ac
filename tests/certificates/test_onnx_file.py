"""ONNX files as the checker reads them: against onnxruntime, what is refused, and damaged files."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from onnx_files import F32, X, ints, of_node, save, seeded, session

import jmlv
import jmlv_check
from jmlv.interop import read_onnx, write_onnx
from jmlv.oracles import Deadline, Query
from jmlv.oracles.certify import Certifier, exported_from
from jmlv_check import onnx_file
from jmlv_check.__main__ import main
from jmlv_check.arithmetic import Floats
from jmlv_check.linear import bounded
from jmlv_check.network import Maximum, Refused

onnx = pytest.importorskip("onnx", reason="the package onnx is not installed")

QUICK = Certifier(batch=8, depth=8)
IMAGE, ROW, LINE = (1, 4, 6, 5), (1, 6), (1, 4, 7)
KERNEL, BIAS = seeded(6, 4, 3, 2), seeded(6, seed=1)
STATISTICS = (
    seeded(4), seeded(4, seed=1), seeded(4, seed=2), seeded(4, low=0.5, high=2.0, seed=3),
)  # fmt: skip
CASES = [
    ("Add", IMAGE, [X, seeded(4, 1, 1)], {}),
    ("Add", ROW, [seeded(1, 3, 1, 6), X], {}),
    ("Add", IMAGE, [X, X], {}),
    ("Sub", ROW, [X, seeded(6)], {}),
    ("Sub", ROW, [seeded(6), X], {}),
    ("AveragePool", IMAGE, [X], {"kernel_shape": [2, 3], "strides": [2, 1], "pads": [1, 0, 0, 2]}),
    ("AveragePool", IMAGE, [X], {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "count_include_pad": 1}),
    ("BatchNormalization", IMAGE, [X, *STATISTICS], {"epsilon": 1e-3, "momentum": 0.5}),
    ("Conv", IMAGE, [X, KERNEL], {}),
    ("Conv", IMAGE, [X, KERNEL, BIAS], {"strides": [2, 1], "pads": [1, 0, 2, 1], "dilations": [1, 2]}),
    ("Conv", IMAGE, [X, seeded(6, 2, 3, 2)], {"group": 2, "kernel_shape": [3, 2]}),
    ("Conv", LINE, [X, seeded(2, 4, 3)], {"auto_pad": "VALID"}),
    ("Flatten", IMAGE, [X], {"axis": -2}),
    ("Gemm", ROW, [X, seeded(6, 3), seeded(3)], {}),
    ("Gemm", ROW, [X, seeded(3, 6)], {"transB": 1}),
    ("Identity", ROW, [X], {}),
    ("LeakyRelu", IMAGE, [X], {"alpha": 0.2}),
    ("LeakyRelu", ROW, [X], {}),
    ("MatMul", LINE, [X, seeded(7, 3)], {}),
    ("MatMul", LINE, [seeded(3, 4), X], {}),
    ("MaxPool", IMAGE, [X], {"kernel_shape": [2, 2], "strides": [2, 2]}),
    ("MaxPool", IMAGE, [X], {"kernel_shape": [3, 2], "pads": [1, 0, 1, 1], "dilations": [2, 1]}),
    ("Relu", IMAGE, [X], {}),
    ("Reshape", IMAGE, [X, ints(0, -1, 10)], {}),
    ("Transpose", IMAGE, [X], {"perm": [0, 2, 3, 1]}),
]  # fmt: skip


def _values(network, point):
    """What a network computes at a point, entry by entry."""
    point = np.asarray(point, np.float64).ravel()
    at = bounded(network, Floats(), point, point, {})
    return at.lower[network.scores], at.upper[network.scores]


def _gap(path, shape, seed=0):
    """How far onnxruntime's values are from the checker's, beside what float32 rounds."""
    point = np.random.default_rng(seed).uniform(-2, 2, shape).astype(F32)
    runs = session(path)
    (wanted,) = runs.run(None, {X: point})
    low, high = _values(jmlv_check.load(path), point)
    wanted = wanted.ravel().astype(np.float64)
    assert wanted.shape == low.shape
    return np.max(np.maximum(low - wanted, wanted - high) / (1 + np.abs(wanted)))


@pytest.mark.parametrize("kind, shape, operands, attributes", CASES, ids=lambda v: str(v)[:20])
def test_every_operator_is_onnxruntimes(kind, shape, operands, attributes, tmp_path):
    path = of_node(kind, shape, operands, attributes, 13, tmp_path / "n.onnx")
    assert _gap(path, shape) < 1e-5


def test_a_broken_rule_is_caught(tmp_path, monkeypatch):
    path = of_node("Sub", ROW, [X, seeded(6)], {}, 13, tmp_path / "n.onnx")
    monkeypatch.setitem(onnx_file.RULES, "Sub", onnx_file.RULES["Add"])
    assert _gap(path, ROW) > 1e-2


REFUSED = {
    "no rule for such a BatchN": ("BatchNormalization", IMAGE, [X, *STATISTICS[:3]], {}),
    "no rule for Sigmoid": ("Sigmoid", ROW, [X], {}),
    "ceil_mode": ("MaxPool", IMAGE, [X], {"kernel_shape": [2, 2], "ceil_mode": 1}),
    "auto_pad": ("Conv", IMAGE, [X, KERNEL], {"auto_pad": "SAME_UPPER"}),
    "alpha": ("Gemm", ROW, [X, seeded(6, 3)], {"alpha": 2.0}),
    "training_mode": ("BatchNormalization", IMAGE, [X, *STATISTICS], {"training_mode": 1}),
    "no rule for such a Relu .*unheard_of": ("Relu", ROW, [X], {"unheard_of": 3}),
    "product": ("MatMul", (1, 4, 4), [X, X], {}),
    "not of floats": ("MatMul", ROW, [X, ints(*range(6)).reshape(6, 1)], {}),
    "a constant": ("Relu", ROW, [ints(0, 1, 2)], {}),
    "an operation on a constant": ("LeakyRelu", ROW, [ints(0, 1, 2)], {}),
    "on a constant": (
        "BatchNormalization",
        IMAGE,
        [ints(*range(8)).reshape(1, 4, 2), *STATISTICS],
        {},
    ),
    "no single image": (
        "MaxPool",
        IMAGE,
        [ints(*range(16)).reshape(1, 1, 4, 4)],
        {"kernel_shape": [2, 2]},
    ),
    "a sum of constants": ("Add", ROW, [ints(0, 1), ints(2, 3)], {}),
    "channels": ("Conv", IMAGE, [X, seeded(6, 3, 1, 1)], {}),
}


@pytest.mark.parametrize("why", REFUSED)
def test_what_has_no_rule_is_refused_with_a_sentence(why, tmp_path):
    path = of_node(*REFUSED[why], 13, tmp_path / "n.onnx")
    with pytest.raises(Refused, match=why):
        jmlv_check.load(path)


@pytest.mark.parametrize(
    "why, change",
    {
        r"version \[6\]": lambda model: setattr(model.opset_import[0], "version", 6),
        "field 25": lambda model: model.functions.add(name="Relu", domain=""),
        "2 outputs": lambda model: model.graph.output.append(model.graph.output[0]),
        "is taken": lambda model: model.graph.node.append(model.graph.node[0]),
        "of one is taken": lambda model: model.graph.initializer.append(model.graph.initializer[0]),
        "constant without a name": lambda model: setattr(model.graph.initializer[0], "name", ""),
        "input without a name": lambda model: setattr(model.graph.input[0], "name", ""),
        "before it is there": lambda model: model.graph.node[0].input.__setitem__(0, "later"),
        "no batch of one": lambda model: setattr(
            model.graph.input[0].type.tensor_type.shape.dim[0], "dim_value", 2
        ),
        "open axis": lambda model: model.graph.input[0].type.tensor_type.shape.dim[1].Clear(),
        "field 13": lambda model: model.graph.initializer[0].external_data.add(key="location"),
        "domain": lambda model: setattr(model.graph.node[0], "domain", "domain"),
    }.items(),
)
def test_what_might_mean_something_else_is_refused(why, change, tmp_path):
    path = of_node("Add", ROW, [X, seeded(6)], {}, 13, tmp_path / "n.onnx")
    model = onnx.load(path)
    change(model)
    path.write_bytes(model.SerializeToString())
    with pytest.raises(Refused, match=why):
        jmlv_check.load(path)


def test_two_graphs_in_one_file_are_refused(tmp_path):
    """Protocol buffers would merge them."""
    path = of_node("Relu", ROW, [X], {}, 13, tmp_path / "n.onnx")
    path.write_bytes(2 * path.read_bytes())
    with pytest.raises(Refused, match="2 times|version .13, 13."):
        jmlv_check.load(path)


def _pooled(x):
    """Convolution, pools on both sides of ReLUs, products: of images, channels last."""
    kernel, matrix = jnp.asarray(seeded(3, 3, 1, 2)), jnp.asarray(seeded(18, 3))
    h = jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    h = jax.lax.reduce_window(
        jax.nn.relu(h - 0.1), -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID"
    )
    return jnp.maximum(h.reshape(len(x), -1) - 0.2, 0) @ matrix


@pytest.fixture(scope="module")
def proof(tmp_path_factory):
    """A file, and a certificate of the network that was written to it."""
    path = tmp_path_factory.mktemp("onnx") / "n.onnx"
    write_onnx(_pooled, (6, 6, 1), path)
    x = seeded(6, 6, 1, low=0.0, seed=5)
    best = int(np.argmax(_pooled(x[None])[0]))
    box = jmlv.Box.around(x, np.float32(0.03))
    return path, QUICK.prove(Query.of(_pooled, box, jmlv.InTopK(best, 1)), Deadline(60))


def test_maxima_that_meet_are_one(proof):
    path, certificate = proof
    kinds = [
        [n.source.shape for n in network.nodes if isinstance(n, Maximum)]
        for network in (jmlv_check.load(path), certificate.network)
    ]
    assert kinds[0] == kinds[1] and kinds[0][0] == (18, 4)


def test_a_certificate_about_the_file(proof, tmp_path, capsys):
    path, certificate = proof
    about = certificate.about(jmlv_check.load(path))
    assert abs(about.check().bound - certificate.check().bound) < 1e-9
    assert about.check(exact=True).claim == "robust"
    about.save(tmp_path / "c.npz")
    certificate.save(tmp_path / "other.npz")
    assert main([str(tmp_path / "c.npz"), str(path)]) == 0
    assert "sha256 of the file" in capsys.readouterr().out
    assert main([str(tmp_path / "other.npz"), str(path)]) == 1
    model = onnx.load(path)
    kernel = next(t for t in model.graph.initializer if len(t.dims) == 4)
    changed = onnx.numpy_helper.to_array(kernel) * np.nextafter(F32(1), F32(2))
    kernel.CopyFrom(onnx.numpy_helper.from_array(changed, kernel.name))
    (tmp_path / "n.onnx").write_bytes(model.SerializeToString())
    assert main([str(tmp_path / "c.npz"), str(tmp_path / "n.onnx")]) == 1
    assert "another one" in capsys.readouterr().err


def test_a_file_that_was_read_and_a_witness(proof):
    path, certificate = proof
    f, network = read_onnx(path), jmlv_check.load(path)
    x = certificate.arrays["lower"].reshape(6, 6, 1).astype(F32)
    worst = int(np.argmin(f(x[None])[0]))
    box, prop = jmlv.Box.around(x, 0.01), jmlv.InTopK(worst, 1)
    verdict = jmlv.verify(f, box, prop, jmlv.PGD(restarts=1, steps=1), certify=True)
    assert verdict.certificate.about(network).check().claim == "not robust"


def test_a_proof_that_cuts_units_is_renumbered():
    """Each unit is found again, wherever the other network has it."""
    rng = np.random.default_rng(2)
    a, b = (jnp.asarray(rng.normal(size=s), jnp.float32) for s in ((3, 9), (9, 3)))
    order = rng.permutation(9)
    f = lambda x: jnp.maximum(x.reshape(-1, 3) @ a - 0.3, 0) @ b  # noqa: E731
    g = lambda x: jnp.maximum(x.reshape(-1, 3) @ a[:, order] - 0.3, 0) @ b[order]  # noqa: E731
    x = np.full((3, 1, 1), 0.5, F32)
    prop = jmlv.InTopK(int(np.argmax(f(x[None])[0])), 1)
    box = jmlv.Box.around(x, np.float32(0.3))
    ours = QUICK.prove(Query.of(f, box, prop), Deadline(60))
    assert '"entry"' in json.dumps(dict(ours.head))
    moved = ours.about(exported_from(Query.of(g, box, prop)))
    assert abs(moved.check().bound - ours.check().bound) < 1e-9
    for name, units in ours.arrays.items():
        if name.startswith("leaf.0."):
            assert np.array_equal(moved.arrays[name], units[order])
    with pytest.raises(ValueError, match="computes something else"):
        ours.about(exported_from(Query.of(lambda x: g(2 * x), box, prop)))


def test_damaged_files_are_refused_with_a_sentence(proof):
    """Cut off, or with a bit flipped: another network perhaps, but no other error."""
    path, _ = proof
    data, rng, refused = path.read_bytes(), np.random.default_rng(0), []
    places = rng.integers(0, len(data), 120)
    damaged = [data[:place] for place in places[:40]]
    for place in places[40:]:
        flipped = bytearray(data)
        flipped[place] ^= 1 << rng.integers(8)
        damaged.append(bytes(flipped))
    for content in damaged:
        path.with_name("damaged.onnx").write_bytes(content)
        try:
            jmlv_check.load(path.with_name("damaged.onnx"))
        except Refused as problem:
            assert len(str(problem)) > 20
            refused.append(content)
    assert set(damaged[:40]) <= set(refused) and len(refused) > 50, "some bits, too, are noticed"


def test_numbers_in_any_of_their_fields(tmp_path):
    """Raw bytes, or repeated floats and integers, packed."""
    values, shape = seeded(6), ints(1, 2, 3)
    nodes = [onnx.helper.make_node("Add", [X, "a"], ["h"]),
             onnx.helper.make_node("Reshape", ["h", "s"], ["y"])]  # fmt: skip
    path = save(tmp_path / "n.onnx", nodes, ROW, {"a": values, "s": shape}, 13)
    model = onnx.load(path)
    del model.graph.initializer[:]
    model.graph.initializer.extend([
        onnx.helper.make_tensor("a", 1, (6,), values), onnx.helper.make_tensor("s", 7, (3,), shape),
    ])  # fmt: skip
    plain = path.with_name("p.onnx")
    plain.write_bytes(model.SerializeToString())
    assert jmlv_check.load(plain).sha256() == jmlv_check.load(path).sha256()


def test_a_field_of_another_kind_is_refused(tmp_path):
    """Other readers take it for unknown: an attribute that only this one would read."""
    path = of_node("Gemm", ROW, [X, seeded(6, 6)], {"transB": 1}, 13, tmp_path / "n.onnx")
    data = path.read_bytes()
    at = data.index(b"transB\x18\x01") + len(b"transB")
    assert jmlv_check.load(path)
    # The number as a string of one byte, in a message of the same length: its type is cut off.
    path.write_bytes(data[:at] + b"\x1a\x01\x01" + data[at + 3 :])
    with pytest.raises(jmlv_check.Refused):
        jmlv_check.load(path)
    path.write_bytes(data.replace(b"transB\x18\x01", b"transB\x1a\x00"))
    with pytest.raises(jmlv_check.Refused, match="kind 2"):
        jmlv_check.load(path)
