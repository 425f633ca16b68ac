"""Compiled programs outlive the process, in the folder that was named first."""

import os
import subprocess
import sys

import pytest

SCRIPT = """
import sys
from collections import Counter
import jax, jax.numpy as jnp, jmlv

seen = Counter()
jax.monitoring.register_event_listener(lambda event, **_: seen.update([event]))
print(jmlv.keep_compiled(sys.argv[1]))
weights = jnp.arange(12.0).reshape(4, 3) % 5 - 2
f = lambda x: jax.nn.relu(x.reshape(-1, 4) @ weights) @ jnp.eye(3)
box = jmlv.Box.around(jnp.full((2, 2, 1), 0.5), 0.1)
print(float(jmlv.bound(f, box, jmlv.InTopK(0, 2), jmlv.CROWN()).lower))
print(seen["/jax/compilation_cache/cache_hits"])
"""


def _run(folder, **environment):
    clean = {
        k: v for k, v in os.environ.items() if not k.startswith(("JAX_COMPILATION", "JAX_PERS"))
    }
    command = [sys.executable, "-c", SCRIPT, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, env=clean | environment)
    assert done.returncode == 0, done.stderr
    used, margin, hits = done.stdout.split()
    return used, float(margin), int(hits)


def test_later_processes_take_programs_from_the_folder_unless_they_are_damaged(tmp_path):
    used, margin, hits = _run(tmp_path / "kept")
    assert used == str(tmp_path / "kept") and hits == 0
    files = set((tmp_path / "kept").iterdir())
    assert files
    assert _run(tmp_path / "kept") == (used, margin, pytest.approx(len(files), abs=len(files) - 1))
    for file in files:
        if file.name.endswith("-cache"):
            file.write_bytes(b"damaged")
    assert _run(tmp_path / "kept") == (used, margin, 0)


def test_a_folder_that_jax_has_already_stays(tmp_path):
    used, _, _ = _run(tmp_path / "other", JAX_COMPILATION_CACHE_DIR=str(tmp_path / "first"))
    assert used == str(tmp_path / "first") and not (tmp_path / "other").exists()
