"""Many images growing together: the same neighbourhoods as one by one, streamed, on any devices."""

import dataclasses
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jmlv
from jmlv.neighborhoods import together
from jmlv.neighborhoods.evaluation import evaluate
from jmlv.neighborhoods.problem import OutOfTime

SHAPE = (6, 6, 1)
LAYERS = [jmlv.Layers.around(np.eye(36, dtype=bool)[place].reshape(6, 6)) for place in (0, 21, 35)]
SEARCH = jmlv.LayerSearch(width=4, rounds=2, tighter=None, complete=None)
QUICK = {"oracle": jmlv.Bounds(), "maximality": None}


def net(x):
    kernel = jax.random.normal(jax.random.key(0), (3, 3, 1, 3))
    x = jax.lax.conv_general_dilated(
        x, kernel, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    x = jax.nn.relu(x).reshape(x.shape[0], -1)
    return x @ jax.random.normal(jax.random.key(1), (27, 4))


def cases(count=3):
    images = np.random.default_rng(2).random((count, *SHAPE)).astype(np.float32)
    best = np.asarray(net(jnp.asarray(images))).argmax(1)
    return images, LAYERS[:count], [jmlv.InTopK(int(label), 2) for label in best]


@pytest.mark.parametrize("strategy", (jmlv.Uniform(), SEARCH), ids=lambda s: s.name)
def test_together_finds_what_one_by_one_finds(strategy):
    found = dict(jmlv.grow_many(net, *cases(), strategy, weights=jmlv.decaying, **QUICK))
    assert sorted(found) == [0, 1, 2]
    for i, case in enumerate(zip(*cases())):
        alone = jmlv.grow(net, *case, strategy, weights=jmlv.decaying, **QUICK)
        assert found[i].verdict.robust and found[i].property == case[2]
        assert abs(found[i].size - alone.size) < 0.02 * alone.size + 1e-3


@pytest.mark.slow
def test_complete_oracles_are_asked_side_by_side():
    phase = jmlv.CompletePhase(60.0, oracle=jmlv.MILP(), factors=(1.02,), step=0.005)
    strategy = dataclasses.replace(SEARCH, rounds=0, complete=phase)
    images, layers, properties = cases(2)
    for _, grown in jmlv.grow_many(net, images, layers, properties, strategy, workers=2, **QUICK):
        assert grown.verdict.robust and grown.complete_queries > 0


def test_questions_of_several_images_share_a_batch(monkeypatch):
    groups = []

    def counting(requests, slots):
        groups.append(len(requests))
        return evaluate(requests, slots)

    monkeypatch.setattr(together, "evaluate", counting)
    assert len(list(jmlv.grow_many(net, *cases(), jmlv.Uniform(), **QUICK))) == 3
    assert max(groups) == 3


def test_properties_of_different_structure_are_grown_side_by_side():
    images, layers, properties = cases()
    properties[1] = jmlv.KeepsLabels((properties[1].label,), 2) & properties[1]
    found = dict(jmlv.grow_many(net, images, layers, properties, jmlv.Uniform(), **QUICK))
    alone = jmlv.grow(net, images[1], layers[1], properties[1], jmlv.Uniform(), **QUICK)
    assert abs(found[1].size - alone.size) < 1e-3


def test_results_stream_and_an_iteration_may_end_early():
    results = jmlv.grow_many(net, *cases(), jmlv.Uniform(), together=1, **QUICK)
    number, grown = next(results)
    assert number == 0 and grown.size > 0
    results.close()


def test_an_interrupt_returns_what_is_under_way():
    endless = jmlv.LayerSearch(rounds=10**6, patience=10**6, tighter=None, complete=None)
    first = _FirstEnds(endless)
    results = jmlv.grow_many(net, *cases(), first, budget=None, **QUICK)
    assert next(results)[0] == 0
    found = [results.throw(KeyboardInterrupt)]
    with pytest.raises(KeyboardInterrupt):
        found.extend(results)
    assert sorted(number for number, _ in found) == [1, 2]
    assert all(g.verdict.robust and g.reason == "interrupted" for _, g in found)


@dataclasses.dataclass(frozen=True)
class _FirstEnds(jmlv.Strategy):
    """Ends at once on the image whose object is in the corner, and never on others."""

    endless: jmlv.Strategy
    name = "first ends"

    def search(self, problem):
        if not problem.layers.count == LAYERS[0].count or problem.layers.index[0, 0] != 0:
            self.endless.search(problem)


class _Failing(jmlv.Uniform):
    def search(self, problem):
        raise RuntimeError("this strategy fails")


def test_a_strategy_that_fails_is_heard_of():
    with pytest.raises(RuntimeError, match="this strategy fails"):
        list(jmlv.grow_many(net, *cases(), _Failing(), **QUICK))


DEVICES = """
import jax
jax.config.update("jax_num_cpu_devices", 3)
import sys; sys.path[:0] = ["tests", "tests/neighborhoods"]
import test_grow_many as t, jmlv
assert jax.device_count() == 3
for number, grown in jmlv.grow_many(t.net, *t.cases(), t.SEARCH, **t.QUICK):
    print(number, grown.size)
"""


def test_several_devices_give_the_same_sizes():
    run = subprocess.run(
        [sys.executable, "-c", DEVICES], capture_output=True, text=True, timeout=300
    )
    assert run.returncode == 0, run.stderr
    found = {int(n): float(size) for n, size in (line.split() for line in run.stdout.splitlines())}
    here = {n: grown.size for n, grown in jmlv.grow_many(net, *cases(), SEARCH, **QUICK)}
    assert sorted(found) == sorted(here) == [0, 1, 2]
    for n, size in here.items():
        assert abs(found[n] - size) < 0.02 * size


def test_bad_arguments_name_the_argument_and_the_image():
    images, layers, properties = cases()
    with pytest.raises(ValueError, match="3 images, 2 layers"):
        jmlv.grow_many(net, images, layers[:2], properties)
    broken = [properties[0], jmlv.NotInTopK(properties[1].label, 2), properties[2]]
    with pytest.raises(ValueError, match="image 1: .*does not hold"):
        jmlv.grow_many(net, images, layers, broken)
    with pytest.raises(ValueError, match="image 2: x"):
        jmlv.grow_many(net, images + np.array([0, 0, 9]).reshape(3, 1, 1, 1), layers, properties)
    with pytest.raises(ValueError, match="together"):
        jmlv.grow_many(net, images, layers, properties, together=0)
    with pytest.raises(ValueError, match="budget"):
        jmlv.grow_many(net, images, layers, properties, budget=-1)
    with pytest.raises(ValueError, match="at least one"):
        jmlv.grow_many(net, images[:0], [], [])


def test_what_asks_after_the_end_is_told_so():
    evaluator = together.Together(images=2, slots=2, workers=1)
    evaluator.stop()
    with evaluator.member(lambda: False), pytest.raises(OutOfTime, match="interrupted"):
        evaluator(None)
