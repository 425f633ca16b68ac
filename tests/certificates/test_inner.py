"""Weights of their own for inner neurons: tighter intervals, which hold whatever the weights are."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

import jmlv
from jmlv.oracles import Deadline, Query
from jmlv.oracles.certify import Certifier, exported_from
from jmlv.oracles.certify.inner import rounded, written
from jmlv_check import linear
from jmlv_check.arithmetic import Floats, Integers
from jmlv_check.network import Maximum, Refused

SHAPE, TARGET = (3, 1, 1), 0


def _net(x, first=np.arange(8), second=np.arange(8)):
    """Two layers of eight ReLUs, in any order."""
    rng = np.random.default_rng(7)
    a, b, c = (jnp.asarray(rng.normal(size=s) / 2, jnp.float32) for s in ((3, 8), (8, 8), (8, 3)))
    a, b, c = a[:, first], b[first][:, second], c[second]
    return jnp.maximum(jnp.maximum(2 * x.reshape(-1, 3) @ a, 0) @ b, 0) @ c


def _query(radius):
    x = np.full(SHAPE, 0.5, np.float32)
    best = int(np.argmax(_net(x[None])[0]))
    return Query.of(_net, jmlv.Box.around(x, np.float32(radius)), jmlv.InTopK(best, 1))


@pytest.fixture(scope="module")
def proof():
    """The widest box that is proven without cuts, by weights of inner neurons' own."""
    query = _query(0.5)
    certifier = Certifier(batch=4, depth=1, moving=0, steps=4)
    for radius in np.linspace(0.38, 0.3, 21):
        box = jmlv.Box.around(np.full(SHAPE, 0.5, np.float32), np.float32(radius))
        certificate = certifier.prove(query.over(box), Deadline(60))
        if certificate is not None:
            return certificate
    raise AssertionError("nothing was proven")


def test_it_has_them_and_holds(proof):
    assert {"inner.5.at", "inner.5.3"} <= set(proof.arrays)
    floats, exact = proof.check(), proof.check(exact=True)
    assert floats.bound > 0 and abs(floats.bound - exact.bound) < 1e-9
    low, high = (proof.arrays[side] for side in ("lower", "upper"))
    shares = np.random.default_rng(0).random((2000, 3))
    shares = np.concatenate([shares, np.round(shares)])
    scores = np.asarray(_net(jnp.asarray(low + shares * (high - low), jnp.float32)))
    assert (scores @ proof.arrays["rows"].T).min() > -1e-5


def test_without_them_the_bound_is_lower(proof):
    arrays = {name: a for name, a in proof.arrays.items() if not name.startswith("inner")}
    try:
        bound = dataclasses.replace(proof, arrays=arrays).check().bound
    except Refused:
        return
    assert bound < proof.check().bound


def test_they_are_found_again_in_another_order(proof):
    orders = np.random.default_rng(0).permutation(8), np.random.default_rng(1).permutation(8)
    other = dataclasses.replace(
        _query(0.1), f=None, graph=jmlv.trace(lambda x: _net(x, *orders), SHAPE)
    )
    moved = proof.about(exported_from(other))
    assert abs(moved.check().bound - proof.check().bound) < 1e-9
    first = proof.network.nodes[4].source.min()
    at, before = (own.arrays["inner.5.at"] - first for own in (moved, proof))
    assert np.array_equal(orders[1][at], before) and not np.array_equal(at, before)


@pytest.mark.parametrize("tier", [Floats(), Integers(160)], ids=["float64", "exact"])
@pytest.mark.parametrize("broken", [False, True])
def test_no_value_leaves_its_interval_whatever_the_weights(tier, broken, monkeypatch):
    """Random bytes, most of which sum to more than one; and a rule that is too good is caught."""
    if broken:
        own = linear.lower_bounds
        better = tier.lift(0.3)
        monkeypatch.setattr(linear, "lower_bounds", lambda *a: own(*a) + better)
    network, rng = exported_from(_query(0.4)), np.random.default_rng(1)
    numbers = [n for n, node in enumerate(network.nodes, 1) if isinstance(node, Maximum)]
    ends = np.full(3, 0.1), np.full(3, 0.9)
    weights = rng.integers(0, 256, (16, 8, 1)).astype(np.uint8)
    weights[::2] //= 2
    read = network.nodes[numbers[1] - 1].source.ravel()
    inner = {numbers[1]: linear.Inner(rng.permutation(read), {numbers[0]: weights})}
    region = linear.bounded(network, tier, *map(tier.lift, ends), inner)
    low, high = ([tier.show(v) for v in side[read]] for side in (region.lower, region.upper))
    inside = True
    for share in np.concatenate([rng.random((60, 3)), np.round(rng.random((60, 3)))]):
        point = tier.lift(ends[0] + share * (ends[1] - ends[0]))
        at = linear.bounded(network, tier, point, point, {})
        inside &= all(tier.show(v) >= least - 1e-9 for v, least in zip(at.upper[read], low))
        inside &= all(tier.show(v) <= most + 1e-9 for v, most in zip(at.lower[read], high))
    assert inside != broken


def test_every_field_damaged_is_refused_or_changes_the_bound(proof):
    wrong = {
        "gone": lambda a: None,
        "of floats": lambda a: a.astype(float),
        "shorter": lambda a: a[:-1],
        "another shape": lambda a: a[None],
        "beyond": lambda a: np.full_like(a, 99),
    }
    for name in ("inner.5.at", "inner.5.3"):
        for what, change in wrong.items():
            other = change(proof.arrays[name])
            arrays = {n: a for n, a in proof.arrays.items() if n != name}
            arrays |= {} if other is None else {name: other}
            try:
                found = dataclasses.replace(proof, arrays=arrays).check()
            except Refused as problem:
                assert len(str(problem)) > 10
                continue
            assert what in ("gone", "beyond"), (name, what)
            assert found.bound > 0


def test_what_is_written_is_what_was_bounded():
    wanted = np.random.default_rng(0).normal(
        1, 2, (3, 4, 2, 5)
    )  # row, element, and two axes of units
    found = rounded(wanted)
    assert found.min() >= 0 and found.sum(1).max() <= 1
    assert np.array_equal(written(found) / 128, found.reshape(3, 4, 10).transpose(0, 2, 1))
