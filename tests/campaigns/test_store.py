"""The store: several writers, kill -9 at any byte, first answers count."""

import json
import os
import shutil

import numpy as np
import pytest

from jmlv.campaigns import Answer, Store
from jmlv.errors import DamagedFile


def filled(folder, count=3):
    store = Store(folder)
    with store.writing():
        for i in range(count):
            store.started(f"key{i}", "worker")
            store.answered(f"key{i}", Answer({"i": i}, {"a": np.full(2, i)}), {"kind": "call"})
    return Store(folder)


def rows_file(folder):
    (path,) = (folder / "rows").glob("*.jsonl")
    return path


def test_what_is_written_is_read(tmp_path):
    filled(tmp_path)
    store = Store(tmp_path)
    assert {key: record["values"] for key, record in store.done.items()} == {
        f"key{i}": {"i": i} for i in range(3)
    }
    assert store.arrays("key2")["a"].tolist() == [2, 2]


def test_a_file_cut_at_any_byte_loses_the_torn_line_only(tmp_path):
    filled(tmp_path / "whole")
    data = rows_file(tmp_path / "whole").read_bytes()
    ends = [i for i, byte in enumerate(data) if byte == ord("\n")]
    cuts = {0, len(data), *range(5, len(data), 41), *ends, *(end + 1 for end in ends)}
    for cut in sorted(cuts):
        folder = tmp_path / "cut"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(tmp_path / "whole", folder)
        rows_file(folder).write_bytes(data[:cut])
        whole = [json.loads(line) for line in data[:cut].split(b"\n")[:-1]]
        store = Store(folder)
        assert list(store.done) == [r["key"] for r in whole if r["event"] == "done"]
        with store.writing():
            store.answered("new", Answer({}), {})
        assert rows_file(folder).read_bytes().startswith(data[: data[:cut].rfind(b"\n") + 1])
        assert list(Store(folder).done) == [
            *(r["key"] for r in whole if r["event"] == "done"),
            "new",
        ]


def test_two_writers_have_files_of_their_own_and_see_each_other(tmp_path):
    one, two = Store(tmp_path), Store(tmp_path)
    with one.writing(), two.writing():
        one.answered("a", Answer({"by": 1}), {})
        two.refresh()
        assert two.done["a"]["values"] == {"by": 1}
        two.answered("a", Answer({"by": 2}), {})
        two.answered("b", Answer({"by": 2}), {})
        one.refresh()
        assert one.done["a"]["values"] == {"by": 1} and "b" in one.done
        assert all(writer.alive for writer in one.writers.values())
    assert len(list((tmp_path / "rows").glob("*"))) == 2
    assert not any(writer.alive for writer in one.writers.values())
    with Store(tmp_path).writing():
        assert len(list((tmp_path / "rows").glob("*"))) == 2  # a dead writer's file is gone on with


def test_a_line_that_is_not_a_record_is_named(tmp_path):
    filled(tmp_path)
    lines = rows_file(tmp_path).read_bytes().split(b"\n")
    rows_file(tmp_path).write_bytes(b"\n".join([lines[0], b"{nonsense", *lines[1:]]))
    with pytest.raises(DamagedFile, match="line 2 of"):
        Store(tmp_path)


def test_missing_arrays_are_named(tmp_path):
    store = filled(tmp_path)
    (tmp_path / "arrays" / "key1.npz").write_bytes(b"nothing")
    with pytest.raises(DamagedFile, match="key1"):
        store.arrays("key1")


def test_a_full_disk_is_an_error_not_a_torn_row(tmp_path):
    store = Store(tmp_path)
    with store.writing():

        class Full:
            name = "rows"

            def write(self, line):
                return len(line) // 2

        whole, store._file = store._file, Full()
        with pytest.raises(OSError, match="only a part"):
            store.failed("key", {"reason": "x"})
        store._file = whole
    assert os.listdir(tmp_path / "rows")
