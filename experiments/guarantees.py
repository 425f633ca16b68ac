"""Proof beside attack beside smoothing: how many true labels stay in the top k, over radii.

    python experiments/guarantees.py                                    # l_inf, five digit networks
    python experiments/guarantees.py --norm l2 --radii 0.05 0.1 0.2 0.4 # beside MultiGuard, Jia et al.
    python experiments/guarantees.py --data mulan FOLDER scene          # trained here if need be

Every answer is a row of ``answers`` in the output folder, so an interrupted run goes on where it stopped. At
the end: a table and a figure for each network; what holds at one radius counts at the others where it must
hold too. Compiling is not in the seconds, except for programs that only later questions need.

What is proven and attacked is about the network itself. What smoothing certifies is about another
classifier, the network under Gaussian noise, in l2, and with probability 1 - alpha for each image. At equal
radius both say how many of an image's true labels are in a set of k labels.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from asking import add_executor_arguments, ask
from flax import nnx
from recorded import add_record_argument, keep_table
from sources import Images, Source, add_data_argument, source

import jmlv
from jmlv import checkpoints
from jmlv.campaigns import CallQuestion, Checkpoint, Network
from jmlv.cli.report import table
from jmlv.guarantees import Count, GuaranteeTable, Kept
from jmlv.records import version, write_json
from jmlv.smoothing import (
    certified_intersection_size,
    jia_certified_intersection_size,
    sample_counts,
)

DIGITS = tuple(f"double_digits_{name}" for name in ("none", "linf", "l0", "ibp", "noise"))
RADII = {"linf": (0.003, 0.01, 0.03, 0.1), "l2": (0.05, 0.1, 0.25, 0.5)}
CODE = ["experiments/guarantees.py", "jmlv/guarantees", "jmlv/bounds", "jmlv/oracles"]
ALPHA, SAMPLES = 0.001, 1000
SMOOTHING = {
    "MultiGuard": certified_intersection_size,
    "Jia et al.": jia_certified_intersection_size,
}


def main() -> None:
    options = parse()
    jmlv.keep_compiled()
    data = source(options.data)
    test = list(_pairs(data.load("test", options.images, 2_000)))
    kept: list[dict] = []
    for name, folder in _networks(options, data):
        subject = Subject(name, folder, test)
        found = _kept_of(subject, options)
        smoothed = _smoothed(subject, options) if options.norm == "l2" else {}
        kept += _report(name, found, smoothed, options)
    keep_table(options, tuple(kept[0]), [tuple(row.values()) for row in kept], CODE)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_data_argument(parser)
    parser.add_argument("--networks", nargs="+", default=list(DIGITS), help="of the digits")
    parser.add_argument("--checkpoints", type=Path, default=Path("checkpoints"))
    parser.add_argument("--norm", choices=RADII, default="linf")
    parser.add_argument("--radii", nargs="+", type=float)
    parser.add_argument("--images", type=int, default=50)
    parser.add_argument("--k", type=int, default=2)
    parser.add_argument("--sigma", type=float, default=0.25, help="of the noise, for smoothing")
    parser.add_argument("--budget", type=float, default=30.0, help="seconds an image and radius")
    add_executor_arguments(parser)
    parser.add_argument("--out", type=Path, default=Path("results/guarantees"))
    add_record_argument(parser)
    options = parser.parse_args()
    options.radii = options.radii or RADII[options.norm]
    return options


def _networks(options: argparse.Namespace, data: Source) -> Iterator[tuple[str, Path]]:
    """Names and checkpoints; a table's network is trained here if need be."""
    if data.name == "digits":
        yield from ((name, options.checkpoints / name) for name in options.networks)
    else:
        folder = options.out / f"network_{data.name}"
        data.network(folder, jmlv.training.binary_cross_entropy)
        yield data.name, folder


