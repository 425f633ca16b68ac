"""How far from the optimum: certified sizes against proven upper bounds, on bands and on all layers.

    python experiments/optimality_gap.py                    # the published networks
    python experiments/optimality_gap.py --bands 0          # all layers

Every finished case is a line of results.jsonl in the output folder; an interrupted run resumes.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import campaign
import numpy as np
import published

import jmlv
from jmlv.cli.report import table

KEY = ("network", "image", "side", "bands", "seconds")


def main() -> None:
    options = parse()
    jmlv.keep_compiled()
    path = options.out / "results.jsonl"
    report(campaign.run_all(all_cases(options), run, path, "gaps", KEY), options.out)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", default=["plain", "linf", "x2"])
    parser.add_argument("--images", type=int, default=2)
    parser.add_argument("--bands", type=int, default=5, help="0 for all layers")
    parser.add_argument("--seconds", type=float, default=60.0, help="for each of the two bounds")
    parser.add_argument("--out", type=Path, default=Path("results/optimality_gap"))
    return parser.parse_args()


def all_cases(options: argparse.Namespace) -> list[dict]:
    return [
        {"network": n, "image": i, "side": s, "bands": options.bands, "seconds": options.seconds}
        for n in options.networks
        for i in range(options.images)
        for s in (0, 1)
    ]


def run(case: dict) -> dict:
    data, graph = published.images(), jmlv.trace(published.network(case["network"]), (64, 64, 1))
    layers = jmlv.Layers.around(data.mask(case["image"], case["side"]))
    weights = np.ones(layers.count)
    if case["bands"]:
        weights = np.bincount(layers.bands(case["bands"]), weights)
        layers = layers.banded(case["bands"])
    target = jmlv.InTopK(int(data.digits[case["image"], 1 - case["side"]]), 2)
    grown = jmlv.grow(
        graph, data.images[case["image"]], layers, target, weights=weights,
        budget=case["seconds"], optimality=case["seconds"],
    )  # fmt: skip
    return {
        **case, "size": grown.size, "upper": grown.upper_bound.value, "gap": grown.gap,
        "cuts": len(grown.upper_bound.cuts), "certified_by": grown.certified_by,
        "grow_seconds": grown.seconds,
    }  # fmt: skip


def report(records: list[dict], out: Path) -> None:
    rows = []
    for network in dict.fromkeys(r["network"] for r in records):
        members = [r for r in records if r["network"] == network]
        sizes, uppers, gaps = (np.array([m[k] for m in members]) for k in ("size", "upper", "gap"))
        rows.append(
            (network, len(members), sizes.mean(), uppers.mean(), uppers.mean() / sizes.mean(),
             gaps.min(), gaps.max())
        )  # fmt: skip
    header = "network", "cases", "certified", "upper", "ratio of means", "least gap", "largest gap"
    text = table(header, rows)
    (out / "table.txt").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
