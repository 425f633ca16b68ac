"""Verify that labels stay in the top k over boxes, on test images or on files of one's own."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jmlv.bounds import CROWN, CROWNIBP, IBP
from jmlv.cli.inputs import Example, add_network_arguments, selected_example
from jmlv.cli.options import add_fail_on, add_report, exit_code, refuse
from jmlv.cli.report import table
from jmlv.cli.sources import (
    add_file_arguments,
    chosen_network,
    image_files,
    kept,
    label_asked,
    label_names,
)
from jmlv.graph import Graph
from jmlv.graph.fingerprint import fingerprint
from jmlv.interop import read_vnnlib, write_onnx, write_vnnlib
from jmlv.label_names import label_text
from jmlv.neighborhoods import GrownNeighborhood
from jmlv.oracles import MILP, PGD, Bounds, BranchAndBound, Cascade, InputSplitting, verify
from jmlv.progress import TqdmProgress
from jmlv.properties import InTopK, Property
from jmlv.records import property_record, verdict_record, version, write_json
from jmlv.regions import Box, Region
from jmlv.shown import at_least, at_most
from jmlv.verdict import Verdict

ORACLES = {
    "cascade": Cascade(),
    "ibp": Bounds(IBP()),
    "crown-ibp": Bounds(CROWNIBP()),
    "crown": Bounds(CROWN()),
    "pgd": PGD(),
    "scip": MILP("scip"),
    "cp-sat": MILP("cp-sat"),
    "branching": BranchAndBound(),
    "input-splitting": InputSplitting(),
}


HEADER = ("image", "property", "status", "lower", "upper", "method", "seconds")


def add_arguments(command: argparse.ArgumentParser) -> None:
    add_network_arguments(command)
    add_file_arguments(command)
    where = command.add_mutually_exclusive_group()
    where.add_argument("--epsilon", type=float, default=0.01, help="radius around the image")
    where.add_argument(
        "--neighborhood", type=Path, help="NPZ file that 'jmlv grow' wrote: its image and property"
    )
    where.add_argument("--vnnlib", type=Path, help="VNN-LIB file with box and violation")
    command.add_argument(
        "--only-object", action="store_true", help="change the object's pixels only"
    )
    command.add_argument(
        "--label",
        help="label to keep, by name or number; by default the other digit's, or with --images the whole label set",
    )  # fmt: skip
    command.add_argument("--k", type=int, default=2, help="size of the label set")
    add_fail_on(command)
    add_report(command)
    command.add_argument("--oracle", choices=ORACLES, default="cascade", help="who decides")
    command.add_argument("--budget", type=float, default=60.0, help="seconds for each question")
    command.add_argument("--out", type=Path, help="folder for verdict.json and witness.npz")
    command.add_argument(
        "--export", type=Path, help="folder for network.onnx and the questions as VNN-LIB"
    )


class Question(NamedTuple):
    name: str
    region: Region
    property: Property
    label_names: tuple[str, ...] = ()


def run(arguments: argparse.Namespace) -> int:
    _refuse_what_does_not_fit(arguments)
    graph = chosen_network(arguments)
    questions = [_named(arguments, graph, question) for question in _questions(arguments, graph)]
    if arguments.export is not None:
        _export(arguments.export, graph, questions)
    oracle, verdicts = ORACLES[arguments.oracle], []
    for question in TqdmProgress(leave=False).wrap(questions, "questions"):
        verdict = verify(graph, question.region, question.property, oracle, budget=arguments.budget)
        verdicts.append(verdict)
        if arguments.out is not None:
            folder = arguments.out / question.name if len(questions) > 1 else arguments.out
            _write(folder, question, verdict, graph)
            if arguments.report:
                _report(folder, question, verdict, graph)
    if len(questions) == 1:
        print(f"{question.name}, {_asked(question)} over {question.region}\n{verdict}")
    else:
        print(table(HEADER, list(map(_row, questions, verdicts))))
    return exit_code(arguments, (verdict.status for verdict in verdicts))


TEST_IMAGE = ("image", "perturb", "mnist", "only_object")
"""Options that choose a test image, or need one."""


def _refuse_what_does_not_fit(arguments: argparse.Namespace) -> None:
    """Options that another one would leave without effect."""
    if arguments.report and arguments.out is None:
        raise ValueError("report: the page is written into the folder of --out; name one.")
    if arguments.vnnlib is not None:
        if arguments.network is not None:
            raise ValueError(
                "vnnlib: is about the ONNX network's own inputs, not about images in [0, 1]; ask "
                "'jmlv solve NETWORK.onnx QUESTION.vnnlib'."
            )
        reason = "not beside --vnnlib: the file says what the box and the property are."
        refuse(arguments, reason, "images", "label", "k", *TEST_IMAGE)
    if arguments.neighborhood is not None:
        reason = "not beside --neighborhood: the file has an image and a property of its own."
        refuse(arguments, reason, "images", "label", "k", *TEST_IMAGE)
    if arguments.images is not None:
        refuse(arguments, "not beside --images: these need a test image.", *TEST_IMAGE)


def _questions(arguments: argparse.Namespace, graph: Graph) -> list[Question]:
    """What is asked of the network: of a file, of images in files, or of one test image."""
    if arguments.vnnlib is not None:
        read = read_vnnlib(arguments.vnnlib, graph.input_shape)
        return [Question(f"case {i}", *specification) for i, specification in enumerate(read)]
    if arguments.neighborhood is not None:
        return [_stored(arguments.neighborhood, graph)]
    if arguments.images is not None:
        images = image_files(arguments.images, graph.input_shape, arguments.resize)
        epsilon = np.float32(arguments.epsilon)
        return [
            Question(name, Box.around(x, epsilon), kept(arguments, graph, x)) for name, x in images
        ]
    for option in ("weights", "network"):
        if getattr(arguments, option) is not None:
            raise ValueError(
                f"{option}: name images for the imported network with --images, or --vnnlib."
            )
    chosen = selected_example(arguments)
    label = chosen.target_label if arguments.label is None else label_asked(arguments, graph)
    property = InTopK(label, arguments.k)
    return [
        Question(f"image {chosen.name}", _around(arguments, chosen), property, chosen.label_names)
    ]


def _around(arguments: argparse.Namespace, example: Example) -> Box:
    pixels = example.perturbed[..., None] if arguments.only_object else np.ones_like(example.x)
    return Box.around(example.x, np.float32(arguments.epsilon) * pixels.astype(np.float32))


def _stored(path: Path, graph: Graph) -> Question:
    """The neighbourhood and the property of a file, of this network and no other."""
    grown = GrownNeighborhood.load(path)
    if grown.x.shape != graph.input_shape:
        raise ValueError(
            f"neighborhood: {path} is about images {grown.x.shape}, the network takes "
            f"{graph.input_shape}."
        )
    found = fingerprint(graph)
    if grown.network != found:
        raise ValueError(
            f"neighborhood: {path} was grown on the network {grown.network[:12]}, this one is "
            f"{found[:12]}. Name the network that it was grown on."
        )
    return Question(path.stem, grown.region, grown.property, grown.label_names)


def _named(arguments: argparse.Namespace, graph: Graph, question: Question) -> Question:
    if question.label_names and arguments.names is None:
        return question  # those of the file, or of the test images
    return question._replace(label_names=label_names(arguments, graph.label_count))


def _export(folder: Path, graph: Graph, questions: list[Question]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_onnx(graph, graph.input_shape, folder / "network.onnx")
    for i, (_, region, property, names) in enumerate(questions):
        write_vnnlib(region, property, graph.label_count, folder / f"{i}.vnnlib", names=names)


def _asked(question: Question) -> str:
    """The property, and the names of its labels where they say more than numbers."""
    labels = question.property.labels
    named = [label_text(label, question.label_names) for label in labels]
    told = [text for text, label in zip(named, labels) if text != str(label)]
    return f"{question.property!r}" + (f" [{', '.join(told)}]" if told else "")


def _row(question: Question, verdict: Verdict) -> tuple:
    what, seconds = _asked(question), verdict.stats["seconds"]
    status, method = verdict.status.name, verdict.method
    ends = at_least(verdict.lower), at_most(verdict.upper)
    return question.name, what, status, *ends, method, seconds


def _report(folder: Path, question: Question, verdict: Verdict, graph: Graph) -> None:
    _, region, property, names = question
    path = folder / "verdict.html"
    verdict.report(path, graph.scores, region=region, property=property, names=names)


def _write(folder: Path, question: Question, verdict: Verdict, graph: Graph) -> None:
    content = {
        "jmlv": version(),
        "network": fingerprint(graph),
        "name": question.name,
        "property": repr(question.property),
        "question": property_record(question.property, question.label_names),
        **verdict_record(verdict),
    }
    write_json(folder / "verdict.json", content)
    if verdict.witness is not None:
        np.savez(folder / "witness.npz", witness=verdict.witness)
