"""Certified training beside no defence and adversarial training, on embedded digits.

    python experiments/certified_training.py                       # everything
    python experiments/certified_training.py --networks none ibp-0.1 --images 4

``none`` and ``linf`` are the committed networks; the others, named after their bound and radius, are
trained here with the same sizes. For each: the share of test images whose two labels are the top
two, the same under PGD, and the sizes of certified neighbourhoods around one digit that keep the
other's label in the top two (layer search under CROWN, without its two dear phases). A network that
loses that label on the image itself gets the size 0.

Trainings go on from their checkpoints, and every finished case is a row of ``answers`` in the output
folder, so an interrupted run goes on where it stopped.
"""

from __future__ import annotations

import argparse
from functools import cache
from pathlib import Path

import jax
import numpy as np
from asking import add_executor_arguments, ask
from recorded import add_record_argument, keep_table

import jmlv
from jmlv import checkpoints
from jmlv.bounds import CROWNIBP, IBP
from jmlv.campaigns import CallQuestion
from jmlv.cli.inputs import example
from jmlv.cli.report import table
from jmlv.cli.train import DIGITS, PGD_STEPS, TEST_SEED
from jmlv.data import Warp, double_digits
from jmlv.training import (
    CertifiedTraining,
    Checkpoints,
    TrainingConfig,
    pgd_accuracy,
    top_k_accuracy,
    train,
)

COMMITTED = {"none": "double_digits_none", "linf": "double_digits_linf"}
DEFENCES = {
    "ibp-0.05": CertifiedTraining(IBP(), 0.05),
    "ibp-0.1": CertifiedTraining(IBP(), 0.1),
    "crown-ibp-0.05": CertifiedTraining(CROWNIBP(), 0.05, start=0.6, end=1.0, beta=1.0),
}
TRAININGS = {
    "ibp-0.05": (20_000, TrainingConfig(epochs=30, learning_rate=5e-3)),
    "ibp-0.1": (20_000, TrainingConfig(epochs=30, learning_rate=5e-3)),
    "crown-ibp-0.05": (8_000, TrainingConfig(epochs=6, batch_size=64, learning_rate=5e-3)),
}
"""Pairs of digits and options; a step under CROWN-IBP costs thirty times one under IBP."""

STRATEGY = jmlv.LayerSearch(complete=None, tighter=None)
RADII = (0.05, 0.1)
TEST_IMAGES, PGD_IMAGES = 4_000, 1_000


def main() -> None:
    jmlv.keep_compiled()
    options = parse()
    for name in options.networks:  # trained here, before several processes look for it
        trained(name, options.out)
    fixed = {"out": str(options.out), "seconds": options.budget}
    cases = [
        {"network": name, "image": image}
        for name in options.networks
        for image in (None, *range(options.images))
    ]
    questions = [
        CallQuestion("certified_training:run", {**case, **fixed}, tags=case) for case in cases
    ]
    report(ask(questions, options, "cases"), options)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    everything = [*COMMITTED, *DEFENCES]
    parser.add_argument("--networks", nargs="+", choices=everything, default=everything)
    parser.add_argument("--images", type=int, default=8, help="test images to grow on")
    parser.add_argument("--budget", type=float, default=60.0, help="seconds for each neighbourhood")
    add_executor_arguments(parser)
    parser.add_argument("--out", type=Path, default=Path("results/certified_training"))
    add_record_argument(parser)
    return parser.parse_args()


@cache
def trained(name: str, out: Path):
    """A committed network, or one that is trained unless the folder has it."""
    if name in COMMITTED:
        return checkpoints.restore(Path("checkpoints") / COMMITTED[name])[0]
    folder = out / f"double_digits_{name}"
    try:
        return checkpoints.restore(folder)[0]
    except FileNotFoundError:
        pass
    size, config = TRAININGS[name]
    data = double_digits("train", size=size, warp=Warp())
    kept = Checkpoints(out / f"{name}_run")
    result = train(
        data, DIGITS, config, defence=DEFENCES[name], checkpoints=kept,
        progress=jmlv.TqdmProgress(),
    )  # fmt: skip
    if result.interrupted:
        raise SystemExit("interrupted while training")
    training = {"defence": repr(DEFENCES[name]), "config": repr(config)}
    origin = {"origin": data.origin, "train": size}
    metadata = checkpoints.Metadata(origin, training, accuracies(result.model))
    checkpoints.save(folder, result.model, metadata, overwrite=True)
    return result.model


