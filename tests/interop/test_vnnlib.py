"""VNN-LIB out and in: what is asserted, every dialect of the competition, and every malformed file."""

import gzip
import time

import jax.numpy as jnp
import numpy as np
import pytest
from vnnlib_text import evaluate

import jmlv
from jmlv.errors import DamagedFile
from jmlv.interop import read_vnnlib, vnnlib, write_vnnlib
from jmlv.numerics import certificate_precision
from jmlv.oracles import MILP, PGD, Deadline, Query

PROPERTIES = {
    "in top k": jmlv.InTopK(1, 2),
    "not in top k": jmlv.NotInTopK(0, 2),
    "keeps": jmlv.KeepsLabels((0, 2), 3),
    "keeps two of three": jmlv.KeepsLabels((0, 1, 2), 3, at_least=2),
    "above": jmlv.AboveThreshold(3, 0.1),
    "below": jmlv.BelowThreshold(2, -0.3),
    "and": jmlv.InTopK(0, 1) & jmlv.BelowThreshold(1, 0.7),
    "linear": (jmlv.Linear([2, 0, 0, -0.5, 0], 0.25) | jmlv.InTopK(1, 4))
    & jmlv.Linear([0, 0, 0, 0, 1.5], 1.0),
}
VERSIONS = (1.0, 2.0)


@pytest.fixture(params=VERSIONS)
def version(request):
    if request.param == 2.0:
        pytest.importorskip("vnnlib")
    return request.param


def _margins(property, scores):
    with certificate_precision():
        return np.asarray(property.margin(scores))


@pytest.mark.parametrize("name", PROPERTIES)
def test_a_property_comes_back_with_the_same_margin(name, version, tmp_path):
    """Equal margins: the violation that is asserted is the negation, ties included."""
    property, rng = PROPERTIES[name], np.random.default_rng(0)
    box = jmlv.Box.around(rng.random((2, 3, 1), np.float32), np.float32(0.1))
    path = tmp_path / "query.vnnlib"
    write_vnnlib(box, property, 5, path, version)
    ((region, read),) = read_vnnlib(path, (2, 3, 1))
    assert region == box
    scores = np.round(rng.normal(size=(200, 5)) * 2) / 2
    expected, found = _margins(property, scores), _margins(read, scores)
    np.testing.assert_allclose(found, expected, atol=1e-15)
    assert (np.asarray(expected) == 0).sum() > 5 or name != "in top k"


@pytest.mark.parametrize("name", PROPERTIES)
def test_the_file_asserts_the_violation(name, version, tmp_path):
    """A point satisfies the file iff it is in the box and breaks the property."""
    property, rng = PROPERTIES[name], np.random.default_rng(1)
    path = tmp_path / "query.vnnlib"
    box = jmlv.Box.around(np.full((1, 2, 1), 0.5, np.float32), 0.25)
    write_vnnlib(box, property, 5, path, version)
    text, seen, asked = path.read_text(), set(), vnnlib.parse_vnnlib(path)
    points = rng.choice([0.2, 0.25, 0.5, 0.75, 0.8], (120, 2), p=[0.1, 0.2, 0.4, 0.2, 0.1])
    scores = np.round(rng.normal(size=(120, 5)) * 2) / 2
    for inputs, outputs, margin in zip(points, scores, _margins(property, scores)):
        broken = bool(margin <= 0)
        inside = bool(np.all((inputs >= 0.25) & (inputs <= 0.75)))
        assert evaluate(text, inputs, outputs) == (inside and broken)
        assert asked.satisfied(inputs, outputs) == (inside and broken)
        seen.add((inside, broken))
    assert len(seen) == 4


