"""The field's classifiers at tiny sizes: modes, checkpoints, bounds, refusals; and the ranking losses."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from zoo import mostly_slow

import jmlv
from jmlv import checkpoints
from jmlv.attacks import MIFGSM, Hide, attack
from jmlv.data import MultiLabelImages
from jmlv.models import (
    RESNET18,
    RESNET50,
    TRESNET_M,
    GCNConfig,
    InceptionSizes,
    LIWConfig,
    Pretrained,
    Query2LabelConfig,
    ResNetConfig,
    ResNetSizes,
    config_from_json,
    config_to_json,
    correlation_matrix,
    unfilled,
)
from jmlv.models.mlliw import PUBLISHED_MEAN, PUBLISHED_STD
from jmlv.smoothing import sample_counts
from jmlv.training import TrainingConfig, train
from jmlv.training.ranking import (
    Hinge,
    InstanceWiseRanking,
    LabelAndInstanceRanking,
    LabelWiseRanking,
    exponential,
)

SHAPE = (8, 8, 3)
TINY = ResNetSizes((1, 1), (2, 3), stem_width=2, stem_kernel=3, stem_stride=1)
ANTI_ALIASED = replace(
    TINY, space_to_depth=2, blur_pool=True, average_shortcut=True,
    slopes=(0.01, 0.0),
)  # fmt: skip
ONE_BLOCK = replace(TINY, depths=(1,), widths=(2,))
SQUEEZED = replace(ANTI_ALIASED, bottleneck=(False, True), squeeze_excite=(True, True))
QUERIES = dict(channels=4, heads=2, feedforward=6, encoders=0, decoders=1)
CONFIGS = {
    "resnet": ResNetConfig(SHAPE, TINY, labels=4),
    "one block": ResNetConfig((4, 4, 3), ONE_BLOCK, labels=4),
    "anti-aliased": ResNetConfig(SHAPE, ANTI_ALIASED, labels=4, mean=(0.0,), std=(1.0,)),
    "squeezed": ResNetConfig(SHAPE, SQUEEZED, labels=4),
    "query2label": Query2LabelConfig(SHAPE, ONE_BLOCK, labels=4, **QUERIES),
    "mlgcn": GCNConfig(SHAPE, ONE_BLOCK, labels=4, embedding=3, hidden=5),
    "mlliw": LIWConfig((75, 75, 3), InceptionSizes(1 / 64, (1, 1, 1)), labels=4),
}


def drawn(name):
    """A network whose weights and running statistics are all random, in evaluation mode."""
    graph, shapes, random = unfilled(CONFIGS[name])
    rng = np.random.default_rng(1)

    def draw(place, held):
        value = rng.normal(size=held.shape) * (1 if "kernel" in place else 0.3)
        return held.replace(
            jnp.asarray(np.abs(value) + 0.5 if "var" in place else value, jnp.float32)
        )

    flat = {place: draw(place, held) for place, held in nnx.to_flat_state(shapes)}
    return nnx.merge(graph, nnx.from_flat_state(flat), random)


@cache
def network(name):
    """Its scores at inference, jitted."""
    return jax.jit(jmlv.as_function(drawn(name)))


def images(count, seed=0):
    return np.random.default_rng(seed).random((count, *SHAPE), np.float32)


# ---------------------------------------------------------------------------------------------
# Sizes
# ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CONFIGS)
def test_sizes_survive_json(name):
    text = json.dumps(config_to_json(CONFIGS[name]))
    assert config_from_json(json.loads(text)) == CONFIGS[name]


@pytest.mark.parametrize(
    ("config", "parameters"),
    [
        (ResNetConfig(sizes=RESNET18, labels=1000), 11_689_512),
        (ResNetConfig(sizes=RESNET50, labels=1000), 25_557_032),
        pytest.param(LIWConfig(labels=1000), 23_834_568, marks=pytest.mark.slow),
        pytest.param(
            ResNetConfig(sizes=TRESNET_M, labels=1000), 31_389_032, marks=pytest.mark.slow
        ),
    ],
    ids=["resnet18", "resnet50", "inception_v3", "tresnet_m"],
)
def test_published_sizes_have_the_published_number_of_parameters(config, parameters):
    """Torchvision's documentation (Inception-v3 without its second head), timm's for TResNet."""
    model = nnx.eval_shape(lambda: config.build(rngs=nnx.Rngs(0)))
    leaves = jax.tree.leaves(nnx.state(model, nnx.Param))
    assert sum(leaf.size for leaf in leaves) == parameters


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: replace(TINY, depths=(1,)), "widths"),
        (lambda: replace(TINY, depths=(), widths=()), "depths"),
        (lambda: replace(TINY, bottleneck=(True,)), "bottleneck"),
        (lambda: replace(TINY, stem_stride=0), "stem_stride"),
        (lambda: replace(TINY, slopes=(0.1, 1.0)), "slopes"),
        (lambda: ResNetConfig((9, 8, 3), ANTI_ALIASED), "input_shape"),
        (lambda: ResNetConfig(SHAPE, TINY, mean=(0.5, 0.5)), "mean"),
        (lambda: ResNetConfig(SHAPE, TINY, std=(0.0,)), "std"),
        (lambda: GCNConfig(SHAPE, TINY, embedding=0), "embedding"),
        (lambda: Query2LabelConfig(SHAPE, TINY, channels=6, heads=3), "channels"),
        (lambda: Query2LabelConfig(SHAPE, TINY, dropout=1.0), "dropout"),
        (lambda: LIWConfig((74, 99, 3)), "input_shape"),
        (lambda: InceptionSizes(depths=(1, 5, 1)), "depths"),
        (lambda: InceptionSizes(0.0), "width"),
    ],
)
def test_impossible_sizes_are_named(make, name):
    with pytest.raises(ValueError, match=f"^{name}: "):
        make()


# ---------------------------------------------------------------------------------------------
# Modes and checkpoints
# ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["squeezed", "query2label", "mlgcn"])
def test_a_checkpoint_brings_back_weights_statistics_and_what_is_given(name, tmp_path):
    model = drawn(name)
    restored, _ = checkpoints.restore(checkpoints.save(tmp_path / name, model))
    assert restored.config == CONFIGS[name]
    saved, found = (nnx.to_pure_dict(nnx.state(m, checkpoints.SAVED)) for m in (model, restored))
    jax.tree.map(np.testing.assert_array_equal, saved, found)
    assert restored.backbone.bn1.use_running_average and "mean" in found["backbone"]["bn1"]


def test_training_mode_uses_the_batch_and_evaluation_mode_the_running_statistics():
    """One image's scores depend on the others of its batch in training mode only."""
    x = images(4)
    alone, together = network("resnet")(x[:1]), network("resnet")(x)
    np.testing.assert_allclose(alone[0], together[0], atol=1e-5)
    model = drawn("resnet")
    before = np.asarray(model.backbone.bn1.mean[...])
    model.train()

    @nnx.jit
    def forward(model, x):
        return model(x)

    assert np.abs(forward(model, x)[0] - together[0]).max() > 1e-2
    first = model.backbone.conv1((x - np.float32(model.config.mean)) / np.float32(model.config.std))
    expected = 0.9 * before + 0.1 * np.asarray(first).mean((0, 1, 2))
    np.testing.assert_allclose(model.backbone.bn1.mean[...], expected, atol=1e-5)


