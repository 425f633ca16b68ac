"""``jmlv attack`` on a committed network: files, goals, norms, and what it refuses."""

import json

import numpy as np
import pytest

from jmlv import checkpoints
from jmlv.cli import main
from jmlv.data import double_digits
from jmlv.records import version

FOLDER = next((p for p in checkpoints.available() if p.name == "double_digits_none"), None)
pytestmark = pytest.mark.skipif(FOLDER is None, reason="the committed checkpoints are not here")
CALL = ["attack", "--checkpoint", str(FOLDER), "--images", "3"]


@pytest.mark.parametrize("side", [0, 1])
def test_it_writes_what_the_table_says(side, tmp_path, capsys):
    only = ["--only-object"] if side == 0 else []
    code = main([*CALL, "--budgets", "0.02", "0.3", "--out", str(tmp_path), *only])
    out = capsys.readouterr().out
    assert code == 0 and "success rate" in out and "MIFGSM" in out
    content = json.loads((tmp_path / "attack.json").read_text())
    assert [row["budget"] for row in content["rows"]] == [0.02, 0.3] and content["images"] == 3
    data = double_digits("test")[:3]
    assert len(content["network"]) == 64 and content["jmlv"] == version()
    assert content["label_names"] == list(data.label_names)
    with np.load(tmp_path / "attack.npz") as arrays:
        change = np.abs(arrays["images"] - data.images)
        assert change[0].max() <= 0.02 + 1e-6 < change[1].max() <= 0.3 + 1e-6
        assert content["rows"][1]["success rate"] == pytest.approx(arrays["success"][1].mean())
        outside = ~np.broadcast_to(data.masks[:, :1], (3, 1, 32, 32))[:, 0, ..., None]
        assert not only or not change[:, outside].any()
    for figure in ("confidences", "change", "flips"):
        assert (tmp_path / f"{figure}.png").stat().st_size > 3000


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        (["--method", "pgd", "--norm", "l2", "--budgets", "3"], "LeaveTopK"),
        (["--goal", "hide", "--threshold", "0.5", "--method", "mlalp"], "Hide"),
        (["--goal", "enter-top-k", "--label", "0", "--budgets", "0.2"], "EnterTopK"),
        (["--goal", "flip-all", "--method", "slam", "--budgets", "0.1"], "FlipAll"),
    ],
)
def test_goals_methods_and_norms(options, shown, tmp_path):
    assert main([*CALL, *options, "--out", str(tmp_path)]) == 0
    content = json.loads((tmp_path / "attack.json").read_text())
    assert shown in content["goal"]
    assert all(0 <= row["success rate"] <= 1 and row["flips"] >= 0 for row in content["rows"])


BAD = {
    "images": (["--images", "0"], "images: expected a number in 1..2000, got 0"),
    "norm": (["--method", "mlalp", "--norm", "l2"], "norm: mlalp measures in linf only"),
    "threshold": (["--threshold", "0.5"], "--threshold: leave-top-k decides by the top 2"),
    "threshold outside": (["--goal", "hide", "--threshold", "1.5"], "inside (0, 1)"),
    "budget": (["--budgets", "-1"], "budgets: expected positive"),
    "k": (["--k", "11"], "k: "),
    "label": (["--label", "12"], "label"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_ends_with_one_line(name, tmp_path, capsys):
    options, message = BAD[name]
    assert main([*CALL, *options, "--out", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
