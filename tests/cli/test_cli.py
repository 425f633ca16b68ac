"""The command line on the committed networks."""

import json

import numpy as np
import pytest

from jmlv.cli import main
from jmlv.cli.main import COMMANDS
from jmlv.cli.report import table

NETWORK = ["--checkpoint", "checkpoints/double_digits_none"]


@pytest.fixture(autouse=True)
def in_repository(request, monkeypatch):
    monkeypatch.chdir(request.config.rootpath)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command, capsys):
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0 and "usage: jmlv" in capsys.readouterr().out


def test_grow_then_verify_what_it_wrote(tmp_path, capsys):
    code = main(["grow", *NETWORK, "--image", "1", "--strategy", "uniform", "--out", str(tmp_path)])
    assert code == 0 and "ROBUST" in capsys.readouterr().out
    stem = tmp_path / "image1_left_uniform"
    content = json.loads(stem.with_suffix(".json").read_text())
    assert content["status"] == "ROBUST" and content["size"] > 0
    assert len(content["epsilon"]) == len(content["layer_statuses"])
    assert stem.with_suffix(".png").stat().st_size > 5000
    with np.load(stem.with_suffix(".npz")) as arrays:
        assert np.all(arrays["lower"] <= arrays["x"]) and np.all(arrays["x"] <= arrays["upper"])
    stored = ["--neighborhood", str(stem.with_suffix(".npz")), "--out", str(tmp_path / "verdict")]
    assert main(["verify", *NETWORK, "--image", "1", "--oracle", "crown", *stored]) == 0
    assert "Verdict(ROBUST" in capsys.readouterr().out
    assert json.loads((tmp_path / "verdict" / "verdict.json").read_text())["status"] == "ROBUST"


def test_verify_writes_a_witness(tmp_path, capsys):
    wide = ["--epsilon", "0.5", "--oracle", "pgd", "--out", str(tmp_path)]
    assert main(["verify", *NETWORK, *wide]) == 0
    assert "NOT_ROBUST" in capsys.readouterr().out
    with np.load(tmp_path / "witness.npz") as arrays:
        assert arrays["witness"].shape == (32, 32, 1)


BAD = {
    "no checkpoint": (["verify", "--checkpoint", "nowhere"], "nowhere"),
    "image": (["verify", *NETWORK, "--image", "-3"], "image: must be in"),
    "negative epsilon": (["verify", *NETWORK, "--epsilon", "-1"], "epsilon: must not be negative"),
    "k": (["verify", *NETWORK, "--k", "10"], "k: must be in"),
    "budget": (["grow", *NETWORK, "--budget", "0"], "budget: must be"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_ends_with_one_line(name, capsys):
    arguments, message = BAD[name]
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_damaged_neighborhood_is_named(tmp_path, capsys):
    path = tmp_path / "broken.npz"
    path.write_bytes(b"not an archive")
    assert main(["verify", *NETWORK, "--neighborhood", str(path)]) == 2
    assert "is not a file that 'jmlv grow' wrote" in capsys.readouterr().err


def test_table_aligns_numbers_to_the_right():
    assert table(("name", "n"), [("a", 1), ("bb", 10)]) == "name   n\n----  --\na      1\nbb    10"
