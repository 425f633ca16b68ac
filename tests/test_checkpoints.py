"""Checkpoints: round trips, damage, and the committed ones."""

import json
import shutil
import socket
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jmlv.checkpoints import FORMAT_VERSION, Metadata, available, restore, save
from jmlv.data import double_digits
from jmlv.models import CNNConfig, MultiLabelCNN
from jmlv.training import pgd_accuracy, top_k_accuracy

COMMITTED = Path(__file__).parents[1] / "checkpoints"
NAMES = [f"double_digits_{defence}" for defence in ("none", "l0", "linf", "noise")]
METADATA = Metadata({"name": "random"}, {"seed": 3}, {"top_k_accuracy": 0.25})
ODD = CNNConfig(input_shape=(20, 12, 2), channels=(3, 5), pool=None, labels=4)


def weights(model: MultiLabelCNN) -> list[np.ndarray]:
    return [np.asarray(leaf) for leaf in jax.tree.leaves(nnx.state(model))]


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    return save(tmp_path_factory.mktemp("saved") / "odd", network(), METADATA)


def network(seed: int = 3) -> MultiLabelCNN:
    return MultiLabelCNN(ODD, rngs=nnx.Rngs(seed))


@pytest.fixture
def folder(written, tmp_path) -> Path:
    """A copy to damage."""
    return shutil.copytree(written, tmp_path / "copy")


