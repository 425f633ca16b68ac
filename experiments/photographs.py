"""A demonstration on photographs: how much one object may change before another's label is lost.

    python experiments/photographs.py                      # COCO in ../shared/data/coco
    python experiments/photographs.py --data FOLDER        # COCO's layout elsewhere
    python experiments/photographs.py --figure 86          # this photograph's figure for the README

It shows that boxes of real photographs become layers, and that neighbourhoods grow around them. It
says nothing about new photographs: a small network is trained for about a minute, adversarially, on
the very photographs that the neighbourhoods are of, those with two different labels.

In each photograph the box that is changed and the box whose label must stay among the top k are the
two of different labels that overlap least; k is the number of labels in the photograph. Layers are
rings of several pixels' width, and the size weighs each by its pixels. Each finished photograph is a
row of ``answers`` and a heat map, and the network is kept beside them, so that an interrupted run goes
on where it stopped.
"""

from __future__ import annotations

import argparse
import json
from functools import cache
from itertools import permutations
from pathlib import Path

import numpy as np
from asking import add_executor_arguments, ask
from flax import nnx

import jmlv
from jmlv import checkpoints
from jmlv.campaigns import CallQuestion
from jmlv.cli.report import table
from jmlv.data import MultiLabelImages, coco
from jmlv.models import CNNConfig
from jmlv.training import LinfDefence, TrainingConfig, top_k_accuracy, train

FOLDER = Path(__file__).resolve().parents[2] / "shared" / "data" / "coco"
FIGURES = Path(__file__).parent / "figures"
SIDE = 64
"""Height and width that photographs are resized to, in pixels."""

LEAST = 32
"""Pixels of a box that is used, after resizing."""

RING = 5
"""Width of a layer around the box, in pixels."""

NOTHING = 0.5 / 255
"""Less than this cannot be seen: half a grey level."""

DEFENCE = LinfDefence(epsilon=0.1, steps=3)
TRAINING = TrainingConfig(epochs=800, batch_size=21, learning_rate=3e-3)
STRATEGY = jmlv.LayerSearch(tighter=None, complete=None)
SHAREABLE = {4: "CC BY 2.0", 7: "no known copyright restrictions"}
"""COCO's numbers of the licences whose photographs may be shown changed, with a credit."""


def main() -> None:
    jmlv.keep_compiled()
    options = parse()
    everything = photographs(options.data)
    model, data = subject(options.data, options.out)
    right = top_k_accuracy(model, data.images, data.labels)
    print(
        f"trained on {len(everything)} photographs; of the {len(data)} with two labels the network "
        f"orders the labels of {right:.0%} rightly"
    )
    cases = [case(data, image, options.budget) for image in range(len(data))]
    if options.figure is not None:
        cases = [one for one in cases if one["photograph"] == options.figure]
        draw_figure(cases, jmlv.trace(model, data.image_shape), data, licences(options.data))
        return
    fixed = {"folder": str(options.data), "out": str(options.out)}
    questions = [
        CallQuestion(
            "photographs:grown", {**fixed, "image": image, "seconds": options.budget}, tags=one
        )
        for image, one in enumerate(cases)
    ]
    report(ask(questions, options, "photographs"), options.out)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=FOLDER, help="folder in COCO's layout")
    parser.add_argument("--budget", type=float, default=120.0, help="seconds for each photograph")
    parser.add_argument("--figure", type=int, help="only draw this photograph's figure")
    add_executor_arguments(parser)
    parser.add_argument("--out", type=Path, default=Path("results/photographs"))
    return parser.parse_args()


@cache
def subject(folder: Path, out: Path) -> tuple[nnx.Module, MultiLabelImages]:
    """The trained network, and the photographs that have a pair of boxes."""
    everything = photographs(folder)
    numbers = range(len(everything))
    chosen = [image for image in numbers if pair(everything, image) is not None]
    return network(everything, out / "network"), everything[chosen]


def photographs(folder: Path) -> MultiLabelImages:
    """All of them, decoded, with the labels that occur."""
    try:
        return coco(folder, side=SIDE, occurring=True)[:]
    except (OSError, ValueError) as error:
        raise SystemExit(f"--data: {error}") from error


def pair(data: MultiLabelImages, image: int) -> tuple[int, int] | None:
    """Which box to change and which to keep: of different labels, overlapping least, then largest.

    None where no two boxes that are large enough have different labels.
    """
    labels, masks = data.object_labels[image], data.masks[image]
    large = [box for box in range(len(labels)) if masks[box].sum() >= LEAST]
    pairs = [(a, b) for a, b in permutations(large, 2) if labels[a] != labels[b]]

    def order(boxes: tuple[int, int]) -> tuple[float, int]:
        changed, kept = (masks[box] for box in boxes)
        return (changed & kept).sum() / kept.sum(), -changed.sum()

    return min(pairs, key=order, default=None)


