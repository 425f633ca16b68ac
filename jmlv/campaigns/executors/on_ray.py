"""Many machines, through Ray."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import pickle
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jmlv.campaigns.executors.answering import asking, reason_of
from jmlv.campaigns.executors.executor import Crew, Executor, Report, Task
from jmlv.campaigns.executors.process import OVERTIME
from jmlv.campaigns.sources import Network, Shipped, Source
from jmlv.compilation import keep_compiled

LOOK = 1.0
"""Seconds between two looks at how large the cluster is."""

LARGEST_BATCH = 256


@dataclasses.dataclass(frozen=True)
class Ray(Executor):
    """Long-lived workers on a Ray cluster, which hold the compiled programs (``pip install 'jmlv[cluster]'``).

    Workers take batches of about ``batch_seconds`` of work and send every answer as it is found. Networks
    are shipped once, through Ray's object store, so that machines need jmlv but none of its files. Where a
    worker or its machine is lost, the question that it was at has failed once; the others of its batch have
    not, and all are given to other workers. Machines that join while the campaign runs get workers too.

    Attributes:
        address: of the cluster, as for ``ray.init``; None for one on this machine alone.
        workers: how many, at most; by default as many as the cluster's CPUs (or GPUs) allow at any time.
        cores: CPUs of a worker.
        gpus: GPUs of a worker: 1 for a GPU of its own, 0 for none.
        memory: MiB that Ray reserves for a worker; None for no reservation. Ray ends workers on a machine
            that runs out of memory.
        batch_seconds: work that is sent at a time.
        grace: seconds that a question may take beyond one and a half times its budget.
        cache: folder of compiled programs, on a file system that all machines share; by default each
            machine's own.
        runtime_env: as for ``ray.init``: code that the machines lack, environment variables.
    """

    address: str | None = None
    workers: int | None = None
    cores: float = 1
    gpus: float = 0
    memory: float | None = None
    batch_seconds: float = 20.0
    grace: float = 2.0
    cache: str | None = None
    runtime_env: Mapping[str, Any] | None = None

    @contextlib.contextmanager
    def open(self) -> Iterator[Crew]:
        ray = _ray()
        ours = not ray.is_initialized()
        if ours:
            quiet = {"log_to_driver": False, "logging_level": logging.WARNING}
            ray.init(self.address, runtime_env=self.runtime_env, **quiet)
        crew = _Crew(self, ray)
        try:
            yield crew
        finally:
            crew.end()
            if ours:
                ray.shutdown()


def _ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise ImportError("executor: Ray is not installed; pip install 'jmlv[cluster]'.") from error
    return ray


class Remote:
    """What runs on the cluster."""

    def __init__(self, cache: str | None) -> None:
        keep_compiled(cache)
        self.name = f"{socket.gethostname()} ({os.getpid()})"

    def introduce(self) -> str:
        return self.name

    def ask(self, payloads: Sequence[bytes], networks: Mapping[str, Any]) -> Iterator[tuple]:
        """``("begun", number)`` and ``("done", number, answer, reason)`` for each question in turn."""
        for number, payload in enumerate(payloads):
            try:
                question = pickle.loads(payload)
                if question.network is not None:
                    _fetch(question.network, networks)
            except Exception as error:  # its module is missing here, say
                yield "done", number, None, reason_of(error)
                continue
            for outcome in asking(question):
                yield ("begun", number) if outcome is None else ("done", number, *outcome)


def _fetch(network: Network, networks: Mapping[str, Any]) -> None:
    """Loads a network from the object store, once a process."""
    if not network.loaded:
        source: Source = _ray().get(networks[network.fingerprint])
        dataclasses.replace(network, source=source).load()


@dataclasses.dataclass(eq=False)
class _Worker:
    """An actor as the crew sees it.

    Attributes:
        actor: its handle.
        stream: of what it sends: its name first, then what becomes of its batch.
        name: known once it is ready.
        batch: tasks by number that are not finished.
        begun: the number of the task that it is at, and when it began.
    """

    actor: Any
    stream: Any
    name: str = ""
    batch: dict[int, Task] = dataclasses.field(default_factory=dict)
    begun: tuple[int, float] | None = None


class _Crew(Crew):
    def __init__(self, options: Ray, ray: Any) -> None:
        self._options, self._ray = options, ray
        memory = None if options.memory is None else int(options.memory * 2**20)
        self._remote = ray.remote(
            num_cpus=options.cores, num_gpus=options.gpus, memory=memory, max_restarts=0
        )(Remote)
        self._networks: dict[str, Any] = {}
        self._workers: list[_Worker] = []
        self._early: list[Report] = []
        self._seconds: float | None = None
        self._looked = -float("inf")
        self._staff()

    def _staff(self) -> None:
        """Starts as many workers as the cluster has room for now; Ray places them when it can."""
        if time.monotonic() - self._looked < LOOK:
            return
        self._looked = time.monotonic()
        for _ in range(self._welcome() - len(self._workers)):
            actor = self._remote.remote(self._options.cache)
            self._workers.append(_Worker(actor, actor.introduce.remote()))

    def _welcome(self) -> int:
        if self._options.workers is not None:
            return self._options.workers
        there, options = self._ray.cluster_resources(), self._options
        needs = {"CPU": options.cores, "GPU": options.gpus}
        return max(1, min(int(there.get(name, 0) / need) for name, need in needs.items() if need))

    @property
    def _free(self) -> list[_Worker]:
        return [worker for worker in self._workers if worker.name and not worker.batch]

    @property
    def room(self) -> int:
        return len(self._free) * self._batch

    @property
    def _batch(self) -> int:
        """Questions that make up a batch, judging by those that are answered; one while none is."""
        if self._seconds is None:
            return 1
        return int(
            min(LARGEST_BATCH, max(1, self._options.batch_seconds / max(self._seconds, 1e-3)))
        )

    def give(self, tasks: Sequence[Task]) -> None:
        free = self._free
        for batch in _batches(tasks, len(free)):
            fresh = [worker for worker in free if worker.name not in batch[0].avoid] or free
            free.remove(fresh[0])
            self._send(fresh[0], batch)

    def _send(self, worker: _Worker, tasks: Sequence[Task]) -> None:
        payloads, networks = [], {}
        for task in tasks:
            try:
                payload = pickle.dumps(task.question)
                network = task.question.network
                if network is not None:
                    networks[network.fingerprint] = self._shipped(network)
            except Exception as error:  # a part of it lives in this process alone
                self._early.append(Report(task, "the campaign", reason=reason_of(error)))
                continue
            worker.batch[len(payloads)] = task
            payloads.append(payload)
        if payloads:
            ask = worker.actor.ask.options(num_returns="streaming")
            worker.stream, worker.begun = ask.remote(payloads, networks), None

    def _shipped(self, network: Network) -> Any:
        """The network's files in the object store, put there once."""
        if network.fingerprint not in self._networks:
            self._networks[network.fingerprint] = self._ray.put(Shipped.of(network.source))
        return self._networks[network.fingerprint]

    def reports(self, seconds: float) -> list[Report]:
        found, self._early = self._early, []
        self._staff()
        streams = {worker.stream: worker for worker in self._workers if worker.stream is not None}
        if streams:
            waited = 0.0 if found else seconds
            ready, _ = self._ray.wait(
                list(streams), num_returns=1, timeout=waited, fetch_local=True
            )
            for stream in ready:
                found += self._hear(streams[stream])
        elif not found:
            time.sleep(seconds)
        return found + self._stop_overtime()

    def arrived(self) -> list[Report]:
        return self.reports(0.0)

    def _hear(self, worker: _Worker) -> list[Report]:
        """The next thing that a worker has sent."""
        from ray.exceptions import RayError

        try:
            if not worker.name:
                worker.name, worker.stream = self._ray.get(worker.stream), None
                return []
            kind, number, *outcome = self._ray.get(next(worker.stream))
        except StopIteration:
            worker.stream = None
            return []
        except RayError as error:
            return self._lose(worker, f"its worker was lost: {reason_of(error)}")
        task = worker.batch[number]
        if kind == "begun":
            worker.begun = number, time.monotonic()
            return [Report(task, worker.name)]
        del worker.batch[number]
        if not worker.batch:
            worker.stream = None
        if worker.begun is not None:
            took = time.monotonic() - worker.begun[1]
            self._seconds = took if self._seconds is None else 0.8 * self._seconds + 0.2 * took
        worker.begun = None
        return [Report(task, worker.name, *outcome)]

    def _stop_overtime(self) -> list[Report]:
        found, now = [], time.monotonic()
        for worker in tuple(self._workers):
            if worker.begun is None:
                continue
            number, since = worker.begun
            limit = worker.batch[number].question.limit
            if limit is not None and now - since > OVERTIME * limit + self._options.grace:
                reason = f"stopped: it took more than {OVERTIME:g} times its {limit:g} s"
                found += self._lose(worker, reason)
        return found

    def _lose(self, worker: _Worker, reason: str) -> list[Report]:
        """Gives a worker up: the question that it was at failed, those behind it did not."""
        self._workers.remove(worker)
        self._ray.kill(worker.actor)
        blamed = min(worker.batch, default=None) if worker.begun is None else worker.begun[0]
        name = worker.name or "a worker that never began"
        return [
            Report(task, name, reason=reason, blameless=number != blamed)
            for number, task in worker.batch.items()
        ]

    def end(self) -> None:
        for worker in self._workers:
            self._ray.kill(worker.actor)


def _batches(tasks: Sequence[Task], workers: int) -> list[list[Task]]:
    """A batch for each worker; what has failed before goes alone, as far as there are workers for it."""
    alone = [task for task in tasks if task.avoid][: workers - 1]
    others = [task for task in tasks if task not in alone]
    parts = workers - len(alone)
    shares = [others[part::parts] for part in range(parts)]
    return [*([task] for task in alone), *filter(None, shares)]
