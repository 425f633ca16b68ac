"""The training loop: schedules, averages, mutable state, precision, devices, resuming, stopping."""

import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from small_training import EVERYTHING, PLAIN, MutableConfig, everything, parallel, table, weights

import jmlv
from jmlv.errors import DamagedFile
from jmlv.progress import Bar, Progress
from jmlv.training import (
    Checkpoints,
    Constant,
    Cosine,
    EarlyStopping,
    LinfDefence,
    OneCycle,
    TrainingConfig,
    WarmUp,
    binary_cross_entropy,
    train,
)
from jmlv.training.early_stopping import best_epoch
from jmlv.training.network import Network, take_apart
from jmlv.training.parallel import Placement
from jmlv.training.state import Stepper

SHORT = TrainingConfig(epochs=3, batch_size=16, learning_rate=0.02)
SCRIPT = Path(__file__).parents[1] / "small_training.py"


def same(first, second) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(weights(first), weights(second), strict=True))


def start(*arguments, **environment) -> subprocess.Popen:
    variables = {**os.environ, "JAX_PLATFORMS": "cpu", **environment}
    return subprocess.Popen([sys.executable, SCRIPT, *map(str, arguments)], env=variables)


# ------------------------------------------------------------------------ schedules

SCHEDULES = [Constant(), Cosine(), Cosine(end=0.1), OneCycle(), WarmUp(), WarmUp(0.3, Constant())]


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_no_rate_leaves_zero_to_the_peak_and_one_reaches_it(schedule):
    rates = np.array([float(schedule.rates(0.1, 40)(i)) for i in range(40)])
    assert rates.min() > 0 and rates.max() == pytest.approx(0.1)


def test_the_schedule_is_what_the_optimiser_uses():
    schedule = WarmUp(0.5, Constant())
    optimiser = Stepper(None, schedule, 0.1, 0.0, 8, None).optimiser
    state = optimiser.init(jnp.zeros(()))
    for step in range(8):
        update, state = optimiser.update(jnp.ones(()), state, jnp.zeros(()))
        assert -float(update) == pytest.approx(float(schedule.rates(0.1, 8)(step)), rel=1e-4)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Cosine(end=2.0), "end: got 2"),
        (lambda: OneCycle(rise=0.0), "rise: got 0"),
        (lambda: OneCycle(start=0.0), "start: got 0"),
        (lambda: WarmUp(share=1.0), "share: got 1"),
        (lambda: TrainingConfig(ema=1.0), "ema: got 1"),
        (lambda: TrainingConfig(devices=0), "devices: got 0"),
        (lambda: Checkpoints("x", every_steps=0), "every_steps: got 0"),
        (lambda: Checkpoints("x", keep=0), "keep: got 0"),
        (lambda: EarlyStopping(table(4), patience=0), "patience: got 0"),
    ],
)
def test_impossible_options_are_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()


# -------------------------------------------------------------------------- average


def test_the_average_is_that_of_the_weights_after_each_step():
    """By hand: sum of decay^(n - i) w_i over the sum of decay^(n - i)."""
    architecture, values, mutable = take_apart(MutableConfig().build(rngs=nnx.Rngs(0)))
    stepper = Stepper(architecture, Constant(), 0.1, 0.0, 4, 0.8)
    state, seen, moved = stepper.start(values, mutable), [], jax.jit(stepper.moved)
    for _ in range(4):
        state = moved(state, values, mutable)
        seen.append(np.asarray(jax.tree.leaves(state.weights)[0]))
    expected = np.average(seen, axis=0, weights=0.8 ** np.arange(3, -1, -1))
    found = jax.tree.leaves(stepper.deployed(state).weights)[0]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_training_returns_the_average_of_weights_and_statistics():
    averaged = train(table(64), MutableConfig(), dataclasses.replace(SHORT, ema=0.9))
    last = train(table(64), MutableConfig(), SHORT)
    assert averaged.losses == last.losses
    pairs = zip(weights(averaged.model), weights(last.model))
    assert all(not np.array_equal(a, b) for a, b in pairs)


# -------------------------------------------------------------------- mutable state


