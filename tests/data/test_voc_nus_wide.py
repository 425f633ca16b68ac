"""VOC's and NUS-WIDE's trees, written here in their real layout, and every damage."""

from pathlib import Path

import numpy as np
import pytest

from jmlv.data import nus_wide, voc
from jmlv.errors import DamagedFile

Image = pytest.importorskip("PIL.Image")
OBJECT = """<object><name>{name}</name><pose>Left</pose><difficult>{difficult}</difficult><bndbox>
<xmin>{xmin}</xmin><ymin>{ymin}</ymin><xmax>{xmax}</xmax><ymax>{ymax}</ymax></bndbox></object>"""
ANNOTATION = """<annotation><folder>VOC2007</folder><filename>{name}.jpg</filename>
<size><width>20</width><height>10</height><depth>3</depth></size>{objects}</annotation>"""


def thing(name: str, *corners: float, difficult: int = 0) -> str:
    fields = dict(zip(("xmin", "ymin", "xmax", "ymax"), corners))
    return OBJECT.format(name=name, difficult=difficult, **fields)


def annotate(root: Path, name: str, *objects: str) -> None:
    text = ANNOTATION.format(name=name, objects="".join(objects))
    (root / "Annotations" / f"{name}.xml").write_text(text)


@pytest.fixture
def devkit(tmp_path) -> Path:
    root = tmp_path / "VOC2007"
    for part in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (root / part).mkdir(parents=True)
    (root / "ImageSets" / "Main" / "trainval.txt").write_text("000012\n2008_000005\n")
    (root / "ImageSets" / "Main" / "test.txt").write_text("000012\n")
    for name in ("000012", "2008_000005"):
        Image.new("RGB", (20, 10), (50, 100, 200)).save(root / "JPEGImages" / f"{name}.jpg")
    annotate(root, "000012", thing("dog", 1, 1, 10, 5), thing("person", 11, 6, 20, 10, difficult=1))
    annotate(root, "2008_000005", thing("sofa", 1, 1, 20.0, 10))
    return tmp_path


def test_labels_boxes_and_order_are_the_devkits(devkit):
    data = voc(devkit, side=10)
    assert len(data.label_names) == 20 and data.split == "train"
    assert [record.number for record in data.records] == [12, 2008000005]
    assert [[data.label_names[i] for i in np.flatnonzero(row)] for row in data.labels] == [
        ["dog"],
        ["sofa"],
    ]
    whole = data[:]
    dog = np.zeros((10, 10), bool)
    dog[:5, :5] = True  # columns 1 to 10 of 20, rows 1 to 5 of 10
    assert (whole.masks[0, 0] == dog).all() and whole.masks[1, 0].all()
    assert whole.images.shape == (2, 10, 10, 3)


def test_labels_of_ones_own(devkit):
    annotate(devkit / "VOC2007", "000012", thing("lichen", 1, 1, 10, 5))
    with pytest.raises(
        DamagedFile, match="label 'lichen'.*Pass label_names for labels of your own"
    ):
        voc(devkit, "test")
    data = voc(devkit, "test", label_names=["moss", "lichen"])
    assert data.label_names == ("moss", "lichen") and data.labels.tolist() == [[False, True]]
    with pytest.raises(ValueError, match="label_names: expected different names"):
        voc(devkit, "test", label_names=["moss", "moss"])


def test_a_byte_order_mark_is_no_name(devkit):
    path = devkit / "VOC2007" / "ImageSets" / "Main" / "test.txt"
    path.write_text("\ufeff000012\n", encoding="utf-8")
    assert [record.number for record in voc(devkit, "test").records] == [12]


def test_difficult_objects_are_an_option(devkit):
    data = voc(devkit, "test", side=10, difficult=True)
    assert data.split == "test"
    assert [data.label_names[label] for label in data[0].object_labels[0]] == ["dog", "person"]
    assert data[0].masks[0, 1, 5:, 5:].all() and data[0].masks[0, 1].sum() == 25


VOC_DAMAGES = {
    "label": (thing("unicorn", 1, 1, 2, 2), "the label 'unicorn'; expected one of"),
    "box": (thing("dog", 5, 1, 2, 2), "got the box .* of a dog"),
    "number": (thing("dog", "x", 1, 2, 2), "could not convert"),
    "not finite": (thing("dog", "nan", 1, 2, 2), "got the box"),
    "no box": ("<object><name>dog</name></object>", "no bndbox/xmin"),
    "open tag": ("<object>", "mismatched tag"),
}


