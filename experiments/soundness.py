"""Random questions by the hundred thousand, with counterexamples planted that no oracle is told of.

    python experiments/soundness.py [--questions 100000] [--share I/N] [--out results/soundness]
    python experiments/soundness.py --stored    # the table of what has been answered so far

Every block of questions is about one of a few architectures, which together hold every operation of a graph
(every_operation.py). Every question draws weights from 1e-6 to 1e6 in size, dead neurons, a box, a
property and an oracle. In half of them a point of the box is drawn, and the last bias moved so that the
property fails there: exactly (a tie), by a hair, or by more. The label asked about is the best one or any, and is mostly given the number 0, so that
questions share their compiled programs. A *contradiction* is a proof although the planted point fails, a
proven bound above the margin of a planted, sampled or corner point, or a witness that does not break the
property. A certificate is looked for of every robust one of a network of affine maps and maxima, and replayed by
jmlv_check in outward-rounded float64; one in 20 of those in exact integers too. The checker
does not know the operations of other networks, which are rows of their own in the table.

Questions are answered in blocks; every block is a row of a campaign's store, so that an interrupted run
goes on where it stopped, and shares may run at a time: a share I/7 is of one architecture, and so has the
fewest programs to compile.
"""

from __future__ import annotations

import argparse
import collections
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from asking import add_executor_arguments, ask, stored
from every_operation import ARCHITECTURES, LABELS, network
from recorded import add_record_argument, keep_table

import jmlv
from jmlv.campaigns import CallQuestion
from jmlv.cli.report import table
from jmlv.graph import Graph
from jmlv.numerics import certificate_precision
from jmlv.oracles import Deadline, Query, ask as asked
from jmlv.oracles.certify import Certifier
from jmlv.verdict import Status
from jmlv_check import Refused

BLOCK, SLACK, SECONDS = 100, 1e-9, 60.0
CHECKED = 20
"""One certificate in so many is checked in exact integers too."""

CERTIFIER = Certifier(batch=8, depth=16)

ORACLES = {
    "IBP": jmlv.Bounds(jmlv.IBP()),
    "CROWN-IBP": jmlv.Bounds(jmlv.CROWNIBP()),
    "CROWN": jmlv.Bounds(),
    "alpha-CROWN": jmlv.Bounds(jmlv.AlphaCROWN(steps=4, intermediate_steps=2)),
    "joint": jmlv.Bounds(jmlv.JointBounds()),
    "PGD": jmlv.PGD(restarts=4, steps=8),
    "CROWN, PGD": jmlv.Cascade((jmlv.Bounds(), jmlv.PGD(restarts=4, steps=8))),
    "branch and bound": jmlv.BranchAndBound(
        jmlv.CROWN(), batch=8, depth=16, few=0, parts=None, time_limit=1.0
    ),
    "input splitting": jmlv.InputSplitting(time_limit=1.0),
    "MILP": jmlv.MILP(time_limit=5.0),
}
ODDS = {**dict.fromkeys(ORACLES, 1.0), "joint": 0.1, "branch and bound": 0.1, "input splitting": 0.1, "MILP": 0.02}  # fmt: skip
"""How often an oracle is asked beside the cheap ones: some cost so much more. Branch and bound takes 17 to 650 ms
of processor time, by architecture, input splitting 12 to 230, programs aside: 3 ms a question in the mean."""

ASKED_OF = {
    "MILP": ("dense", "pooled", "residual", "moved"),
    "joint": ("dense",),
}
"""The architectures that an oracle is asked about, if not all: it cannot be, or its programs take long to
compile."""


def _drawn_oracle(rng: np.random.Generator, name: str) -> str:
    able = [oracle for oracle in ORACLES if name in ASKED_OF.get(oracle, ARCHITECTURES)]
    odds = np.array([ODDS[oracle] for oracle in able])
    return str(rng.choice(able, p=odds / odds.sum()))


def _weights(rng: np.random.Generator, shapes: tuple) -> list[np.ndarray]:
    """Of sizes that differ from entry to entry, or from layer to layer, or not; some neurons dead."""
    spread = rng.choice([0.0, 1.0, 3.0])
    per_entry = rng.random() < 0.5
    found = []
    for shape in shapes:
        fan_in = max(1, int(np.prod(shape[:-1]))) if len(shape) > 1 else 1
        size = rng.uniform(-2 * spread, 2 * spread, shape if per_entry else ())
        w = rng.normal(size=shape) * 1.5 / np.sqrt(fan_in) * 10.0**size
        if rng.random() < 0.1:
            w = np.where(rng.random(shape[-1]) < 0.3, 0.0, w)
        found.append(w.astype(np.float32))
    return found


