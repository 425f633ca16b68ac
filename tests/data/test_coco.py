"""COCO's photographs: the real ones, a tiny copy written here, and every damage."""

import json
from pathlib import Path

import numpy as np
import pytest

from jmlv.data import coco
from jmlv.errors import DamagedFile
from jmlv.models import CNNConfig
from jmlv.training import TrainingConfig, train

Image = pytest.importorskip("PIL.Image")
FOLDER = Path(__file__).parents[3] / "shared" / "data" / "coco"
needs_coco = pytest.mark.skipif(
    not FOLDER.is_dir(), reason="COCO's photographs are not in ../shared/data/coco"
)
SIZES = {7: (40, 20), 3: (16, 16), 5: (30, 60)}
BOXES = [  # id, image, category, box, crowd
    (11, 3, 2, [0, 0, 8, 8], 0),
    (10, 3, 9, [8, 8, 8, 8], 0),
    (12, 7, 9, [10.0, 5.0, 20.0, 10.0], 1),
    (13, 7, 2, [39.9, 19.9, 0.1, 0.1], 0),
]


def content() -> dict:
    return {
        "images": [
            {"id": i, "file_name": f"{i:03}.jpg", "width": w, "height": h}
            for i, (w, h) in SIZES.items()
        ],
        "annotations": [
            {"id": i, "image_id": j, "category_id": c, "bbox": box, "iscrowd": crowd,
             "segmentation": [[0, 0, 1, 1, 1, 0]]}
            for i, j, c, box, crowd in BOXES
        ],
        "categories": [{"id": 9, "name": "zebra"}, {"id": 2, "name": "car"}, {"id": 4, "name": "bus"}],
    }  # fmt: skip


@pytest.fixture
def folder(tmp_path) -> Path:
    """Three photographs of one colour each: their number times ten."""
    (tmp_path / "annotations").mkdir()
    (tmp_path / "val2017").mkdir()
    for number, size in SIZES.items():
        colour = (number * 10, 100, 200)
        Image.new("RGB", size, colour).save(tmp_path / "val2017" / f"{number:03}.jpg", quality=95)
    return rewritten(tmp_path, content())


def rewritten(folder: Path, values: dict | str) -> Path:
    text = values if isinstance(values, str) else json.dumps(values)
    (folder / "annotations" / "instances_val2017.json").write_text(text)
    return folder


def test_labels_names_and_order_are_by_id(folder):
    data = coco(folder, "val2017", side=8)
    assert data.label_names == ("car", "bus", "zebra") and data.split == "test"
    assert [record.number for record in data.records] == [3, 5, 7]
    assert data.labels.astype(int).tolist() == [[1, 0, 1], [0, 0, 0], [1, 0, 1]]
    assert coco(folder, "val2017", occurring=True).label_names == ("car", "zebra")
    assert not coco(folder, "val2017", crowds=False).labels[2, 2]


def test_images_are_decoded_resized_and_in_the_unit_interval(folder):
    images = coco(folder, "val2017", side=8)[:].images
    assert images.shape == (3, 8, 8, 3) and images.dtype == np.float32
    assert np.abs(255 * images[:, :, :, 0] - [[[30]], [[50]], [[70]]]).max() <= 3
    assert np.abs(255 * images[..., 2] - 200).max() <= 3


def test_boxes_are_masks_of_the_resized_image(folder):
    data = coco(folder, "val2017", side=8)[:]
    assert data.masks.shape == (3, 2, 8, 8)
    assert data.object_labels.tolist() == [[2, 0], [-1, -1], [2, 0]]  # by the boxes' ids
    quarter = np.zeros((8, 8), bool)
    quarter[4:, 4:] = True
    assert (data.masks[0, 0] == quarter).all() and (data.masks[0, 1] == quarter[::-1, ::-1]).all()
    assert not data.masks[1].any()
    inner = np.zeros((8, 8), bool)
    inner[2:6, 2:6] = True
    assert (data.masks[2, 0] == inner).all()
    assert np.argwhere(data.masks[2, 1]).tolist() == [[7, 7]]  # smaller than a pixel: the nearest


def test_selection_batches_and_pixels_agree_with_indexing(folder):
    data = coco(folder, "val2017", side=8)
    whole = data[:]
    kept = data.select(data.labels.any(axis=1))
    assert len(kept) == 2 and (kept[:].images == whole.images[[0, 2]]).all()
    assert (data.pixels(np.array([2, 0])) == whole.images[[2, 0]]).all()
    parts = list(data.batches(2))
    assert [len(part) for part in parts] == [2, 1]
    assert (np.concatenate([part.images for part in parts]) == whole.images).all()
    orders = [
        [int(n) for part in data.batches(2, seed=seed) for n in part.source_indices[:, 0]]
        for seed in (1, 1, 2)
    ]
    assert orders[0] == orders[1] and sorted(orders[0]) == [3, 5, 7]
    next(data.batches(1))  # an iterator that is left early ends its threads
    with pytest.raises(IndexError, match="3 images"):
        data[3]
    assert data[1] == data[-2] and "3 test images of 8x8x3, 3 labels" in repr(data)


