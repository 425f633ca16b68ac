"""How fast photographs are decoded, and what memory an epoch takes.

    python experiments/bench_data.py --coco FOLDER [--images 2000] [--side 224]

The photographs of COCO's ``train2017`` are read over and over, in another order each time, in batches
of 64 by two threads. Besides the clock, the table has the processor's own time, which other work on the
machine does not lengthen, and the process's memory at the start, after the first tenth and at the end.
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from pathlib import Path

import numpy as np

from jmlv.cli.report import table
from jmlv.data import coco

BATCH = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--coco", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--images", type=int, default=2_000, help="photographs of an epoch")
    parser.add_argument("--side", type=int, default=224, help="resized to, in pixels")
    options = parser.parse_args()
    data = coco(options.coco, side=options.side)
    data = data.select(np.arange(options.images) % len(data))
    print(f"{platform.machine()}, {os.cpu_count()} cores; {data}")
    header = (
        "images a second",
        "a second of own time",
        "MB at the start",
        "after a tenth",
        "at the end",
    )
    print(table(header, [epoch(data)]))


def epoch(data) -> tuple[float, ...]:
    start, own, memory = time.perf_counter(), time.process_time(), [resident()]
    for number, _ in enumerate(data.batches(BATCH, seed=0), 1):
        if number == max(1, len(data) // (10 * BATCH)):
            memory.append(resident())
    seconds, own = time.perf_counter() - start, time.process_time() - own
    return len(data) / seconds, len(data) / own, *memory, resident()


def resident() -> float:
    """Megabytes that the process holds now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


if __name__ == "__main__":
    main()
