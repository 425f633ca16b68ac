"""Seconds per image of every bound, and of its gradient, beside the bare forward pass.

    python experiments/bench_bounds.py [--batch 30] [--radius 0.005] [--repeats 9]

Runs on the published networks where their files are, else on the committed checkpoints. Every round
times all methods in turn, so a drift of the machine's speed hits all alike; the table has the median
and the range over the rounds, in milliseconds an image. Gradients are those of the margin's lower
bound with respect to a per-pixel epsilon array.
"""

from __future__ import annotations

import argparse
import platform
import time
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import published

import jmlv
from jmlv.cli.inputs import network as checkpoint_network
from jmlv.cli.report import table
from jmlv.data import double_digits


def main() -> None:
    jmlv.keep_compiled()
    arguments = parse()
    print(
        f"{platform.processor() or platform.machine()}, {jax.devices()[0].device_kind}, JAX {jax.__version__}"
    )
    for name, graph, images in subjects():
        batch = np.resize(images, (arguments.batch, *images.shape[1:]))
        print(f"\n{name}: batch {arguments.batch}, radius {arguments.radius}")
        print(measure(graph, jnp.asarray(batch), arguments.radius, arguments.repeats))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=30)
    parser.add_argument("--radius", type=float, default=0.005)
    parser.add_argument("--repeats", type=int, default=9)
    return parser.parse_args()


def subjects():
    """Name, graph and images of each network."""
    if published.FOLDER.exists():
        images = published.images().images
        for name in published.CONFIGS:
            yield name, jmlv.trace(published.network(name), images.shape[1:]), images
    else:
        images = double_digits("test", size=30).images
        for name in ("none", "l0", "linf"):
            yield name, checkpoint_network(f"checkpoints/double_digits_{name}")[0], images


def tasks(graph):
    """Name and function of (images, epsilon) of everything that is timed."""
    form = jmlv.InTopK(0, 2).form(graph.label_count).astype("float32")

    def margin(method, x, epsilon):
        lower, upper = jnp.clip(x - epsilon, 0, 1), jnp.clip(x + epsilon, 0, 1)
        return form.combine(method.rows(graph, lower, upper, form.coefficients, form.offsets).lower)

    def value(method):
        return jax.vmap(partial(margin, method))

    def gradient(method):
        return jax.vmap(jax.value_and_grad(partial(margin, method), argnums=1))

    yield "forward pass", lambda x, epsilon: graph.scores(x)
    for method in (jmlv.IBP(), jmlv.CROWNIBP(), jmlv.CROWN()):
        yield method.name, value(method)
        yield f"{method.name} + gradient", gradient(method)
    yield "CROWN + frozen gradient", gradient(jmlv.CROWN(frozen=True))
    for intermediate in ("shared", "per-neuron"):
        method = jmlv.AlphaCROWN(steps=20, intermediate=intermediate)
        yield f"{method.name}, 20 steps, {intermediate}", value(method)


def measure(graph, images, radius: float, repeats: int) -> str:
    epsilon = jnp.full(images.shape, radius)
    compiled = {}
    with jax.default_matmul_precision("highest"):
        for name, function in tasks(graph):
            compiled[name] = jax.jit(function)
            jax.block_until_ready(compiled[name](images, epsilon))
        seconds = {name: [] for name in compiled}
        for _ in range(repeats):
            for name, function in compiled.items():
                start = time.perf_counter()
                jax.block_until_ready(function(images, epsilon))
                seconds[name].append(time.perf_counter() - start)
    return table(
        ("method", "median ms", "least", "most"),
        [
            (name, *(1e3 * float(f(values)) / len(images) for f in (np.median, min, max)))
            for name, values in seconds.items()
        ],
    )


if __name__ == "__main__":
    main()