@pytest.fixture(scope="module")
def mutable():
    data = table(256)
    config = TrainingConfig(epochs=12, batch_size=16, learning_rate=0.02)
    return data, train(data, MutableConfig(rate=0.1), config)


def test_batch_statistics_become_those_of_the_data(mutable):
    data, result = mutable
    model = result.model
    values = np.asarray(model.first(data.images.reshape(len(data), -1)))
    np.testing.assert_allclose(model.norm.mean[...], values.mean(0), atol=0.15)
    np.testing.assert_allclose(model.norm.var[...], values.var(0), rtol=0.35)


def test_the_network_comes_back_in_evaluation_mode(mutable):
    data, result = mutable
    assert result.model.norm.use_running_average and result.model.drop.deterministic
    x = data.images[:4]
    alone = np.concatenate([result.model(x[i : i + 1]) for i in range(4)])
    np.testing.assert_allclose(result.model(x), alone, rtol=1e-5)
    assert result.losses[-1] < 0.6 * result.losses[0]
    assert jmlv.trace(result.model, (1, 6, 1)).label_count == 3


def test_training_mode_draws_new_dropout_in_each_pass():
    architecture, values, state = take_apart(MutableConfig().build(rngs=nnx.Rngs(0)))
    x = table(8).images
    network = Network(architecture, values, state)
    first, after = network.train(x)
    second, _ = Network(architecture, values, after).train(x)
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(network(x), network(x))


def test_a_defence_sees_the_network_in_evaluation_mode_and_changes_no_state():
    class Spy(LinfDefence):
        def apply(self, scores, images, labels, key, done=1.0):
            alone, together = scores(images[:1]), scores(images)[:1]
            jax.debug.callback(
                lambda a, b: spied.append(np.allclose(a, b, atol=1e-6)), alone, together
            )
            return super().apply(scores, images, labels, key, done)

    spied = []
    architecture, values, state = take_apart(MutableConfig().build(rngs=nnx.Rngs(0)))
    network, data = Network(architecture, values, state), table(8)
    defence = Spy(0.1, 2)
    key = jax.random.key(0)

    @jax.jit
    def ask(x):
        _, after = defence.losses(network, binary_cross_entropy, x, data.labels, key, 1.0)
        moved = defence.apply(network, x, data.labels, key, 1.0)
        return after, network.train(moved)[1]

    after, once = ask(data.images)
    assert all(spied) and len(spied) == 2
    np.testing.assert_allclose(jax.tree.leaves(after[0])[0], jax.tree.leaves(once[0])[0], rtol=1e-5)


# ------------------------------------------------------------------------ precision


def test_mixed_precision_computes_in_bfloat16_and_keeps_float32():
    config = dataclasses.replace(SHORT, mixed_precision=True)
    result = train(table(256), MutableConfig(rate=0.0), config)
    assert result.losses[-1] < 0.9 * result.losses[0]
    assert {leaf.dtype for leaf in weights(result.model)} == {np.dtype("float32")}
    arrays = take_apart(result.model, mixed_precision=True)
    x = table(4).images
    jaxpr = jax.make_jaxpr(lambda w: Network(arrays[0], w, arrays[2]).train(x)[0])(arrays[1])
    products = [e for e in jaxpr.eqns if e.primitive.name == "dot_general"]
    assert len(products) == 2
    assert {str(v.aval.dtype) for e in products for v in e.invars} == {"bfloat16"}


# -------------------------------------------------------------------------- devices


def test_four_devices_train_the_weights_that_one_trains(tmp_path):
    flags = "--xla_force_host_platform_device_count=4"
    assert start("weights", tmp_path / "w.npz", 4, XLA_FLAGS=flags).wait(120) == 0
    with np.load(tmp_path / "w.npz") as found:
        expected = weights(parallel(1).model)
        assert len(found.files) == len(expected)
        for name, array in zip(found.files, expected):
            np.testing.assert_allclose(found[name], array, rtol=0, atol=1e-5)


def test_devices_must_be_there_and_divide_the_batch():
    there = len(jax.devices())
    with pytest.raises(ValueError, match="devices: got 99 for batches of 99"):
        Placement.over(99, 99)
    assert Placement.over(None, 7 * there).mesh is None or there > 1


# ------------------------------------------------------------------------- resuming


