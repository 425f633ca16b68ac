"""Answers questions in a process of its own: ``python -P _worker.py DESCRIPTOR``.

Only the standard library is imported before the process knows its cores and paths, so that JAX makes
as many threads as there are cores for it. When the other end of standard input goes away, this process
ends with all that it started, however the campaign's own process came to its end.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
import threading
from multiprocessing.connection import Connection


def main(descriptor: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_die_with_campaign, daemon=True).start()
    connection = Connection(descriptor)
    _settle_in(connection.recv())
    from jmlv.campaigns.executors.answering import answered, reason_of

    connection.send(("ready",))
    while True:
        payload = connection.recv_bytes()
        try:
            question = pickle.loads(payload)
        except Exception as error:  # its module is missing here, say
            connection.send(("done", None, reason_of(error)))
            continue
        outcome = answered(question, lambda: connection.send(("begun",)))
        connection.send(("done", *outcome))


def _settle_in(options: dict) -> None:
    """Cores, the order in which the kernel looks for memory to free, paths, and compiled programs."""
    if options["cores"] and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, options["cores"])
    try:
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write("900")
    except OSError:  # not Linux
        pass
    sys.path[:] = options["path"]
    from jmlv.compilation import keep_compiled

    keep_compiled(options["cache"])


def _die_with_campaign() -> None:
    while os.read(0, 1):
        pass
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    try:
        main(int(sys.argv[1]))
    except (EOFError, OSError):
        pass  # the campaign is over
