"""Warm bounds of this checkout beside another's: one process each, that measure in turn.

    python experiments/bench_bounds_beside.py OTHER_FOLDER [--networks linf plain x2] [--batch 10]
        [--radius 0.005] [--repeats 9] [--record NAME]

Every round times each method once in either process, so that whatever else the machine does hits both
alike. The table has medians of processor time in milliseconds an image, and the median ratio of pairs.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import recorded

HERE = Path(__file__).resolve().parents[1]
METHODS = "CROWN-IBP", "CROWN", "alpha-CROWN"
CODE = "experiments/bench_bounds_beside.py", "jmlv/bounds", "jmlv/graph"
COLUMNS = "network", "bound", "the other's, ms", "here, ms", "the other's / here"


def main() -> None:
    options = parse()
    if options.child:
        serve(options)
        return
    rows = [row for name in options.networks for row in compare(name, options)]
    print(
        "\n".join("  ".join(f"{v:.3g}" if isinstance(v, float) else v for v in row) for row in rows)
    )
    recorded.keep_table(options, COLUMNS, rows, CODE)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("other", help="another folder with the package")
    parser.add_argument("--networks", nargs="+", default=["linf", "plain", "x2"])
    parser.add_argument("--batch", type=int, default=10)
    parser.add_argument("--radius", type=float, default=0.005)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    recorded.add_record_argument(parser)
    return parser.parse_args()


def compare(network: str, options: argparse.Namespace) -> list[tuple]:
    """Rows of the table for one network."""
    children = [start(folder, network, options) for folder in (options.other, HERE)]
    try:
        rounds = [
            [[asked(child, method) for child in children] for method in METHODS]
            for _ in range(options.repeats + 1)
        ][1:]  # the first one compiles
    finally:
        for child in children:
            child.stdin.close()
            child.wait()
    found = 1e3 / options.batch * np.array(rounds)
    return [
        (network, name, *np.median(pairs, 0).tolist(), float(np.median(pairs[:, 0] / pairs[:, 1])))
        for name, pairs in zip(METHODS, found.transpose(1, 0, 2))
    ]


def start(folder: str | Path, network: str, options: argparse.Namespace) -> subprocess.Popen:
    paths = os.pathsep.join([str(Path(folder).resolve()), str(HERE / "experiments")])
    given = "--networks", network, "--batch", str(options.batch), "--radius", str(options.radius)
    return subprocess.Popen(
        [sys.executable, __file__, str(options.other), "--child", *given],
        env=os.environ | {"PYTHONPATH": paths}, cwd=HERE, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip


def asked(child: subprocess.Popen, method: str) -> float:
    print(method, file=child.stdin, flush=True)
    return float(child.stdout.readline())


def serve(options: argparse.Namespace) -> None:
    """The seconds of each method whose name comes in."""
    import jax
    import jax.numpy as jnp
    import published

    import jmlv

    jmlv.keep_compiled()
    images = published.images().images
    graph = jmlv.trace(published.network(options.networks[0]), images.shape[1:])
    x = jnp.asarray(images[: options.batch])
    form = jmlv.InTopK(0, 2).form(graph.label_count).astype("float32")

    def rows(method, x):
        lower, upper = (jnp.clip(x + s * options.radius, 0, 1) for s in (-1, 1))
        return method.rows(graph, lower, upper, form.coefficients, form.offsets).lower

    methods = dict(zip(METHODS, (jmlv.CROWNIBP(), jmlv.CROWN(), jmlv.AlphaCROWN())))
    programs = {name: jax.jit(jax.vmap(partial(rows, method))) for name, method in methods.items()}
    with jax.default_matmul_precision("highest"):
        for line in sys.stdin:
            begun = time.process_time()
            jax.block_until_ready(programs[line.strip()](x))
            print(time.process_time() - begun, flush=True)


if __name__ == "__main__":
    main()
