"""The part of ``smoothed_neighborhoods.py`` on photographs; a demonstration, run from there.

A small residual network is trained on 21 photographs, under noise whose level changes from layer to layer,
and certified on the same ones: nothing is said about new photographs. Boxes are the objects: the one that
is changed and the one whose label stays are of different labels and overlap least, and layers are rings
around the former.
"""

from __future__ import annotations

import argparse
import json
from functools import cache
from pathlib import Path

import jax
import numpy as np
import photographs
from asking import ask
from flax import nnx
from recorded import keep_table

import jmlv
from jmlv import checkpoints
from jmlv.campaigns import CallQuestion
from jmlv.cli.report import table
from jmlv.data import MultiLabelImages, coco
from jmlv.models import ResNetConfig, ResNetSizes
from jmlv.training import LayeredGaussianNoise, TrainingConfig, top_k_accuracy, train

FOLDER = photographs.FOLDER
SIDE = 128
"""Height and width that photographs are resized to, in pixels."""

SCALE = (SIDE // photographs.SIDE) ** 2
"""Pixels here for each there."""

SIZES = ResNetSizes(
    depths=(1, 1, 1), widths=(16, 32, 64), stem_width=16, stem_kernel=5, stem_stride=2
)
DEFENCE = LayeredGaussianNoise(lowest=0.05, highest=1.0, ring=10, silent=0.25)
TRAINING = TrainingConfig(epochs=400, batch_size=21, learning_rate=3e-3)
CHANGES, METHODS = ("box", "outline"), ("isotropic", "layered")
"""What may change of an object: its box, or the pixels inside its outline. One noise level, or one a layer."""

OBJECTS = 3
"""Boxes of a photograph in its matrix of relations, the largest of different labels."""


def study(options: argparse.Namespace) -> None:
    """Neighbourhoods of every photograph, and one photograph's matrix of relations."""
    model, data = subject(options.data, options.out)
    right = top_k_accuracy(model, data.images, data.labels)
    print(
        f"a demonstration: of the {len(data)} photographs with two labels, which it was trained on, "
        f"the network orders the labels of {right:.0%} rightly"
    )
    fixed = {"folder": str(options.data), "out": str(options.out), "n": options.samples}
    questions = [
        CallQuestion(
            "smoothed_photographs:grown",
            {**fixed, "image": image, "method": method, "changes": changes},
            tags=names(data, image) | {"method": method, "changes": changes},
        )
        for image in range(len(data))
        for changes in CHANGES
        for method in METHODS
    ]
    records = ask(questions, options, "photographs")
    report(records, options.out, options)
    questions = [
        CallQuestion("smoothed_photographs:relations", {**fixed, "image": image}, tags={})
        for image in related(data)[:1]
    ]
    ask(questions, options, "relations")


@cache
def subject(folder: Path, out: Path) -> tuple[nnx.Module, MultiLabelImages]:
    """The trained network, and the photographs that have a pair of boxes."""
    try:
        everything = coco(folder, side=SIDE, occurring=True)[:]
    except (OSError, ValueError) as error:
        raise SystemExit(f"--data: {error}") from error
    chosen = [i for i in range(len(everything)) if photographs.pair(everything, i) is not None]
    return network(everything, Path(out) / "network"), everything[chosen]


def network(data: MultiLabelImages, folder: Path) -> nnx.Module:
    """The trained network, from the folder if it is there."""
    try:
        return checkpoints.restore(folder)[0]
    except FileNotFoundError:
        pass
    config = ResNetConfig(data.image_shape, SIZES, labels=data.labels.shape[1])
    result = train(data, config, TRAINING, defence=DEFENCE, progress=jmlv.TqdmProgress())
    if result.interrupted:
        raise SystemExit("interrupted while training")
    metadata = checkpoints.Metadata({"origin": data.origin}, training={"defence": repr(DEFENCE)})
    checkpoints.save(folder, result.model, metadata, overwrite=True)
    return result.model


def names(data: MultiLabelImages, image: int) -> dict[str, object]:
    changed, kept = (
        data.label_names[data.object_labels[image, box]] for box in photographs.pair(data, image)
    )
    number = int(data.source_indices[image, 0])
    return {"photograph": number, "changed": changed, "kept": kept}


def grown(folder: str, out: str, n: int, image: int, method: str, changes: str) -> dict:
    """Grows, and draws where it is layered; the record of one photograph."""
    from smoothed_neighborhoods import ISOTROPIC

    model, data = subject(Path(folder), Path(out))
    changed, kept = photographs.pair(data, image)
    k = int(data.labels[image].sum())
    options = {"search": ISOTROPIC, "looks": 1} if method == "isotropic" else {}
    mask = data.masks[image, changed]
    if changes == "outline":
        mask = outline(Path(folder), int(data.source_indices[image, 0]), changed)
    result = jmlv.grow_smoothed(
        model, data.images[image], rings(mask), [int(data.object_labels[image, kept])], k=k,
        k_prime=k, weights=jmlv.by_pixel_count, n=n,
        key=jax.random.key(image, impl="threefry2x32"), **options,
    )  # fmt: skip
    if method == "layered":
        draw(result, data, image, kept, Path(folder), Path(out), changes)
    return result.as_dict() | {"predicted": result.predicted}


def draw(result, data, image: int, kept: int, folder: Path, out: Path, changes: str) -> None:
    number, one = int(data.source_indices[image, 0]), names(data, image)
    credit = photographs.credit(number, photographs.licences(folder))
    title = (
        f"{changes} of '{one['changed']}' changed, '{one['kept']}' kept: size {result.size:.2f}\n"
        f"{result.claim}\n{credit}"
    )
    drawn = jmlv.plotting.heatmap(result, target=data.masks[image, kept], title=title)
    drawn.savefig(Path(out, f"{number}-{changes}.png"), dpi=110)


@cache
def outlines(folder: Path) -> dict[int, list[tuple[dict, tuple[int, int]]]]:
    """Every photograph's annotations in the order of its boxes, which is that of their ids, and its size."""
    content = json.loads((folder / "annotations" / "instances_train2017.json").read_text())
    sizes = {one["id"]: (one["width"], one["height"]) for one in content["images"]}
    found = {number: [] for number in sizes}
    for one in sorted(content["annotations"], key=lambda one: one["id"]):
        found[one["image_id"]].append((one, sizes[one["image_id"]]))
    return found


def outline(folder: Path, number: int, box: int) -> np.ndarray:
    """The pixels of the resized photograph that an object's polygons have; a group's are its box."""
    from PIL import Image, ImageDraw

    annotation, (width, height) = outlines(folder)[number][box]
    polygons = annotation["segmentation"]
    if annotation["iscrowd"]:  # run lengths, no polygons
        x, y, w, h = annotation["bbox"]
        polygons = [[x, y, x + w, y, x + w, y + h, x, y + h]]
    drawn = Image.new("1", (SIDE, SIDE))
    for polygon in polygons:
        points = np.reshape(polygon, (-1, 2)) * (SIDE / width, SIDE / height)
        ImageDraw.Draw(drawn).polygon([*map(tuple, points.tolist())], fill=1, outline=1)
    return np.asarray(drawn)


def rings(mask: np.ndarray) -> jmlv.Layers:
    """The box, and around it layers as wide as those of the smaller photographs."""
    distance = np.asarray(jmlv.Layers.around(mask).index)
    width = photographs.RING * SIDE // photographs.SIDE
    index = (distance + width - 1) // width
    return jmlv.Layers(index, int(index.max()) + 1)


def related(data: MultiLabelImages) -> list[int]:
    """Photographs with so many boxes of different labels."""
    return [i for i in range(len(data)) if len(boxes(data, i)) == OBJECTS]


def boxes(data: MultiLabelImages, image: int) -> list[int]:
    """The largest box of each label, the largest first."""
    sizes = data.masks[image].sum((1, 2))
    chosen: dict[int, int] = {}
    for box in np.argsort(-sizes):
        if sizes[box] >= SCALE * photographs.LEAST:
            chosen.setdefault(int(data.object_labels[image, box]), int(box))
    return list(chosen.values())[:OBJECTS]


def relations(folder: str, out: str, n: int, image: int) -> dict:
    """Which object's label hangs on which."""
    model, data = subject(Path(folder), Path(out))
    chosen = boxes(data, image)
    labels = tuple(int(label) for label in data.object_labels[image, chosen])
    k = int(data.labels[image].sum())
    by = jmlv.Smoothed(jax.random.key(0, impl="threefry2x32"), k=k, k_prime=k, n=n)
    objects = jmlv.Objects(data.masks[image, chosen], labels)
    result = jmlv.relation_matrix(
        model, data.images[image], objects, by=by, weights=jmlv.by_pixel_count, budget=None
    )
    named = ", ".join(f"{i}: {data.label_names[label]}" for i, label in enumerate(labels))
    credits = photographs.licences(Path(folder))
    credit = photographs.credit(int(data.source_indices[image, 0]), credits)
    title = f"{named}; with probability at least 1 - {by.alpha:g} a pair, of the smoothed classifier\n{credit}"
    jmlv.plotting.relation_figure(result, title=title).savefig(Path(out, "relations.png"), dpi=110)
    text = table(result.HEADER, result.rows())
    Path(out, "relations.txt").write_text(f"{named}\n{text}\n")
    print(named, text, sep="\n")
    return json.loads(json.dumps(result.as_dict()))


def report(records: list[dict], out: Path, options: argparse.Namespace | None = None) -> None:
    """A row a photograph and what may change of it, and their means."""
    cases = {}
    for r in records:
        cases.setdefault((r["photograph"], r["changed"], r["kept"], r["changes"]), {})[
            r["method"]
        ] = r
    rows = [
        (*case, *(by[method]["size"] for method in METHODS), by["layered"]["seconds"])
        for case, by in cases.items()
    ]
    for changes in CHANGES:
        own = [row for row in rows if row[3] == changes]
        means = (float(np.mean([row[place] for row in own])) for place in (4, 5))
        rows.append(("mean", "", "", changes, *means, float(np.median([row[6] for row in own]))))
    columns = (
        "photograph",
        "changed",
        "kept",
        "of it",
        "common level",
        "a level a layer",
        "seconds",
    )
    keep_table(options, columns, rows, ["experiments/smoothed_photographs.py", "jmlv/smoothing"])
    text = table(columns, rows)
    for method in METHODS:
        sizes = [r["size"] for r in records if r["method"] == method]
        text += f"\n{method}: {sum(size > 0 for size in sizes)} of {len(sizes)} certified"
    (out / "table.txt").write_text(text + "\n")
    print(text)
