"""Which parts of growing pay: each changed alone, the rest as they are by default.

    python experiments/ablate_growing.py                       # the committed checkpoints
    python experiments/ablate_growing.py --published --networks linf plain --images 2
    python experiments/ablate_growing.py --parts bound starts

Parts: the bound of the search (IBP, CROWN-IBP, CROWN), candidates a batch, starts, rounds of
large-neighbourhood search, polish, polish under tight intervals, complete phase (also with branch and
bound in the solver's place), cutting weights, dynamic weights. Every finished
case is a row of ``answers`` in the output folder; an interrupted run goes on where it stopped.
The table has the mean size, and its ratio to the unchanged strategy's on the same images.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import growing
import numpy as np
from recorded import add_record_argument, keep_table

import jmlv
from jmlv.bounds import BoundMethod
from jmlv.campaigns import GrowQuestion
from jmlv.cli.report import table

SEARCH = jmlv.LayerSearch(complete=None)
GRADIENT = jmlv.GradientGuided()
BRANCHING = jmlv.Cascade((jmlv.Bounds(), jmlv.PGD(), jmlv.BranchAndBound(time_limit=10.0)))


class Variant(NamedTuple):
    """One changed part: which, to what, and the strategy and bound that it makes."""

    part: str
    value: str
    strategy: jmlv.Strategy
    bound: BoundMethod = jmlv.CROWN()
    default: jmlv.Strategy = SEARCH


def variants() -> Iterator[Variant]:
    change, gradient = dataclasses.replace, GRADIENT
    yield Variant("layer search", "default", SEARCH)
    for bound in (jmlv.IBP(), jmlv.CROWNIBP()):
        yield Variant("bound", f"search, {bound.name}", SEARCH, bound)
        steps = change(gradient.steps, gradient=bound)
        yield Variant(
            "bound", f"gradient, {bound.name}", change(gradient, steps=steps), bound, GRADIENT
        )
    for width in (4, 64):
        yield Variant("batch", f"search, {width} wide", change(SEARCH, width=width))
    for rounds in (0, 64):
        yield Variant("rounds", f"search, {rounds} rounds", change(SEARCH, rounds=rounds))
    yield Variant("polish", "search, off", change(SEARCH, polish=None))
    yield Variant("tight polish", "search, off", change(SEARCH, tighter=None))
    yield Variant("complete phase", "search, on", change(SEARCH, complete=jmlv.CompletePhase()))
    branching = jmlv.CompletePhase(oracle=BRANCHING)
    yield Variant("complete phase", "search, branch and bound", change(SEARCH, complete=branching))
    yield Variant("gradient guided", "default", GRADIENT, default=GRADIENT)
    for starts in (1, 16):
        yield Variant(
            "starts", f"gradient, {starts}", change(gradient, starts=starts), default=GRADIENT
        )
    for cut in (None, jmlv.FixedCut(), jmlv.SensitivityCut("keep_sensitive")):
        name = "none" if cut is None else cut.name
        yield Variant("cut", f"gradient, {name}", change(gradient, cut=cut), default=GRADIENT)
    for weights in (jmlv.SensitivityWeights(0.5), jmlv.SensitivityWeights(-0.5)):
        ascent = change(gradient.ascent, weights=weights)
        name = f"gradient, strength {weights.strength}"
        yield Variant("dynamic weights", name, change(gradient, ascent=ascent), default=GRADIENT)
    yield Variant("dynamic weights", "search, rounds", jmlv.Reweighted(SEARCH))


def main() -> None:
    options = parse()
    jmlv.keep_compiled()
    plan = list(planned(options))
    records = growing.grow_and_attack([question for _, question in plan], options)
    report([(variant, record) for (variant, _), record in zip(plan, records)], options.out, options)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    growing.add_subject_arguments(parser, images=5)
    parts = sorted({variant.part for variant in variants()})
    parser.add_argument("--parts", nargs="+", choices=parts, help="only these, beside the defaults")
    parser.add_argument("--out", type=Path, default=Path("results/ablate_growing"))
    add_record_argument(parser)
    return parser.parse_args()


def planned(options: argparse.Namespace) -> Iterator[tuple[Variant, GrowQuestion]]:
    chosen = [
        v
        for v in variants()
        if options.parts is None or v.part in options.parts or v.value == "default"
    ]
    for network, examples in growing.subjects(options):
        for subject in examples:
            for v in chosen:
                asked = growing.question(
                    network, subject, v.strategy, options.budget, bound=v.bound
                )
                yield v, asked


def report(
    results: list[tuple[Variant, dict]], out: Path, options: argparse.Namespace | None = None
) -> None:
    grouped, defaults = defaultdict(list), {}
    for variant, record in results:
        grouped[record["network"], variant].append(record)
        if variant.value == "default":
            defaults[record["network"], variant.strategy, record["image"]] = record["size"]
    rows = []
    for (network, variant), members in grouped.items():
        base = np.mean([defaults[network, variant.default, m["image"]] for m in members])
        ratio = float(np.mean([m["size"] for m in members]) / max(base, 1e-9))
        rows.append((network, variant.part, variant.value, ratio, *growing.means(members)))
    text = table(("network", "part", "value", "to default", *growing.MEANS), rows)
    keep_table(
        options,
        ("network", "part", "value", "to default", *growing.MEANS),
        rows,
        [
            "experiments/ablate_growing.py",
            "experiments/growing.py",
            "jmlv/neighborhoods",
            "jmlv/bounds",
            "jmlv/oracles",
        ],
    )
    (out / "table.txt").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
