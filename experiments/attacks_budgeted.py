"""Flips against budget: SLAM and CLASS beside plain MI-FGSM, with paired tests and ablations.

    python experiments/attacks_budgeted.py            # double digits, 100 images, minutes
    python experiments/attacks_budgeted.py --quick    # about a minute
    python experiments/attacks_budgeted.py --mulan FOLDER   # also MULAN's yeast and scene

Seven budgets, 5 to 100 % of where the classifier's profile becomes flat. Profile and correlations are
measured on other images than those attacked. The tables have mean and standard deviation of the number
of flipped labels an image; ``p`` is a two-sided paired t-test against MI-FGSM over the images, signed
by who flips more. Labels are decided at a probability of one half. Written to
``results/attacks_budgeted``: tables (``.txt``), numbers (``.json``), figures.
"""

from __future__ import annotations

import argparse
import dataclasses
import platform
import re
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy import stats

from jmlv import checkpoints
from jmlv.attacks import (
    CLASS,
    MIFGSM,
    SLAM,
    AttackResult,
    FlipAll,
    attack,
    classifier_profile,
    plots,
    probe_labels,
    targets_against_flips,
)
from jmlv.cli.report import table, write_json
from jmlv.data import double_digits
from jmlv.progress import TqdmProgress

SHARES = (0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0)
MULAN = ("yeast", "scene")


@dataclasses.dataclass(frozen=True, eq=False)
class Subject:
    """A classifier, images to attack, and other images to measure profile and correlations on."""

    name: str
    f: Callable
    images: np.ndarray
    labels: np.ndarray
    others: np.ndarray


def main() -> None:
    options = parse()
    for subject in subjects(options):
        study(subject, options)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="24 images, no ablations")
    parser.add_argument("--images", type=int, help="by default 100, or 24 with --quick")
    parser.add_argument("--checkpoints", type=Path, default=Path("checkpoints"))
    parser.add_argument("--mulan", type=Path, help="folder of MULAN's ARFF and XML files")
    parser.add_argument("--only", help="name of one subject")
    parser.add_argument("--out", type=Path, default=Path("results/attacks_budgeted"))
    options = parser.parse_args()
    options.images = options.images or (24 if options.quick else 100)
    return options


def subjects(options: argparse.Namespace):
    """What is attacked: the committed networks, and networks trained here on MULAN's tables."""
    for defence in ("none", "linf"):
        name = f"digits_{defence}"
        if options.only in (None, name):
            yield digits(name, options.checkpoints / f"double_digits_{defence}", options.images)
    for name in MULAN if options.mulan else ():
        if options.only in (None, name):
            yield mulan(name, options.mulan, options.images)


def digits(name: str, folder: Path, count: int) -> Subject:
    model, _ = checkpoints.restore(folder)
    data, other = double_digits("test", size=count, seed=3), double_digits("test", size=48, seed=4)
    return Subject(name, model, data.images, data.labels, other.images)


def mulan(name: str, folder: Path, count: int) -> Subject:
    """A network of one hidden layer on features scaled to [0, 1], as images of one row."""
    x, y, test_x, test_y = mulan_tables(folder, name)
    f = train_dense(x, y)
    shaped = test_x[:, None, :, None]
    return Subject(name, f, shaped[:count], test_y[:count], x[:48, None, :, None])


def mulan_tables(folder: Path, name: str) -> tuple[np.ndarray, ...]:
    """Training and test tables: features in [0, 1] by the training range, labels as booleans."""
    labels = len(re.findall(r"<label name=", (folder / f"{name}.xml").read_text()))
    train, test = (
        np.loadtxt(_rows(folder / f"{name}-{part}.arff"), delimiter=",")
        for part in ("train", "test")
    )
    low, high = train[:, :-labels].min(0), train[:, :-labels].max(0)

    def scaled(rows: np.ndarray) -> np.ndarray:
        span = np.maximum(high - low, 1e-9)
        return np.clip((rows[:, :-labels] - low) / span, 0, 1).astype(np.float32)

    return scaled(train), train[:, -labels:] > 0, scaled(test), test[:, -labels:] > 0


