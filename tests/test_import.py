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


FLOORS = (
    {"graph"},
    {"bounds"},
    {"oracles"},
    {"neighborhoods", "labels", "smoothing", "attacks", "training", "guarantees"},
    {"campaigns"},
    {"cli", "__main__"},
)
"""From the lowest; what is on none of them is a value, or beside them."""

BESIDE = {"models": -1, "data": -1, "report": -1, "plotting": 3, "interop": 0, "checkpoints": 0}
"""The highest floor that these import."""


def floor_of(part):
    return next((n for n, floor in enumerate(FLOORS) if part in floor), -1)


def imported(path):
    """Parts of jmlv that a file imports when it is imported itself."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ImportFrom) and node.module.partition(".")[0] == "jmlv":
            part = node.module.partition(".")[2].partition(".")[0]
            yield from [part] if part else [alias.name for alias in node.names]


def test_imports_go_down_only():
    wrong = []
    for path in sorted(FOLDER.rglob("*.py")):
        part = path.relative_to(FOLDER).parts[0].removesuffix(".py")
        highest = BESIDE.get(part, floor_of(part))
        wrong += [
            f"{path.relative_to(FOLDER)}: {p}" for p in imported(path) if floor_of(p) > highest
        ]
        if part not in BESIDE and highest <= 3:
            beside = set(imported(path)) & {"report", "plotting"}
            wrong += [f"{path.relative_to(FOLDER)}: {p}" for p in beside]
    assert not wrong