def test_a_name_that_is_missing_here_is_not_the_librarys(written, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert restore("checkpoints/double_digits_linf")[1].data  # there are no checkpoints here
    shutil.copytree(written, tmp_path / "checkpoints" / "odd")
    assert restore("checkpoints/odd")[0].config == ODD
    with pytest.raises(FileNotFoundError, match="double_digits_linf"):
        restore("checkpoints/double_digits_linf")


# ---------------------------------------------------------------------- round trips


def test_round_trip_is_bit_exact(written):
    model, metadata = restore(written)
    assert model.config == ODD and metadata == METADATA
    for before, after in zip(weights(network()), weights(model), strict=True):
        assert before.dtype == after.dtype and before.tobytes() == after.tobytes()


def test_restored_model_computes_the_same_scores(written):
    x = jax.random.uniform(jax.random.key(0), (5, *ODD.input_shape))
    model = restore(written)[0]
    assert (model(x) == network()(x)).all()
    assert jnp.allclose(jax.jit(lambda x: model(x))(x), network()(x), atol=1e-5)


def test_a_relative_path_will_do(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save("here", network())
    assert restore("here")[1] == Metadata()


def test_a_moved_checkpoint_restores(folder):
    assert restore(folder)[1] == METADATA


def test_metadata_is_readable_json(written):
    content = json.loads((written / "metadata.json").read_text())
    assert content["format_version"] == FORMAT_VERSION
    assert CNNConfig.from_json(content["model"]) == ODD


def test_overwriting_must_be_asked_for(folder):
    with pytest.raises(FileExistsError, match="overwrite=True"):
        save(folder, network(4))
    save(folder, network(4), overwrite=True)
    model, metadata = restore(folder)
    assert metadata == Metadata()
    assert weights(model)[1].tobytes() == weights(network(4))[1].tobytes()


def test_files_name_no_machine(written):
    host = socket.gethostname()
    for file in (path for path in written.rglob("*") if path.is_file()):
        content = file.read_bytes()
        assert str(written.parent).encode() not in content, file.name
        if len(host) > 5:  # a shorter name turns up in any compressed bytes
            assert host.encode() not in content, file.name


def test_available_lists_checkpoints_only(written, tmp_path):
    (tmp_path / "no_checkpoint").mkdir()
    assert available(tmp_path) == ()
    assert available(written.parent) == (written,)


# --------------------------------------------------------------------------- damage


def test_missing_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="folder: got .*nowhere.*available"):
        restore(tmp_path / "nowhere")


def test_missing_metadata(folder):
    (folder / "metadata.json").unlink()
    with pytest.raises(FileNotFoundError, match="no metadata.json"):
        restore(folder)


def test_missing_weights(folder):
    shutil.rmtree(folder / "weights")
    with pytest.raises(FileNotFoundError, match="no weights/"):
        restore(folder)


DAMAGE = {
    "half": lambda b: b[: len(b) // 2],
    "empty": lambda b: b"",
    "flipped byte": lambda b: b[: len(b) // 2] + bytes([b[len(b) // 2] ^ 1]) + b[len(b) // 2 + 1 :],
}


def largest_file(folder: Path) -> Path:
    return max((folder / "weights").rglob("*"), key=lambda p: p.is_file() and p.stat().st_size)


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_weights(folder, damage):
    file = largest_file(folder)
    file.write_bytes(DAMAGE[damage](file.read_bytes()))
    with pytest.raises(ValueError, match="folder: the weights in .*train it again"):
        restore(folder)


@pytest.mark.parametrize("name", ["_METADATA", "manifest.ocdbt", "d", "ocdbt.process_0"])
def test_missing_part_of_the_weights(folder, name):
    part = folder / "weights" / name
    shutil.rmtree(part) if part.is_dir() else part.unlink()
    with pytest.raises(ValueError, match="folder: the weights in .* damaged"):
        restore(folder)


def test_weights_of_another_network_of_the_same_shape(folder, tmp_path):
    other = save(tmp_path / "other", network(4))
    shutil.rmtree(folder / "weights")
    shutil.copytree(other / "weights", folder / "weights")
    with pytest.raises(ValueError, match="not those that its metadata.json was written for"):
        restore(folder)


def test_an_error_inside_orbax_is_named(folder, monkeypatch):
    """Orbax raises many types; a damaged file that got past the digest is one cause."""

    def failing():
        raise KeyError("conv1")

    monkeypatch.setattr("jmlv.checkpoints._checkpointer", failing)
    with pytest.raises(ValueError, match="damaged or of another network: got KeyError"):
        restore(folder)


def edit(folder: Path, **changes: object) -> None:
    file = folder / "metadata.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_metadata_of_another_shape(folder):
    edit(folder, model=CNNConfig().to_json())
    with pytest.raises(ValueError, match="folder: the weights in .* of another network"):
        restore(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format_version": 99}, "format version 99"),
        ({"model": {"labels": 3}}, "describes no network"),
        ({"model": 3}, "describes no network"),
        ({"model": ODD.to_json() | {"labels": 0}}, "describes no network"),
    ],
)
def test_changed_metadata(folder, changes, message):
    edit(folder, **changes)
    with pytest.raises(ValueError, match=message):
        restore(folder)


@pytest.mark.parametrize("content", ["", "{", "[1, 2]", "3", '{"format_version": 1}'])
def test_damaged_metadata(folder, content):
    (folder / "metadata.json").write_text(content)
    with pytest.raises(ValueError, match="folder: metadata.json in"):
        restore(folder)


# ------------------------------------------------------------- the committed ones


def test_all_are_committed():
    assert {path.name for path in available()} >= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_committed_checkpoints_reach_their_accuracy(name):
    """On 500 of the test images: within 4 standard errors of the share on all."""
    model, metadata = restore(COMMITTED / name)
    data = double_digits("test", size=500, seed=metadata.data["test"]["seed"])
    stated = metadata.metrics["top_k_accuracy"]
    tolerance = 4 * np.sqrt(stated * (1 - stated) / len(data))
    assert abs(top_k_accuracy(model, data.images, data.labels) - stated) < tolerance


@pytest.mark.parametrize("name", NAMES)
def test_committed_checkpoints_withstand_pgd_as_stated(name):
    """On 200 test images and another key, at radius 0.01."""
    model, metadata = restore(COMMITTED / name)
    data = double_digits("test", size=200, seed=metadata.data["test"]["seed"])
    stated = metadata.metrics["pgd_accuracy_0.01"]
    tolerance = 4 * np.sqrt(stated * (1 - stated) / len(data))
    share = pgd_accuracy(model, data.images, data.labels, 0.01, 5, jax.random.key(9))
    assert abs(share - stated) < tolerance + 0.02


def test_the_undefended_network_is_accurate_enough():
    assert restore(COMMITTED / "double_digits_none")[1].metrics["top_k_accuracy"] >= 0.97


def test_all_share_one_architecture():
    assert len({restore(COMMITTED / name)[0].config for name in NAMES}) == 1


@pytest.mark.parametrize("name", NAMES)
def test_committed_checkpoints_are_small_and_name_no_machine(name):
    files = [path for path in (COMMITTED / name).rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 400_000
    for path in files:
        content = path.read_bytes()
        assert not any(f"/{word}/".encode() in content for word in ("tmp", "home", "Users")), (
            path.name
        )
        assert str(COMMITTED.parent).encode() not in content, path.name
