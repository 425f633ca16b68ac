"""The complete phase: it grows past a bound, at any scale, and keeps what is proven only."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from problems import problem_of

import jmlv
from jmlv.neighborhoods.problem import Problem
from jmlv.neighborhoods.strategies.complete_phase import SHARE, Widening
from jmlv.numerics import GREY_LEVEL
from jmlv.oracles import Oracle

SHAPE = (1, 4, 1)
SLOPES = np.array([4.0, 1.0, 3.0, 2.0])


@dataclasses.dataclass(frozen=True)
class Counting(Oracle):
    """Decides every question of this linear network, and counts them."""

    asked: list = dataclasses.field(default_factory=list)
    name = "counting"

    def search(self, query, deadline):
        self.asked.append(query)
        return jmlv.Cascade((jmlv.Bounds(), jmlv.PGD())).search(query, deadline)


def begun(scale: float, share: float) -> Problem:
    """A linear network whose label 0 is lost where epsilon @ SLOPES = 1 / scale, and so much of the
    largest uniform neighbourhood, proven."""

    def f(images):
        moved = (images.reshape(images.shape[0], -1) - 0.5) @ SLOPES
        return jnp.stack([1 - scale * moved, jnp.zeros_like(moved)], -1)

    x = np.full(SHAPE, 0.5, np.float32)
    layers = jmlv.Layers.around(np.eye(1, 4, dtype=bool))
    problem = problem_of(f, x, layers, jmlv.InTopK(0, 1))
    problem.offer(np.full(layers.count, share / (scale * SLOPES.sum())))
    return problem


@pytest.mark.parametrize("scale", [4.0, 400.0])
def test_it_comes_near_a_maximal_neighbourhood_at_any_scale(scale):
    problem = begun(scale, share=0.2)
    start = problem.size(problem.best)
    jmlv.CompletePhase(30.0, oracle=Counting()).run(problem)
    room = 1 - scale * problem.best @ SLOPES
    assert 0 < room < 0.1
    assert problem.size(problem.best) > 2 * start
    assert problem.best_verdict.robust
    if scale > 100:
        assert problem.best.max() < GREY_LEVEL  # every one of its steps was below a grey level


def test_a_known_counterexample_answers_for_whatever_holds_it():
    problem, counting = begun(4.0, share=0.9), Counting()
    widening = Widening(counting, problem)
    one_more = problem.best + np.array([0.1, 0, 0, 0])
    assert not widening.proves(one_more)
    assert not widening.proves(one_more + 0.1) and len(counting.asked) == 1
    assert not widening.proves(problem.best + np.array([0, 0, 0.1, 0])) and len(counting.asked) == 2


def test_no_step_is_asked_that_adds_less_than_its_share():
    problem, counting = begun(4.0, share=0.9), Counting()
    size = problem.size(problem.best)
    Widening(counting, problem).widen(0.9 * SHARE * size)
    assert not counting.asked
    Widening(counting, problem).widen(1.1 * SHARE * size)
    assert counting.asked
