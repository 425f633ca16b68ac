"""Answer a competition question: an ONNX network, and a VNN-LIB file that says what must not happen."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from jmlv.bounds import AlphaCROWN
from jmlv.errors import NeedsFloat64
from jmlv.graph import Graph
from jmlv.graph.faithful import require_same_function
from jmlv.interop import read_onnx
from jmlv.interop.onnx_reader import OnnxNetwork
from jmlv.interop.vnnlib import Asked, parse_vnnlib
from jmlv.oracles import (
    PGD,
    Bounds,
    Cascade,
    Deadline,
    InputSplitting,
    Oracle,
    Query,
    ask,
)
from jmlv.oracles.aside import run_until
from jmlv.oracles.cascade import AT_THE_ROOT, BY_PARTS
from jmlv.oracles.deadline import TimeUp
from jmlv.oracles.portfolio import AT_THE_END
from jmlv.properties import Property
from jmlv.regions import Box
from jmlv.verdict import Status, Verdict

FEW = 10
"""Moving inputs up to which a box is split along them before anything else that takes seconds."""

TABLE = Cascade((PGD(), InputSplitting(), Bounds(AlphaCROWN()), BY_PARTS, AT_THE_ROOT, AT_THE_END))
"""The default cascade, with input splitting as early as that; its first box is what CROWN bounds."""

Report = Callable[[str], None]
"""Told of progress, a line at a time."""


@dataclasses.dataclass(frozen=True, eq=False)
class Answer:
    """What is known of a question.

    Attributes:
        result: ``"sat"`` with a counterexample, ``"unsat"`` where every box is proven to have none,
            else ``"unknown"``.
        verdicts: of each box of the file, in its order, until one decided.
        inputs, outputs: the counterexample, flat, and the deployed network's outputs there.
        reason: one sentence.
    """

    result: Literal["sat", "unsat", "unknown"]
    verdicts: tuple[Verdict, ...]
    inputs: np.ndarray | None = None
    outputs: np.ndarray | None = None
    reason: str = ""

    @property
    def method(self) -> str:
        """The oracle that decided last."""
        return self.verdicts[-1].method if self.verdicts else ""

    def text(self) -> str:
        """The answer as the competition writes it."""
        if self.result != "sat":
            return f"{self.result}\n"
        named = (("X", self.inputs), ("Y", self.outputs))
        lines = [f"({kind}_{i} {float(v)!r})" for kind, side in named for i, v in enumerate(side)]
        return "sat\n(" + "\n ".join(lines) + ")\n"


def solve_files(
    network: Path, question: Path, deadline: Deadline, report: Report = lambda line: None
) -> tuple[Answer, OnnxNetwork, Asked]:
    """Reads both files and asks; a network of float64 is read and asked in float64.

    Raises:
        DamagedFile, FileNotFoundError, ValueError, UnsupportedOperation: as the readers, and
            :func:`solve`, raise them.
    """
    asked = parse_vnnlib(question)
    try:
        f, precision = read_onnx(network), contextlib.nullcontext()
    except NeedsFloat64:
        precision = jax.enable_x64(True)
        with jax.enable_x64(True):
            f = read_onnx(network)
    report(f"{f!r}; {asked.inputs} inputs, {len(asked.specifications)} boxes")
    with precision:
        return solve(f, asked, oracle_for(asked), deadline, report), f, asked


def solve(
    network: OnnxNetwork,
    asked: Asked,
    oracle: Oracle,
    deadline: Deadline,
    report: Report = lambda line: None,
    graph: Graph | None = None,
) -> Answer:
    """Asks about the boxes of a file one after the other; they share one trace.

    A counterexample is checked once more, against the file's own inequalities in rational
    arithmetic, with the outputs of the deployed network.

    Args:
        oracle: decides each box. Each has an equal share of what is left of the time.
        graph: of the network, where it has been traced already.

    Raises:
        ValueError: the file does not fit the network.
        UnsupportedOperation: the network has operations without a sound rule.
    """
    _require_fits(network, asked)
    verdicts: list[Verdict] = []
    for number, (flat, property) in enumerate(asked.specifications):
        if deadline.passed:
            return Answer("unknown", tuple(verdicts), reason="the time is up")
        region = Box(*(end.reshape(network.input_shape) for end in (flat.lower, flat.upper)))
        try:
            query = run_until(deadline, partial(_query, network, region, property, graph))
        except TimeUp as late:
            return Answer("unknown", tuple(verdicts), reason=f"reading the network: {late}")
        graph = query.network
        left = len(asked.specifications) - number
        verdict = ask(query, oracle, deadline.within(max(1e-3, deadline.remaining / left)))
        verdicts.append(verdict)
        report(f"box {number + 1} of {len(asked.specifications)}: {verdict}")
        if verdict.status is Status.NOT_ROBUST:
            return _counterexample(query, asked, number, tuple(verdicts))
    proven = all(verdict.robust for verdict in verdicts)
    reasons = "; ".join(verdict.reason for verdict in verdicts if not verdict.robust)
    return Answer("unsat" if proven else "unknown", tuple(verdicts), reason=reasons)


def oracle_for(asked: Asked) -> Oracle:
    """The default cascade, in the order that suits the file's boxes."""
    moving = max(int(np.sum(box.lower < box.upper)) for box, _ in asked.specifications)
    return TABLE if moving <= FEW else Cascade()


def _query(
    network: OnnxNetwork, region: Box, property: Property, graph: Graph | None, _: Deadline
) -> Query:
    """The question about one box; its graph is compared with the network there, known or not."""
    query = Query.of(network, region, property, graph)
    if graph is not None:
        require_same_function(network, graph, (query.lower, query.upper))
    return query


def _counterexample(
    query: Query, asked: Asked, number: int, verdicts: tuple[Verdict, ...]
) -> Answer:
    flat = np.ravel(verdicts[-1].witness).astype(np.float64)
    witness = asked.written[number].clip(flat).reshape(query.lower.shape)
    with jax.enable_x64(query.wide), jax.default_matmul_precision("highest"):
        outputs = np.asarray(query.f(jnp.asarray(witness, query.dtype)[None])[0])
    if asked.satisfied(witness, outputs):
        return Answer("sat", verdicts, np.ravel(witness), outputs, verdicts[-1].reason)
    reason = "the witness breaks the property by less than the file's decimals can say"
    return Answer("unknown", verdicts, reason=reason)


def _require_fits(network: OnnxNetwork, asked: Asked) -> None:
    size = int(np.prod(network.input_shape))
    if (size, network.label_count) != (asked.inputs, asked.outputs):
        raise ValueError(
            f"question: it declares {asked.inputs} inputs and {asked.outputs} outputs, the network "
            f"has {size} ({network.input_shape}) and {network.label_count}."
        )


def add_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("network", type=Path, help="ONNX file, .onnx or .onnx.gz")
    command.add_argument("question", type=Path, help="VNN-LIB file, .vnnlib or .vnnlib.gz")
    command.add_argument("--budget", type=float, default=300.0, help="seconds")
    command.add_argument("--out", type=Path, help="file for the answer, beside standard output")


def run(arguments: argparse.Namespace) -> None:
    deadline = Deadline(arguments.budget)
    answer = solve_files(arguments.network, arguments.question, deadline, _say)[0]
    _say(f"{answer.result} in {deadline.elapsed:.1f} s {answer.reason}")
    print(answer.text(), end="")
    if arguments.out is not None:
        arguments.out.write_text(answer.text())


def _say(line: str) -> None:
    print(line, file=sys.stderr)
