"""What proofs of the network as rounded cost beside those of the real-valued one, on the published networks.

    python experiments/deployed.py [--networks linf plain x2] [--images 10] [--radii 0.003 0.01 0.02]
        [--out results/deployed]

Every label of an image is asked about (in the top 2, or not, as it is at the image itself) over boxes of every
radius, by CROWN: of the real-valued network, and of the network in float32 in any order of summation. One
JSON line an image and radius: how many were proven of each, how much the rounding errors take of the margin,
and processor time on a box that is new, once everything is compiled.
"""

from __future__ import annotations

import argparse
import collections
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import published
from asking import add_executor_arguments, ask
from recorded import add_record_argument, keep_table

import jmlv
from jmlv.campaigns import CallQuestion
from jmlv.cli.report import table

K = 2
CODE = (
    "experiments/deployed.py",
    "jmlv/oracles/deployed.py",
    "jmlv/bounds/rounding.py",
    "jmlv/bounds/crown.py",
)
DEPLOYED = {"real-valued": None, "float32": jmlv.Float32(), "tf32": jmlv.Float32("tf32")}


def main() -> None:
    arguments = parse()
    jmlv.keep_compiled()
    about = [
        {"network": network, "image": image, "radius": radius}
        for network in arguments.networks
        for image in range(arguments.images)
        for radius in arguments.radii
    ]
    asked = [CallQuestion("deployed:image", content) for content in about]
    heads, lines = rows_of(ask(asked, arguments, "images and radii"))
    keep_table(arguments, heads, lines, CODE)
    text = table(heads, lines) + "\n"
    (arguments.out / "table.txt").write_text(text)
    print(text)


def image(network: str, image: int, radius: float) -> dict[str, Any]:
    """How many of an image's labels are proven to stay as they are, and seconds."""
    f, x = published.network(network), published.images().images[image]
    order = np.argsort(-np.asarray(f(x[None])[0]))
    box, other = (jmlv.Box.around(x, np.float32(r)) for r in (radius, 0.9 * radius))
    proven, seconds, found = {}, {}, {}
    for name, deployed in DEPLOYED.items():
        list(_verdicts(f, other, order, deployed))  # compiles; forgets the box
        start = time.process_time()
        found[name] = list(_verdicts(f, box, order, deployed))
        seconds[name] = time.process_time() - start
        proven[name] = sum(verdict.robust for verdict in found[name])
    shares = [
        rounded.stats["rounding"] / real.lower
        for real, rounded in zip(found["real-valued"], found["float32"])
        if real.robust
    ]
    return {
        "network": network,
        "radius": radius,
        "questions": len(order),
        "proven": proven,
        "seconds": seconds,
        "share_of_margin": shares,
    }


def _verdicts(
    f: Any, box: jmlv.Box, order: np.ndarray, deployed: jmlv.Float32 | None
) -> Iterator[jmlv.Verdict]:
    """What CROWN proves of every label, highest score first."""
    for place, label in enumerate(map(int, order)):
        prop = jmlv.InTopK(label, K) if place < K else jmlv.NotInTopK(label, K)
        yield jmlv.verify(f, box, prop, jmlv.Bounds(), budget=None, deployed=deployed)


def rows_of(rows: list[dict]) -> tuple[list[str], list[list]]:
    """Heads, and a line for each network and radius."""
    groups = collections.defaultdict(list)
    for row in rows:
        groups[row["network"], row["radius"]].append(row)
    lines = []
    for (network, radius), members in sorted(groups.items()):
        proven, seconds = (
            {name: sum(row[what].get(name, 0) for row in members) for name in DEPLOYED}
            for what in ("proven", "seconds")
        )
        shares = [s for row in members for s in row["share_of_margin"]]
        lines.append([
            network, radius, sum(row["questions"] for row in members), *proven.values(),
            f"{np.median(shares):.1e}" if shares else "-",
            *(f"{seconds[name] / seconds['real-valued']:.2f}" for name in list(DEPLOYED)[1:]),
        ])  # fmt: skip
    heads = ["network", "radius", "questions", *DEPLOYED, "errors / margin",
             *(f"time, {name}" for name in list(DEPLOYED)[1:])]  # fmt: skip
    return heads, lines


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    published.add_networks_argument(parser)
    parser.add_argument("--images", type=int, default=10)
    parser.add_argument("--radii", nargs="+", type=float, default=[0.003, 0.01, 0.02])
    parser.add_argument("--out", type=Path, default=Path("results/deployed"))
    add_record_argument(parser)
    add_executor_arguments(parser)
    return parser.parse_args()


if __name__ == "__main__":
    main()
