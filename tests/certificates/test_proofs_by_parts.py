"""Proofs as sums over parts: found where a network falls apart, held against brute force, and damaged."""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest

import jmlv
from jmlv.oracles import Deadline, Query
from jmlv.oracles.certify import Certifier, exported_from
from jmlv.oracles.certify.parts import parts_of
from jmlv_check import Refused, linear
from jmlv_check.arithmetic import Floats

SHAPE, CERTIFIER = (2, 3, 1), Certifier(batch=4, depth=12, moving=0, inner_steps=2)
X = np.full(SHAPE, 0.5, np.float32)


def _net(x, share=0.0):
    """Two halves that share no input, or of which one reads a little of the other's."""
    rng = np.random.default_rng(3)
    a, b, c = (jnp.asarray(rng.normal(size=s), jnp.float32) for s in ((3, 8), (8, 6), (12, 3)))
    halves = x.reshape(-1, 2, 3)
    halves = halves + share * halves[:, ::-1]
    h = jnp.maximum(jnp.maximum(2 * halves @ a - 0.5, 0) @ b, 0)
    return h.reshape(-1, 12) @ c


BEST = jmlv.InTopK(int(np.argmax(_net(X[None])[0])), 1)


def _query(radius, f=_net):
    return Query.of(f, jmlv.Box.around(X, np.float32(radius)), BEST)


@pytest.fixture(scope="module")
def proof():
    """Of a box in which a proof needs cuts."""
    for radius in np.linspace(0.5, 0.05, 19):
        certificate = CERTIFIER.prove(_query(radius), Deadline(4))
        if certificate is not None and "trees" in json.dumps(dict(certificate.head)):
            return certificate
    raise AssertionError("nothing was proven by parts")


def test_parts_are_groups_that_share_no_input_that_moves():
    sides = _query(0.1)
    part = parts_of(exported_from(sides), sides)
    assert list(np.unique(part)) == [-1, 0, 1] and (part == 0).sum() == 6
    mixed = _query(0.1, lambda x: _net(x, 0.1))
    assert parts_of(exported_from(mixed), mixed).max() == 0
    still = np.array([[0, 0, 0], [1, 1, 1]], np.float32).reshape(SHAPE)
    half = Query.of(lambda x: _net(x, 0.1), jmlv.Box.around(X, 0.1 * still), BEST)
    assert parts_of(exported_from(half), half).max() == 0


def test_a_sum_is_replayed_and_no_point_contradicts_it(proof):
    floats, exact = proof.check(), proof.check(exact=True)
    assert floats.bound > 0 and abs(floats.bound - exact.bound) < 1e-9
    low, high = (proof.arrays[side] for side in ("lower", "upper"))
    shares = np.random.default_rng(0).random((20_000, 6))
    shares = np.concatenate([shares, np.round(shares)])
    scores = np.asarray(_net(jnp.asarray(low + shares * (high - low), jnp.float32)))
    assert (scores @ proof.arrays["rows"].T).min() > 0


@pytest.mark.parametrize("broken", [False, True])
def test_however_entries_are_divided_no_point_is_below_the_sum(proof, broken):
    """Parts at random, of entries of any node; and a sum that leaves one of them out is caught."""
    network, rng, tier, below = proof.network, np.random.default_rng(0), Floats(), True
    ends = proof.arrays["lower"], proof.arrays["upper"]
    region = linear.bounded(network, tier, *ends, {})
    points = rng.choice(ends[0].size * [0.0, 0.5, 1.0], (500, 6)) * (ends[1] - ends[0]) + ends[0]
    scores = np.asarray(_net(jnp.asarray(points, jnp.float32)))
    for _ in range(20):
        rows = rng.normal(size=(1, 3))
        part = rng.integers(-1, rng.integers(1, 4), region.starts[-1])
        pending, found = linear.passed(region, rows, network.scores, {}, (), part >= 0)
        found = found + linear.least(region, np.where(part[:6] < 0, pending[:, :6], 0))
        for number in range(broken, part.max() + 1):
            share = np.where(part == number, pending, 0)
            found = found + linear.lower_bounds(region, share, np.arange(len(part)))
        below &= bool(found[0] <= (scores @ rows[0]).min() + 1e-5)
    assert below != broken


def test_every_field_damaged(proof):
    (name,) = [n for n in proof.arrays if n.endswith(".part")]
    part = proof.arrays[name]
    for other in (part[:-1], part.astype(float), part - 1, np.where(part == 1, 2, part)):
        with pytest.raises(Refused, match="part"):
            dataclasses.replace(proof, arrays={**proof.arrays, name: other}).check()
