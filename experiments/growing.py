"""What the experiments on growing share: networks and images, questions, and records."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax
import numpy as np
import published
from asking import add_executor_arguments, ask

import jmlv
from jmlv.bounds import BoundMethod
from jmlv.campaigns import Checkpoint, Factory, GrowQuestion, Network, Store, VerifyQuestion
from jmlv.cli.inputs import example, test_images

WEIGHTS = {"equal": jmlv.equal, "decaying": jmlv.decaying, "pixels": jmlv.by_pixel_count}
ATTACK = jmlv.PGD(restarts=64, steps=100, seed=1)
"""Tries to break every certified neighbourhood."""

Subject = tuple[str, np.ndarray, np.ndarray, int]
"""Name, image, mask of the object that changes, and the label that must stay."""


def use_all_cores() -> None:
    """Makes every core a device of JAX's; to be called before anything is computed."""
    jax.config.update("jax_num_cpu_devices", os.cpu_count())


def add_subject_arguments(parser: argparse.ArgumentParser, images: int) -> None:
    parser.add_argument("--published", action="store_true", help="the published networks")
    parser.add_argument("--mnist", help="folder of MNIST files, for networks trained on them")
    parser.add_argument("--checkpoint", type=Path, default=Path("checkpoints"))
    parser.add_argument("--networks", nargs="+", help="only these of them")
    parser.add_argument("--images", type=int, default=images)
    parser.add_argument(
        "--budget", type=float, default=120.0, help="seconds for each neighbourhood"
    )
    add_executor_arguments(parser)


def subjects(options: argparse.Namespace) -> Iterator[tuple[Network, list[Subject]]]:
    """Each network and its examples."""
    names = list(published.CONFIGS) if options.published else ["none", "l0", "linf"]
    chosen = names if options.networks is None else options.networks
    if unknown := set(chosen) - set(names):
        raise SystemExit(f"--networks: expected some of {names}, got {sorted(unknown)}.")
    make = _published_subject if options.published else _committed_subject
    for name in chosen:
        yield make(name, options)


def published_network(name: str) -> Network:
    """One of the published networks, as any process finds it."""
    return Network.of(Factory("published:network", (name,), (64, 64, 1)), name)


def _published_subject(name: str, options: argparse.Namespace) -> tuple[Network, list[Subject]]:
    data = published.images()
    return published_network(name), [
        (f"{i} side {side}", data.images[i], data.mask(i, side), int(data.digits[i, 1 - side]))
        for i in range(min(options.images, len(data.images)))
        for side in (0, 1)
    ]


def _committed_subject(name: str, options: argparse.Namespace) -> tuple[Network, list[Subject]]:
    data = test_images(options.mnist)
    source = "double_mnist" if options.mnist else "double_digits"
    network = Network.of(Checkpoint(options.checkpoint / f"{source}_{name}"), name)
    chosen = [example(data, i, side) for i in range(options.images) for side in (0, 1)]
    return network, [
        (f"{e.name} side {n % 2}", e.x, e.perturbed, e.target_label) for n, e in enumerate(chosen)
    ]


def question(
    network: Network,
    subject: Subject,
    strategy: jmlv.Strategy,
    budget: float,
    weights: str = "equal",
    bound: BoundMethod = jmlv.CROWN(),
) -> GrowQuestion:
    """One neighbourhood to grow."""
    name, image, mask, target = subject
    tags = {"network": network.name, "image": name, "weights": weights, "strategy": title(strategy)}
    return GrowQuestion(
        network, image, jmlv.Layers.around(mask), jmlv.InTopK(target, 2), strategy,
        weights=WEIGHTS[weights], bound=bound, budget=budget, tags=tags,
    )  # fmt: skip


def grow_and_attack(
    questions: Sequence[GrowQuestion], options: argparse.Namespace, together: int = 1
) -> list[dict]:
    """Grows every neighbourhood and attacks what is certified; where the property fails at the image
    the size is 0."""
    records = ask(questions, options, "neighbourhoods", together)
    grown = [i for i, record in enumerate(records) if record["status"] != "MISCLASSIFIED"]
    store = Store(options.out / "answers")
    attacks = ask([_attack(questions[i], store) for i in grown], options, "attacks")
    for i, attack in zip(grown, attacks):
        records[i] |= _counts(records[i])
        records[i] |= {"attacked": attack["status"], "attack_margin": attack["upper"]}
    return records


def _attack(question: GrowQuestion, store: Store) -> VerifyQuestion:
    arrays = store.arrays(question.key)
    region = jmlv.Box(arrays["lower"], arrays["upper"])
    return VerifyQuestion(question.network, region, question.property, ATTACK, budget=None)


def _counts(record: dict) -> dict:
    """Layers that are maximal or open, and candidates that a complete oracle was asked."""
    statuses = record["layer_statuses"]
    maximal = statuses.count("maximal")
    complete = sum(count for kind, count in record["queries"].items() if "MILP" in kind)
    return {
        "maximal": maximal,
        "open": maximal + statuses.count("undecided"),
        "complete_queries": complete,
    }


def title(strategy: jmlv.Strategy) -> str:
    """The strategy's name, and whether a complete phase follows it."""
    complete = getattr(strategy, "complete", None) is not None
    return strategy.name + (" + complete" if complete else "")


def means(members: list[dict]) -> tuple:
    """Columns of a table: cases, sizes, share of maximal layers, queries, seconds, broken by PGD."""
    right = [m for m in members if m["status"] != "MISCLASSIFIED"]
    opened = sum(m["open"] for m in right)
    return (
        len(members),
        float(np.mean([m["size"] for m in members])),
        float(np.mean([m.get("size_without_free", 0.0) for m in members])),
        float(sum(m["maximal"] for m in right) / max(1, opened)),
        float(np.mean([sum(m["queries"].values()) for m in right] or [0])),
        float(np.mean([m["complete_queries"] for m in right] or [0])),
        float(np.median([m["seconds"] for m in right] or [0])),
        sum(m["attacked"] == "NOT_ROBUST" for m in right),
    )


MEANS = (
    "cases", "mean size", "without free", "maximal of open", "queries", "complete queries",
    "median s", "broken by PGD",
)  # fmt: skip
"""Headers of :func:`means`."""
