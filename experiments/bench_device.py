"""What this device does with every part of the library, and the CPU beside it.

    python experiments/bench_device.py [--batches 1 32 256 1024] [--seconds 420]

On a committed network: forward pass, IBP, CROWN-IBP, CROWN, alpha-CROWN (20 steps), PGD (20 steps),
branch and bound (subdomains a batch) and ``grow_many`` (images together). For each batch size: seconds
to compile, throughput, and the memory that the compiled program asks for. Where JAX has another device
than the CPU, the same runs on the CPU too. A size is left out once its smaller neighbour says that it
would not fit the time; the whole ends in ``--seconds``, a device's share being equal to the others'.

It also compares CROWN's bounds in float32 on the device with those in float64 on the CPU. TF32, which
JAX uses by default on recent GPUs, would leave a thousandth of the scores between them; matmul precision
is 'highest' inside every bound, which leaves about a millionth.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jmlv
from jmlv.bounds import BoundMethod
from jmlv.cli.inputs import network, test_images
from jmlv.cli.report import table, write_json
from jmlv.numerics import as_float64, certificate_precision, search_precision
from jmlv.oracles.falsify import descend

CHECKPOINT = "checkpoints/double_digits_linf"
RADIUS = 0.01
REPEATS = 5
WARM_UP_SECONDS, BRANCHING_SECONDS = 20.0, 5.0
"""Of branch and bound: for its programs to compile, and for counting."""

TF32 = 1e-4
"""A difference of this share of the scores between device and CPU would be TF32's."""

HEADER = ("device", "what", "batch", "compile s", "a second", "of what", "MiB")

NONE = float("nan")

Timed = tuple[Callable[..., Any], tuple[Any, ...]]


def main() -> None:
    options = parse()
    kinds = [jax.default_backend()] if options.child else _kinds()
    if options.child:
        _child(options)
        return
    rows: list[tuple] = []
    for kind in kinds:
        rows += _on(kind, options, options.seconds / len(kinds))
    text = f"{platform.processor() or platform.machine()}, JAX {jax.__version__}\n" + table(
        HEADER, rows
    )
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "table.txt").write_text(text + "\n")
    write_json(options.out / "rows.json", [dict(zip(HEADER, row)) for row in rows])
    print(text)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 32, 256, 1024])
    parser.add_argument("--seconds", type=float, default=420.0, help="for everything")
    parser.add_argument("--out", type=Path, default=Path("results/bench_device"))
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def _kinds() -> list[str]:
    """The accelerator that JAX has, if any, and the CPU."""
    return list(dict.fromkeys([jax.default_backend(), "cpu"]))


def _on(kind: str, options: argparse.Namespace, seconds: float) -> list[tuple]:
    """The rows of one kind of device, measured in a process of its own."""
    command = [sys.executable, __file__, "--child", "--seconds", str(seconds)]
    command += ["--batches", *map(str, sorted(options.batches))]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"} if kind == "cpu" else None
    ran = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment, check=True)
    return [tuple(json.loads(line)) for line in ran.stdout.splitlines()]


def _child(options: argparse.Namespace) -> None:
    end = time.monotonic() + options.seconds
    device = jax.devices()[0]
    name = device.device_kind if device.platform != "cpu" else f"CPU, {os.cpu_count()} cores"
    graph, _ = network(CHECKPOINT)
    images = test_images(None).images
    for row in _precision(graph, images[:8]):
        print(json.dumps([name, *row]), flush=True)
    for what, sizes in _work(graph, images, options.batches):
        for row in _sizes(what, sizes, end):
            print(json.dumps([name, *row]), flush=True)


def _precision(graph: jmlv.Graph, images: np.ndarray) -> Iterator[tuple]:
    """How far CROWN in float32 here is from CROWN in float64 on the CPU, as a share of the scores."""
    prop, found = jmlv.InTopK(0, 2), []
    boxes = jmlv.Box.around(jnp.asarray(images), np.float32(RADIUS))
    here = jmlv.bound(graph, boxes, prop, jmlv.CROWN())
    with jax.default_device(jax.devices("cpu")[0]), certificate_precision():
        exact = jmlv.Box(as_float64(boxes.lower), as_float64(boxes.upper))
        there = jmlv.bound(graph.astype("float64"), exact, prop, jmlv.CROWN())
    for name in ("rows_lower", "rows_upper"):
        one, other = (np.asarray(getattr(bounds, name)) for bounds in (here, there))
        found.append(np.max(np.abs(one - other)) / np.max(np.abs(other)))
    share = float(max(found))
    if share > TF32:
        raise SystemExit(
            f"CROWN differs by {share:.1e} of the scores: TF32 is used inside a bound."
        )
    yield f"CROWN here against float64: {share:.1e} of the scores", 8, NONE, NONE, "", NONE


def _work(graph: jmlv.Graph, images: np.ndarray, batches: list[int]) -> Iterator[tuple[str, Any]]:
    """Name of each task, and for every batch size what measures it."""

    def compiled(make: Callable[[np.ndarray], Timed]) -> list[tuple[int, Callable]]:
        return [
            (n, partial(_compiled, make, np.resize(images, (n, *images.shape[1:]))))
            for n in batches
        ]

    yield "forward pass", compiled(lambda x: (lambda x: graph.scores(x), (x,)))
    for method in (jmlv.IBP(), jmlv.CROWNIBP(), jmlv.CROWN(), jmlv.AlphaCROWN(steps=20)):
        yield method.name, compiled(partial(_bounded, graph, method))
    yield "PGD, 20 steps", [(n, partial(_attacked, graph, images, n)) for n in batches]
    yield "branch and bound", [(n, partial(_branched, graph, images[0], n)) for n in batches]
    yield "grow_many, uniform", [(n, partial(_grown, graph, n)) for n in batches]


