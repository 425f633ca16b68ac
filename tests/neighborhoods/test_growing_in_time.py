"""Growing cold and interrupted: what is quickly certified is in hand, and nothing comes late."""

import dataclasses
import itertools
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from interrupts import interrupted_after
from lateness import LATE

import jmlv
from jmlv.neighborhoods.certified_part import with_certificate
from jmlv.neighborhoods.strategies.strategy import Strategy
from jmlv.progress import Bar, Progress
from jmlv.verdict import Status

SHAPE = (6, 6, 1)
LAYERS = jmlv.Layers.around(np.eye(36, dtype=bool)[0].reshape(6, 6))
QUICK = {"oracle": jmlv.Bounds(), "maximality": None}
_structures = itertools.count(41 + time.time_ns() % 97)


def never_compiled():
    """A network of a structure that nobody has compiled, an image, and a label of its top two."""
    hidden = next(_structures)

    def f(x):
        keys = jax.random.split(jax.random.key(0), 2)
        h = jax.nn.relu(x.reshape(x.shape[0], 36) @ jax.random.normal(keys[0], (36, hidden)) / 6)
        return h @ jax.random.normal(keys[1], (hidden, 4)) / 4

    x = np.random.default_rng(0).random(SHAPE).astype(np.float32)
    return f, x, LAYERS, jmlv.InTopK(int(np.argmax(f(jnp.asarray(x)[None])[0])), 2)


def timed(verb, *arguments, **options):
    start = time.monotonic()
    found = verb(*arguments, **options)
    return found, time.monotonic() - start


@dataclasses.dataclass(frozen=True)
class Deaf(Strategy):
    """Finds nothing, and looks at no clock, as compiling does not."""

    name = "deaf"
    seconds: float = 4.0

    def search(self, problem):
        time.sleep(self.seconds)


@pytest.mark.parametrize("budget", [0.01, 0.3])
def test_a_budget_too_small_to_compile_in_is_kept(budget):
    grown, seconds = timed(jmlv.grow, *never_compiled(), budget=budget)
    assert seconds < budget + LATE
    assert grown.reason.startswith("the budget ended") and grown.epsilon.shape == (LAYERS.count,)
    upper, seconds = timed(jmlv.size_upper_bound, *never_compiled(), budget=budget)
    assert seconds < budget + LATE and 0 < upper.value <= LAYERS.count


def test_what_a_few_queries_certify_is_in_hand():
    """The strategy never returns, and finds nothing; another one that ends is taken at its word."""
    case = never_compiled()
    even = jmlv.grow(*case, jmlv.Uniform(), budget=None, **QUICK)  # compiles
    grown, seconds = timed(jmlv.grow, *case, Deaf(20.0), budget=2.0, **QUICK)
    assert seconds < 2.0 + LATE and grown.verdict.robust and grown.verdict.method == "CROWN"
    assert 0.7 * even.size < grown.size <= 1.001 * even.size
    assert grown.trace[-1][1] == pytest.approx(grown.size)
    assert "still running when the time was up" in grown.reason
    ended = jmlv.grow(*case, Deaf(0.0), **QUICK)
    assert ended.reason == "the strategy ended" and ended.size == 0 and ended.verdict.robust


@pytest.mark.slow
def test_the_image_alone_needs_no_bound():
    @dataclasses.dataclass(frozen=True)
    class Endless(jmlv.CROWN):
        def rows(self, *arguments):
            time.sleep(20)

        relax = rows

    case = never_compiled()
    jmlv.verify(case[0], jmlv.Box.around(case[1], 0.0), case[3], jmlv.Bounds(), budget=None)
    grown, seconds = timed(jmlv.grow, *case, bound=Endless(), budget=2.0)
    assert seconds < 2.0 + LATE and grown.size == 0
    assert grown.verdict.robust and grown.verdict.method == "evaluation"


