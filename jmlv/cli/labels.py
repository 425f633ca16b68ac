"""Settle every label of images as always, never or both among the top k over a box."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from jmlv.cli.inputs import add_source_arguments
from jmlv.cli.options import add_fail_on, add_report, exit_code
from jmlv.cli.report import table
from jmlv.cli.sources import add_file_arguments, chosen_images, chosen_network, label_names
from jmlv.label_names import label_text, labels_text
from jmlv.labels import LabelSet, LabelStatus, Plan, classify_labels_batch
from jmlv.labels.result import Origin
from jmlv.progress import TqdmProgress
from jmlv.regions import Box
from jmlv.verdict import Status

HEADER = ("image", *(status.value for status in LabelStatus), "settled by", "seconds")


def add_arguments(command: argparse.ArgumentParser) -> None:
    add_source_arguments(command)
    add_file_arguments(command)
    command.add_argument(
        "--first", type=int, help="only so many images; 1 of the test images by default"
    )
    command.add_argument("--epsilon", type=float, default=0.01, help="radius around each image")
    command.add_argument("--k", type=int, default=2, help="size of the label set")
    command.add_argument("--budget", type=float, default=60.0, help="seconds an image")
    add_fail_on(command)
    add_report(command)
    command.add_argument("--no-oracle", action="store_true", help="bounds and attacks alone")
    command.add_argument(
        "--out", type=Path, help="folder for labels.jsonl, in which an interrupted run resumes"
    )


def run(arguments: argparse.Namespace) -> int:
    if arguments.report and arguments.out is None:
        raise ValueError("report: the pages are written into the folder of --out; name one.")
    graph = chosen_network(arguments)
    images = _first(arguments, chosen_images(arguments, graph.input_shape))
    plan = Plan(oracle=None) if arguments.no_oracle else Plan()
    results = classify_labels_batch(
        graph,
        [Box.around(x, np.float32(arguments.epsilon)) for _, x in images],
        arguments.k,
        plan=plan,
        budget=arguments.budget,
        path=None if arguments.out is None else arguments.out / "labels.jsonl",
        progress=TqdmProgress(leave=False),
    )
    print(f"top {arguments.k} within {arguments.epsilon:g}, labels by status:\n")
    names = label_names(arguments, graph.label_count)
    print(table(HEADER, [_row(name, result, names) for (name, _), result in zip(images, results)]))
    for (name, _), result in zip(images, results):
        for label in result.labels(LabelStatus.UNKNOWN):
            print(f"{name}: label {label_text(label, names)}: {result.answers[label]}")
    if arguments.report:
        for (name, x), result in zip(images, results):
            result.report(arguments.out / f"{name.replace(' ', '_')}.html", x=x, names=names)
    for line in _origins(results):
        print(line)
    statuses = {status for result in results for status in result.status}
    return exit_code(arguments, (_AS_VERDICT[s] for s in statuses if s in _AS_VERDICT))


_AS_VERDICT = {LabelStatus.BOTH: Status.NOT_ROBUST, LabelStatus.UNKNOWN: Status.UNKNOWN}
"""What ``--fail-on`` calls a label that is not settled as always or never."""


def _origins(results: list[LabelSet]) -> Iterator[str]:
    """What was not answered now."""
    for origin in (Origin.RESTORED, Origin.RESUMED):
        found = [result for result in results if result.origin is origin]
        unsettled = sum(len(result.labels(LabelStatus.UNKNOWN)) for result in found)
        if found:
            left = f"; {unsettled} labels are open, a larger --budget takes them up again"
            yield f"{len(found)} of {len(results)} images: {origin.value}{left if unsettled else ''}"


def _first(arguments: argparse.Namespace, images: list) -> list:
    default = 1 if arguments.images is None else len(images)
    count = default if arguments.first is None else arguments.first
    if not 1 <= count <= len(images):
        raise ValueError(f"first: must be in 1..{len(images)}, got {count}.")
    return images[:count]


def _row(name: str, result: LabelSet, names: tuple[str, ...]) -> tuple:
    labels = (labels_text(result.labels(status), names) for status in LabelStatus)
    stages = ", ".join(f"{stage} {count}" for stage, count in result.stages.items())
    return (name, *labels, stages, result.seconds)
