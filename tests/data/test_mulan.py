"""MULAN's tables: the real ones, tiny ones of every kind of row, and every damage."""

from pathlib import Path

import numpy as np
import pytest

from jmlv.data import mulan
from jmlv.errors import DamagedFile

FOLDER = Path(__file__).parents[3] / "shared" / "data" / "mulan"
needs_mulan = pytest.mark.skipif(
    not FOLDER.is_dir(), reason="MULAN's files are not in ../shared/data/mulan"
)
SIZES = {  # training rows, test rows, features (one for each value of a nominal one), labels
    "emotions": (391, 202, 72, 6),
    "yeast": (1500, 917, 103, 14),
    "scene": (1211, 1196, 294, 6),
    "flags": (156, 38, 15 + 6 + 4 + 10 + 8, 7),
}
HEADER = """% a comment
@RELATION 'tiny set'
@attribute width numeric
@attribute 'its colour' {red, "dark green", blue}
@attribute Beach {0,1}
@attribute on {no,yes}
@attribute "it's sunset" {0,1}

@data
"""
XML = """<?xml version="1.0"?><labels xmlns="http://mulan.sourceforge.net/labels">
<label name="it's sunset"><label name="Beach"/></label></labels>"""
ROWS = "2.0, red, 1, yes, 0\n4.0,'dark green',0,no,1\n{0 3, 1 blue, 4 1}\n{ 2 1 }\n"
TEST = "8,red,1,no,1\n"


def write(folder: Path, train=ROWS, test=TEST, header=HEADER, xml=XML) -> Path:
    (folder / "tiny-train.arff").write_text(header + train)
    (folder / "tiny-test.arff").write_text(header + test)
    (folder / "tiny.xml").write_text(xml)
    return folder


@needs_mulan
@pytest.mark.parametrize("name", SIZES)
def test_real_tables_have_their_published_sizes(name):
    train, test = mulan(FOLDER, name), mulan(FOLDER, name, "test")
    rows, tests, features, labels = SIZES[name]
    assert len(train) == rows and len(test) == tests
    assert train.labels.shape[1] == labels == len(train.label_names)
    for part in (train, test):
        assert part.images.min() >= 0 and part.images.max() <= 1 and part.images.ndim == 4
    assert train.images.shape[1:] == (1, features, 1)
    assert not set(train.source_indices[:, 0]) & set(test.source_indices[:, 0])


@needs_mulan
def test_real_values_are_those_of_the_file_under_the_stated_scale():
    last = (FOLDER / "scene-test.arff").read_text().strip().splitlines()[-1].split(",")
    raw = mulan(FOLDER, "scene", "test", scale=False)
    assert raw.images[-1].ravel() == pytest.approx([float(value) for value in last[:-6]])
    assert raw.labels[-1].tolist() == [value == "1" for value in last[-6:]]
    train, scaled = mulan(FOLDER, "scene", scale=False), mulan(FOLDER, "scene", "test")
    low, high = train.images.min(0), train.images.max(0)
    np.testing.assert_allclose(
        scaled.images, np.clip((raw.images - low) / (high - low), 0, 1), atol=1e-5
    )
    assert mulan(FOLDER, "yeast").label_names[:4] == ("Class1", "Class2", "Class3", "Class4")


def test_dense_sparse_quoted_and_nominal_rows(tmp_path):
    data = mulan(write(tmp_path), "tiny")
    assert data.label_names == ("Beach", "it's sunset")
    assert data.labels.astype(int).tolist() == [[1, 0], [0, 1], [0, 1], [1, 0]]
    width, red, green, blue, on = data.images[:, 0, :, 0].T
    assert width.tolist() == [0.5, 1.0, 0.75, 0.0]  # the sparse row that leaves it out has a 0
    assert (red.tolist(), green.tolist()) == ([1, 0, 0, 1], [0, 1, 0, 0])
    assert (blue.tolist(), on.tolist()) == ([0, 0, 1, 0], [1, 0, 0, 0])
    assert data.source_indices.ravel().tolist() == [0, 1, 2, 3]


def test_test_rows_are_scaled_by_the_training_rows_and_clipped(tmp_path):
    folder = write(tmp_path)
    test = mulan(folder, "tiny", "test")
    assert test.images[0, 0, 0, 0] == 1.0 and test.source_indices.tolist() == [[4]]
    assert mulan(folder, "tiny", "test", scale=False).images[0, 0, 0, 0] == 8.0


