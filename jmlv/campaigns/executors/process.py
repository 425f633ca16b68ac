"""One worker process as the campaign's process sees it."""

from __future__ import annotations

import os
import pickle
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from jmlv.campaigns.executors.executor import Report, Task

_WORKER = Path(__file__).with_name("_worker.py")

OVERTIME = 1.5
"""A question that takes this many times its budget is stopped."""


class Died(Exception):
    """The process is gone; the message says how."""


class WorkerProcess:
    """A process in a session of its own, so that it can be ended with all that it started.

    Args:
        name: in tables; the process's number is added.
        options: ``cores``, ``path``, ``cache``, as ``_worker.py`` takes them.
        environment: variables beside this process's own.
        grace: seconds beyond the overtime.
    """

    def __init__(
        self, name: str, options: Mapping[str, Any], environment: Mapping[str, str], grace: float
    ) -> None:
        ours, theirs = socket.socketpair()
        self._log = tempfile.TemporaryFile()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", str(_WORKER), str(theirs.fileno())],
                stdin=subprocess.PIPE, stdout=self._log, stderr=self._log,
                pass_fds=[theirs.fileno()], env={**os.environ, **environment},
                start_new_session=True,
            )  # fmt: skip
        self.connection = Connection(ours.detach())
        self.name = f"{name} ({self._process.pid})"
        self.ready, self.task, self._begun, self._grace = False, None, None, grace
        self.connection.send(dict(options))

    @property
    def idle(self) -> bool:
        return self.ready and self.task is None

    def give(self, task: Task) -> Report | None:
        """Sends a task; a report at once where it cannot be sent."""
        try:
            payload = pickle.dumps(task.question)
        except Exception as error:  # a part of it lives in this process alone
            return Report(task, self.name, reason=f"{type(error).__name__}: {error}")
        self.task, self._begun = task, None
        try:
            self.connection.send_bytes(payload)
        except OSError:
            pass  # it died just now, which the next look finds
        return None

    def hear(self) -> list[Report]:
        """What it has sent.

        Raises:
            Died: it is gone.
        """
        try:
            kind, *outcome = self.connection.recv()
        except (EOFError, OSError) as error:
            raise Died(self._last_words()) from error
        if kind == "ready":
            self.ready = True
            return []
        task = self.task
        if kind == "begun":
            self._begun = time.monotonic()
            return [Report(task, self.name)]
        self.task = None
        return [Report(task, self.name, *outcome)]

    @property
    def seconds_left(self) -> float:
        """Until its question is stopped; infinite where nothing limits it."""
        if self._begun is None or self.task is None or self.task.question.limit is None:
            return float("inf")
        limit = OVERTIME * self.task.question.limit + self._grace
        return self._begun + limit - time.monotonic()

    def memory(self) -> float:
        """MiB of the process and all that it started; 0 where the system does not say."""
        return group_memory(self._process.pid)

    def end(self) -> None:
        """Kills the process and all that it started."""
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self._process.wait()
        self._process.stdin.close()
        self.connection.close()
        self._log.close()

    def _last_words(self) -> str:
        """How it ended, once it has."""
        try:
            code = self._process.wait(5)
        except subprocess.TimeoutExpired:
            return "it closed its connection"
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").split("\n")
        said = next((line.strip()[:300] for line in reversed(lines) if line.strip()), "no message")
        how = f"killed by signal {-code}" if code < 0 else f"it ended with code {code}"
        return f"{how}: {said}"


def group_memory(group: int) -> float:
    """MiB that a process group holds in memory, from ``/proc``."""
    page, total = os.sysconf("SC_PAGE_SIZE"), 0
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it ended meanwhile
        if int(fields[2]) == group:
            total += int(fields[21]) * page
    return total / 2**20
