"""A person with an ONNX file and photographs: every command, from files alone."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jmlv.cli import main
from jmlv.cli.masks import masks_for
from jmlv.interop import OnImages, write_onnx

pytest.importorskip("onnx")
Image = pytest.importorskip("PIL.Image")

NAMES = ("cat", "dog", "bird")
MEAN, STD = [0.5, 0.4, 0.3], [0.25, 0.2, 0.5]
SIZE = (6, 8)


def network(x):
    """Channel first: the scores are those of three colours, and each quarter counts for one."""
    quarters = jnp.stack([x[:, 0, :, :4].sum((1, 2)), x[:, 1, :, 4:].sum((1, 2)), x[:, 2].sum((1, 2))], 1)  # fmt: skip
    return jax.nn.relu(quarters + 40) / 10


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """net.onnx, names.txt, photographs of twice the size, masks, and the same as COCO's JSON."""
    folder = tmp_path_factory.mktemp("own")
    write_onnx(network, (3, *SIZE), folder / "net.onnx")
    (folder / "names.txt").write_text("\ufeff" + "\n".join(NAMES) + "\n")
    rng, objects = np.random.default_rng(0), []
    for part in ("photos", "masks"):
        (folder / part).mkdir()
    for i, name in enumerate(("first", "second")):
        pixels = rng.integers(100, 200, (2 * SIZE[0], 2 * SIZE[1], 3), np.uint8)
        pixels[..., i] = 250
        Image.fromarray(pixels).save(folder / "photos" / f"{name}.png")
        mask = np.zeros(pixels.shape[:2], np.uint8)
        mask[4:8, 2:6] = 255
        Image.fromarray(mask).save(folder / "masks" / f"{name}.png")
        objects.append({"id": i, "image_id": i, "category_id": 7, "bbox": [2, 4, 4, 4]})
    content = {
        "images": [
            {"id": i, "file_name": f"{name}.png", "height": 12, "width": 16}
            for i, name in enumerate(("first", "second"))
        ],
        "annotations": objects,
        "categories": [{"id": 7, "name": "leaf"}, {"id": 8, "name": "stone"}],
    }
    (folder / "coco.json").write_text(json.dumps(content))
    return folder


def own(files, *more, images="--images"):
    return [
        "--network", str(files / "net.onnx"), "--names", str(files / "names.txt"),
        images, str(files / "photos"), "--resize",
        "--mean", *map(str, MEAN), "--std", *map(str, STD), *map(str, more),
    ]  # fmt: skip


def test_a_network_on_images_is_the_network_on_what_it_was_trained_on():
    f = OnImages(network, (3, *SIZE), mean=tuple(MEAN), std=tuple(STD))
    x = np.random.default_rng(1).random((2, *SIZE, 3), np.float32)
    normalised = ((x - np.float32(MEAN)) / np.float32(STD)).transpose(0, 3, 1, 2)
    assert f.image_shape == (*SIZE, 3)
    np.testing.assert_allclose(f(x), network(normalised), rtol=1e-5)
    flat = OnImages(lambda v: network(v.reshape(-1, 3, *SIZE)), (144,), (*SIZE, 3))
    np.testing.assert_allclose(flat(x), network(x.transpose(0, 3, 1, 2)), rtol=1e-5)
    last = OnImages(lambda v: v, (*SIZE, 3))
    np.testing.assert_array_equal(last(x), x)
    assert OnImages(lambda v: v, SIZE).image_shape == (*SIZE, 1)


BAD_LAYOUTS = {
    "flat": (dict(input_shape=(144,)), "image_shape: an input of"),
    "column": (dict(input_shape=(784, 1)), "image_shape: an input of"),
    "another size": (dict(input_shape=(144,), image_shape=(6, 8, 1)), "as many entries"),
    "mean": (dict(input_shape=(3, 6, 8), mean=(1, 2)), "mean: expected a number"),
    "std": (dict(input_shape=(3, 6, 8), std=0.0), "std: must be positive"),
}


@pytest.mark.parametrize("name", BAD_LAYOUTS)
def test_layouts_that_say_too_little_are_named(name):
    arguments, message = BAD_LAYOUTS[name]
    with pytest.raises(ValueError, match=message):
        OnImages(network, **arguments)


