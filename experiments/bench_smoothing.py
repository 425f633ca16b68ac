"""Cost of sampling beside the bare forward pass, and of the certificate.

    python experiments/bench_smoothing.py [--samples 1000] [--batch 250 1000] [--repeats 9]
    python experiments/bench_smoothing.py --resnet 128 --samples 32 --batch 16    # a ResNet-18's photographs

Sampling: noisy inputs of one image through a network, counted, against the forward pass of as many
images in the same batches and at the same matmul precision. On the published Double-MNIST network
(64x64, max pool) where its file is, else on a committed checkpoint. Every round times all in turn, so
a drift of the machine's speed hits all alike; ratios are taken within a round. Choosing a noise level for
every layer (``jmlv.grow_smoothed``) against certifying with it, ten times as many samples. Certificate: 500 images
x 50 radii x 80 labels, for the label and set sizes of COCO and for the most expensive ones.
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable
from functools import partial

import jax
import numpy as np
import published
from flax import nnx

import jmlv
from jmlv import checkpoints
from jmlv.cli.report import table
from jmlv.data import double_digits
from jmlv.models import ResNetConfig
from jmlv.smoothing import (
    certified_intersection_size,
    jia_certified_intersection_size,
    sample_counts,
)

IMAGES, RADII, LABELS = 500, 50, 80


def main() -> None:
    jmlv.keep_compiled()
    options = parse()
    device = jax.devices()[0].device_kind
    print(f"{platform.processor() or platform.machine()}, {device}, JAX {jax.__version__}")
    name, model, x = subject(options.resnet)
    print(
        f"\nsampling: {options.samples} noisy inputs of a {x.shape[0]}x{x.shape[1]} image, {name}"
    )
    print(sampling(model, x, options))
    print(f"\na level for every layer: {10 * options.samples} samples to certify, {name}")
    print(choosing(model, x, options))
    print(f"\ncertificate: {IMAGES} images x {RADII} radii x {LABELS} labels")
    print(certificates(options.repeats))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--batch", type=int, nargs="+", default=[250, 1000])
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--resnet", type=int, help="a new ResNet-18 at this side, in pixels")
    return parser.parse_args()


def subject(side: int | None) -> tuple[str, nnx.Module, np.ndarray]:
    if side is not None:
        model = ResNetConfig((side, side, 3)).build(rngs=nnx.Rngs(0))
        model.eval()
        return "ResNet-18", model, np.random.default_rng(0).random((side, side, 3), np.float32)
    if published.FOLDER.exists():
        return "published linf network", published.network("linf"), published.images().images[0]
    model, _ = checkpoints.restore("checkpoints/double_digits_none")
    return "committed checkpoint", model, double_digits("test", size=1).images[0]


def sampling(model: nnx.Module, x: np.ndarray, options: argparse.Namespace) -> str:
    definition, weights = nnx.split(model)
    forward = jax.jit(lambda w, batch: nnx.merge(definition, w)(batch))
    rows = []
    for size in options.batch:
        batch = np.random.default_rng(0).random((size, *x.shape), np.float32)
        starts = range(0, options.samples, size)

        def bare(batch=jax.device_put(batch), starts=starts):
            with jax.default_matmul_precision("highest"):
                jax.block_until_ready([forward(weights, batch) for _ in starts])

        def noisy(sigma, size=size):
            call = {"n": options.samples, "k_prime": 2, "key": jax.random.key(0)}
            sample_counts(model, x, sigma=sigma, batch_size=size, **call)

        levels = jmlv.LayeredNoise(middle(x), np.linspace(0.1, 0.4, middle(x).count))
        kinds = {"one level": 0.25, "a level a layer": levels}
        tasks = {name: partial(noisy, sigma) for name, sigma in kinds.items()}
        seconds = rounds({"bare": bare, **tasks}, options.repeats)
        for name in kinds:
            ratios = seconds[name] / seconds["bare"]
            medians = [1e3 * float(np.median(seconds[task])) for task in ("bare", name)]
            rows.append((size, name, *medians, *(float(f(ratios)) for f in (np.median, min, max))))
    columns = ("batch", "noise", "forward ms", "counts ms", "median ratio", "least", "most")
    return table(columns, rows)


def middle(x: np.ndarray) -> jmlv.Layers:
    """Layers around a square of an eighth of the image's side."""
    height, width = x.shape[:2]
    mask = np.zeros((height, width), bool)
    mask[height // 2 :, width // 2 :][: height // 8, : width // 8] = True
    return jmlv.Layers.around(mask)


def choosing(model: nnx.Module, x: np.ndarray, options: argparse.Namespace) -> str:
    """Seconds of certifying alone, and of choosing noise and then certifying with it."""
    n, size = 10 * options.samples, options.batch[0]
    call = {"n": n, "k_prime": 2, "key": jax.random.key(0), "batch_size": size}
    counts = sample_counts(model, x, sigma=jmlv.LayeredNoise(middle(x), 0.25), **call)
    label = int(counts.argmax())

    def certify():
        sample_counts(model, x, sigma=jmlv.LayeredNoise(middle(x), 0.25), **call)

    def choose_and_certify():
        return jmlv.grow_smoothed(model, x, middle(x), [label], k=2, looks=1, **call)

    seconds = rounds({"certify": certify, "both": choose_and_certify}, 3)
    certified, both = (float(np.median(seconds[name])) for name in ("certify", "both"))
    samples = choose_and_certify().samples
    chosen = samples["choosing"] + samples["gradients"]
    row = (n, chosen, chosen / n, certified, both - certified, (both - certified) / certified)
    columns = ("samples", "to choose", "ratio", "certify s", "choose s", "ratio of seconds")
    return table(columns, [row])


def certificates(repeats: int) -> str:
    rng, n = np.random.default_rng(0), 1000
    rows = []
    for name, k, k_prime, share in (("COCO-like", 10, 4, 0.04), ("dearest", 40, 4, 0.5)):
        probabilities = rng.dirichlet(np.full(LABELS // k_prime, 0.1), size=(IMAGES, k_prime))
        counts = rng.multinomial(n, probabilities).reshape(IMAGES, LABELS)
        hot = rng.random((IMAGES, LABELS)) < share
        hot[:, 0] = True
        call = {"k": k, "k_prime": k_prime, "sigma": 0.5, "alpha": 0.001}
        call["radius"] = np.linspace(0, 2, RADII)
        tasks = {
            "MultiGuard": partial(certified_intersection_size, counts, n, hot, **call),
            "Jia et al.": partial(jia_certified_intersection_size, counts, n, hot, **call),
        }
        for method, seconds in rounds(tasks, repeats).items():
            milliseconds = [1e3 * float(f(seconds)) for f in (np.median, min, max)]
            rows.append((method, name, k, float(hot.sum(axis=1).mean()), *milliseconds))
    return table(("method", "setting", "k", "true labels", "median ms", "least", "most"), rows)


def rounds(tasks: dict[str, Callable[[], object]], repeats: int) -> dict[str, np.ndarray]:
    """Seconds of every task in every round; the first, which compiles, is left out."""
    seconds = {name: [] for name in tasks}
    for number in range(repeats + 1):
        for name, task in tasks.items():
            start = time.perf_counter()
            task()
            if number:
                seconds[name].append(time.perf_counter() - start)
    return {name: np.array(values) for name, values in seconds.items()}


if __name__ == "__main__":
    main()
