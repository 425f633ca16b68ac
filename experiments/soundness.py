"""Random questions by the hundred thousand, with counterexamples planted that no oracle is told of.

    python experiments/soundness.py [--questions 100000] [--share I/N] [--out results/soundness]

Every question draws one of a few architectures (which together hold every operation of affine maps and
maxima), weights from 1e-6 to 1e6 in size, dead neurons, a box, a property and an oracle. In half of them
a point of the box is drawn, and the last bias moved so that the property fails there: exactly (a tie),
by a hair, or by more. The label asked about is the best one or any, and is mostly given the number 0, so that
questions share their compiled programs. A *contradiction* is a proof although the planted point fails, a
proven bound above the margin of a planted, sampled or corner point, or a witness that does not break the
property. One in 20 of the robust ones is certified, and the certificate replayed by jmlv_check in
outward-rounded float64; one in 20 of those in exact integers too.

Questions are answered in blocks; every block is a row of a campaign's store, so that an interrupted run
goes on where it stopped, and shares may run at a time.
"""

from __future__ import annotations

import argparse
import collections
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from asking import add_executor_arguments, ask

import jmlv
from jmlv.campaigns import CallQuestion
from jmlv.cli.report import table
from jmlv.graph import Graph
from jmlv.numerics import certificate_precision
from jmlv.oracles import Deadline, Query, ask as asked
from jmlv.oracles.certify import Certifier
from jmlv.verdict import Status
from jmlv_check import Refused

BLOCK, LABELS, SLACK = 100, 4, 1e-9
CHECKED = 20
"""One robust question in so many is certified, and one certificate in so many checked exactly."""

ORACLES = {
    "IBP": jmlv.Bounds(jmlv.IBP()),
    "CROWN-IBP": jmlv.Bounds(jmlv.CROWNIBP()),
    "CROWN": jmlv.Bounds(),
    "alpha-CROWN": jmlv.Bounds(jmlv.AlphaCROWN(steps=4, intermediate_steps=2)),
    "joint": jmlv.Bounds(jmlv.JointBounds()),
    "PGD": jmlv.PGD(restarts=4, steps=8),
    "CROWN, PGD": jmlv.Cascade((jmlv.Bounds(), jmlv.PGD(restarts=4, steps=8))),
    "branch and bound": jmlv.BranchAndBound(jmlv.CROWN(), batch=8, depth=16, few=0, parts=None),
    "input splitting": jmlv.InputSplitting(),
    "MILP": jmlv.MILP(time_limit=5.0),
}
ODDS = {"branch and bound": 0.1, "input splitting": 0.1, "MILP": 0.02, "joint": 0.1}
"""How often an oracle is asked beside the cheap ones: it costs so much more."""


def dense(x, a, b, c, d, e, f):
    h = jax.nn.relu(x.reshape(x.shape[0], -1) @ a + b)
    return jax.nn.relu(h @ c + d) @ e + f


