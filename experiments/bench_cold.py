"""What a first call costs: every verb in a process of its own, without compiled programs and with them.

    python experiments/bench_cold.py [--network linf] [--verbs crown grow ...] [--repeats 1]
        [--checkout OTHER_FOLDER] [--out results/bench_cold.json] [--programs 8]

Each verb is asked one question about a published network (a committed checkpoint where their files
are not), three times over: in a process that compiles everything ("cold"), in one that finds all
programs in JAX's persistent cache ("kept"), and a second time in the cold process itself ("again"),
about another label and, where there is one, another network of the same architecture, which ought to
compile nothing. Seconds are counted from the start of the process; beside the wall clock stands the
processor time, which other work on the machine disturbs less. With ``--checkout`` the package of
another folder is measured by the same questions, before it and this one in turn: before and after.

The result file has, for each verb, every compiled program with its seconds of tracing, lowering and
compiling. These are the names that ``jax.log_compiles`` shows.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parents[1]
TRACE, LOWER, COMPILE, FETCH = (
    "/jax/core/compile/jaxpr_trace_duration",
    "/jax/core/compile/jaxpr_to_mlir_module_duration",
    "/jax/core/compile/backend_compile_duration",
    "/jax/compilation_cache/cache_retrieval_time_sec",
)


def main() -> None:
    arguments = parse()
    if arguments.child is not None:
        print("RESULT", json.dumps(ask(arguments.child, arguments.network)))
        return
    folders = {"here": HERE}
    if arguments.checkout is not None:
        folders = {"before": Path(arguments.checkout).resolve(), **folders}
    runs = [
        {"checkout": name, "verb": verb, "run": i, **measure(folder, verb, arguments.network)}
        for verb in arguments.verbs
        for i in range(arguments.repeats)
        for name, folder in folders.items()
    ]
    print(summary(runs))
    if arguments.programs:
        print(programs(runs, arguments.programs))
    if arguments.out:
        path = Path(arguments.out)
        path.parent.mkdir(parents=True, exist_ok=True)
        about = {
            "network": arguments.network,
            "machine": platform.platform(),
            "cores": os.cpu_count(),
        }
        path.write_text(json.dumps({**about, "runs": runs}, indent=1))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", default="linf", help="linf, plain or x2; or a checkpoint")
    parser.add_argument("--verbs", nargs="+", default=list(QUESTIONS), choices=list(QUESTIONS))
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--checkout", help="another folder with the package, measured beside this")
    parser.add_argument("--out", default="results/bench_cold.json")
    parser.add_argument("--programs", type=int, default=0, help="show the dearest programs")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    return parser.parse_args()


# ---------------------------------------------------------------------------------------------
# The parent: one process for each measurement
# ---------------------------------------------------------------------------------------------


def measure(folder: Path, verb: str, network: str) -> dict:
    """One verb of one checkout: cold, and then with the programs that the cold process has kept."""
    with tempfile.TemporaryDirectory() as cache:
        found = {name: child(folder, verb, network, cache) for name in ("cold", "kept")}
    return found


def child(folder: Path, verb: str, network: str, cache: str) -> dict:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("JAX_")}
    environment |= {
        "PYTHONPATH": os.pathsep.join([str(folder), str(HERE / "experiments")]),
        "XDG_CACHE_HOME": cache,  # where keep_compiled() puts them: nobody has set another folder
        "BENCH_COLD_START": repr(time.time()),
    }
    command = [sys.executable, __file__, "--child", verb, "--network", network]
    done = subprocess.run(command, env=environment, cwd=HERE, capture_output=True, text=True)
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if not lines:
        raise RuntimeError(f"{verb} in {folder}: {done.stderr[-2000:]}")
    return json.loads(lines[-1].removeprefix("RESULT "))


# ---------------------------------------------------------------------------------------------
# The child: one question, and what was compiled for it
# ---------------------------------------------------------------------------------------------


class Compilations:
    """Every program that JAX compiles, or fetches, from now on."""

    def __init__(self) -> None:
        import jax

        self.found: list[dict] = []
        self.now: dict = {}
        self.cpu = time.process_time()
        jax.monitoring.register_event_duration_secs_listener(self._heard)

    def _heard(self, event: str, seconds: float, **about) -> None:
        name = str(about.get("fun_name", ""))
        if event == TRACE:  # of inner functions too, the outermost last
            self.now = {"trace": seconds}
        elif event == LOWER:
            self.now["lower"], self.cpu = seconds, time.process_time()
        elif event == FETCH:
            self.now["fetched"] = True
        elif event == COMPILE:
            cpu = time.process_time() - self.cpu
            self.found.append({"name": name, **self.now, "compile": seconds, "cpu": cpu})
            self.now = {}

    def take(self) -> list[dict]:
        found, self.found = self.found, []
        return found


def ask(verb: str, network: str) -> dict:
    """Asks a verb its question; seconds since the process began."""
    begun = float(os.environ["BENCH_COLD_START"])
    import jmlv

    imported = time.time() - begun
    jmlv.keep_compiled()
    compilations = Compilations()
    subject = Subject(network)
    first = QUESTIONS[verb](subject, 0)
    seconds = {"import": imported, "wall": time.time() - begun, "cpu": time.process_time()}
    result = {**seconds, **first, "programs": compilations.take()}
    start, cpu = time.time(), time.process_time()
    again = QUESTIONS[verb](subject, 1)
    seconds = {"wall": time.time() - start, "cpu": time.process_time() - cpu}
    return {**result, "again": {**seconds, **again, "programs": compilations.take()}}


class Subject:
    """A network, another of its architecture, and an image with two labels."""

    def __init__(self, name: str) -> None:
        import published

        if name in published.CONFIGS and published.FOLDER.exists():
            found = published.images()
            self.x, self.labels = found.images[0], [int(d) for d in found.digits[0]]
            same = [n for n in published.CONFIGS if published.CONFIGS[n] == published.CONFIGS[name]]
            names = [name, *(n for n in same if n != name)][:2]
            self.networks = [published.network(n) for n in names]
        else:
            from jmlv.cli.inputs import network
            from jmlv.data import double_digits

            data = double_digits("test", size=30)
            self.x, self.labels = data.images[0], [int(i) for i in data.labels[0].nonzero()[0]][:2]
            self.networks = [network(f"checkpoints/double_digits_{name}")[0]]

    def question(self, turn: int, epsilon: float):
        """Network, region and property: another label and another network in the second turn."""
        import jmlv

        network = self.networks[turn % len(self.networks)]
        label = self.labels[turn % len(self.labels)]
        return network, jmlv.Box.around(self.x, epsilon), jmlv.InTopK(label, 2)

    def few_pixels(self, turn: int):
        """As :meth:`question`, with a few moving pixels, one more in the second turn."""
        import numpy as np

        import jmlv

        network, _, property = self.question(turn, 0.0)
        radius = np.zeros(self.x.shape, np.float32)
        middle = self.x.shape[0] // 2
        radius[middle, middle : middle + 3 + turn] = 1.0
        lower, upper = np.clip(self.x - radius, 0, 1), np.clip(self.x + radius, 0, 1)
        return network, jmlv.Box.between(lower, upper), property

    @property
    def layers(self):
        import jmlv

        mask = self.x[..., 0] > 0.1
        mask[:, mask.shape[1] // 2 :] = False
        return jmlv.Layers.around(mask)


def _verify(oracle_of, epsilon: float):
    def run(subject: Subject, turn: int) -> dict:
        import jmlv

        question = subject.question(turn, epsilon)
        return _answer(jmlv.verify(*question, oracle_of(jmlv), budget=120.0))

    return run


def _answer(verdict) -> dict:
    return {"status": verdict.status.name, "method": str(verdict.stats.get("method"))}


def _few_inputs(subject: Subject, turn: int) -> dict:
    import jmlv

    oracle = jmlv.InputSplitting(time_limit=20.0)
    return _answer(jmlv.verify(*subject.few_pixels(turn), oracle, budget=60.0))


def _grow(subject: Subject, turn: int) -> dict:
    """Growing with ten seconds; when the first neighbourhood that is more than the image stood."""
    import jmlv

    before = time.time()
    network, _, property = subject.question(turn, 0.0)
    grown = jmlv.grow(network, subject.x, subject.layers, property, budget=10.0)
    since = before - float(os.environ["BENCH_COLD_START"]) if turn == 0 else 0.0
    first = next((since + seconds for seconds, size in grown.trace if size > 0), None)
    return {"status": grown.verdict.status.name, "size": grown.size, "first": first}


def _labels(subject: Subject, turn: int) -> dict:
    import jmlv

    network, region, _ = subject.question(turn, 0.005)
    found = jmlv.classify_labels(network, region, 2, budget=60.0)
    return {"status": " ".join(s.name for s in found.statuses)}


QUESTIONS = {
    "import": lambda subject, turn: {"status": ""},
    "crown": _verify(lambda jmlv: jmlv.Bounds(), 0.002),
    "alpha": _verify(lambda jmlv: jmlv.Bounds(jmlv.AlphaCROWN()), 0.02),
    "cascade": _verify(lambda jmlv: None, 0.002),
    "broken": _verify(lambda jmlv: None, 0.2),
    "branching": _verify(lambda jmlv: jmlv.BranchAndBound(), 0.02),
    "milp": _verify(lambda jmlv: jmlv.MILP(), 0.01),
    "inputs": _few_inputs,
    "grow": _grow,
    "labels": _labels,
}


# ---------------------------------------------------------------------------------------------
# Tables
# ---------------------------------------------------------------------------------------------


def summary(runs: list[dict]) -> str:
    """Wall and processor seconds of each verb, and how many programs it compiled."""
    head = ("verb", "checkout", "cold s", "cpu s", "kept s", "cpu s", "again s", "programs")
    rows = [head]
    for run in runs:
        cold, kept, again = run["cold"], run["kept"], run["cold"]["again"]
        counts = f"{len(cold['programs'])} + {len(again['programs'])}"
        times = (cold["wall"], cold["cpu"], kept["wall"], kept["cpu"], again["wall"])
        first = f" (first {cold['first']:.1f})" if cold.get("first") else ""
        answer = f"{cold['status']}{first}"
        rows.append((run["verb"], run["checkout"], *(f"{t:.2f}" for t in times), counts, answer))
    return _aligned(rows)


def programs(runs: list[dict], count: int) -> str:
    """The dearest programs of each verb's cold run."""
    lines = []
    for run in runs:
        found = run["cold"]["programs"]
        totals = [sum(p.get(part, 0.0) for p in found) for part in ("trace", "lower", "compile")]
        lines.append(
            f"\n{run['verb']} ({run['checkout']}): {len(found)} programs, trace {totals[0]:.2f} s, "
            f"lower {totals[1]:.2f} s, compile {totals[2]:.2f} s"
        )
        dearest = sorted(found, key=_seconds, reverse=True)[:count]
        lines += [
            f"  {p['name']:40} {p.get('trace', 0):6.2f} {p.get('lower', 0):6.2f} {p['compile']:6.2f}"
            for p in dearest
        ]
    return "\n".join(lines)


def _seconds(program: dict) -> float:
    return sum(program.get(part, 0.0) for part in ("trace", "lower", "compile"))


def _aligned(rows: list[tuple]) -> str:
    widths = [max(len(row[i]) for row in rows if i < len(row)) for i in range(len(rows[1]))]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(row, widths)).rstrip() for row in rows)


if __name__ == "__main__":
    main()
