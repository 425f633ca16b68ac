"""Grow neighbourhoods on a few test images of the three committed networks, with figures."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from jmlv.cli.inputs import Example, example, network
from jmlv.cli.options import add_report
from jmlv.cli.report import table, write_grown, write_heatmap, write_json
from jmlv.data import double_digits
from jmlv.graph import Graph
from jmlv.label_names import label_text
from jmlv.neighborhoods import (
    GradientGuided,
    GrownNeighborhood,
    LayerByLayer,
    LayerSearch,
    Uniform,
    grow,
)
from jmlv.progress import TqdmProgress
from jmlv.regions import Layers
from jmlv.shown import at_least

DEFENCES = ("none", "l0", "linf")
STRATEGIES = (
    Uniform(),
    LayerByLayer("outward"),
    GradientGuided(),
    LayerSearch(rounds=2, tighter=None, complete=None),
)
HEADER = (
    "model", "image", "target", "strategy", "size", "certified by", "oracle queries", "seconds"
)  # fmt: skip


def add_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("--images", type=int, default=2, help="how many test images")
    command.add_argument(
        "--budget", type=float, default=60.0, help="seconds for each neighbourhood"
    )
    command.add_argument(
        "--checkpoints", type=Path, default=Path("checkpoints"), help="their folder"
    )
    command.add_argument(
        "--out", type=Path, default=Path("results/demo"), help="folder for the files"
    )
    add_report(command, "for the largest neighbourhood of each image, in --out")


def run(arguments: argparse.Namespace) -> None:
    data = double_digits("test", size=200)
    rows, records = [], []
    for defence in DEFENCES:
        graph, _ = network(arguments.checkpoints / f"double_digits_{defence}")
        for chosen in _examples(graph, data, arguments.images):
            results = _grow_all(graph, chosen, arguments, f"{defence} {chosen.name}")
            for result in results:
                rows.append(_row(defence, chosen, result))
                records.append({"model": defence, "image": chosen.name, **result.as_dict()})
                write_grown(arguments.out / _stem(defence, chosen, result), result)
            best = max(results, key=lambda result: result.size)
            labels = chosen.perturbed_label, chosen.target_label
            path = arguments.out / _stem(defence, chosen, best)
            write_heatmap(path, best, chosen.target, labels)
            if arguments.report:
                best.report(path.with_name(path.name + ".html"), graph, target=chosen.target)
    write_json(arguments.out / "table.json", records)
    print(table(HEADER, rows))
    print(f"\nheat maps, JSON and NPZ files are in {arguments.out}")


def _examples(graph: Graph, data, count: int) -> list[Example]:
    """Both directions of the first images whose label set the network predicts."""
    both = ([example(data, i, side) for side in (0, 1)] for i in range(len(data)))
    scores = graph.scores(data.images)
    right = (
        pair for i, pair in enumerate(both) if all(e.property.margin(scores[i]) > 0 for e in pair)
    )
    return [e for _, pair in zip(range(count), right) for e in pair]


def _grow_all(graph, chosen: Example, arguments, name: str) -> list[GrownNeighborhood]:
    layers = Layers.around(chosen.perturbed)
    strategies = TqdmProgress(leave=False).wrap(STRATEGIES, f"{name}, target {chosen.target_label}")
    grown = (
        grow(graph, chosen.x, layers, chosen.property, strategy, budget=arguments.budget)
        for strategy in strategies
    )
    return [dataclasses.replace(result, label_names=chosen.label_names) for result in grown]


def _row(defence: str, chosen: Example, result: GrownNeighborhood) -> tuple:
    return (
        defence,
        chosen.name,
        label_text(chosen.target_label, chosen.label_names),
        result.strategy,
        at_least(result.size),
        result.certified_by,
        sum(result.queries.values()),
        result.seconds,
    )


def _stem(defence: str, chosen: Example, result: GrownNeighborhood) -> str:
    image = chosen.name.split()[0]
    strategy = result.strategy.replace(",", "").replace(" ", "_")
    return f"{defence}_image{image}_keep{chosen.target_label}_{strategy}"
