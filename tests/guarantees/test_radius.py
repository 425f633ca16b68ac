"""Radii in three norms: exact for linear networks, brute force for tiny ones, and broken twins."""

import jax.numpy as jnp
import numpy as np
import pytest
from tiny_networks import Tiny, predicted

import jmlv
from jmlv.errors import SoundnessError
from jmlv.guarantees.radius import _Around, _Search
from jmlv.oracles import PGD, Bounds, Cascade, InputSplitting, Query

ORACLE = Cascade((Bounds(), PGD(restarts=4, steps=12), InputSplitting(batch=16)))
NORMS = np.inf, 2, 1


def affine(x):
    return jnp.stack([x[:, 0] + 0.5 * x[:, 1], x[:, 1]], -1)


@pytest.mark.parametrize("norm, dual", [(np.inf, 1.5), (2, np.hypot(1, 0.5)), (1, 1.0)])
def test_an_affine_network_has_the_radius_of_the_dual_norm(norm, dual):
    """The margin is x0 - x1 / 2 = 0.2, far from the domain's edge."""
    f = jmlv.trace(affine, (2,))
    found = jmlv.robust_radius(
        f, np.float32([0.5, 0.6]), jmlv.InTopK(0, 1), norm=norm, oracle=ORACLE
    )
    assert found.lower == pytest.approx(0.2 / dual, rel=2e-3)
    assert found.lower <= 0.2 / dual + 1e-6 and found.upper >= 0.2 / dual - 1e-6
    assert found.upper == pytest.approx(0.2 / dual, rel=2e-2)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow), 4])
def test_brute_force_agrees(seed, norm):
    tiny = Tiny(seed)
    label = int(tiny.scores(tiny.x.reshape(1, 2)).argmax())
    found = jmlv.robust_radius(tiny.graph, tiny.x, jmlv.InTopK(label, 2), norm=norm, oracle=ORACLE)
    axis = np.linspace(0, 1, 201)
    grid = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)
    lost = ~predicted(tiny.scores(grid), 2)[:, label]
    distance = np.linalg.norm(grid - tiny.x.reshape(2), norm, axis=1)
    nearest = distance[lost].min(initial=np.inf)
    assert found.lower <= nearest and found.lower <= found.upper
    assert found.everywhere or found.upper - found.lower <= 0.02 * found.upper + 0.01
    assert found.upper <= nearest + 0.02 or not lost.any()
    if found.witness is not None:
        reached = np.linalg.norm((found.witness - tiny.x).ravel(), norm)
        assert reached <= found.upper * (1 + 1e-6)


def test_a_property_that_is_lost_at_the_input_has_no_radius():
    found = jmlv.robust_radius(jmlv.trace(affine, (2,)), np.float32([0.1, 0.9]), jmlv.InTopK(0, 1))
    assert (found.lower, found.upper) == (0, 0) and found.witness is not None


def test_a_property_of_the_whole_domain_has_all_of_it():
    constant = jmlv.trace(lambda x: jnp.stack([2 + x[:, 0], x[:, 1]], -1), (2,))
    found = jmlv.robust_radius(constant, np.float32([0.5, 0.25]), jmlv.InTopK(0, 1), norm=1)
    assert found.everywhere and found.lower == pytest.approx(1.25)


def test_what_lies_beyond_the_largest_radius_is_not_claimed():
    """Lost at 0.3: up to 0.1 it holds, and of the rest of the domain nothing is known."""
    f = jmlv.trace(lambda x: jnp.stack([x[:, 0], x[:, 1]], -1), (2,))
    found = jmlv.robust_radius(f, np.float32([0.8, 0.2]), jmlv.InTopK(0, 1), largest=0.1)
    assert found.lower == 0.1 and found.upper == pytest.approx(0.8) and not found.everywhere
    assert "no larger radius" in found.reason


def test_weights_count_as_in_a_ball():
    """The second pixel at twice its distance: the dual of (1, 1/2) is (1, 1/4)."""
    f, options = jmlv.trace(affine, (2,)), {"norm": 2, "weights": np.array([1.0, 2.0])}
    found = jmlv.robust_radius(f, np.float32([0.5, 0.6]), jmlv.InTopK(0, 1), **options)
    assert found.lower == pytest.approx(0.2 / np.hypot(1, 0.25), rel=2e-3)


def test_a_witness_inside_of_what_is_proven_is_a_defect():
    around = _Around.of(np.float32([0.5, 0.6]), 2, None, (0, 1), None)
    query = Query.of(jmlv.trace(affine, (2,)), around.region(1.0), jmlv.InTopK(0, 1))
    search = _Search(query, around)
    search.lower = 0.5
    with pytest.raises(SoundnessError, match="proved a radius of 0.5"):
        search._lost(np.float32([0.5, 0.9]))


def test_bad_arguments_are_refused():
    f, x = jmlv.trace(affine, (2,)), np.float32([0.5, 0.6])
    with pytest.raises(ValueError, match="norm: expected infinity"):
        jmlv.robust_radius(f, x, jmlv.InTopK(0, 1), norm=3)
    with pytest.raises(ValueError, match="largest: expected a positive radius"):
        jmlv.robust_radius(f, x, jmlv.InTopK(0, 1), domain=None)
    with pytest.raises(ValueError, match="weights: must be positive"):
        jmlv.robust_radius(f, x, jmlv.InTopK(0, 1), weights=np.zeros(2))
    with pytest.raises(ValueError, match="x: values must lie in"):
        jmlv.robust_radius(f, x + 1, jmlv.InTopK(0, 1))
