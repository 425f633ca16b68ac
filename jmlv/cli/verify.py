"""Verify that labels stay in the top k over boxes, on test images or on files of one's own."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jmlv.bounds import CROWN, CROWNIBP, IBP
from jmlv.cli.inputs import Example, add_network_arguments, selected_example
from jmlv.cli.report import table, write_json
from jmlv.cli.sources import (
    add_file_arguments,
    chosen_network,
    image_files,
    kept,
    label_asked,
)
from jmlv.errors import DamagedFile
from jmlv.graph import Graph
from jmlv.interop import read_vnnlib, write_onnx, write_vnnlib
from jmlv.oracles import MILP, PGD, Bounds, BranchAndBound, Cascade, InputSplitting, verify
from jmlv.progress import TqdmProgress
from jmlv.properties import InTopK, Property
from jmlv.regions import Box
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
    where.add_argument("--neighborhood", type=Path, help="NPZ file that 'jmlv grow' wrote")
    where.add_argument("--vnnlib", type=Path, help="VNN-LIB file with box and violation")
    command.add_argument(
        "--only-object", action="store_true", help="change the object's pixels only"
    )
    command.add_argument(
        "--label",
        help="label to keep, by name or number; by default the other digit's, or with --images the whole label set",
    )  # fmt: skip
    command.add_argument("--k", type=int, default=2, help="size of the label set")
    command.add_argument("--oracle", choices=ORACLES, default="cascade", help="who decides")
    command.add_argument("--budget", type=float, default=60.0, help="seconds for each question")
    command.add_argument("--out", type=Path, help="folder for verdict.json and witness.npz")
    command.add_argument(
        "--export", type=Path, help="folder for network.onnx and the questions as VNN-LIB"
    )


class Question(NamedTuple):
    name: str
    region: Box
    property: Property


def run(arguments: argparse.Namespace) -> None:
    graph = chosen_network(arguments)
    questions = _questions(arguments, graph)
    if arguments.export is not None:
        _export(arguments.export, graph, questions)
    oracle, rows = ORACLES[arguments.oracle], []
    for name, region, prop in TqdmProgress(leave=False).wrap(questions, "questions"):
        verdict = verify(graph, region, prop, oracle, budget=arguments.budget)
        rows.append((name, repr(prop), verdict))
        if arguments.out is not None:
            _write(arguments.out / name if len(questions) > 1 else arguments.out, verdict, prop)
    if len(questions) == 1:
        print(f"{name}, {prop} over {region}\n{verdict}")
    else:
        print(table(HEADER, [_row(*row) for row in rows]))


def _questions(arguments: argparse.Namespace, graph: Graph) -> list[Question]:
    """What is asked of the network: of a file, of images in files, or of one test image."""
    if arguments.vnnlib is not None:
        if arguments.network is not None:
            raise ValueError(
                "vnnlib: is about the ONNX network's own inputs, not about images in [0, 1]; ask "
                "'jmlv solve NETWORK.onnx QUESTION.vnnlib'."
            )
        read = read_vnnlib(arguments.vnnlib, graph.input_shape)
        return [Question(f"case {i}", *specification) for i, specification in enumerate(read)]
    if arguments.images is not None:
        images = image_files(arguments.images, graph.input_shape, arguments.resize)
        return [
            Question(name, _around(arguments, x), kept(arguments, graph, x)) for name, x in images
        ]
    for option in ("weights", "network"):
        if getattr(arguments, option) is not None:
            raise ValueError(
                f"{option}: name images for the imported network with --images, or --vnnlib."
            )
    chosen = selected_example(arguments)
    label = chosen.target_label if arguments.label is None else label_asked(arguments, graph)
    region = _region(arguments, chosen)
    return [Question(f"image {chosen.name}", region, InTopK(label, arguments.k))]


def _around(arguments: argparse.Namespace, x: np.ndarray) -> Box:
    if arguments.neighborhood is not None or arguments.only_object:
        raise ValueError(
            "images: --neighborhood and --only-object need a test image, not --images."
        )
    return Box.around(x, np.float32(arguments.epsilon))


def _region(arguments: argparse.Namespace, example: Example) -> Box:
    if arguments.neighborhood is not None:
        return _stored(arguments.neighborhood)
    pixels = example.perturbed[..., None] if arguments.only_object else np.ones_like(example.x)
    return Box.around(example.x, np.float32(arguments.epsilon) * pixels.astype(np.float32))


def _stored(path: Path) -> Box:
    try:
        content = np.load(path)
        return Box.between(content["lower"], content["upper"])
    except (KeyError, ValueError, EOFError) as error:
        message = f"--neighborhood: {path} is not a file that 'jmlv grow' wrote ({error})."
        raise DamagedFile(message) from error


def _export(folder: Path, graph: Graph, questions: list[Question]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_onnx(graph, graph.input_shape, folder / "network.onnx")
    for i, question in enumerate(questions):
        write_vnnlib(question.region, question.property, graph.label_count, folder / f"{i}.vnnlib")


def _row(name: str, prop: str, verdict: Verdict) -> tuple:
    seconds = verdict.stats["seconds"]
    return name, prop, verdict.status.name, verdict.lower, verdict.upper, verdict.method, seconds


def _write(folder: Path, verdict, prop) -> None:
    content = {
        "status": verdict.status.name,
        "lower": verdict.lower,
        "upper": verdict.upper,
        "reason": verdict.reason,
        "property": repr(prop),
        "stats": {name: str(value) for name, value in verdict.stats.items()},
    }
    write_json(folder / "verdict.json", content)
    if verdict.witness is not None:
        np.savez(folder / "witness.npz", witness=verdict.witness)
