"""The command line on the committed networks."""

import json
import shutil

import numpy as np
import pytest
from pages import read

from jmlv.cli import main
from jmlv.cli.main import COMMANDS
from jmlv.cli.report import table
from jmlv.neighborhoods import GrownNeighborhood

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
    options = ["--image", "1", "--strategy", "uniform", "--out", str(tmp_path), "--report"]
    code = main(["grow", *NETWORK, *options])
    assert code == 0 and "ROBUST" in capsys.readouterr().out
    stem = tmp_path / "image1_left_uniform"
    content = json.loads(stem.with_suffix(".json").read_text())
    assert content["status"] == "ROBUST" and content["size"] > 0
    assert len(content["epsilon"]) == len(content["layer_statuses"])
    assert stem.with_suffix(".png").stat().st_size > 5000
    page = read(stem.with_suffix(".html"))
    assert "Certified: label" in page.text and "A random image inside" in page.text
    grown = GrownNeighborhood.load(stem.with_suffix(".npz"))
    assert grown.as_dict() == content and grown.label_names == tuple("0123456789")
    stored = ["--neighborhood", str(stem.with_suffix(".npz")), "--out", str(tmp_path / "verdict")]
    assert main(["verify", *NETWORK, "--oracle", "crown", *stored]) == 0
    assert "Verdict(ROBUST" in capsys.readouterr().out
    verdict = json.loads((tmp_path / "verdict" / "verdict.json").read_text())
    assert verdict["status"] == "ROBUST" and verdict["network"] == content["network"]
    assert verdict["question"] == content["question"] and verdict["jmlv"] == content["jmlv"]
    assert isinstance(verdict["stats"]["seconds"], float)
    other = ["--checkpoint", "checkpoints/double_digits_l0", *stored[:2]]
    assert main(["verify", *other]) == 2
    assert f"was grown on the network {grown.network[:12]}" in capsys.readouterr().err
    for extra in (["--image", "1"], ["--label", "3"], ["--k=2"], ["--only-object"]):
        assert main(["verify", *NETWORK, *stored[:2], *extra]) == 2
        assert f"{extra[0].split('=')[0]}: not beside --neighborhood" in capsys.readouterr().err


def test_verify_writes_a_witness(tmp_path, capsys):
    wide = ["--epsilon", "0.5", "--oracle", "pgd", "--out", str(tmp_path), "--report"]
    assert main(["verify", *NETWORK, *wide]) == 0
    assert "NOT_ROBUST" in capsys.readouterr().out
    assert "Refuted: not at every input" in read(tmp_path / "verdict.html").text
    verdict = json.loads((tmp_path / "verdict.json").read_text())
    assert verdict["lower"] is None and verdict["upper"] <= 0 and verdict["status"] == "NOT_ROBUST"
    with np.load(tmp_path / "witness.npz") as arrays:
        assert arrays["witness"].shape == (32, 32, 1)


@pytest.mark.parametrize(
    ("options", "code"),
    [([], 0), (["unknown"], 0), (["not-robust"], 1), (["unknown", "not-robust"], 1)],
)
def test_exit_code_says_what_was_asked(options, code, capsys):
    wide = ["--epsilon", "0.5", "--oracle", "pgd", *(["--fail-on", *options] if options else [])]
    assert main(["verify", *NETWORK, *wide]) == code
    assert "NOT_ROBUST" in capsys.readouterr().out


def test_help_tells_the_exit_codes(capsys):
    for words in (["--help"], ["verify", "--help"]):
        with pytest.raises(SystemExit):
            main(words)
        assert "exit codes: 0 answered; 1 an answer that --fail-on names" in " ".join(
            capsys.readouterr().out.split()
        )


