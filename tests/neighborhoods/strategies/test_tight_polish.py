"""Polishing below a ceiling: its margins are bounds, its ceiling is a limit, and what it keeps is proven."""

import dataclasses

import jax
import numpy as np
import pytest
from problems import problem_of
from zoo import mostly_slow

import jmlv
from jmlv.neighborhoods.problem import Problem
from jmlv.oracles import Bounds
from jmlv.verdict import Status, Verdict

SHAPE = (7, 7, 1)
RELAXATION = jmlv.AlphaCROWN(steps=5, intermediate_steps=5)


def net(x):
    for n, (channels, outputs) in enumerate(((1, 3), (3, 4))):
        kernel = jax.random.normal(jax.random.key(n), (3, 3, channels, outputs)) / 2
        layout = ("NHWC", "HWIO", "NHWC")
        x = jax.lax.conv_general_dilated(
            x, kernel, (1 + n, 1 + n), "SAME", dimension_numbers=layout
        )
        x = jax.nn.relu(x)
    return x.reshape(x.shape[0], -1) @ jax.random.normal(jax.random.key(2), (64, 4)) / 4


@pytest.fixture(scope="module")
def problem():
    x = np.random.default_rng(3).random(SHAPE).astype(np.float32)
    mask = np.zeros(SHAPE[:2], bool)
    mask[2:4, 2:4] = True
    layers = jmlv.Layers.around(mask)
    prop = jmlv.InTopK(int(np.argmax(net(x[None])[0])), 2)
    return problem_of(net, x, layers, prop)


def test_margins_below_a_ceiling_are_tighter_bounds(problem):
    ceiling = np.array([0.15, 0.1, 0.2, 0.12])
    below = problem.below(ceiling, RELAXATION)
    share = np.random.default_rng(4).random((16, 4))
    candidates = np.concatenate([ceiling[None], share * ceiling])
    margins, crown = below.margins(candidates), problem.margins(candidates)
    assert np.all(margins >= crown - 1e-4) and margins[0] > crown[0] + 0.05
    for epsilon, margin in zip(candidates, margins):
        region = jmlv.LayeredNeighborhood(problem.x, problem.layers, epsilon.astype(np.float32))
        attacked = jmlv.verify(net, region, problem.query.property, jmlv.PGD(16, 20))
        assert margin <= attacked.upper + 1e-4


def test_nothing_above_the_ceiling_may_be_asked(problem):
    below = problem.below(np.full(4, 0.1), RELAXATION)
    with pytest.raises(ValueError, match="ceiling"):
        below.margins(np.array([[0.1, 0.1, 0.1001, 0.1]]))


def test_intervals_of_a_smaller_ceiling_are_caught(problem, monkeypatch):
    """A margin with intervals that don't hold exceeds what an attack reaches."""
    epsilon = np.full(4, 0.3)
    below = problem.below(epsilon / 100, RELAXATION)
    below.ceiling = epsilon
    region = jmlv.LayeredNeighborhood(problem.x, problem.layers, epsilon.astype(np.float32))
    attacked = jmlv.verify(net, region, problem.query.property, jmlv.PGD(16, 40))
    assert below.margins(epsilon[None])[0] > attacked.upper


@pytest.mark.slow
def test_the_polish_grows_what_it_can_prove(problem):
    start = np.full(4, 0.002)
    assert problem.offer(start).robust
    polish = jmlv.TightPolish(relaxation=RELAXATION, rounds=6, restarts=1, width=4)
    polish.run(problem, np.random.default_rng(0))
    assert problem.size(problem.best) > 1.2 * start.sum()
    assert problem.verify(problem.best, Bounds(RELAXATION)).robust


@pytest.mark.parametrize("unproven", mostly_slow((1, 3, 10), 3))
def test_of_several_steps_the_last_that_is_proven_is_kept(problem, monkeypatch, unproven):
    mine = dataclasses.replace(problem, kept=None, trace=[])
    assert mine.offer(np.full(4, 0.002)).robust
    asked, true = [], Problem.offer

    def offer(self, epsilon, oracle=None):
        asked.append(self.size(epsilon))
        if asked[-1] > 0.1:
            return Verdict(Status.UNKNOWN, -1.0, 1.0, "refused", None, {})
        return true(self, epsilon, oracle)

    monkeypatch.setattr(Problem, "offer", offer)
    polish = jmlv.TightPolish(
        relaxation=RELAXATION, rounds=6, restarts=1, width=4, unproven=unproven
    )
    polish.run(mine, np.random.default_rng(0))
    proven = [size for size in asked if size <= 0.1]
    assert max(asked) > 0.1 and proven
    assert mine.size(mine.best) == max(proven) > 0.01


def test_bad_options_are_named():
    for bad in (
        {"width": 1},
        {"rounds": -1},
        {"reach": 0},
        {"share": 1.5},
        {"unproven": 0},
        {"restarts": -1},
    ):
        with pytest.raises(ValueError, match=next(iter(bad))):
            jmlv.TightPolish(**bad)