def test_an_interrupt_at_any_moment_returns_what_is_certified():
    """While it traces, while it compiles, and, compiled, while it searches."""
    case = never_compiled()
    for moment in (0.03, 0.3, 1.0):
        with interrupted_after(moment):
            grown, seconds = timed(jmlv.grow, *case, Deaf(20.0), budget=None, **QUICK)
        assert grown.reason == "interrupted" and seconds < moment + LATE
        assert grown.verdict.robust or (grown.verdict.status is Status.UNKNOWN and grown.size == 0)
    jmlv.grow(*case, Deaf(0.0), budget=None, **QUICK)
    with interrupted_after(2.0):
        grown = jmlv.grow(*case, Deaf(20.0), budget=None, **QUICK)
    assert grown.reason == "interrupted" and grown.verdict.robust and grown.size > 0


def test_an_interrupt_ends_many_at_once():
    f, x, layers, prop = never_compiled()
    images = np.stack([x] * 3)
    results = jmlv.grow_many(f, images, [layers] * 3, prop, Deaf(20.0), budget=None, together=2)
    found, start = [], time.monotonic()
    with interrupted_after(3.0), pytest.raises(KeyboardInterrupt):
        found.extend(results)
    assert time.monotonic() - start < 10.0
    assert sorted(number for number, _ in found) == [0, 1]
    assert all(grown.reason == "interrupted" for _, grown in found)


def test_images_that_are_late_make_room_for_the_next():
    """Two of three are left behind in the middle of a common question; the third is still grown."""
    f, x, layers, prop = never_compiled()
    images = np.stack([x] * 3)
    start = time.monotonic()
    many = jmlv.grow_many(f, images, [layers] * 3, prop, Deaf(9.0), budget=2.0, together=2, **QUICK)
    found = dict(many)
    assert time.monotonic() - start < 14.0, "two turns of two seconds, not of nine"
    assert sorted(found) == [0, 1, 2] and all(g.verdict.robust for g in found.values())


class Said(Progress, Bar):
    """Remembers what bars say is going on."""

    def __init__(self):
        self.now = []

    def bar(self, description, total=None):
        return self

    def update(self, steps=1, **values):
        self.now += [values["now"]] if "now" in values else []

    def close(self):
        pass


def test_the_bar_says_when_something_compiles():
    said = Said()
    jmlv.grow(*never_compiled(), Deaf(0.0), budget=None, progress=said, **QUICK)
    assert said.now[0] == "compiling" and said.now[-1] == ""


def test_relations_hold_their_budget():
    f, x, _, _ = never_compiled()
    objects = jmlv.Objects(np.eye(36, dtype=bool)[[0, 35]].reshape(2, 6, 6), (0, 1))
    found, seconds = timed(
        jmlv.relation_matrix, f, x, objects, lambda i: jmlv.AboveThreshold(i, -50.0), budget=0.2
    )
    assert seconds < 2 * (0.2 + LATE)
    assert found.grown[0][1].reason.startswith("the budget ended")


def slowly_read(x):
    time.sleep(4)
    return x.reshape(-1, 36)


def test_a_budget_for_certificates_is_kept_while_the_network_is_read():
    arguments = slowly_read, np.zeros(SHAPE, np.float32), LAYERS, jmlv.InTopK(0, 36)
    grown, seconds = timed(jmlv.grow, *arguments, budget=0.3, certify=0.3)
    assert grown.verdict.status is Status.UNKNOWN and grown.certificate is None
    assert seconds < 0.6 + LATE

    def query():
        time.sleep(8)

    proven = dataclasses.replace(grown, verdict=jmlv.Verdict(Status.ROBUST, 0.1))
    kept, seconds = timed(with_certificate, query, proven, jmlv.oracles.Deadline(0.3))
    assert kept.verdict.stats["certificate"].startswith("no certificate: ")
    assert seconds < 0.3 + LATE
    unproven, seconds = timed(with_certificate, query, grown, jmlv.oracles.Deadline(0.3))
    assert unproven is grown and seconds < 0.1
