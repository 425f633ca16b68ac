"""What ``import jmlv`` offers, and what it leaves for later."""

import pathlib
import subprocess
import sys

import pytest

import jmlv

PROGRAM = """
import sys
import jmlv
late = [name for name in {names} if f"jmlv.{{name}}" in sys.modules]
assert not late, late
assert jmlv.interop.read_vnnlib and jmlv.checkpoints.restore and jmlv.data.double_digits
"""


def test_parts_are_imported_when_they_are_first_used():
    """A process of its own: here they are imported already."""
    program = PROGRAM.format(names=sorted(jmlv._LATER))
    subprocess.run([sys.executable, "-c", program], check=True)


def test_every_part_is_there():
    folder = pathlib.Path(jmlv.__file__).parent
    packages = {path.parent.name for path in folder.glob("*/__init__.py")}
    for name in packages | jmlv._LATER:
        assert getattr(jmlv, name).__name__ == f"jmlv.{name}" and name in dir(jmlv)


def test_other_names_are_missing():
    with pytest.raises(AttributeError, match="no attribute 'nowhere'"):
        jmlv.nowhere  # noqa: B018