def _pairs(test: Images) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Inputs and label vectors; those without a label say nothing."""
    for x, y in zip(np.asarray(test.images, np.float32), test.labels):
        if y.any():
            yield x, y


def _true(labels: np.ndarray) -> tuple[int, ...]:
    return tuple(int(label) for label in np.flatnonzero(labels))


@dataclasses.dataclass(frozen=True)
class Subject:
    """A network and the images it is asked about, with their label vectors."""

    name: str
    checkpoint: Path
    pairs: list[tuple[np.ndarray, np.ndarray]]

    def question(
        self, function: str, image: int, about: dict[str, Any], **tags: Any
    ) -> CallQuestion:
        """One about an image, to ``guarantees:FUNCTION``."""
        x, _ = self.pairs[image]
        return CallQuestion(
            f"guarantees:{function}",
            {"checkpoint": str(self.checkpoint), "x": x, **about},
            network=Network.of(Checkpoint(self.checkpoint)),
            tags={"network": self.name, "image": image, **tags},
        )


def _kept_of(subject: Subject, options: argparse.Namespace) -> list[list[Kept]]:
    """Both bounds on how many of each image's labels stay, (radius, image)."""
    about = {"k": options.k, "norm": options.norm, "seconds": options.budget}
    cases = [(radius, image) for radius in options.radii for image in range(len(subject.pairs))]
    questions = [
        subject.question(
            "kept", image, {**about, "radius": radius, "labels": _true(subject.pairs[image][1])},
            radius=radius,
        )
        for radius, image in cases
    ]  # fmt: skip
    found = [
        Kept(
            _true(subject.pairs[image][1]), options.k,
            Count(answer["lost_lower"], answer["lost_upper"]), answer["queries"], answer["seconds"],
        )
        for (_, image), answer in zip(cases, ask(questions, options, subject.name))
    ]  # fmt: skip
    count = len(subject.pairs)
    return [found[row : row + count] for row in range(0, len(found), count)]


WARM_UP = 120.0
"""Seconds for the first question of a process, which compiles for all that follow; it is asked again."""

_warmed: set[tuple[tuple[int, ...], str]] = set()
"""Shapes and norms whose programs this process has."""


@functools.cache
def _restored(checkpoint: str) -> nnx.Module:
    return checkpoints.restore(Path(checkpoint))[0]


def kept(
    checkpoint: str, x: np.ndarray, labels: tuple[int, ...], k: int, norm: str, radius: float,
    seconds: float,
) -> dict[str, Any]:  # fmt: skip
    """Both bounds on how many of the labels leave the top k."""
    ball = jmlv.Ball(x, radius) if norm == "l2" else jmlv.Box.around(x, np.float32(radius))
    answer = functools.partial(jmlv.kept, _restored(checkpoint), ball, labels, k, x=x)
    if (x.shape, norm) not in _warmed:
        answer(budget=WARM_UP)
        _warmed.add((x.shape, norm))
    found = answer(budget=seconds)
    lost = {"lost_lower": found.lost.lower, "lost_upper": found.lost.upper}
    return {**lost, "queries": found.queries, "seconds": found.seconds, "reason": found.lost.reason}


def counts(
    checkpoint: str, x: np.ndarray, k: int, sigma: float, samples: int, seed: int
) -> dict[str, Any]:
    """How often each label is in the top k under noise, and the seconds that took."""
    start, model = time.perf_counter(), _restored(checkpoint)
    setting = {"sigma": sigma, "n": samples, "k_prime": k}
    found = sample_counts(model, x, **setting, key=jax.random.key(seed))
    return {"counts": np.asarray(found).tolist(), "seconds": time.perf_counter() - start}


def _smoothed(subject: Subject, options: argparse.Namespace) -> dict[str, np.ndarray]:
    """What smoothing certifies for each radius and image."""
    about = {"k": options.k, "sigma": options.sigma, "samples": SAMPLES}
    questions = [
        subject.question("counts", image, {**about, "seed": image})
        for image in range(len(subject.pairs))
    ]
    found = ask(questions, options, f"{subject.name} under noise")
    sampled = np.array([record["counts"] for record in found])
    labels = np.stack([y for _, y in subject.pairs])
    seconds = np.mean([record["seconds"] for record in found])
    print(f"smoothing: {seconds:.2f} s an image, sigma {options.sigma}, {SAMPLES} noisy inputs")
    setting = {"k": options.k, "k_prime": options.k, "sigma": options.sigma, "alpha": ALPHA}
    return {
        name: np.asarray(
            certify(sampled, SAMPLES, labels, radius=np.array(options.radii), **setting)
        ).T.reshape(len(options.radii), len(labels))
        for name, certify in SMOOTHING.items()
    }


def _report(name: str, found: list[list[Kept]], smoothed: dict, options) -> list[dict]:
    """The table on standard output, and files; its rows."""
    numbers = GuaranteeTable.of(options.radii, found, smoothed).nested()
    rows = numbers.rows()
    for row, kept in zip(rows, found):
        row["seconds"] = float(np.mean([one.seconds for one in kept]))
        row["seconds, median"] = float(np.median([one.seconds for one in kept]))
    print(f"\n{name}, {len(found[0])} images, {options.norm}, top {options.k}")
    print(table(tuple(rows[0]), [tuple(row.values()) for row in rows]), flush=True)
    stem = f"{name}_{options.norm}"
    write_json(options.out / f"{stem}.json", {"jmlv": version(), "rows": rows})
    figure = jmlv.plotting.guarantees(numbers, radius=f"{options.norm} radius", title=name)
    figure.savefig(options.out / f"{stem}.png", dpi=120)
    return [{"network": name, **row} for row in rows]


if __name__ == "__main__":
    main()
