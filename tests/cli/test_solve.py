"""``jmlv solve``: answers in the competition's form, checked against files of one's own."""

import gzip
import re
from fractions import Fraction

import jax
import numpy as np
import pytest
from vnnlib_text import evaluate

import jmlv
from jmlv.cli import main
from jmlv.cli.solve import Answer, solve
from jmlv.interop import read_onnx, vnnlib, write_onnx
from jmlv.oracles import Bounds, Cascade, Deadline


def network(x):
    """|x_0 - 0.1| and x_0 + 2 x_1 - 0.1."""
    x = x.reshape(x.shape[0], -1)
    first = jax.nn.relu(x[:, :1] - 0.1) + jax.nn.relu(0.1 - x[:, :1])
    return jax.numpy.concatenate([first, x[:, :1] + 2 * x[:, 1:] - 0.1], 1)


HEAD = "".join(f"(declare-const {v} Real)" for v in ("X_0", "X_1", "Y_0", "Y_1"))
BOX = "(assert (and (>= X_0 -1.3) (<= X_0 0.7) (>= X_1 {}) (<= X_1 {})))"
QUESTIONS = {
    "proven": (BOX.format(0.5, 1) + "(assert (<= Y_1 -0.5))", "unsat"),
    "broken": (BOX.format(-0.1, 0.3) + "(assert (<= Y_1 (+ Y_0 -0.5)))", "sat"),
    "a fixed input": (BOX.format(0.3, 0.3) + "(assert (>= Y_1 1.19))", "sat"),
    "on the file's own edge": (BOX.format(0.3, 0.3) + "(assert (>= Y_1 1.2))", "unknown"),
    "the second box": (
        "(assert (and (>= X_0 0) (<= X_0 0.3)))"
        "(assert (or (and (>= X_1 0.5) (<= X_1 1)) (and (>= X_1 -1) (<= X_1 -0.5))))"
        "(assert (<= Y_1 0))",
        "sat",
    ),
    "both boxes": (
        "(assert (and (>= X_0 0) (<= X_0 0.3)))"
        "(assert (or (and (>= X_1 0.5) (<= X_1 1)) (and (>= X_1 2) (<= X_1 3))))"
        "(assert (<= Y_1 0.5))",
        "unsat",
    ),
}


@pytest.fixture(scope="module")
def onnx(tmp_path_factory):
    pytest.importorskip("onnx")
    path = tmp_path_factory.mktemp("net") / "net.onnx"
    write_onnx(network, (2,), path)
    packed = path.with_suffix(".onnx.gz")
    packed.write_bytes(gzip.compress(path.read_bytes()))
    return packed


@pytest.mark.parametrize("name", QUESTIONS)
def test_answers_are_written_as_the_competition_wants_them(name, onnx, tmp_path, capsys):
    text, expected = QUESTIONS[name]
    question, out = tmp_path / "q.vnnlib.gz", tmp_path / "result.txt"
    question.write_bytes(gzip.compress((HEAD + text).encode()))
    budget = "1" if expected == "unknown" else "20"
    assert main(["solve", str(onnx), str(question), "--budget", budget, "--out", str(out)]) == 0
    printed = capsys.readouterr()
    assert printed.out == out.read_text() and "box 1 of" in printed.err
    first, *rest = printed.out.splitlines()
    assert first == expected
    if expected == "sat":
        values = dict(re.findall(r"\((\w_\d) ([-+.\de]+)\)", "".join(rest)))
        assert list(values) == ["X_0", "X_1", "Y_0", "Y_1"]
        exact = [Fraction(value) for value in values.values()]
        assert evaluate_exactly(HEAD + text, exact)
        inputs = np.array([float(v) for v in exact[:2]], np.float32)
        np.testing.assert_allclose(
            read_onnx(onnx)(inputs[None])[0], [float(v) for v in exact[2:]], rtol=1e-6
        )
    else:
        assert not rest


def evaluate_exactly(text, values):
    """Decimals of the file and of the answer as a checker reads them, in float64."""
    values = [float(value) for value in values]
    return evaluate(text, values[:2], values[2:])


