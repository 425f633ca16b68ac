"""Relations between the objects of an image: every pair is certified, labelled and in its place."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jmlv
from jmlv.progress import Bar, Progress

X = np.array([[[0.9], [0.8], [0.7], [0.0]]], np.float32)
MASKS = np.array([[[1, 0, 0, 0]], [[0, 1, 0, 0]], [[0, 0, 1, 0]]], bool)
OBJECTS = jmlv.Objects(MASKS, (0, 1, 2))
SETTINGS = dict(strategy=jmlv.Uniform(steps=6), budget=30.0)


def f(x):
    """Label 1 reads pixel 0 as well as its own; labels 0 and 2 only their own; label 3 is constant."""
    p = x.reshape(x.shape[0], 4)
    hidden = jax.nn.relu(p)
    return jnp.stack(
        [hidden[:, 0], hidden[:, 1] - hidden[:, 0], hidden[:, 2], 0 * p[:, 3] - 0.35], -1
    )


@pytest.fixture(scope="module")
def relations():
    return jmlv.relation_matrix(f, X, OBJECTS, **SETTINGS)


def test_every_pair_is_certified_in_its_place(relations):
    sizes = relations.sizes
    assert sizes.shape == (3, 3) and np.all(np.isnan(np.diag(sizes)))
    for i, j, grown in relations.pairs():
        assert grown.verdict.robust and grown.size == sizes[i, j]
        assert grown.layers == jmlv.Layers.around(MASKS[i])
        assert grown.property == jmlv.InTopK(OBJECTS.labels[j], 3)
        np.testing.assert_array_equal(relations.profile(i, j), grown.epsilon)
        attacked = jmlv.verify(f, grown.region, grown.property, jmlv.PGD(restarts=32, steps=20))
        assert attacked.status.name == "UNKNOWN"
    assert sizes[0, 1] < sizes[0, 2]


def test_table_and_json_hold_all_pairs(relations):
    rows = relations.rows()
    assert [(row[0], row[2]) for row in rows] == [(0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)]
    assert all(len(row) == len(relations.HEADER) for row in rows)
    content = json.loads(json.dumps(relations.as_dict()))
    assert content["labels"] == [0, 1, 2] and len(content["pairs"]) == 6
    assert content["pairs"][0]["size"] == pytest.approx(relations.sizes[0, 1])
    assert content["pairs"][0]["epsilon"] == pytest.approx(relations.profile(0, 1))


def test_a_property_that_fails_at_x_has_no_size():
    objects = jmlv.Objects(MASKS[:2], (0, 3))
    result = jmlv.relation_matrix(f, X, objects, lambda label: jmlv.InTopK(label, 1), **SETTINGS)
    assert np.isnan(result.sizes[0, 1]) and result.sizes[1, 0] > 0
    assert result.rows()[0][-1] == "does not hold at x"
    assert json.loads(json.dumps(result.as_dict()))["pairs"][0]["size"] is None
    with pytest.raises(ValueError, match="nothing was grown"):
        result.profile(0, 1)
    dependence = jmlv.label_dependence([result])
    assert dependence.count.tolist() == [[0, 0], [1, 0]]
    assert np.isnan(dependence.size[0, 1])
    assert dependence.as_dict()["mean_size"][0] == [None, None]


def test_label_dependence_averages_over_images(relations):
    swapped = jmlv.Objects(MASKS[[1, 0]], (1, 0))
    two = jmlv.relation_matrix(f, X, swapped, lambda label: jmlv.InTopK(label, 3), **SETTINGS)
    dependence = jmlv.label_dependence([relations, two])
    assert dependence.labels == (0, 1, 2)
    assert dependence.count.tolist() == [[0, 2, 1], [2, 0, 1], [1, 1, 0]]
    assert dependence.size[0, 1] == pytest.approx((relations.sizes[0, 1] + two.sizes[1, 0]) / 2)
    assert dependence.size[2, 1] == pytest.approx(relations.sizes[2, 1])
    assert (0, 1, pytest.approx(dependence.size[0, 1]), 2) in dependence.rows()


class Counting(Progress):
    """Counts the pairs that are reported."""

    def __init__(self):
        self.total, self.steps = None, 0

    def bar(self, description, total=None):
        self.total, outer = total, self

        class One(Bar):
            def update(self, steps=1, **values):
                outer.steps += steps

            def close(self):
                pass

        return One()


def test_progress_counts_pairs():
    progress = Counting()
    objects = jmlv.Objects(MASKS[:2], (0, 2))
    jmlv.relation_matrix(f, X, objects, **SETTINGS, progress=progress)
    assert (progress.total, progress.steps) == (2, 2)


def test_figure_shows_sizes_and_profiles(relations, tmp_path):
    pytest.importorskip("matplotlib")
    figure = jmlv.plotting.relation_figure(relations, title="relations")
    image, matrix, profiles = figure.axes[:3]
    np.testing.assert_allclose(
        np.asarray(matrix.images[0].get_array().filled(np.nan)), relations.sizes
    )
    assert len(matrix.texts) == 6 and len(image.texts) == 3
    strips = profiles.images[0].get_array()
    assert strips.shape == (6, 4)
    np.testing.assert_allclose(strips[0].compressed(), relations.profile(0, 1))
    figure.savefig(tmp_path / "relations.png")
    assert (tmp_path / "relations.png").stat().st_size > 5000


BAD = {
    "one object": (
        lambda: jmlv.relation_matrix(f, X, jmlv.Objects(MASKS[:1], (0,))),
        ValueError,
        "at least two",
    ),
    "other shape": (
        lambda: jmlv.relation_matrix(f, X, jmlv.Objects(np.ones((2, 3, 3), bool), (0, 1))),
        ValueError,
        "do not fit x",
    ),
    "no objects": (lambda: jmlv.relation_matrix(f, X, MASKS), TypeError, "expected Objects"),
    "labels": (lambda: jmlv.Objects(MASKS, (0, 1)), ValueError, "one for each"),
    "empty mask": (
        lambda: jmlv.Objects(MASKS * [[[1]], [[0]], [[1]]], (0, 1, 2)),
        ValueError,
        "no pixel",
    ),
    "no results": (lambda: jmlv.label_dependence([]), ValueError, "at least one"),
    "label": (
        lambda: jmlv.relation_matrix(f, X, jmlv.Objects(MASKS, (0, 1, 9))),
        ValueError,
        "label: must",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_arguments_are_named(name):
    make, error, message = BAD[name]
    with pytest.raises(error, match=message):
        make()
