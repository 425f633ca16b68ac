"""Sizes of certified neighbourhoods: networks x strategies x images x both directions.

    python experiments/layered_neighborhoods.py                       # the committed checkpoints
    python experiments/layered_neighborhoods.py --published           # the published networks
    python experiments/layered_neighborhoods.py --mnist FOLDER --checkpoint PARENT_OF_THREE

Every finished case is a line of results.jsonl in the output folder, keyed by what was asked, so an
interrupted run goes on where it stopped. At the end: a table of means, a paired Wilcoxon test of
the networks under the best strategy, and a figure of sizes.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path

import numpy as np
import published
from scipy.stats import wilcoxon

import jmlv
from jmlv.cli.inputs import example, network, test_images
from jmlv.cli.report import table

STRATEGIES = (
    jmlv.Uniform(),
    jmlv.LayerByLayer("outward"),
    jmlv.LayerByLayer("inward"),
    jmlv.GradientGuided(),
    jmlv.LayerSearch(complete=None),
    jmlv.LayerSearch(),
)
WEIGHTS = {"equal": jmlv.equal, "decaying": jmlv.decaying, "pixels": jmlv.by_pixel_count}


def main() -> None:
    options = parse()
    done = load(options.out / "results.jsonl")
    cases = [case for case in all_cases(options) if key(case) not in done]
    progress = jmlv.TqdmProgress()
    for case in progress.wrap(cases, "neighbourhoods"):
        record = run(case, options.budget)
        done[key(case)] = record
        append(options.out / "results.jsonl", record)
    report(list(done.values()), options.out)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--published", action="store_true", help="the published networks")
    parser.add_argument("--mnist", help="folder of MNIST files, for networks trained on them")
    parser.add_argument("--checkpoint", type=Path, default=Path("checkpoints"))
    parser.add_argument("--images", type=int, default=20)
    parser.add_argument("--weights", nargs="+", choices=WEIGHTS, default=["equal"])
    parser.add_argument("--skip-complete", action="store_true", help="leave the complete phase out")
    parser.add_argument("--budget", type=float, default=120.0)
    parser.add_argument("--out", type=Path, default=Path("results/layered_neighborhoods"))
    return parser.parse_args()


def all_cases(options: argparse.Namespace):
    """Dictionaries with everything that one run needs, cheap networks first."""
    strategies = STRATEGIES[:-1] if options.skip_complete else STRATEGIES
    for name, graph, examples in subjects(options):
        for label, image, mask, target in examples:
            for weights in options.weights:
                for strategy in strategies:
                    yield {
                        "network": name,
                        "image": label,
                        "weights": weights,
                        "strategy": repr(strategy),
                        "work": (graph, image, mask, target, strategy),
                    }


def subjects(options: argparse.Namespace):
    """Name, graph and examples (name, image, mask, target label) of each network."""
    if options.published:
        data = published.images()
        for name in published.CONFIGS:
            graph = jmlv.trace(published.network(name), data.images.shape[1:])
            yield name, graph, [
                (f"{i} side {side}", data.images[i], data.mask(i, side), int(data.digits[i, 1 - side]))
                for i in range(min(options.images, len(data.images)))
                for side in (0, 1)
            ]
    else:
        data = test_images(options.mnist)
        source = "double_mnist" if options.mnist else "double_digits"
        for name in ("none", "l0", "linf"):
            graph, _ = network(options.checkpoint / f"{source}_{name}")
            chosen = [example(data, i, side) for i in range(options.images) for side in (0, 1)]
            yield name, graph, [
                (f"{e.name} side {n % 2}", e.x, e.perturbed, e.target_label) for n, e in enumerate(chosen)
            ]


def run(case: dict, budget: float) -> dict:
    """Grows one neighbourhood; an image on which the property fails has size 0 and no strategy."""
    graph, image, mask, target, strategy = case["work"]
    layers, prop = jmlv.Layers.around(mask), jmlv.InTopK(target, 2)
    record = {name: case[name] for name in ("network", "image", "weights", "strategy")}
    if not float(prop.margin(graph.scores(image[None])[0])) > 0:
        return {**record, "name": strategy.name, "size": 0.0, "status": "MISCLASSIFIED"}
    weights = WEIGHTS[case["weights"]]
    grown = jmlv.grow(graph, image, layers, prop, strategy, weights=weights, budget=budget)
    attack = jmlv.verify(graph, grown.region, prop, jmlv.PGD(restarts=64, steps=100, seed=1))
    statuses = [status.value for status in grown.statuses]
    complete = getattr(strategy, "complete", None) is not None
    return {
        **grown.as_dict(),
        **record,
        "name": grown.strategy + (" + complete" if complete else ""),
        "attacked": attack.status.name,
        "attack_margin": attack.upper,
        "maximal": statuses.count("maximal"),
        "open": statuses.count("undecided") + statuses.count("maximal"),
    }


def key(case: dict) -> tuple:
    return tuple(case[name] for name in ("network", "image", "weights", "strategy"))


def load(path: Path) -> dict:
    """Finished cases; a last line that an interruption cut short is dropped."""
    done = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        done[key(record)] = record
    return done


def append(path: Path, record: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps(record) + "\n")


def report(records: list[dict], out: Path) -> None:
    grouped = defaultdict(list)
    for record in records:
        grouped[record["network"], record["weights"], record["name"]].append(record)
    rows = [(*group, *means(members)) for group, members in grouped.items()]
    header = ("network", "weights", "strategy", "cases", "mean size", "without free",
              "maximal of open", "queries", "median s", "broken by PGD")  # fmt: skip
    text = table(header, rows)
    (out / "table.txt").write_text(text + "\n")
    print(text)
    print_tests(grouped)
    figure(grouped, out / "sizes.png")


def means(members: list[dict]) -> tuple:
    right = [m for m in members if m["status"] != "MISCLASSIFIED"]
    opened = sum(m["open"] for m in right)
    return (
        len(members),
        float(np.mean([m["size"] for m in members])),
        float(np.mean([m.get("size_without_free", 0.0) for m in members])),
        float(sum(m["maximal"] for m in right) / max(1, opened)),
        float(np.mean([sum(m["queries"].values()) for m in right])),
        float(np.median([m["seconds"] for m in right])),
        sum(m["attacked"] == "NOT_ROBUST" for m in right),
    )


def print_tests(grouped: dict) -> None:
    """Paired comparison of networks on the same images, under the strategy with the largest sizes."""
    best = max(grouped, key=lambda g: np.mean([m["size"] for m in grouped[g]]))[2]
    names = sorted({network for network, _, name in grouped if name == best})
    for i, first in enumerate(names):
        for second in names[i + 1 :]:
            pairs = [
                {m["image"]: m["size"] for m in grouped.get((name, "equal", best), ())}
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

    groups = [g for g in grouped if g[1] == "equal"]
    names = list(dict.fromkeys(g[2] for g in groups))
    networks = list(dict.fromkeys(g[0] for g in groups))
    drawn = Figure(figsize=(1.6 * len(names) + 2, 4.2), layout="constrained")
    axes = drawn.subplots()
    width = 0.8 / len(networks)
    for n, name in enumerate(networks):
        sizes = [[m["size"] for m in grouped.get((name, "equal", s), ())] for s in names]
        place = np.arange(len(names)) + (n - (len(networks) - 1) / 2) * width
        axes.bar(place, [np.mean(s) if s else 0 for s in sizes], width, label=name)
        for x, values in zip(place, sizes):
            axes.plot(np.full(len(values), x), values, ".", color="black", markersize=3, alpha=0.5)
    axes.set_xticks(range(len(names)), [n.replace(", ", ",\n").replace(" + ", "\n+ ") for n in names])
    axes.set(ylabel="certified size, equal weights", yscale="symlog")
    axes.legend(title="network")
    drawn.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
