"""The experiment on smoothed neighbourhoods: methods at equal property, tables, and no stored lie."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
import smoothed_neighborhoods as experiment
import smoothed_photographs

from jmlv.cli.inputs import Example
from jmlv.data import MultiLabelImages

SIZES = {"proof": (0.5, 0.0), "isotropic": (1.0, 0.4), "layered": (2.0, 1.6)}


def records():
    for method, sizes in SIZES.items():
        for image, size in enumerate(sizes):
            judged = {} if method == "proof" else {"broken": False, "informed": 0.5 + image / 4}
            yield {
                "network": "a", "weights": "pixels", "method": method, "image": f"{image} side 0",
                "size": size, "certified": size > 0, "seconds": 1.0 + image, "samples": {"x": 10},
                "epsilon": [size, size / 2] if size else [], **judged,
            }  # fmt: skip


def test_tables_compare_the_same_images(tmp_path):
    experiment.report(list(records()), tmp_path)
    text = (tmp_path / "table.txt").read_text()
    duels = text.split("layered against")[1].splitlines()[2:]
    duel = {row[2]: row[3:] for row in map(str.split, duels)}
    assert float(duel["proof"][0]) == pytest.approx(1.8 / 0.25, rel=1e-3)
    assert float(duel["proof"][1]) == pytest.approx(4.0, rel=1e-3)  # only where both certify
    assert float(duel["isotropic"][0]) == pytest.approx(1.8 / 0.7, rel=1e-3)
    assert duel["isotropic"][2:] == ["2", "2"]
    experiment.report([one for one in records() if one["method"] == "proof"], tmp_path / "proofs")
    assert (tmp_path / "profiles.png").stat().st_size > 3000


def test_a_case_by_smoothing(monkeypatch):
    def f(x):
        half = x.shape[2] // 2
        left, right = x[:, :, :half].mean((1, 2, 3)), x[:, :, half:].mean((1, 2, 3))
        return jnp.stack([left, right] + [0 * left + 0.2] * 8, axis=1)

    mask = np.zeros((6, 8), bool)
    mask[1:5, 1:3] = True
    x = np.full((6, 8, 1), 0.6, np.float32)
    one = Example("0 (0, 1)", x, mask, mask[:, ::-1], 0, 1)
    monkeypatch.setattr(experiment, "subject", lambda *_: (f, one))
    monkeypatch.setattr(experiment, "informed", lambda *_: 1.0)
    record = experiment.layered("folder", 0, 0, "pixels", 400)
    assert record["certified"] and not record["broken"] and record["informed"] == 1
    assert record["size"] == max(look["value"] for look in record["looks"]) > 0
    assert experiment.ISOTROPIC.starts == 0


def test_every_variant_is_another_call():
    assert len({repr(settings) for settings in experiment.VARIANTS.values()}) == len(
        experiment.VARIANTS
    )
    assert experiment.VARIANTS["default"] == {}


def test_the_largest_box_of_each_label_is_taken():
    masks = np.zeros((1, 4, 128, 128), bool)
    for mask, side in zip(masks[0], (40, 50, 30, 2)):
        mask[:side, :side] = True
    data = MultiLabelImages(
        np.zeros((1, 128, 128, 3), np.float32), np.ones((1, 3), bool), masks,
        np.array([[0, 0, 1, 2]]), np.array([[7]]), ("a", "b", "c"), "train", "x",
    )  # fmt: skip
    assert smoothed_photographs.boxes(data, 0) == [1, 2]
    assert smoothed_photographs.related(data) == []
    rings = smoothed_photographs.rings(masks[0, 2])
    assert rings.mask(1)[:30, 30].all() and rings.mask(1)[0, 39] and not rings.mask(1)[0, 40]


def test_an_outline_is_that_of_its_box_and_a_group_is_its_box(tmp_path):
    common = {"image_id": 7, "bbox": [50.0, 0.0, 50.0, 40.0]}
    triangle = [0.0, 0.0, 100.0, 0.0, 0.0, 50.0]
    content = {
        "images": [{"id": 7, "width": 100, "height": 50}],
        "annotations": [
            common | {"id": 9, "iscrowd": 1, "segmentation": {"counts": [1], "size": [50, 100]}},
            common | {"id": 3, "iscrowd": 0, "segmentation": [triangle]},
        ],
    }
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "instances_train2017.json").write_text(json.dumps(content))
    drawn = smoothed_photographs.outline(tmp_path, 7, 0)
    assert drawn[0, :].all() and drawn[:, 0].all() and not drawn[-1, 2:].any()
    assert drawn.mean() == pytest.approx(0.5, abs=0.02)
    group = smoothed_photographs.outline(tmp_path, 7, 1)
    assert group[:102, 64:].all() and not group[:, :63].any() and not group[104:].any()