def test_check_says_what_a_network_takes(files, capsys, tmp_path):
    assert main(["check", str(files / "net.onnx")]) == 0
    printed = capsys.readouterr().out
    assert f"takes {(3, *SIZE)}" in printed and "3 scores" in printed
    assert main(["check", "checkpoints/double_digits_none"]) == 0
    assert main(["check", str(files / "names.txt")]) == 2


def test_verify_and_labels_by_name(files, capsys):
    asked = ["--label", "cat", "--k", "2", "--oracle", "crown", "--epsilon", "0.01"]
    assert main(["verify", *own(files, *asked)]) == 0
    printed = capsys.readouterr().out
    assert "InTopK(label=0, k=2)" in printed and "second" in printed
    assert main(["labels", *own(files, "--k", "1", "--epsilon", "0.001", "--no-oracle")]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in NAMES) and "unknown" in printed


@pytest.mark.parametrize("masks", [pytest.param("masks", marks=pytest.mark.slow), "coco.json"])
def test_grow_around_the_objects_of_photographs(masks, files, tmp_path, capsys):
    more = ["--masks", files / masks, "--strategy", "uniform", "--budget", 20, "--out", tmp_path]
    assert main(["grow", *own(files, *more)]) == 0
    assert capsys.readouterr().out.count("ROBUST") >= 2
    for name in ("first", "second"):
        stem = tmp_path / f"{name}_uniform"
        assert stem.with_suffix(".png").stat().st_size > 5000
        with np.load(stem.with_suffix(".npz")) as arrays:
            assert arrays["x"].shape == (*SIZE, 3)
            expected = np.zeros(SIZE, bool)
            expected[2:4, 1:3] = True
            assert (arrays["layer"] == 0)[expected].all() and (arrays["layer"] == 0).sum() <= 9


@pytest.mark.slow
def test_attack_and_smooth(files, tmp_path, capsys):
    named = own(files, "--k", "2", "--out", tmp_path, images="--images-from")
    assert main(["attack", *named, "--label", "dog", "--budgets", "0.3"]) == 0
    assert "success rate" in capsys.readouterr().out
    assert main(["smooth", *named, "--samples", "100", "--radii", "0", "0.1"]) == 0
    assert "2 images" in capsys.readouterr().out


WRONG = {
    "no images": (["verify"], "--images", "name images for the imported network"),
    "no masks": (["grow"], None, "their objects with --masks"),
    "an unknown label": (["verify", "--label", "fish"], None, "label: expected a name or a number"),
    "another size": (["verify"], "--resize", "Fit pictures to it with --resize"),
    "a question": (["verify", "--vnnlib", "x.vnnlib"], None, "ask 'jmlv solve"),
    "attack without": (["attack"], "--images", "--images-from"),
    "mean": (["verify", "--mean", "1", "2"], None, "mean: expected a number"),
    "category": (
        ["grow", "--masks", "{folder}/coco.json", "--object", "stone"],
        None,
        "no pixel is set in",
    ),
    "masks of another size": (["grow", "--masks", "{folder}/masks"], "--resize", "--resize"),
    "object": (["grow", "--masks", "{folder}/masks", "--object", "stone"], None, "object: 'stone'"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_does_not_fit_is_one_sentence(name, files, capsys):
    (command, *more), without, message = WRONG[name]
    arguments = own(files)
    if without is not None:
        place = arguments.index(without)
        del arguments[place : place + (2 if without == "--images" else 1)]
    assert main([command, *arguments, *(word.format(folder=files) for word in more)]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"jmlv {command}:") and message in error


def test_a_polygon_is_drawn_and_damage_is_named(files, tmp_path):
    content = json.loads((files / "coco.json").read_text())
    content["annotations"][0]["segmentation"] = [[0, 0, 8, 0, 0, 8]]
    path = tmp_path / "polygons.json"
    path.write_text(json.dumps(content))
    (mask,) = masks_for(path, ["first"], (12, 16), "leaf", False)
    assert mask[0, 0] and mask[1, 5] and not mask[7, 7] and not mask[5, 2:6].all()
    with pytest.raises(FileNotFoundError, match="no image called third"):
        masks_for(path, ["third"], (12, 16), None, False)
    for damage in ("{}", "[", json.dumps({**content, "images": [{}]})):
        path.write_text(damage)
        with pytest.raises(ValueError, match="masks: "):
            masks_for(path, ["first"], (12, 16), None, False)