RENAMED = 7 / 8
"""The share of the questions whose label is given the number 0."""


def _question(rng: np.random.Generator, name: str) -> tuple[Query, str, np.ndarray | None]:
    of = ARCHITECTURES[name]
    weights = _weights(rng, of.weights)
    x = rng.random(of.shape).astype(np.float32)
    if rng.random() < 0.2:
        x = np.round(x)
    radius = np.float32(10.0 ** rng.uniform(-3, -0.3))
    box = jmlv.Box.around(x, radius * (rng.random(of.shape) < rng.choice([0.5, 1.0])))
    scores = _exact(network(name, weights), x[None])[0]
    label = int(rng.choice([np.argmax(scores), rng.integers(LABELS)]))
    if rng.random() < RENAMED:
        weights[-2:], label = [np.roll(w, -label, -1) for w in weights[-2:]], 0
    prop = _drawn_property(rng, name, label)
    planted = None
    if rng.random() < 0.5:
        share = rng.random(of.shape) if rng.random() < 0.5 else rng.integers(0, 2, of.shape)
        planted = _at(box.lower, box.upper, share)
        _plant(rng, name, weights, prop, planted, label)
    graph = network(name, weights)
    oracle = _drawn_oracle(rng, name)
    return Query.of(graph, box, prop, graph=graph), oracle, planted


def _drawn_property(rng: np.random.Generator, name: str, label: int) -> jmlv.Property:
    """About a label. All have three rows at one level, so that they share programs; but for one
    architecture some have one row, or rows at two levels."""
    k, above = int(rng.integers(1, 3)), jmlv.AboveThreshold(label, 0.0)
    next_one, last = ((label + i) % LABELS for i in (1, 2))
    three = above, jmlv.BelowThreshold(next_one, 0.0), jmlv.AboveThreshold(last, 0.0)
    kinds = [jmlv.InTopK(label, k), jmlv.NotInTopK(label, k), jmlv.AtLeast(int(rng.integers(1, 4)), three)]  # fmt: skip
    if name == "dense":
        kinds += [above, jmlv.InTopK(label, k) | three[1]]
    return kinds[rng.integers(len(kinds))]


def _at(lower: Any, upper: Any, shares: np.ndarray) -> np.ndarray:
    """Points of a box, in float32."""
    lower, upper = np.asarray(lower), np.asarray(upper)
    return np.clip((lower + shares * (upper - lower)).astype(np.float32), lower, upper)


_scores = jax.jit(Graph.scores)


def _exact(graph: Graph, points: np.ndarray) -> np.ndarray:
    """The scores in float64, by the network as it is evaluated, (point, label)."""
    with certificate_precision():
        return np.asarray(_scores(graph.astype("float64"), points.astype(np.float64)))


def _margins(prop: jmlv.Property, scores: np.ndarray) -> np.ndarray:
    """In float64: elsewhere JAX, which has float32 only, would round the scores to that."""
    with certificate_precision():
        return np.asarray(prop.margin(scores))


def _plant(rng, name: str, weights: list, prop: Any, point: np.ndarray, label: int) -> None:
    """Moves the last bias of a label so that the property fails at the point, if that can be done."""
    margin = float(_margins(prop, _exact(network(name, weights), point[None])[0]))
    if not np.isfinite(margin):
        return
    wanted = -max(1.0, abs(margin)) * float(rng.choice([0.0, 1e-7, 1e-4, 0.1]))
    for sign in (-1, 1):
        moved = weights[-1].copy()
        moved[label] += np.float32(sign * (margin - wanted))
        scores = _exact(network(name, [*weights[:-1], moved]), point[None])[0]
        if _margins(prop, scores) <= 0:
            weights[-1] = moved
            return


def block(number: int, seed: int) -> dict[str, Any]:
    """Answers one block of questions; what went wrong is told in full."""
    counts: collections.Counter = collections.Counter()
    wrong: list[str] = []
    name, start = list(ARCHITECTURES)[number % len(ARCHITECTURES)], time.process_time()
    for i in range(BLOCK):
        rng = np.random.default_rng((seed, number, i))
        _answer(rng, name, f"{number}/{i}", counts, wrong)
    return {
        **{name: int(n) for name, n in sorted(counts.items())},
        "wrong": wrong,
        "seconds": time.process_time() - start,
    }