@pytest.mark.parametrize("name", ["squeezed", "query2label"])
def test_a_network_in_bfloat16_stays_in_it(name):
    """Running statistics stay in float32, and every convolution and product is in bfloat16."""
    graph, weights, others = nnx.split(drawn(name), nnx.Param, ...)
    weights = jax.tree.map(lambda value: value.astype(jnp.bfloat16), weights)
    network = lambda x: nnx.merge(graph, weights, others)(x)  # noqa: E731
    equations = jax.make_jaxpr(network)(jnp.zeros((2, *SHAPE), jnp.bfloat16)).jaxpr.eqns
    products = [e for e in equations if e.primitive.name in ("conv_general_dilated", "dot_general")]
    assert {str(equation.outvars[0].aval.dtype) for equation in products} == {"bfloat16"}


def test_dropout_is_drawn_in_training_mode_only():
    """The same tokens: twice the same at inference, twice another in training."""
    layer = drawn("query2label").decoder[0]
    rng = np.random.default_rng(0)
    tokens = [rng.normal(size=(1, 5, 4)), rng.normal(size=(5, 4)), rng.normal(size=(1, 6, 4)),
              rng.normal(size=(6, 4))]  # fmt: skip
    forward = nnx.jit(lambda layer: layer(*map(jnp.float32, tokens)))
    assert (forward(layer) == forward(layer)).all()
    layer.train()
    assert np.abs(forward(layer) - forward(layer)).max() > 1e-3


