"""Certificates of counts: replayed by the checker, and refused once what they claim is raised."""

import dataclasses

import jax.numpy as jnp
import pytest
from tiny_networks import Tiny

import jmlv
from jmlv.oracles import PGD, Bounds, Cascade, InputSplitting
from jmlv_check import Refused

ORACLE = Cascade((Bounds(), PGD(restarts=4, steps=12), InputSplitting(batch=16)))
OPTIONS = {"oracle": ORACLE, "attacks": (), "budget": 60, "certify": True}
SEED = 6


@pytest.mark.parametrize(
    "rule", [jmlv.TopK(2), pytest.param(jmlv.Threshold(0.5), marks=pytest.mark.slow)], ids=str
)
def test_upper_bounds_of_flips_are_certified_where_there_is_something_to_prove(rule):
    tiny = Tiny(SEED)
    found = jmlv.flips(tiny.graph, tiny.line, rule, **OPTIONS)
    certified = [c for c in found.counts.values() if c.certificate is not None]
    assert certified and all(c.certificate.claim == "robust" for c in certified)
    for count in found.counts.values():
        assert (count.certificate is None) == ("there are no more" in count.reason)
    assert certified[0].certificate.check(exact=True).bound > 0
    if isinstance(rule, jmlv.TopK):  # one property says it of those removed and of those added
        assert found.removed.certificate is found.added.certificate is found.changed.certificate


def test_a_certificate_of_fewer_is_refused():
    """The same proof, said to be of one label less."""
    tiny = Tiny(SEED)
    lost = jmlv.kept(tiny.graph, tiny.line, (0, 1), 2, **OPTIONS).lost
    assert lost.exact and lost.certificate.check().bound > 0
    tree = lost.certificate.head["property"]
    assert tree == [2, [2, 0, 1], [2, 2, 3]]  # one of the labels is ahead of one of the others
    head = {**lost.certificate.head, "property": [1, [1, 0, 1], [1, 2, 3]]}  # both of both
    with pytest.raises(Refused):
        dataclasses.replace(lost.certificate, head=head).check()


def test_where_none_is_to_be_had_the_count_says_why():
    tiny = Tiny(SEED)
    lost = jmlv.kept(lambda x: jnp.tanh(tiny.graph(x)), tiny.line, (0, 1), 2, **OPTIONS).lost
    assert lost.upper < 2 and lost.certificate is None and "tanh" in lost.reason
    plain = jmlv.kept(tiny.graph, tiny.line, (0, 1), 2, **{**OPTIONS, "certify": False}).lost
    assert plain.certificate is None and "certificate" not in plain.reason
