"""A wheel contains what it needs: the example works where there is nothing but the wheel."""

import os
import pathlib
import subprocess
import sys
import zipfile

import pytest

import jmlv

ROOT = pathlib.Path(jmlv.__file__).parents[1]
PROGRAM = """
import numpy as np
import jmlv
from jmlv import checkpoints
from jmlv.data import double_digits

assert jmlv.__file__.startswith({site!r}), jmlv.__file__
assert len(checkpoints.available()) >= 5
model, _ = checkpoints.restore("checkpoints/double_digits_linf")
digits = double_digits("test", size=4)[3]
box = jmlv.Box.around(digits.images[0], np.float32(0.005))
asked = jmlv.InTopK(int(digits.object_labels[0, 1]), k=2)
verdict = jmlv.verify(model, box, asked, jmlv.Bounds(jmlv.CROWN()))
verdict.report("verdict.html", model, region=box, property=asked)
print(verdict.status.name)
"""


@pytest.mark.slow
@pytest.mark.skipif(not (ROOT / "setup.py").is_file(), reason="there are no sources here")
def test_the_wheel_is_enough(tmp_path):
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "-q", "-w"]
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if tracked.returncode:
        pytest.skip("there is no git here")
    sources, site, empty = (tmp_path / name for name in ("sources", "site", "empty"))
    for name in tracked.stdout.splitlines():
        if not name.startswith(("tests/", "docs/", "experiments/")):
            (sources / name).parent.mkdir(parents=True, exist_ok=True)
            (sources / name).write_bytes((ROOT / name).read_bytes())
    subprocess.run([*build, str(tmp_path), str(sources)], check=True)
    (wheel,) = tmp_path.glob("jmlv-*.whl")
    with zipfile.ZipFile(wheel) as content:
        assert {"jmlv/py.typed", "jmlv/__init__.pyi"} <= set(content.namelist())
        content.extractall(site)
    empty.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(site)}
    program = [sys.executable, "-c", PROGRAM.format(site=str(site))]
    done = subprocess.run(program, cwd=empty, env=environment, capture_output=True, text=True)
    assert done.stdout == "ROBUST\n", done.stderr
    assert (empty / "verdict.html").stat().st_size > 1000
