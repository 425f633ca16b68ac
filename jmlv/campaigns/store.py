"""A folder of answers: append-only JSON Lines, one file a writer, and arrays beside them.

::

    FOLDER/
      rows/HOST.N.jsonl     what happened, one JSON object a line
      arrays/KEY.npz        the arrays of one answer
      plans/DIGEST.txt      keys of the questions of a campaign, one a line

**Several writers.** A writer holds a lock on its file from :meth:`Store.writing` on and is the only one
that appends to it; a writer that finds a file of its host unlocked goes on in that one. The lock is
also how others see that a writer is alive; the system frees it when the process ends, however it ends.
(``flock``: over a network file system it must support locks between machines only for the question who
is alive; names of files carry the host's name, so that no two hosts ever share one.)

**kill -9 at any byte.** A line is one ``write``, which the system has when the call returns; arrays are
written to a file of another name, synced and renamed before the line that mentions them. A last line
without its end was torn: readers ignore it and the next writer of the file cuts it off.

**Power cut.** ``fsync`` is called about once in ``sync`` seconds while there is something new, and when the
writer closes; a cut may cost the rows since then, and their questions are asked again.

The first answer to a key counts; more of them, by writers that did not know of each other, are ignored.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import itertools
import json
import os
import socket
import time
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from jmlv.campaigns.answer import Answer
from jmlv.canonical import digest
from jmlv.errors import DamagedFile
from jmlv.lines import whole_lines

Record = Mapping[str, Any]

STARTED, DONE, FAILED, OPENED = "started", "done", "failed", "opened"


@dataclasses.dataclass
class Writer:
    """One file of rows as it has been read so far.

    Attributes:
        path: the file.
        opened: when its present or last process opened it.
        finished: answers and failures since then.
        running: keys that it has started since then and not finished, and when.
    """

    path: Path
    read: int = 0
    line: int = 0
    opened: float = 0.0
    finished: int = 0
    running: dict[str, float] = dataclasses.field(default_factory=dict)

    @property
    def alive(self) -> bool:
        """Whether a process has the file open for writing."""
        import fcntl

        with self.path.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False


class Store:
    """A campaign's folder, for reading at any time and for one :meth:`writing` at a time.

    Args:
        folder: made when something is first written.
        sync: seconds between two ``fsync``.

    Attributes:
        done: by key, the first answer's record.
        failures: by key, the records of failed attempts, in the order in which they were read.
    """

    def __init__(self, folder: str | Path, sync: float = 1.0) -> None:
        self.folder, self.sync = Path(folder), sync
        self.done: dict[str, Record] = {}
        self.failures: dict[str, list[Record]] = {}
        self.writers: dict[Path, Writer] = {}
        self._file: BinaryIO | None = None
        self._synced, self._unsynced = -np.inf, False
        self.refresh()

    def refresh(self) -> None:
        """Reads what all writers have added.

        Raises:
            DamagedFile: a whole line is not a record.
        """
        for path in sorted((self.folder / "rows").glob("*.jsonl")):
            writer = self.writers.setdefault(path, Writer(path))
            with path.open("rb") as file:
                file.seek(writer.read)
                whole, end, _ = file.read().rpartition(b"\n")
            writer.read += len(whole) + len(end)
            for line in whole.split(b"\n") if end else ():
                writer.line += 1
                self._take(writer, _parsed(writer, line))

    def _take(self, writer: Writer, record: Record) -> None:
        event, key = record["event"], record["key"]
        if event == OPENED:
            writer.opened, writer.finished, writer.running = record["time"], 0, {}
        elif event == STARTED:
            writer.running[key] = record["time"]
        else:
            writer.running.pop(key, None)
            writer.finished += 1
            if event == DONE:
                self.done.setdefault(key, record)
            else:
                self.failures.setdefault(key, []).append(record)

    @contextlib.contextmanager
    def writing(self) -> Iterator[Store]:
        """Opens a file of this writer's own for the length of the block."""
        self._file = _own_file(self.folder / "rows")
        try:
            self._append(OPENED, "", {"pid": os.getpid()})
            yield self
        finally:
            os.fsync(self._file.fileno())
            self._file.close()
            self._file, self._unsynced = None, False

    def running_elsewhere(self) -> set[str]:
        """Keys that other writers, which are alive, have started and not finished."""
        own = None if self._file is None else Path(self._file.name)
        others = (w for w in self.writers.values() if w.running and w.path != own)
        return {key for writer in others if writer.alive for key in writer.running}

    def plan(self, keys: Iterable[str]) -> None:
        """Notes which questions the folder is to answer."""
        keys = list(keys)
        text = "".join(f"{key}\n" for key in keys).encode()
        _write_whole(self.folder / "plans" / f"{digest(keys)[:16]}.txt", text)

    def planned(self) -> set[str]:
        """Keys of all questions that the folder is to answer, or has answered."""
        keys = {*self.done, *self.failures}
        for path in (self.folder / "plans").glob("*.txt"):
            keys.update(path.read_text().split())
        return keys

    def started(self, key: str, worker: str) -> None:
        self._append(STARTED, key, {"worker": worker})

    def answered(self, key: str, answer: Answer, record: Record) -> None:
        """Writes an answer: its arrays first, then its row."""
        if answer.arrays:
            content = io.BytesIO()
            np.savez_compressed(content, **answer.arrays)
            _write_whole(self._arrays(key), content.getvalue())
        arrays = {"arrays": sorted(answer.arrays)}
        self._append(DONE, key, {**record, **arrays, "values": answer.values})

    def failed(self, key: str, record: Record) -> None:
        """Writes a failed attempt and its ``reason``."""
        self._append(FAILED, key, record)

    def arrays(self, key: str) -> dict[str, np.ndarray]:
        """The arrays of an answer.

        Raises:
            KeyError: there is no such answer.
            DamagedFile: their file is missing or damaged.
        """
        if not self.done[key]["arrays"]:
            return {}
        try:
            with np.load(self._arrays(key), allow_pickle=False) as content:
                return dict(content)
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise DamagedFile(
                f"store: {self._arrays(key)} cannot be read ({error}). Remove the line of {key[:12]}... "
                "from rows/, and its question is asked again."
            ) from error

    def _arrays(self, key: str) -> Path:
        return self.folder / "arrays" / f"{key}.npz"

    def _append(self, event: str, key: str, values: Record) -> None:
        """One line in one ``write``; what was written is read by the next :meth:`refresh`."""
        record = {"event": event, "key": key, "time": time.time(), **values}
        line = json.dumps(record, allow_nan=False).encode() + b"\n"
        if self._file.write(line) != len(line):
            raise OSError(f"store: {self._file.name} took only a part of a row. Is the disk full?")
        self._unsynced = True
        self.settle()

    def settle(self) -> None:
        """Calls ``fsync`` if there is something new and the last one is long enough ago."""
        now = time.monotonic()
        if self._unsynced and now - self._synced >= self.sync:
            os.fsync(self._file.fileno())
            self._unsynced, self._synced = False, now


def _parsed(writer: Writer, line: bytes) -> Record:
    try:
        record = json.loads(line)
        if isinstance(record, dict) and {"event", "key", "time"} <= record.keys():
            return record
    except ValueError:
        pass
    raise DamagedFile(
        f"store: line {writer.line} of {writer.path} is not a record of a campaign. Remove the line, "
        "and its question is asked again."
    )


def _own_file(folder: Path) -> BinaryIO:
    """An unbuffered file that this process alone appends to, its torn last line cut off."""
    import fcntl  # here and above: the package imports where there is none

    folder.mkdir(parents=True, exist_ok=True)
    for number in itertools.count():
        file = (folder / f"{socket.gethostname()}.{number}.jsonl").open("ab+", buffering=0)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            continue
        file.truncate(whole_lines(file))
        return file
    raise AssertionError  # count() never ends


def _write_whole(path: Path, content: bytes) -> None:
    """The file with all its content, or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}.part")
    with part.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)
