"""Proof beside attack beside smoothing: how many true labels stay in the top k, over radii.

    python experiments/guarantees.py                                    # l_inf, five digit networks
    python experiments/guarantees.py --norm l2 --radii 0.05 0.1 0.2 0.4 # beside MultiGuard, Jia et al.
    python experiments/guarantees.py --data mulan FOLDER scene          # trained here if need be

Every answer is a line of ``answers.jsonl`` in the output folder, so an interrupted run goes on where it
stopped. At the end: a table and a figure for each network. Compiling is not in the seconds, except for
programs that only later questions need.

What is proven and attacked is about the network itself. What smoothing certifies is about another
classifier, the network under Gaussian noise, in l2, and with probability 1 - alpha for each image. At equal
radius both say how many of an image's true labels are in a set of k labels.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
from flax import nnx
from recorded import add_record_argument, keep_table
from sources import Images, add_data_argument, source

import jmlv
from jmlv import checkpoints
from jmlv.cli.report import table
from jmlv.graph.fingerprint import fingerprint
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
    test = data.load("test", options.images, 2_000)
    options.out.mkdir(parents=True, exist_ok=True)
    kept: list[dict] = []
    for name, model in _networks(options, data):
        answers = Answers(options.out / "answers.jsonl")
        found = [
            [answers.kept(model, x, _true(y), radius, options) for x, y in _pairs(test)]
            for radius in options.radii
        ]
        smoothed = _smoothed(answers, model, test, options) if options.norm == "l2" else {}
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
    parser.add_argument("--out", type=Path, default=Path("results/guarantees"))
    add_record_argument(parser)
    options = parser.parse_args()
    options.radii = options.radii or RADII[options.norm]
    return options


def _networks(options: argparse.Namespace, data) -> Iterator[tuple[str, nnx.Module]]:
    if data.name == "digits":
        for name in options.networks:
            yield name, checkpoints.restore(options.checkpoints / name)[0]
    else:
        yield (
            data.name,
            data.network(options.out / f"network_{data.name}", jmlv.training.binary_cross_entropy),
        )


def _pairs(test: Images) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Inputs and label vectors; those without a label say nothing."""
    for x, y in zip(np.asarray(test.images, np.float32), test.labels):
        if y.any():
            yield x, y


def _true(labels: np.ndarray) -> tuple[int, ...]:
    return tuple(int(label) for label in np.flatnonzero(labels))


FORMAT = 1
"""Goes up when an answer can no longer be taken for that of the same question before."""


class Answers:
    """A file of one answer a line, by what was asked."""

    def __init__(self, path: Path) -> None:
        self.path = path
        whole = path.read_bytes().rpartition(b"\n")[0] if path.exists() else b""
        records = map(json.loads, whole.splitlines())
        self.known = {record["key"]: record for record in records}
        path.write_bytes(whole + b"\n" if whole else b"")  # a line that was cut off goes

    def kept(self, model, x, labels: tuple[int, ...], radius: float, options) -> Kept:
        """Both bounds on how many of the labels stay; answered once."""
        asked = labels, options.k, options.norm, radius, options.budget
        record = self._answer(model, x, asked, lambda: _asked(model, x, labels, radius, options))
        count = Count(record["lost_lower"], record["lost_upper"])
        return Kept(labels, options.k, count, record["queries"], record["seconds"])

    def counts(self, model, x, options) -> dict:
        """How often each label is in the top k under noise, and the seconds that took."""
        asked = "noise", options.sigma, SAMPLES, options.k
        return self._answer(model, x, asked, lambda: _counts(model, x, options))

    def _answer(self, model, x, asked, work) -> dict:
        key = f"{FORMAT} {version()} {fingerprint(model, x.shape)[:16]} {_hash_of(x)} {asked}"
        if key not in self.known:
            self.known[key] = {"key": key, "jmlv": version(), **work()}
            with self.path.open("a") as file:
                file.write(json.dumps(self.known[key]) + "\n")
        return self.known[key]


def _hash_of(x: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(x).tobytes()).hexdigest()[:16]


WARM_UP = 120.0
"""Seconds for the first question of a process, which compiles for all that follow; it is asked again."""


@functools.cache
def _warmed(shape: tuple[int, ...], norm: str) -> list:
    """Empty until the programs for such inputs are compiled."""
    return []


def _asked(model, x, labels, radius, options) -> dict:
    warmed = _warmed(x.shape, options.norm)
    if not warmed:
        warmed.append(_kept(model, x, labels, radius, options, WARM_UP))
    found = _kept(model, x, labels, radius, options, options.budget)
    lost = {"lost_lower": found.lost.lower, "lost_upper": found.lost.upper}
    return {**lost, "queries": found.queries, "seconds": found.seconds, "reason": found.lost.reason}


def _kept(model, x, labels, radius, options, budget: float) -> Kept:
    ball = jmlv.Ball(x, radius) if options.norm == "l2" else jmlv.Box.around(x, np.float32(radius))
    return jmlv.kept(model, ball, labels, options.k, x=x, budget=budget)


def _counts(model, x, options) -> dict:
    start, key = time.perf_counter(), jax.random.key(int(_hash_of(x)[:7], 16))
    setting = {"sigma": options.sigma, "n": SAMPLES, "k_prime": options.k}
    counts = sample_counts(model, x, **setting, key=key)
    return {"counts": np.asarray(counts).tolist(), "seconds": time.perf_counter() - start}


def _smoothed(answers: Answers, model, test: Images, options) -> dict[str, np.ndarray]:
    """What smoothing certifies for each radius and image."""
    found = [answers.counts(model, x, options) for x, _ in _pairs(test)]
    counts = np.array([record["counts"] for record in found])
    labels = np.stack([y for _, y in _pairs(test)])
    seconds = np.mean([record["seconds"] for record in found])
    print(f"smoothing: {seconds:.2f} s an image, sigma {options.sigma}, {SAMPLES} noisy inputs")
    setting = {"k": options.k, "k_prime": options.k, "sigma": options.sigma, "alpha": ALPHA}
    return {
        name: np.asarray(
            certify(counts, SAMPLES, labels, radius=np.array(options.radii), **setting)
        ).T.reshape(len(options.radii), len(labels))
        for name, certify in SMOOTHING.items()
    }


def _report(name: str, found: list[list[Kept]], smoothed: dict, options) -> list[dict]:
    """The table on standard output, and files; its rows."""
    numbers = GuaranteeTable.of(options.radii, found, smoothed)
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