def _answer(
    rng: np.random.Generator, name: str, where: str, counts: collections.Counter, wrong: list[str]
) -> None:
    query, oracle, planted = _question(rng, name)
    asked_about = f"{where}: {name}, {oracle}, {query.property}"
    try:
        verdict = asked(query, ORACLES[oracle], Deadline(SECONDS))
    except jmlv.oracles.SoundnessError as problem:
        wrong.append(f"{asked_about}: {problem}")
        return
    shares = rng.random((64, *query.lower.shape))
    shares[::2] = np.round(shares[::2])
    points = _at(query.lower, query.upper, shares)
    points[-1] = points[-1] if planted is None else planted
    scores = _exact(query.graph, points)
    margins = _margins(query.property, scores)
    fails = planted is not None and margins[-1] <= 0
    state = "planted" if fails else "free"
    counts[f"{state} {verdict.status.name}"] += 1
    counts[f"by {oracle}"] += 1
    counts[f"of {name}"] += 1
    least = np.nanmin(margins, initial=np.inf)
    slack = SLACK * max(1.0, float(np.abs(scores).max()))
    if verdict.lower > least + slack or (verdict.robust and not least > 0):
        wrong.append(f"{asked_about}: {verdict}, reached {least}")
    if verdict.status is Status.NOT_ROBUST and not _breaks(query, verdict.witness):
        wrong.append(f"{asked_about}: {verdict}, not a witness")
    if verdict.robust and ARCHITECTURES[name].linear:
        _certify(rng, query, counts)


def _breaks(query: Query, witness: np.ndarray) -> bool:
    inside = bool(np.all((query.lower <= witness) & (witness <= query.upper)))
    scores = _exact(query.graph, witness[None])[0]
    return inside and bool(_margins(query.property, scores) <= 0)


def _certify(rng: np.random.Generator, query: Query, counts: collections.Counter) -> None:
    certificate = CERTIFIER.prove(query, Deadline(1.0))
    if certificate is None:
        counts["certificate not found"] += 1
        return
    try:
        certificate.check()
        counts["certificate checked"] += 1
        if rng.integers(CHECKED) == 0:
            certificate.check(exact=True)
            counts["certificate checked exactly"] += 1
    except Refused as problem:
        counts["certificate refused"] += 1
        del problem  # a proof within rounding of zero: refused, which is what the checker is for


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--questions", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--share", default="1/1", help="I/N: only every N-th block, from the I-th")
    parser.add_argument("--out", type=Path, default=Path("results/soundness"))
    parser.add_argument("--stored", action="store_true", help="ask nothing, count what is stored")
    add_executor_arguments(parser)
    add_record_argument(parser)
    options = parser.parse_args()
    jmlv.keep_compiled()
    part, parts = map(int, options.share.split("/"))
    numbers = range(part - 1, options.questions // BLOCK, parts)
    questions = [
        CallQuestion("soundness:block", {"number": n, "seed": options.seed}, version=2)
        for n in numbers
    ]
    blocks = stored(questions, options.out) if options.stored else ask(questions, options, "blocks")
    wrong = [text for block in blocks for text in block["wrong"]]
    rows = summary(blocks)
    text = table(COLUMNS, rows)
    (options.out / "table.txt").write_text("\n".join([text, *wrong]) + "\n")
    print(text, *wrong, sep="\n")
    keep_table(options, COLUMNS, rows, ("jmlv", "jmlv_check"))


COLUMNS = (
    "networks", "questions", "robust", "not robust", "unknown", "planted points", "found",
    "certificates checked", "exactly", "not found", "refused", "contradictions", "CPU ms a question",
)  # fmt: skip


def summary(blocks: list[dict[str, Any]]) -> list[tuple[str | int, ...]]:
    """A row of :data:`COLUMNS` for each architecture, and one for all; compilation counts as time."""
    of = {name: [b for b in blocks if f"of {name}" in b] for name in ARCHITECTURES}
    return [_row(name, own) for name, own in of.items() if own] + [_row("all", blocks)]


def _row(name: str, blocks: list[dict[str, Any]]) -> tuple[str | int, ...]:
    total: collections.Counter = collections.Counter()
    for block in blocks:
        total.update({name: n for name, n in block.items() if isinstance(n, int)})
    asked, wrong = BLOCK * len(blocks), sum(len(block["wrong"]) for block in blocks)
    verdicts = [total[f"free {s.name}"] + total[f"planted {s.name}"] for s in _STATUSES]
    planted = sum(total[f"planted {s.name}"] for s in _STATUSES)
    certificates = [total[f"certificate {what}"] for what in ("checked", "checked exactly", "not found", "refused")]  # fmt: skip
    milliseconds = 1000 * sum(block["seconds"] for block in blocks) / max(1, asked)
    return (name, asked, *verdicts, planted, total["planted NOT_ROBUST"], *certificates, wrong,
            f"{milliseconds:.0f}")  # fmt: skip


_STATUSES = Status.ROBUST, Status.NOT_ROBUST, Status.UNKNOWN


if __name__ == "__main__":
    main()
