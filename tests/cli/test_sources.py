"""The data of the experiments: what --data names, and what it refuses."""

from pathlib import Path

import numpy as np
import pytest
from sources import source

from jmlv.training import binary_cross_entropy

DATA = Path(__file__).parents[3] / "shared" / "data"
FILES = {
    "digits": (["digits"], (32, 32, 1), 10),
    "mnist": (["mnist", str(DATA / "mnist")], (64, 64, 1), 10),
    "mulan": (["mulan", str(DATA / "mulan"), "emotions"], (1, 72, 1), 6),
    "coco": (["coco", str(DATA / "coco")], (32, 32, 3), 34),
}


@pytest.mark.parametrize("kind", FILES)
def test_images_fit_the_network(kind):
    words, shape, labels = FILES[kind]
    if kind != "digits" and not DATA.is_dir():
        pytest.skip("the files are not in ../shared/data")
    chosen = source(words)
    assert chosen.model.input_shape == shape and chosen.model.labels == labels
    for split in ("train", "test"):
        data = chosen.load(split, 5, 0)[:]
        assert data.images.shape == (5, *shape) and data.labels.any(axis=1).sum() >= 4
        assert data.images.min() >= 0 and data.images.max() <= 1
    assert bool(chosen.note) == (kind == "coco")  # the few photographs are a demonstration


@pytest.mark.parametrize(
    "words",
    [["mulan"], ["digits", "3"], ["flickr"], ["coco", "no/such/folder"], ["mulan", "no", "scene"]],
)
def test_other_words_end_with_one_line(words):
    with pytest.raises(SystemExit, match="--data: "):
        source(words)


@pytest.mark.skipif(not DATA.is_dir(), reason="the files are not in ../shared/data")
def test_a_network_is_trained_once_and_restored(tmp_path):
    chosen = source(FILES["mulan"][0])
    first = chosen.network(tmp_path / "net", binary_cross_entropy)
    again = chosen.network(tmp_path / "net", binary_cross_entropy)
    tests = chosen.load("test", 1000, 0)
    assert (np.asarray(first(tests.images)) == np.asarray(again(tests.images))).all()
    assert ((np.asarray(again(tests.images)) > 0) == tests.labels).mean() > 0.75
