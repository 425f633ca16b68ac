"""What campaigns cost and survive: overhead, scaling, kill -9, and a Ray cluster that loses a node.

    python experiments/bench_campaign.py overhead       # a plain loop beside the engine, in pairs
    python experiments/bench_campaign.py scaling        # one worker beside two
    python experiments/bench_campaign.py kills          # kill -9 at random moments
    python experiments/bench_campaign.py ray            # three nodes, one killed, another added

Every part ends with one line that says what was found, and with an error if it is not what a campaign
promises.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import select
import signal
import statistics
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np

import jmlv
from jmlv.campaigns import (
    Answer,
    CallQuestion,
    Campaign,
    Checkpoint,
    Executor,
    InProcess,
    LabelsQuestion,
    Network,
    Processes,
    Ray,
    Store,
)
from jmlv.cli.inputs import test_images
from jmlv.labels import Plan

ROOT = Path(__file__).resolve().parents[1]
CHECKPOINT = ROOT / "checkpoints" / "double_digits_linf"


def main() -> None:
    options = parse()
    {"overhead": overhead, "scaling": scaling, "kills": kills, "ray": on_ray}[options.part](options)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=["overhead", "scaling", "kills", "ray"])
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--questions", type=int, help="by default what the claim is about")
    parser.add_argument("--seconds", type=float, help="of a question")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--every", type=int, default=10, help="kill so seldom has processes")
    return parser.parse_args()


def wait(number: int, seconds: float) -> Answer:
    """A question that takes so long and no processor time, with an array beside its row."""
    time.sleep(seconds)
    return Answer({"number": number, "pid": os.getpid()}, {"image": np.full((32, 32), number)})


def work(number: int, rounds: int) -> dict:
    """A question of so many rounds of one core's work."""
    rng, x = np.random.default_rng(number), np.eye(64)
    for _ in range(rounds):
        x = np.linalg.qr(x + rng.random((64, 64)))[0]
    return {"trace": float(np.trace(x))}


def overhead(options: argparse.Namespace) -> None:
    """Medians over pairs: the same questions in a loop and through a campaign, one second each."""
    count, seconds = options.questions or 5, options.seconds or 1.0
    for executor in (InProcess(), Processes(workers=1)):
        shares = [_pair(executor, count, seconds) for _ in range(options.pairs)]
        median = statistics.median(shares)
        print(
            f"{type(executor).__name__}: {100 * median:.2f} % more than a loop (least "
            f"{100 * min(shares):.2f}, most {100 * max(shares):.2f}; {options.pairs} pairs of {count} "
            f"questions of {seconds:g} s, without the workers' start)"
        )
        if median > 0.05:
            raise SystemExit("more than 5 %")


def _pair(executor: Executor, count: int, seconds: float) -> float:
    """How much longer the campaign takes, as a share of the loop; the first question starts workers."""
    start = time.perf_counter()
    for number in range(count):
        wait(number, seconds)
    plain = time.perf_counter() - start
    asked = [_call("wait", number=0, seconds=0.0)]
    asked += [_call("wait", number=n, seconds=seconds) for n in range(count)]
    with tempfile.TemporaryDirectory() as folder:
        rows = Campaign(asked, folder).run(executor)
        next(rows)
        start = time.perf_counter()
        assert len(list(rows)) == count
        return (time.perf_counter() - start) / plain - 1


def _call(function: str, **arguments) -> CallQuestion:
    return CallQuestion(f"bench_campaign:{function}", arguments)


def scaling(options: argparse.Namespace) -> None:
    """One worker and two, each with one core, on the same work; the start is not counted."""
    count, seconds = options.questions or 100, options.seconds or 2.0
    start = time.process_time()
    work(0, 200)
    rounds = max(1, int(200 * seconds / (time.process_time() - start)))
    took = {workers: _worked(workers, count, rounds) for workers in (1, 2)}
    print(
        f"{count} questions of about {seconds:g} s: {took[1]:.1f} s with one worker, {took[2]:.1f} s "
        f"with two, {took[1] / took[2]:.2f} times"
    )


def _worked(workers: int, count: int, rounds: int) -> float:
    asked = [_call("wait", number=n, seconds=0.5) for n in range(workers)]
    asked += [_call("work", number=n, rounds=rounds) for n in range(count)]
    with tempfile.TemporaryDirectory() as folder:
        rows = Campaign(asked, folder).run(Processes(workers=workers))
        for _ in range(workers):
            next(rows)
        start = time.perf_counter()
        for row in rows:
            assert not row.failed, row.reason
        return time.perf_counter() - start


