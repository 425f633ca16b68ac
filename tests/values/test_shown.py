"""Numbers for people: what is read is proven, wherever it is read."""

import dataclasses
import html
import math
import re

import numpy as np
import pytest

import jmlv
from jmlv.shown import at_least, at_most
from jmlv.verdict import Status

X = np.array([[[0.75], [0.25]]], np.float32)
LAYERS = jmlv.Layers.around(np.array([[True, False]]))
ALMOST = 0.24999  # 0.25 is NOT_ROBUST


def f(x):
    return x.reshape(-1, 2)


def test_any_number_is_rounded_to_its_side():
    rng = np.random.default_rng(0)
    for value in (*rng.normal(size=500) * 10.0 ** rng.integers(-12, 12, 500), 0.0, -0.0, 5e-324):
        below, above = float(at_least(value)), float(at_most(value))
        assert below <= value <= above and above - below <= 1e-3 * abs(value) + 5e-324


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_what_is_no_number_is_said(value):
    assert at_least(value) == at_most(value) == str(value)


def almost():
    """A verdict whose numbers are all a little better than with four digits."""
    stats = {"method": "CROWN"}
    return jmlv.Verdict(Status.ROBUST, ALMOST, 0.50001, stats=stats, reason="because")


def shown(path):
    text = re.sub(r"<style.*?</style>", "", path.read_text(), flags=re.S)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", html.unescape(text)))


def test_pages_and_texts_claim_no_more_than_is_proven(tmp_path):
    verdict = almost()
    assert "[0.2499, 0.5001]" in repr(verdict)
    verdict.report(tmp_path / "verdict.html")
    told = shown(tmp_path / "verdict.html")
    assert "at least 0.2499" in told and "0.5001 was reached" in told
    assert not re.search(r"0\.25\b|0\.5\b", told)


def test_a_neighbourhoods_epsilons_are_rounded_down(tmp_path):
    grown = jmlv.grow(f, X, LAYERS, jmlv.InTopK(0, 1), jmlv.Uniform(), budget=20)
    epsilon = np.full(2, ALMOST)
    grown = dataclasses.replace(grown, epsilon=epsilon, verdict=almost(), weights=np.full(2, 0.5))
    grown.report(tmp_path / "grown.html")
    told = shown(tmp_path / "grown.html")
    assert told.count("0.2499") >= 5 and not re.search(r"0\.25\b", told)
    assert "size=0.2499" in repr(grown)


def test_label_answers_are_rounded_outwards(tmp_path):
    labels = jmlv.classify_labels(f, jmlv.Box.around(X, 0.1), 1)
    known = labels.answers[0]
    never = dataclasses.replace(almost(), lower=-0.50001, upper=np.inf, status=Status.UNKNOWN)
    answer = dataclasses.replace(known, always=almost(), never=never)
    assert "margin proven in [0.2499, 0.5001]" in repr(answer)
    dataclasses.replace(labels, answers=(answer, *labels.answers[1:])).report(tmp_path / "l.html")
    assert "from 0.2499 to 0.5001" in shown(tmp_path / "l.html")