def test_missing_values_are_refused_or_the_training_mean(tmp_path):
    folder = write(tmp_path, "2,red,1,yes,0\n4,?,1,no,1\n?,blue,0,yes,0\n", "?,?,1,no,1\n")
    for split in ("train", "test"):
        with pytest.raises(ValueError, match="missing: .*2 of the 3 training rows.*'mean'"):
            mulan(folder, "tiny", split)
    test = mulan(folder, "tiny", "test", missing="mean")
    assert test.images[0, 0, :, 0].tolist() == [0.5, 0.5, 0.0, 0.5, 0.0]
    with pytest.raises((ValueError, TypeError), match="missing"):
        mulan(folder, "tiny", missing="drop")


def test_a_table_without_splits_is_divided_by_the_seed(tmp_path):
    folder = write(tmp_path)
    (folder / "tiny-test.arff").unlink()
    (folder / "tiny-train.arff").rename(folder / "tiny.arff")
    (folder / "tiny.arff").write_text(HEADER + ROWS * 5)
    parts = [mulan(folder, "tiny", split, seed=3) for split in ("train", "test")]
    numbers = [set(part.source_indices[:, 0].tolist()) for part in parts]
    assert numbers[0] | numbers[1] == set(range(20)) and not numbers[0] & numbers[1]
    assert len(numbers[1]) == 4 and "split at random" in parts[0].origin
    assert parts[0] == mulan(folder, "tiny", seed=3) != mulan(folder, "tiny", seed=4)


DAMAGES = {
    "row too short": ({"train": "2,red,1,yes\n"}, "line 10: got 4 values; expected 5"),
    "not a number": ({"train": "wide,red,1,yes,0\n"}, "'width' is 'wide'; expected a finite"),
    "infinite": ({"train": "inf,red,1,yes,0\n"}, "'width' is 'inf'"),
    "value not in the list": ({"test": "2,pink,1,yes,0\n"}, "'its colour' is 'pink'; expected one"),
    "label not 0 or 1": ({"train": "2,red,2,yes,0\n"}, "'Beach' is '2'"),
    "missing label": ({"train": "2,red,?,yes,0\n"}, "label 'Beach' is not 0 or 1"),
    "quote left open": ({"train": "2,'red,1,yes,0\n"}, "cannot read"),
    "sparse row left open": ({"train": "{0 2\n"}, "no closing brace"),
    "place twice": ({"train": "{0 2, 0 3}\n"}, "got place 0 twice"),
    "place out of range": ({"train": "{5 2}\n"}, "got place 5 of 5 attributes"),
    "sparse row without place": ({"train": "{red}\n"}, "cannot read 'red'"),
    "no rows": ({"train": ""}, "no rows"),
    "no data section": ({"header": HEADER.replace("@data", ""), "train": ""}, "no @data"),
    "name twice": ({"header": HEADER.replace("on {", "width {")}, "declares \\['width'\\] more"),
    "text attribute": ({"header": HEADER.replace("numeric", "string")}, "type 'string'"),
    "unknown label": ({"xml": XML.replace('"Beach', '"Forest')}, "does not have: \\['Forest'\\]"),
    "label twice": ({"xml": XML.replace("it's sunset", "Beach")}, "each once"),
    "cut XML": ({"xml": XML[:-9]}, "no list of labels"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_named(name, tmp_path):
    changes, message = DAMAGES[name]
    with pytest.raises(DamagedFile, match=message):
        mulan(write(tmp_path, **changes), "tiny")


def test_two_files_of_other_attributes_are_refused(tmp_path):
    folder = write(tmp_path)
    other = (folder / "tiny-test.arff").read_text().replace("width", "height")
    (folder / "tiny-test.arff").write_text(other)
    with pytest.raises(DamagedFile, match="declare other attributes"):
        mulan(folder, "tiny")


@pytest.mark.parametrize("gone", ["tiny.xml", "tiny-test.arff"])
def test_missing_files_are_named_with_where_to_get_them(gone, tmp_path):
    folder = write(tmp_path)
    (folder / gone).unlink()
    with pytest.raises(FileNotFoundError, match=f"without {gone}.*mulan.sourceforge.net"):
        mulan(folder, "tiny")
    with pytest.raises((ValueError, TypeError), match="split"):
        mulan(folder, "tiny", "dev")
