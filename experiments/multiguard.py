"""MultiGuard against Jia et al., and what its parts and parameters do: figures and tables.

    python experiments/multiguard.py             # double digits, half an hour
    python experiments/multiguard.py --quick     # a few minutes
    python experiments/multiguard.py --data mnist FOLDER
    python experiments/multiguard.py --data mulan FOLDER scene    # or yeast
    python experiments/multiguard.py --data coco FOLDER

Each study writes a figure, a table and the numbers (``<study>.png``, ``.txt``, ``.json``) under
``results/multiguard/<data>``. All studies vary one thing of the default setting; the certificates use
the images' true labels, and are right with probability 1 - alpha for each image. The network of the
default setting on digits is the committed ``double_digits_noise``; the others are trained here in the
same way, with the noise that they are smoothed with, and kept beside the results.
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
from flax import nnx
from sources import add_data_argument, source

from jmlv import checkpoints
from jmlv.cli.report import table, write_json
from jmlv.compilation import keep_compiled
from jmlv.progress import NoProgress, Progress, TqdmProgress
from jmlv.smoothing import (
    CertifiedMetrics,
    certified_intersection_size,
    certified_metrics,
    jia_certified_intersection_size,
    sample_counts,
)
from jmlv.smoothing.plots import certified_curves
from jmlv.training import AsymmetricLoss, GaussianNoise, NoDefence, binary_cross_entropy

LOSSES = {"asl": AsymmetricLoss(), "bce": binary_cross_entropy}
TEST_SEED = 2_000
NOISY_DIGITS = "double_digits_noise"


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

    @staticmethod
    def of(name: str, quick: bool) -> Setting:
        """The default setting of a source: about as many labels as its images have."""
        own = {"yeast": {"k": 5, "k_prime": 4}, "coco": {"k": 4, "k_prime": 3}}.get(name, {})
        return Setting(**own, n=200 if quick else Setting.n)


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
            f"k' = {base.k_prime}": (base, multiguard),
            f"k' = {base.k_prime}, no joint terms": (base, without_joint),
        },
        "k_prime": vary("k_prime", [1, 2, 3, 4]),
        "k": vary("k", [1, 2, 3, 4, 5]),
        "sigma": vary("sigma", [base.sigma / 2, base.sigma, 2 * base.sigma]),
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
    keep_compiled()
    options = parse()
    workshop = Workshop(options)
    base = Setting.of(workshop.source.name, options.quick)
    print(f"{platform.processor() or platform.machine()}, {jax.devices()[0].device_kind}")
    print(f"{workshop.data}\ndefault setting: {base}", workshop.source.note, sep="\n")
    for name, curves in studies(base).items():
        start = time.perf_counter()
        results = {label: workshop.measure(*curve) for label, curve in curves.items()}
        print(f"\n{name} ({time.perf_counter() - start:.0f} s)\n{workshop.write(name, results)}")
    print(f"\nfigures, tables and numbers are in {workshop.folder}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_data_argument(parser)
    parser.add_argument(
        "--checkpoints", type=Path, default=Path("checkpoints"), help="of the digits"
    )
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
        self.options, self.source = options, source(options.data)
        name = f"{self.source.name}_quick" if options.quick else self.source.name
        self.folder: Path = options.out / name
        self.progress: Progress = NoProgress() if options.quiet else TqdmProgress(leave=False)
        images = options.images or (20 if options.quick else 100)
        data = self.source.load("test", images, TEST_SEED)[:]
        self.data = data[data.labels.any(axis=1)]  # nothing to certify without a true label
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
        title = f"{name}: {len(self.data)} images, {self.data.origin} {self.source.note}".rstrip()
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

    def _network(self, sigma: float, loss: str, noise: bool) -> nnx.Module:
        """The committed network, or one trained here, from the results' folder if it is there."""
        if self.source.name == "digits" and (sigma, loss, noise) == (0.25, "asl", True):
            return checkpoints.restore(self.options.checkpoints / NOISY_DIGITS)[0]
        name = f"network_{loss}_{f'noise_{sigma:g}' if noise else 'no_noise'}"
        defence = GaussianNoise(sigma) if noise else NoDefence()
        return self.source.network(
            self.folder / name, LOSSES[loss], defence,
            quick=self.options.quick, progress=self.progress,
        )  # fmt: skip


if __name__ == "__main__":
    main()
