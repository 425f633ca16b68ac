"""Competition questions that CROWN and a light attack leave open: who decides how many of them, in what time.

    python experiments/open_questions.py ../shared/data/vnncomp --families mnistfc oval21 --each 4
    python experiments/open_questions.py FOLDER --oracles cascade "milp last" branching unclipped

Of every family so many open questions are taken, spread over its list; those about several boxes are left
out. For each network and oracle one question is asked beforehand without being counted, so that seconds are
without most of the compilation. Answers are in ``answers`` in the output folder, by the content of the files,
the oracle with all its settings, the budget and jmlv's release; an interrupted run goes on. Answers that
contradict one another, or a known one, are named at the end, and the run ends with 1.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import vnncomp
from asking import ask as asked_of

import jmlv
from jmlv.campaigns import CallQuestion
from jmlv.cli.report import table
from jmlv.interop import read_onnx
from jmlv.interop.vnnlib import parse_vnnlib
from jmlv.oracles import (
    MILP,
    PGD,
    Bounds,
    BranchAndBound,
    Cascade,
    Deadline,
    Oracle,
    Query,
    ask,
)

EARLY = Cascade((Bounds(), PGD(restarts=8, steps=20)))
ORACLES: dict[str, Oracle] = {
    "cascade": Cascade(),
    "milp last": Cascade((*Cascade().stages[:-1], MILP())),
    "branching": BranchAndBound(hurried=True),
    "unclipped": BranchAndBound(hurried=True, clipped=0),
}
FAMILIES = ("mnistfc", "oval21", "cifar10_resnet", "sri_resnet_a")
SAYS = {"ROBUST": "unsat", "NOT_ROBUST": "sat", "UNKNOWN": None}
WARM_UP = 20.0
"""Seconds for the question that is not counted, beside the budget's half at most."""


def main() -> int:
    jmlv.keep_compiled()
    options = parse()
    options.out.mkdir(parents=True, exist_ok=True)
    rows = [row for family in options.families for row in answered(family, options)]
    print(table(HEADER, summary(rows, options)))
    found = [text for row in rows for text in contradictions(row, options.oracles)]
    print("\n".join(found))
    return 1 if found else 0


def contradictions(row: dict[str, Any], oracles: list[str]) -> Iterator[str]:
    """Pairs of answers to one question of which at most one is right, the known one among them."""
    says = {name: SAYS[row[name]["status"]] for name in oracles} | {"known": row["known"]}
    for (one, first), (two, second) in itertools.combinations(says.items(), 2):
        if first and second and first != second:
            yield f"contradiction: {one} says {first}, {two} says {second}: {row}"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--families", nargs="+", default=list(FAMILIES))
    parser.add_argument("--each", type=int, default=4, help="open questions of a family")
    parser.add_argument("--oracles", nargs="+", choices=ORACLES, default=["cascade"])
    parser.add_argument("--budget", type=float, default=60.0, help="seconds a question")
    parser.add_argument("--out", type=Path, default=Path("results/open_questions"))
    return parser.parse_args()


def answered(family: str, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The family's open questions with every oracle's answer, as far as they are not stored."""
    for instance in open_instances(family, options):
        about = {"family": family, "question": instance.key, "known": instance.known}
        questions = [question(instance, options, ORACLES[name]) for name in options.oracles]
        yield about | dict(zip(options.oracles, asked_of(questions, options, instance.key)))


def open_instances(family: str, options: argparse.Namespace) -> list[vnncomp.Instance]:
    """So many questions of a family, about one box each, that the early stages leave open."""
    instances = vnncomp.read_folder(options.folder / family)
    step = max(1, len(instances) // (2 * options.each))
    order = [instances[i] for start in range(step) for i in range(start, len(instances), step)]
    found: list[vnncomp.Instance] = []
    for instance in order:
        if len(found) == options.each:
            break
        if len(parse_vnnlib(instance.question).specifications) != 1:
            continue
        (early,) = asked_of([question(instance, options, EARLY)], options, f"early {instance.key}")
        if early["status"] == "UNKNOWN":
            found.append(instance)
    return sorted(found, key=lambda i: str(i.network))


def question(
    instance: vnncomp.Instance, options: argparse.Namespace, oracle: Oracle
) -> CallQuestion:
    """A question by all that its answer depends on."""
    files = {"network": instance.network, "question": instance.question}
    content = {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()}
    paths = {name: str(path) for name, path in files.items()}
    return CallQuestion(
        "open_questions:answer",
        {**paths, "content": content, "oracle": oracle, "budget": options.budget},
    )


_warm: set[tuple[str, Oracle]] = set()
"""Networks and oracles of this process that have been asked something."""


def query_of(network: str, question: str) -> Query:
    """A question about one box."""
    f = read_onnx(network)
    ((flat, property),) = parse_vnnlib(question).specifications
    region = jmlv.Box(*(end.reshape(f.input_shape) for end in (flat.lower, flat.upper)))
    return Query.of(f, region, property)


def another(query: Query) -> Query:
    """The same about a box a little smaller, so that nothing but programs is kept from it."""
    inward = np.float32(0.01) * (query.upper - query.lower)
    return query.over(jmlv.Box(query.lower + inward, query.upper - inward))


def answer(
    network: str, question: str, content: Any, oracle: Oracle, budget: float
) -> dict[str, Any]:
    """An oracle's verdict; ``content`` is for the question's key alone."""
    query = query_of(network, question)
    if (network, oracle) not in _warm and oracle != EARLY:
        _warm.add((network, oracle))
        ask(another(query), oracle, Deadline(min(WARM_UP, budget / 2)))
    verdict = ask(query, oracle, Deadline(budget))
    return {
        "status": verdict.status.name,
        "seconds": round(verdict.stats["seconds"], 2),
        "lower": real(verdict.lower),
        "upper": real(verdict.upper),
        "method": verdict.method,
        "subdomains": verdict.stats.get("subdomains"),
    }


def real(value: float) -> float | None:
    """A number, or None where there is none: the store holds no infinities."""
    return float(value) if np.isfinite(value) else None


HEADER = ("family", "oracle", "open", "decided", "robust", "broken", "mean s", "median subdomains")


def summary(rows: list[dict[str, Any]], options: argparse.Namespace) -> Iterator[tuple]:
    for family in options.families:
        for name in options.oracles:
            found = [row[name] for row in rows if row["family"] == family]
            robust, broken = (
                sum(f["status"] == s for f in found) for s in ("ROBUST", "NOT_ROBUST")
            )
            seconds = float(np.mean([f["seconds"] for f in found])) if found else float("nan")
            counts = [f["subdomains"] for f in found if f["subdomains"] is not None]
            middle = float(np.median(counts)) if counts else float("nan")
            yield family, name, len(found), robust + broken, robust, broken, seconds, middle


if __name__ == "__main__":
    sys.exit(main())
