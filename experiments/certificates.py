"""Certificates of labels and of grown neighbourhoods on the published networks: found, size, seconds.

    python experiments/certificates.py [--networks linf plain x2] [--labels 50] [--neighborhoods 10]
        [--radius 0.01] [--budget 60] [--out results/certificates]

Labels: every image's labels are settled over a box of the radius, and each proof or pair of witnesses is
certified; each half has the budget. Neighbourhoods: around one digit of an image, the other's label
kept; half of the budget grows, the whole of it looks for a certificate. Every certificate is saved, read
again and replayed by jmlv_check, in outward-rounded float64 and in exact integers; those of one image share
the bounds of its box, which the first pays for. Times of checks are processor time. One JSON line each, in a
store that an interrupted run goes on with.
"""

from __future__ import annotations

import argparse
import collections
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import published
from asking import add_executor_arguments, ask
from recorded import add_record_argument, keep_table

import jmlv
from jmlv.campaigns import CallQuestion
from jmlv.certificate import Certificate
from jmlv.cli.report import table
from jmlv.labels.certificates import certified_labels as certified_labels_of
from jmlv.oracles import Deadline, Query
from jmlv.verdict import Status

LABELS = 10
HEADS = [
    "network",
    "of",
    "certificates",
    "of the size",
    "leaves",
    "MB",
    "seconds, float64",
    "seconds, exact",
]
CODE = ("experiments/certificates.py", "jmlv/oracles/certify", "jmlv_check")


def main() -> None:
    arguments = parse()
    jmlv.keep_compiled()
    lines = rows_of(ask(questions(arguments), arguments, "images and neighbourhoods"))
    keep_table(arguments, HEADS, lines, CODE)
    text = table(HEADS, lines) + "\n"
    (arguments.out / "table.txt").write_text(text)
    print(text)


def questions(arguments: argparse.Namespace) -> list[CallQuestion]:
    """One for each image, so that its network and programs are shared by its labels."""
    about = {"budget": arguments.budget}
    asked = []
    for network in arguments.networks:
        for image in range(-(-arguments.labels // LABELS)):
            content = {**about, "network": network, "image": image, "radius": arguments.radius}
            asked.append(CallQuestion("certificates:certified_labels", content))
        for number in range(arguments.neighborhoods):
            content = {**about, "network": network, "image": number // 2, "side": number % 2}
            asked.append(CallQuestion("certificates:certified_neighborhood", content))
    return asked


def certified_labels(network: str, image: int, radius: float, budget: float) -> dict[str, Any]:
    """Counts of an image's labels, and what each certificate is like."""
    f, x = published.network(network), published.images().images[image]
    start = time.monotonic()
    box = jmlv.Box.around(x, np.float32(radius))
    labels = jmlv.classify_labels(f, box, 2, budget=budget)
    query = Query.of(f, box, jmlv.InTopK(0, 2))
    labels = certified_labels_of(query, labels, Deadline(budget))
    found, missing, known, proven = [], collections.Counter(), ({}, {}), 0
    for answer in labels.answers:
        for verdict in (answer.always, answer.never):
            if verdict.certificate is not None:
                found.append(replayed(verdict.certificate, known))
            elif verdict.status is not Status.UNKNOWN:
                missing[verdict.stats["certificate"].partition("(")[0]] += 1
            proven += verdict.robust
    return {
        "kind": f"labels at {radius:g}",
        "network": network,
        "asked": len(found) + missing.total(),
        "proven": proven,
        "certificates": found,
        "missing": dict(missing),
        "seconds": time.monotonic() - start,
    }


def certified_neighborhood(network: str, image: int, side: int, budget: float) -> dict[str, Any]:
    """The size of a grown neighbourhood, and what its certificate is like."""
    f, found = published.network(network), published.images()
    start = time.monotonic()
    layers = jmlv.Layers.around(found.mask(image, side))
    kept = int(found.digits[image][1 - side])
    grown = jmlv.grow(
        f, found.images[image], layers, jmlv.InTopK(kept, 2), budget=budget / 2, certify=budget
    )
    certificate, why = grown.certificate, str(grown.verdict.stats.get("certificate"))
    part = np.nan if certificate is None else float(grown.weights @ grown.certificate_epsilon)
    return {
        "kind": "neighbourhoods",
        "network": network,
        "asked": 1,
        "size": grown.size,
        "certified_size": part,
        "certificates": [] if certificate is None else [replayed(certificate)],
        "missing": {} if certificate is not None else {why: 1},
        "seconds": time.monotonic() - start,
    }


def replayed(certificate: Certificate, known: tuple[dict, dict] = ({}, {})) -> dict[str, Any]:
    """Saved, read, and checked in both tiers, each with what it knows of the box."""
    with tempfile.TemporaryDirectory() as folder:
        path, network = Path(folder, "certificate.npz"), Path(folder, "network.npz")
        certificate.save(path, network)
        again = Certificate.load(path, certificate.network)
        sizes = path.stat().st_size, network.stat().st_size
    seconds = []
    for exact in (False, True):
        start = time.process_time()
        report = again.check(exact, known[exact])
        seconds.append(time.process_time() - start)
    return {
        "claim": report.claim,
        "leaves": report.leaves,
        "bytes": sizes[0],
        "network_bytes": sizes[1],
        "float64_seconds": seconds[0],
        "exact_seconds": seconds[1],
    }


def rows_of(rows: list[dict]) -> list[list[str]]:
    """A line for each network and kind: how many were found, and medians and extremes of the rest."""
    groups = collections.defaultdict(list)
    for row in rows:
        groups[row["network"], row["kind"]].append(row)
    lines = []
    for (network, kind), members in sorted(groups.items()):
        found = [c for row in members for c in row["certificates"]]
        asked = sum(row["asked"] for row in members)
        shares = [r["certified_size"] / r["size"] for r in members if r.get("certified_size")] or [
            np.nan
        ]
        part = f"{np.mean(shares):.0%}" if kind == "neighbourhoods" else ""
        line = [network, kind, f"{len(found)} of {asked}", part]
        for name, unit in (
            ("leaves", 1), ("bytes", 1e-6), ("float64_seconds", 1), ("exact_seconds", 1),
        ):  # fmt: skip
            values = [c[name] * unit for c in found] or [np.nan]
            line.append(f"{np.median(values):.3g} (at most {np.max(values):.3g})")
        lines.append(line)
    return lines


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    published.add_networks_argument(parser)
    parser.add_argument("--labels", type=int, default=50, help="a network, in whole images")
    parser.add_argument("--neighborhoods", type=int, default=10, help="a network")
    parser.add_argument("--radius", type=float, default=0.01)
    parser.add_argument(
        "--budget", type=float, default=60.0, help="seconds an image, or certificate"
    )
    parser.add_argument("--out", type=Path, default=Path("results/certificates"))
    add_record_argument(parser)
    add_executor_arguments(parser)
    return parser.parse_args()


if __name__ == "__main__":
    main()
