"""Certified training: its loss bounds every loss in the box, its gradients, what it certifies."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from small_training import PLAIN, MutableConfig, table

import jmlv
from jmlv.bounds import CROWNIBP, IBP
from jmlv.models import CNNConfig
from jmlv.training import (
    AsymmetricLoss,
    CertifiedTraining,
    NoDefence,
    TrainingConfig,
    binary_cross_entropy,
    projected_gradient,
    train,
    worst_margins,
    worst_scores,
)
from jmlv.training.certified import ranking_cross_entropy
from jmlv.training.network import Network, take_apart

CNN = CNNConfig(input_shape=(6, 6, 1), channels=(2, 3), pool=2, labels=3)
KEY = jax.random.key(0)
worst_at = jax.jit(worst_scores, static_argnums=4)
margins_at = jax.jit(worst_margins, static_argnums=3)


def network(config=PLAIN, seed=0) -> Network:
    return Network(*take_apart(config.build(rngs=nnx.Rngs(seed))))


def batch(config, rows=4, seed=1):
    rng = np.random.default_rng(seed)
    x = jnp.asarray(rng.random((rows, *config.input_shape)), jnp.float32)
    return x, jnp.asarray(rng.random((rows, config.labels)) > 0.5)


def margins_of_intervals(graph, x, epsilon):
    """Differences of the scores' own intervals."""
    everywhere = jnp.ones((len(x), graph.label_count), bool)
    least = worst_at(graph, x, everywhere, epsilon, IBP())
    most = worst_at(graph, x, ~everywhere, epsilon, IBP())
    return least[:, :, None] - most[:, None]


# ----------------------------------------------------------------------------- bound


@pytest.mark.parametrize(
    ("config", "method"),
    [(CNN, IBP()), (CNN, CROWNIBP()), (MutableConfig(), CROWNIBP())],
    ids=["CNN IBP", "CNN CROWN-IBP", "batch norm CROWN-IBP"],
)
def test_the_worst_loss_is_reached_nowhere_in_the_box(config, method):
    """Sampled points, corners and what PGD finds, for both monotone losses."""
    net, (x, y) = network(config), batch(config)
    epsilon, rng, scores = 0.15, np.random.default_rng(2), jax.jit(net)
    worst = worst_at(net.graph(config.input_shape), x, y, epsilon, method)
    moves = [rng.uniform(-1, 1, x.shape) for _ in range(8)]
    moves += [rng.choice([-1, 1], x.shape) for _ in range(8)]
    points = [jnp.clip(x + epsilon * m, 0, 1).astype(jnp.float32) for m in moves]
    attack = {"epsilon": epsilon, "steps": 8, "step_size": 0.05, "key": KEY}
    points.append(projected_gradient(lambda z: binary_cross_entropy(scores(z), y), x, **attack))
    for loss in (binary_cross_entropy, AsymmetricLoss()):
        reached = jnp.stack([loss(scores(p), y) for p in points]).max(0)
        assert (loss(worst, y) >= reached - 1e-5).all()
        assert (loss(worst, y) > reached).any()


@pytest.mark.parametrize(
    ("config", "method"), [(CNN, IBP()), (PLAIN, CROWNIBP())], ids=["CNN", "CROWN-IBP"]
)
def test_the_worst_margins_are_reached_nowhere_in_the_box(config, method):
    net, (x, y) = network(config), batch(config)
    epsilon, rng, scores = 0.15, np.random.default_rng(2), jax.jit(net)
    graph = net.graph(config.input_shape)
    worst = margins_at(graph, x, epsilon, method)
    plain = margins_of_intervals(graph, x, epsilon)
    assert (worst >= plain - 1e-5).all() and (worst > plain + 1e-4).any()
    moves = [rng.uniform(-1, 1, x.shape) for _ in range(8)]
    moves += [rng.choice([-1, 1], x.shape) for _ in range(8)]
    for move in moves:
        reached = scores(jnp.clip(x + epsilon * move, 0, 1).astype(jnp.float32))
        margins = reached[:, :, None] - reached[:, None]
        assert (margins >= worst - 1e-5).all()
        assert (ranking_cross_entropy(worst, y) >= ranking_cross_entropy(margins, y) - 1e-5).all()


def test_the_box_is_cut_off_at_zero_and_one():
    graph = jmlv.trace(lambda x: x.reshape(x.shape[0], -1), (1, 2, 1))
    x = jnp.array([[[[0.05], [0.95]]]])
    worst = worst_scores(graph, x, jnp.array([[True, False]]), 0.1, IBP())
    np.testing.assert_allclose(worst, [[0.0, 1.0]])


def test_without_a_radius_the_worst_scores_are_the_scores():
    net, (x, y) = network(), batch(PLAIN)
    for method in (IBP(), CROWNIBP()):
        worst = worst_at(net.graph(PLAIN.input_shape), x, y, 0.0, method)
        np.testing.assert_allclose(worst, net(x), atol=1e-5)


# ------------------------------------------------------------------------- objective