DECLARED = "".join(f"(declare-const {v} Real)" for v in ("X_0", "X_1", "Y_0", "Y_1", "Y_2"))
BOUNDED = "(assert (and (>= X_0 0) (<= X_0 1) (>= X_1 -2) (<= X_1 2)))"
DIALECTS = {
    "nested": "(assert (or (and (<= Y_0 Y_1) (>= Y_2 0.5)) (and (or (>= Y_0 1) (<= Y_1 -1)) (<= Y_2 0))))",
    "strict": "(assert (or (< Y_0 Y_1) (and (> Y_2 0.5) (< Y_0 0.5))))",
    "equal": "(assert (or (= Y_0 Y_1) (= 0.5 Y_2)))",
    "distinct": "(assert (and (distinct Y_0 Y_1) (<= Y_0 0.5)))",
    "not": "(assert (not (or (<= Y_0 Y_1) (and (> Y_2 0) (>= Y_1 0.5)))))",
    "implication": "(assert (=> (<= Y_0 0) (<= Y_1 Y_2)))",
    "coefficients": "(assert (<= (+ (* 2.0 Y_0) (* Y_2 -3) 1) (- (* 0.5 (+ Y_1 Y_1)) 0.5)))",
    "reordered": "(assert (<= (- 1 Y_0 (- Y_1)) (+ Y_2 (+ Y_0 (* 2 (- Y_2 1))))))",
    "quotient": "(assert (>= (/ (- Y_0 Y_1) 2) (/ 1 4)))",
    "cancels": "(assert (and (<= (- Y_0 Y_0) 0) (or (< Y_1 Y_1) (<= Y_0 Y_1))))",
    "constants": "(assert (and true (or false (<= Y_0 0.5))))",
    "several assertions": "(assert (<= Y_0 0.5)) (assert (or (<= Y_1 0) (<= Y_2 0)))",
    "boxes": "(assert (or (and (<= X_1 -1) (<= Y_0 Y_1)) (and (>= X_1 0) (<= X_1 1) (<= Y_2 0))))",
    "boxes apart": "(assert (or (<= X_1 -1) (>= X_1 1))) (assert (or (<= Y_0 Y_1) (<= Y_2 0)))",
    "boxes and strict ends": "(assert (or (and (< X_1 -1) (> Y_0 0)) (and (> X_1 0) (< Y_0 0))))",
    "inputs scaled": "(assert (and (<= (* 2 X_0) 1) (>= (- X_1) -1) (<= Y_0 Y_1)))",
    "inputs equal": "(assert (= X_0 0.5)) (assert (<= Y_0 Y_1))",
    "inputs implied": "(assert (=> (>= X_0 0.5) (<= Y_0 Y_1)))(assert (<= Y_2 0.5))",
}


@pytest.mark.parametrize("name", DIALECTS)
def test_every_dialect_means_what_it_says(name, tmp_path):
    """A point satisfies the file iff some question's box has it and its property is broken there."""
    path, text = tmp_path / "prop.vnnlib", DECLARED + BOUNDED + DIALECTS[name]
    path.write_text(text)
    asked, questions = vnnlib.parse_vnnlib(path), read_vnnlib(path)
    rng, seen = np.random.default_rng(2), set()
    inputs = rng.choice([-1, -0.5, 0, 0.25, 0.5, 1, 1.5], (150, 2))
    outputs = np.round(rng.normal(size=(150, 3)) * 2) / 2
    margins = [_margins(property, outputs) for _, property in questions]
    for i, (x, y) in enumerate(zip(inputs, outputs)):
        satisfied = evaluate(text, x, y)
        assert asked.satisfied(x, y) == satisfied
        broken = any(b.contains(x) and m[i] <= 0 for (b, _), m in zip(questions, margins))
        on_an_excluded_end = ("strict ends" in name and x[1] in (-1, 0)) or (
            "implied" in name and x[0] == 0.5
        )
        assert broken == satisfied or (on_an_excluded_end and broken)
        seen.add(satisfied)
    assert seen == {True, False}


def test_several_boxes_are_several_questions(tmp_path):
    path = tmp_path / "prop.vnnlib"
    path.write_text(
        "; two inputs, as competition files write them\n"
        + DECLARED
        + """
        (assert (<= X_0 0.5)) (assert (>= X_0 2.5e-1))
        (assert (or
          (and (>= X_1 0.1) (<= X_1 0.2) (<= Y_0 Y_1))
          (and (>= X_1 0.1) (<= X_1 0.2) (<= (+ (* 2.0 Y_0) (* -3 Y_2) 1) 0.5))
          (and (<= 0.5 X_1) (>= 0.75 X_1) (<= Y_0 Y_1) (>= Y_2 0.3))))
        """
    )
    first, second = read_vnnlib(path, (1, 2, 1))
    assert first.property == jmlv.Linear([1, -1, 0]) & jmlv.Linear([2, 0, -3], 0.5)
    assert second.property == jmlv.Linear([1, -1, 0]) | jmlv.Linear([0, 0, -1], 0.3)
    assert first.region.shape == (1, 2, 1) and second.region.upper.ravel().tolist() == [0.5, 0.75]
    assert first.region.lower.ravel().tolist() == [0.25, np.nextafter(0.1, 0)]


