"""Figures: they are drawn, and show what they say."""

import dataclasses

import numpy as np
import pytest

import jmlv
from jmlv.shown import at_least
from jmlv.verdict import Status, Verdict

matplotlib = pytest.importorskip("matplotlib")

from jmlv import plotting  # noqa: E402


@pytest.fixture
def grown():
    mask = np.zeros((12, 10), bool)
    mask[4:7, 2:5] = True
    layers = jmlv.Layers.around(mask)
    epsilon = np.linspace(0.8, 0.1, layers.count).astype("float32")
    free = np.arange(layers.count) == layers.count - 1
    return jmlv.GrownNeighborhood(
        x=np.random.default_rng(0).random((12, 10, 1)).astype("float32"),
        layers=layers,
        epsilon=epsilon,
        weights=np.ones(layers.count),
        property=jmlv.InTopK(1, 2),
        verdict=Verdict(Status.ROBUST, lower=0.1, stats={"method": "CROWN"}),
        free=free,
        statuses=(jmlv.LayerStatus.UNDECIDED,) * layers.count,
        queries={"CROWN": 3},
        seconds=1.5,
        trace=((0.1, 0.0), (0.4, 1.0)),
        strategy="uniform",
        reason="",
    )


def test_heatmap_shows_epsilon_on_every_pixel(grown, tmp_path):
    target = np.zeros((12, 10), bool)
    target[8:10, 7:9] = True
    figure = plotting.heatmap(grown, target=target, object_labels=(2, 1))
    shown = figure.axes[1].images[0].get_array()
    expected = grown.epsilon[np.asarray(grown.layers.index)]
    np.testing.assert_allclose(shown, expected)
    assert "ROBUST by CROWN" in figure.get_suptitle()
    figure.savefig(tmp_path / "map.png")
    assert (tmp_path / "map.png").stat().st_size > 5000


def test_outline_follows_the_mask(grown):
    figure = plotting.heatmap(grown)
    (contour,) = figure.axes[0].collections
    corners = contour.get_paths()[0].vertices
    np.testing.assert_allclose(corners.min(0), [1.5, 3.5], atol=0.2)
    np.testing.assert_allclose(corners.max(0), [4.5, 6.5], atol=0.2)


def test_side_by_side_maps_and_traces(grown):
    figure = plotting.heatmaps({"a": grown, "b": grown}, title="two")
    assert [axes.get_title().split("\n")[0] for axes in figure.axes[:2]] == ["a", "b"]
    curves = plotting.traces({"a": grown})
    (line,) = curves.axes[0].lines
    assert list(line.get_ydata()) == [0.0, 1.0, 1.0]


def legend_of(figure):
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def test_heatmap_names_what_is_kept_both_objects_and_free_layers(grown):
    target = np.zeros((12, 10), bool)
    target[8:10, 7:9] = True
    names = ("dog", "cat", "cow")
    figure = plotting.heatmap(grown, target=target, object_labels=(2, 1), names=names)
    assert "label cat (1) stays in the top 2" in figure.get_suptitle()
    texts = legend_of(figure)
    assert texts == [
        "perturbed object, label cow (2)",
        "object whose label is kept, label cat (1)",
        "never read by the network",
    ]
    named = dataclasses.replace(grown, label_names=names, free=np.zeros(grown.layers.count, bool))
    figure = plotting.heatmap(named)
    assert "label cat (1) stays" in figure.get_suptitle()
    assert legend_of(figure) == ["perturbed object"]


def test_small_epsilons_are_seen_and_the_scale_says_how(grown):
    figure = plotting.heatmap(grown)
    scale, bar = figure.axes[1].images[0].norm, figure.axes[2]
    assert scale(0) == 0 and scale(1) == 1 and scale(1 / 255) > 0.2 and scale(0.1 / 255) > 0.02
    assert "logarithmic" in bar.get_ylabel()
    assert [tick.get_text() for tick in bar.get_yticklabels()] == ["0", "1/255", "0.01", "0.1", "1"]


def test_size_zero_says_so(grown):
    nothing = dataclasses.replace(grown, epsilon=0 * grown.epsilon)
    assert "nothing certified" in plotting.heatmap(nothing).get_suptitle()
    figure = plotting.heatmaps({"a": grown, "b": nothing})
    assert [axes.get_title().split("\n")[1] for axes in figure.axes[:2]] == [
        f"size {at_least(grown.size, 3)}",
        "nothing certified",
    ]
    assert "label 1 stays in the top 2" in figure.get_suptitle()


def test_where_there_is_no_layer_looks_like_no_colour(grown):
    masks = np.zeros((2, 12, 10), bool)
    masks[0, 4:7, 2:5], masks[1, 0, 0] = True, True
    objects = jmlv.Objects(masks, (2, 1))
    relations = jmlv.RelationMatrix(grown.x, objects, ((None, grown), (None, None)))
    far = dataclasses.replace(
        grown, layers=jmlv.Layers.around(masks[1]), epsilon=np.ones(12), weights=np.ones(12)
    )
    wider = dataclasses.replace(relations, grown=((None, grown), (far, None)))
    for matrix, missing in ((relations, 3), (wider, 2)):
        figure = plotting.relation_figure(matrix, names=("dog", "cat", "cow"))
        sizes, profiles = figure.axes[1:3]
        assert len(sizes.patches) == missing and all(p.get_hatch() for p in sizes.patches)
    assert len(profiles.patches) == 12 - grown.layers.count
    assert legend_of(figure) == ["no such layer, or no size"]
    assert sizes.get_xticklabels()[0].get_text() == "object 0\nlabel cow (2)"
    assert "certified size" in [axes.get_ylabel() for axes in figure.axes]