def _sizes(what: str, sizes: list[tuple[int, Callable]], end: float) -> Iterator[tuple]:
    """Measures one size after another, as long as the next one is likely to be done in time."""
    took = 0.0
    for number, (batch, measure) in enumerate(sizes):
        grows = batch / sizes[number - 1][0] if number else 1.0
        if time.monotonic() + took * min(grows, 8.0) > end:
            return
        start = time.monotonic()
        try:
            compile_seconds, per_second, unit, mebibytes = measure()
        except jax.errors.JaxRuntimeError as error:  # out of memory, most likely
            print(f"{what}, batch {batch}: {str(error)[:200]}", file=sys.stderr)
            return
        took = time.monotonic() - start
        yield what, batch, compile_seconds, per_second, unit, mebibytes


def _compiled(make: Callable[[np.ndarray], Timed], images: np.ndarray) -> tuple:
    """Compile time, images a second and memory of one function of a batch."""
    function, operands = make(images)
    with search_precision():
        start = time.perf_counter()
        program = jax.jit(function).lower(*operands).compile()
        compile_seconds = time.perf_counter() - start
        operands = jax.tree.map(jnp.asarray, operands)
        per_call = _median_seconds(lambda: jax.block_until_ready(program(*operands)))
    return compile_seconds, len(images) / per_call, "images", _program_memory(program)


def _bounded(graph: jmlv.Graph, method: BoundMethod, images: np.ndarray) -> Timed:
    form = jmlv.InTopK(0, 2).form(graph.label_count).astype("float32")

    def one(x: jax.Array) -> jax.Array:
        lower, upper = jnp.clip(x - RADIUS, 0, 1), jnp.clip(x + RADIUS, 0, 1)
        return form.combine(method.rows(graph, lower, upper, form.coefficients, form.offsets).lower)

    return jax.vmap(one), (images,)


def _attacked(graph: jmlv.Graph, images: np.ndarray, batch: int) -> tuple:
    """Boxes a second of PGD with one start each."""
    pgd = jmlv.PGD(restarts=1, steps=20)
    x = np.resize(images, (batch, *images.shape[1:]))
    boxes = [jnp.asarray(np.clip(x + r, 0, 1)) for r in (-RADIUS, RADIUS)]
    form = jmlv.InTopK(0, 2).form(graph.label_count).astype("float32")

    def once() -> None:
        with search_precision():
            descend(pgd, graph, form, *boxes, jax.random.key(0))

    return _first_and_later(once, batch, "boxes")


def _branched(graph: jmlv.Graph, image: np.ndarray, batch: int) -> tuple:
    """Subdomains a second of one search that does not end by itself, after a first look."""
    top = int(np.argmax(graph.scores(image[None])[0]))
    box, prop = jmlv.Box.around(image, np.float32(0.06)), jmlv.InTopK(top, 2)
    oracle = jmlv.BranchAndBound(jmlv.CROWN(), batch=batch, parts=None, few=0)
    jmlv.verify(graph, box, prop, oracle, budget=WARM_UP_SECONDS)
    verdict = jmlv.verify(graph, box, prop, oracle, budget=BRANCHING_SECONDS)
    per_second = verdict.stats.get("subdomains", 0) / verdict.stats["seconds"]
    return NONE, per_second, "subdomains", _peak_memory()


def _grown(graph: jmlv.Graph, batch: int) -> tuple:
    """Images a second of ``grow_many`` with the uniform strategy, all images together."""
    data = test_images(None)
    right = np.argsort(-np.asarray(graph.scores(data.images)), axis=1)[:, :2]
    kept = [i for i in range(len(data)) if data.object_labels[i, 1] in right[i]]
    chosen = np.resize(kept, batch)
    layers = [jmlv.Layers.around(data.masks[i, 0]) for i in chosen]
    props = [jmlv.InTopK(int(data.object_labels[i, 1]), 2) for i in chosen]

    def once() -> None:
        grown = jmlv.grow_many(
            graph, data.images[chosen], layers, props, jmlv.Uniform(steps=6), budget=None,
            oracle=jmlv.Bounds(), maximality=None, together=batch,
        )  # fmt: skip
        for _ in grown:
            pass

    return _first_and_later(once, batch, "images", repeats=1)


def _first_and_later(
    once: Callable[[], None], count: int, unit: str, repeats: int = REPEATS
) -> tuple:
    """The first call compiles; the others say how fast it is."""
    start = time.perf_counter()
    once()
    first = time.perf_counter() - start
    later = _median_seconds(once, repeats)
    return max(0.0, first - later), count / later, unit, _peak_memory()


def _median_seconds(once: Callable[[], Any], repeats: int = REPEATS) -> float:
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        once()
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds))


def _program_memory(program: Any) -> float:
    """MiB that a compiled program needs beside its arguments."""
    analysis = program.memory_analysis()
    return getattr(analysis, "temp_size_in_bytes", 0) / 2**20


def _peak_memory() -> float:
    """MiB that the device has held at most; 0 where it does not say."""
    return (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0) / 2**20


if __name__ == "__main__":
    main()
