"""Functions that questions of the tests call, also from processes of their own."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jmlv.campaigns import Answer, CallQuestion
from jmlv.graph.fingerprint import fingerprint

WEIGHTS = np.arange(12, dtype=np.float32).reshape(4, 3)


def square(x, seconds=0.0):
    time.sleep(seconds)
    return {"square": x * x, "pid": os.getpid()}


def with_array(x, seconds=0.0):
    time.sleep(seconds)
    return Answer({"x": x, "pid": os.getpid()}, {"numbers": np.arange(x)})


def fail(folder, times):
    """Fails so often, and then does not."""
    tried = len(list(Path(folder).glob("*")))
    Path(folder, f"{tried}").write_text(str(os.getpid()))
    if tried < times:
        raise ValueError(f"attempt {tried}")
    return {"tried": tried}


def die(folder, times):
    """Kills its process so often, and then does not."""
    tried = len(list(Path(folder).glob("*")))
    Path(folder, f"{tried}").write_text(str(os.getpid()))
    if tried < times:
        os.kill(os.getpid(), signal.SIGKILL)
    return {"tried": tried}


def hang_once_with_child(path):
    """Starts a process that would go on for long, notes its number, and waits for it."""
    if Path(path).exists():
        return {}
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    Path(path).write_text(str(child.pid))
    child.wait()


def sleep_once(path):
    if not Path(path).exists():
        Path(path).touch()
        time.sleep(60)
    return {"square": -1}


def fill_memory_once(path, mebibytes):
    if Path(path).exists():
        return {}
    Path(path).touch()
    block = np.ones(mebibytes * 2**17)
    time.sleep(60)
    return {"sum": block.sum()}


def fingerprints():
    """Of a network that is traced, and of one that has no sound rule."""

    def plain(x):
        return jax.nn.relu(x.reshape(x.shape[0], 4) @ WEIGHTS)

    def odd(x):
        return jnp.round(jax.nn.relu(jnp.exp(x.reshape(x.shape[0], 4)) @ WEIGHTS))

    return {"plain": fingerprint(plain, (2, 2, 1)), "odd": fingerprint(odd, (2, 2, 1))}


def key_of(x):
    return {"key": CallQuestion("math:sqrt", {"x": x}).key}


def cores():
    return {"cores": sorted(os.sched_getaffinity(0)), "pid": os.getpid()}
