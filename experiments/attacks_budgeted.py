"""Flips against budget: SLAM and CLASS beside plain MI-FGSM, with paired tests and ablations.

    python experiments/attacks_budgeted.py            # double digits, 100 images, minutes
    python experiments/attacks_budgeted.py --quick    # about a minute
    python experiments/attacks_budgeted.py --data mulan FOLDER yeast
    python experiments/attacks_budgeted.py --data coco FOLDER

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
import time
from pathlib import Path

import jax
import numpy as np
from attacked import CODE, Subject, parse, parser, subjects
from recorded import keep_table
from scipy import stats

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
from jmlv.compilation import keep_compiled
from jmlv.progress import TqdmProgress

SHARES = (0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0)


def main() -> None:
    keep_compiled()
    command = parser(__doc__.splitlines()[0], "attacks_budgeted", "24 images, no ablations")
    options = parse(command, quick_images=24)
    found = [(s.name, *line) for s in subjects(options) for line in study(s, options)]
    columns = ("data", "norm", "method", *(f"{share:.0%}" for share in SHARES))
    keep_table(options, columns, found, (*CODE, "experiments/attacks_budgeted.py"))


def study(subject: Subject, options: argparse.Namespace) -> list[tuple]:
    """Writes and prints; returns the mean flips, a line for each norm and method."""
    start, progress = time.perf_counter(), TqdmProgress(leave=False)
    accuracy = ((np.asarray(subject.f(subject.images)) > 0) == subject.labels).mean()
    lines = [
        f"{subject.name}: {len(subject.images)} images, {subject.labels.shape[1]} labels, "
        f"{accuracy:.3f} of labels right; {platform.machine()}, JAX {jax.__version__}",
        *([subject.note] if subject.note else []),
    ]
    content = {"images": len(subject.images), "labels_right": float(accuracy)}
    found = []
    for norm in ("linf",) if options.quick else ("linf", "l2"):
        profile = classifier_profile(subject.f, subject.others, norm=norm, progress=progress)
        probes = probe_labels(
            subject.f, subject.others, norm=norm, epsilon=profile.max_epsilon / 5, progress=progress
        )
        budgets = [share * profile.max_epsilon for share in SHARES]
        runs = compare(subject, methods(profile, probes, norm, options.quick), budgets, progress)
        lines += ["", _heading(norm, profile), text_table(budgets, runs)]
        content[norm] = _numbers(budgets, profile, runs)
        found += [(norm, name, *map(float, run.flips.mean(1))) for name, run in runs.items()]
        write_figures(options.out / subject.name / norm, profile, probes, runs)
    if not options.quick:
        targets = sorted({1, 2, *range(3, subject.labels.shape[1] + 1, 2), subject.labels.shape[1]})
        content["targets"] = _targets(subject, content["linf"]["budgets"], targets, lines)
    lines += ["", f"{time.perf_counter() - start:.0f} s"]
    (options.out / subject.name).mkdir(parents=True, exist_ok=True)
    (options.out / subject.name / "table.txt").write_text("\n".join(lines) + "\n")
    write_json(options.out / subject.name / "numbers.json", content)
    print("\n".join(lines), flush=True)
    return found


def methods(profile, probes, norm: str, quick: bool) -> dict:
    """MI-FGSM first; then SLAM with several q, and CLASS with several gamma."""
    measured, inverse = probes.correlations(), probes.correlations(inverse=True)
    plain = {"MI-FGSM": MIFGSM(norm=norm)}
    smart = {
        f"SLAM q={q:g}": SLAM(q, profile=profile, norm=norm)
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
