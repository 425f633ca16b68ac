"""Pairs from UCI's digits: the real files, and damaged rows."""

from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from jmlv.data import double_digits, double_optdigits
from jmlv.errors import DamagedFile

FOLDER = Path(__file__).parents[3] / "shared" / "data" / "optdigits"
needs_optdigits = pytest.mark.skipif(
    not FOLDER.is_dir(), reason="UCI's digits are not in ../shared/data/optdigits"
)
ROWS = ["1," * 32 + "16," * 32 + str(label) for label in (3, 7)]


@needs_optdigits
def test_real_files_make_pairs_of_other_writers():
    train, test = (double_optdigits(FOLDER, split, size=1500) for split in ("train", "test"))
    assert train.images.shape[1:] == double_digits(size=1).image_shape
    assert train.source_indices.max() > 3700 and test.source_indices.max() <= 1796
    assert (load_digits().target[test.source_indices] == test.object_labels).all()
    assert (train.labels.sum(axis=1) == 2).all() and "optdigits.tra" in train.origin


def test_a_small_file_is_read(tmp_path):
    header = ",".join([*(f"Block {i}" for i in range(64)), "Class"])  # some copies have one
    (tmp_path / "optdigits.tes").write_text("\n".join([header, *ROWS]) + "\n")
    data = double_optdigits(tmp_path, "test", size=4)
    assert {tuple(sorted(row)) for row in data.object_labels.tolist()} == {(3, 7)}
    assert np.isclose(data.images.max(), 1.0)
    with pytest.raises(FileNotFoundError, match="no optdigits.tra .*UCI"):
        double_optdigits(tmp_path)


@pytest.mark.parametrize(
    "row",
    [
        ROWS[0][2:],
        ROWS[0] + ",1",
        ROWS[0].replace("16", "17", 1),
        ROWS[0].replace("16", "-1", 1),
        ROWS[0].replace("16", "x", 1),
        ROWS[0][:-1] + "10",
    ],
)
def test_damaged_rows_are_named(row, tmp_path):
    (tmp_path / "optdigits.tra").write_text(f"{ROWS[0]}\n{row}\n")
    with pytest.raises(DamagedFile, match="optdigits.tra, line 2: .*64 whole numbers"):
        double_optdigits(tmp_path)
