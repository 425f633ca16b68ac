"""Classification metrics of clean rows, as in Table I of MLA-LP's paper, with mAP.

    python experiments/table_one.py ../shared/data/mulan          # digits, yeast, scene; three seeds
    python experiments/table_one.py FOLDER --data emotions flags --losses bce asl ml-liw

Each seed gives another network and another order of the training rows, and other pairs of digits.
Every finished training is a row of ``answers`` in the output folder; an interrupted run goes on.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import numpy as np
from asking import add_executor_arguments, ask
from recorded import add_record_argument, keep_table

from jmlv.campaigns import CallQuestion
from jmlv.cli.report import table
from jmlv.cli.train import DIGITS, TEST_SEED
from jmlv.compilation import keep_compiled
from jmlv.data import MultiLabelImages, Warp, double_digits, mulan
from jmlv.models import MLPConfig, ModelConfig
from jmlv.training import (
    AsymmetricLoss,
    ClassificationMetrics,
    LabelAndInstanceRanking,
    TrainingConfig,
    binary_cross_entropy,
    classification_metrics,
    predict,
    train,
)

LOSSES = {
    "bce": binary_cross_entropy,
    "asl": AsymmetricLoss(),
    "ml-liw": LabelAndInstanceRanking(),
}
DIGITS_TRAINING = TrainingConfig(epochs=4, learning_rate=1e-2)
TABLE_TRAINING = TrainingConfig(epochs=60, batch_size=64, learning_rate=3e-3, weight_decay=1e-3)
METRICS = tuple(field.name for field in dataclasses.fields(ClassificationMetrics))


def main() -> None:
    keep_compiled()
    options = parse()
    cases = [
        {"data": name, "loss": loss, "seed": seed, "digits": options.digits}
        for name in options.data
        for loss in options.losses
        for seed in range(options.seeds)
    ]
    questions = [
        CallQuestion("table_one:run", {**case, "folder": options.folder}, tags=case)
        for case in cases
    ]
    report(ask(questions, options, "trainings"), options)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", help="with MULAN's ARFF and XML files")
    parser.add_argument("--data", nargs="+", default=["digits", "yeast", "scene"])
    parser.add_argument("--losses", nargs="+", choices=LOSSES, default=["bce"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--digits", type=int, default=20_000, help="pairs of digits that train")
    add_executor_arguments(parser)
    parser.add_argument("--out", type=Path, default=Path("results/table_one"))
    add_record_argument(parser)
    options = parser.parse_args()
    if options.folder is None and set(options.data) != {"digits"}:
        parser.error("folder: tables need the folder with MULAN's files.")
    return options


def run(data: str, loss: str, seed: int, digits: int, folder: str | None) -> dict:
    """One training and its metrics on the test rows."""
    rows, test, model, config = subject(data, seed, digits, folder)
    config = dataclasses.replace(config, seed=seed)
    trained = train(rows, model, config, loss=LOSSES[loss]).model
    metrics = classification_metrics(predict(trained, test), test.labels)
    return {**dataclasses.asdict(metrics), "train": len(rows), "test": len(test)}


def subject(
    name: str, seed: int, digits: int, folder: str | None
) -> tuple[MultiLabelImages, MultiLabelImages, ModelConfig, TrainingConfig]:
    """Rows that train, rows that test, and what suits them."""
    if name == "digits":
        data = double_digits("train", size=digits, seed=seed, warp=Warp())
        return data, double_digits("test", size=4_000, seed=TEST_SEED), DIGITS, DIGITS_TRAINING
    data, test = (mulan(folder, name, split) for split in ("train", "test"))
    model = MLPConfig(data.image_shape, hidden=(128,), labels=data.labels.shape[1])
    return data, test, model, TABLE_TRAINING


def report(records: list[dict], options: argparse.Namespace) -> None:
    groups = dict.fromkeys((r["data"], r["loss"]) for r in records)
    rows = []
    for name, loss in groups:
        members = [r for r in records if (r["data"], r["loss"]) == (name, loss)]
        values = np.array([[m[metric] for metric in METRICS] for m in members])
        cells = [f"{m:.3f} ± {s:.3f}" for m, s in zip(values.mean(0), values.std(0))]
        rows.append((name, loss, len(members), members[0]["train"], members[0]["test"], *cells))
    header = ("data", "loss", "seeds", "train", "test", *(m.replace("_", " ") for m in METRICS))
    text = table(header, rows) + "\n\nmean ± standard deviation over seeds"
    keep_table(
        options,
        header,
        rows,
        ["experiments/table_one.py", "jmlv/training", "jmlv/models", "jmlv/data"],
    )
    (options.out / "table.txt").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
