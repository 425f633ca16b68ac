"""Worker processes: cores, limits from outside, deaths, and networks that travel by name."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from campaign_tasks import fingerprints, key_of
from test_campaign import records, squares

import jmlv
from jmlv.campaigns import (
    CallQuestion,
    Campaign,
    Checkpoint,
    Factory,
    Held,
    Network,
    Processes,
    Store,
    VerifyQuestion,
)
from jmlv.campaigns.executors import process

X = np.array([[[0.8], [0.3]]], np.float32)


def pair(scale):
    """A network that worker processes make for themselves."""
    return lambda x: np.float32(scale) * x.reshape(x.shape[0], 2)


def alive(pid):
    return Path(f"/proc/{pid}/stat").exists() and " Z " not in Path(f"/proc/{pid}/stat").read_text()


def test_one_run_with_everything_that_can_happen(tmp_path):
    """One run for all of it, since starting workers is what takes time."""
    for name in ("dies", "fails"):
        (tmp_path / name).mkdir()
    network = Network.of(Factory("test_processes:pair", (1.0,), (1, 2, 1)))
    box = jmlv.Box.around(X, np.float32(0.1))
    verify = VerifyQuestion(network, box, jmlv.InTopK(0, k=1), jmlv.Bounds())
    dies = CallQuestion("campaign_tasks:die", {"folder": str(tmp_path / "dies"), "times": 1})
    fails = CallQuestion("campaign_tasks:fail", {"folder": str(tmp_path / "fails"), "times": 1})
    held = Network.of(Held(lambda x: pair(2.0)(x), (1, 2, 1)))
    held = VerifyQuestion(held, box, jmlv.InTopK(0, k=1))
    cores = [CallQuestion("campaign_tasks:cores", version=i) for i in range(4)]
    child = tmp_path / "child"
    hangs = CallQuestion("campaign_tasks:hang_once_with_child", {"path": str(child)}, budget=1.0)
    greedy = {"path": str(tmp_path / "greedy"), "mebibytes": 1500}
    greedy = CallQuestion("campaign_tasks:fill_memory_once", greedy)
    names = CallQuestion("campaign_tasks:fingerprints")
    key = CallQuestion("campaign_tasks:key_of", {"x": {"b": (2.0, "a", None), "a": jmlv.CROWN()}})
    asked = [*squares(8), dies, fails, verify, held, *cores, hangs, greedy, key, names]
    executor = Processes(workers=2, memory=1400, grace=0.5)
    rows = {row.question.key: row for row in Campaign(asked, tmp_path / "c").run(executor)}
    reasons = {r["key"]: r["reason"] for r in records(tmp_path / "c", "failed")}

    assert len(rows) == len(asked)
    assert [rows[q.key].values["square"] for q in asked[:8]] == [x * x for x in range(8)]
    assert rows[verify.key].values["status"] == "ROBUST"
    assert all(len(rows[q.key].values["cores"]) == 1 for q in cores), "each keeps to its core"

    assert rows[dies.key].values == rows[fails.key].values == {"tried": 1}
    assert "its worker died: killed by signal 9" in reasons[dies.key]
    assert "attempt 0" in reasons[fails.key]
    first, second = (path.read_text() for path in sorted((tmp_path / "fails").iterdir()))
    assert first != second, "a question is asked elsewhere after it failed"

    assert "lives in this process alone" in rows[held.key].reason
    assert "stopped: it took more than 1.5 times its 1 s" in reasons[hangs.key]
    assert not alive(int(child.read_text())), "what it started is stopped with it"
    assert "out of memory: stopped at" in reasons[greedy.key]
    assert not rows[hangs.key].failed and not rows[greedy.key].failed
    assert rows[key.key].values == {"key": key_of({"a": jmlv.CROWN(), "b": (2, "a", None)})["key"]}
    assert rows[names.key].values == fingerprints()
    used = {rows[q.key].values["pid"] for q in asked[:8]}
    assert os.getpid() not in used and not any(map(alive, used))


CODE = """
import sys
from jmlv.campaigns import CallQuestion, Campaign, Processes
asked = [CallQuestion("campaign_tasks:with_array", {"x": x, "seconds": 0.02}) for x in range(400)]
for row in Campaign(asked, sys.argv[1]).run(Processes(workers=1)):
    print(row.question.key, row.values["x"], row.values["pid"], flush=True)
"""


def test_workers_end_with_a_killed_campaign_and_nothing_is_lost(tmp_path):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, sys.path))}
    command = [sys.executable, "-c", CODE, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as driver:
        counted = [driver.stdout.readline().split() for _ in range(5)]
        driver.kill()
        counted += [line.split() for line in driver.stdout.read().split("\n")[:-1]]
    store, worker = Store(tmp_path), int(counted[0][2])
    assert all(store.arrays(key)["numbers"].shape == (int(x),) for key, x, _ in counted)
    deadline = time.monotonic() + 10
    while alive(worker) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(worker)


def test_a_network_that_was_changed_is_refused(tmp_path):
    named = Network.of(Factory("test_processes:pair", (1.0,), (1, 2, 1)))
    other = Network(Factory("test_processes:pair", (3.0,), (1, 2, 1)), "0" * 64, "other", (1, 2, 1))
    question = VerifyQuestion(other, jmlv.Box.around(X, 0.1), jmlv.InTopK(0, k=1))
    (row,) = Campaign([question], tmp_path).run(attempts=1)
    assert "expected 000000000000" in row.reason and named.fingerprint != other.fingerprint


def test_a_committed_network_is_known_by_its_content():
    folder = Path(jmlv.__file__).parents[1] / "checkpoints" / "double_digits_none"
    network = Network.of(Checkpoint(folder))
    assert network.name == "double_digits_none"
    assert network.fingerprint == Network.of(Checkpoint(folder), "another name").fingerprint


def test_a_worker_that_cannot_start_ends_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(process, "_WORKER", tmp_path / "nothing.py")
    with pytest.raises(RuntimeError, match="before it was ready.*nothing.py"):
        list(Campaign(squares(1), tmp_path).run(Processes(workers=1)))