@pytest.fixture(scope="module")
def whole():
    return everything()


def test_a_killed_training_goes_on_to_the_same_bits(tmp_path, whole):
    """The process is killed at a random moment after its first checkpoint."""
    delay, limit = random.Random().uniform(0, 1.0), time.monotonic() + 120
    process = start("checkpoints", tmp_path)
    while not any(p.name.isdigit() for p in tmp_path.glob("*")) and time.monotonic() < limit:
        assert process.poll() is None
        time.sleep(0.005)
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    assert process.wait() in (0, -signal.SIGKILL)
    resumed = everything(Checkpoints(tmp_path, every_steps=20))
    assert resumed.losses == whole.losses and resumed.validation == whole.validation, delay
    assert same(resumed.model, whole.model), delay


class _Stop(Progress):
    """Ends the process's work, as a crash would, at epoch ``epoch``."""

    def __init__(self, epoch):
        self.epoch, self.seen = epoch, 0

    def bar(self, description, total=None):
        outer = self

        class Stopping(Bar):
            def update(self, steps=1, **values):
                outer.seen += 1
                if outer.seen == outer.epoch:
                    raise RuntimeError("crashed")

            def close(self):
                pass

        return Stopping()


@pytest.fixture(scope="module")
def crashed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("crashed")
    with pytest.raises(RuntimeError, match="crashed"):
        everything(Checkpoints(folder, every_epochs=2), progress=_Stop(5))
    return folder


def test_only_due_checkpoints_are_kept(crashed):
    assert sorted(int(p.name) for p in crashed.iterdir() if p.name.isdigit()) == [14, 28]


def test_another_training_is_refused(crashed):
    with pytest.raises(ValueError, match="another data, model, config, early stopping"):
        train(table(64), PLAIN, SHORT, checkpoints=Checkpoints(crashed))


def test_a_finished_training_comes_back_at_once(crashed, whole):
    folder = Checkpoints(crashed, every_epochs=2)
    assert same(everything(folder).model, whole.model)
    bar = _Stop(99)
    assert same(everything(folder, progress=bar).model, whole.model)
    assert bar.seen == len(whole.losses)


def test_a_damaged_checkpoint_is_named(crashed, tmp_path):
    import shutil

    copy = shutil.copytree(crashed, tmp_path / "copy")
    newest = max((p for p in copy.iterdir() if p.name.isdigit()), key=lambda p: int(p.name))
    content = json.loads((newest / "progress" / "metadata").read_text())
    assert content["history"]["losses"]
    (newest / "progress" / "metadata").write_text("{")
    with pytest.raises(DamagedFile, match=f"checkpoints: step {newest.name} in"):
        everything(Checkpoints(copy))


# ------------------------------------------------------------------- early stopping


class _Scripted(EarlyStopping):
    """Measures what it is told, whatever the network."""

    values = (0.5, 0.7, 0.6, 0.7, 0.1)

    def measure(self, model):
        seen.append(weights(model))
        return self.values[len(seen) - 1]


seen: list = []


def test_training_ends_after_its_patience_with_the_best_weights():
    seen.clear()
    config = dataclasses.replace(SHORT, epochs=9)
    result = train(table(64), PLAIN, config, early_stopping=_Scripted(table(8), patience=2))
    assert result.validation == (0.5, 0.7, 0.6, 0.7) and len(result.losses) == 4
    assert best_epoch(result.validation) == 1
    assert all(np.array_equal(a, b) for a, b in zip(weights(result.model), seen[1]))
    assert not np.array_equal(weights(result.model)[0], seen[3][0])


def test_validation_measures_the_averaged_network(whole):
    assert len(whole.validation) == EVERYTHING.epochs
    stopping = EarlyStopping(table(40, seed=5, split="test"))
    assert stopping.measure(whole.model) == max(whole.validation)


def test_validation_images_must_fit():
    wrong = dataclasses.replace(table(8), images=np.zeros((8, 1, 5, 1), np.float32),
                                masks=np.zeros((8, 0, 1, 5), bool))  # fmt: skip
    with pytest.raises(ValueError, match="in early_stopping"):
        train(table(64), PLAIN, SHORT, early_stopping=EarlyStopping(wrong))
