"""Who decides open questions: contradictions are named, and an answer is of its settings only."""

import argparse
import dataclasses
import pathlib

import pytest

open_questions = pytest.importorskip("open_questions", reason="the experiments are not here")
vnncomp = pytest.importorskip("vnncomp")


@pytest.mark.parametrize(
    ("statuses", "known", "count"),
    [
        (("ROBUST", "NOT_ROBUST"), None, 1),
        (("ROBUST", "ROBUST"), "sat", 2),
        (("ROBUST", "UNKNOWN"), "unsat", 0),
        (("UNKNOWN", "UNKNOWN"), "sat", 0),
    ],
)
def test_answers_that_contradict_one_another_are_named(statuses, known, count):
    row = {"known": known, **{n: {"status": s} for n, s in zip("ab", statuses)}}
    assert len(list(open_questions.contradictions(row, ["a", "b"]))) == count


def test_another_budget_oracle_or_file_is_another_question(tmp_path):
    for name in ("one.onnx", "two.onnx", "q.vnnlib"):
        (tmp_path / name).write_text(name)
    instance = vnncomp.Instance("b", tmp_path / "one.onnx", tmp_path / "q.vnnlib", 1.0, None, None)
    options = argparse.Namespace(budget=60.0)
    branching = open_questions.ORACLES["branching"]
    key = open_questions.question(instance, options, branching).key
    assert key == open_questions.question(instance, options, dataclasses.replace(branching)).key
    others = [
        (instance, argparse.Namespace(budget=30.0), branching),
        (instance, options, open_questions.ORACLES["unclipped"]),
        (instance._replace(network=tmp_path / "two.onnx"), options, branching),
    ]
    (pathlib.Path(tmp_path) / "q.vnnlib").write_text("changed")
    others.append((instance, options, branching))
    assert key not in {open_questions.question(*other).key for other in others}
