"""Certificates of balls: least values against points, what is proven against samples, and forged balls."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

import jmlv
from jmlv.oracles import Bounds, Deadline, Query
from jmlv.oracles.certify import Certifier
from jmlv_check import Refused, ball, proof
from jmlv_check.arithmetic import Floats, Integers

TIERS = pytest.mark.parametrize("tier", [Floats(), Integers(160)], ids=["float64", "exact"])
NORMS = pytest.mark.parametrize("norm", [2, 1])
SHAPE = (1, 3, 1)
LAYERS = jmlv.Layers.around(np.array([[True, False, False]])).banded(2)
CERTIFIER = Certifier(batch=4, depth=1, steps=4)


def _random(rng, norm, size=6, groups=2):
    """A ball with layers and weights, a box that may leave out its centre, and points of both."""
    radii, layer = rng.choice([0.1, 0.5, 2.0], groups), rng.integers(0, groups, size)
    centre, weights = rng.random(size), rng.choice([1.0, 0.5, 3.0], size)
    lower = np.maximum(centre - rng.choice([0.0, 0.3, -0.05], size), 0)
    upper = np.maximum(lower, np.minimum(centre + rng.choice([0.0, 0.3, 1.0], size), 1))
    far = rng.normal(size=(4000, size)) ** rng.choice([1, 3], (4000, size))
    points = np.clip(centre + far * radii[layer] / weights, lower, upper)
    change = np.abs(weights * (points - centre)) ** norm
    lengths = np.stack([change[:, layer == g].sum(1) for g in range(groups)], 1)
    inside = np.all(lengths <= radii**norm, 1)
    return (norm, centre, weights, radii, layer), (lower, upper), points[inside]


def _lifted(tier, parts):
    norm, *arrays, layer = parts
    return ball.Ball(norm, *map(tier.lift, arrays), layer)


@TIERS
@NORMS
@pytest.mark.parametrize("broken", [False, True])
def test_no_point_is_below_the_least_value(tier, norm, broken, monkeypatch):
    if broken:  # half of what the ball takes
        own = tier.lift(0.5)
        for name in ("_euclidean", "_largest"):
            rule = getattr(ball, name)
            half = lambda tier, rows, rule=rule: tier.times_below(own, rule(tier, rows))  # noqa: E731
            monkeypatch.setattr(ball, name, half)
    rng, below = np.random.default_rng(0), True
    for _ in range(12):
        parts, ends, points = _random(rng, norm)
        rows = rng.normal(size=(5, 6)) * rng.choice([0, 1e-8, 1.0, 100.0], (5, 1))
        found = _lifted(tier, parts).least(tier, tier.lift(rows), *map(tier.lift, ends))
        if len(points):
            least = np.array([tier.show(value) for value in found])
            below &= bool(np.all(least <= (points @ rows.T).min(0) + 1e-9))
    assert below != broken


@TIERS
def test_in_a_ball_that_the_box_does_not_cut_it_is_that_of_the_dual_norm(tier):
    rows, centre = np.array([[3.0, -4.0, 0.0]]), np.array([0.25, 0.5, 0.1])
    ends = tier.lift(np.full(3, -2.0)), tier.lift(np.full(3, 2.0))
    for norm, dual in ((2, 5.0), (1, 4.0)):
        parts = norm, centre, np.ones(3), np.array([0.1]), np.zeros(3, int)
        (least,) = _lifted(tier, parts).least(tier, tier.lift(rows), *ends)
        assert tier.show(least) == pytest.approx(float(rows[0] @ centre) - 0.1 * dual, abs=1e-12)


@TIERS
@NORMS
def test_whether_a_point_is_inside_is_decided_to_the_last_digit(tier, norm):
    parts = norm, np.array([0.25, 0.5]), np.array([1.0, 2.0]), np.array([0.5]), np.zeros(2, int)
    at = _lifted(tier, parts)
    edge = {2: ((0.55, 0.7), (0.55 + 1e-9, 0.7)), 1: ((0.5, 0.624), (0.5, 0.626))}[norm]
    assert at.holds(tier, tier.lift(np.array(edge[0]) * (1 - 1e-12)))
    assert not at.holds(tier, tier.lift(edge[1])) and at.holds(tier, at.centre)
    point = at._replace(radii=tier.lift([0.0]))
    assert point.holds(tier, at.centre) and not point.holds(tier, tier.lift([0.25, 0.5 + 1e-15]))


# ---------------------------------------------------------------------------------------------
# Certificates
# ---------------------------------------------------------------------------------------------


def _net(x):
    rng = np.random.default_rng(19)
    a, b, c = (jnp.asarray(rng.normal(size=s), jnp.float32) for s in ((3, 8), (8,), (8, 3)))
    return jnp.maximum(2 * x.reshape(-1, 3) @ a + b, 0) @ c


X = np.array([0.3, 0.95, 0.0], np.float32).reshape(SHAPE)
BEST = jmlv.InTopK(int(np.argmax(_net(X[None])[0])), 1)
BALLS = {
    "l2": jmlv.Ball(X, 0.92),
    "l1": jmlv.Ball(X, 1.3, 1),
    "layered, weighted": jmlv.Ball(
        X, np.array([0.6, 0.42]), weights=np.array([1.0, 0.9, 1.1])[:, None], layers=LAYERS
    ),
}
"""So large that halves are needed, of which some miss the ball."""


def _points(arrays, count=3000):
    """Of a certificate's own region, in float64."""
    rng, (norm, radii, layer) = np.random.default_rng(0), (
        arrays[f"ball.{name}"] for name in ("norm", "radii", "layer")
    )  # fmt: skip
    far = rng.uniform(-1, 1, (count, 3)) * rng.choice([1, 0.1], (count, 3))
    change = far * radii[layer] / arrays["ball.weights"]
    points = np.clip(arrays["ball.centre"] + change, arrays["lower"], arrays["upper"])
    moved = np.abs(arrays["ball.weights"] * (points - arrays["ball.centre"])) ** norm
    lengths = np.stack([moved[:, layer == g].sum(1) for g in range(len(radii))], 1)
    return points[np.all(lengths <= radii**norm, 1)]


