"""Verify that a label stays in the top k over a box or a stored neighbourhood."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from jmlv.bounds import CROWN, CROWNIBP, IBP
from jmlv.cli.inputs import Example, add_network_arguments, selected
from jmlv.cli.report import write_json
from jmlv.errors import DamagedFile
from jmlv.oracles import MILP, PGD, Bounds, Cascade, verify
from jmlv.properties import InTopK
from jmlv.regions import Box

ORACLES = {
    "cascade": Cascade(),
    "ibp": Bounds(IBP()),
    "crown-ibp": Bounds(CROWNIBP()),
    "crown": Bounds(CROWN()),
    "pgd": PGD(),
    "scip": MILP("scip"),
    "cp-sat": MILP("cp-sat"),
}


def add_arguments(command: argparse.ArgumentParser) -> None:
    add_network_arguments(command)
    where = command.add_mutually_exclusive_group()
    where.add_argument("--epsilon", type=float, default=0.01, help="radius around the image")
    where.add_argument("--neighborhood", type=Path, help="NPZ file that 'jmlv grow' wrote")
    command.add_argument("--only-object", action="store_true", help="change the object's pixels only")
    command.add_argument("--label", type=int, help="label to keep; by default the other digit's")
    command.add_argument("--k", type=int, default=2, help="size of the label set")
    command.add_argument("--oracle", choices=ORACLES, default="cascade", help="who decides")
    command.add_argument("--budget", type=float, default=60.0, help="seconds")
    command.add_argument("--out", type=Path, help="folder for verdict.json and witness.npz")


def run(arguments: argparse.Namespace) -> None:
    graph, example = selected(arguments)
    label = example.target_label if arguments.label is None else arguments.label
    prop = InTopK(label, arguments.k)
    region = _region(arguments, example)
    verdict = verify(graph, region, prop, ORACLES[arguments.oracle], budget=arguments.budget)
    print(f"image {example.name}, {prop} over {region}\n{verdict}")
    if arguments.out is not None:
        _write(arguments.out, verdict, prop)


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
