"""For all tests and doctests: programs are let go of in time, and how many random cases there are."""

import os
from pathlib import Path

import hypothesis
import jax

hypothesis.settings.register_profile("quick", max_examples=40, deadline=None, derandomize=True)
hypothesis.settings.register_profile("nightly", max_examples=2000, deadline=None)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))

MAPS, EVERY, MOST = Path("/proc/self/maps"), 10, 25_000
"""Linux lets a process have 65,530 mappings, each program has several, and XLA crashes beyond."""

_done = 0


def pytest_runtest_teardown(item, nextitem):
    global _done
    _done += 1
    if _done % EVERY == 0 and MAPS.exists() and len(MAPS.read_bytes().splitlines()) > MOST:
        jax.clear_caches()