@pytest.mark.parametrize("name", VOC_DAMAGES)
def test_damaged_annotations_are_named(name, devkit):
    text, message = VOC_DAMAGES[name]
    annotate(devkit / "VOC2007", "000012", text)
    with pytest.raises(DamagedFile, match=f"000012.xml is damaged: .*{message}"):
        voc(devkit)


@pytest.mark.parametrize(
    ("text", "message"),
    [("000012\n000012", "000012 more than once"), ("../x", "'../x'"), ("", "no names")],
)
def test_damaged_lists_are_named(text, message, devkit):
    (devkit / "VOC2007" / "ImageSets" / "Main" / "test.txt").write_text(text)
    with pytest.raises(DamagedFile, match=f"test.txt .*{message}"):
        voc(devkit, "test")


@pytest.mark.parametrize(
    "gone", ["Annotations/000012.xml", "JPEGImages/000012.jpg", "ImageSets/Main/test.txt"]
)
def test_missing_files_are_named(gone, devkit):
    (devkit / "VOC2007" / gone).unlink()
    with pytest.raises(FileNotFoundError, match=f"no .*{Path(gone).name} .*host.robots.ox.ac.uk"):
        voc(devkit, "test")


LIST = """filepath,label,split_name
images/b.jpg,"['sky', 'clouds']",train
images/a.jpg,['water'],val
images/c.jpg,"['person', 'sky']",train
"""


@pytest.fixture
def wide(tmp_path) -> Path:
    (tmp_path / "images").mkdir()
    for number, name in enumerate("abc"):
        Image.new("RGB", (9 + number, 7), (80 * number, 0, 0)).save(
            tmp_path / "images" / f"{name}.jpg"
        )
    (tmp_path / "nus_wid_data.csv").write_text(LIST)
    return tmp_path


def test_lists_of_labels(wide):
    train, test = nus_wide(wide, side=6), nus_wide(wide, "test", side=6)
    assert train.label_names == ("clouds", "person", "sky", "water") == test.label_names
    assert train.labels.astype(int).tolist() == [[1, 0, 1, 0], [0, 1, 1, 0]]
    assert test.labels.astype(int).tolist() == [[0, 0, 0, 1]] and test.split == "test"
    assert np.abs(255 * train[:].images[:, 0, 0, 0] - [80, 160]).max() <= 3
    assert train[:].masks.shape == (2, 0, 6, 6)
    assert train[:].source_indices.ravel().tolist() == [0, 2] and test[0].source_indices.item() == 1


NUS_DAMAGES = {
    "columns": (LIST.replace("label", "labels"), "has the columns"),
    "fields": (LIST + "images/d.jpg,['x']\n", "line 5: got"),
    "labels": (LIST + "images/d.jpg,[water,train\n", "line 5: got"),
    "no list": (LIST + "images/d.jpg,'x',train\n", "line 5: got the labels"),
    "label twice": (LIST + "images/d.jpg,\"['x', 'x']\",train\n", "line 5: got the labels"),
    "split": (LIST + "images/d.jpg,['x'],dev\n", "line 5: got"),
    "file twice": (LIST + "images/a.jpg,['x'],train\n", "line 5: names images/a.jpg a second"),
    "outside": (LIST + "../a.jpg,['x'],train\n", "line 5: got the file '../a.jpg'"),
    "empty": ("", "empty or no CSV"),
}


@pytest.mark.parametrize("name", NUS_DAMAGES)
def test_damaged_rows_are_named(name, wide):
    text, message = NUS_DAMAGES[name]
    (wide / "nus_wid_data.csv").write_text(text)
    with pytest.raises(DamagedFile, match=message):
        nus_wide(wide)


def test_missing_photographs_and_lists_are_named(wide):
    (wide / "images" / "b.jpg").unlink()
    with pytest.raises(FileNotFoundError, match="no b.jpg in images, and 1 of 2.*ASL"):
        nus_wide(wide)
    with pytest.raises(FileNotFoundError, match="no nus_wid_data.csv"):
        nus_wide(wide / "images")
    with pytest.raises((ValueError, TypeError), match="split"):
        nus_wide(wide, "val")