# ---------------------------------------------------------------------------------------------
# Graph convolution
# ---------------------------------------------------------------------------------------------


def test_the_correlation_matrix_is_the_papers():
    """Chen et al., Eqs. 6 to 8, entry by entry; label 4 never occurs, label 3 only alone."""
    rng = np.random.default_rng(0)
    labels = rng.random((40, 5)) < [0.6, 0.5, 0.2, 0.3, 0.0]
    labels[:, 3] &= ~labels[:, :3].any(1)
    tau, p = 0.4, 0.2
    found = correlation_matrix(labels, tau, p)
    for i in range(5):
        count = sum(row[i] for row in labels)
        adjacent = [
            count > 0 and i != j and sum(row[i] and row[j] for row in labels) / count >= tau
            for j in range(5)
        ]
        for j in range(5):
            expected = 1 - p if i == j else p * adjacent[j] / max(sum(adjacent), 1)
            assert found[i, j] == pytest.approx(expected)
    assert found[:3].sum(1) == pytest.approx(np.ones(3)) and found[3:].sum() == pytest.approx(1.6)
    for broken in ({"threshold": 0.0}, {"neighbours": 1.5}, {"labels": labels[0]}):
        with pytest.raises((ValueError, TypeError), match="labels"):
            correlation_matrix(**({"labels": labels} | broken))


def test_related_labels_share_their_classifiers():
    model = drawn("mlgcn")
    words = np.random.default_rng(0).normal(size=(4, 3))
    model.relate(words, np.eye(4))
    apart = np.asarray(model.classifiers())
    model.relate(words, np.full((4, 4), 0.25))
    together = np.asarray(model.classifiers())
    assert np.ptp(together, axis=0).max() < 1e-5 < 1e-2 < np.ptp(apart, axis=0).max()
    with pytest.raises(ValueError, match="^graph: "):
        model.relate(words, np.eye(3))
    with pytest.raises(ValueError, match="^embeddings: "):
        model.relate(words * np.nan, np.eye(4))


def test_what_is_given_is_not_trained():
    weights = nnx.state(drawn("mlgcn"), nnx.Param)
    assert "embeddings" not in weights and "graph" not in weights and "gc1" in weights


def test_training_starts_from_a_network_and_keeps_what_is_given():
    """Weights move and the loss falls under ML-LIW's ranking; the graph of the labels stays."""
    start = drawn("mlgcn")
    start.relate(np.random.default_rng(0).normal(size=(4, 3)), correlation_matrix(np.eye(4) > 0))
    rng, count = np.random.default_rng(1), 32
    labels = rng.random((count, 4)) < 0.5
    pixels = (labels[:, None, None, :3] * 0.6 + rng.random((count, *SHAPE)) * 0.4).astype(
        np.float32
    )
    none = np.zeros((count, 0), np.int64)
    masks = np.zeros((count, 0, *SHAPE[:2]), bool)
    data = MultiLabelImages(
        pixels, labels, masks, none, none, ("a", "b", "c", "d"), "train", "random"
    )
    config = TrainingConfig(epochs=30, batch_size=32, learning_rate=2e-2)
    result = train(data, Pretrained(start), config, loss=LabelAndInstanceRanking())
    assert result.losses[-1] < 0.9 * result.losses[0]
    before, after = (
        nnx.to_pure_dict(nnx.state(m, checkpoints.SAVED)) for m in (start, result.model)
    )
    for name in before:
        pairs = zip(jax.tree.leaves(before[name]), jax.tree.leaves(after[name]))
        assert all((a == b).all() for a, b in pairs) == (name in ("graph", "embeddings")), name


