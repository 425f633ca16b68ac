"""The linear program of MLA-LP against the written-out one, and what the smallest changes are."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attack_problems import HIDE, LABELS, X, net

from jmlv.attacks import MLALP, MLCW, Hide, MLRank1, MLRank2, Target, attack
from jmlv.attacks.decisions import Threshold
from jmlv.attacks.goals import FlipAll
from jmlv.attacks.methods.linear_program import least_distortion, least_distortion_written_out
from jmlv.attacks.network import margins_and_jacobian, split


def program(seed, labels=6, entries=80, asked=2):
    rng = np.random.default_rng(seed)
    A = rng.normal(size=(labels, entries)) * np.exp(rng.normal(size=entries))
    x = np.where(rng.random(entries) < 0.4, 0, rng.random(entries))
    b = np.where(np.arange(labels) < asked, -1, rng.random(labels)) * np.abs(A).sum(1) * 0.05
    return A, b, x, 1 - x


@pytest.mark.parametrize("asked", [1, 3, 6])
@pytest.mark.parametrize("seed", range(5))
def test_columns_find_the_optimum_of_the_written_out_program(seed, asked):
    A, b, down, up = program(seed, asked=asked)
    ours, theirs = least_distortion(A, b, down, up), least_distortion_written_out(A, b, down, up)
    if theirs is None:
        assert not ours.feasible
        return
    best = np.abs(theirs).max()
    assert ours.feasible and ours.lower <= best + 1e-9
    assert best - 1e-9 <= ours.distortion <= best * 1.0003
    assert (A @ ours.change <= b + 1e-6 * np.abs(A).sum(1)).all()
    assert (ours.change >= -down - 1e-12).all() and (ours.change <= up + 1e-12).all()


def test_an_infeasible_program_says_so():
    A, b, down, up = program(0)
    assert not least_distortion(A, b - 10 * np.abs(A).sum(1), down, up).feasible


def linear(x):
    """Two labels that share no pixel; the exact least change is known."""
    flat = x.reshape(len(x), -1)
    return jnp.stack([flat[:, :4].sum(1) - 1.0, flat[:, 4:].sum(1) - 1.0], 1)


def test_on_a_linear_classifier_the_least_change_is_found():
    """The first label's margin of 0.6 is spread over the four entries it reads: 0.15 each."""
    x = np.array([0.4] * 4 + [0.5] * 4, np.float32).reshape(1, 2, 4, 1)
    result = attack(linear, x, Hide(0), MLALP())
    assert result.success.all() and result.linf[0, 0] == pytest.approx(0.15, abs=0.001)
    x[0, 0, 0, 0] = 0.05  # now it meets the box: 0.25 = 0.05 + 3 * 0.0667
    assert attack(linear, x, Hide(0), MLALP()).linf[0, 0] == pytest.approx(0.2 / 3, abs=0.001)
    near = attack(linear, x, Hide(0), MLCW(300, 6, 10.0))
    assert near.success.all() and near.l2[0, 0] == pytest.approx(0.25 / 2, rel=0.05)


def test_saturated_labels_and_impossible_goals_are_survived():
    def f(x):
        return jnp.concatenate([linear(x), jnp.full((len(x), 1), 60.0)], 1)  # nothing moves label 2

    x = np.full((2, 2, 4, 1), 0.4, np.float32)
    assert attack(f, x, Hide(0), MLALP()).success.all()
    result = attack(f, x, Hide((0, 2)), MLALP())
    assert not result.success.any() and np.isfinite(result.images).all()
    far = attack(lambda v: 5.0 + 0.01 * linear(v), x, Hide(0), MLALP())
    assert not far.success.any()


def test_the_smallest_change_is_what_a_budget_pulls_back():
    free = attack(net, X, HIDE, MLALP())
    within = attack(net, X, HIDE, MLALP(), budgets=[1e-3, 1.0])
    np.testing.assert_array_equal(within.images[1], free.images[0])
    assert free.success.mean() > 0.5 and within.linf[0].max() <= 1e-3


@pytest.mark.parametrize("method", [MLRank1(), MLRank2()])
def test_penalties_vanish_on_the_wanted_order(method):
    margins = jnp.array([[2.0, 1.0, -1.0, -2.0]])
    same = Target((1, 1, 0, 0)).aim(np.array([[True, True, False, False]]))
    assert float(method.penalty(margins, same)[0]) == 0
    other = Target((0, 1, 0, 1)).aim(np.array([[True, True, False, False]]))
    assert float(method.penalty(margins, other)[0]) > 0
    all_off = FlipAll().aim(np.ones((1, 4), bool))
    assert float(method.penalty(margins, all_off)[0]) > 0


def test_the_jacobian_is_that_of_the_margins():
    network, weights = split(net, Threshold((0.3,) * LABELS))
    _, rows = margins_and_jacobian(network, weights, X)
    full = jax.jacobian(lambda image: network.margins(weights, image[None])[0])(jnp.asarray(X[0]))
    np.testing.assert_allclose(rows[0], full, atol=1e-6)


BAD = {
    "iterations": (lambda: MLALP(0), "iterations: must be"),
    "raise": (lambda: MLALP(raise_by=0.6), "raise_by: must be"),
    "initial": (lambda: MLCW(initial=0), "initial: must be"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_named(name):
    call, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        call()
