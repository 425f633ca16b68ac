"""The networks of the public competitions: read as they are, they compute what onnxruntime does."""

from __future__ import annotations

import csv
import gzip
import re
from pathlib import Path

import numpy as np
import pytest

import jmlv
from jmlv.interop import read_onnx

pytest.importorskip("onnx", reason="the package onnx is not installed")

FOLDER = Path(__file__).parents[3] / "shared" / "data" / "vnncomp"

pytestmark = pytest.mark.skipif(
    not FOLDER.is_dir(), reason="the competition's networks are not in ../shared/data/vnncomp"
)

FAMILIES = [folder.name for folder in sorted(FOLDER.glob("*")) if folder.is_dir()]


def networks(family):
    """Each network of a family, with the box of its first question."""
    with open(FOLDER / family / "instances.csv", newline="") as file:
        rows = [row for row in csv.reader(file) if len(row) > 1 and ".onnx" in row[0]]
    first = {row[0]: row[1] for row in reversed(rows)}
    for network, question in sorted(first.items()):
        yield _file(family, network), _box(_file(family, question))


def _file(family, name):
    path = FOLDER / family / name.removeprefix("./")
    return path if path.exists() else path.with_name(f"{path.name}.gz")


def _box(path):
    """The least and largest number that a question has for each input."""
    text = gzip.open(path, "rt").read() if path.suffix == ".gz" else path.read_text()
    found = {}
    for index, number in re.findall(r"[<>]=\s+X_(\d+)\s+([-+.\deE]+)", text):
        found.setdefault(int(index), []).append(float(number))
    ends = [(min(found[i]), max(found[i])) for i in range(len(found))]
    return np.array(ends).T


def _deviation(path, box, batches):
    """The largest deviation from onnxruntime at random points of a box, by the largest score."""
    runtime = pytest.importorskip("onnxruntime", reason="the package onnxruntime is not installed")
    options = runtime.SessionOptions()
    options.log_severity_level = 4
    f = read_onnx(path)
    flat = np.random.default_rng(0).uniform(*box, (3, box.shape[1]))
    points = flat.astype(np.float32).reshape(3, *f.input_shape)
    session = runtime.InferenceSession(gzip.decompress(path.read_bytes()), options)
    own = (1, *f.input_shape) if f.program.batched else f.input_shape
    expected = [session.run(None, {f.input_name: x.reshape(own)})[0].ravel() for x in points]
    found = [np.concatenate([f(points[i : i + n]) for i in range(0, 3, n)]) for n in batches]
    return np.abs(np.array(found) - expected).max() / np.abs(expected).max()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_network_computes_what_onnxruntime_does(family):
    """The first of every family."""
    path, box = next(networks(family))
    assert _deviation(path, box, batches=(1,)) < 1e-5
    f = read_onnx(path)
    problems = jmlv.check(f, np.zeros(f.input_shape, np.float32))
    assert not problems


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_every_network_computes_what_onnxruntime_does(family):
    """All of them, alone and as a batch."""
    for path, box in networks(family):
        assert _deviation(path, box, batches=(1, 3)) < 1e-5
