"""Public competition questions: answered, checked, and set beside the tools that answered them then.

    python experiments/vnncomp.py ../shared/data/vnncomp                      # every benchmark
    python experiments/vnncomp.py ../shared/data/vnncomp/acasxu --cap 30 --share 1/4
    python experiments/vnncomp.py ../shared/data/vnncomp --separate           # a process a question

A benchmark is a folder with an ``instances.csv``: network, question and seconds, and where they are
known the answer (``holds`` or ``violated``) and the seconds of the fastest tool. Every answer is a
row of a campaign in the output folder, so that an interrupted run goes on where it stopped.

A process answers the questions about one network, so that they share what is compiled; it is ended
from outside when a question takes longer than its time and a grace, which counts as 'unknown'. With
``--separate`` each question has a process of its own, as in the competition. Seconds are of one
question with its reading, tracing and compiling, not of the process's start. Every counterexample
is run by onnxruntime: its outputs must be ours within 1e-3 of them or 1e-4, and the file's own
inequalities must hold exactly for the inputs and for onnxruntime's outputs within 1e-4.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import itertools
import multiprocessing
import statistics
import time
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from asking import add_executor_arguments, ask

from jmlv.campaigns import CallQuestion
from jmlv.cli.report import table
from jmlv.cli.solve import Answer, solve_files
from jmlv.compilation import keep_compiled
from jmlv.interop.vnnlib import Asked
from jmlv.oracles import Deadline

MEANING = {"holds": "unsat", "violated": "sat", "": None}
GRACE = 10.0
"""Seconds after which a process is ended that overruns its question's time; each is reported."""

CONTEXT = multiprocessing.get_context("spawn")

RELATIVE, ABSOLUTE = 1e-3, 1e-4
"""How far onnxruntime's outputs may be from ours, as the competition's scorer has it."""


class Instance(NamedTuple):
    """One question of a benchmark.

    Attributes:
        seconds: its own limit.
        known: ``"sat"``, ``"unsat"`` or None.
        fastest: seconds of the fastest tool that answered, or None.
    """

    benchmark: str
    network: Path
    question: Path
    seconds: float
    known: str | None
    fastest: float | None

    @property
    def key(self) -> str:
        return f"{self.benchmark}/{self.network.name}/{self.question.name}"


def main() -> None:
    options = parse()
    instances = shared(read_folder(options.folder), options.share)[: options.limit]
    questions = [question(i, options.cap, options.separate) for i in instances]
    rows = ask(questions, options, "questions")
    WORKER.end()
    print(table(HEADER, [summary(name, list(group)) for name, group in by_benchmark(rows)]))
    for row in rows:
        if row["wrong"] or row["witness"] not in (None, "replayed") or row["error"]:
            print(row)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="one benchmark, or a folder of them")
    parser.add_argument("--share", default="1/1", metavar="I/N", help="every N-th question")
    parser.add_argument("--limit", type=int, help="no more questions than this")
    parser.add_argument("--cap", type=float, default=np.inf, help="seconds a question at most")
    parser.add_argument("--separate", action="store_true", help="a process for each question")
    add_executor_arguments(parser)
    parser.add_argument("--out", type=Path, default=Path("results/vnncomp"))
    return parser.parse_args()


def read_folder(folder: Path) -> list[Instance]:
    """The instances of one benchmark, or of all in a folder."""
    benchmarks = [folder] if (folder / "instances.csv").is_file() else sorted(folder.iterdir())
    found = [i for b in benchmarks if (b / "instances.csv").is_file() for i in _instances(b)]
    if not found:
        raise SystemExit(f"folder: there is no instances.csv in {folder} or below it.")
    return found


def _instances(benchmark: Path) -> Iterator[Instance]:
    with (benchmark / "instances.csv").open(newline="") as file:
        for network, question, seconds, *more in csv.reader(file):
            if network == "onnx":
                continue
            known, fastest = (*more, "", "")[:2]
            yield Instance(
                benchmark.name,
                benchmark / network,
                benchmark / question,
                float(seconds),
                MEANING[known],
                float(fastest) if fastest else None,
            )


def shared(instances: Sequence[Instance], share: str) -> list[Instance]:
    """Every N-th instance, from the I-th on; networks stay together."""
    number, count = map(int, share.split("/"))
    if not 1 <= number <= count:
        raise SystemExit(f"share: expected I/N with 1 <= I <= N, got {share}.")
    return sorted(instances[number - 1 :: count], key=lambda i: (i.benchmark, str(i.network)))


def question(instance: Instance, cap: float, separate: bool) -> CallQuestion:
    """An instance as a campaign's question; another cap makes another one."""
    arguments = {name: _plain(value) for name, value in instance._asdict().items()}
    arguments |= {"limit": min(cap, instance.seconds), "separate": separate}
    return CallQuestion("vnncomp:ask_worker", arguments)


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value


def ask_worker(limit: float, separate: bool, **instance: Any) -> dict[str, Any]:
    """The row of one instance, asked in a process that can be ended."""
    places = {name: Path(instance[name]) for name in ("network", "question")}
    return WORKER.ask(Instance(**instance | places), limit, separate)