BAD = {
    "no checkpoint": (["verify", "--checkpoint", "nowhere"], "nowhere"),
    "image": (["verify", *NETWORK, "--image", "-3"], "image: must be in"),
    "negative epsilon": (["verify", *NETWORK, "--epsilon", "-1"], "epsilon: must not be negative"),
    "k": (["verify", *NETWORK, "--k", "10"], "k: must be in"),
    "budget": (["grow", *NETWORK, "--budget", "0"], "budget: must be"),
    "images beside a question": (
        ["verify", *NETWORK, "--vnnlib", "x.vnnlib", "--images", "x.png", "--k", "2"],
        "--images, --k: not beside --vnnlib",
    ),
    "an object beside a question": (
        ["verify", *NETWORK, "--vnnlib", "x.vnnlib", "--only-object"],
        "--only-object: not beside --vnnlib",
    ),
    "a test image beside images": (
        ["verify", *NETWORK, "--images", "x.png", "--image", "0"],
        "--image: not beside --images",
    ),
    "the geometry of no weights": (
        ["labels", *NETWORK, "--pool", "4"],
        "--pool: these describe --weights",
    ),
    "two networks": (
        ["labels", *NETWORK, "--weights", "net.npz"],
        "--checkpoint: not beside --weights",
    ),
    "digits beside images": (
        ["labels", *NETWORK, "--images", "x.png", "--mnist", "folder"],
        "--mnist: not beside --images",
    ),
    "too few samples": (
        ["smooth", "--samples", "10"],
        "samples: 10 noisy inputs can certify nothing at alpha 0.001, even if all agree; at least 14",
    ),
    "a label of all": (
        ["attack", *NETWORK, "--goal", "flip-all", "--label", "3"],
        "--label: flip-all is about all labels",
    ),
    "a label of all, by its goal": (
        ["attack", *NETWORK, "--goal", "show-all", "--threshold", "0.5", "--label", "3"],
        "--label: show-all is about all labels",
    ),
    "no room for more": (
        ["attack", *NETWORK, "--goal", "show-all"],
        "a top k has no room for more; give a --threshold",
    ),
    "two decisions": (
        ["attack", *NETWORK, "--goal", "hide", "--threshold", "0.5", "--k", "2"],
        "--k: not beside --threshold",
    ),
    "options beside a file": (
        ["train", "config.toml", "--epochs", "3"],
        "--epochs: not beside a file; write it into config.toml",
    ),
    "a page nowhere": (["verify", *NETWORK, "--report"], "report: the page is written into"),
    "pages nowhere": (["labels", *NETWORK, "--report"], "report: the pages are written into"),
    "a page of no table": (["campaign", "x.toml", "--report"], "--report: for table alone"),
    "no names": (["verify", *NETWORK, "--names", "nowhere.txt"], "nowhere.txt"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_ends_with_one_line(name, capsys):
    arguments, message = BAD[name]
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_label_names_from_a_file(tmp_path, capsys):
    names = tmp_path / "names.txt"
    words = ["nought", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    names.write_text("\ufeff" + "\n".join(words), encoding="utf-8")
    options = ["--label", "3", "--epsilon", "0", "--oracle", "crown", "--out", str(tmp_path)]
    assert main(["verify", *NETWORK, *options, "--names", str(names)]) == 0
    assert "InTopK(label=3, k=2) [three (3)]" in capsys.readouterr().out
    record = json.loads((tmp_path / "verdict.json").read_text())["question"]
    assert record == {"kind": "InTopK", "label": 3, "k": 2, "names": ["three"]}
    names.write_text("one\ntwo\n")
    assert main(["verify", *NETWORK, *options, "--names", str(names)]) == 2
    assert "the network has 10 labels" in capsys.readouterr().err


def test_label_names_from_the_checkpoint(tmp_path, capsys):
    folder = shutil.copytree(NETWORK[1], tmp_path / "named")
    content = json.loads((folder / "metadata.json").read_text())
    np.save(tmp_path / "x.npy", np.zeros((32, 32, 1), np.float32))
    options = ["--label", "l3", "--epsilon", "0", "--oracle", "crown"]
    options += ["--images", str(tmp_path / "x.npy")]
    for names, code in ([f"l{i}" for i in range(10)], 0), (["l3"] * 10, 2), ("l3", 2), (["l3"], 2):
        content["data"]["label_names"] = names
        (folder / "metadata.json").write_text(json.dumps(content))
        assert main(["verify", "--checkpoint", str(folder), *options]) == code
        told = capsys.readouterr()
        assert "[l3 (3)]" in told.out if code == 0 else "names" in told.err


def test_damaged_neighborhood_is_named(tmp_path, capsys):
    path = tmp_path / "broken.npz"
    path.write_bytes(b"not an archive")
    assert main(["verify", *NETWORK, "--neighborhood", str(path)]) == 2
    assert (
        "is not a file that 'jmlv grow' or GrownNeighborhood.save wrote" in capsys.readouterr().err
    )


def test_table_aligns_numbers_to_the_right():
    assert table(("name", "n"), [("a", 1), ("bb", 10)]) == "name   n\n----  --\na      1\nbb    10"
