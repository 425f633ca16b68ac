"""Certify label sets of test images under l2 noise by randomized smoothing (MultiGuard)."""

from __future__ import annotations

import argparse
from pathlib import Path

import jax
import numpy as np

from jmlv import checkpoints
from jmlv.cli.inputs import test_images
from jmlv.cli.report import table, write_json
from jmlv.data import MultiLabelImages
from jmlv.progress import TqdmProgress
from jmlv.smoothing import (
    CertifiedMetrics,
    certified_intersection_size,
    certified_metrics,
    jia_certified_intersection_size,
    predict,
    sample_counts,
)

HEADER = ("radius", "precision", "recall", "F1", "Jia precision", "Jia recall", "Jia F1")


def add_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--checkpoint", default="checkpoints/double_digits_linf", help="folder of the network"
    )
    command.add_argument(
        "--mnist",
        metavar="FOLDER",
        help="test images from MNIST files instead of the embedded digits",
    )
    command.add_argument("--images", type=int, default=20, help="how many test images")
    command.add_argument(
        "--sigma", type=float, default=0.25, help="standard deviation of the noise"
    )
    command.add_argument("--samples", type=int, default=1000, help="noisy inputs an image")
    command.add_argument("--k", type=int, default=2, help="size of the smoothed label set")
    command.add_argument("--k-prime", type=int, default=2, help="size of the base label set")
    command.add_argument("--alpha", type=float, default=0.001, help="failure probability an image")
    command.add_argument(
        "--radii", type=float, nargs="+", help="l2 radii; by default eleven to 2 sigma"
    )
    command.add_argument(
        "--batch-size", type=int, default=256, help="noisy inputs in memory at a time"
    )
    command.add_argument("--seed", type=int, default=0, help="seed of the noise")
    command.add_argument(
        "--out", type=Path, default=Path("results/smooth"), help="folder for the files"
    )


def run(arguments: argparse.Namespace) -> None:
    from jmlv.smoothing.plots import certified_curves

    model, _ = checkpoints.restore(arguments.checkpoint)
    data = _some(test_images(arguments.mnist), arguments.images)
    counts = _counts(model, data, arguments)
    results = certify(counts, data.labels, arguments)
    rows = [(*ours, *theirs[1:]) for ours, theirs in zip(*(m.rows() for m in results.values()))]
    _write(arguments, counts, data, results)
    figure = certified_curves(results, title=f"{len(data)} images, sigma {arguments.sigma:g}")
    figure.savefig(arguments.out / "curves.png", dpi=120)
    print(table(HEADER, rows))
    tied = predict(counts, arguments.k).tied.any(axis=1).sum()
    print(
        f"\n{len(data)} images, sigma {arguments.sigma:g}, {arguments.samples} noisy inputs, "
        f"k {arguments.k}, k' {arguments.k_prime}, confidence {1 - arguments.alpha:g} an image; "
        f"ties at the border of the predicted set: {tied}\nfiles are in {arguments.out}"
    )


def certify(
    counts: np.ndarray, labels: np.ndarray, arguments: argparse.Namespace
) -> dict[str, CertifiedMetrics]:
    """Certified metrics of MultiGuard and of the baseline."""
    radii = np.linspace(0, 2 * arguments.sigma, 11) if arguments.radii is None else arguments.radii
    options = {
        "k": arguments.k,
        "k_prime": arguments.k_prime,
        "sigma": arguments.sigma,
        "radius": np.asarray(radii, float),
        "alpha": arguments.alpha,
    }
    methods = {
        "MultiGuard": certified_intersection_size,
        "Jia et al.": jia_certified_intersection_size,
    }
    return {
        name: certified_metrics(
            method(counts, arguments.samples, labels, **options),
            labels,
            k=arguments.k,
            radius=options["radius"],
        )
        for name, method in methods.items()
    }


def _counts(model, data: MultiLabelImages, arguments: argparse.Namespace) -> np.ndarray:
    """Counts (image, label); image ``i`` has the key ``fold_in(key(seed), i)``."""
    key = jax.random.key(arguments.seed)
    images = TqdmProgress(leave=False).wrap(data.images, "images")
    return np.stack(
        [
            sample_counts(
                model,
                x,
                sigma=arguments.sigma,
                n=arguments.samples,
                k_prime=arguments.k_prime,
                key=jax.random.fold_in(key, number),
                batch_size=arguments.batch_size,
            )
            for number, x in enumerate(images)
        ]
    )


def _some(data: MultiLabelImages, count: int) -> MultiLabelImages:
    if not 1 <= count <= len(data):
        raise ValueError(f"images: expected a number in 1..{len(data)}, got {count}.")
    return data[:count]


def _write(
    arguments: argparse.Namespace,
    counts: np.ndarray,
    data: MultiLabelImages,
    results: dict[str, CertifiedMetrics],
) -> None:
    options = {
        name: getattr(arguments, name)
        for name in ("sigma", "samples", "k", "k_prime", "alpha", "seed", "images")
    }
    content = {name: metrics.as_dict() for name, metrics in results.items()}
    write_json(arguments.out / "metrics.json", {"options": options, **content})
    np.savez(arguments.out / "counts.npz", counts=counts, labels=data.labels, **options)
