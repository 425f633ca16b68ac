"""What ``import jmlv`` offers, and what it leaves for later."""

import ast
import pathlib
import subprocess
import sys

import pytest

import jmlv

FOLDER = pathlib.Path(jmlv.__file__).parent

VERIFYING = """
import sys
import jmlv
assert "jax" not in sys.modules
jmlv.verify, jmlv.Box, jmlv.InTopK
dear = ("flax", "scipy.sparse", "sklearn", "matplotlib", "jmlv.attacks", "jmlv.neighborhoods")
late = [name for name in dear if name in sys.modules]
assert not late, late
assert jmlv.interop.read_vnnlib and jmlv.checkpoints.restore and jmlv.data.double_digits
"""


def test_names_are_imported_when_they_are_first_used():
    """A process of its own: here they are imported already."""
    subprocess.run([sys.executable, "-c", VERIFYING], check=True)


def test_every_name_is_there():
    stub = ast.parse((FOLDER / "__init__.pyi").read_text())
    imports = [node for node in stub.body if isinstance(node, ast.ImportFrom)]
    names = [alias.name for node in imports for alias in node.names]
    assert sorted(names) == sorted(set(names)) == sorted(jmlv.__all__) and len(names) > 100
    for name in names:
        assert getattr(jmlv, name) is not None and name in dir(jmlv)


def test_every_part_is_there():
    for name in {path.parent.name for path in FOLDER.glob("*/__init__.py")}:
        assert getattr(jmlv, name).__name__ == f"jmlv.{name}"


def test_other_names_are_missing():
    with pytest.raises(AttributeError, match="No jmlv attribute nowhere"):
        jmlv.nowhere  # noqa: B018
