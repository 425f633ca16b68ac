"""What the experiments on growing share: networks and images, one grown case, and resuming.

Every finished case is a line of a JSONL file, keyed by what was asked, so an interrupted run goes
on where it stopped and repeats nothing.
"""

from __future__ import annotations

import argparse
import json
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import jax
import numpy as np
import published

import jmlv
from jmlv.cli.inputs import example, network, test_images

KEY = ("network", "image", "weights", "strategy", "bound")
WEIGHTS = {"equal": jmlv.equal, "decaying": jmlv.decaying, "pixels": jmlv.by_pixel_count}


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


def subjects(options: argparse.Namespace) -> Iterator[tuple[str, jmlv.Graph, list[tuple]]]:
    """Name, graph and examples (name, image, mask, target label) of each network."""
    names = list(published.CONFIGS) if options.published else ["none", "l0", "linf"]
    chosen = names if options.networks is None else options.networks
    if unknown := set(chosen) - set(names):
        raise SystemExit(f"--networks: expected some of {names}, got {sorted(unknown)}.")
    make = _published_subject if options.published else _committed_subject
    for name in chosen:
        yield (name, *make(name, options))


def _published_subject(name: str, options: argparse.Namespace) -> tuple[jmlv.Graph, list[tuple]]:
    data = published.images()
    graph = jmlv.trace(published.network(name), data.images.shape[1:])
    return graph, [
        (f"{i} side {side}", data.images[i], data.mask(i, side), int(data.digits[i, 1 - side]))
        for i in range(min(options.images, len(data.images)))
        for side in (0, 1)
    ]


def _committed_subject(name: str, options: argparse.Namespace) -> tuple[jmlv.Graph, list[tuple]]:
    data = test_images(options.mnist)
    source = "double_mnist" if options.mnist else "double_digits"
    graph, _ = network(options.checkpoint / f"{source}_{name}")
    chosen = [example(data, i, side) for i in range(options.images) for side in (0, 1)]
    return graph, [
        (f"{e.name} side {n % 2}", e.x, e.perturbed, e.target_label) for n, e in enumerate(chosen)
    ]


def case(name: str, graph: jmlv.Graph, subject: tuple, strategy: jmlv.Strategy, **settings) -> dict:
    """Everything that one run needs: what identifies it, and the objects under ``"work"``."""
    label, *work = subject
    weights, bound = settings.get("weights", "equal"), settings.get("bound", jmlv.CROWN())
    return {
        "network": name,
        "image": label,
        "weights": weights,
        "strategy": repr(strategy),
        "bound": bound.name,
        "work": (graph, *work, strategy, bound),
    }


def grow_case(case: dict, budget: float) -> dict:
    """Grows one neighbourhood and attacks it; where the property fails at the image the size is 0."""
    ((_, record),) = grow_cases([case], budget)
    return record


def grow_cases(
    cases: Sequence[dict], budget: float, together: int = 1
) -> Iterator[tuple[dict, dict]]:
    """Grows neighbourhoods, several images of one network at a time; each case with its record."""
    groups = defaultdict(list)
    for case in cases:
        graph, image, mask, target, strategy, bound = case["work"]
        prop = jmlv.InTopK(target, 2)
        if float(prop.margin(graph.scores(image[None])[0])) > 0:
            work = case, image, jmlv.Layers.around(mask), prop
            groups[graph, strategy, bound, case["weights"]].append(work)
        else:
            yield case, {**_names(case), "size": 0.0, "status": "MISCLASSIFIED"}
    for (graph, strategy, bound, weights), members in groups.items():
        chosen, images, layers, props = zip(*members)
        grown = jmlv.grow_many(
            graph, np.stack(images), layers, props, strategy, weights=WEIGHTS[weights],
            budget=budget, bound=bound, together=together,
        )  # fmt: skip
        for number, result in grown:
            yield chosen[number], _record(chosen[number], graph, result)


def _names(case: dict) -> dict:
    return {name: case[name] for name in KEY} | {"name": title(case["work"][4])}


def _record(case: dict, graph: jmlv.Graph, grown: jmlv.GrownNeighborhood) -> dict:
    strong = jmlv.PGD(restarts=64, steps=100, seed=1)
    attack = jmlv.verify(graph, grown.region, grown.property, strong)
    statuses = [status.value for status in grown.statuses]
    return {
        **grown.as_dict(),
        **_names(case),
        "attacked": attack.status.name,
        "attack_margin": attack.upper,
        "maximal": statuses.count("maximal"),
        "open": statuses.count("undecided") + statuses.count("maximal"),
        "complete_queries": grown.complete_queries,
    }


def title(strategy: jmlv.Strategy) -> str:
    """The strategy's name, and whether a complete phase follows it."""
    complete = getattr(strategy, "complete", None) is not None
    return strategy.name + (" + complete" if complete else "")


def run_all(
    cases: Iterable[dict],
    run: Callable[[dict], dict],
    path: Path,
    description: str,
    names: Sequence[str] = KEY,
) -> list[dict]:
    """Runs what the file does not hold yet, appending as it goes; the records of these cases.

    Cases are told apart by their values under ``names``.
    """

    def one_by_one(cases: Sequence[dict]) -> Iterator[tuple[dict, dict]]:
        return ((case, run(case)) for case in cases)

    return run_together(cases, one_by_one, path, description, names)


def run_together(
    cases: Iterable[dict],
    run: Callable[[Sequence[dict]], Iterator[tuple[dict, dict]]],
    path: Path,
    description: str,
    names: Sequence[str] = KEY,
) -> list[dict]:
    """As :func:`run_all`, where ``run`` takes all open cases, and yields them as they finish."""
    cases, done = list(cases), load(path, names)
    open_cases = [case for case in cases if key(case, names) not in done]
    finished = run(open_cases) if open_cases else ()
    for one, record in jmlv.TqdmProgress().wrap(finished, description, len(open_cases)):
        done[key(one, names)] = record
        append(path, record)
    return [done[key(one, names)] for one in cases]


def key(case: dict, names: Sequence[str] = KEY) -> tuple:
    return tuple(case.get(name) for name in names)


def load(path: Path, names: Sequence[str] = KEY) -> dict[tuple, dict]:
    """Finished cases; a last line that an interruption cut short is dropped."""
    done = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        done[key(record, names)] = record
    return done


def append(path: Path, record: dict) -> None:
    """Adds a line; one that was cut short before it is ended first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = not path.exists() or path.read_bytes()[-1:] in (b"", b"\n")
    with path.open("a") as file:
        file.write(("" if whole else "\n") + json.dumps(record) + "\n")


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
