"""MultiGuard against Jia et al., and what its parts and parameters do: figures and tables.

    python experiments/multiguard.py             # double digits, a few minutes
    python experiments/multiguard.py --quick     # about a minute
    python experiments/multiguard.py --mnist FOLDER

Each study writes a figure, a table and the numbers (``<study>.png``, ``.txt``, ``.json``) under
``results/multiguard/<data>``. All studies vary one thing of the default setting; the certificates use
the images' true labels, and are right with probability 1 - alpha for each image. The networks are
trained with the noise that they are smoothed with, and kept beside the results.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import platform
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from jmlv import checkpoints
from jmlv.cli.report import table, write_json
from jmlv.data import MultiLabelImages, Warp, double_digits, double_mnist
from jmlv.models import CNNConfig, MultiLabelCNN
from jmlv.progress import NoProgress, Progress, TqdmProgress
from jmlv.smoothing import (
    CertifiedMetrics,
    certified_intersection_size,
    certified_metrics,
    jia_certified_intersection_size,
    sample_counts,
)
from jmlv.smoothing.plots import certified_curves
from jmlv.training import (
    AsymmetricLoss,
    GaussianNoise,
    NoDefence,
    TrainingConfig,
    binary_cross_entropy,
    train,
)

MODELS = {
    "digits": CNNConfig(channels=(16, 64), kernels=(6, 4), strides=(3, 2), paddings=(2, 0), pool=4),
    "mnist": CNNConfig(
        input_shape=(64, 64, 1), channels=(16, 64), kernels=(6, 5), strides=(4, 3),
        paddings=(1, 0), pool=4,
    ),
}  # fmt: skip
LOSSES = {"asl": AsymmetricLoss(), "bce": binary_cross_entropy}
TEST_SEED = 2_000


@dataclasses.dataclass(frozen=True)
class Setting:
    """One point of the studies: what is varied, with the default values."""

    k: int = 3
    k_prime: int = 2
    sigma: float = 0.25
    n: int = 1_000
    alpha: float = 0.001
    loss: str = "asl"
    noise: bool = True


def multiguard(counts: np.ndarray, labels: np.ndarray, setting: Setting, radius, **options):
    return certified_intersection_size(
        counts, setting.n, labels, **_theorem(setting), radius=radius, **options
    )


def jia(counts: np.ndarray, labels: np.ndarray, setting: Setting, radius, **options):
    return jia_certified_intersection_size(
        counts, setting.n, labels, **_theorem(setting), radius=radius, **options
    )


def _theorem(setting: Setting) -> dict:
    return {name: getattr(setting, name) for name in ("k", "k_prime", "sigma", "alpha")}


without_joint = functools.partial(multiguard, joint_terms=False)
strong_jia = functools.partial(jia, single_terms=True)
Curve = tuple[Setting, Callable]


def studies(base: Setting) -> dict[str, dict[str, Curve]]:
    """The curves of every study by name."""

    def vary(name: str, values: list) -> dict[str, Curve]:
        changed = {v: dataclasses.replace(base, **{name: v}) for v in values}
        shown = name.replace("_prime", "'")
        return {f"{shown} = {v:g}": (setting, multiguard) for v, setting in changed.items()}

    one = dataclasses.replace(base, k_prime=1)
    untrained = dataclasses.replace(base, noise=False)
    return {
        "baseline": {
            "MultiGuard": (base, multiguard),
            "Jia et al., single-label terms too": (base, strong_jia),
            "Jia et al.": (base, jia),
        },
        "baseline_k_prime_1": {"MultiGuard": (one, multiguard), "Jia et al.": (one, jia)},
        "joint_terms": {
            "k' = 1": (one, multiguard),
            "k' = 1, no joint terms": (one, without_joint),
            "k' = 2": (base, multiguard),
            "k' = 2, no joint terms": (base, without_joint),
        },
        "k_prime": vary("k_prime", [1, 2, 3, 4]),
        "k": vary("k", [1, 2, 3, 4, 5]),
        "sigma": vary("sigma", [0.125, 0.25, 0.5]),
        "n": vary("n", [base.n // 10, base.n, 10 * base.n]),
        "alpha": vary("alpha", [1e-1, 1e-2, 1e-3, 1e-4, 1e-5]),
        "training": {
            "noise, ASL": (base, multiguard),
            "noise, BCE": (dataclasses.replace(base, loss="bce"), multiguard),
            "no noise, ASL": (untrained, multiguard),
            "no noise, BCE": (dataclasses.replace(untrained, loss="bce"), multiguard),
        },
    }


def main() -> None:
    options = parse()
    workshop = Workshop(options)
    base = Setting(n=200 if options.quick else Setting.n)
    print(f"{platform.processor() or platform.machine()}, {jax.devices()[0].device_kind}")
    print(f"{workshop.data}\ndefault setting: {base}")
    for name, curves in studies(base).items():
        start = time.perf_counter()
        results = {label: workshop.measure(*curve) for label, curve in curves.items()}
        print(f"\n{name} ({time.perf_counter() - start:.0f} s)\n{workshop.write(name, results)}")
    print(f"\nfigures, tables and numbers are in {workshop.folder}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--mnist", type=Path, metavar="FOLDER", help="MNIST's IDX files")
    parser.add_argument("--images", type=int, help="test images; by default 100, with --quick 20")
    parser.add_argument("--quick", action="store_true", help="few images, samples and epochs")
    parser.add_argument("--radii", type=int, default=51, help="radii of a curve, from 0 to 4 sigma")
    parser.add_argument("--out", type=Path, default=Path("results/multiguard"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    return parser.parse_args()


class Workshop:
    """Data, networks and counts, each made once."""

    def __init__(self, options: argparse.Namespace):
        self.options = options
        self.kind = "digits" if options.mnist is None else "mnist"
        name = f"{self.kind}_quick" if options.quick else self.kind
        self.folder: Path = options.out / name
        self.progress: Progress = NoProgress() if options.quiet else TqdmProgress(leave=False)
        images = options.images or (20 if options.quick else 100)
        self.data = self._load("test", images, TEST_SEED)
        self.radius = np.linspace(0, 4 * Setting.sigma, options.radii)
        self.counts = functools.cache(self._counts)
        self.network = functools.cache(self._network)

    def measure(self, setting: Setting, method: Callable) -> CertifiedMetrics:
        sampled = (setting.sigma, setting.k_prime, setting.n, setting.loss, setting.noise)
        sizes = method(self.counts(*sampled), self.data.labels, setting, self.radius)
        return certified_metrics(sizes, self.data.labels, k=setting.k, radius=self.radius)

    def write(self, name: str, results: dict[str, CertifiedMetrics]) -> str:
        """Writes the figure, the numbers and the table; returns the table."""
        shown = [0, *range(len(self.radius) // 10, len(self.radius), len(self.radius) // 5)][:5]
        rows = [
            (label, field, *(float(getattr(result, field)[i]) for i in shown))
            for field in ("precision", "recall", "f1")
            for label, result in results.items()
        ]
        text = table(("curve", "metric", *(f"R = {self.radius[i]:.2f}" for i in shown)), rows)
        content = {label: result.as_dict() for label, result in results.items()}
        write_json(self.folder / f"{name}.json", content)
        (self.folder / f"{name}.txt").write_text(text + "\n")
        title = f"{name}: {len(self.data)} images, {self.data.origin}"
        certified_curves(results, title=title).savefig(self.folder / f"{name}.png", dpi=120)
        return text

    def _counts(self, sigma: float, k_prime: int, n: int, loss: str, noise: bool) -> np.ndarray:
        """Counts (image, label); image ``i`` has its own key, whatever the setting."""
        network, key = self.network(sigma, loss, noise), jax.random.key(self.options.seed)
        images = self.progress.wrap(self.data.images, f"sigma {sigma:g}, k' {k_prime}, n {n}")
        return np.stack(
            [
                sample_counts(
                    network, x, sigma=sigma, n=n, k_prime=k_prime, key=jax.random.fold_in(key, i)
                )
                for i, x in enumerate(images)
            ]
        )

    def _network(self, sigma: float, loss: str, noise: bool) -> MultiLabelCNN:
        """A trained network, from the results' folder if it is there."""
        name = f"network_{loss}_{f'noise_{sigma:g}' if noise else 'no_noise'}"
        folder = self.folder / name
        try:
            return checkpoints.restore(folder)[0]
        except (FileNotFoundError, ValueError):  # not there, cut off, or of another format
            self._train(sigma if noise else None, loss, folder)
        return checkpoints.restore(folder)[0]

    def _train(self, sigma: float | None, loss: str, folder: Path) -> None:
        size, epochs = (6_000, 12) if self.options.quick else (16_000, 25)
        data = self._load("train", size, self.options.seed)
        config = TrainingConfig(epochs=epochs, learning_rate=1e-2, seed=self.options.seed)
        defence = NoDefence() if sigma is None else GaussianNoise(sigma)
        result = train(
            data, MODELS[self.kind], config,
            defence=defence, loss=LOSSES[loss], progress=self.progress,
        )  # fmt: skip
        if result.interrupted:
            raise SystemExit("interrupted while training")
        training = {"sigma": sigma, "loss": loss, **dataclasses.asdict(config)}
        metadata = checkpoints.Metadata(training=training)
        checkpoints.save(folder, result.model, metadata, overwrite=True)

    def _load(self, split: str, size: int, seed: int) -> MultiLabelImages:
        if self.kind == "mnist":
            return double_mnist(self.options.mnist, split, size=size, seed=seed)
        warp = Warp() if split == "train" else None
        return double_digits(split, size=size, seed=seed, warp=warp)


if __name__ == "__main__":
    main()