def test_a_new_head_leaves_the_rest():
    start = drawn("one block")
    started = Pretrained(start, head=6).build(rngs=nnx.Rngs(0))
    assert started.fc.kernel.shape == (2, 6) and started.config == replace(start.config, labels=6)
    before, after = (nnx.to_pure_dict(nnx.state(m.backbone)) for m in (start, started))
    jax.tree.map(np.testing.assert_array_equal, before, after)
    assert repr(Pretrained(start)) == repr(Pretrained(drawn("one block")))
    assert repr(Pretrained(start)) != repr(Pretrained(started))
    with pytest.raises(ValueError, match="^head: "):
        Pretrained(start, head=0)


# ---------------------------------------------------------------------------------------------
# Verification
# ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["resnet", "anti-aliased", "squeezed", "query2label", "mlgcn", "mlliw"]
)
def test_every_operation_has_a_sound_rule(name):
    assert jmlv.check(drawn(name), np.zeros(CONFIGS[name].input_shape)) == []


@pytest.mark.parametrize("name", mostly_slow(["squeezed", "query2label", "mlliw"]))
def test_products_in_classifiers_are_verified(name):
    """A proof at a tiny radius, and no bound that points of a larger box contradict."""
    shape = CONFIGS[name].input_shape
    graph = jmlv.trace(drawn(name), shape)
    x = np.random.default_rng(0).random(shape, np.float32)
    label = int(np.argmax(graph.scores(x[None])[0]))
    property, method = jmlv.InTopK(label, 1), jmlv.CROWNIBP()
    tiny, larger = (jmlv.Box.around(x, np.float32(radius)) for radius in (1e-6, 2e-3))
    assert jmlv.verify(graph, tiny, property, jmlv.Bounds(method)).robust
    found = jmlv.bound(graph, larger, property, method)
    points = x + np.random.default_rng(1).choice([-2e-3, 2e-3], (64, *shape)).astype(np.float32)
    margins = np.asarray(property.margin(graph.scores(np.clip(points, 0, 1))))
    assert found.lower <= margins.min() + 1e-4 and margins.max() <= found.upper + 1e-4
    assert np.isfinite(found.lower)


@pytest.mark.parametrize(
    ("name", "method"),
    [
        ("resnet", jmlv.IBP()),
        ("anti-aliased", jmlv.IBP()),
        pytest.param("anti-aliased", jmlv.CROWN(), marks=pytest.mark.slow),
    ],
    ids=["IBP", "IBP, anti-aliased", "CROWN, anti-aliased"],
)
def test_bounds_hold_around_a_batch_normalised_network(name, method):
    """Sampled points and corners of a box lie between the bounds, which are not trivial."""
    graph, x, radius = jmlv.trace(drawn(name), SHAPE), images(1)[0], 0.01
    label = int(np.argsort(network(name)(x[None])[0])[-2])
    property = jmlv.InTopK(label, 2)
    found = jmlv.bound(graph, jmlv.Box.around(x, np.float32(radius)), property, method)
    rng = np.random.default_rng(2)
    moves = (
        rng.uniform(-radius, radius, (128, *SHAPE)),
        rng.choice([-radius, radius], (128, *SHAPE)),
    )
    points = np.clip(x + np.concatenate(moves), 0, 1).astype(np.float32)
    margins = np.asarray(property.margin(network(name)(points)))
    assert found.lower <= margins.min() and margins.max() <= found.upper
    assert np.ptp(margins) > 1e-3, "the radius matters"
    if method == jmlv.CROWN():
        assert found.upper - found.lower < 10 * np.ptp(margins)


def test_a_residual_network_is_verified_both_ways():
    graph, x = jmlv.trace(drawn("one block"), (4, 4, 3)), images(1)[0, :4, :4]
    label = int(np.argmax(graph.scores(x[None])[0]))
    for radius, oracle in ((1e-6, jmlv.Bounds(jmlv.IBP())), (0.9, jmlv.PGD(restarts=2, steps=10))):
        box = jmlv.Box.around(x, np.float32(radius))
        verdict = jmlv.verify(graph, box, jmlv.InTopK(label, 1), oracle)
        assert verdict.robust == (radius < 0.1)


