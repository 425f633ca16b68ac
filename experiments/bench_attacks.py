"""What attacks cost beside their bare gradients, and the linear program of one MLA-LP step.

    python experiments/bench_attacks.py [--repeats 5] [--large]

Every round times all contestants in turn, so a drift of the machine's speed hits all alike; tables have
the median and the range over the rounds, and the processor's own time, which other work on the machine
does not lengthen. ``--large`` adds the program of a 448x448x3 image with 80
labels (it needs 2 GB). The programs written out, for GLOP and PDLP, are what the column generation of
:mod:`jmlv.attacks.methods.linear_program` replaces.
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jmlv.attacks import MIFGSM, FlipAll, attack
from jmlv.attacks.decisions import Threshold
from jmlv.attacks.methods.linear_program import least_distortion, least_distortion_written_out
from jmlv.attacks.network import margins_and_jacobian, split
from jmlv.cli.report import table
from jmlv.compilation import keep_compiled
from jmlv.models import CNNConfig, MultiLabelCNN
from jmlv.numerics import search_precision

SIDE = 64
STEPS = 100
LIMIT = 5.0
"""Seconds after which a program counts as not solved."""


def main() -> None:
    keep_compiled()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--large", action="store_true", help="also 448x448x3 with 80 labels")
    options = parser.parse_args()
    print(f"{platform.machine()}, {jax.devices()[0].device_kind}, JAX {jax.__version__}")
    print(f"\nMI-FGSM, 64 images of {SIDE}x{SIDE}, {STEPS} iterations, in seconds")
    print(gradients(options.repeats))
    print(
        "\none MLA-LP step's linear program: hide one of ten labels and keep the others, or flip all; "
        "in milliseconds"
    )
    print(programs(options.repeats))
    if options.large:
        print("\n448x448x3, 80 labels")
        print(large())


def network() -> tuple[MultiLabelCNN, np.ndarray]:
    """An untrained network of the published size; what it computes does not matter here."""
    config = CNNConfig(
        input_shape=(SIDE, SIDE, 1), channels=(16, 64), kernels=(6, 5), strides=(4, 3),
        paddings=(1, 0), pool=4,
    )  # fmt: skip
    x = np.random.default_rng(0).random((64, SIDE, SIDE, 1)).astype(np.float32)
    return MultiLabelCNN(config, rngs=nnx.Rngs(0)), x


def gradients(repeats: int) -> str:
    model, x = network()
    graph, state = nnx.split(model)

    @jax.jit
    def gradient(state, x):
        return jax.grad(lambda x: jax.nn.softplus(nnx.merge(graph, state)(x)).sum())(x)

    def bare() -> None:
        moved = jnp.asarray(x)
        for _ in range(STEPS):
            moved = gradient(state, moved)
        moved.block_until_ready()

    def ours() -> None:
        attack(model, x, FlipAll(), MIFGSM(), budgets=[STEPS / 2560])

    def ours_l2() -> None:
        attack(model, x, FlipAll(), MIFGSM(norm="l2"), budgets=[STEPS / 2560 * SIDE])

    with search_precision():
        seconds = rounds({"gradients alone": bare, "linf": ours, "l2": ours_l2}, repeats)
    alone = seconds["gradients alone"]
    rows = [
        (name, *summary(values), float(np.median(values / alone)))
        for name, values in seconds.items()
    ]
    return table(("", "median", "least", "most", "times the gradients"), rows)


def programs(repeats: int) -> str:
    rows = []
    kinds = {
        "network, hide": from_network(1), "network, flip": from_network(10),
        "random, hide": random_program(10, SIDE**2), "random, flip": random_program(10, SIDE**2, 10),
    }  # fmt: skip
    for name, program in kinds.items():
        solvers = {
            "columns, GLOP": lambda p=program: least_distortion(*p),
            "written out, GLOP": lambda p=program: least_distortion_written_out(*p, "GLOP"),
            "written out, PDLP": lambda p=program: least_distortion_written_out(*p, "PDLP", LIMIT),
        }
        optimum = {solver: size(call()) for solver, call in solvers.items()}
        times, own = rounds(solvers, repeats), rounds(solvers, repeats, time.process_time)
        for solver, values in times.items():
            cpu = float(np.median(1000 * own[solver]))
            rows.append((name, solver, *summary(1000 * values), cpu, optimum[solver]))
    return table(("program", "solver", "median", "least", "most", "own time", "distortion"), rows)


def size(answer) -> str:
    """The distortion that a solver found."""
    if answer is None:
        return "not solved"
    change = answer if isinstance(answer, np.ndarray) else answer.change
    return f"{np.abs(change).max():.6f}"


def from_network(flipped: int) -> tuple[np.ndarray, ...]:
    """The loss rows of an image, with the labels of the largest scores to be flipped."""
    model, x = network()
    structure, weights = split(model, Threshold())
    with search_precision():
        margins, jacobian = margins_and_jacobian(structure, weights, x[:1])
    margins, jacobian = (
        40 * margins[0].astype(float),
        40 * jacobian[0].reshape(margins.shape[1], -1),
    )
    signs = np.where(margins > 0, 1.0, -1.0)
    signs[np.argsort(-margins)[:flipped]] *= -1
    slope = 1 / (1 + np.exp(signs * margins))
    A = (-signs * slope)[:, None] * jacobian
    entries = x[0].ravel().astype(float)
    return A, np.log(2) - np.logaddexp(0, -signs * margins), entries, 1 - entries


def random_program(labels: int, entries: int, asked: int = 1) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(0)
    A = rng.standard_normal((labels, entries), np.float32)
    A *= np.exp(1.5 * rng.standard_normal(entries, np.float32))
    x = np.where(rng.random(entries) < 0.5, 0, rng.random(entries))
    wish = np.where(np.arange(labels) < asked, -1.0, rng.random(labels) / 2)
    return A, 0.02 * wish * np.abs(A).sum(1), x, 1 - x


def large() -> str:
    """Once each: hiding one label is what MLA-LP is used for; flipping all 80 is the hardest case."""
    rows = []
    for name, asked in (("hide", 1), ("flip", 80)):
        program = random_program(80, 448 * 448 * 3, asked)
        start, own = time.perf_counter(), time.process_time()
        answer = least_distortion(*program)
        seconds, own = time.perf_counter() - start, time.process_time() - own
        rows.append((name, seconds, own, answer.columns, size(answer), f"{answer.lower:.6f}"))
    return table(("program", "seconds", "own time", "points", "distortion", "at least"), rows)


def rounds(
    contestants: dict[str, Callable[[], object]],
    repeats: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, np.ndarray]:
    """Seconds of each contestant in each round, after one round to warm up."""
    seconds = {name: [] for name in contestants}
    for number in range(repeats + 1):
        for name, call in contestants.items():
            start = clock()
            call()
            if number:
                seconds[name].append(clock() - start)
    return {name: np.array(values) for name, values in seconds.items()}


def summary(values: np.ndarray) -> tuple[float, float, float]:
    return float(np.median(values)), float(values.min()), float(values.max())


if __name__ == "__main__":
    main()
