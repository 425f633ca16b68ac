"""How far from the optimum: certified sizes against proven upper bounds, on bands and on all layers.

    python experiments/optimality_gap.py                    # the published networks
    python experiments/optimality_gap.py --bands 0          # all layers

Every finished case is a row of ``answers`` in the output folder; an interrupted run resumes.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import published
from asking import add_executor_arguments, ask
from growing import published_network
from recorded import add_record_argument, keep_table

import jmlv
from jmlv.campaigns import GrowQuestion, Network
from jmlv.cli.report import table


def main() -> None:
    options = parse()
    jmlv.keep_compiled()
    report(ask(questions(options), options, "gaps"), options.out, options)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    published.add_networks_argument(parser)
    parser.add_argument("--images", type=int, default=2)
    parser.add_argument("--bands", type=int, default=5, help="0 for all layers")
    parser.add_argument("--seconds", type=float, default=60.0, help="for each of the two bounds")
    add_executor_arguments(parser)
    parser.add_argument("--out", type=Path, default=Path("results/optimality_gap"))
    add_record_argument(parser)
    return parser.parse_args()


def questions(options: argparse.Namespace) -> list[GrowQuestion]:
    return [
        question(network, image, side, options)
        for network in map(published_network, options.networks)
        for image in range(options.images)
        for side in (0, 1)
    ]


def question(network: Network, image: int, side: int, options: argparse.Namespace) -> GrowQuestion:
    """A neighbourhood and an upper bound, on bands of layers or on all."""
    data = published.images()
    layers = jmlv.Layers.around(data.mask(image, side))
    weights = np.ones(layers.count)
    if options.bands:
        weights = np.bincount(layers.bands(options.bands), weights)
        layers = layers.banded(options.bands)
    target = jmlv.InTopK(int(data.digits[image, 1 - side]), 2)
    return GrowQuestion(
        network, data.images[image], layers, target, weights=weights, budget=options.seconds,
        optimality=options.seconds, tags={"network": network.name, "image": image, "side": side},
    )  # fmt: skip


def report(records: list[dict], out: Path, options: argparse.Namespace | None = None) -> None:
    rows = []
    for network in dict.fromkeys(r["network"] for r in records):
        members = [r for r in records if r["network"] == network]
        sizes, uppers = (np.array([m[k] for m in members]) for k in ("size", "upper_bound"))
        gaps = np.array([np.inf if m["gap"] is None else m["gap"] for m in members])
        rows.append(
            (network, len(members), sizes.mean(), uppers.mean(), uppers.mean() / sizes.mean(),
             gaps.min(), gaps.max())
        )  # fmt: skip
    header = "network", "cases", "certified", "upper", "ratio of means", "least gap", "largest gap"
    text = table(header, rows)
    keep_table(
        options,
        header,
        rows,
        ["experiments/optimality_gap.py", "jmlv/neighborhoods", "jmlv/bounds"],
    )
    (out / "table.txt").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
