"""Grow certified layered neighbourhoods of objects in which labels stay."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jmlv.bounds import CROWN, CROWNIBP
from jmlv.cli.inputs import add_network_arguments, selected
from jmlv.cli.masks import masks_for
from jmlv.cli.options import add_fail_on, add_report, exit_code, refuse
from jmlv.cli.report import table, write_grown, write_heatmap
from jmlv.cli.sources import (
    add_image_arguments,
    add_onnx_arguments,
    chosen_network,
    image_files,
    kept,
    label_names,
)
from jmlv.graph import Graph
from jmlv.neighborhoods import (
    GradientGuided,
    GrownNeighborhood,
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
from jmlv.properties import Property
from jmlv.regions import Layers
from jmlv.shown import at_least
from jmlv.words import kept as kept_in_words

STRATEGIES = {
    "uniform": Uniform(),
    "outward": LayerByLayer("outward"),
    "inward": LayerByLayer("inward"),
    "search": LayerSearch(),
    "gradient": GradientGuided(),
    "gradient-crown-ibp": GradientGuided(steps=LinearSteps(gradient=CROWNIBP())),
}
WEIGHTS = {"equal": equal, "decaying": decaying, "pixels": by_pixel_count}
BOUNDS = {"crown": CROWN(), "crown-ibp": CROWNIBP()}


def add_arguments(command: argparse.ArgumentParser) -> None:
    add_network_arguments(command)
    add_onnx_arguments(command)
    add_image_arguments(command)
    command.add_argument("--masks", type=Path, metavar="PATH",
                         help="the perturbed objects: a picture, a folder of them, or COCO's JSON")  # fmt: skip
    command.add_argument("--object", help="category of the perturbed objects in COCO's JSON")
    command.add_argument("--label", help="label to keep in one's own images, by name or number; by "
                         "default all of the top k")  # fmt: skip
    command.add_argument("--k", type=int, default=2, help="size of the label set")
    command.add_argument("--strategy", choices=STRATEGIES, default="search", help="how to search")
    command.add_argument("--weights", choices=WEIGHTS, default="equal", help="weight of each layer")
    command.add_argument(
        "--bound", choices=BOUNDS, default="crown", help="certificate of the search"
    )
    add_fail_on(command)
    add_report(command)
    command.add_argument("--budget", type=float, default=60.0, help="seconds")
    command.add_argument(
        "--out", type=Path, default=Path("results/grow"), help="folder for the files"
    )


class Case(NamedTuple):
    """One object to grow around."""

    name: str
    x: np.ndarray
    perturbed: np.ndarray
    target: np.ndarray | None
    property: Property
    label_names: tuple[str, ...] = ()
    object_labels: tuple[int, int] | None = None


def run(arguments: argparse.Namespace) -> int:
    own = arguments.network is not None
    graph, cases = _own_cases(arguments) if own else _test_case(arguments)
    statuses = []
    for case in cases:
        result = grow(
            graph,
            case.x,
            Layers.around(case.perturbed),
            case.property,
            STRATEGIES[arguments.strategy],
            weights=WEIGHTS[arguments.weights],
            bound=BOUNDS[arguments.bound],
            budget=arguments.budget,
            progress=TqdmProgress(leave=False),
        )
        result = dataclasses.replace(result, label_names=case.label_names)
        path = arguments.out / f"{case.name}_{arguments.strategy}"
        _write(path, result, case)
        if arguments.report:
            result.report(path.with_name(path.name + ".html"), graph, target=case.target)
            print(f"a page for people is in {path}.html")
        statuses.append(result.verdict.status)
    return exit_code(arguments, statuses)


def _write(path: Path, result: GrownNeighborhood, case: Case) -> None:
    write_grown(path, result)
    write_heatmap(path, result, case.target, case.object_labels)
    statuses = [status.value for status in result.statuses]
    columns = (
        range(len(statuses)),
        map(at_least, result.epsilon),
        map(float, result.weights),
        statuses,
    )
    print(table(("layer", "epsilon", "weight", "status"), list(zip(*columns))))
    asked = f"{case.property}: {kept_in_words(case.property, case.label_names)}"
    print(f"\n{asked}\n{result}\n{result.verdict}\nwritten to {path}.json, .npz and .png")


def _test_case(arguments: argparse.Namespace) -> tuple[Graph, list[Case]]:
    """One digit of a test image, and the other one's label."""
    own = (
        "images",
        "masks",
        "object",
        "label",
        "k",
        "names",
        "image_shape",
        "mean",
        "std",
        "resize",
    )
    refuse(arguments, "about a network of one's own; name it with --network.", *own)
    graph, example = selected(arguments)
    name = f"image{arguments.image}_{arguments.perturb}"
    case = Case(
        name,
        example.x,
        example.perturbed,
        example.target,
        example.property,
        example.label_names,
        (example.perturbed_label, example.target_label),
    )
    return graph, [case]


def _own_cases(arguments: argparse.Namespace) -> tuple[Graph, list[Case]]:
    """The object of every image in files."""
    if arguments.images is None or arguments.masks is None:
        raise ValueError("network: name its images with --images, and their objects with --masks.")
    refuse(arguments, "not beside --network: its images are files.", "image", "perturb")
    graph = chosen_network(arguments)
    known = label_names(arguments, graph.label_count)
    images = image_files(arguments.images, graph.input_shape, arguments.resize)
    names = [name for name, _ in images]
    size = graph.input_shape[:2]
    masks = masks_for(arguments.masks, names, size, arguments.object, arguments.resize)
    return graph, [
        Case(name, x, mask, None, kept(arguments, graph, x), known)
        for (name, x), mask in zip(images, masks)
    ]