@pytest.mark.parametrize("pack", [lambda b: b, gzip.compress])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_gzip_and_byte_order_marks(pack, mark, tmp_path):
    text = mark + "; café\r\n" + DECLARED.replace("const X_0", "fun X_0 ()") + BOUNDED
    path = tmp_path / "prop.vnnlib"
    path.write_bytes(pack((text + "(assert (<= Y_0 Y_1))(check-sat)").encode()))
    assert len(read_vnnlib(path)) == 1


SECOND = """; a comment
(vnnlib-version <2.0>)
(declare-network N
    (declare-input X float32 [1,2,2])
    (declare-output Y float32 [1,3]))
(assert (and {bounds}))
(assert (or (and (<= Y[0,0] Y[0,1]) (< (+ (* 2.0 Y[0,1]) (- Y[0,2])) 0.5)) (== Y[0,0] 1.0)))
(assert (!= Y[0,2] 0.5))
"""


def test_the_second_version_numbers_arrays_by_their_last_axis(tmp_path):
    pytest.importorskip("vnnlib")
    ends = [
        f"(>= X[0,{i // 2},{i % 2}] -{i}.5) (<= X[0,{i // 2},{i % 2}] {i}.25)" for i in range(4)
    ]
    path = tmp_path / "prop.vnnlib"
    path.write_text(SECOND.format(bounds=" ".join(ends)))
    ((region, property),) = read_vnnlib(path, (2, 2, 1))
    assert region.lower.ravel().tolist() == [-0.5, -1.5, -2.5, -3.5]
    assert region.upper.ravel().tolist() == [0.25, 1.25, 2.25, 3.25]
    asked, rng, seen = vnnlib.parse_vnnlib(path), np.random.default_rng(3), set()
    scores = np.round(rng.normal(size=(150, 3)) * 2) / 2
    for y, margin in zip(scores, _margins(property, scores)):
        broken = ((y[0] <= y[1] and 2 * y[1] - y[2] < 0.5) or y[0] == 1) and y[2] != 0.5
        assert bool(margin <= 0) == broken == asked.satisfied(np.zeros(4), y)
        seen.add(broken)
    assert len(seen) == 2


NOT_SECOND = {
    "scalars of a wrong type": ("(<= Y[0,0] 1)", "FloatConstant|F32"),
    "index": ("(<= Y[0,3] 1.0)", "out of bounds"),
    "grammar": ("(<= Y[0,0] 1e5)", "syntax error"),
    "mixed": ("(<= Y[0,0] X[0,0,0])", "expected one input, or outputs"),
    "product": ("(<= (* Y[0,0] Y[0,1]) 0.0)", "product of variables"),
}


@pytest.mark.parametrize("name", NOT_SECOND)
def test_what_is_not_read_of_the_second_version_is_named(name, tmp_path):
    pytest.importorskip("vnnlib")
    assertion, message = NOT_SECOND[name]
    path = tmp_path / "prop.vnnlib"
    path.write_text(SECOND.format(bounds="(<= X[0,0,0] 1.0)") + f"(assert {assertion})")
    with pytest.raises(DamagedFile, match=message):
        read_vnnlib(path)


def test_two_networks_are_refused(tmp_path):
    pytest.importorskip("vnnlib")
    network = (
        "(declare-network {0} (declare-input {0}x float32 [1]) (declare-output {0}y float32 [1]))"
    )
    path = tmp_path / "prop.vnnlib"
    path.write_text("(vnnlib-version <2.0>)" + network.format("A") + network.format("B")
                    + "(assert (<= Ay[0] By[0]))")  # fmt: skip
    with pytest.raises(DamagedFile, match="2 networks"):
        read_vnnlib(path)


def _text(*assertions):
    declared = "".join(f"(declare-const {v} Real)" for v in ("X_0", "Y_0", "Y_1"))
    return (
        declared
        + "(assert (and (>= X_0 0) (<= X_0 1)))"
        + "".join(f"(assert {a})" for a in assertions)
    )