def accuracies(model) -> dict[str, float]:
    """The share of test images with the right top two, clean and under PGD."""
    tests = double_digits("test", size=TEST_IMAGES, seed=TEST_SEED)
    first, key = tests[:PGD_IMAGES], jax.random.key(0)
    found = {"top_k_accuracy": top_k_accuracy(model, tests.images, tests.labels)}
    for radius in RADII:
        found[f"pgd_accuracy_{radius}"] = pgd_accuracy(
            model, first.images, first.labels, radius, PGD_STEPS, key
        )
    return found


def run(network: str, image: int | None, out: str, seconds: float) -> dict:
    """The accuracies of a network, or its neighbourhood of the left digit (odd images: the right)."""
    model = trained(network, Path(out))
    if image is None:
        return accuracies(model)
    graph = jmlv.trace(model, DIGITS.input_shape)
    tests = double_digits("test", size=TEST_IMAGES, seed=TEST_SEED)
    shown = example(tests, image, image % 2)
    if not float(shown.property.margin(graph.scores(shown.x[None])[0])) > 0:
        return {"size": 0.0, "right": False}
    layers = jmlv.Layers.around(shown.perturbed)
    grown = jmlv.grow(graph, shown.x, layers, shown.property, STRATEGY, budget=seconds)
    verdict = grown.verdict.status.name
    return {"size": grown.size, "right": True, "status": verdict, "seconds": grown.seconds}


HEADER = (
    "network", "top 2 right", *(f"PGD {r}" for r in RADII), "images", "label kept",
    "mean size", "times none", "mean size where kept", "times none there",
)  # fmt: skip


def report(records: list[dict], options: argparse.Namespace) -> None:
    sizes = {
        n: np.array([r["size"] for r in records if r["network"] == n and r["image"] is not None])
        for n in options.networks
    }
    shares = {r["network"]: r for r in records if r["image"] is None}
    base = sizes.get("none", np.full(options.images, np.nan))  # "times none" needs it
    rows = []
    for name, size in sizes.items():
        kept = size > 0
        there = size[kept].mean() if kept.any() else float("nan")
        accuracy = [shares[name]["top_k_accuracy"]]
        accuracy += [shares[name][f"pgd_accuracy_{radius}"] for radius in RADII]
        rows.append(
            (name, *accuracy, len(size), int(kept.sum()), size.mean(), size.mean() / base.mean(),
             there, there / base[kept].mean() if kept.any() else there)
        )  # fmt: skip
    text = table(HEADER, rows)
    keep_table(
        options,
        HEADER,
        rows,
        ["experiments/certified_training.py", "jmlv/training", "jmlv/neighborhoods", "jmlv/bounds"],
    )
    (options.out / "table.txt").write_text(text + "\n")
    figure(rows, sizes, options.out / "certified_training.png")
    print(text)


def figure(rows: list[tuple], sizes: dict[str, np.ndarray], path: Path) -> None:
    """Left: accuracies of each network. Right: the size on each image, and the mean."""
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(8.5, 3.4), layout="constrained")
    left, right = drawn.subplots(1, 2)
    place, colours = np.arange(len(rows)), ("#2a6f97", "#61a5c2", "#a9d6e5")
    for column, (label, colour) in enumerate(zip(("clean", *(f"PGD {r}" for r in RADII)), colours)):
        heights = [row[1 + column] for row in rows]
        left.bar(place + 0.27 * (column - 1), heights, 0.25, color=colour, label=label)
    left.set(ylabel="share with the right top two", ylim=(0, 1))
    left.legend(fontsize=8)
    for x, size in zip(place, sizes.values()):
        right.scatter(x + np.linspace(-0.2, 0.2, len(size)), size, 12, color="#f4a259", zorder=3)
        right.plot([x - 0.3, x + 0.3], [size.mean()] * 2, color="#2a6f97", linewidth=2)
    right.set(ylabel="certified size (line: mean)", ylim=(0, None))
    for axes in (left, right):
        axes.set_xticks(place, sizes, rotation=20)
        axes.grid(axis="y", alpha=0.3)
    drawn.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
