"""Certify label sets of test images under l2 noise by randomized smoothing (MultiGuard)."""

from __future__ import annotations

import argparse
from pathlib import Path

import jax
import numpy as np

from jmlv.cli.inputs import add_batch_arguments, batch
from jmlv.cli.report import about, table, write_json
from jmlv.cli.sources import add_image_arguments, add_onnx_arguments, own_batch
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
from jmlv.smoothing.needed import samples_needed

HEADER = ("radius", "precision", "recall", "F1", "Jia precision", "Jia recall", "Jia F1")


def add_arguments(command: argparse.ArgumentParser) -> None:
    add_batch_arguments(command, images=20, seed="the noise", out="results/smooth")
    add_onnx_arguments(command)
    add_image_arguments(command, "--images-from")
    command.set_defaults(checkpoint="checkpoints/double_digits_noise")
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
    command.add_argument(
        "--resume", action="store_true", help="go on from an interrupted run with the same --out"
    )


def run(arguments: argparse.Namespace) -> None:
    from jmlv.smoothing.plots import certified_curves

    own = arguments.network is not None
    model, data = own_batch(arguments) if own else batch(arguments)
    _require_samples(arguments, len(data.label_names))
    head = about(model, data)
    counts = _counts(model, data, arguments)
    results = certify(counts, data.labels, arguments)
    rows = [(*ours, *theirs[1:]) for ours, theirs in zip(*(m.rows() for m in results.values()))]
    _write(arguments, counts, data, results, head)
    figure = certified_curves(results, title=f"{len(data)} images, sigma {arguments.sigma:g}")
    figure.savefig(arguments.out / "curves.png", dpi=120)
    print(table(HEADER, rows))
    tied = predict(counts, arguments.k).tied.any(axis=1).sum()
    print(
        f"\n{len(data)} images, sigma {arguments.sigma:g}, {arguments.samples} noisy inputs, "
        f"k {arguments.k}, k' {arguments.k_prime}, confidence {1 - arguments.alpha:g} an image; "
        f"ties at the border of the predicted set: {tied}\nfiles are in {arguments.out}"
    )


def _require_samples(arguments: argparse.Namespace, labels: int) -> None:
    needed = samples_needed(labels, k=arguments.k, k_prime=arguments.k_prime, alpha=arguments.alpha)
    if arguments.samples < needed:
        raise ValueError(
            f"samples: {arguments.samples} noisy inputs can certify nothing at alpha "
            f"{arguments.alpha:g}, even if all agree; at least {needed} are needed, and far more to "
            "certify much."
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
    """Counts (image, label); image ``i`` has the key ``fold_in(key(seed), i)``.

    Each image's counts are kept in a file while the run lasts: what ``--resume`` goes on from.
    """
    key, partial = jax.random.key(arguments.seed), arguments.out / "partial"
    if not arguments.resume:
        _clear(partial)
    images = TqdmProgress(leave=False).wrap(data.images, "images")
    counts = [
        sample_counts(
            model,
            x,
            sigma=arguments.sigma,
            n=arguments.samples,
            k_prime=arguments.k_prime,
            key=jax.random.fold_in(key, number),
            batch_size=arguments.batch_size,
            resume=partial / f"{number}.npz",
        )
        for number, x in enumerate(images)
    ]
    _clear(partial)
    return np.stack(counts)


def _clear(partial: Path) -> None:
    for path in partial.glob("*.npz*"):
        path.unlink()
    if partial.is_dir() and not any(partial.iterdir()):
        partial.rmdir()


def _write(
    arguments: argparse.Namespace,
    counts: np.ndarray,
    data: MultiLabelImages,
    results: dict[str, CertifiedMetrics],
    head: dict,
) -> None:
    options = {
        name: getattr(arguments, name)
        for name in ("sigma", "samples", "k", "k_prime", "alpha", "seed", "images")
    }
    content = {name: metrics.as_dict() for name, metrics in results.items()}
    write_json(arguments.out / "metrics.json", {**head, "options": options, **content})
    np.savez(arguments.out / "counts.npz", counts=counts, labels=data.labels, **options)
