"""'jmlv labels' and 'jmlv verify' on an imported network and on images in files."""

import json

import numpy as np
import pytest
from pages import read

import jmlv
from jmlv.cli import main
from jmlv.cli.sources import image_files
from jmlv.errors import DamagedFile

SHAPE = (8, 8, 1)
GEOMETRY = [
    "--input-shape",
    "8",
    "8",
    "1",
    "--strides",
    "2",
    "2",
    "--paddings",
    "1",
    "1",
    "--pool",
    "0",
]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """An imported network's weights, and a folder with two pictures of one image and an array file."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("files")
    rng = np.random.default_rng(0)
    shapes = {"conv1": (2, 1, 3, 3), "conv2": (3, 2, 3, 3), "fc1": (4, 12)}
    weights = {f"{name}.weight": rng.normal(size=shape) for name, shape in shapes.items()}
    biases = {f"{name}.bias": rng.normal(size=shape[0]) for name, shape in shapes.items()}
    np.savez(folder / "net.npz", **weights, **biases)
    images = folder / "images"
    images.mkdir()
    x = rng.integers(0, 256, (8, 8), dtype=np.uint8)
    Image.fromarray(x).save(images / "a.png")
    np.save(images / "b.npy", (x / 255).astype(np.float32)[None])
    (images / "notes.txt").write_text("not an image")
    return folder, ["--weights", str(folder / "net.npz"), *GEOMETRY, "--images", str(images)]


def test_labels_of_a_folder_and_again_from_the_file(files, tmp_path, capsys):
    _, options = files
    options = [
        "labels",
        *options,
        "--epsilon",
        "0.02",
        "--no-oracle",
        "--out",
        str(tmp_path),
        "--report",
    ]
    assert main(options) == 0
    first = capsys.readouterr().out
    rows = [line.split() for line in first.splitlines() if line.startswith(("a ", "b "))]
    assert len(rows) == 2 and rows[0][1:5] == rows[1][1:5], "both files hold the same image"
    for name in "ab":
        assert "Labels in the top" in read(tmp_path / f"{name}.html").text
    content = (tmp_path / "labels.jsonl").read_text()
    assert all(len(json.loads(line)["answers"]) == 4 for line in content.splitlines())
    assert main(options) == 0
    again = capsys.readouterr().out
    shown = "1 of 2 images: read from the file"  # both files hold one image
    assert again == first.replace(shown, "2 of 2 images: read from the file")
    assert (tmp_path / "labels.jsonl").read_text() == content


def test_what_a_small_budget_left_open_is_said_and_taken_up_again(files, tmp_path, capsys):
    _, options = files
    options = ["labels", *options, "--epsilon", "0.02", "--no-oracle", "--out", str(tmp_path)]
    assert main([*options, "--budget", "0.001"]) == 0
    assert "1 of 2 images: read from the file; 4 labels are open" in capsys.readouterr().out
    assert main([*options, "--budget", "0.001", "--fail-on", "unknown"]) == 1
    told = capsys.readouterr().out
    assert "2 of 2 images: read from the file; 8 labels are open, a larger --budget" in told
    assert main(options) == 0
    assert "its open labels taken up again" in capsys.readouterr().out


def test_verify_exports_what_it_asks(files, tmp_path, capsys):
    pytest.importorskip("onnx", reason="the package onnx is not installed")
    folder, options = files
    export = ["--epsilon", "0.005", "--export", str(tmp_path), "--out", str(tmp_path / "out")]
    assert main(["verify", *options, *export]) == 0
    table = capsys.readouterr().out
    assert "KeepsLabels" in table and table.count("ROBUST") == 2
    assert json.loads((tmp_path / "out" / "a" / "verdict.json").read_text())["status"] in table
    assert (tmp_path / "network.onnx").stat().st_size > 500
    again = ["verify", *options[:-2], "--vnnlib", str(tmp_path / "0.vnnlib")]
    assert main(again) == 0
    row = next(line for line in table.splitlines() if line.startswith("a "))
    expected = "NOT_ROBUST" if "NOT_ROBUST" in row else "ROBUST"
    assert f"Verdict({expected}" in capsys.readouterr().out


def test_verify_takes_one_label(files, capsys):
    _, options = files
    images = f"{options[-1]}/a.png"
    assert main(["verify", *options[:-1], images, "--label", "1", "--oracle", "crown"]) == 0
    assert "InTopK(label=1, k=2)" in capsys.readouterr().out


BAD = {
    "no images": ([], "name images for the imported network"),
    "no file": (["--images", "nowhere.png"], "nowhere.png"),
    "not an image": (["--images", "NET"], "expected one array"),
    "wrong stride": (["--images", "IMAGES", "--strides", "1", "1"], "fc1 reads 12 features"),
    "object": (["--images", "IMAGES", "--only-object"], "need a test image"),
    "no query": (["--vnnlib", "nowhere.vnnlib"], "nowhere.vnnlib"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_ends_with_one_line(name, files, capsys):
    extra, message = BAD[name]
    folder, options = files
    places = {"NET": str(folder / "net.npz"), "IMAGES": options[-1]}
    assert main(["verify", *options[:-2], *(places.get(e, e) for e in extra)]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_too_many_images_are_refused(files, capsys):
    _, options = files
    assert main(["labels", *options, "--first", "3"]) == 2
    assert "first: must be in 1..2" in capsys.readouterr().err
    assert main(["labels", *options[:-2]]) == 2
    assert "the test images are (32, 32, 1)" in capsys.readouterr().err


def test_images_in_every_layout(tmp_path):
    rng = np.random.default_rng(1)
    stack = rng.random((2, 3, 4, 5)).astype(np.float32)  # image, channel, height, width
    np.savez(tmp_path / "many.npz", x=stack, y=np.zeros(2))
    read = image_files(tmp_path / "many.npz", (4, 5, 3))
    assert [name for name, _ in read] == ["many[0]", "many[1]"]
    assert np.array_equal(read[1][1], stack[1].transpose(1, 2, 0))
    np.save(tmp_path / "one.npy", read[0][1])
    assert np.array_equal(image_files(tmp_path / "one.npy", (4, 5, 3))[0][1], read[0][1])
    np.save(tmp_path / "bytes.npy", np.full((4, 5), 51, np.uint8))
    ((name, grey),) = image_files(tmp_path / "bytes.npy", (4, 5, 1))
    assert name == "bytes" and grey.shape == (4, 5, 1) and grey.max() == np.float32(0.2)


@pytest.mark.parametrize(
    "content, message",
    [
        (np.zeros((3, 3)), "has shape"),
        (np.full((4, 5), 2.0), "must lie in"),
        (np.full((4, 5), np.nan), "NaN"),
        (np.zeros((4, 5), int), "expected bytes or floats"),
    ],
)
def test_images_that_do_not_fit_are_named(content, message, tmp_path):
    np.save(tmp_path / "image.npy", content)
    with pytest.raises(ValueError, match=message):
        image_files(tmp_path / "image.npy", (4, 5, 1))


def test_damaged_images_are_named(tmp_path):
    for name in ("x.png", "x.npy", "x.npz"):
        path = tmp_path / name
        path.write_bytes(b"nothing of the kind")
        with pytest.raises(DamagedFile, match=f"{name} cannot be read"):
            image_files(path, (4, 5, 1))
    with pytest.raises(ValueError, match="none or another found"):
        image_files(tmp_path / "x.txt", (4, 5, 1))
    assert jmlv.DamagedFile is DamagedFile
