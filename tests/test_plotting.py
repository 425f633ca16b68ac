"""Figures: they are drawn, and show what they say."""

import numpy as np
import pytest

import jmlv
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
    figure = plotting.heatmap(grown, target=target)
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
