"""Sizes of certified neighbourhoods: networks x strategies x weights x images x both directions.

    python experiments/layered_neighborhoods.py                       # the committed checkpoints
    python experiments/layered_neighborhoods.py --published           # the published networks
    python experiments/layered_neighborhoods.py --mnist FOLDER --checkpoint PARENT_OF_THREE
    python experiments/layered_neighborhoods.py --cuts fixed sensitive --weights equal decaying pixels

Every finished case is a row of the folder ``answers`` in the output folder, keyed by what was asked, so
an interrupted run goes on where it stopped. At the end: a table of means, a paired Wilcoxon test of
the networks under the best strategy, and a figure of sizes. ``--cuts`` adds GradientGuided and
OracleGuided under each of the cutting weights named. Several images of a network grow at a time and
share the budget's seconds, so for seconds to compare with other methods' use ``--together 1``.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path

import growing
import numpy as np
from recorded import add_record_argument, keep_table
from scipy.stats import wilcoxon

import jmlv
from jmlv.campaigns import GrowQuestion
from jmlv.cli.report import table

STRATEGIES = (
    jmlv.Uniform(),
    jmlv.LayerByLayer("outward"),
    jmlv.LayerByLayer("inward"),
    jmlv.GradientGuided(cut=None),
    jmlv.GradientGuided(),
    jmlv.LayerSearch(complete=None),
    jmlv.LayerSearch(),
)
CUTS = {
    "fixed": jmlv.FixedCut(),
    "sensitive": jmlv.SensitivityCut("cut_sensitive"),
    "insensitive": jmlv.SensitivityCut("keep_sensitive"),
}


def main() -> None:
    options = parse()
    growing.use_all_cores()
    jmlv.keep_compiled()
    records = growing.grow_and_attack(all_questions(options), options, options.together)
    report(records, options.out, options)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    growing.add_subject_arguments(parser, images=20)
    parser.add_argument("--weights", nargs="+", choices=growing.WEIGHTS, default=["equal"])
    parser.add_argument("--cuts", nargs="+", choices=CUTS, default=[], help="which cutting weights")
    parser.add_argument("--only-cuts", action="store_true", help="leave the other strategies out")
    parser.add_argument("--oracle-seconds", type=float, default=2.0, help="of one of its queries")
    parser.add_argument("--skip-complete", action="store_true", help="leave the complete phase out")
    parser.add_argument("--together", type=int, default=4, help="images growing at a time")
    parser.add_argument("--out", type=Path, default=Path("results/layered_neighborhoods"))
    add_record_argument(parser)
    return parser.parse_args()


def strategies(options: argparse.Namespace) -> list[jmlv.Strategy]:
    plain = STRATEGIES[:-1] if options.skip_complete else STRATEGIES
    oracle = jmlv.MILP(weakest_point=True, time_limit=options.oracle_seconds)
    with_cuts = [
        strategy
        for cut in (CUTS[name] for name in options.cuts)
        for strategy in (jmlv.GradientGuided(cut=cut), jmlv.OracleGuided(cut, oracle))
    ]
    return list(dict.fromkeys([*(() if options.only_cuts else plain), *with_cuts]))


def all_questions(options: argparse.Namespace) -> list[GrowQuestion]:
    """Every combination, network by network; images that can grow together are neighbours."""
    return [
        growing.question(network, subject, strategy, options.budget, weights)
        for network, examples in growing.subjects(options)
        for weights in options.weights
        for strategy in strategies(options)
        for subject in examples
    ]


def report(records: list[dict], out: Path, options: argparse.Namespace | None = None) -> None:
    grouped = defaultdict(list)
    for record in records:
        grouped[record["network"], record["weights"], record["strategy"]].append(record)
    rows = [(*group, *growing.means(members)) for group, members in grouped.items()]
    text = table(("network", "weights", "strategy", *growing.MEANS), rows)
    keep_table(
        options,
        ("network", "weights", "strategy", *growing.MEANS),
        rows,
        [
            "experiments/layered_neighborhoods.py",
            "experiments/growing.py",
            "jmlv/neighborhoods",
            "jmlv/bounds",
            "jmlv/oracles",
        ],
    )
    (out / "table.txt").write_text(text + "\n")
    print(text)
    print_tests(grouped)
    figure(grouped, out / "sizes.png")


def print_tests(grouped: dict) -> None:
    """Paired comparison of networks on the same images, under the strategy with the largest sizes."""
    weights = next(iter(grouped))[1]
    groups = [g for g in grouped if g[1] == weights]
    best = max(groups, key=lambda g: np.mean([m["size"] for m in grouped[g]]))[2]
    names = sorted({network for network, _, name in grouped if name == best})
    for i, first in enumerate(names):
        for second in names[i + 1 :]:
            pairs = [
                {m["image"]: m["size"] for m in grouped.get((name, weights, best), ())}
                for name in (first, second)
            ]
            shared = sorted(pairs[0].keys() & pairs[1].keys())
            a, b = (np.array([p[image] for image in shared]) for p in pairs)
            if len(shared) > 5 and np.any(a != b):
                p = wilcoxon(a, b).pvalue
                print(f"{best}: {first} {a.mean():.3f} against {second} {b.mean():.3f}, "
                      f"{len(shared)} pairs, Wilcoxon p = {p:.2g}")  # fmt: skip


def figure(grouped: dict, path: Path) -> None:
    from matplotlib.figure import Figure

    weights = next(iter(grouped))[1]
    groups = [g for g in grouped if g[1] == weights]
    names = list(dict.fromkeys(g[2] for g in groups))
    networks = list(dict.fromkeys(g[0] for g in groups))
    drawn = Figure(figsize=(1.6 * len(names) + 2, 4.2), layout="constrained")
    axes = drawn.subplots()
    width = 0.8 / len(networks)
    for n, name in enumerate(networks):
        sizes = [[m["size"] for m in grouped.get((name, weights, s), ())] for s in names]
        place = np.arange(len(names)) + (n - (len(networks) - 1) / 2) * width
        axes.bar(place, [np.mean(s) if s else 0 for s in sizes], width, label=name)
        for x, values in zip(place, sizes):
            axes.plot(np.full(len(values), x), values, ".", color="black", markersize=3, alpha=0.5)
    axes.set_xticks(
        range(len(names)), [n.replace(", ", ",\n").replace(" + ", "\n+ ") for n in names]
    )
    axes.set(ylabel=f"certified size, {weights} weights", yscale="symlog")
    axes.legend(title="network")
    drawn.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
