"""Random small networks: branch and bound and input splitting against the MILP and against points.

    python experiments/fuzz_oracles.py [--nets 300] [--kinds patches dense pooled narrow]

*Inputs* is input splitting, which is asked about boxes of four moving inputs only ("narrow").
Every network is asked one question ('stays in', 'stays out'; k = 1, 2) about one box. A *contradiction*
is a proof beside a counterexample, or a proven bound above the margin of a known input: corners and
uniform points of the box, and whatever point an oracle found. Every network is a row of ``answers`` in the
output folder, so that an interrupted run goes on where it stopped.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from asking import add_executor_arguments, ask

import jmlv
from jmlv.campaigns import CallQuestion
from jmlv.cli.report import table
from jmlv.numerics import certificate_precision
from jmlv.oracles import MILP, BranchAndBound, Deadline, InputSplitting, Oracle, Query, judge
from jmlv.verdict import Status

LABELS, IMAGE, POINTS = 4, (4, 4, 1), 512
SLACK = 1e-9
"""A bound may exceed a known margin by this much: far more than float64 rounds, less than float32."""

ORACLES: dict[str, Oracle] = {
    "by parts": BranchAndBound(jmlv.CROWN()),
    "as a whole": BranchAndBound(jmlv.CROWN(), parts=None),
    "inputs": InputSplitting(largest=4),
    "MILP": MILP(),
}


def _layer(rng: np.random.Generator, *shape: int) -> jax.Array:
    scale = 2 / np.sqrt(np.prod(shape[:-1]))
    return jnp.asarray(scale * rng.normal(size=shape), jnp.float32)


def patches(rng: np.random.Generator):
    """Four patches with units of their own, which meet in pairs, and the pairs in the scores."""
    a, b, c = _layer(rng, 4, 4, 3)[None], _layer(rng, 6, 4), _layer(rng, 8, LABELS)
    shift = jnp.asarray(0.5 * rng.normal(size=(4, 3)), jnp.float32)

    def f(x):
        cut = x.reshape(-1, 2, 2, 2, 2).transpose(0, 1, 3, 2, 4).reshape(-1, 4, 4)
        first = jax.nn.relu((cut[..., None] * a).sum(2) + shift - 0.5)
        return jax.nn.relu(first.reshape(-1, 2, 6) @ b).reshape(-1, 8) @ c

    return f


def dense(rng: np.random.Generator):
    """Two hidden layers."""
    a, b, c = _layer(rng, 16, 8), _layer(rng, 8, 6), _layer(rng, 6, LABELS)
    return lambda x: jax.nn.relu(jax.nn.relu(x.reshape(-1, 16) @ a) @ b) @ c


def pooled(rng: np.random.Generator):
    """A convolution and max pools of values of both signs over windows that share no pixel."""
    kernel, c = _layer(rng, 1, 2, 1, 3), _layer(rng, 12, LABELS)

    def f(x):
        numbers = ("NHWC", "HWIO", "NHWC")
        h = jax.lax.conv_general_dilated(
            x - 0.5, kernel, (1, 2), "VALID", dimension_numbers=numbers
        )
        window = (1, 2, 1, 1)
        h = jax.lax.reduce_window(h, -jnp.inf, jax.lax.max, window, window, "VALID")
        return h.reshape(-1, 12) @ c

    return f


KINDS = {"patches": patches, "dense": dense, "pooled": pooled, "narrow": dense}


def main() -> None:
    jmlv.keep_compiled()
    options = parse()
    cases = [
        {"kind": options.kinds[seed % len(options.kinds)], "seed": seed}
        for seed in range(options.nets)
    ]
    questions = [
        CallQuestion("fuzz_oracles:one", {**case, "seconds": options.budget}, tags=case)
        for case in cases
    ]
    print(summary(ask(questions, options, "networks")))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nets", type=int, default=300)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--budget", type=float, default=30.0, help="seconds a question")
    add_executor_arguments(parser)
    parser.add_argument("--out", type=Path, default=Path("results/fuzz_oracles"))
    return parser.parse_args()


def question(kind: str, seed: int) -> Query:
    """A box whose size is drawn so that about half of the answers are 'yes'; a narrow one moves a row."""
    rng = np.random.default_rng(seed)
    graph = jmlv.trace(KINDS[kind](rng), IMAGE)
    x = rng.uniform(size=IMAGE).astype(np.float32)
    order = np.argsort(-np.asarray(graph(x[None])[0]))
    k = int(rng.integers(1, 3))
    asked = jmlv.InTopK(int(order[0]), k), jmlv.NotInTopK(int(order[-1]), k)
    radius = np.full(IMAGE, rng.choice([0.05, 0.1, 0.2, 0.3]), np.float32)
    if kind == "narrow":
        radius[1:], radius[:1] = 0, 2 * radius[:1]
    box = jmlv.Box.around(x, radius)
    return Query.of(graph, box, asked[int(rng.integers(2))], graph)


def one(kind: str, seed: int, seconds: float) -> dict[str, Any]:
    """All oracles on one network, and how far their bounds are above the least known margin."""
    query = question(kind, seed)
    least = sampled(query, np.random.default_rng(seed))
    found, lowers = {}, []
    for name, oracle in ORACLES.items():
        start = time.process_time()
        verdict = judge(query, oracle.search(query, Deadline(seconds)), name)
        found[name] = {"status": verdict.status.name, "seconds": time.process_time() - start}
        least = min(least, verdict.upper)
        lowers.append(verdict.lower)
    statuses = {answer["status"] for answer in found.values()}
    both = {Status.ROBUST.name, Status.NOT_ROBUST.name} <= statuses
    excess = float(max(lowers) - least)
    return {
        "answers": found, "contradiction": both or excess > SLACK,
        "excess": excess if np.isfinite(excess) else None,
    }  # fmt: skip


def sampled(query: Query, rng: np.random.Generator) -> float:
    """The least margin of corners and of uniform points."""
    share = rng.random((POINTS, *IMAGE))
    share[::2] = share[::2].round()
    points = query.lower + share * (query.upper.astype(float) - query.lower)
    with certificate_precision():
        return float(query.property.margin(query.graph64.scores(points)).min())


def summary(records: list[dict[str, Any]]) -> str:
    rows = []
    for kind in dict.fromkeys(r["kind"] for r in records):
        chosen = [r for r in records if r["kind"] == kind]
        row: list[Any] = [kind, len(chosen), sum(r["contradiction"] for r in chosen)]
        for name in ORACLES:
            answers = [r["answers"][name] for r in chosen]
            statuses = [a["status"] for a in answers]
            row += [statuses.count(s.name) for s in (Status.ROBUST, Status.NOT_ROBUST)]
            row.append(float(np.median([a["seconds"] for a in answers])))
        rows.append(tuple(row))
    header = ["network", "nets", "contradictions"]
    for name in ORACLES:
        header += [f"{name}: robust", "not", "median CPU s"]
    return table(tuple(header), rows)


if __name__ == "__main__":
    main()
