"""Every label of the published images settled: always, never or both in the top k.

    python experiments/label_sets.py                                  # all radii, k = 2 and 3
    python experiments/label_sets.py --networks x2 --radii 0.01 --budget 60

Every settled image is a row of ``answers`` in the output folder, so an interrupted run goes on where it
stopped. At the end: a table of labels by status
and by deciding stage with the seconds an image, beside the published figures, and a figure.

Compilation, once for a network and k, is not in the seconds where this process answers: image 0 is
settled beforehand, at every radius, without the oracle and then with a moment of it. Shapes that only later images need are
compiled when they come (medians leave them out, means don't).

Published (Mour and Drachsler-Cohen, SAS 2024): 23.22 minutes an image with 128 solver threads;
96.84 % of the labels are settled before the exact solver.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import NamedTuple

import numpy as np
import published
from asking import add_executor_arguments, ask
from growing import published_network
from recorded import add_record_argument, keep_table

import jmlv
from jmlv.campaigns import LabelsQuestion
from jmlv.cli.report import table, write_json
from jmlv.labels import LabelStatus, Plan
from jmlv.oracles import MILP, PGD, BranchAndBound, Cascade
from jmlv.oracles.cascade import AT_THE_ROOT

PUBLISHED_SECONDS = 23.22 * 60
PUBLISHED_BEFORE_SOLVER = 96.84
RADII = (0.0001, 0.001, 0.01, 0.1, 0.2)
ATTACK = PGD(restarts=32, steps=100, step=1.0, seed=2)
DEFAULT = Plan().oracle
ORACLES = {
    "default": DEFAULT,
    "no descents": Cascade(tuple(s for s in DEFAULT.stages if s != AT_THE_ROOT)),
    "none": None,
    "milp": Cascade((ATTACK, MILP())),
    "branching": Cascade((ATTACK, BranchAndBound())),
    "both": Cascade((ATTACK, BranchAndBound(time_limit=10.0), MILP())),
}
WARM_UP = 45.0
"""Seconds of the oracle on image 0 at each radius: branch and bound compiles for half of them."""

EARLY = ("centre", "PGD", "CROWN", "closure")
"""Stages before the oracle. (A closure that an oracle's answer starts counts here too.)"""


class Case(NamedTuple):
    network: str
    k: int
    radius: float
    records: list[dict]


def main() -> None:
    options = parse()
    jmlv.keep_compiled()
    cases = list(settle_all(options))
    report(cases, options)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    published.add_networks_argument(parser)
    parser.add_argument("--radii", nargs="+", type=float, default=list(RADII))
    parser.add_argument("--k", nargs="+", type=int, default=[2, 3])
    parser.add_argument("--images", type=int, default=10)
    parser.add_argument("--oracle", choices=ORACLES, default="default")
    parser.add_argument("--budget", type=float, default=60.0, help="seconds an image")
    add_executor_arguments(parser)
    parser.add_argument("--out", type=Path, default=Path("results/label_sets"))
    add_record_argument(parser)
    return parser.parse_args()


def settle_all(options: argparse.Namespace):
    images = published.images().images[: options.images]
    plan = Plan(oracle=ORACLES[options.oracle])
    for network in map(published_network, options.networks):
        for k in options.k:
            boxes = {r: [jmlv.Box.around(x, np.float32(r)) for x in images] for r in options.radii}
            if options.workers is None and options.ray is None:
                warm_up(network.load(), [b[0] for b in boxes.values()], k, plan)
            for radius in options.radii:
                questions = [
                    LabelsQuestion(network, box, k, plan, budget=options.budget)
                    for box in boxes[radius]
                ]
                records = ask(questions, options, f"{network.name}, k = {k}, radius {radius:g}")
                yield Case(network.name, k, radius, records)


def warm_up(f: jmlv.Classifier, boxes: list[jmlv.Box], k: int, plan: Plan) -> None:
    """Compiles: every box without the oracle, and then with a moment of it."""
    early = dataclasses.replace(plan, oracle=None)
    jmlv.classify_labels_batch(f, boxes, k, plan=early)
    if plan.oracle is not None:
        jmlv.classify_labels_batch(f, boxes, k, plan=plan, budget=WARM_UP)


HEADER = (
    "network", "k", "radius", "images", "always", "never", "both", "unknown", "settled %",
    "before oracle %", "by attack %", "by CROWN %", "median s", "mean s", "max s",
)  # fmt: skip


def row(case: Case) -> tuple:
    stages = [stage for record in case.records for stage in record["stages"]]
    seconds = [record["seconds"] for record in case.records]

    def share(*names: str) -> float:
        return 100 * sum(stage in names for stage in stages) / len(stages)

    counts = [sum(record[status.value] for record in case.records) for status in LabelStatus]
    return (
        case.network, case.k, case.radius, len(case.records), *counts,
        100 - share("open"), share(*EARLY), share("centre", "PGD"), share("CROWN"),
        float(np.median(seconds)), float(np.mean(seconds)), max(seconds),
    )  # fmt: skip


def report(cases: list[Case], options: argparse.Namespace) -> None:
    rows = [row(case) for case in cases]
    cells = [(r[0], r[1], f"{r[2]:g}", *r[3:]) for r in rows]
    text = table(HEADER, cells) + (
        f"\n\npublished: {PUBLISHED_SECONDS:.0f} s an image (128 solver threads), "
        f"{PUBLISHED_BEFORE_SOLVER} % of the labels before the exact solver"
        f"\nhere: oracle {options.oracle}, budget {options.budget:g} s an image"
    )
    options.out.mkdir(parents=True, exist_ok=True)
    keep_table(
        options,
        HEADER,
        cells,
        ["experiments/label_sets.py", "jmlv/labels", "jmlv/oracles", "jmlv/bounds"],
    )
    (options.out / "table.txt").write_text(text + "\n")
    write_json(options.out / "summary.json", [dict(zip(HEADER, values)) for values in rows])
    figure(rows, options.out / "label_sets.png")
    print(text)


COLOURS = {"always": "#2a6f97", "never": "#a9d6e5", "both": "#f4a259", "unknown": "#bbbbbb"}


def figure(rows: list[tuple], path: Path) -> None:
    """One panel a network and k: labels by status at each radius, and the median seconds above."""
    from matplotlib.figure import Figure

    panels = list(dict.fromkeys((r[0], r[1]) for r in rows))
    drawn = Figure(figsize=(3.2 * len(panels), 3.4), layout="constrained")
    for axes, (name, k) in zip(np.atleast_1d(drawn.subplots(1, len(panels), sharey=True)), panels):
        chosen = [r for r in rows if r[:2] == (name, k)]
        place, bottom = np.arange(len(chosen)), np.zeros(len(chosen))
        for column, status in enumerate(COLOURS, start=4):
            height = [100 * r[column] / sum(r[4:8]) for r in chosen]
            axes.bar(place, height, 0.8, bottom, color=COLOURS[status], label=status)
            bottom += height
        for x, values in zip(place, chosen):
            axes.text(x, 101, f"{values[12]:.2g} s", ha="center", fontsize=8)
        axes.set_xticks(place, [f"{r[2]:g}" for r in chosen])
        axes.set(title=f"{name}, k = {k}", xlabel="radius", ylim=(0, 108))
    drawn.axes[0].set_ylabel("labels, %")
    drawn.axes[-1].legend(loc="lower right", fontsize=8)
    drawn.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
