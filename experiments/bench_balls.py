"""CROWN on a ball beside CROWN on the box around it: milliseconds an image, and bounds.

    python experiments/bench_balls.py [--batch 20] [--repeats 15] [--record balls-speed]

Runs on the published networks where their files are, else on the committed checkpoints. Every round times
both in turn, compiled before, in CPU seconds of this process, which others on the machine hardly change. The
ratio is the median over the rounds of the ratio within one. Bounds are on the margin of 'label 0 is in the
top two', means over the images; both programs begin with the same box.
"""

from __future__ import annotations

import argparse
import time

import jax
import jax.numpy as jnp
import numpy as np
from bench_bounds import subjects
from recorded import add_record_argument, keep_table

import jmlv
from jmlv.cli.report import table

RADII = {2: (0.02, 0.1, 0.5), 1: (0.02, 0.1, 0.5)}
COLUMNS = (
    "network", "norm", "radius", "box, ms", "ball, ms", "ball / box", "quartiles",
    "bound, box", "bound, ball",
)  # fmt: skip


def main() -> None:
    jmlv.keep_compiled()
    options = parse()
    rows = []
    for name, graph, images in subjects():
        batch = jnp.asarray(np.resize(images, (options.batch, *images.shape[1:])))
        for norm, radii in RADII.items():
            programs = [
                jax.jit(jax.vmap(_margin(graph, norm, inside), (0, None)))
                for inside in (False, True)
            ]
            for radius in radii:
                rows.append(
                    (name, f"l{norm}", radius, *measure(programs, batch, radius, options.repeats))
                )
                print(rows[-1], flush=True)
    print(table(COLUMNS, rows))
    keep_table(options, COLUMNS, rows, ["experiments/bench_balls.py", "jmlv/bounds"])


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=15)
    add_record_argument(parser)
    return parser.parse_args()


def _margin(graph, norm: int, inside: bool):
    """The bound on the margin over the box around a ball, or over both."""
    form = jmlv.InTopK(0, 2).form(graph.label_count).astype("float32")

    def margin(x, radius):
        ball = jmlv.Ball(x, radius, norm, domain=None)
        within = graph.within(ball) if inside else graph
        ends = jnp.clip(x - radius, 0, 1), jnp.clip(x + radius, 0, 1)
        return form.combine(jmlv.CROWN().rows(within, *ends, form.coefficients, form.offsets).lower)

    return margin


def measure(programs, batch, radius: float, repeats: int) -> tuple:
    """Both medians in ms an image, the ratio, its quartiles, and the mean bounds."""
    with jax.default_matmul_precision("highest"):
        bounds = [float(program(batch, radius).mean()) for program in programs]
        seconds = np.array([[_seconds(p, batch, radius) for p in programs] for _ in range(repeats)])
    box, ball = 1e3 * np.median(seconds, 0) / len(batch)
    low, middle, high = np.percentile(seconds[:, 1] / seconds[:, 0], (25, 50, 75))
    return float(box), float(ball), float(middle), f"{low:.2f}-{high:.2f}", *bounds


def _seconds(program, *arguments) -> float:
    start = time.process_time()
    jax.block_until_ready(program(*arguments))
    return time.process_time() - start


if __name__ == "__main__":
    main()