def test_training_decodes_as_it_goes(folder):
    data = coco(folder, "val2017", side=8)
    model = CNNConfig(input_shape=(8, 8, 3), channels=(2, 2), pool=None, labels=3)
    config = TrainingConfig(epochs=2, batch_size=3)
    assert train(data, model, config).losses == train(data[:], model, config).losses


def changed(section: str, place: int, **fields) -> dict:
    values = content()
    values[section][place] |= fields
    return values


DAMAGES = {
    "no JSON": ("{", "not COCO's JSON"),
    "a list": ("[]", "not COCO's JSON"),
    "no categories": ({"images": [], "annotations": []}, "KeyError: 'categories'"),
    "image twice": (changed("images", 0, id=3), "id 3 more than once among its images"),
    "box twice": (changed("annotations", 0, id=13), "id 13 more than once among its annotations"),
    "category twice": (changed("categories", 0, id=2), "id 2 more than once among its categ"),
    "file twice": (changed("images", 0, file_name="003.jpg"), "the file '003.jpg' more than once"),
    "unknown category": (changed("annotations", 0, category_id=1), "annotation 11 .*category 1;"),
    "unknown image": (changed("annotations", 0, image_id=99), "annotation 11 is of image 99"),
    "box of three": (changed("annotations", 0, bbox=[0, 0, 1]), "annotation 11 has the box"),
    "negative width": (changed("annotations", 0, bbox=[0, 0, -1, 1]), "annotation 11 has the box"),
    "not a number": (changed("annotations", 0, bbox=[0, 0, float("nan"), 1]), "has the box"),
    "no size": (changed("images", 0, width=None), "image 7 lacks"),
    "text as image": (changed("images", 0, id="7"), "the id '7' among its images"),
    "text as box": (changed("annotations", 0, id="11"), "the id '11' among its annotations"),
    "text as category": (changed("categories", 0, id="9"), "the id '9' among its categories"),
    "text of an image": (changed("annotations", 0, image_id="3"), "annotation 11 is of image '3'"),
    "outside": (changed("images", 0, file_name="../003.jpg"), "a name inside the folder"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damaged_annotations_are_named(name, folder):
    values, message = DAMAGES[name]
    with pytest.raises(DamagedFile, match=message):
        coco(rewritten(folder, values), "val2017")


def test_a_byte_order_mark_is_no_damage(folder):
    plain = coco(folder, "val2017")
    marked = coco(rewritten(folder, "\ufeff" + json.dumps(content())), "val2017")
    assert marked.label_names == plain.label_names and (marked.labels == plain.labels).all()


def test_damaged_photographs_are_named_when_they_are_decoded(folder):
    path = folder / "val2017" / "005.jpg"
    whole = path.read_bytes()
    for damage, message in ((whole[: len(whole) // 2], "damaged"), (b"no image", "damaged")):
        path.write_bytes(damage)
        data = coco(folder, "val2017")
        with pytest.raises(DamagedFile, match=f"005.jpg is {message}"):
            data[1]
        with pytest.raises(DamagedFile, match="005.jpg"):
            list(data.batches(2))
    Image.new("RGB", (9, 9)).save(path)
    with pytest.raises(
        DamagedFile, match=r"005.jpg is of \(9, 9\) pixels; its list says \(30, 60\)"
    ):
        coco(folder, "val2017")[1]


def test_missing_files_are_named_with_where_to_get_them(folder):
    (folder / "val2017" / "005.jpg").unlink()
    with pytest.raises(
        FileNotFoundError, match="no 005.jpg in val2017, and 1 of 3.*cocodataset.org"
    ):
        coco(folder, "val2017")
    with pytest.raises(FileNotFoundError, match="no instances_train2017.json.*cocodataset.org"):
        coco(folder)


@pytest.mark.parametrize("side", [0, 2.5])
def test_a_side_must_be_a_number_of_pixels(side, folder):
    with pytest.raises((ValueError, TypeError)):
        coco(folder, "val2017", side=side)


@needs_coco
def test_real_photographs():
    data = coco(FOLDER, side=48)
    assert len(data) == 21 and len(data.label_names) == 80 and data.split == "train"
    assert sum(len(record.boxes) for record in data.records) == 102
    assert coco(FOLDER, side=48, occurring=True).labels.any(axis=0).all()
    whole = data[:]
    assert 0 <= whole.images.min() and whole.images.max() <= 1 and whole.images.std() > 0.1
    present = whole.object_labels >= 0
    assert (whole.masks.any(axis=(2, 3)) == present).all() and present.sum() == 102
    for row, objects in zip(whole.labels, whole.object_labels):
        assert set(np.flatnonzero(row)) == set(objects[objects >= 0])
    assert sum(len(r.boxes) for r in coco(FOLDER, crowds=False).records) == 101
