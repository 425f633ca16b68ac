"""Layered neighbourhoods by smoothing: against proofs, against one noise level, on photographs, in parts.

    python experiments/smoothed_neighborhoods.py digits                # all committed networks, 20 images
    python experiments/smoothed_neighborhoods.py digits --networks linf noise --images 5
    python experiments/smoothed_neighborhoods.py photographs           # COCO in ../shared/data/coco
    python experiments/smoothed_neighborhoods.py ablation              # what each part of the search does

``digits``: on each double digit, changing either object, the certified size by proof (``jmlv.grow``, of the
network itself), by isotropic MultiGuard at its best level, and by layered noise (both of the smoothed
classifier, with probability 1 - alpha): the other digit's label stays in the top 2. Two more columns say
what the smoothed classifiers are worth. *Attacked*: of how many an attack inside the certified ellipsoid
changes the label set for the worse; none may. *Informed*: under the very noise that was chosen, how often
the smoothed classifier has the label on that side of 20 *other* images in its top 2 (0.2 by chance): noise
that drowns the object makes a constant of the classifier, and certificates about a constant are large.

``photographs`` is a demonstration: a small residual network trained on the very photographs that are
certified. Every finished case is a row of ``answers`` in the output folder, so that an interrupted run goes
on where it stopped.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from functools import cache
from pathlib import Path

import jax
import numpy as np
import smoothed_photographs
from asking import add_executor_arguments, ask
from growing import WEIGHTS
from recorded import add_record_argument, keep_table

import jmlv
from jmlv import checkpoints
from jmlv.campaigns import CallQuestion, Store
from jmlv.cli.inputs import example, test_images
from jmlv.cli.report import table
from jmlv.smoothing import (
    Moments,
    NoiseSearch,
    StraightThrough,
    attack_smoothed,
    predict,
    sample_counts,
)

NETWORKS = ("none", "l0", "linf", "noise", "ibp")
ISOTROPIC = NoiseSearch(
    levels=(0.25, 0.12, 0.5, 0.06, 1.0, 0.03, 0.18, 0.35, 0.09, 0.7, 0.045), starts=0
)
PROOF = jmlv.LayerSearch(tighter=None, complete=None)
OTHERS, OTHER_SAMPLES = 20, 100
"""How many other images tell what a smoothed classifier is worth, and noisy copies of each."""

MEASURED = ["experiments/smoothed_neighborhoods.py", "jmlv/smoothing"]
"""The code that the tables measure."""

VARIANTS = {
    "default": {},
    "objective: radii": {"objective": "radii"},
    "starts: 0 (one level)": {"search": ISOTROPIC},
    "starts: 1": {"search": NoiseSearch(starts=1)},
    "starts: 4": {"search": NoiseSearch(starts=4)},
    "relaxation: straight through": {"search": NoiseSearch(relaxation=StraightThrough())},
    "relaxation: moments": {"search": NoiseSearch(relaxation=Moments())},
    "shrink: none": {"search": NoiseSearch(cut=None)},
    "shrink: all the way back": {"search": NoiseSearch(cut=0.0)},
    "largest level: 1": {"search": NoiseSearch(largest=1.0)},
    "steps: 100": {"search": NoiseSearch(steps=100, learning_rate=0.15)},
    "effort: 0.5": {"search": NoiseSearch(effort=0.5)},
    "effort: 8": {"search": NoiseSearch(effort=8.0)},
    "looks: 1": {"looks": 1},
    "samples: a tenth": {"share": 0.1},
}


def main() -> None:
    options = parse()
    jmlv.keep_compiled()
    options.out = options.out / options.study
    studies = {
        "digits": digits,
        "ablation": ablation,
        "photographs": smoothed_photographs.study,
    }
    studies[options.study](options)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("study", choices=("digits", "photographs", "ablation"))
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--images", type=int, default=20)
    parser.add_argument("--weights", nargs="+", choices=WEIGHTS, default=["pixels"])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--samples", type=int, default=10_000, help="of a look")
    parser.add_argument("--budget", type=float, default=20.0, help="seconds of a proof's search")
    parser.add_argument("--checkpoints", type=Path, default=Path("checkpoints"))
    parser.add_argument("--data", type=Path, default=smoothed_photographs.FOLDER)
    parser.add_argument("--done", action="store_true", help="only report what is answered so far")
    add_executor_arguments(parser)
    parser.add_argument("--out", type=Path, default=Path("results/smoothed_neighborhoods"))
    add_record_argument(parser)
    return parser.parse_args()


def answers(questions: list[CallQuestion], options: argparse.Namespace, name: str) -> list[dict]:
    """The records of all questions, or of those that are answered where that was asked for."""
    if options.done:
        done = Store(options.out / "answers").done
        questions = [question for question in questions if question.key in done]
    return ask(questions, options, name)


# ---------------------------------------------------------------------------------------------
# Double digits
# ---------------------------------------------------------------------------------------------


def digits(options: argparse.Namespace) -> None:
    """Image by image, so that a run that is stopped has something of every network."""
    questions = [
        CallQuestion(
            f"smoothed_neighborhoods:{METHODS[method].__name__}",
            {
                "folder": str(options.checkpoints / f"double_digits_{network}"),
                "image": image,
                "side": side,
                "weights": weights,
                **({"seconds": options.budget} if method == "proof" else {"n": options.samples}),
            },
            tags={"network": network, "image": f"{image} side {side}", "weights": weights,
                  "method": method},
        )
        for image in range(options.images)
        for side in (0, 1)
        for network in options.networks
        for weights in options.weights
        for method in options.methods
    ]  # fmt: skip
    report(answers(questions, options, "neighbourhoods"), options.out, options)


def proof(folder: str, image: int, side: int, weights: str, seconds: float) -> dict:
    """By linear bounds, of the network itself."""
    model, one = subject(folder, image, side)
    graph = jmlv.trace(model, one.x.shape)
    if not float(one.property.margin(graph.scores(one.x[None])[0])) > 0:
        return {"size": 0.0, "epsilon": [], "seconds": 0.0, "certified": False}
    layers = jmlv.Layers.around(one.perturbed)
    grown = jmlv.grow(
        graph, one.x, layers, one.property, PROOF, weights=WEIGHTS[weights], budget=seconds,
        maximality=None,
    )  # fmt: skip
    record = {"size": grown.size, "epsilon": grown.epsilon.tolist(), "seconds": grown.seconds}
    return record | {"certified": grown.verdict.robust}


def isotropic(folder: str, image: int, side: int, weights: str, n: int) -> dict:
    """One level for all layers, the best of eleven, and one look."""
    return smoothed(folder, image, side, weights, n, search=ISOTROPIC, looks=1)


def layered(folder: str, image: int, side: int, weights: str, n: int) -> dict:
    """A level for every layer."""
    return smoothed(folder, image, side, weights, n)


METHODS = {"proof": proof, "isotropic": isotropic, "layered": layered}


def smoothed(folder: str, image: int, side: int, weights: str, n: int, **options) -> dict:
    model, one = subject(folder, image, side)
    grown = jmlv.grow_smoothed(
        model, one.x, jmlv.Layers.around(one.perturbed), [one.target_label], k=2, k_prime=2,
        weights=WEIGHTS[weights], n=n, key=key(2 * image + side), **options,
    )  # fmt: skip
    judged = {"broken": broken(model, one, grown), "informed": informed(model, side, grown)}
    return grown.as_dict() | {"certified": grown.certified} | judged


def broken(model, one, grown: jmlv.SmoothedNeighborhood) -> bool:
    """Whether an attack in the certified ellipsoid takes the label out of the smoothed top 2."""
    if not grown.certified or not grown.radius > 0:
        return False
    options = {"k_prime": 2, "sigma": grown.noise}
    moved = attack_smoothed(
        model, one.x, [one.target_label], k=2, radius=grown.radius, e=1, key=key(77), samples=64,
        **options,
    )  # fmt: skip
    counts = sample_counts(model, moved, n=2000, key=key(78), **options)
    return one.target_label not in predict(counts, 2).labels


def informed(model, side: int, grown: jmlv.SmoothedNeighborhood) -> float:
    """How often that noise leaves the label of *other* images on that side in the top 2."""
    data, found = test_images(None), 0
    for number in range(1000, 1000 + OTHERS):
        counts = sample_counts(
            model, data.images[number], sigma=grown.noise, n=OTHER_SAMPLES, k_prime=2,
            key=key(number), batch_size=OTHER_SAMPLES,
        )  # fmt: skip
        found += int(data.object_labels[number][1 - side]) in predict(counts, 2).labels
    return found / OTHERS


def key(seed: int) -> jax.Array:
    return jax.random.key(seed, impl="threefry2x32")


@cache
def network(folder: str):
    return checkpoints.restore(folder)[0]


def subject(folder: str, image: int, side: int):
    return network(folder), example(test_images(None), image, side)


def report(records: list[dict], out: Path, options: argparse.Namespace | None = None) -> None:
    """Means of every network and method, who is larger where, and the figures."""
    grouped = defaultdict(list)
    for record in records:
        grouped[record["network"], record["weights"], record["method"]].append(record)
    rows = [(*group, *means(members)) for group, members in grouped.items()]
    columns = ("network", "weights", "method", *MEANS)
    text = table(columns, rows) + "\n\n" + duels(grouped)
    out.mkdir(parents=True, exist_ok=True)
    keep_table(options, columns, rows, MEASURED)
    (out / "table.txt").write_text(text + "\n")
    print(text)
    figure(grouped, out / "profiles.png")


MEANS = ("cases", "certified", "mean size", "median", "seconds", "samples", "broken", "informed")


def means(members: list[dict]) -> tuple:
    judged = [m for m in members if "informed" in m]
    return (
        len(members),
        sum(m["certified"] for m in members),
        float(np.mean([m["size"] for m in members])),
        float(np.median([m["size"] for m in members])),
        float(np.median([m["seconds"] for m in members])),
        float(np.mean([sum(m.get("samples", {}).values()) for m in members])),
        sum(m["broken"] for m in judged),
        float(np.mean([m["informed"] for m in judged])) if judged else float("nan"),
    )


def duels(grouped: dict) -> str:
    """Layered noise against the other two, on the same images."""
    rows = []
    for name, weights, method in list(grouped):  # looking one up adds it
        own = {m["image"]: m for m in grouped[name, weights, "layered"]}
        other = {m["image"]: m for m in grouped[name, weights, method]}
        shared = sorted(own.keys() & other.keys())
        if method == "layered" or not shared:
            continue
        a, b = (np.array([m[i]["size"] for i in shared]) for m in (own, other))
        both = (a > 0) & (b > 0)
        each = float(np.exp(np.mean(np.log(a[both] / b[both])))) if both.any() else float("nan")
        ratio = float(a.mean() / b.mean()) if b.any() else float("inf")
        rows.append((name, weights, method, ratio, each, int((a > b).sum()), len(shared)))
    columns = ("ratio of means", "geometric mean of ratios", "layered larger", "of")
    return table(("network", "weights", "layered against", *columns), rows)


def figure(grouped: dict, path: Path) -> None:
    """Mean epsilon by distance from the changed object, one panel a network."""
    from matplotlib.figure import Figure

    weights = next(iter(grouped))[1]
    networks = list(dict.fromkeys(g[0] for g in grouped))
    drawn = Figure(figsize=(3.4 * len(networks), 3.6), layout="constrained")
    panels = np.atleast_1d(drawn.subplots(1, len(networks), sharey=True))
    for axes, name in zip(panels, networks):
        for method in METHODS:
            profiles = [m["epsilon"] for m in grouped[name, weights, method] if m["epsilon"]]
            if not profiles:
                continue
            depth = min(map(len, profiles))
            mean = np.mean([p[:depth] for p in profiles], axis=0)
            axes.plot(range(depth), mean, ".-", label=method)
        axes.set(title=name, xlabel="distance from the changed object")
        axes.set_yscale("symlog", linthresh=1e-3)
    panels[0].set_ylabel(f"mean epsilon, {weights} weights")
    panels[0].legend()
    drawn.savefig(path, dpi=110)


# ---------------------------------------------------------------------------------------------
# What each part of the search does
# ---------------------------------------------------------------------------------------------


def ablation(options: argparse.Namespace) -> None:
    questions = [
        CallQuestion(
            "smoothed_neighborhoods:variant",
            {"folder": str(options.checkpoints / f"double_digits_{network}"), "image": image,
             "side": side, "weights": weights, "n": options.samples, "name": name},
            tags={"network": network, "image": f"{image} side {side}", "weights": weights,
                  "variant": name},
        )
        for image in range(options.images)
        for side in (0, 1)
        for network in options.networks
        for weights in options.weights
        for name in VARIANTS
    ]  # fmt: skip
    records = answers(questions, options, "variants")
    grouped = defaultdict(list)
    for record in records:
        grouped[record["variant"]].append(record)
    base = grouped["default"]
    rows = [(name, *compared(members, base)) for name, members in grouped.items()]
    columns = ("cases", "mean size", "times default", "geometric", "samples", "seconds",
               "informed")  # fmt: skip
    text = table(("variant", *columns), rows)
    options.out.mkdir(parents=True, exist_ok=True)
    keep_table(options, ("variant", *columns), rows, MEASURED)
    (options.out / "table.txt").write_text(text + "\n")
    print(text)


def variant(folder: str, image: int, side: int, weights: str, n: int, name: str) -> dict:
    settings = dict(VARIANTS[name])
    n = int(n * settings.pop("share", 1.0))
    return smoothed(folder, image, side, weights, n, **settings)


def compared(members: list[dict], base: list[dict]) -> tuple:
    size, usual = (np.array([m["size"] for m in each]) for each in (members, base))
    both = (size > 0) & (usual > 0)
    ratio = np.exp(np.mean(np.log(size[both] / usual[both]))) if both.any() else np.nan
    return (
        len(members),
        float(size.mean()),
        float(size.mean() / usual.mean()) if usual.any() else float("nan"),
        float(ratio),
        float(np.mean([sum(m["samples"].values()) for m in members])),
        float(np.median([m["seconds"] for m in members])),
        float(np.mean([m["informed"] for m in members])),
    )


if __name__ == "__main__":
    main()
