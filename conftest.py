"""For all tests and doctests: what stays in memory and for how long, and how many random cases there are."""

import gc
import os

import hypothesis

from jmlv.compilation import release_programs

hypothesis.settings.register_profile("quick", max_examples=40, deadline=None, derandomize=True)
hypothesis.settings.register_profile("nightly", max_examples=2000, deadline=None)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))

EVERY = 10
"""Tests between two looks at how many programs there are."""

_done = 0


def pytest_collection_finish(session):
    """What is imported stays: the collector of garbage need not look at it again and again."""
    gc.collect()
    gc.freeze()


def pytest_runtest_teardown(item, nextitem):
    global _done
    _done += 1
    if _done % EVERY == 0:
        release_programs()
