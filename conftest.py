"""For all tests and doctests: a process does not keep more compiled programs than it may map."""

from pathlib import Path

import jax

MAPS, EVERY, MOST = Path("/proc/self/maps"), 10, 25_000
"""Linux lets a process have 65,530 mappings, each program has several, and XLA crashes beyond."""

_done = 0


def pytest_runtest_teardown(item, nextitem):
    global _done
    _done += 1
    if _done % EVERY == 0 and MAPS.exists() and len(MAPS.read_bytes().splitlines()) > MOST:
        jax.clear_caches()
