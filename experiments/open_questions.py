"""Competition questions that CROWN and a light attack leave open: who decides how many of them, in what time.

    python experiments/open_questions.py ../shared/data/vnncomp --families mnistfc oval21 --each 4
    python experiments/open_questions.py FOLDER --oracles cascade "milp last" branching unclipped

Of every family so many open questions are taken, spread over its list. For each network and oracle one
question is asked beforehand without being counted, so that seconds are without most of the compilation.
Answers are lines of JSON in the output folder; an interrupted run goes on. An answer that contradicts
another one, or a known one, is named at the end.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import vnncomp

import jmlv
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


def main() -> None:
    jmlv.keep_compiled()
    options = parse()
    options.out.mkdir(parents=True, exist_ok=True)
    rows = [row for family in options.families for row in answered(family, options)]
    print(table(HEADER, summary(rows, options)))
    for row in rows:
        for name in options.oracles:
            says = SAYS[row[name]["status"]]
            if says and row["known"] and says != row["known"]:
                print("contradiction:", name, row)


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
    path = options.out / f"{family}.json"
    stored = json.loads(path.read_text()) if path.exists() else {}
    warm: set[tuple[str, str]] = set()
    for instance in open_instances(family, options, stored):
        row = stored[instance.key]
        query = None
        for name in options.oracles:
            if name not in row:
                query = query or query_of(instance)
                if (str(instance.network), name) not in warm:
                    warm.add((str(instance.network), name))
                    ask(another(query), ORACLES[name], Deadline(min(WARM_UP, options.budget / 2)))
                row[name] = answer(query, ORACLES[name], options.budget)
                path.write_text(json.dumps(stored, indent=1))
                print(instance.key, name, row[name], flush=True)
        yield row


def open_instances(
    family: str, options: argparse.Namespace, stored: dict[str, Any]
) -> list[vnncomp.Instance]:
    """So many questions of a family that the early stages leave open."""
    path = options.out / f"{family}.json"
    instances = vnncomp.read_folder(options.folder / family)
    step = max(1, len(instances) // (2 * options.each))
    order = [instances[i] for start in range(step) for i in range(start, len(instances), step)]
    found: list[vnncomp.Instance] = []
    for instance in order:
        if len(found) == options.each:
            break
        if instance.key not in stored:
            early = ask(query_of(instance), EARLY, Deadline(options.budget))
            start = {"family": family, "known": instance.known, "early": early.status.name}
            stored[instance.key] = start
            path.write_text(json.dumps(stored, indent=1))
        if stored[instance.key]["early"] == "UNKNOWN":
            found.append(instance)
    return sorted(found, key=lambda i: str(i.network))


def query_of(instance: vnncomp.Instance) -> Query:
    """The first box of a question."""
    asked = parse_vnnlib(instance.question)
    network = read_onnx(instance.network)
    flat, property = asked.specifications[0]
    region = jmlv.Box(*(end.reshape(network.input_shape) for end in (flat.lower, flat.upper)))
    return Query.of(network, region, property)


def another(query: Query) -> Query:
    """The same about a box a little smaller, so that nothing but programs is kept from it."""
    inward = np.float32(0.01) * (query.upper - query.lower)
    return query.over(jmlv.Box(query.lower + inward, query.upper - inward))


def answer(query: Query, oracle: Oracle, budget: float) -> dict[str, Any]:
    verdict = ask(query, oracle, Deadline(budget))
    return {
        "status": verdict.status.name,
        "seconds": round(verdict.stats["seconds"], 2),
        "lower": float(verdict.lower),
        "upper": float(verdict.upper),
        "method": verdict.method,
        "subdomains": verdict.stats.get("subdomains"),
    }


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
    main()
