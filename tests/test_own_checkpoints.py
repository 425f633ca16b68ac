"""Checkpoints of one's own modules: written whole, rebuilt only from code that is named."""

import json
import sys

import jax
import numpy as np
import pytest
from flax import nnx
from own_modules import Flat, Tower

from jmlv import checkpoints
from jmlv.cli import main
from jmlv.errors import DamagedFile

SHAPE = (2, 2, 3)
CONFIGURATION = {"widths": [5, 4], "labels": 3}
X = np.random.default_rng(0).random((4, *SHAPE), np.float32)


def tower():
    model = Tower(**CONFIGURATION, rngs=nnx.Rngs(3))
    model(X)  # moves the running statistics
    model.eval()
    return model


@pytest.fixture(scope="module")
def nnx_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("nnx") / "tower"
    return checkpoints.save(folder, tower(), configuration=CONFIGURATION, input_shape=SHAPE)


@pytest.fixture(scope="module")
def linen_folder(tmp_path_factory):
    module = Flat((5, 4), 3)
    return checkpoints.save(
        tmp_path_factory.mktemp("linen") / "flat", module, checkpoints.Metadata({"name": "own"}),
        configuration=CONFIGURATION, input_shape=SHAPE, variables=module.init(jax.random.key(1), X),
    )  # fmt: skip


@pytest.mark.parametrize("named", ["own_modules:Tower", Tower])
def test_an_nnx_module_comes_back_in_evaluation_mode(named, nnx_folder):
    model, metadata = checkpoints.restore(nnx_folder, module=named)
    np.testing.assert_array_equal(model(X), tower()(X))
    assert metadata.input_shape == SHAPE and isinstance(model, Tower)


def test_a_linen_module_comes_back_as_a_function(linen_folder):
    f, metadata = checkpoints.restore(linen_folder, module=Flat)
    module = Flat((5, 4), 3)
    expected = module.apply(module.init(jax.random.key(1), X), X)
    np.testing.assert_array_equal(f(X), expected)
    assert metadata.data == {"name": "own"} and f.module == module


@pytest.mark.parametrize("named", [None, "own_modules:Flat", "os:system", Flat])
def test_no_code_runs_that_was_not_named(named, nnx_folder):
    with pytest.raises(ValueError, match="its code runs only if you name it|Its code runs"):
        checkpoints.restore(nnx_folder, module=named)


def test_what_a_file_names_is_never_imported_by_itself(nnx_folder, tmp_path, monkeypatch):
    """A folder from elsewhere that names a module with effects, beside it on the path."""
    (tmp_path / "evil.py").write_text("raise SystemExit('ran')\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    path = nnx_folder / "metadata.json"
    kept = path.read_text()
    try:
        path.write_text(kept.replace("own_modules:Tower", "evil:Tower"))
        with pytest.raises(ValueError, match="Its code runs"):
            checkpoints.restore(nnx_folder)
        assert main(["check", str(nnx_folder)]) == 2 and "evil" not in sys.modules
    finally:
        path.write_text(kept)


def test_the_command_line_takes_the_code_that_is_named(nnx_folder, linen_folder, capsys):
    for folder, kind in ((nnx_folder, "Tower"), (linen_folder, "Flat")):
        assert main(["check", str(folder), "--module", f"own_modules:{kind}"]) == 0
        assert "3 scores" in capsys.readouterr().out
    assert main(["check", str(nnx_folder)]) == 2
    assert "--module own_modules:Tower" in capsys.readouterr().err


def _saved(tmp_path, **changes):
    arguments = {"configuration": CONFIGURATION, "input_shape": SHAPE} | changes
    model = arguments.pop("model", None) or tower()
    return checkpoints.save(tmp_path / "new", model, **arguments)


class Local(Tower):
    pass


Local.__qualname__ = "test.<locals>.Local"
WRONG = {
    "no configuration": (dict(configuration=None), "configuration: Tower is a module"),
    "no shape": (dict(input_shape=None), "input_shape: Tower is a module"),
    "other sizes": (dict(configuration={"widths": [5, 7], "labels": 3}), "has other weights"),
    "an unknown name": (dict(configuration={"width": 5}), "cannot be built of"),
    "not of JSON": (dict(configuration={"widths": {3}}), "JSON cannot hold it"),
    "keys that JSON changes": (dict(configuration={"widths": {1: 2}}), "JSON makes"),
    "no variables": (dict(model=Flat((5, 4), 3)), "variables: Flat is a module"),
    "a local class": (dict(model=Local((5, 4), 3, nnx.Rngs(0))), "cannot be imported"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_could_not_be_rebuilt_is_not_written(name, tmp_path):
    changes, message = WRONG[name]
    with pytest.raises(ValueError, match=message):
        _saved(tmp_path, **changes)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("damage", ["module", "configuration", "input_shape"])
def test_damaged_descriptions_are_named(damage, nnx_folder, tmp_path):
    path = nnx_folder / "metadata.json"
    kept = path.read_text()
    content = json.loads(kept)
    del content["model"][damage]
    try:
        path.write_text(json.dumps(content))
        with pytest.raises(DamagedFile, match="describes no module"):
            checkpoints.restore(nnx_folder, module=Tower)
    finally:
        path.write_text(kept)
