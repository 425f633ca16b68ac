"""The perceptron for tables: sizes, agreement with NumPy, checkpoints, training, verification."""

import json

import jax
import numpy as np
import pytest
from flax import nnx

import jmlv
from jmlv import checkpoints
from jmlv.data import MultiLabelImages
from jmlv.models import CNNConfig, MLPConfig, MultiLabelMLP, config_from_json, config_to_json
from jmlv.training import AsymmetricLoss, GaussianNoise, TrainingConfig, train

CASES = {
    "two layers": MLPConfig((1, 7, 1), hidden=(5, 4), labels=3),
    "linear": MLPConfig((1, 7, 1), hidden=(), labels=2),
    "colour": MLPConfig((2, 3, 3), hidden=(6,), labels=4),
}
BOX = MLPConfig((1, 6, 1), hidden=(16,), labels=4)


def table(rows: int = 600, seed: int = 0) -> MultiLabelImages:
    """Label j: whether feature j is above one half."""
    x = np.random.default_rng(seed).random((rows, 1, 6, 1)).astype(np.float32)
    return MultiLabelImages(
        images=x,
        labels=x[:, 0, :4, 0] > 0.5,
        masks=np.zeros((rows, 0, 1, 6), bool),
        object_labels=np.zeros((rows, 0), np.int64),
        source_indices=np.arange(rows)[:, None],
        label_names=tuple("abcd"),
        split="train",
        origin="random numbers",
    )


@pytest.mark.parametrize("case", CASES)
def test_agrees_with_plain_numpy(case):
    config = CASES[case]
    model = config.build(rngs=nnx.Rngs(1))
    x = np.random.default_rng(0).random((3, *config.input_shape)).astype(np.float32)
    values = x.reshape(3, -1)
    for number in range(len(config.hidden) + 1):
        layer = getattr(model, f"dense{number}")
        values = np.maximum(values, 0) if number else values
        values = values @ np.asarray(layer.kernel[...]) + np.asarray(layer.bias[...])
    assert np.allclose(model(x), values, atol=1e-5)
    assert config.neurons == sum(config.hidden)


@pytest.mark.parametrize("case", CASES)
def test_a_checkpoint_is_restored_bit_for_bit(case, tmp_path):
    model = CASES[case].build(rngs=nnx.Rngs(2))
    restored, _ = checkpoints.restore(checkpoints.save(tmp_path / "net", model))
    assert isinstance(restored, MultiLabelMLP) and restored.config == CASES[case]
    for before, after in zip(
        *(jax.tree.leaves(nnx.state(m)) for m in (model, restored)), strict=True
    ):
        assert np.asarray(before).tobytes() == np.asarray(after).tobytes()


@pytest.mark.parametrize("config", [*CASES.values(), CNNConfig(labels=3)])
def test_files_name_the_kind(config):
    assert config_from_json(json.loads(json.dumps(config_to_json(config)))) == config
    assert "kind" not in config_to_json(CNNConfig())  # older code reads these
    with pytest.raises(ValueError, match="the kind 'rnn'; expected one of"):
        config_from_json(config_to_json(config) | {"kind": "rnn"})


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"input_shape": (1, 7)}, "input_shape"),
        ({"hidden": (4, 0)}, "hidden"),
        ({"hidden": [4]}, "hidden"),
        ({"labels": 0}, "labels"),
    ],
)
def test_impossible_sizes_are_named(options, name):
    with pytest.raises((ValueError, TypeError), match=name):
        MLPConfig(**{"input_shape": (1, 7, 1)} | options)


@pytest.mark.parametrize(
    ("options", "right"),
    [
        ({}, 0.93),
        ({"defence": GaussianNoise(0.05)}, 0.93),
        ({"loss": AsymmetricLoss()}, 0.85),  # it lets scores of absent labels rise above zero
    ],
)
def test_training_learns_a_table(options, right):
    config = TrainingConfig(epochs=30, batch_size=32, learning_rate=1e-2)
    model = train(table(), BOX, config, **options).model
    tests = table(seed=1)
    assert ((np.asarray(model(tests.images)) > 0) == tests.labels).mean() > right


def test_wrong_shapes_name_the_config_to_pass():
    with pytest.raises(ValueError, match=r"MLPConfig\(input_shape=\(1, 6, 1\)\)"):
        train(table(), CASES["two layers"])
    with pytest.raises(ValueError, match=r"MLPConfig\(labels=4\)"):
        train(table(), MLPConfig((1, 6, 1), labels=3))


def test_the_verbs_work_on_rows():
    config = TrainingConfig(epochs=15, batch_size=32, learning_rate=1e-2)
    model, data = train(table(), BOX, config).model, table(seed=1)
    scores = np.asarray(model(data.images))
    row = int(np.argmax(scores[:, 0]))
    x = data.images[row]
    prop = jmlv.AboveThreshold(0, 0.0)
    assert jmlv.verify(model, jmlv.Box.around(x, 0.01), prop).status.name == "ROBUST"
    assert jmlv.verify(model, jmlv.Box.around(x, 1.0), prop).status.name == "NOT_ROBUST"
    feature = np.zeros((1, 6), bool)
    feature[0, 0] = True  # label 0 follows feature 0 alone, so a mask of it is enough
    result = jmlv.attack(model, x[None], jmlv.Hide(0), jmlv.MIFGSM(), budgets=[1.0], mask=feature)
    assert result.success.all() and not np.any((result.images[0, 0] != x)[0, 1:])
    counts = jmlv.sample_counts(model, x, sigma=0.1, n=64, k_prime=2, key=jax.random.key(0))
    assert counts.sum() == 128
