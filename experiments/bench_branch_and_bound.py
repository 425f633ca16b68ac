"""Branch and bound against the MILP alone, on the same queries: decided, and seconds.

    python experiments/bench_branch_and_bound.py [--budget 30] [--images 2] [--networks x2 linf plain]

Queries on the published networks: uniform boxes, and neighbourhoods of one digit's layers. For each
box the labels that the scores of the centre rank next to the border of the top k are asked about
('stays in', 'stays out'); those that CROWN or PGD decide are left out. Compilation, once a network,
is not in the seconds. *Splitting* is branch and bound that leaves no small subdomain to the solver.
At the end the cases in which branch and bound loses are named.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import NamedTuple

import jax
import numpy as np
import published

import jmlv
from jmlv.cli.report import table
from jmlv.oracles import MILP, PGD, Bounds, BranchAndBound, Cascade
from jmlv.verdict import Status, Verdict

EARLY = Cascade((Bounds(), PGD(restarts=32, steps=60)))
ORACLES = {"splitting": BranchAndBound(few=0), "branching": BranchAndBound(), "milp": MILP()}
LAYER_RADIUS = 0.1


class Case(NamedTuple):
    network: str
    kind: str
    image: int
    property: jmlv.Property
    verdicts: dict[str, Verdict]
    seconds: dict[str, float]


def main() -> None:
    jmlv.keep_compiled()
    options = parse()
    cases = []
    for name in options.networks:
        for case in compare(name, options):
            cases.append(case)
            print(*described(case), sep="  ", flush=True)
    print("\n" + summary(cases))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    published.add_networks_argument(parser)
    parser.add_argument("--radii", nargs="+", type=float, default=[0.005, 0.01])
    parser.add_argument("--images", type=int, default=2)
    parser.add_argument("--k", type=int, default=2)
    parser.add_argument("--budget", type=float, default=30.0, help="seconds a query")
    return parser.parse_args()


def compare(name: str, options: argparse.Namespace) -> Iterator[Case]:
    data = published.images()
    graph = jmlv.trace(published.network(name), data.images.shape[1:])
    warm = True
    for image in range(options.images):
        for kind, box in boxes(data, image, options.radii):
            for property in questions(graph, data.images[image], options.k):
                early = jmlv.verify(graph, box, property, EARLY, budget=options.budget)
                if early.status is not Status.UNKNOWN:
                    continue
                if warm:
                    jmlv.verify(graph, box, property, BranchAndBound(subdomains=20))
                    warm = False
                found = {
                    oracle: jmlv.verify(
                        graph, box, property, ORACLES[oracle], budget=options.budget
                    )
                    for oracle in ORACLES
                }
                seconds = {oracle: v.stats["seconds"] for oracle, v in found.items()}
                yield Case(name, kind, image, property, found, seconds)


def boxes(
    data: published.Published, image: int, radii: list[float]
) -> Iterator[tuple[str, jmlv.Box]]:
    """Uniform boxes, and the first layers around the right digit."""
    x = data.images[image]
    for radius in radii:
        yield f"uniform {radius:g}", jmlv.Box.around(x, np.float32(radius))
    near = jmlv.Layers.around(data.mask(image, 1)).index <= 1
    epsilon = np.where(near[..., None], np.float32(LAYER_RADIUS), np.float32(0))
    yield f"layers {LAYER_RADIUS:g}", jmlv.Box.around(x, epsilon)


def questions(graph: jmlv.Graph, x: np.ndarray, k: int) -> list[jmlv.Property]:
    order = np.argsort(-np.asarray(jax.jit(graph.scores)(x[None]))[0])
    inside = [jmlv.InTopK(int(label), k) for label in order[:k]]
    return inside + [jmlv.NotInTopK(int(label), k) for label in order[k : k + 2]]


def described(case: Case) -> tuple:
    name = f"{type(case.property).__name__}({case.property.label})"
    answers = [
        f"{oracle}: {v.status.name} {case.seconds[oracle]:.1f} s [{v.lower:.3g}, {v.upper:.3g}]"
        for oracle, v in case.verdicts.items()
    ]
    return case.network, case.kind, f"image {case.image}", name, *answers


def summary(cases: list[Case]) -> str:
    rows = []
    for network, kind in dict.fromkeys((c.network, c.kind) for c in cases):
        chosen = [c for c in cases if (c.network, c.kind) == (network, kind)]
        row = [network, kind, len(chosen)]
        for oracle in ORACLES:
            decided = [c for c in chosen if c.verdicts[oracle].status is not Status.UNKNOWN]
            mean = float(np.mean([c.seconds[oracle] for c in chosen]))
            row += [len(decided), mean]
        rows.append(tuple(row))
    header = ["network", "box", "queries"]
    for oracle in ORACLES:
        header += [f"{oracle} decided", f"{oracle} mean s"]
    lost = ["  ".join(described(c)) for c in cases if loses(c)]
    return (
        table(tuple(header), rows) + "\n\nbranch and bound loses:\n" + ("\n".join(lost) or "never")
    )


def loses(case: Case) -> bool:
    """The MILP decides what branch and bound leaves open, or decides it sooner."""
    branching, milp = (
        case.verdicts[oracle].status is not Status.UNKNOWN for oracle in ("branching", "milp")
    )
    faster = case.seconds["milp"] < case.seconds["branching"]
    return milp and (not branching or faster)


if __name__ == "__main__":
    main()