class Worker:
    """The process that answers; a new one for each network, and after each that was ended."""

    def __init__(self) -> None:
        self.network: Path | None = None
        self.process: multiprocessing.Process | None = None
        self.pipe: Connection | None = None

    def ask(self, instance: Instance, seconds: float, separate: bool) -> dict[str, Any]:
        if separate or self.network != instance.network:
            self._start(instance.network)
        start = time.monotonic()
        self.pipe.send((instance, seconds))
        try:
            if self.pipe.poll(seconds + GRACE):
                return self.pipe.recv()
            error = f"ended after {time.monotonic() - start:.0f} s"
        except EOFError:
            error = "the process died"
        self.end()
        return row_of(instance, seconds, Answer("unknown", ()), time.monotonic() - start, error)

    def end(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.join()
        self.network = self.process = None

    def _start(self, network: Path) -> None:
        self.end()
        self.pipe, other = CONTEXT.Pipe()
        ends_with_us = {"daemon": True}
        self.process = CONTEXT.Process(target=_serve, args=(other,), **ends_with_us)
        self.process.start()
        other.close()
        self.network = network
        if not self.pipe.poll(300):
            raise SystemExit("a process does not start")
        self.pipe.recv()


WORKER = Worker()


def _serve(pipe: Connection) -> None:
    keep_compiled()
    pipe.send("ready")
    while True:
        try:
            instance, seconds = pipe.recv()
        except EOFError:
            return
        pipe.send(answer(instance, seconds))


def answer(instance: Instance, seconds: float) -> dict[str, Any]:
    """The row of one instance, asked in this process."""
    deadline = Deadline(seconds)
    try:
        found, network, asked = solve_files(instance.network, instance.question, deadline)
        taken = deadline.elapsed
        witness = replayed(instance.network, network.input_name, asked, found)
        return row_of(instance, seconds, found, taken, "", witness)
    except Exception as error:  # a row too: what is wrong with one question is not with others
        return row_of(
            instance,
            seconds,
            Answer("unknown", ()),
            deadline.elapsed,
            f"{type(error).__name__}: {error}",
        )


def row_of(
    instance: Instance,
    limit: float,
    found: Answer,
    seconds: float,
    error: str = "",
    witness: str | None = None,
) -> dict[str, Any]:
    return {
        "instance": instance.key,
        "benchmark": instance.benchmark,
        "answer": found.result,
        "known": instance.known,
        "wrong": found.result != "unknown" and instance.known not in (None, found.result),
        "seconds": round(seconds, 3),
        "limit": limit,
        "fastest": instance.fastest,
        "method": found.method if found.result != "unknown" else "",
        "witness": witness,
        "reason": found.reason,
        "error": error,
    }


def replayed(path: Path, name: str, asked: Asked, found: Answer) -> str | None:
    """``"replayed"`` if onnxruntime confirms a counterexample, else what is wrong with it."""
    if found.result != "sat":
        return None
    import onnxruntime

    content = path.read_bytes()
    model = gzip.decompress(content) if path.suffix == ".gz" else content
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3  # warns of initializers that are inputs
    session = onnxruntime.InferenceSession(model, settings, providers=["CPUExecutionProvider"])
    source = session.get_inputs()[0]
    shape = [n if isinstance(n, int) else 1 for n in source.shape]
    point = found.inputs.astype(np.float64 if "double" in source.type else np.float32)
    outputs = session.run(None, {name: point.reshape(shape)})[0].ravel()
    far = np.abs(outputs - found.outputs) - ABSOLUTE > RELATIVE * np.abs(found.outputs)
    if far.any():
        return f"onnxruntime has {outputs}, we {found.outputs}"
    if not asked.satisfied(found.inputs, found.outputs):
        return "outside of what the file asserts"
    return "replayed"


HEADER = (
    "benchmark", "questions", "sat", "unsat", "unknown", "%", "known", "agree", "wrong",
    "witnesses", "replayed", "median s", "over limit", "tools answered", "tools' median s",
)  # fmt: skip


def by_benchmark(rows: Sequence[dict[str, Any]]) -> Iterator[tuple[str, Iterator]]:
    name = lambda row: row["benchmark"]  # noqa: E731
    return itertools.groupby(sorted(rows, key=name), name)


def summary(name: str, rows: Sequence[dict[str, Any]]) -> tuple:
    """One line of the table: what was answered, beside the fastest tool for each question."""
    counts = [sum(row["answer"] == a for row in rows) for a in ("sat", "unsat", "unknown")]
    answered = [row for row in rows if row["answer"] != "unknown"]
    known = [row for row in rows if row["known"]]
    fastest = [row["fastest"] for row in rows if row["fastest"] is not None]
    return (
        name,
        len(rows),
        *counts,
        round(100 * len(answered) / len(rows)),
        len(known),
        sum(row["answer"] == row["known"] for row in known),
        sum(row["wrong"] for row in rows),
        counts[0],
        sum(row["witness"] == "replayed" for row in rows),
        _median([row["seconds"] for row in answered]),
        sum(row["seconds"] > 1.1 * row["limit"] + 1 for row in rows),
        len(fastest),
        _median(fastest),
    )


def _median(values: Sequence[float]) -> float:
    return statistics.median(values) if values else float("nan")


if __name__ == "__main__":
    main()
