"""Clipping: against linear programs and sampled points; rules broken on purpose; no mixing of types."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linprog

from jmlv.bounds import clipping
from jmlv.bounds.clipping import (
    ForViolators,
    Interval,
    Planes,
    clipped_box,
    clipped_minimum,
    minimum_with,
    multipliers_of,
)
from jmlv.numerics import certificate_precision


def _problem(seed, n=6, rows=5, constraints=1, ties=False):
    """Rows, constraints that some point of the box satisfies, and the box; in float64 NumPy."""
    rng = np.random.default_rng(seed)

    def draw(*shape):
        return rng.integers(-2, 3, shape).astype(float) if ties else rng.normal(size=shape)

    lower = draw(n)
    upper = lower + (rng.integers(0, 3, n) if ties else rng.random(n))
    slopes, along = draw(rows, n), draw(constraints, n)
    inside = lower + rng.random(n) * (upper - lower)
    constants = -along @ inside - 0.1 * rng.random(constraints)
    return Planes(slopes, draw(rows)), Planes(along, constants), Interval(lower, upper)


def _exact(planes, below, box):
    bounds = list(zip(*box))
    return np.array(
        [
            linprog(row, A_ub=below.slopes, b_ub=-below.constants, bounds=bounds).fun + constant
            for row, constant in zip(*planes)
        ]
    )


_CLIPPED = jax.jit(clipped_minimum, static_argnums=3)
_GIVEN = jax.jit(minimum_with)
_BOX = jax.jit(clipped_box)


def _on(program, *arguments):
    with certificate_precision():
        arrays = jax.tree.map(np.asarray, arguments)
        return jax.tree.map(np.asarray, program(*arrays))


def _alone(planes, box):
    """What the box alone says."""
    low, high = planes.slopes * box.lower, planes.slopes * box.upper
    return np.minimum(low, high).sum(1) + planes.constants


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("n", [1, 6, 60])
def test_one_multiplier_is_exact(n, ties):
    for seed in range(6):
        planes, below, box = _problem(seed, n, ties=ties)
        found = _on(_CLIPPED, planes, below, box)
        np.testing.assert_allclose(found, _exact(planes, below, box), atol=1e-9)


def test_several_are_valid_and_sweeps_never_lose():
    gained = 0
    for seed in range(8):
        planes, below, box = _problem(seed, 8, constraints=3)
        exact = _exact(planes, below, box)
        with certificate_precision():
            once, thrice = (np.asarray(_CLIPPED(planes, below, box, s)) for s in (1, 3))
        alone = _alone(planes, box)
        assert (alone <= once + 1e-12).all() and (once <= thrice + 1e-12).all()
        assert (thrice <= exact + 1e-9).all()
        gained += int((thrice > alone + 1e-3).sum())
    assert gained > 10


def _violations(seed):
    """How far bounds with random multipliers, some negative or NaN, exceed what points reach."""
    rng = np.random.default_rng(seed)
    planes, below, box = _problem(seed, 8, constraints=3)
    shares = rng.random((4000, 8))
    points = box.lower + np.where(shares < 0.3, 0, np.where(shares > 0.7, 1, shares)) * (
        box.upper - box.lower
    )
    kept = points[(points @ below.slopes.T + below.constants <= 0).all(1)]
    multipliers = rng.normal(size=(5, 3))
    multipliers[0, 0] = np.nan
    bound = _on(_GIVEN, planes, below, box, multipliers)
    assert np.isfinite(bound).all()
    values = (kept @ planes.slopes.T + planes.constants).min(0) if len(kept) else np.inf
    return np.max(bound - values)


def test_any_multiplier_is_valid():
    assert max(_violations(seed) for seed in range(20)) <= 1e-9


def test_a_negative_multiplier_would_be_caught(monkeypatch):
    broken = lambda planes, below, box, beta: (  # noqa: E731
        (planes.slopes + jnp.nan_to_num(beta) @ below.slopes) @ (box.lower + box.upper) / 2
        - jnp.abs(planes.slopes + jnp.nan_to_num(beta) @ below.slopes) @ (box.upper - box.lower) / 2
        + planes.constants
        + jnp.nan_to_num(beta) @ below.constants
    )
    monkeypatch.setitem(globals(), "_GIVEN", jax.jit(broken))
    assert max(_violations(seed) for seed in range(20)) > 0.1


def test_float32_searches_and_float64_proves():
    planes, below, box = _problem(3, 8, constraints=3)
    single = jax.tree.map(lambda v: jnp.asarray(v, jnp.float32), (planes, below, box))
    multipliers = np.asarray(jax.jit(multipliers_of)(*single))
    proven = _on(_GIVEN, planes, below, box, multipliers.astype(float))
    searched = _on(_CLIPPED, planes, below, box)
    assert (proven <= _exact(planes, below, box) + 1e-9).all()
    np.testing.assert_allclose(proven, searched, rtol=1e-3)


def test_what_no_input_satisfies_and_what_overflows_gives_a_valid_bound():
    planes, below, box = _problem(1)
    for constant in (1e6, np.inf, np.nan):
        hopeless = below._replace(constants=np.array([constant]))
        found = _on(_CLIPPED, planes, hopeless, box)
        assert not (found > _alone(planes, box) + 1e-9).any()  # a NaN is neither more nor a proof
        clipped = _on(_BOX, hopeless, box)
        assert constant == 1e6 or (np.stack(clipped) == np.stack(box)).all()


@pytest.mark.parametrize("constraints", [1, 3])
def test_the_clipped_box_holds_what_satisfies(constraints):
    rng = np.random.default_rng(0)
    smaller = 0
    for seed in range(10):
        _, below, box = _problem(seed, 4, constraints=constraints)
        clipped = _on(_BOX, below, box)
        points = box.lower + rng.random((3000, 4)) * (box.upper - box.lower)
        kept = points[(points @ below.slopes.T + below.constants <= 0).all(1)]
        assert (kept >= clipped.lower - 1e-12).all() and (kept <= clipped.upper + 1e-12).all()
        assert (clipped.lower >= box.lower).all() and (clipped.upper <= box.upper).all()
        smaller += bool((clipped.upper - clipped.lower < box.upper - box.lower - 1e-6).any())
    assert smaller >= 3


def test_bounds_for_violators_are_no_bounds():
    """Whoever uses them as numbers is told; only ``everywhere`` makes bounds, up to the ceiling."""
    bound = ForViolators(jnp.array([-1.0, 0.5, jnp.inf, jnp.nan]), 1e-5)
    for misuse in (
        lambda: bound > 0,
        lambda: bound + 1,
        lambda: jnp.minimum(bound, 0.0),
        lambda: float(bound),
        lambda: np.isfinite(bound),
        lambda: max(bound, 0.0),
    ):
        with pytest.raises(TypeError):
            misuse()
    np.testing.assert_allclose(bound.everywhere(), [-1.0, 1e-5, -np.inf, -np.inf])
    through = jax.jit(lambda b: b)(bound)
    assert isinstance(through, ForViolators) and clipping.CEILING == 1e-5