def network(data: MultiLabelImages, folder: Path) -> nnx.Module:
    """The trained network, from the folder if it is there."""
    try:
        return checkpoints.restore(folder)[0]
    except FileNotFoundError:
        pass
    labels = data.labels.shape[1]
    sizes = CNNConfig(data.image_shape, (8, 16), (6, 4), (3, 2), (1, 1), pool=None, labels=labels)
    result = train(data, sizes, TRAINING, defence=DEFENCE, progress=jmlv.TqdmProgress())
    if result.interrupted:
        raise SystemExit("interrupted while training")
    checkpoints.save(
        folder, result.model, checkpoints.Metadata({"origin": data.origin}), overwrite=True
    )
    return result.model


def licences(folder: Path) -> dict[int, tuple[int, str]]:
    """The licence's number and the address of every photograph, which COCO's JSON says."""
    content = json.loads((folder / "annotations" / "instances_train2017.json").read_text())
    return {image["id"]: (image["license"], image["flickr_url"]) for image in content["images"]}


def case(data: MultiLabelImages, image: int, budget: float) -> dict:
    """What identifies one photograph's run."""
    changed, kept = pair(data, image)
    name = data.label_names[data.object_labels[image, kept]]
    return {
        "photograph": int(data.source_indices[image, 0]),
        "changed": f"{data.label_names[data.object_labels[image, changed]]} (box {changed})",
        "kept": f"{name} (box {kept})",
        "budget": budget,
    }


def grow(
    graph: jmlv.Graph, data: MultiLabelImages, image: int, budget: float
) -> jmlv.GrownNeighborhood | None:
    """The neighbourhood, or None where the label is not among the top k of the photograph itself."""
    changed, kept = pair(data, image)
    property = jmlv.InTopK(int(data.object_labels[image, kept]), int(data.labels[image].sum()))
    x = data.images[image]
    if not float(property.margin(graph.scores(x[None])[0])) > 0:
        return None
    layers = rings(data.masks[image, changed])
    settings = dict(weights=jmlv.by_pixel_count, budget=budget, maximality=None)
    return jmlv.grow(graph, x, layers, property, STRATEGY, **settings)


def rings(mask: np.ndarray) -> jmlv.Layers:
    """The box, and around it layers of several pixels' width."""
    distance = np.asarray(jmlv.Layers.around(mask).index)
    index = (distance + RING - 1) // RING
    return jmlv.Layers(index, int(index.max()) + 1)


def grown(folder: str, out: str, image: int, seconds: float) -> dict:
    """Grows and draws; the record of one photograph."""
    model, data = subject(Path(folder), Path(out))
    result = grow(jmlv.trace(model, data.image_shape), data, image, seconds)
    if result is None:
        return {"size": 0.0, "status": "MISCLASSIFIED"}
    drawn = figure(image, data, licences(Path(folder)), result)
    drawn.savefig(Path(out, f"{int(data.source_indices[image, 0])}.png"), dpi=110)
    return result.as_dict()


def figure(image: int, data: MultiLabelImages, credits: dict, result: jmlv.GrownNeighborhood):
    changed, kept = pair(data, image)
    names = (data.label_names[data.object_labels[image, box]] for box in (changed, kept))
    title = (
        "How much the {} and what is around it may change while the label '{}' stays in the top "
        "{}\n{}"
    ).format(*names, result.property.k, credit(int(data.source_indices[image, 0]), credits))
    drawn = jmlv.plotting.heatmap(result, target=data.masks[image, kept], title=title)
    fixed = np.asarray(result.layers.spread(result.epsilon))[..., 0] < NOTHING
    drawn.axes[1].imshow(result.x, alpha=0.5 * fixed, interpolation="nearest")
    drawn.axes[1].set_title("epsilon by layer, the photograph where it is 0")
    return drawn


def credit(number: int, credits: dict) -> str:
    licence, address = credits[number]
    return f"COCO {number}, {SHAREABLE.get(licence, 'not for sharing')}, {address.split('//')[-1]}, resized"


def draw_figure(
    cases: list[dict], graph: jmlv.Graph, data: MultiLabelImages, credits: dict
) -> None:
    """Writes one photograph's figure where the README shows it, if its licence allows that."""
    for one in cases:
        if credits[one["photograph"]][0] not in SHAREABLE:
            continue
        image = list(data.source_indices[:, 0]).index(one["photograph"])
        result = grow(graph, data, image, one["budget"])
        if result is not None:
            figure(image, data, credits, result).savefig(FIGURES / "photographs.png", dpi=110)
            print(result)
            return
    raise SystemExit(
        "--figure: got no photograph with two labels, rightly ordered and free to share."
    )


def report(records: list[dict], out: Path) -> None:
    rows = [
        (r["photograph"], r["changed"], r["kept"], r["size"], r["status"], r.get("seconds", 0.0))
        for r in records
    ]
    text = table(("photograph", "changed", "kept", "size", "status", "seconds"), rows)
    (out / "table.txt").write_text(text + "\n")
    print(text)
    certified = [r["size"] for r in records if r["status"] == "ROBUST"]
    print(f"{len(certified)} certified, mean size {np.mean(certified or [0]):.3f}")


if __name__ == "__main__":
    main()
