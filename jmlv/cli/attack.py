"""Attack the label sets of test images within a list of budgets."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import jax
import numpy as np

from jmlv.attacks import (
    CLASS,
    MIFGSM,
    MLALP,
    MLCW,
    PGD,
    SLAM,
    AttackResult,
    AutoMultiLabel,
    Decision,
    EnterTopK,
    Flip,
    FlipAll,
    Goal,
    Hide,
    HideAll,
    LeaveTopK,
    MLDeepFool,
    MLRank1,
    MLRank2,
    Show,
    ShowAll,
    Threshold,
    TopK,
    attack,
    attack_metrics,
)
from jmlv.cli.inputs import add_batch_arguments, batch
from jmlv.cli.options import refuse
from jmlv.cli.report import about, table, write_json
from jmlv.cli.sources import add_image_arguments, add_onnx_arguments, label_number, own_batch
from jmlv.data import MultiLabelImages
from jmlv.progress import TqdmProgress

METHODS = {
    "mifgsm": MIFGSM(),
    "slam": SLAM(),
    "class": CLASS(),
    "pgd": PGD(),
    "auto": AutoMultiLabel(),
    "mlalp": MLALP(),
    "mlcw": MLCW(),
    "mldeepfool": MLDeepFool(),
    "mlrank1": MLRank1(),
    "mlrank2": MLRank2(),
}
GOALS = (
    "flip-all", "show-all", "hide-all", "hide", "show", "flip", "leave-top-k", "enter-top-k",
)  # fmt: skip
HEADER = ("budget", "success rate", "flips", "rmsd", "l2", "linf")


def add_arguments(command: argparse.ArgumentParser) -> None:
    add_batch_arguments(command, images=16, seed="random starts", out="results/attack")
    add_onnx_arguments(command)
    add_image_arguments(command, "--images-from")
    command.add_argument("--method", choices=METHODS, default="mifgsm", help="how to search")
    command.add_argument("--norm", choices=("linf", "l2"), help="norm of budgets, where it is free")
    command.add_argument("--goal", choices=GOALS, default="leave-top-k", help="what to reach")
    command.add_argument(
        "--label",
        help="label of the goal, by name or number; by default the left object's, or the "
        "first of an ONNX network",
    )
    command.add_argument("--k", type=int, default=2, help="size of the label set")
    command.add_argument(
        "--threshold", type=float, help="decide by this probability instead of by the top k"
    )
    command.add_argument("--budgets", type=float, nargs="+", help="by default grey levels 1 to 25")
    command.add_argument("--only-object", action="store_true", help="change the left object only")


def run(arguments: argparse.Namespace) -> None:
    _refuse_what_does_not_fit(arguments)
    own = arguments.network is not None
    if own and arguments.only_object:
        raise ValueError("only_object: the objects of one's own images are not known.")
    model, data = own_batch(arguments) if own else batch(arguments)
    method, head = _method(arguments), about(model, data)
    result = attack(
        model,
        data.images,
        _goal(arguments, data),
        method,
        budgets=_budgets(arguments, method),
        key=jax.random.key(arguments.seed),
        mask=data.masks[:, 0] if arguments.only_object else None,
        decision=_decision(arguments),
        progress=TqdmProgress(leave=False),
    )
    rows = attack_metrics(result)
    _write(arguments.out, result, rows, data, head)
    print(table(HEADER, [tuple(row.values()) for row in rows]))
    print(f"\n{result}\nfiles are in {arguments.out}")


def _refuse_what_does_not_fit(arguments: argparse.Namespace) -> None:
    if arguments.goal.endswith("-all"):
        refuse(arguments, f"{arguments.goal} is about all labels.", "label")
    if arguments.goal == "show-all" and arguments.threshold is None:
        raise ValueError(
            "goal: show-all adds labels, and a top k has no room for more; give a --threshold."
        )
    if arguments.goal.endswith("top-k"):
        refuse(arguments, f"{arguments.goal} decides by the top {arguments.k}.", "threshold")
    elif arguments.threshold is not None:
        refuse(arguments, "not beside --threshold, which decides in its place.", "k")


def _method(arguments: argparse.Namespace):
    method = METHODS[arguments.method]
    if arguments.norm is None or arguments.norm == method.norm:
        return method
    fields = {field.name for field in dataclasses.fields(method)}
    if "norm" not in fields:
        raise ValueError(f"norm: {arguments.method} measures in {method.norm} only.")
    changes = {"norm": arguments.norm} | ({"methods": ()} if "methods" in fields else {})
    return dataclasses.replace(method, **changes)


def _budgets(arguments: argparse.Namespace, method) -> list[float] | None:
    if arguments.budgets is not None or not method.needs_budgets:
        return arguments.budgets
    levels = np.array([1, 2, 4, 8, 16, 25]) / 255
    return (levels if method.norm == "linf" else levels * 10).tolist()


def _goal(arguments: argparse.Namespace, data: MultiLabelImages) -> Goal:
    left = tuple(int(label) for label in data.object_labels[:, 0])
    label = left
    if arguments.label is not None:
        label = (label_number(arguments.label, data.label_names),) * len(data)
    each = tuple((one,) for one in label)
    goals = {
        "flip-all": FlipAll,
        "show-all": ShowAll,
        "hide-all": HideAll,
        "hide": lambda: Hide(each),
        "show": lambda: Show(each),
        "flip": lambda: Flip(each),
        "leave-top-k": lambda: LeaveTopK(label, arguments.k),
        "enter-top-k": lambda: EnterTopK(label, arguments.k),
    }
    return goals[arguments.goal]()


def _decision(arguments: argparse.Namespace) -> Decision | None:
    if arguments.goal.endswith("top-k"):
        return None
    return TopK(arguments.k) if arguments.threshold is None else Threshold(arguments.threshold)


def _write(
    folder: Path, result: AttackResult, rows: list[dict], data: MultiLabelImages, head: dict
) -> None:
    from jmlv.attacks import plots

    content = {
        **head,
        "method": repr(result.method),
        "goal": repr(result.goal),
        "decision": repr(result.decision),
        "images": len(data),
        "already": int(result.already.sum()),
        "seconds": result.seconds,
        "rows": rows,
    }
    write_json(folder / "attack.json", content)
    np.savez_compressed(
        folder / "attack.npz",
        images=result.images,
        success=result.success,
        flipped=result.flipped,
        scores_before=result.scores_before,
        scores=result.scores,
        budgets=result.budgets,
    )
    figures = {
        "confidences": plots.confidences(result, names=data.label_names),
        "change": plots.perturbation_map(result, data.images),
    }
    if np.isfinite(result.budgets).all():
        figures["flips"] = plots.flips_against_budget({type(result.method).__name__: result})
    for name, figure in figures.items():
        figure.savefig(folder / f"{name}.png", dpi=120)