def test_gradients_are_those_of_finite_differences():
    """Of the mixed bound, along a random direction of all weights, in float64."""
    with jax.enable_x64(True):
        net, (x, y) = network(), batch(PLAIN)
        x = x.astype(jnp.float64)

        @jax.jit
        def value(weights):
            moved = Network(net.architecture, weights, net.mutable)
            graph = moved.graph(PLAIN.input_shape).astype("float64")
            loose, tight = (worst_scores(graph, x, y, 0.1, m) for m in (IBP(), CROWNIBP()))
            return binary_cross_entropy(0.5 * loose + 0.5 * tight, y).mean()

        weights = jax.tree.map(lambda w: w.astype(jnp.float64), net.weights)
        rng = np.random.default_rng(0)
        direction = jax.tree.map(lambda w: rng.normal(size=w.shape), weights)
        moved = [
            float(value(jax.tree.map(lambda w, d, h=h: w + h * d, weights, direction)))
            for h in (1e-6, -1e-6)
        ]
        slopes = jax.jit(jax.grad(value))(weights)
        products = jax.tree.map(lambda g, d: (np.asarray(g) * d).sum(), slopes, direction)
        assert sum(jax.tree.leaves(products)) == pytest.approx(
            (moved[0] - moved[1]) / 2e-6, rel=1e-4
        )


def losses_at(objective, done):
    net, (x, y) = network(), batch(PLAIN)
    ask = jax.jit(lambda done: objective.losses(net, binary_cross_entropy, x, y, KEY, done)[0])
    return ask(done)


def test_the_radius_and_the_share_grow_between_two_moments():
    objective = CertifiedTraining(epsilon=0.1, start=0.2, end=0.6, kappa=0.25)
    net, (x, y) = network(), batch(PLAIN)
    clean = binary_cross_entropy(net(x), y)
    graph = net.graph(PLAIN.input_shape)
    np.testing.assert_allclose(losses_at(objective, 0.1), clean, rtol=1e-5)
    for done, grown in ((0.4, 0.5), (0.6, 1.0), (1.0, 1.0)):
        worst = binary_cross_entropy(worst_at(graph, x, y, grown * 0.1, IBP()), y)
        kappa = 1 - grown * 0.75
        expected = kappa * clean + (1 - kappa) * worst
        np.testing.assert_allclose(losses_at(objective, done), expected, rtol=1e-5)


def test_beta_mixes_the_two_bounds():
    net, (x, y) = network(), batch(PLAIN)
    graph = net.graph(PLAIN.input_shape)
    loose, tight = (worst_at(graph, x, y, 0.1, m) for m in (IBP(), CROWNIBP()))
    assert not np.allclose(loose, tight)
    objective = CertifiedTraining(CROWNIBP(), 0.1, kappa=0.0, beta=0.4)
    expected = binary_cross_entropy(0.4 * tight + 0.6 * loose, y)
    np.testing.assert_allclose(losses_at(objective, 1.0), expected, rtol=1e-5)


@pytest.mark.parametrize("done", [0.1, 0.4, 0.6])
def test_every_phase_has_the_value_of_the_whole(done):
    objective = CertifiedTraining(CROWNIBP(), 0.1, start=0.2, end=0.6, kappa=0.25)
    phase = objective.phase(done)
    assert (phase == objective) == (done == 0.4)
    np.testing.assert_allclose(losses_at(phase, done), losses_at(objective, done), rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epsilon": 0.0}, "epsilon: got 0"),
        ({"start": 0.5, "end": 0.5}, "start, end: got 0.5, 0.5"),
        ({"end": 1.5}, "start, end"),
        ({"kappa": 1.5}, "kappa: got 1.5"),
        ({"beta": -0.5}, "beta: got -0.5"),
    ],
)
def test_impossible_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        CertifiedTraining(**options)


# -------------------------------------------------------------------------- training


@pytest.fixture(scope="module")
def plain():
    config = TrainingConfig(epochs=12, batch_size=16, learning_rate=0.05)
    return config, train(table(96), PLAIN, config, defence=NoDefence()).model


SHORT = {
    "IBP": CertifiedTraining(IBP(), 0.1, start=0.0, end=0.5),
    "CROWN-IBP": CertifiedTraining(CROWNIBP(), 0.1, start=0.0, end=1.0),
    "margins": CertifiedTraining(IBP(), 0.1, start=0.0, end=0.5, margins=True),
}


@pytest.mark.parametrize("name", SHORT)
def test_a_short_training_certifies_more(plain, name):
    (config, undefended), defence = plain, SHORT[name]
    defended = train(table(96), PLAIN, config, defence=defence)
    test = table(48, seed=7, split="test")

    def certified(model):
        graph = jmlv.trace(model, PLAIN.input_shape)
        if defence.margins:
            worst, y = margins_at(graph, test.images, 0.1, CROWNIBP()), test.labels
            return float(jnp.where(y[:, :, None] & ~y[:, None], worst, 0).min((1, 2)).mean())
        worst = worst_at(graph, test.images, test.labels, 0.1, CROWNIBP())
        return float(jnp.where(test.labels, worst, -worst).min(1).mean())

    assert certified(defended.model) > certified(undefended) + 0.05
    assert np.isfinite(defended.losses).all()


def test_a_network_with_batch_norm_trains_certifiedly():
    config = TrainingConfig(epochs=4, batch_size=16, learning_rate=0.02)
    defence = CertifiedTraining(epsilon=0.05, start=0.0)
    result = train(table(96), MutableConfig(rate=0.0), config, defence=defence)
    assert np.isfinite(result.losses).all()
    assert not np.allclose(result.model.norm.mean[...], 0)
