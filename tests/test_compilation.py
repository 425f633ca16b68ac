"""What is compiled: few programs, shared by questions of one shape, and kept for later processes."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jmlv
from jmlv.compilation import QUICK, _known_options, one_off, release_programs

SCRIPT = """
import sys
from collections import Counter
import jax, jax.numpy as jnp, jmlv

seen = Counter()
jax.monitoring.register_event_listener(lambda event, **_: seen.update([event]))
print(jmlv.keep_compiled(sys.argv[1]))
weights = jnp.arange(12.0).reshape(4, 3) % 5 - 2
f = lambda x: jax.nn.relu(x.reshape(-1, 4) @ weights) @ jnp.eye(3)
box = jmlv.Box.around(jnp.full((2, 2, 1), 0.5), 0.1)
print(float(jmlv.bound(f, box, jmlv.InTopK(0, 2), jmlv.CROWN()).lower))
print(seen["/jax/compilation_cache/cache_hits"], seen["/jax/compilation_cache/cache_misses"])
"""


def _command(folder):
    return [sys.executable, "-c", SCRIPT, str(folder)]


def _clean(**environment):
    ours = ("JAX_COMPILATION", "JAX_PERS", "JAX_ENABLE_COMP")
    return {k: v for k, v in os.environ.items() if not k.startswith(ours)} | environment


def _run(folder, **environment):
    return _read(
        subprocess.Popen(
            _command(folder), stdout=subprocess.PIPE, text=True, env=_clean(**environment)
        )
    )


def _read(process):
    output, _ = process.communicate()
    assert process.returncode == 0
    used, margin, hits, misses = output.split()
    return used, float(margin), int(hits), int(misses)


def test_later_processes_take_programs_from_the_folder_unless_they_are_damaged(tmp_path):
    used, margin, _, misses = _run(tmp_path / "kept")
    assert used == str(tmp_path / "kept") and misses > 3
    files = set((tmp_path / "kept").iterdir())
    assert len(files) >= misses
    assert _run(tmp_path / "kept")[1:] == (margin, pytest.approx(misses, rel=0.5), 0)
    for file in files:
        if file.name.endswith("-cache"):
            file.write_bytes(b"damaged")
    assert _run(tmp_path / "kept")[1] == margin


@pytest.mark.slow
def test_several_processes_fill_one_folder_at_once(tmp_path):
    processes = [
        subprocess.Popen(_command(tmp_path), stdout=subprocess.PIPE, text=True, env=_clean())
        for _ in range(2)
    ]
    margins = {_read(process)[1] for process in processes}
    assert len(margins) == 1 and list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_folder_that_jax_has_already_stays_and_its_switch_turns_all_off(tmp_path):
    used, _, _, _ = _run(tmp_path / "other", JAX_COMPILATION_CACHE_DIR=str(tmp_path / "first"))
    assert used == str(tmp_path / "first") and not (tmp_path / "other").exists()
    _, _, hits, misses = _run(tmp_path / "none", JAX_ENABLE_COMPILATION_CACHE="false")
    assert hits == misses == 0 and not (tmp_path / "none").exists()


def test_a_folder_that_cannot_be_made_is_no_reason_to_fail(tmp_path):
    (tmp_path / "file").write_text("")
    assert jmlv.keep_compiled(tmp_path / "file" / "kept") is None or _has_a_folder()


def _has_a_folder():
    return jax.config.jax_compilation_cache_dir is not None  # of the tests' own


def test_importing_the_package_leaves_what_is_dear_and_rarely_needed():
    dear = ("pandas", "ortools", "scipy.optimize", "sklearn", "orbax", "matplotlib")
    script = f"import sys, jmlv; print([m for m in {dear} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


# ---------------------------------------------------------------------------------------------
# How many programs a question needs, and which questions share them
# ---------------------------------------------------------------------------------------------

COMPILED = "/jax/core/compile/backend_compile_duration"
HEARD: list[str] = []


@pytest.fixture(scope="module", autouse=True)
def listener():
    """Hears every program that is compiled, or taken from the folder of kept programs."""

    def heard(event, seconds, fun_name="", **_):
        if event == COMPILED:
            HEARD.append(fun_name)

    jax.monitoring.register_event_duration_secs_listener(heard)
    yield
    jax.monitoring.unregister_event_duration_listener(heard)


def _programs(question):
    """The programs that a question has compiled."""
    HEARD.clear()
    question()
    return list(HEARD)


SIZE, LABELS = 9, 6  # not the sizes of other tests: nothing is compiled yet


def _network(seed):
    rng = np.random.default_rng(seed)
    shapes = (SIZE, 7), (7, 5), (5, LABELS)
    a, b, c = (jnp.asarray(rng.normal(size=s) / s[0] ** 0.5, jnp.float32) for s in shapes)
    hidden = lambda x: jax.nn.relu(x.reshape(-1, SIZE) @ a + 0.1)  # noqa: E731
    return jmlv.trace(lambda x: jax.nn.relu(hidden(x) @ b) @ c, (3, 3, 1))


def _box(moving=SIZE, radius=0.05):
    epsilon = np.zeros(SIZE, np.float32)
    epsilon[:moving] = radius
    return jmlv.Box.around(np.full((3, 3, 1), 0.5, np.float32), epsilon.reshape(3, 3, 1))


EXCLUDES = jmlv.Linear(np.eye(LABELS)[:4] - np.eye(LABELS)[5], 9.0)
OTHER_EXCLUDES = jmlv.Linear(np.eye(LABELS)[1:4] - np.eye(LABELS)[0], 8.0)

QUESTIONS = {
    # oracle, most programs of a first question, question, others that compile nothing more
    "CROWN": (jmlv.Bounds(), 12),
    "alpha-CROWN": (jmlv.Bounds(jmlv.AlphaCROWN(steps=2, intermediate_steps=2)), 12),
    "PGD": (jmlv.PGD(steps=2), 24),
    "input splitting": (jmlv.InputSplitting(boxes=64), 12),
    "branch and bound": (jmlv.BranchAndBound(few=0, subdomains=16, parts=None), 20),
}


@pytest.mark.parametrize("name", QUESTIONS)
def test_a_question_needs_few_programs_and_others_of_its_shape_none(name):
    """Another label, another k, another network of the same architecture, another box."""
    oracle, most = QUESTIONS[name]

    def ask(network, box, property):
        return lambda: jmlv.verify(network, box, property, oracle, budget=None)

    networks = [_network(seed) for seed in range(2)]
    assert 0 < len(_programs(ask(networks[0], _box(), jmlv.InTopK(0, 2)))) <= most
    for other in (
        ask(networks[0], _box(), jmlv.InTopK(3, 2)),
        ask(networks[0], _box(), jmlv.InTopK(3, 4)),
        ask(networks[0], _box(), jmlv.NotInTopK(1, 2)),
        ask(networks[1], _box(radius=0.07), jmlv.InTopK(1, 3)),
    ):
        assert _programs(other) == []


def test_numbers_of_inputs_and_rows_share_programs():
    oracle = jmlv.InputSplitting(boxes=64)

    def ask(moving, property):
        return lambda: jmlv.verify(_network(0), _box(moving), property, oracle, budget=None)

    _programs(ask(2, EXCLUDES))
    for moving in (1, 3, 8):
        assert _programs(ask(moving, OTHER_EXCLUDES)) == []


def test_programs_that_run_once_are_compiled_with_less_effort():
    """Inside another program, a derivative or a vmap the function is part of that."""
    double = one_off(1)(lambda x, n: n * x)
    assert double(3.0, 2) == jax.jit(double, static_argnums=1)(3.0, 2) == 6
    assert jax.grad(lambda x: double(x, 2))(1.0) == 2
    assert jax.jit(lambda y: y + double(np.float32(3.0), 2))(1.0) == 7
    np.testing.assert_array_equal(jax.vmap(lambda x: double(x, 2))(jnp.arange(3.0)), [0, 2, 4])
    assert _known_options(True).items() <= _known_options(False).items() <= QUICK.items()


def test_programs_are_let_go_of_before_there_are_too_many():
    """In a process of its own: other tests' programs stay."""
    program = """
import jax
from jmlv.compilation import release_programs
double = jax.jit(lambda x: 2 * x)
double(1.0)
assert not release_programs() and double._cache_size() == 1
assert release_programs(most=0) and double._cache_size() == 0 and double(1.0) == 2
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_where_nobody_says_how_many_there_are_nothing_is_done(monkeypatch, tmp_path):
    monkeypatch.setattr("jmlv.compilation._MAPPINGS", tmp_path / "maps")
    assert not release_programs(most=0)


def test_the_same_answer_cold_and_warm():
    """Where time suffices: what is proven, what is reached, and by whom."""
    rng = np.random.default_rng(3)
    inner, outer = rng.normal(size=(4, 8)), rng.normal(size=(8, 3))

    def f(x):
        return jnp.maximum(x.reshape(-1, 4) @ inner.astype("f"), 0) @ outer.astype("f")

    x = np.full((2, 2, 1), 0.5, np.float32)
    best = int(np.argmax(f(x[None])[0]))
    questions = [(jmlv.Box.around(x, r), jmlv.InTopK(best, 1)) for r in (0.01, 0.1, 0.5)]

    def answers():
        found = [jmlv.verify(f, *question, budget=None) for question in questions]
        return [(v.status, v.lower, v.upper, v.method) for v in found]

    jax.clear_caches()
    cold = answers()
    assert cold == answers() and len({status for status, *_ in cold}) == 2
