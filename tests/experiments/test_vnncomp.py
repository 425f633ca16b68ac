"""The competition's campaign: answers are compared, counterexamples replayed, processes ended."""

import argparse
import dataclasses
import gzip
import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path

import asking
import jax
import numpy as np
import pytest
import vnncomp

from jmlv.cli.solve import Answer
from jmlv.interop import read_onnx, vnnlib, write_onnx

pytest.importorskip("onnxruntime")

HEAD = "(declare-const X_0 Real)(declare-const Y_0 Real)(assert (and (>= X_0 -1) (<= X_0 0.3)))"
QUESTIONS = {"low": "(assert (<= Y_0 -0.5))", "high": "(assert (>= Y_0 0.25))"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two questions about relu(x), with a wrong 'known' answer to a third."""
    benchmark = tmp_path_factory.mktemp("questions") / "tiny"
    for part in ("onnx", "vnnlib"):
        (benchmark / part).mkdir(parents=True)
    plain = benchmark / "net.onnx"
    write_onnx(jax.nn.relu, (1,), plain)
    (benchmark / "onnx" / "net.onnx.gz").write_bytes(gzip.compress(plain.read_bytes()))
    for name, text in QUESTIONS.items():
        packed = gzip.compress((HEAD + text).encode())
        (benchmark / "vnnlib" / f"{name}.vnnlib.gz").write_bytes(packed)
    (benchmark / "vnnlib" / "bad.vnnlib.gz").write_bytes(gzip.compress(b"(assert"))
    rows = ["low.vnnlib.gz,20,holds,0.5,3", "high.vnnlib.gz,20,holds,1.5,2", "bad.vnnlib.gz,20,,,0"]
    lines = [f"onnx/net.onnx.gz,vnnlib/{row}" for row in rows]
    (benchmark / "instances.csv").write_text(
        "\n".join(["onnx,vnnlib,timeout,answer,best_seconds,tools_that_answered", *lines])
    )
    return benchmark


def test_every_answer_is_a_row_that_is_compared_and_replayed(folder):
    low, high, bad = (vnncomp.answer(i, 20.0) for i in vnncomp.read_folder(folder.parent))
    assert low["answer"] == "unsat" and not low["wrong"] and low["witness"] is None
    assert high["answer"] == "sat" and high["wrong"] and high["witness"] == "replayed"
    assert bad["answer"] == "unknown" and bad["error"].startswith("DamagedFile")
    line = dict(zip(vnncomp.HEADER, vnncomp.summary("tiny", [low, high, bad])))
    wanted = {
        "questions": 3,
        "sat": 1,
        "unsat": 1,
        "unknown": 1,
        "known": 2,
        "agree": 1,
        "wrong": 1,
    }
    assert wanted.items() <= line.items()
    assert line["replayed"] == 1 and line["tools answered"] == 2 and line["tools' median s"] == 1.0


@pytest.mark.parametrize(
    "point, output, message",
    [(0.3, 0.3, "replayed"), (0.4, 0.4, "outside"), (0.3, 0.301, "onnxruntime has")],
)
def test_a_counterexample_is_held_against_onnxruntime_and_the_file(folder, point, output, message):
    path = folder / "onnx" / "net.onnx.gz"
    asked = vnnlib.parse_vnnlib(folder / "vnnlib" / "high.vnnlib.gz")
    found = Answer("sat", (), np.array([point]), np.array([output]))
    name = read_onnx(path).input_name
    assert vnncomp.replayed(path, name, asked, found).startswith(message)
    assert vnncomp.replayed(path, name, asked, dataclasses.replace(found, result="unsat")) is None


def test_an_interrupted_campaign_goes_on_where_it_stopped(folder, tmp_path, monkeypatch):
    asked = []

    def ask_one(instance, seconds, separate):
        asked.append((instance.question.name.split(".")[0], seconds))
        if len(asked) == 2:
            raise KeyboardInterrupt
        return vnncomp.row_of(instance, seconds, Answer("unknown", ()), 1.0)

    monkeypatch.setattr(vnncomp.WORKER, "ask", ask_one)
    options = argparse.Namespace(out=tmp_path)
    instances = vnncomp.read_folder(folder)
    questions = [vnncomp.question(i, 5.0, False) for i in instances]
    with pytest.raises(KeyboardInterrupt):
        asking.ask(questions, options, "")
    rows = asking.ask(questions, options, "")
    assert asked == [(name, 5.0) for name in ("low", "high", "high", "bad")] and len(rows) == 3
    asking.ask([vnncomp.question(i, 50.0, False) for i in instances], options, "")
    assert asked[4:] == [(name, 20.0) for name in ("low", "high", "bad")]


def _sleeping(pipe):
    pipe.send("ready")
    pipe.recv()
    time.sleep(60)


def _dying(pipe):
    pipe.send("ready")
    pipe.recv()
    os._exit(3)


@pytest.mark.filterwarnings("ignore:.*fork")  # a spawned process would import for seconds
@pytest.mark.parametrize("serve, error", [(_sleeping, "ended after"), (_dying, "the process died")])
def test_a_process_that_overruns_or_dies_is_a_row(folder, serve, error, monkeypatch):
    monkeypatch.setattr(vnncomp, "_serve", serve)
    monkeypatch.setattr(vnncomp, "CONTEXT", multiprocessing.get_context("fork"))
    monkeypatch.setattr(vnncomp, "GRACE", 0.1)
    worker, instance = vnncomp.Worker(), vnncomp.read_folder(folder)[0]
    row = worker.ask(instance, 0.2, separate=False)
    assert row["answer"] == "unknown" and row["error"].startswith(error)
    assert worker.process is None


@pytest.mark.parametrize("share, wrong", [("1/2", False), ("0/2", True), ("3/2", True)])
def test_shares(folder, share, wrong):
    instances = vnncomp.read_folder(folder)
    if wrong:
        with pytest.raises(SystemExit, match="share:"):
            vnncomp.shared(instances, share)
        return
    names = [i.question.name for i in vnncomp.shared(instances, share)]
    assert names == ["low.vnnlib.gz", "bad.vnnlib.gz"]


def test_the_competition_scripts_write_the_results_file(folder, tmp_path):
    """run_instance.sh with a stand-in for the installed program, which would take seconds."""
    scripts = tmp_path / "experiments" / "vnncomp"
    scripts.mkdir(parents=True)
    for script in (Path(vnncomp.__file__).parent / "vnncomp").glob("*.sh"):
        (scripts / script.name).write_bytes(script.read_bytes())
    program = tmp_path / ".venv" / "bin" / "jmlv"
    program.parent.mkdir(parents=True)
    program.write_text('#!/bin/sh\nshift 5\nshift\necho "$@" > "$1"\n')
    program.chmod(0o755)
    (program.parent / "python").symlink_to(sys.executable)
    onnx, question = folder / "onnx" / "net.onnx.gz", folder / "vnnlib" / "low.vnnlib.gz"
    out = tmp_path / "result.txt"
    arguments = ["v1", "tiny", str(onnx), str(question), str(out), "30"]
    subprocess.run(["sh", str(scripts / "run_instance.sh"), *arguments], check=True)
    assert out.read_text().strip() == str(out)