MANY = [f"(or (and (<= X_0 0.{i}) (<= Y_0 0)) (and (<= X_0 0.5) (<= Y_1 0)))" for i in range(14)]
NOT_READ = {
    "not closed": ("(assert (<= X_0 1)", "parenthesis"),
    "closed twice": ("(assert))", "parenthesis closes"),
    "bare": ("hello", "parenthesis is missing"),
    "nothing": ("", "not declared in full"),
    "other command": (_text() + "(push 1)", "expected declare-const"),
    "empty command": (_text() + "()", "expected declare-const"),
    "gap in variables": (_text().replace("Y_0", "Y_5"), "not declared in full"),
    "mixed": (_text("(<= Y_0 X_0)"), "expected one input, or outputs"),
    "two inputs": (DECLARED + BOUNDED + "(assert (<= X_0 X_1))", "expected one input, or outputs"),
    "product": (_text("(<= (* Y_0 Y_1) 0)"), "product of variables"),
    "division": (_text("(<= (/ 1 Y_1) 0)"), "division by a variable"),
    "quotient of zero": (_text("(<= (/ Y_1 0) 0)"), "by zero"),
    "undeclared output": (_text("(<= Y_0 Y_7)"), "Y_7 is asserted and not declared"),
    "undeclared input": (_text("(<= X_3 1)", "(<= Y_0 0)"), "X_3 is asserted and not declared"),
    "no output": (_text(), "says nothing about the outputs"),
    "trivial": (_text("(<= Y_0 Y_0)"), "says nothing about the outputs"),
    "impossible": (_text("(< Y_0 Y_0)"), "contradict one another"),
    "unbounded": (_text("(<= Y_0 Y_1)").replace("(<= X_0 1)", ""), "X_0 is unbounded above"),
    "crossing": (_text("(<= Y_0 Y_1)", "(>= X_0 1.5)"), "bounds of input X_0 cross: 1.5 > 1"),
    "infinite": (_text("(<= Y_0 1e999)"), "not a finite number"),
    "nan": (_text("(<= Y_0 nan)"), "not a finite number"),
    "word": (_text("(<= Y_0 abc)"), "expected a number"),
    "empty term": (_text("(<= Y_0 ())"), "linear term"),
    "one side": (_text("(<= Y_0)"), "takes two terms"),
    "not of two": (_text("(not (<= Y_0 0) (<= Y_1 0))"), "takes one formula"),
    "arrow of one": (_text("(=> (<= Y_0 0))"), "takes two formulas"),
    "term for a formula": (_text("(+ Y_0 1)"), "expected and, or"),
    "formula for a term": (_text("(<= (and Y_0) 1)"), "linear term"),
    "many cases": (_text(*MANY), "more than 10000 cases"),
    "more after the question": (
        _text("(<= Y_0 Y_1)") + "(check-sat)(assert (<= Y_1 0))",
        "one question a file",
    ),
    "declared twice": ("(declare-const X_0 Real)" + _text("(<= Y_0 0)"), "X_0 is declared twice"),
    "a zero before": (_text("(<= Y_0 0)").replace("X_0", "X_00"), "expected a variable"),
    "beyond float64": (_text("(<= (* 1e200 (* 1e200 Y_0)) 1)"), "beyond the range of float64"),
    "deep": (_text("(not " * 100_000 + "(<= Y_0 0)" + ")" * 100_000), "nested too deeply"),
}


@pytest.mark.parametrize("name", NOT_READ)
def test_what_is_not_read_is_named(name, tmp_path):
    text, message = NOT_READ[name]
    path = tmp_path / "prop.vnnlib"
    path.write_text(text)
    with pytest.raises(DamagedFile, match=message):
        read_vnnlib(path)


@pytest.mark.parametrize("character", ["\x0b", "\x0c", "\x1c", "\x85", "\u2028"])
def test_a_comment_ends_with_its_line_alone(character, tmp_path):
    """What Python calls a line is more than what the format does."""
    path = tmp_path / "prop.vnnlib"
    hidden = f"\n; no question: {character}(assert (<= Y_0 -9))\n"
    path.write_text(_text("(<= Y_0 Y_1)") + hidden, encoding="utf-8")
    ((_, property),) = read_vnnlib(path)
    assert _margins(property, np.array([1.0, 0.0])) == 1


def test_what_follows_the_exit_is_not_read(tmp_path):
    path = tmp_path / "prop.vnnlib"
    path.write_text(_text("(<= Y_0 Y_1)") + "(check-sat)(exit)(assert (<= Y_0 -9))")
    ((_, property),) = read_vnnlib(path)
    assert _margins(property, np.array([1.0, 0.0])) == 1


