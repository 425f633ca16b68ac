"""Grow a certified layered neighbourhood of one digit in which the other's label stays."""

from __future__ import annotations

import argparse
from pathlib import Path

from jmlv.bounds import CROWN, CROWNIBP
from jmlv.cli.inputs import add_network_arguments, selected
from jmlv.cli.report import table, write_grown, write_heatmap
from jmlv.neighborhoods import (
    GradientGuided,
    LayerByLayer,
    LayerSearch,
    LinearSteps,
    Uniform,
    by_pixel_count,
    decaying,
    equal,
    grow,
)
from jmlv.progress import TqdmProgress
from jmlv.regions import Layers

STRATEGIES = {
    "uniform": Uniform(),
    "outward": LayerByLayer("outward"),
    "inward": LayerByLayer("inward"),
    "search": LayerSearch(),
    "gradient": GradientGuided(),
    "gradient-crown-ibp": GradientGuided(LinearSteps(gradient=CROWNIBP())),
}
WEIGHTS = {"equal": equal, "decaying": decaying, "pixels": by_pixel_count}
BOUNDS = {"crown": CROWN(), "crown-ibp": CROWNIBP()}


def add_arguments(command: argparse.ArgumentParser) -> None:
    add_network_arguments(command)
    command.add_argument("--strategy", choices=STRATEGIES, default="search", help="how to search")
    command.add_argument("--weights", choices=WEIGHTS, default="equal", help="weight of each layer")
    command.add_argument(
        "--bound", choices=BOUNDS, default="crown", help="certificate of the search"
    )
    command.add_argument("--budget", type=float, default=60.0, help="seconds")
    command.add_argument(
        "--out", type=Path, default=Path("results/grow"), help="folder for the files"
    )


def run(arguments: argparse.Namespace) -> None:
    graph, example = selected(arguments)
    result = grow(
        graph,
        example.x,
        Layers.around(example.perturbed),
        example.property,
        STRATEGIES[arguments.strategy],
        weights=WEIGHTS[arguments.weights],
        bound=BOUNDS[arguments.bound],
        budget=arguments.budget,
        progress=TqdmProgress(leave=False),
    )
    name = f"image{arguments.image}_{arguments.perturb}_{arguments.strategy}"
    write_grown(arguments.out / name, result)
    write_heatmap(arguments.out / name, result, example.target)
    statuses = [status.value for status in result.statuses]
    columns = range(len(statuses)), map(float, result.epsilon), map(float, result.weights), statuses
    print(table(("layer", "epsilon", "weight", "status"), list(zip(*columns))))
    print(f"\n{result}\n{result.verdict}\nwritten to {arguments.out / name}.json, .npz and .png")
