"""Results in a JSON-lines file that survives interruption and that several processes share."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from jmlv.canonical import digest
from jmlv.errors import DamagedFile
from jmlv.graph.fingerprint import fingerprint
from jmlv.lines import whole_lines
from jmlv.oracles import Query

FORMAT = 5
"""Goes up when a query's answer can no longer be taken for that of the same query before."""


def query_key(query: Query, *settings: Any) -> str:
    """A digest of everything that an answer depends on.

    Args:
        query: the network's fingerprint and the box go in; its property does not.
        settings: whatever else matters.

    Raises:
        TypeError: a setting is nothing that another process would find too.
        UnsupportedOperation: the network is none that has a name (:mod:`jmlv.graph.fingerprint`).
    """
    ball = None
    if query.ball is not None:
        exact = query.ball.exact()
        layers = None if exact.layers is None else exact.membership
        ball = exact.norm, exact.x, exact.radius, exact.weights, layers
    box = query.lower, query.upper, query.inner
    return digest(
        ("jmlv labels", FORMAT, fingerprint(query.network), settings, box, ball), "labels"
    )


class Store:
    """An append-only file of one JSON object a line, each with a ``key``.

    A line is written under a lock and flushed before the lock goes. A last line without its end
    was torn by an interruption: it is not read, and the next writer drops it.

    While a process works on a key it holds a lock on one byte of ``<path>.lock``; the system
    frees it when the process ends, however it ends. (POSIX record locks: between processes, on a
    file system that has them; not between threads of one.)
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._claims = open(self.path.with_name(self.path.name + ".lock"), "ab")
        self._known: dict[str, Mapping[str, Any]] = {}
        self._read = 0
        self._line = 0

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self._claims.close()

    def known(self) -> Mapping[str, Mapping[str, Any]]:
        """Every record in the file now, by its key: the last one, where a key has several.

        Raises:
            DamagedFile: a whole line is not a record.
        """
        if self.path.exists():
            with self.path.open("rb") as file:
                file.seek(self._read)
                whole, end, _ = file.read().rpartition(b"\n")
            self._read += len(whole) + len(end)
            for line in whole.split(b"\n") if end else ():
                self._line += 1
                record = self._parse(line)
                self._known[record["key"]] = record
        return self._known

    def _parse(self, line: bytes) -> Mapping[str, Any]:
        try:
            record = json.loads(line)
            if isinstance(record, dict) and isinstance(record.get("key"), str):
                return record
        except ValueError:
            pass
        raise DamagedFile(
            f"path: line {self._line} of {self.path} is not a record of labels. "
            "Remove the line, and its query is answered anew."
        )

    def append(self, record: Mapping[str, Any]) -> None:
        """Adds a record with a ``key`` as one line."""
        import fcntl  # here and below: the package imports where there is none

        line = json.dumps(record, allow_nan=False).encode() + b"\n"
        with self.path.open("ab+") as file:
            fcntl.lockf(file, fcntl.LOCK_EX)
            file.truncate(whole_lines(file))
            file.write(line)
            file.flush()
            os.fsync(file.fileno())

    @contextlib.contextmanager
    def claim(self, key: str) -> Iterator[bool]:
        """Whether the key is this process's to work on, for the length of the block."""
        import fcntl

        place = int(key[:15], 16)
        try:
            fcntl.lockf(self._claims, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, place)
        except (BlockingIOError, PermissionError):
            yield False
            return
        try:
            yield True
        finally:
            fcntl.lockf(self._claims, fcntl.LOCK_UN, 1, place)
