"""Hide one random positive label and keep all others: five methods that seek the least change.

    python experiments/attacks_hide_one.py            # double digits, 100 images, minutes
    python experiments/attacks_hide_one.py --quick    # about a minute
    python experiments/attacks_hide_one.py --data mulan FOLDER yeast
    python experiments/attacks_hide_one.py --data coco FOLDER

Only images with a predicted label are attacked; a label is predicted at a probability of one half.
Success is that the label is gone and every other one as it was. Distances are means over the images on
which the method succeeded, and, under 'common', over those on which MLA-LP, ML-CW and ML-Rank2
succeeded. The measures on the right compare predictions with the wanted label sets. Written to
``results/attacks_hide_one``.
"""

from __future__ import annotations

import argparse
import platform
import time

import jax
import numpy as np
from attacked import CODE, Subject, parse, parser, subjects
from recorded import keep_table

from jmlv.attacks import (
    MLALP,
    MLCW,
    AttackResult,
    Hide,
    MLDeepFool,
    MLRank1,
    MLRank2,
    attack,
    classification_metrics,
)
from jmlv.cli.report import table, write_json
from jmlv.compilation import keep_compiled
from jmlv.progress import TqdmProgress

HEADER = (
    "method", "success", "RMSD", "l2", "linf", "common RMSD", "common l2", "common linf",
    "hamming", "ranking", "micro F1", "macro F1", "avg prec", "mAP", "seconds",
)  # fmt: skip


def main() -> None:
    keep_compiled()
    command = parser(
        __doc__.splitlines()[0], "attacks_hide_one", "16 images, a tenth of the iterations"
    )
    command.add_argument("--seed", type=int, default=0, help="of the choice of labels")
    options = parse(command, quick_images=16)
    found = [(s.name, *line) for s in subjects(options) for line in study(s, options)]
    keep_table(options, ("data", *HEADER), found, (*CODE, "experiments/attacks_hide_one.py"))


def methods(quick: bool) -> dict:
    """Published settings: 10 linear programs, 20 steps, 10 rounds of 1,000 iterations from 1e5."""
    iterations = 100 if quick else 1000
    return {
        "MLA-LP": MLALP(),
        "MLA-LP, margins": MLALP(rows="margin"),
        "ML-CW": MLCW(iterations),
        "ML-Rank1": MLRank1(iterations),
        "ML-Rank2": MLRank2(iterations),
        "ML-DeepFool": MLDeepFool(),
        "ML-DeepFool, no overshoot": MLDeepFool(overshoot=0.0),
    }


def study(subject: Subject, options: argparse.Namespace) -> list[tuple]:
    start, progress = time.perf_counter(), TqdmProgress(leave=False)
    present = np.asarray(subject.f(subject.images)) > 0
    some = present.any(1)
    images, present = subject.images[some], present[some]
    hidden = chosen(present, options.seed)
    goal = Hide(tuple((int(label),) for label in hidden))
    runs = {
        name: attack(subject.f, images, goal, method, progress=progress)
        for name, method in methods(options.quick).items()
    }
    wanted = present.copy()
    wanted[np.arange(len(hidden)), hidden] = False
    rows = [row(name, result, common(runs), wanted) for name, result in runs.items()]
    lines = [
        f"{subject.name}: one label hidden on {len(images)} of {len(some)} images, "
        f"{present.shape[1]} labels; {int(common(runs).sum())} in common; {platform.machine()}, "
        f"JAX {jax.__version__}",
        *([subject.note] if subject.note else []),
        table(HEADER, rows),
        f"{time.perf_counter() - start:.0f} s",
    ]
    write_json(options.out / f"{subject.name}.json", [dict(zip(HEADER, r)) for r in rows])
    (options.out / f"{subject.name}.txt").write_text("\n".join(lines) + "\n")
    print("\n".join(lines), flush=True)
    return rows


def chosen(present: np.ndarray, seed: int) -> np.ndarray:
    """One positive label of each image, uniformly."""
    return np.where(present, np.random.default_rng(seed).random(present.shape), -1).argmax(1)


def common(runs: dict[str, AttackResult]) -> np.ndarray:
    names = ("MLA-LP", "ML-CW", "ML-Rank2")
    return np.logical_and.reduce([runs[name].success[0] for name in names])


def row(name: str, result: AttackResult, both: np.ndarray, wanted: np.ndarray) -> tuple:
    own = result.success[0]
    shared = both & own
    distances = [
        float(values[0][which].mean()) if which.any() else float("nan")
        for which in (own, shared)
        for values in (result.rmsd, result.l2, result.linf)
    ]
    measures = classification_metrics(wanted, result.scores[0], result.decision)
    return (name, float(own.mean()), *distances, *measures.values(), result.seconds)


if __name__ == "__main__":
    main()