def test_distinct_terms_are_distinct_in_pairs(tmp_path):
    """The first and the third may not be equal either."""
    path = tmp_path / "prop.vnnlib"
    path.write_text(_text("(distinct Y_0 Y_1 0)"))
    ((_, property),) = read_vnnlib(path)
    for scores, satisfied in (((1, 2), True), ((0, 2), False), ((2, 2), False), ((2, 0), False)):
        assert (_margins(property, np.array(scores, float)) <= 0) == satisfied, scores


@pytest.mark.parametrize(
    "content", [b"\xff\xfe\x00", gzip.compress(b"(assert")[:-4]], ids=["no text", "cut off"]
)
def test_bytes_that_are_no_text_are_named(content, tmp_path):
    path = tmp_path / "prop.vnnlib"
    path.write_bytes(content)
    with pytest.raises(DamagedFile, match="prop.vnnlib"):
        read_vnnlib(path)


def test_arguments_that_do_not_fit_are_named(tmp_path):
    path = tmp_path / "prop.vnnlib"
    path.write_text(_text("(<= Y_0 Y_1)"))
    with pytest.raises(ValueError, match="the file's 1 inputs"):
        read_vnnlib(path, (2, 2, 1))
    with pytest.raises(ValueError, match="version: expected 1.0 or 2.0"):
        write_vnnlib(jmlv.Box.around(np.zeros(1), 0.1), jmlv.AboveThreshold(0), 1, path, 3)
    with pytest.raises(FileNotFoundError):
        read_vnnlib(tmp_path / "nowhere.vnnlib")


def test_a_property_with_too_many_cases_is_refused(tmp_path):
    region = jmlv.Box.around(np.zeros((1, 1, 1), np.float32), 0.1)
    with pytest.raises(ValueError, match="more than 10000"):
        write_vnnlib(region, jmlv.InTopK(0, 10), 30, tmp_path / "x.vnnlib")


def test_many_connectives_over_outputs_are_no_cases(tmp_path):
    path = tmp_path / "prop.vnnlib"
    path.write_text(_text(*["(or (<= Y_0 0) (<= Y_1 0))"] * 40))
    ((_, property),) = read_vnnlib(path)
    assert float(property.margin(jnp.array([1.0, 2.0]))) == 1.0


def test_a_long_file_is_read_in_seconds(tmp_path):
    """Of 100,000 lines in 2 s, as measured; a tenth of that, in the process's own time."""
    lines = [f"(declare-const X_{i} Real)" for i in range(3_300)] + ["(declare-const Y_0 Real)"]
    for i in range(3_300):
        lines += [f"(assert (<= X_{i} 0.{i}1))", f"(assert (>= X_{i} -0.{i}))"]
    path = tmp_path / "long.vnnlib"
    path.write_text("\n".join([*lines, "(assert (<= Y_0 0.5))"]))
    start = time.process_time()
    ((region, _),) = read_vnnlib(path)
    assert time.process_time() - start < 0.6 and region.shape == (3_300,)


def test_a_property_that_is_read_is_decided(tmp_path):
    """Bounds, attack and MILP read general rows from the same definition."""
    path = tmp_path / "prop.vnnlib"
    head = "(declare-const X_0 Real)(declare-const X_1 Real)(declare-const Y_0 Real)(declare-const Y_1 Real)"
    boxes = "(assert (and (>= X_0 0.25) (<= X_0 0.75) (>= X_1 0.25) (<= X_1 0.5)))"
    violation = "(assert (and (<= (+ (* 2.0 Y_0) (* -1.0 Y_1)) {}) (>= Y_0 0.25)))"
    f = lambda x: jnp.abs(x.reshape(x.shape[0], 2) - 0.5)  # noqa: E731
    for limit, expected in (("0.2500", False), ("0.2", True)):
        path.write_text(head + boxes + violation.format(limit))
        ((region, property),) = read_vnnlib(path, (1, 2, 1))
        bound = jmlv.bound(f, region, property, jmlv.CROWN())
        # 2 Y_0 - Y_1 is at least 0.5 - 0.25 where Y_0 >= 0.25, and reaches it in a corner.
        verdict = jmlv.verify(f, region, property, MILP() if expected else PGD())
        assert verdict.robust == expected and float(bound.lower) <= 0.25 - float(limit) + 1e-6
        query = Query.of(f, region, property)
        assert MILP().search(query, Deadline(20)).lower <= 0.25 - float(limit) + 1e-5
