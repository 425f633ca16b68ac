"""Trains the three networks of checkpoints/: undefended, l0 and l-infinity.

    python experiments/train_checkpoints.py
    python experiments/train_checkpoints.py --data mnist --folder path/to/mnist

writes checkpoints/<data>_{none,l0,linf}/ and prints a table of test metrics.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

import jax

from jmlv import checkpoints
from jmlv.data import MultiLabelImages, Warp, double_digits, double_mnist
from jmlv.models import CNNConfig
from jmlv.progress import NoProgress, Progress, TqdmProgress
from jmlv.training import (
    L0Defence,
    LinfDefence,
    NoDefence,
    TrainingConfig,
    pgd_accuracy,
    top_k_accuracy,
    train,
)

DEFENCES = {
    "none": NoDefence(),
    "l0": L0Defence(rectangles=2, max_side=6),
    "linf": LinfDefence(epsilon=0.1, steps=3),
}
MODELS = {
    "digits": CNNConfig(channels=(24, 64), kernels=(6, 4), strides=(3, 2), paddings=(2, 0), pool=4),
    "mnist": CNNConfig(
        input_shape=(64, 64, 1),
        channels=(24, 64),
        kernels=(6, 5),
        strides=(4, 3),
        paddings=(1, 0),
        pool=4,
    ),
}
WARPS = {"digits": Warp(), "mnist": None}
TEST_SEED = 1_000
PGD_EPSILONS = (0.01, 0.05, 0.1)
PGD_STEPS = 20
PGD_IMAGES = 1_000


def main() -> None:
    options = parse()
    progress = NoProgress() if options.quiet else TqdmProgress()
    tests = load(options, "test", options.test_images, TEST_SEED)
    rows = [one(name, options, tests, progress) for name in options.defences]
    print_table(rows)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", choices=("digits", "mnist"), default="digits")
    parser.add_argument("--folder", type=Path, help="MNIST's IDX files, with --data mnist")
    parser.add_argument("--defences", nargs="+", choices=DEFENCES, default=list(DEFENCES))
    parser.add_argument("--output", type=Path, default=Path("checkpoints"))
    parser.add_argument("--train-images", type=int, default=80_000)
    parser.add_argument("--test-images", type=int, default=4_000)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--learning-rate", type=float, default=1e-2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    options = parser.parse_args()
    if options.data == "mnist" and options.folder is None:
        parser.error("--data mnist needs --folder: the folder of MNIST's IDX files")
    return options


def load(options: argparse.Namespace, split: str, size: int, seed: int) -> MultiLabelImages:
    warp = WARPS[options.data] if split == "train" else None
    if options.data == "mnist":
        return double_mnist(options.folder, split, size=size, seed=seed, warp=warp)
    return double_digits(split, size=size, seed=seed, warp=warp)


def one(
    name: str, options: argparse.Namespace, tests: MultiLabelImages, progress: Progress
) -> tuple[str, dict[str, float]]:
    """Trains, measures and saves one network; its name and metrics."""
    images = load(options, "train", options.train_images, options.seed)
    config = TrainingConfig(
        epochs=options.epochs, learning_rate=options.learning_rate, seed=options.seed
    )
    defence = DEFENCES[name]
    result = train(images, MODELS[options.data], config, defence=defence, progress=progress)
    if result.interrupted:
        raise SystemExit(f"interrupted while training {name}: nothing saved for it")
    metrics = measure(result.model, tests, options.seed)
    metadata = checkpoints.Metadata(
        data={
            "name": f"double_{options.data}",
            "origin": images.origin,
            "train": {"size": len(images), "seed": options.seed},
            "train_warp": asdict(WARPS[options.data]) if WARPS[options.data] else None,
            "test": {"size": len(tests), "seed": TEST_SEED, "origin": tests.origin},
        },
        training={
            "defence": {"name": name, **asdict(defence)},
            **asdict(config),
            "final_loss": result.losses[-1],
        },
        metrics=metrics,
    )
    folder = options.output / f"double_{options.data}_{name}"
    checkpoints.save(folder, result.model, metadata, overwrite=True)
    return folder.name, metrics


def measure(model: object, tests: MultiLabelImages, seed: int) -> dict[str, float]:
    """Test accuracy on all test images, PGD accuracy on the first of them."""
    metrics = {"top_k_accuracy": top_k_accuracy(model, tests.images, tests.labels)}
    first = tests[:PGD_IMAGES]
    for epsilon in PGD_EPSILONS:
        metrics[f"pgd_accuracy_{epsilon}"] = pgd_accuracy(
            model, first.images, first.labels, epsilon, PGD_STEPS, jax.random.key(seed)
        )
    return metrics


def print_table(rows: list[tuple[str, dict[str, float]]]) -> None:
    columns = list(rows[0][1])
    print("  ".join(["checkpoint".ljust(22), *columns]))
    for name, metrics in rows:
        cells = [f"{metrics[c]:.4f}".rjust(len(c)) for c in columns]
        print("  ".join([name.ljust(22), *cells]))


if __name__ == "__main__":
    main()