def test_a_witness_that_the_file_does_not_confirm_is_no_answer(onnx, tmp_path, monkeypatch):
    """The exact check is the last one, whatever verdict comes out of the oracles."""
    question = tmp_path / "q.vnnlib"
    question.write_text(HEAD + QUESTIONS["broken"][0])
    asked = vnnlib.parse_vnnlib(question)
    monkeypatch.setattr(vnnlib.Asked, "satisfied", lambda self, x, y: False)
    answer = solve(read_onnx(onnx), asked, Cascade(), Deadline(20))
    assert answer.result == "unknown" and "decimals" in answer.reason


@pytest.fixture(scope="module")
def double(tmp_path_factory):
    """1e10 x - 1e9 in float64: 1 at x = 0.1000000001, where float32 is off by 64."""
    onnx = pytest.importorskip("onnx")
    weights = [
        onnx.helper.make_tensor("w", onnx.TensorProto.DOUBLE, (1, 1), [1e10]),
        onnx.helper.make_tensor("b", onnx.TensorProto.DOUBLE, (1,), [-1e9]),
    ]
    ends = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.DOUBLE, (1, 1)) for name in "xy"
    ]
    node = onnx.helper.make_node("Gemm", ["x", "w", "b"], ["y"])
    graph = onnx.helper.make_graph([node], "double", ends[:1], ends[1:], weights)
    path = tmp_path_factory.mktemp("double") / "double.onnx"
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)]), path)
    return path


@pytest.mark.parametrize(
    "boxes, expected",
    [
        ("(and (>= X_0 0.1000000001) (<= X_0 0.2))", "unsat"),
        ("(and (>= X_0 0.1) (<= X_0 0.2))", "sat"),
        (  # the second box gets the first one's graph: with its own weights, not rounded ones
            "(or (and (>= X_0 0.5) (<= X_0 0.6)) (and (>= X_0 0.1000000001) (<= X_0 0.2)))",
            "unsat",
        ),
    ],
)
def test_a_network_of_float64_is_asked_in_float64(boxes, expected, double, tmp_path, capsys):
    question = tmp_path / "q.vnnlib"
    declared = "(declare-const X_0 Real)(declare-const Y_0 Real)"
    text = f"{declared}(assert {boxes})(assert (<= Y_0 0.5))"
    question.write_text(text)
    assert main(["solve", str(double), str(question), "--budget", "20"]) == 0
    first, *rest = capsys.readouterr().out.splitlines()
    assert first == expected
    if expected == "sat":
        x, y = (float(v) for v in re.findall(r" ([-+.\de]+)\)", "".join(rest)))
        assert evaluate(text, [x], [y]) and y == 1e10 * x - 1e9


def test_without_time_or_proof_the_answer_is_unknown(onnx, tmp_path):
    question = tmp_path / "q.vnnlib"
    question.write_text(HEAD + QUESTIONS["both boxes"][0])
    asked, f = vnnlib.parse_vnnlib(question), read_onnx(onnx)
    assert solve(f, asked, Bounds(jmlv.IBP()), Deadline(20)).result == "unsat"
    deadline = Deadline(1e-9)
    assert solve(f, asked, Cascade(), deadline).reason == "the time is up"
    assert Answer("unknown", ()).text() == "unknown\n"


BAD = {
    "no network": (["nowhere.onnx", "{q}"], "nowhere.onnx"),
    "no question": (["{n}", "nowhere.vnnlib"], "nowhere.vnnlib"),
    "not a network": (["{q}", "{q}"], "path:"),
    "not a question": (["{n}", "{n}"], "path:"),
    "another network's": (["{n}", "{other}"], "question: it declares 1 inputs"),
    "budget": (["{n}", "{q}", "--budget", "0"], "budget: must be"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_sentence_and_exit_status_2(name, onnx, tmp_path, capsys):
    arguments, message = BAD[name]
    question, other = tmp_path / "q.vnnlib", tmp_path / "other.vnnlib"
    question.write_text(HEAD + QUESTIONS["proven"][0])
    other.write_text(
        "(declare-const X_0 Real)(declare-const Y_0 Real)"
        "(assert (and (>= X_0 0) (<= X_0 1) (<= Y_0 0)))"
    )
    filled = [a.format(n=onnx, q=question, other=other) for a in arguments]
    assert main(["solve", *filled]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("jmlv solve:") and message in error
