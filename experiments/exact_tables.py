"""Exact verdicts on MULAN's tables: does every label of a row keep its side of the threshold?

    python experiments/exact_tables.py ../shared/data/mulan
    python experiments/exact_tables.py FOLDER --tables yeast --radii 0.02 --rows 100

A perceptron with one hidden layer of ReLUs is trained on each table. A row's labels that it predicts
must stay predicted (``AboveThreshold``), all others not predicted (``BelowThreshold``), for every
row within the l-infinity radius; features are scaled to [0, 1] by the training rows. CROWN in
float64, then PGD, then a mixed-integer program decide each label.

Every row is a row of ``answers`` in the output folder; an interrupted run goes on.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from functools import cache
from pathlib import Path

import numpy as np
from asking import add_executor_arguments, ask
from recorded import add_record_argument, keep_table

import jmlv
from jmlv import checkpoints
from jmlv.campaigns import CallQuestion
from jmlv.cli.report import table
from jmlv.data import mulan
from jmlv.models import MLPConfig
from jmlv.oracles import MILP, PGD, Bounds, Cascade
from jmlv.training import TrainingConfig, classification_metrics, predict, train

TRAINING = TrainingConfig(epochs=60, batch_size=32, learning_rate=3e-3, weight_decay=1e-3)
ORACLE = Cascade((Bounds(), PGD(), MILP()))


def main() -> None:
    jmlv.keep_compiled()
    options = parse()
    for name in options.tables:  # trained here, before several processes look for it
        subject(options.folder, name, options.hidden, str(options.out))
    report(ask(questions(options), options, "rows"), options)


def questions(options: argparse.Namespace) -> list[CallQuestion]:
    """Every row of every table at every radius."""
    fixed = {"folder": options.folder, "out": str(options.out), "hidden": options.hidden}
    cases = [
        {"table": name, "radius": radius, "row": row}
        for name in options.tables
        for radius in options.radii
        for row in range(options.rows)
    ]
    return [
        CallQuestion(
            "exact_tables:settle", {**case, **fixed, "label_budget": options.budget}, tags=case
        )
        for case in cases
    ]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", help="with MULAN's ARFF and XML files")
    parser.add_argument("--tables", nargs="+", default=["emotions", "yeast"])
    parser.add_argument("--radii", nargs="+", type=float, default=[0.005, 0.01, 0.02, 0.05])
    parser.add_argument("--rows", type=int, default=50, help="the first test rows")
    parser.add_argument("--hidden", type=int, default=64, help="ReLUs")
    parser.add_argument("--budget", type=float, default=60.0, help="seconds for each label")
    add_executor_arguments(parser)
    parser.add_argument("--out", type=Path, default=Path("results/exact_tables"))
    add_record_argument(parser)
    return parser.parse_args()


@cache
def subject(folder: str, name: str, hidden: int, out: str) -> tuple[jmlv.Graph, np.ndarray, dict]:
    """The network's graph, the test rows, and how well it classifies them."""
    data, test = (mulan(folder, name, split) for split in ("train", "test"))
    kept = Path(out) / f"{name}_{hidden}"
    try:
        model, _ = checkpoints.restore(kept)
    except FileNotFoundError:
        config = MLPConfig(data.image_shape, hidden=(hidden,), labels=data.labels.shape[1])
        model = train(data, config, TRAINING).model
        checkpoints.save(kept, model, overwrite=True)
    metrics = classification_metrics(predict(model, test), test.labels)
    warm_up(graph := jmlv.trace(model, data.image_shape), data.images[0])
    return graph, test.images, metrics


def warm_up(graph: jmlv.Graph, row: np.ndarray) -> None:
    """Compiles on a training row, so that no row's seconds contain it."""
    scores = np.asarray(graph(row[None]))[0]
    for radius in (1e-6, 0.02, 0.3):
        jmlv.verify(graph, jmlv.Box.around(row, np.float32(radius)), keeps(scores, 0), ORACLE)


def keeps(scores: np.ndarray, label: int) -> jmlv.Property:
    """The label stays on its side of the threshold."""
    return jmlv.AboveThreshold(label) if scores[label] > 0 else jmlv.BelowThreshold(label)


def settle(
    folder: str, out: str, table: str, hidden: int, radius: float, row: int, label_budget: float
) -> dict:
    """The verdicts on every label of one row."""
    graph, rows, _ = subject(folder, table, hidden, out)
    x = rows[row]
    scores, box = np.asarray(graph(x[None]))[0], jmlv.Box.around(x, np.float32(radius))
    start = time.perf_counter()
    verdicts = [
        jmlv.verify(graph, box, keeps(scores, label), ORACLE, budget=label_budget)
        for label in range(len(scores))
    ]
    return {
        "seconds": time.perf_counter() - start,
        "statuses": [verdict.status.name for verdict in verdicts],
        "methods": [verdict.stats["method"] for verdict in verdicts],
    }


HEADER = (
    "table", "micro F1", "radius", "rows", "labels", "robust %", "not robust %", "unknown %",
    "rows settled", "rows robust", "by CROWN %", "by PGD %", "by MILP %", "median s", "max s",
)  # fmt: skip


def report(records: list[dict], options: argparse.Namespace) -> None:
    groups = dict.fromkeys((r["table"], r["radius"]) for r in records)
    rows = [
        summary([r for r in records if (r["table"], r["radius"]) == g], options) for g in groups
    ]
    text = table(HEADER, rows)
    keep_table(
        options, HEADER, rows, ["experiments/exact_tables.py", "jmlv/oracles", "jmlv/bounds"]
    )
    (options.out / "table.txt").write_text(text + "\n")
    print(text)


def summary(members: list[dict], options: argparse.Namespace) -> tuple:
    first, seconds = members[0], [m["seconds"] for m in members]
    statuses = Counter(s for m in members for s in m["statuses"])
    decided = [
        method
        for m in members
        for status, method in zip(m["statuses"], m["methods"])
        if status != "UNKNOWN"
    ]
    methods, total = Counter(decided), sum(statuses.values())
    metrics = subject(options.folder, first["table"], options.hidden, str(options.out))[2]
    return (
        first["table"], metrics.micro_f1, f"{first['radius']:g}", len(members), total,
        *(100 * statuses[s] / total for s in ("ROBUST", "NOT_ROBUST", "UNKNOWN")),
        sum("UNKNOWN" not in m["statuses"] for m in members),
        sum(set(m["statuses"]) == {"ROBUST"} for m in members),
        *(100 * methods[stage.name] / total for stage in ORACLE.stages),
        float(np.median(seconds)), max(seconds),
    )  # fmt: skip


if __name__ == "__main__":
    main()
