"""The demonstration on photographs: which boxes it takes, and the rings around them."""

import numpy as np
import photographs
import pytest

from jmlv.data import MultiLabelImages


def images(*boxes):
    """One image of 64x64; each box is (label, top, bottom, left, right)."""
    masks = np.zeros((1, len(boxes), 64, 64), bool)
    for mask, (_, top, bottom, left, right) in zip(masks[0], boxes):
        mask[top:bottom, left:right] = True
    object_labels = np.array([[label for label, *_ in boxes]])
    labels = np.isin(np.arange(3), object_labels)[None]
    pixels = np.zeros((1, 64, 64, 3), np.float32)
    names = ("a", "b", "c")
    return MultiLabelImages(
        pixels, labels, masks, object_labels, np.array([[7]]), names, "train", "x"
    )


@pytest.mark.parametrize(
    ("boxes", "expected"),
    [
        ([(0, 0, 20, 0, 20), (1, 10, 40, 10, 40), (1, 40, 60, 40, 60)], (0, 2)),
        ([(0, 0, 20, 0, 20), (0, 30, 60, 30, 60)], None),
        ([(0, 0, 20, 0, 20), (1, 30, 32, 30, 32)], None),
        ([(0, 0, 10, 0, 10), (1, 20, 60, 20, 60)], (1, 0)),
    ],
    ids=["least overlap", "one label", "too small", "largest"],
)
def test_the_pair_overlaps_least(boxes, expected):
    assert photographs.pair(images(*boxes), 0) == expected


def test_rings_have_one_width():
    mask = np.zeros((1, 20), bool)
    mask[0, :3] = True
    index = photographs.rings(mask).index[0]
    assert index.tolist() == [0] * 3 + [1] * 5 + [2] * 5 + [3] * 5 + [4] * 2


def test_what_may_not_be_shared_is_not_drawn(tmp_path, monkeypatch):
    monkeypatch.setattr(photographs, "FIGURES", tmp_path)
    with pytest.raises(SystemExit, match="free to share"):
        photographs.draw_figure([{"photograph": 7}], None, None, {7: (3, "http://x/y.jpg")})
    assert not any(tmp_path.iterdir())
    assert (
        photographs.credit(7, {7: (4, "http://x/y.jpg")}) == "COCO 7, CC BY 2.0, x/y.jpg, resized"
    )
