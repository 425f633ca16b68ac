"""Certificates of labels and of grown neighbourhoods."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

import jmlv
from jmlv.verdict import Status

WEIGHTS = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
HIDDEN = np.random.default_rng(1).normal(size=(4, 4)).astype(np.float32)
X = np.array([0.2, 0.7, 0.5, 0.4], np.float32).reshape(2, 2, 1)


def _net(x):
    return jnp.maximum(x.reshape(-1, 4) @ HIDDEN, 0) @ WEIGHTS


@pytest.mark.parametrize("k, said", [(1, '"input"'), (2, '"not robust"')])
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
    assert said in found


def test_a_grown_neighbourhood_has_one_about_its_own_box():
    layers = jmlv.Layers.around(np.array([[True, False], [False, False]]))
    best = int(np.argmax(_net(X[None])[0]))
    grown = jmlv.grow(_net, X, layers, jmlv.InTopK(best, 1), jmlv.Uniform(), certify=60.0)
    certificate = grown.verdict.certificate
    assert certificate.check(exact=True).claim == "robust" and grown.size > 0.01
    box = grown.region.box()
    assert np.all(certificate.arrays["lower"].reshape(X.shape) <= box.lower)
    assert np.all(certificate.arrays["upper"].reshape(X.shape) >= box.upper)
    with pytest.raises(ValueError, match="certify: must be a positive number"):
        jmlv.grow(_net, X, layers, jmlv.InTopK(best, 1), certify=0.0)


def test_networks_without_certificates_say_so():
    f = lambda x: jnp.tanh(_net(x))  # noqa: E731
    labels = jmlv.classify_labels(f, jmlv.Box.around(X, 0.01), 1, certify=True)
    settled = [v for a in labels.answers for v in (a.always, a.never) if v.status.name != "UNKNOWN"]
    assert settled and all("tanh" in verdict.stats["certificate"] for verdict in settled)
