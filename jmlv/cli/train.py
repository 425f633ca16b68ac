"""Train multi-label networks, from a TOML file or on double digits, and write their checkpoints."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

import jax

from jmlv import checkpoints
from jmlv.cli.options import refuse
from jmlv.cli.report import table
from jmlv.cli.training_data import TEST_SEED
from jmlv.cli.training_plan import TrainingPlan, read_plan
from jmlv.data import MultiLabelImages, Warp, double_digits, double_mnist
from jmlv.models import CNNConfig, MultiLabelCNN
from jmlv.progress import NoProgress, TqdmProgress
from jmlv.training import (
    AsymmetricLoss,
    Defence,
    GaussianNoise,
    L0Defence,
    LinfDefence,
    NoDefence,
    TrainingConfig,
    binary_cross_entropy,
    classification_metrics,
    pgd_accuracy,
    predict,
    top_k_accuracy,
    train,
)

COMMITTED = ("none", "l0", "linf")
LOSSES = {"bce": binary_cross_entropy, "asl": AsymmetricLoss()}
DIGITS = CNNConfig(channels=(24, 64), kernels=(6, 4), strides=(3, 2), paddings=(2, 0), pool=4)
MNIST = CNNConfig(
    input_shape=(64, 64, 1),
    channels=(24, 64),
    kernels=(6, 5),
    strides=(4, 3),
    paddings=(1, 0),
    pool=4,
)
PGD_EPSILONS = (0.01, 0.05, 0.1)
PGD_STEPS = 20
PGD_IMAGES = 1_000


def defences(sigma: float) -> dict[str, Defence]:
    """The defences by name; ``sigma`` is that of ``noise``."""
    return {
        "none": NoDefence(),
        "l0": L0Defence(rectangles=2, max_side=6),
        "linf": LinfDefence(epsilon=0.1, steps=3),
        "noise": GaussianNoise(sigma),
    }


def add_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "config", nargs="?", type=Path, metavar="CONFIG.toml",
        help="a whole training as a file (examples: experiments/configs); of the options, only "
        "--quiet then counts",
    )  # fmt: skip
    command.add_argument(
        "--defences", nargs="+", choices=defences(1.0), default=COMMITTED, help="what to train"
    )
    command.add_argument("--loss", choices=LOSSES, default="bce", help="what to minimise")
    command.add_argument("--sigma", type=float, default=0.25, help="of the noise defence")
    command.add_argument(
        "--mnist", type=Path, metavar="FOLDER", help="pairs from MNIST files, not embedded digits"
    )
    command.add_argument("--train-images", type=int, default=80_000, help="how many pairs")
    command.add_argument("--test-images", type=int, default=4_000, help="how many pairs")
    command.add_argument("--epochs", type=int, default=12, help="passes over the images")
    command.add_argument("--learning-rate", type=float, default=1e-2, help="at the start")
    command.add_argument("--seed", type=int, default=0, help="of weights, images and order")
    command.add_argument("--quiet", action="store_true", help="no progress bars")
    command.add_argument("--out", type=Path, default=Path("results/train"), help="parent folder")


def run(arguments: argparse.Namespace) -> int:
    if arguments.config is not None:
        _refuse_options(arguments)
        return _run_plan(read_plan(arguments.config), arguments.quiet)
    tests = _images(arguments, "test")
    rows = []
    for name in arguments.defences:
        folder, metrics = _one(name, arguments, tests)
        rows.append((str(folder), *metrics.values()))
        header = ("checkpoint", *metrics)
    print(table(header, rows))
    return 0


def _refuse_options(arguments: argparse.Namespace) -> None:
    """Options beside a file would be ignored, or contradict it."""
    reason = f"not beside a file; write it into {arguments.config} instead."
    refuse(arguments, reason, *sorted(arguments.given - {"config", "quiet"}))


def _run_plan(plan: TrainingPlan, quiet: bool) -> int:
    """Trains, measures and saves what a file asks for."""
    images, tests = plan.data.load("train"), plan.data.load("test")
    kept, stopping = (images, None) if plan.held_out is None else plan.held_out.divide(images)
    result = train(
        kept,
        plan.model(images),
        plan.training,
        defence=plan.defence,
        loss=plan.loss,
        progress=NoProgress() if quiet else TqdmProgress(),
        checkpoints=plan.checkpoints,
        early_stopping=stopping,
    )
    if result.interrupted:
        raise KeyboardInterrupt
    metrics = asdict(classification_metrics(predict(result.model, tests), tests.labels))
    if isinstance(tests, MultiLabelImages) and tests.masks.shape[1]:
        metrics |= _measure(result.model, tests, plan.training.seed)
    data = {"origin": images.origin, "train": len(kept), "test": len(tests)}
    data |= {"label_names": list(images.label_names)}
    training = {
        "config": plan.content,
        "epochs": len(result.losses),
        "final_loss": result.losses[-1],
        "validation": list(result.validation),
    }
    metadata = checkpoints.Metadata(data=data, training=training, metrics=metrics)
    checkpoints.save(plan.out, result.model, metadata, overwrite=True)
    print(table(("checkpoint", *metrics), [(str(plan.out), *metrics.values())]))
    return 0


def _one(
    name: str, arguments: argparse.Namespace, tests: MultiLabelImages
) -> tuple[Path, dict[str, float]]:
    """Trains, measures and saves one network; its folder and test metrics."""
    images = _images(arguments, "train")
    config = TrainingConfig(
        epochs=arguments.epochs, learning_rate=arguments.learning_rate, seed=arguments.seed
    )
    defence = defences(arguments.sigma)[name]
    result = train(
        images,
        MNIST if arguments.mnist else DIGITS,
        config,
        defence=defence,
        loss=LOSSES[arguments.loss],
        progress=NoProgress() if arguments.quiet else TqdmProgress(),
    )
    if result.interrupted:
        raise KeyboardInterrupt
    metrics = _measure(result.model, tests, arguments.seed)
    training = {
        "defence": {"name": name, **asdict(defence)},
        "loss": arguments.loss,
        **asdict(config),
        "schedule": repr(config.schedule),
        "final_loss": result.losses[-1],
    }
    source = "double_mnist" if arguments.mnist else "double_digits"
    metadata = checkpoints.Metadata(
        data=_provenance(source, images, tests, arguments), training=training, metrics=metrics
    )
    folder = arguments.out / f"{source}_{name}"
    checkpoints.save(folder, result.model, metadata, overwrite=True)
    return folder, metrics


def _images(arguments: argparse.Namespace, split: str) -> MultiLabelImages:
    training = split == "train"
    size = arguments.train_images if training else arguments.test_images
    seed = arguments.seed if training else TEST_SEED
    if arguments.mnist is not None:
        return double_mnist(arguments.mnist, split, size=size, seed=seed)
    return double_digits(split, size=size, seed=seed, warp=Warp() if training else None)


def _provenance(source: str, images, tests, arguments: argparse.Namespace) -> dict[str, object]:
    return {
        "name": source,
        "origin": images.origin,
        "train": {"size": len(images), "seed": arguments.seed},
        "train_warp": None if arguments.mnist else asdict(Warp()),
        "test": {"size": len(tests), "seed": TEST_SEED, "origin": tests.origin},
    }


def _measure(model: MultiLabelCNN, tests: MultiLabelImages, seed: int) -> dict[str, float]:
    """Test accuracy on all test images, PGD accuracy on the first of them."""
    metrics = {"top_k_accuracy": top_k_accuracy(model, tests.images, tests.labels)}
    first = tests[:PGD_IMAGES]
    for epsilon in PGD_EPSILONS:
        metrics[f"pgd_accuracy_{epsilon}"] = pgd_accuracy(
            model, first.images, first.labels, epsilon, PGD_STEPS, jax.random.key(seed)
        )
    return metrics
