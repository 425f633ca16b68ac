"""How many labels an attacker can change at once on images, at most and at least, over radii."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from jmlv.attacks import Decision, Threshold, TopK
from jmlv.cli.inputs import add_source_arguments
from jmlv.cli.options import add_report, refuse
from jmlv.cli.report import table
from jmlv.cli.sources import add_file_arguments, chosen_images, chosen_network, label_names
from jmlv.graph.fingerprint import fingerprint
from jmlv.guarantees import Flips, GuaranteeTable, flips
from jmlv.label_names import labels_text
from jmlv.progress import TqdmProgress
from jmlv.records import version, write_json
from jmlv.regions import Ball, Box, Region

HEADER = ("image", "radius", "changed", "removed", "added", "removed at the witness", "seconds")
NORMS = ("linf", "l2", "l1")


def add_arguments(command: argparse.ArgumentParser) -> None:
    add_source_arguments(command)
    add_file_arguments(command)
    command.add_argument("--first", type=int, default=1, help="only so many images")
    command.add_argument(
        "--epsilon", type=float, nargs="+", default=[0.01], help="radii around each image"
    )
    command.add_argument("--norm", choices=NORMS, default="linf", help="of the radii")
    command.add_argument("--k", type=int, default=2, help="the k highest scores are predicted")
    command.add_argument(
        "--threshold",
        type=float,
        help="probability above which a label is predicted, in place of --k",
    )
    command.add_argument("--budget", type=float, default=30.0, help="seconds an image and radius")
    command.add_argument(
        "--out",
        type=Path,
        help="folder for flips.json, and flips.png where matplotlib is installed",
    )
    add_report(command)


def run(arguments: argparse.Namespace) -> None:
    if arguments.threshold is not None:
        refuse(arguments, "not beside --threshold, which decides in its place.", "k")
    if arguments.report and arguments.out is None:
        raise ValueError("report: the pages are written into the folder of --out; name one.")
    graph = chosen_network(arguments)
    images = chosen_images(arguments, graph.input_shape)
    if not 1 <= arguments.first <= len(images):
        raise ValueError(f"first: must be in 1..{len(images)}, got {arguments.first}.")
    decision, images = _decision(arguments), images[: arguments.first]
    asked = [(radius, name, x) for radius in arguments.epsilon for name, x in images]
    results = [
        flips(graph, _region(x, radius, arguments.norm), decision, x=x, budget=arguments.budget)
        for radius, _, x in TqdmProgress(leave=False).wrap(asked, "flips")
    ]
    names = label_names(arguments, graph.label_count)
    print(f"{decision}, radii in {arguments.norm}\n")
    print(table(HEADER, [_row(n, r, f, names) for (r, n, _), f in zip(asked, results)]))
    if arguments.out is not None:
        _write(arguments, fingerprint(graph), asked, results)
    if arguments.report:
        for (radius, name, x), found in zip(asked, results):
            stem = f"{name.replace(' ', '_')}_{radius!r}"
            found.report(arguments.out / f"{stem}.html", x=x, names=names)


def _decision(arguments: argparse.Namespace) -> Decision:
    if arguments.threshold is not None:
        return Threshold(arguments.threshold)
    return TopK(arguments.k)


def _region(x: np.ndarray, radius: float, norm: str) -> Region:
    return Box.around(x, np.float32(radius)) if norm == "linf" else Ball(x, radius, int(norm[1]))


def _row(name: str, radius: float, found: Flips, names: tuple[str, ...]) -> tuple:
    counts = (count.text for count in found.counts.values())
    return name, radius, *counts, labels_text(found.removed.labels, names), found.seconds


def _write(arguments: argparse.Namespace, network: str, asked: list, results: list[Flips]) -> None:
    """The numbers, and the picture of changed labels."""
    rows = [
        {"image": name, "radius": radius, "seconds": found.seconds, "present": found.present}
        | {
            kind: {"lower": count.lower, "upper": count.upper, "labels": count.labels}
            for kind, count in found.counts.items()
        }
        for (radius, name, _), found in zip(asked, results)
    ]
    head = {
        "jmlv": version(),
        "network": network,
        "norm": arguments.norm,
        "k": arguments.k if arguments.threshold is None else None,
        "threshold": arguments.threshold,
    }
    write_json(arguments.out / "flips.json", {**head, "results": rows})
    from jmlv.plotting import guarantees

    by_radius = np.array(results, object).reshape(len(arguments.epsilon), -1)
    counts = [[found.changed for found in row] for row in by_radius]
    numbers = GuaranteeTable.of(arguments.epsilon, counts).nested()
    figure = guarantees(numbers, radius=arguments.norm)
    figure.savefig(arguments.out / "flips.png", dpi=120)