def mixed(x, a, b, c, f):
    h = jax.lax.conv_general_dilated(
        x, a, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    h = jax.nn.leaky_relu(h + b, 0.1)
    pooled = jax.lax.reduce_window(h, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    return jax.nn.relu(pooled).reshape(x.shape[0], -1) @ c + f


def residual(x, a, b, c, f):
    h = x.reshape(x.shape[0], -1) @ a
    h = h + jax.nn.relu(h - b)
    return jnp.clip(h, -1.0, 2.0) @ c + f


def averaged(x, a, b, c, f):
    means = jax.lax.reduce_window(x, 0.0, jax.lax.add, (1, 2, 2, 1), (1, 2, 2, 1), "VALID") / 4
    h = jnp.abs(means.reshape(x.shape[0], -1) @ a + b)
    return jnp.concatenate([h, jnp.minimum(h, 0.5)], 1) @ c + f


ARCHITECTURES: dict[str, tuple[Any, tuple[int, ...], tuple[tuple[int, ...], ...]]] = {
    "dense": (dense, (3, 1, 1), ((3, 8), (8,), (8, 6), (6,), (6, LABELS), (LABELS,))),
    "mixed": (mixed, (4, 4, 1), ((3, 3, 1, 3), (3,), (12, LABELS), (LABELS,))),
    "residual": (residual, (2, 2, 1), ((4, 6), (6,), (6, LABELS), (LABELS,))),
    "averaged": (averaged, (4, 4, 1), ((4, 5), (5,), (10, LABELS), (LABELS,))),
}


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


_TRACED: dict[str, Graph] = {}


def _graph(name: str, weights: list[np.ndarray]) -> Graph:
    """The architecture's graph with other weights: traced once, since constants are data."""
    function, shape, shapes = ARCHITECTURES[name]
    if name not in _TRACED:
        marks = [np.full(s, i + 2, np.float32) + np.arange(np.prod(s)).reshape(s) / 64
                 for i, s in enumerate(shapes)]  # fmt: skip
        _TRACED[name] = jmlv.trace(lambda x: function(x, *marks), shape)
    del weights
    return _TRACED[name]


RENAMED = 7 / 8
"""The share of the questions whose label is given the number 0."""


def _question(rng: np.random.Generator) -> tuple[str, Any, Query, str, np.ndarray | None]:
    name = str(rng.choice(list(ARCHITECTURES)))
    function, shape, shapes = ARCHITECTURES[name]
    weights = _weights(rng, shapes)
    x = rng.random(shape).astype(np.float32)
    if rng.random() < 0.2:
        x = np.round(x)
    radius = np.float32(10.0 ** rng.uniform(-3, -0.3))
    box = jmlv.Box.around(x, radius * (rng.random(shape) < rng.choice([0.5, 1.0])))
    scores = _exact(function, weights, x[None])[0]
    label = int(rng.choice([np.argmax(scores), rng.integers(LABELS)]))
    if rng.random() < RENAMED:
        weights[-2:], label = [np.roll(w, -label, -1) for w in weights[-2:]], 0
    k = int(rng.integers(1, 3))
    kind = rng.integers(4)
    prop = [jmlv.InTopK(label, k), jmlv.NotInTopK(label, k), jmlv.AboveThreshold(label, 0.0),
            jmlv.InTopK(label, k) | jmlv.BelowThreshold((label + 1) % LABELS, 0.0)][kind]  # fmt: skip
    planted = None
    if rng.random() < 0.5:
        lower, upper = np.asarray(box.lower), np.asarray(box.upper)
        share = rng.random(shape) if rng.random() < 0.5 else rng.integers(0, 2, shape)
        planted = np.clip((lower + share * (upper - lower)).astype(np.float32), lower, upper)
        _plant(rng, function, weights, prop, planted, label)
    graph = _with(name, weights)
    odds = np.array([ODDS.get(oracle, 1.0) for oracle in ORACLES])
    oracle = str(rng.choice(list(ORACLES), p=odds / odds.sum()))
    return name, prop, Query.of(graph, box, prop, graph=graph), oracle, planted


def _exact(function: Any, weights: list[np.ndarray], x: np.ndarray) -> np.ndarray:
    with certificate_precision():
        wide = [jnp.asarray(w, jnp.float64) for w in weights]
        return np.asarray(function(jnp.asarray(x, jnp.float64), *wide))


def _plant(rng, function, weights, prop, point, label) -> None:
    """Moves the last bias of a label so that the property fails at the point, if that can be done."""
    margin = float(prop.margin(_exact(function, weights, point[None])[0]))
    scale = max(1.0, abs(margin))
    wanted = -scale * float(rng.choice([0.0, 1e-7, 1e-4, 0.1]))
    for sign in (-1, 1):
        moved = weights[-1].copy()
        moved[label] += np.float32(sign * (margin - wanted))
        if float(prop.margin(_exact(function, [*weights[:-1], moved], point[None])[0])) <= 0:
            weights[-1] = moved
            return


def _with(name: str, weights: list[np.ndarray]) -> Graph:
    """The traced graph with its constants replaced by these weights, told apart by their marks."""
    graph = _graph(name, weights)
    _, _, shapes = ARCHITECTURES[name]
    consts = []
    for const in graph.consts:
        value = np.asarray(const)
        mark = int(np.floor(value.ravel()[0])) - 2 if value.size else -1
        fits = 0 <= mark < len(shapes) and value.size == np.prod(shapes[mark])
        marked = fits and np.allclose(np.sort(value.ravel()),
                                      mark + 2 + np.arange(value.size) / 64)  # fmt: skip
        consts.append(weights[mark].reshape(value.shape) if marked else const)
    replaced = Graph(graph.structure, tuple(consts))
    return replaced


def block(number: int, seed: int) -> dict[str, Any]:
    """Answers one block of questions; what went wrong is told in full."""
    counts: collections.Counter = collections.Counter()
    wrong: list[str] = []
    for i in range(BLOCK):
        rng = np.random.default_rng((seed, number, i))
        _answer(rng, f"{number}/{i}", counts, wrong)
    return {**{name: int(n) for name, n in sorted(counts.items())}, "wrong": wrong}


def _answer(rng: np.random.Generator, where: str, counts: collections.Counter, wrong: list) -> None:
    name, prop, query, oracle, planted = _question(rng)
    try:
        verdict = asked(query, ORACLES[oracle], Deadline(20.0))
    except jmlv.oracles.SoundnessError as problem:
        wrong.append(f"{where}: {name}, {oracle}, {prop}: {problem}")
        return
    lower, upper = query.lower, query.upper
    shares = rng.random((64, *lower.shape))
    shares = np.where(rng.random((64, 1, 1, 1)) < 0.5, np.round(shares), shares)
    points = np.clip((lower + shares * (upper - lower)).astype(np.float32), lower, upper)
    points = points if planted is None else np.concatenate([points, planted[None]])
    with certificate_precision():
        scores = query.graph64.scores(jnp.asarray(points, jnp.float64))
        margins = np.asarray(query.property.margin(scores))
    fails = planted is not None and margins[-1] <= 0
    state = "planted" if fails else "free"
    counts[f"{state} {verdict.status.name}"] += 1
    counts[f"by {oracle}"] += 1
    slack = SLACK * max(1.0, float(np.abs(np.asarray(scores)).max()))
    if verdict.lower > margins.min() + slack or (verdict.robust and fails):
        wrong.append(f"{where}: {name}, {oracle}, {prop}: {verdict}, reached {margins.min()}")
    if verdict.status is Status.NOT_ROBUST and query.margin_exact(verdict.witness) > 0:
        wrong.append(f"{where}: {name}, {oracle}, {prop}: {verdict}, not a witness")
    if verdict.robust and rng.integers(CHECKED) == 0:
        _certify(rng, query, where, counts, wrong)


def _certify(rng, query: Query, where: str, counts: collections.Counter, wrong: list) -> None:
    certificate = Certifier(batch=8, depth=16).prove(query, Deadline(10.0))
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
    add_executor_arguments(parser)
    options = parser.parse_args()
    jmlv.keep_compiled()
    part, parts = map(int, options.share.split("/"))
    numbers = range(part - 1, options.questions // BLOCK, parts)
    questions = [
        CallQuestion("soundness:block", {"number": n, "seed": options.seed}) for n in numbers
    ]
    total: collections.Counter = collections.Counter()
    wrong = []
    for row in ask(questions, options, "blocks"):
        wrong += row.pop("wrong")
        total.update({name: n for name, n in row.items() if isinstance(n, int)})
    rows = [(name, n) for name, n in sorted(total.items())]
    text = table(("what", "questions"), [*rows, ("contradictions", len(wrong))])
    (options.out / "table.txt").write_text("\n".join([text, *wrong]) + "\n")
    print(text, *wrong, sep="\n")


if __name__ == "__main__":
    main()
