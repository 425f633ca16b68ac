"""Training, defences and metrics, on networks and data small enough to be quick."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jmlv.data import double_digits
from jmlv.models import CNNConfig, MultiLabelCNN
from jmlv.progress import Bar, NoProgress, Progress, TqdmProgress
from jmlv.training import (
    L0Defence,
    LinfDefence,
    NoDefence,
    TrainingConfig,
    binary_cross_entropy,
    label_set_margin,
    pgd_accuracy,
    projected_gradient,
    top_k_accuracy,
    train,
)

SMALL = CNNConfig(channels=(4, 8))
SHORT = TrainingConfig(epochs=3, batch_size=64)


@pytest.fixture(scope="module")
def data():
    return double_digits("train", size=512)


@pytest.fixture(scope="module")
def model():
    return MultiLabelCNN(SMALL, rngs=nnx.Rngs(0))


# ------------------------------------------------------------------------- training


@pytest.fixture(scope="module")
def recorder():
    return _Recorder()


@pytest.fixture(scope="module")
def short(data, recorder):
    return train(data, SMALL, SHORT, progress=recorder)


@pytest.mark.parametrize("defence", [L0Defence(), LinfDefence(epsilon=0.05, steps=2)], ids=repr)
def test_a_short_run_improves_the_loss(data, defence):
    result = train(data, SMALL, SHORT, defence=defence)
    assert len(result.losses) == 3 and not result.interrupted
    assert result.losses[-1] < 0.9 * result.losses[0]


def test_a_short_run_improves_the_loss_on_test_images(short, model):
    test = double_digits("test", size=256)

    def loss(network):
        return float(binary_cross_entropy(network(test.images), test.labels).mean())

    assert short.losses[-1] < 0.9 * short.losses[0]
    assert loss(short.model) < 0.9 * loss(model)


def test_equal_seeds_train_equal_networks(data):
    first, second, other = (
        train(data[:128], SMALL, TrainingConfig(epochs=1, seed=seed)) for seed in (0, 0, 1)
    )
    assert first.losses == second.losses != other.losses
    assert (first.model.dense.kernel[...] == second.model.dense.kernel[...]).all()


class _Recorder(Progress):
    """Keeps what it is told; interrupts at step ``stop``, as a user would."""

    def __init__(self, stop: int | None = None):
        self.stop, self.seen, self.closed = stop, [], False

    def bar(self, description: str, total: int | None = None) -> Bar:
        recorder, self.total = self, total

        class Recording(Bar):
            def update(self, steps: int = 1, **values: object) -> None:
                recorder.seen.append(values)
                if len(recorder.seen) == recorder.stop:
                    raise KeyboardInterrupt

            def close(self) -> None:
                recorder.closed = True

        return Recording()


def test_progress_sees_every_epoch(short, recorder):
    assert recorder.total == 3 and recorder.closed
    assert [values["loss"] for values in recorder.seen] == list(short.losses)


def test_an_interrupt_returns_the_last_whole_epoch(data, short):
    recorder = _Recorder(stop=2)
    result = train(data, SMALL, SHORT, progress=recorder)
    assert result.interrupted and recorder.closed
    assert result.losses == short.losses[:2]
    assert top_k_accuracy(result.model, data.images, data.labels) >= 0


def test_an_interrupt_before_the_first_epoch_is_raised_on(data):
    class Impatient(NoProgress):
        def bar(self, description: str, total: int | None = None) -> Bar:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(data, SMALL, SHORT, progress=Impatient())


def test_nothing_is_printed(data, capfd):
    train(data, SMALL, TrainingConfig(epochs=1, batch_size=256))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("model", "config", "message"),
    [
        (CNNConfig(input_shape=(16, 16, 1)), SHORT, "model: got input_shape"),
        (CNNConfig(labels=9), SHORT, "model: got 9 labels"),
        (SMALL, TrainingConfig(batch_size=513), "data: got 512 images"),
        (SMALL, TrainingConfig(epochs=2, learning_rate=1e30), "the loss became"),
    ],
)
def test_impossible_training_is_named(data, model, config, message):
    with pytest.raises(ValueError, match=message):
        train(data, model, config)


@pytest.mark.parametrize(
    "options",
    [
        {"epochs": 0},
        {"batch_size": 0},
        {"seed": -1},
        {"learning_rate": 0.0},
        {"weight_decay": -1.0},
    ],
)
def test_impossible_options_are_named(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        TrainingConfig(**options)


# ------------------------------------------------------------------------- defences


def applied(defence, model, images, labels, seed=0, done=1.0):
    """What a defence makes of the images, jitted as in training."""
    apply = jax.jit(lambda x, y, key, done: defence.apply(model, x, y, key, done))
    return apply(images, labels, jax.random.key(seed), done)


def test_no_defence_changes_nothing(data, model):
    images = jnp.asarray(data.images[:8])
    moved = applied(NoDefence(), model, images, jnp.asarray(data.labels[:8]))
    assert (moved == images).all()


@pytest.mark.parametrize("defence", [L0Defence(), L0Defence(rectangles=1, max_side=9)])
def test_l0_only_blackens_rectangles(model, defence):
    ones, labels = jnp.ones((64, 32, 32, 1)), jnp.ones((64, 10), bool)
    moved = np.asarray(applied(defence, model, ones, labels))
    black = moved[..., 0] == 0
    assert ((moved == 1) | (moved == 0)).all()
    assert black.any() and not black.any(axis=(1, 2)).all()
    assert black.sum(axis=(1, 2)).max() <= defence.rectangles * defence.max_side**2
    if defence.rectangles == 1:
        area = black.any(axis=1).sum(axis=1) * black.any(axis=2).sum(axis=1)
        assert (black.sum(axis=(1, 2)) == area).all()


def test_l0_leaves_other_pixels_as_they_are(data, model):
    images, labels = jnp.asarray(data.images[:32]), jnp.asarray(data.labels[:32])
    moved = applied(L0Defence(), model, images, labels, seed=1)
    assert ((moved == images) | (moved == 0)).all()
    assert (moved != images).any()


@pytest.mark.parametrize("defence", [LinfDefence(0.1, 3), LinfDefence(0.3, 2, step_size=0.9)])
def test_linf_stays_in_the_ball_and_the_box_and_raises_the_loss(data, model, defence):
    images, labels = jnp.asarray(data.images[:32]), jnp.asarray(data.labels[:32])
    moved = applied(defence, model, images, labels)
    assert jnp.abs(moved - images).max() <= defence.epsilon + 1e-6
    assert moved.min() >= 0 and moved.max() <= 1
    before, after = (binary_cross_entropy(model(x), labels) for x in (images, moved))
    assert (after > before).all()


def test_linf_radius_grows_during_the_warm_up(data, model):
    images, labels = jnp.asarray(data.images[:16]), jnp.asarray(data.labels[:16])
    defence = LinfDefence(0.1, 2, warm_up=0.5)
    apply = jax.jit(lambda done: defence.apply(model, images, labels, jax.random.key(0), done))
    for done, share in [(0.0, 0), (0.2, 0.4), (0.5, 1), (1.0, 1)]:
        reached = float(jnp.abs(apply(done) - images).max())
        assert reached == pytest.approx(0.1 * share, abs=1e-6)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: L0Defence(rectangles=0), "rectangles: got 0"),
        (lambda: L0Defence(max_side=0), "max_side: got 0"),
        (lambda: LinfDefence(epsilon=0.0), "epsilon: got 0"),
        (lambda: LinfDefence(epsilon=1.5), "epsilon: got 1.5"),
        (lambda: LinfDefence(steps=0), "steps: got 0"),
        (lambda: LinfDefence(step_size=-0.1), "step_size: got -0.1"),
        (lambda: LinfDefence(warm_up=1.5), "warm_up: got 1.5"),
    ],
)
def test_impossible_defences_are_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()


# -------------------------------------------------------------------------- metrics


def test_projected_gradient_finds_the_corner_of_a_linear_function():
    slope = jnp.asarray(np.random.default_rng(0).normal(size=(4, 4, 1)), jnp.float32)
    images = jnp.asarray(np.random.default_rng(1).random((3, 4, 4, 1)), jnp.float32)
    found = projected_gradient(
        lambda x: (x * slope).sum((1, 2, 3)),
        images,
        epsilon=0.2,
        steps=3,
        step_size=0.2,
        key=jax.random.key(0),
    )
    corner = jnp.where(slope > 0, jnp.minimum(images + 0.2, 1), jnp.maximum(images - 0.2, 0))
    assert jnp.allclose(found, corner)


@pytest.mark.parametrize(
    ("scores", "labels", "margin"),
    [
        ([3.0, 2.0, 1.0], [1, 1, 0], 1.0),
        ([3.0, 2.0, 1.0], [1, 0, 1], -1.0),
        ([3.0, 2.0, 2.0], [1, 1, 0], 0.0),
        ([3.0, 2.0, 1.5], [1, 0, 0], 1.0),
    ],
)
def test_label_set_margin(scores, labels, margin):
    assert label_set_margin(jnp.array([scores]), jnp.array([labels], bool))[0] == margin


def test_top_k_accuracy_agrees_with_sorting(data, model):
    scores = np.asarray(model(data.images))
    top = np.argsort(-scores, axis=1)[:, :2]
    expected = np.mean([set(t) == set(o) for t, o in zip(top, data.object_labels)])
    assert top_k_accuracy(model, data.images, data.labels) == pytest.approx(expected)


def test_a_tie_counts_as_wrong():
    images, labels = np.zeros((1, 1, 1, 3), np.float32), np.array([[True, True, False]])
    assert top_k_accuracy(lambda x: x.reshape(-1, 3), images, labels) == 0


@pytest.fixture(scope="module")
def trained():
    data = double_digits("train", size=1500)
    config = TrainingConfig(epochs=4, batch_size=64, learning_rate=1e-2)
    model = CNNConfig(channels=(8, 32), kernels=(6, 4), strides=(3, 2), paddings=(2, 0), pool=4)
    return train(data, model, config).model


def test_pgd_accuracy_falls_with_the_radius(trained, data):
    images, labels, key = data.images[:200], data.labels[:200], jax.random.key(0)
    clean = top_k_accuracy(trained, images, labels)
    attacked = [pgd_accuracy(trained, images, labels, e, 2, key) for e in (0.0, 0.02)]
    assert attacked[0] == clean > 0.1
    assert clean > attacked[1]


def test_pgd_accuracy_is_a_function_of_the_key(trained, data):
    images, labels = data.images[:100], data.labels[:100]
    first, second = (
        pgd_accuracy(trained, images, labels, 0.01, 2, jax.random.key(5)) for _ in range(2)
    )
    assert first == second


@pytest.mark.parametrize("rows", [0, 3])
def test_metrics_refuse_rows_that_do_not_match(data, model, rows):
    """A runtime type checker, where one is on, may refuse with a TypeError first."""
    with pytest.raises((ValueError, TypeError)) as error:
        top_k_accuracy(model, data.images[: 2 * rows], data.labels[:rows])
    if isinstance(error.value, ValueError):
        assert f"labels: got {rows} rows" in str(error.value)


# ------------------------------------------------------------------------- progress


def test_no_progress_prints_nothing(capfd):
    assert list(NoProgress().wrap(iter([1, 2]), "counting")) == [1, 2]
    assert capfd.readouterr() == ("", "")


def test_tqdm_progress_draws_a_bar_with_values(capfd):
    with TqdmProgress().bar("training", 2) as bar:
        bar.update(loss=0.123456)
        bar.update(loss=0.1)
    out, err = capfd.readouterr()
    assert out == "" and "training" in err and "2/2" in err and "loss=0.1" in err
