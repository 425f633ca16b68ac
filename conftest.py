"""For all tests and doctests: what stays in memory and for how long, and how many random cases there are."""

import gc
import os

import hypothesis

CHECKED = bool(os.environ.get("CHECK_ANNOTATIONS"))
if CHECKED:
    import checked_annotations

    checked_annotations.install()

hypothesis.settings.register_profile("quick", max_examples=40, deadline=None, derandomize=True)
hypothesis.settings.register_profile("nightly", max_examples=2000, deadline=None)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))

CHECKING = (
    "ignore:.* deprecated by PEP 585:DeprecationWarning",  # what Flax annotates with
    "ignore:Do not use the `random` module",  # beartype looks at an item by chance, in strategies too
)
"""Warnings of checking annotations."""

EVERY = 10
"""Tests between two looks at how many programs there are."""

_done = 0


def pytest_configure(config):
    for line in CHECKING if CHECKED else ():
        config.addinivalue_line("filterwarnings", line)


def pytest_collection_finish(session):
    """What is imported stays: the collector of garbage need not look at it again and again."""
    gc.collect()
    gc.freeze()


def pytest_runtest_teardown(item, nextitem):
    global _done
    _done += 1
    if _done % EVERY == 0:
        from jmlv.compilation import release_programs

        release_programs()
