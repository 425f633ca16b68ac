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
line of results.jsonl and a heat map, and the network is kept beside them, so that an interrupted run
goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
from itertools import permutations
from pathlib import Path

import campaign
import numpy as np
from flax import nnx

import jmlv
from jmlv import checkpoints
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
NAMES = ("photograph", "changed", "kept", "budget")
SHAREABLE = {4: "CC BY 2.0", 7: "no known copyright restrictions"}
"""COCO's numbers of the licences whose photographs may be shown changed, with a credit."""


def main() -> None:
    options = parse()
    everything = photographs(options.data)
    model = network(everything, options.out / "network")
    numbers = range(len(everything))
    data = everything[[image for image in numbers if pair(everything, image) is not None]]
    right = top_k_accuracy(model, data.images, data.labels)
    print(
        f"trained on {len(everything)} photographs; of the {len(data)} with two labels the network "
        f"orders the labels of {right:.0%} rightly"
    )
    graph = jmlv.trace(model, data.image_shape)
    credits = licences(options.data)
    cases = [case(graph, data, image, options.budget) for image in range(len(data))]
    if options.figure is not None:
        cases = [one for one in cases if one["photograph"] == options.figure]
        draw_figure(cases, data, credits)
        return
    records = campaign.run_all(
        cases,
        lambda one: grown(one, data, credits, options.out),
        options.out / "results.jsonl",
        "photographs",
        NAMES,
    )
    report(records, options.out)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=FOLDER, help="folder in COCO's layout")
    parser.add_argument("--budget", type=float, default=120.0, help="seconds for each photograph")
    parser.add_argument("--figure", type=int, help="only draw this photograph's figure")
    parser.add_argument("--out", type=Path, default=Path("results/photographs"))
    return parser.parse_args()


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


def case(graph: jmlv.Graph, data: MultiLabelImages, image: int, budget: float) -> dict:
    """What identifies one photograph's run, and what it needs under ``"work"``."""
    changed, kept = pair(data, image)
    name = data.label_names[data.object_labels[image, kept]]
    return {
        "photograph": int(data.source_indices[image, 0]),
        "changed": f"{data.label_names[data.object_labels[image, changed]]} (box {changed})",
        "kept": f"{name} (box {kept})",
        "budget": budget,
        "work": (graph, image, changed, kept),
    }


def grow(one: dict, data: MultiLabelImages) -> jmlv.GrownNeighborhood | None:
    """The neighbourhood, or None where the label is not among the top k of the photograph itself."""
    graph, image, changed, kept = one["work"]
    property = jmlv.InTopK(int(data.object_labels[image, kept]), int(data.labels[image].sum()))
    x = data.images[image]
    if not float(property.margin(graph.scores(x[None])[0])) > 0:
        return None
    layers = rings(data.masks[image, changed])
    settings = dict(weights=jmlv.by_pixel_count, budget=one["budget"], maximality=None)
    return jmlv.grow(graph, x, layers, property, STRATEGY, **settings)


def rings(mask: np.ndarray) -> jmlv.Layers:
    """The box, and around it layers of several pixels' width."""
    distance = np.asarray(jmlv.Layers.around(mask).index)
    index = (distance + RING - 1) // RING
    return jmlv.Layers(index, int(index.max()) + 1)


def grown(one: dict, data: MultiLabelImages, credits: dict, out: Path) -> dict:
    """Grows and draws; the record of one photograph."""
    record = {name: one[name] for name in NAMES}
    result = grow(one, data)
    if result is None:
        return {**record, "size": 0.0, "status": "MISCLASSIFIED"}
    figure(one, data, credits, result).savefig(out / f"{one['photograph']}.png", dpi=110)
    return {**result.as_dict(), **record}


def figure(one: dict, data: MultiLabelImages, credits: dict, result: jmlv.GrownNeighborhood):
    _, image, _, kept = one["work"]
    changed, label = (one[name].partition(" (")[0] for name in ("changed", "kept"))
    title = (
        f"How much the {changed} and what is around it may change while the label '{label}' stays in "
        f"the top {result.property.k}\n{credit(one['photograph'], credits)}"
    )
    drawn = jmlv.plotting.heatmap(result, target=data.masks[image, kept], title=title)
    fixed = np.asarray(result.layers.spread(result.epsilon))[..., 0] < NOTHING
    drawn.axes[1].imshow(result.x, alpha=0.5 * fixed, interpolation="nearest")
    drawn.axes[1].set_title("epsilon by layer, the photograph where it is 0")
    return drawn


def credit(number: int, credits: dict) -> str:
    licence, address = credits[number]
    return f"COCO {number}, {SHAREABLE.get(licence, 'not for sharing')}, {address.split('//')[-1]}, resized"


def draw_figure(cases: list[dict], data: MultiLabelImages, credits: dict) -> None:
    """Writes one photograph's figure where the README shows it, if its licence allows that."""
    for one in cases:
        licence, _ = credits[one["photograph"]]
        result = grow(one, data) if licence in SHAREABLE else None
        if result is not None:
            figure(one, data, credits, result).savefig(FIGURES / "photographs.png", dpi=110)
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