def kills(options: argparse.Namespace) -> None:
    """Kills the campaign's process at random moments, and starts it again on the same folder.

    The process is forked from this one, which saves the imports. One in ten times (``--every``) it has
    worker processes, which start as usual; it is then killed some time after its first row. It counts
    aloud what it was handed: whatever it counted must be there, whole, at the end.
    """
    rng, counted, used = random.Random(0), Counter(), Counter()
    with tempfile.TemporaryDirectory() as folder:
        for number in range(options.kills):
            executor = InProcess() if number % options.every else Processes(workers=2)
            used[type(executor).__name__] += 1
            _kill_once(folder, executor, rng.uniform(0.0, 0.3), counted)
            _require_whole(folder, counted)
        done = len(Store(folder).done)
    print(
        f"killed {dict(used)}, {sum(counted.values())} rows counted before, {done} written: none lost, "
        "none torn, none twice"
    )


def _kill_once(folder: str, executor: Executor, seconds: float, counted: Counter) -> None:
    """Runs the campaign, with processes up to its first row, for so long, and kills it."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        _count_aloud(folder, executor, write)
    os.close(write)
    said = os.read(read, 65536) if isinstance(executor, Processes) else b""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        if select.select([read], [], [], left)[0]:
            said += os.read(read, 65536)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    while more := os.read(read, 65536):
        said += more
    os.close(read)
    counted.update(said.decode().split("\n")[:-1])


def _count_aloud(folder: str, executor: Executor, write: int) -> None:
    """Runs in the forked process, which goes nowhere else from here."""
    try:
        store = Store(folder)
        first = len(store.done)
        asked = [_call("wait", number=first + n, seconds=0.005) for n in range(300)]
        for row in Campaign(asked, store).run(executor):
            os.write(write, f"{row.question.key}\n".encode())
    finally:
        os._exit(0)


def _require_whole(folder: str, counted: Counter) -> None:
    """Every row that was counted is there, with its array, and every line but a last one is whole."""
    store = Store(folder)  # raises where a whole line is no record
    missing = counted.keys() - store.done.keys()
    repeated = [key for key, times in counted.items() if times > 1]
    if missing or repeated:
        raise SystemExit(f"lost {len(missing)}, handed out twice {len(repeated)}")
    for key in list(counted)[-50:]:
        store.arrays(key)
    for path in (Path(folder) / "rows").glob("*.jsonl"):
        for line in path.read_bytes().split(b"\n")[:-1]:
            json.loads(line)


def on_ray(options: argparse.Namespace) -> None:
    """Label questions on three nodes; one is killed in the middle, another is added later."""
    import ray
    from ray.cluster_utils import Cluster

    paths = [str(ROOT), str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    asked = label_questions(options.questions or 400)
    with tempfile.TemporaryDirectory() as folder:
        cluster = Cluster(
            initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False}
        )
        nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
        campaign, seen, start = Campaign(asked, Path(folder, "ray")), [], time.perf_counter()
        for number, row in enumerate(campaign.run(Ray(cluster.address, batch_seconds=10.0))):
            seen.append(row)
            if number == len(asked) // 3:
                cluster.remove_node(nodes.pop(), allow_graceful=False)
            if number == 2 * len(asked) // 3:
                cluster.add_node(num_cpus=1)
        took = time.perf_counter() - start
        ray.shutdown()
        cluster.shutdown()
        failures = sum(map(len, campaign.store.failures.values()))
        workers = {record["worker"] for record in campaign.store.done.values()}
        alone, start = Campaign(asked, Path(folder, "alone")), time.perf_counter()
        assert len(list(alone.run())) == len(asked)
        one, other = alone.results(), campaign.results()
    same = sum(list(a) == list(b) for a, b in zip(one["labels"], other["labels"]))
    print(
        f"{len(seen)} of {len(asked)} questions answered on {len(workers)} workers in {took:.0f} s, "
        f"{failures} attempts lost with a node; {same} with the same labels as in one process, which "
        f"took {time.perf_counter() - start:.0f} s"
    )
    if not (len(seen) == len({row.question.key for row in seen}) == same == len(asked)):
        raise SystemExit("not every question has its one answer")


def label_questions(count: int) -> list[LabelsQuestion]:
    """Every label within a radius, by bounds and attacks, of images under four radii."""
    network, images = Network.of(Checkpoint(CHECKPOINT)), test_images(None).images
    plan = Plan(stages=(jmlv.PGD(restarts=2, steps=12), jmlv.CROWN()), oracle=None)
    radii = (0.005, 0.01, 0.02, 0.04)
    return [
        LabelsQuestion(
            network, jmlv.Box.around(images[n // 4], np.float32(radii[n % 4])), 2, plan,
            budget=None, tags={"image": n // 4, "radius": radii[n % 4]},
        )
        for n in range(count)
    ]  # fmt: skip


if __name__ == "__main__":
    main()