def test_a_module_in_training_mode_is_attacked_and_smoothed():
    """As it is at inference."""
    name = "query2label"
    model, x = drawn(name), images(2)
    model.train()
    label = int(np.argmax(network(name)(x)[0]))
    found = attack(model, x, Hide(label), MIFGSM(step=0.05), budgets=[0.1])
    np.testing.assert_allclose(found.scores[0], network(name)(found.images[0]), atol=1e-4)
    assert found.scores[0, 0, label] < network(name)(x)[0, label]
    counts = sample_counts(model, x[0], sigma=1e-5, n=20, k_prime=1, key=jax.random.key(0))
    assert counts.argmax() == label


# ---------------------------------------------------------------------------------------------
# Pixels
# ---------------------------------------------------------------------------------------------


def test_the_published_liw_normalises_twice():
    """What its code does one after the other, on the values that red, green and blue can have."""
    x = np.linspace(0, 1, 7)[:, None]
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    once = (x - 0.5) / 0.5
    twice = once * (std / 0.5) + (mean - 0.5) / 0.5
    np.testing.assert_allclose((x - PUBLISHED_MEAN) / PUBLISHED_STD, twice, atol=1e-12)


# ---------------------------------------------------------------------------------------------
# Ranking losses
# ---------------------------------------------------------------------------------------------


def slow_ranking(scores, labels, penalty):
    """Mean penalty of the pairs of each row, as loops; rows without pairs cost nothing."""
    rows = []
    for row, true in zip(scores, labels):
        pairs = [
            penalty(a - b) for a, s in zip(row, true) for b, t in zip(row, true) if s and not t
        ]
        rows.append(sum(pairs) / len(pairs) if pairs else 0.0)
    return np.array(rows)


LABELS = np.array(
    [[1, 0, 0, 1, 0], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1], [0, 1, 0, 1, 0], [1, 0, 0, 1, 0]], bool
)
"""An image without labels, one with all; label 2 is rare, label 3 nearly everywhere."""


@pytest.mark.parametrize("penalty", [exponential, Hinge(0.7)])
def test_rankings_are_means_over_pairs(penalty):
    scores = np.random.default_rng(0).normal(size=LABELS.shape).astype(np.float32)
    instances = InstanceWiseRanking(penalty)(jnp.asarray(scores), LABELS)
    np.testing.assert_allclose(instances, slow_ranking(scores, LABELS, penalty), rtol=1e-4)
    images = LabelWiseRanking(penalty)(jnp.asarray(scores), LABELS)
    expected = slow_ranking(scores.T, LABELS.T, penalty).sum()
    assert float(images.sum()) == pytest.approx(expected, rel=1e-4)
    probabilities = 1 / (1 + np.exp(-scores))
    both = LabelAndInstanceRanking(0.5, 2.0, penalty)(jnp.asarray(scores), LABELS).sum()
    expected = (
        0.5 * slow_ranking(probabilities, LABELS, penalty).sum()
        + 2 * slow_ranking(probabilities.T, LABELS.T, penalty).sum()
    )
    assert float(both) == pytest.approx(expected, rel=1e-4)


def test_the_ranking_losses_slope_is_right_and_finite():
    """Against central differences in float64; far scores, and rows without pairs, give no NaN."""
    scores = np.random.default_rng(1).normal(size=LABELS.shape)
    loss = LabelAndInstanceRanking()
    with jax.enable_x64(True):
        total = jax.jit(lambda s: loss(s, LABELS).sum())
        slope = np.asarray(jax.jit(jax.grad(total))(jnp.asarray(scores)))
        for place in ((0, 0), (3, 2), (1, 3)):
            step = np.zeros_like(scores)
            step[place] = 1e-5
            ends = (float(total(jnp.asarray(scores + s))) for s in (step, -step))
            assert slope[place] == pytest.approx((next(ends) - next(ends)) / 2e-5, rel=1e-5)
    far = jax.jit(jax.grad(lambda s: InstanceWiseRanking()(s, LABELS).sum()))(1e4 + scores)
    assert np.isfinite(far).all()


@pytest.mark.parametrize("make", [lambda: Hinge(0), lambda: LabelAndInstanceRanking(0, 0),
                                  lambda: LabelAndInstanceRanking(-1, 1)])  # fmt: skip
def test_impossible_losses_are_named(make):
    with pytest.raises(ValueError, match="^(margin|instances)"):
        make()
