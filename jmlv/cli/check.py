"""Say of a network what it takes and gives, and which of its operations have no sound rule."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from jmlv.cli.inputs import restored
from jmlv.graph import check, trace
from jmlv.interop import read_onnx


def add_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("network", type=Path, help="ONNX file, or folder of a checkpoint")
    command.add_argument("--module", metavar="PACKAGE.MODULE:CLASS",
                         help="the code of a checkpoint of one's own")  # fmt: skip


def run(arguments: argparse.Namespace) -> int:
    """Exit status 0 if every operation is supported, else 1."""
    f, shape = _network(arguments.network, arguments.module)
    problems = check(f, np.zeros(shape, np.float32))
    print(f"{arguments.network}: takes {shape}")
    if problems:
        print(f"{len(problems)} operations have no sound rule:")
        print("\n".join(f"  {problem}" for problem in problems))
        return 1
    graph = trace(f, shape)
    print(f"{graph.label_count} scores, {len(graph.eqns)} operations, {graph.dtype}: all supported")
    return 0


def _network(path: Path, module: str | None) -> tuple:
    if path.is_dir():
        model, metadata = restored(path, module)
        return model, metadata.input_shape
    f = read_onnx(path)
    return f, f.input_shape
