"""What the attack experiments share: their options, and the classifiers and images under attack."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from recorded import add_record_argument
from sources import add_data_argument, source

from jmlv import checkpoints
from jmlv.data import double_digits
from jmlv.progress import TqdmProgress
from jmlv.training import binary_cross_entropy

DIGITS = ("none", "linf")
CODE = "jmlv/attacks", "experiments/attacked.py"
"""What tables of attacks measure."""

OTHERS = 48
"""Images to measure a classifier on that are not attacked."""


@dataclasses.dataclass(frozen=True, eq=False)
class Subject:
    """A classifier, images to attack, and other images to measure profile and correlations on."""

    name: str
    f: Callable
    images: np.ndarray
    labels: np.ndarray
    others: np.ndarray
    note: str = ""


def parser(description: str, name: str, quick: str) -> argparse.ArgumentParser:
    """The options of every attack experiment; ``quick`` says what ``--quick`` does."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help=quick)
    parser.add_argument("--images", type=int, help="by default 100, fewer with --quick")
    add_data_argument(parser)
    parser.add_argument(
        "--checkpoints", type=Path, default=Path("checkpoints"), help="of the digits"
    )
    parser.add_argument("--only", choices=[f"digits_{defence}" for defence in DIGITS])
    parser.add_argument("--out", type=Path, default=Path("results") / name)
    add_record_argument(parser)
    return parser


def parse(command: argparse.ArgumentParser, quick_images: int) -> argparse.Namespace:
    options = command.parse_args()
    options.images = options.images or (quick_images if options.quick else 100)
    return options


def subjects(options: argparse.Namespace) -> Iterator[Subject]:
    """The committed networks of digits, or one trained here without a defence on other data."""
    if options.data != ["digits"]:
        yield _trained(options)
        return
    for defence in DIGITS:
        name = f"digits_{defence}"
        if options.only in (None, name):
            yield _digits(name, options.checkpoints / f"double_digits_{defence}", options.images)


def _digits(name: str, folder: Path, count: int) -> Subject:
    model, _ = checkpoints.restore(folder)
    data, other = (
        double_digits("test", size=count, seed=3),
        double_digits("test", size=OTHERS, seed=4),
    )
    return Subject(name, model, data.images, data.labels, other.images)


def _trained(options: argparse.Namespace) -> Subject:
    chosen = source(options.data)
    model = chosen.network(
        options.out / f"network_{chosen.name}",
        binary_cross_entropy,
        progress=TqdmProgress(leave=False),
    )
    data, other = chosen.load("test", options.images, 3)[:], chosen.load("train", OTHERS, 4)[:]
    return Subject(chosen.name, model, data.images, data.labels, other.images, chosen.note)