def _margins(arrays):
    return np.asarray(_net(jnp.asarray(_points(arrays), jnp.float32))) @ arrays["rows"].T


@pytest.fixture(scope="module")
def certificates():
    found = {}
    for name, region in BALLS.items():
        certificate = CERTIFIER.prove(Query.of(_net, region, BEST), Deadline(60))
        assert certificate is not None, name
        found[name] = region, certificate
    return found


def test_every_proof_of_a_ball_is_replayed_and_no_point_contradicts_it(certificates):
    leaves, empty = 0, 0
    for region, certificate in certificates.values():
        floats, exact = certificate.check(), certificate.check(exact=True)
        assert floats.bound > 0 and abs(floats.bound - exact.bound) < 1e-9
        assert f"the l{region.norm} ball of " in floats.statement
        assert _margins(certificate.arrays).min() > 0
        leaves += floats.leaves
        empty += sum(f"leaf.{i}.4" not in certificate.arrays for i in range(floats.leaves))
    assert leaves > 9 and empty


def test_a_radius_too_large_is_refused_and_a_smaller_one_is_not(certificates):
    known = {}
    for _, certificate in certificates.values():
        for factor in (1.0, 0.5, 3.0, 1.0):  # what is known of one ball says nothing of another
            arrays = {**certificate.arrays, "lower": np.full(3, -4.0), "upper": np.full(3, 5.0)}
            arrays["ball.radii"] = factor * certificate.arrays["ball.radii"]
            larger = dataclasses.replace(certificate, arrays=arrays)
            if factor > 1:
                assert _margins(arrays).min() < 0
                with pytest.raises(Refused, match="not positive"):
                    larger.check(known=known)
            elif factor < 1:
                assert larger.check(known=known).bound > 0


def test_every_field_damaged_is_refused_or_true(certificates):
    for _, certificate in certificates.values():
        for name in [n for n in certificate.arrays if n.startswith("ball.")]:
            array = np.asarray(certificate.arrays[name])
            others = {
                "gone": None,
                "of text": array.astype(str),
                "NaN": np.full(array.shape, np.nan),
                "negated": -array,
                "zero": np.zeros_like(array),
                "seven": np.full_like(array, 7),
                "of others": array.astype(float if array.dtype.kind == "i" else int),
                "another shape": array[None],
                "longer": np.append(array, array),
            }
            for what, other in others.items():
                arrays = {n: a for n, a in certificate.arrays.items() if n != name}
                arrays |= {} if other is None else {name: other}
                try:
                    dataclasses.replace(certificate, arrays=arrays).check()
                except Refused as problem:
                    assert len(str(problem)) > 10
                    continue
                assert what in ("zero", "seven", "negated", "longer"), (name, what)
                assert _margins(arrays).min(initial=1) > 0, (name, what)


def test_without_its_ball_it_is_about_the_box(certificates):
    _, certificate = certificates["l2"]
    arrays = {n: a for n, a in certificate.arrays.items() if not n.startswith("ball.")}
    with pytest.raises(Refused, match="not positive"):
        dataclasses.replace(certificate, arrays=arrays).check()


@NORMS
def test_a_witness_has_to_be_in_the_ball(norm):
    region = jmlv.Ball(X, 3.0, norm)
    verdict = jmlv.verify(_net, region, BEST, jmlv.PGD(), certify=True)
    certificate = verdict.certificate
    for exact in (False, True):
        assert certificate.check(exact).claim == "not robust"
        arrays = {**certificate.arrays, "ball.radii": np.full(1, 0.01)}
        with pytest.raises(Refused, match="leaves the ball"):
            dataclasses.replace(certificate, arrays=arrays).check(exact)


def test_counts_over_a_ball_have_certificates():
    region = jmlv.Ball(X, 0.02)
    found = jmlv.kept(_net, region, (0, 2), 2, oracle=Bounds(), attacks=(), budget=60, certify=True)
    assert found.lost.upper == 0 and found.lost.certificate.check().bound > 0


def test_what_is_known_of_a_region_is_known_by_its_ball_too(certificates):
    arrays = certificates["l2"][1].arrays
    other = {**arrays, "ball.norm": np.asarray(1)}
    assert proof._content(arrays) != proof._content(other)