def _rows(path: Path) -> list[str]:
    lines = path.read_text().splitlines()
    start = next(i for i, line in enumerate(lines) if line.lower().startswith("@data"))
    return [line for line in lines[start + 1 :] if line.strip()]


def train_dense(x: np.ndarray, y: np.ndarray, hidden: int = 128, epochs: int = 60) -> Callable:
    """Cross-entropy, Adam, weight decay; small, and the same for the same data."""
    keys = jax.random.split(jax.random.key(0), 2)
    weights = {
        "a": jax.random.normal(keys[0], (x.shape[1], hidden)) / np.sqrt(x.shape[1]),
        "b": jnp.zeros(hidden),
        "c": jax.random.normal(keys[1], (hidden, y.shape[1])) / np.sqrt(hidden),
        "d": jnp.zeros(y.shape[1]),
    }

    def scores(weights, x):
        hidden = jax.nn.relu((x.reshape(len(x), -1) - 0.5) @ weights["a"] + weights["b"])
        return hidden @ weights["c"] + weights["d"]

    optimizer = optax.adamw(3e-3, weight_decay=1e-3)

    @jax.jit
    def step(weights, state, x, y):
        def loss(weights):
            return optax.sigmoid_binary_cross_entropy(scores(weights, x), y).mean()

        change, state = optimizer.update(jax.grad(loss)(weights), state, weights)
        return optax.apply_updates(weights, change), state

    state, rng = optimizer.init(weights), np.random.default_rng(0)
    for _ in range(epochs):
        order = rng.permutation(len(x))
        for part in np.array_split(order, max(1, len(x) // 64)):
            weights, state = step(weights, state, x[part], y[part].astype(np.float32))
    return lambda x: scores(weights, x)


def study(subject: Subject, options: argparse.Namespace) -> None:
    start, progress = time.perf_counter(), TqdmProgress(leave=False)
    accuracy = ((np.asarray(subject.f(subject.images)) > 0) == subject.labels).mean()
    lines = [
        f"{subject.name}: {len(subject.images)} images, {subject.labels.shape[1]} labels, "
        f"{accuracy:.3f} of labels right; {platform.machine()}, JAX {jax.__version__}"
    ]
    content = {"images": len(subject.images), "labels_right": float(accuracy)}
    for norm in ("linf",) if options.quick else ("linf", "l2"):
        profile = classifier_profile(subject.f, subject.others, norm=norm, progress=progress)
        probes = probe_labels(
            subject.f, subject.others, norm=norm, epsilon=profile.max_epsilon / 5, progress=progress
        )
        budgets = [share * profile.max_epsilon for share in SHARES]
        runs = compare(subject, methods(profile, probes, norm, options.quick), budgets, progress)
        lines += ["", _heading(norm, profile), text_table(budgets, runs)]
        content[norm] = _numbers(budgets, profile, runs)
        write_figures(options.out / subject.name / norm, profile, probes, runs)
    if not options.quick:
        targets = sorted({1, 2, *range(3, subject.labels.shape[1] + 1, 2), subject.labels.shape[1]})
        content["targets"] = _targets(subject, content["linf"]["budgets"], targets, lines)
    lines += ["", f"{time.perf_counter() - start:.0f} s"]
    (options.out / subject.name).mkdir(parents=True, exist_ok=True)
    (options.out / subject.name / "table.txt").write_text("\n".join(lines) + "\n")
    write_json(options.out / subject.name / "numbers.json", content)
    print("\n".join(lines), flush=True)


def methods(profile, probes, norm: str, quick: bool) -> dict:
    """MI-FGSM first; then SLAM with several q, and CLASS with several gamma."""
    measured, inverse = probes.correlations(), probes.correlations(inverse=True)
    plain = {"MI-FGSM": MIFGSM(norm)}
    smart = {
        f"SLAM q={q:g}": SLAM(q, profile, norm)
        for q in ((0.5,) if quick else (0.5, 0, 0.25, 0.75, 1))
    }
    subset = {
        f"CLASS g={gamma:g}": CLASS(gamma, profile=profile, correlations=measured, norm=norm)
        for gamma in ((0.5,) if quick else (0.5, 0, 1))
    }
    if not quick:
        subset["CLASS g=0.5 inverse"] = CLASS(0.5, profile=profile, correlations=inverse, norm=norm)
    return plain | smart | subset


def compare(subject: Subject, chosen: dict, budgets: list[float], progress) -> dict:
    return {
        name: attack(
            subject.f, subject.images, FlipAll(), method, budgets=budgets, progress=progress
        )
        for name, method in chosen.items()
    }


def text_table(budgets: list[float], runs: dict[str, AttackResult]) -> str:
    """Mean, standard deviation and paired test of each method at each budget."""
    header = ("method", *(f"{share:.0%}" for share in SHARES))
    plain = runs["MI-FGSM"]
    rows = [("budget", *(f"{budget:.4f}" for budget in budgets))]
    for name, result in runs.items():
        pairs = zip(result.flips, plain.flips)
        rows.append((name, *(_cell(ours, theirs, result is plain) for ours, theirs in pairs)))
    return table(header, rows)


def _cell(ours: np.ndarray, theirs: np.ndarray, same: bool) -> str:
    cell = f"{ours.mean():.2f} ±{ours.std():.2f}"
    return cell if same else f"{cell} ({paired(ours, theirs)})"


def paired(ours: np.ndarray, theirs: np.ndarray) -> str:
    """Sign and p of a paired t-test; '=' where no image differs."""
    if (ours == theirs).all():
        return "="
    p = stats.ttest_rel(ours, theirs).pvalue
    return f"{'+' if ours.mean() >= theirs.mean() else '-'}p={p:.1g}"


def _heading(norm: str, profile) -> str:
    flat = "flat" if profile.converged else "not flat yet"
    return (
        f"{norm}: profile {flat} at {profile.max_epsilon:.4f} with {profile.flips[-1]:.2f} flips; "
        "flips an image, mean ± standard deviation (paired test against MI-FGSM)"
    )


def _targets(subject: Subject, budgets: list[float], targets: list[int], lines: list[str]) -> dict:
    chosen = [budgets[1], budgets[3]]
    curves = targets_against_flips(subject.f, subject.images, targets, chosen)
    lines += ["", "linf: flips an image when MI-FGSM attacks the nearest so many labels"]
    rows = [(f"{budget:.4f}", *map(float, row)) for budget, row in zip(chosen, curves)]
    lines.append(table(("budget", *map(str, targets)), rows))
    return {"targets": targets, "budgets": chosen, "flips": curves.tolist()}


def _numbers(budgets: list[float], profile, runs: dict[str, AttackResult]) -> dict:
    return {
        "budgets": budgets,
        "profile": dataclasses.asdict(profile),
        "flips": {name: result.flips.tolist() for name, result in runs.items()},
        "seconds": {name: result.seconds for name, result in runs.items()},
    }


def write_figures(folder: Path, profile, probes, runs: dict[str, AttackResult]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    profile.save(folder / "profile.json")
    main_ones = {name: runs[name] for name in ("MI-FGSM", "SLAM q=0.5", "CLASS g=0.5")}
    figures = {
        "flips": plots.flips_against_budget(main_ones, profile=profile),
        "correlations_up": plots.correlation_heatmap(probes.up, title="flip up"),
        "correlations_down": plots.correlation_heatmap(probes.down, title="flip down"),
        "confidences": plots.confidences(runs["SLAM q=0.5"], budget=3),
    }
    for name, figure in figures.items():
        figure.savefig(folder / f"{name}.png", dpi=120)


if __name__ == "__main__":
    main()
