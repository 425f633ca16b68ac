"""Certificates of labels and of grown neighbourhoods."""

import dataclasses
import json
import re

import jax.numpy as jnp
import numpy as np
import pytest

import jmlv
from jmlv.neighborhoods import certified_part
from jmlv.oracles.certify import certified
from jmlv.verdict import Status
from jmlv_check import Refused, proof

WEIGHTS = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
HIDDEN = np.random.default_rng(1).normal(size=(4, 4)).astype(np.float32)
X = np.array([0.2, 0.7, 0.5, 0.4], np.float32).reshape(2, 2, 1)


def _net(x):
    return jnp.maximum(x.reshape(-1, 4) @ HIDDEN, 0) @ WEIGHTS


@pytest.mark.parametrize("k, said", [(1, r'"entry": [0-3],'), (2, '"not robust"')])
def test_every_settled_label_has_its_certificates(k, said):
    """At k = 1 one of them needs halves of the box; at k = 2 some labels are both, by two witnesses."""
    box, found = jmlv.Box.around(X, 0.5), ""
    labels = jmlv.classify_labels(_net, box, k, certify=True)
    plain = jmlv.classify_labels(_net, box, k)
    assert [a.status for a in labels.answers] == [a.status for a in plain.answers]
    for answer in labels.answers:
        for verdict in (answer.always, answer.never):
            if verdict.status is Status.UNKNOWN:
                assert verdict.certificate is None
                continue
            report = verdict.certificate.check(exact=True)
            found += json.dumps(dict(verdict.certificate.head))
            assert (report.claim == "robust") == verdict.robust
            assert report.bound > 0 if verdict.robust else report.bound <= 0
    assert re.search(said, found)


def test_a_grown_neighbourhood_has_one_about_its_own_box():
    layers = jmlv.Layers.around(np.array([[True, False], [False, False]]))
    best = int(np.argmax(_net(X[None])[0]))
    grown = jmlv.grow(_net, X, layers, jmlv.InTopK(best, 1), jmlv.Uniform(), certify=60.0)
    certificate = grown.certificate
    assert certificate is grown.verdict.certificate
    assert np.array_equal(grown.certificate_epsilon, grown.epsilon)
    assert certificate.check(exact=True).claim == "robust" and grown.size > 0.01
    box = grown.region.box()
    assert np.all(certificate.arrays["lower"].reshape(X.shape) <= box.lower)
    assert np.all(certificate.arrays["upper"].reshape(X.shape) >= box.upper)
    with pytest.raises(ValueError, match="certify: must be a positive number"):
        jmlv.grow(_net, X, layers, jmlv.InTopK(best, 1), certify=0.0)


def test_where_the_whole_has_none_a_smaller_neighbourhood_has_its_own(monkeypatch, tmp_path):
    asked = []

    def without_the_first(query, verdict, *others):
        asked.append(query.upper)
        return verdict if len(asked) == 1 else certified(query, verdict, *others)

    monkeypatch.setattr(certified_part, "certified", without_the_first)
    layers = jmlv.Layers.around(np.array([[True, False], [False, False]]))
    best = int(np.argmax(_net(X[None])[0]))
    grown = jmlv.grow(_net, X, layers, jmlv.InTopK(best, 1), jmlv.Uniform(), certify=60.0)
    assert grown.verdict.robust and grown.verdict.certificate is None
    assert np.allclose(grown.certificate_epsilon, 0.95 * grown.epsilon)
    part = jmlv.LayeredNeighborhood(X, layers, grown.certificate_epsilon).box()
    certificate = grown.certificate
    assert certificate.check().claim == "robust"
    assert np.allclose(certificate.arrays["upper"].reshape(X.shape), part.upper, atol=1e-7)
    assert np.all(asked[1] <= asked[0]) and np.any(asked[1] < asked[0])
    grown.save(tmp_path / "grown.npz")
    again = jmlv.GrownNeighborhood.load(tmp_path / "grown.npz")
    assert again == grown and again.certificate is None


def test_certificates_about_one_box_share_its_bounds(monkeypatch):
    box = jmlv.Box.around(X, 0.01)
    labels = jmlv.classify_labels(_net, box, 1, certify=True)
    found = [v.certificate for a in labels.answers for v in (a.always, a.never) if v.robust]
    bounded, known = [], {}
    monkeypatch.setattr(
        proof, "bounded", lambda *a, own=proof.bounded: bounded.append(1) or own(*a)
    )
    shared = [certificate.check(known=known) for certificate in found]
    assert len(found) > 1 and len(bounded) == 1
    assert shared == [certificate.check() for certificate in found]
    before, wider = len(bounded), found[0].arrays["upper"] + 9
    moved = dataclasses.replace(found[0], arrays={**found[0].arrays, "upper": wider})
    with pytest.raises(Refused):
        moved.check(known=known)  # another box: what is known of the first is no use
    assert len(bounded) == before + 1


def test_networks_without_certificates_say_so():
    f = lambda x: jnp.tanh(_net(x))  # noqa: E731
    labels = jmlv.classify_labels(f, jmlv.Box.around(X, 0.01), 1, certify=True)
    layers = jmlv.Layers.around(np.array([[True, False], [False, False]]))
    best = int(np.argmax(f(X[None])[0]))
    grown = jmlv.grow(f, X, layers, jmlv.InTopK(best, 1), jmlv.Uniform(), certify=60.0)
    assert grown.certificate is None and "tanh" in grown.verdict.stats["certificate"]
    settled = [v for a in labels.answers for v in (a.always, a.never) if v.status.name != "UNKNOWN"]
    assert settled and all("tanh" in verdict.stats["certificate"] for verdict in settled)
