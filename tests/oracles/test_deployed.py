"""Proofs about the deployed network: errors of any order of summation, and networks made to deceive."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import zoo

import jmlv
from jmlv.bounds.method import Interval
from jmlv.bounds.rounding import rounding_errors
from jmlv.errors import SoundnessError
from jmlv.graph.fuse import fuse_relu_max_pool
from jmlv.graph.reordered import reordered_scores
from jmlv.numerics import certificate_precision
from jmlv.verdict import REAL_VALUED, Status

FLOAT32 = jmlv.Float32()


def _errors(graph, box):
    return rounding_errors(graph, box, {}, FLOAT32.arithmetic).errors[0]


def _dense(layers):
    """A network of (weights, bias) layers with ReLUs between them."""

    def f(x):
        x = x.reshape(len(x), -1)
        for i, (w, b) in enumerate(layers):
            x = jnp.matmul(x, jnp.asarray(w), precision="highest") + jnp.asarray(b)
            x = jnp.maximum(x, 0) if i < len(layers) - 1 else x
        return x

    return f


def _in_some_order(layers, x, rng):
    """Scores in float32 with every sum, the bias among its terms, in a random order."""
    x = np.asarray(x, np.float32).ravel()
    for i, (w, b) in enumerate(layers):
        terms = np.concatenate([x[:, None] * w, b[None]]).astype(np.float32)
        total = np.zeros(len(b), np.float32)
        for row in rng.permutation(len(terms)):
            total = total + terms[row]
        x = np.maximum(total, 0) if i < len(layers) - 1 else total
    return x


def _layers(rng, sizes, spread):
    """Random layers with weights of up to ``10 ** spread`` and down to its inverse."""
    found = []
    for n, m in zip(sizes, sizes[1:]):
        w = rng.normal(size=(n, m)) * 10.0 ** rng.uniform(-spread, spread, size=(n, m))
        found.append((w.astype(np.float32), rng.normal(size=m).astype(np.float32)))
    return found


@pytest.mark.parametrize("spread", zoo.mostly_slow([0, 3, 6], 0, 6))
def test_no_order_of_summation_exceeds_the_bound(spread):
    rng = np.random.default_rng(spread)
    layers = _layers(rng, (12, 20, 10, 4), spread)
    graph = jmlv.trace(_dense(layers), (12,))
    x = rng.random(12).astype(np.float32)
    with certificate_precision():
        exact = graph.astype("float64")
        point = jnp.asarray(x, jnp.float64)[None]
        errors = np.asarray(_errors(exact, Interval(point, point)))
        scores = np.asarray(exact(point))[0]
    off = [np.abs(_in_some_order(layers, x, rng) - scores) for _ in range(50)]
    assert np.all(np.max(off, 0) <= errors) and np.all(errors < 1e-2 * (1 + np.abs(scores).max()))
    assert np.max(off) > errors.max() * 1e-4  # nor is it so large that it says nothing


@pytest.mark.parametrize("name", zoo.mostly_slow(["conv", "residual", "average_pools"], "residual"))
def test_every_operation_has_an_error(name):
    """Float32 as compiled, over a box, is within the bound of float64."""
    f = getattr(zoo, f"net_{name}")(zoo.Weights(0))
    graph = fuse_relu_max_pool(jmlv.trace(f, zoo.SHAPE))
    rng = np.random.default_rng(0)
    points = rng.random((30, *zoo.SHAPE)).astype(np.float32)
    low = np.asarray(graph.scores(points))
    with certificate_precision():
        exact = graph.astype("float64")
        box = Interval(*(jnp.asarray(side)[None] for side in (points.min(0), points.max(0))))
        box = Interval(*(jnp.asarray(side, jnp.float64) for side in box))
        errors = np.asarray(_errors(exact, box))
        high = np.asarray(exact.scores(jnp.asarray(points, jnp.float64)))
    assert np.all(np.abs(low - high) <= errors) and np.all(errors < 0.1)


# ---------------------------------------------------------------------------------------------
# Networks made to deceive a verifier: none may be ROBUST for the deployed network
# ---------------------------------------------------------------------------------------------


def test_inputs_and_weights_that_are_flushed_are_paid_for():
    """Denormal numbers count as zero on many devices, and a weight of 1e30 makes them large again."""
    tiny, huge = np.float32(1e-39), np.float32(1e30)

    def f(x):
        return x.reshape(-1, 1) * tiny * huge

    graph = jmlv.trace(f, (1,))
    with certificate_precision():
        box = Interval(*(jnp.ones((1, 1), jnp.float64),) * 2)
        error = np.asarray(_errors(graph.astype("float64"), box))
    assert error.max() >= 1e-9


@pytest.mark.parametrize("name", ["dense", "conv"])
def test_other_orders_of_summation_are_within_the_bound(name):
    graph = fuse_relu_max_pool(jmlv.trace(zoo.NETS[name](zoo.Weights(1)), zoo.SHAPE))
    x = np.random.default_rng(0).random(zoo.SHAPE).astype(np.float32)
    keys = jax.random.split(jax.random.key(1), 6)
    found = np.stack([reordered_scores(graph, x, key) for key in keys]).astype(float)
    with certificate_precision():
        exact = graph.astype("float64")
        box = Interval(*(jnp.asarray(x, jnp.float64)[None],) * 2)
        error, scores = np.asarray(_errors(exact, box)), exact(box.lower)[0]
    assert np.ptp(found, 0).max() > 0 and np.all(np.abs(found - np.asarray(scores)) <= error)


def test_a_witness_is_tried_in_other_orders():
    f = lambda x: x.reshape(-1, 2) @ jnp.eye(2)  # noqa: E731
    box = jmlv.Box.around(np.array([0.6, 0.5], np.float32), 0.2)
    verdict = jmlv.verify(f, box, jmlv.InTopK(0, 1), jmlv.PGD(), deployed=FLOAT32)
    least, greatest = verdict.stats["witness_margins_reordered"]
    assert verdict.status is Status.NOT_ROBUST and least <= greatest <= 0


def test_a_proof_that_another_order_breaks_is_a_defect(monkeypatch):
    monkeypatch.setattr("jmlv.oracles.deployed.reordered_scores", lambda *_: np.array([0.0, 1.0]))
    f = lambda x: x.reshape(-1, 2)  # noqa: E731
    box = jmlv.Box.around(np.array([0.9, 0.1], np.float32), 0.1)
    with pytest.raises(SoundnessError, match="as it runs"):
        jmlv.verify(f, box, jmlv.InTopK(0, 1), jmlv.Bounds(), deployed=FLOAT32)


def _backdoor(weight):
    """Zombori et al., ICLR 2021: whether a pixel's gate opens depends on the order of a sum.

    ``h0 = relu(1 - 2 relu(1 - 20 p))``, ``h1 = 1``, ``y = relu(w h0 - w h1 + 1e-3)``; label 0 has the
    score 1, label 1 has ``2000 y``.
    """
    first = np.array([[-20.0, 0.0]]), np.array([1.0, 1.0])
    second = np.array([[-2.0, 0.0], [0.0, 1.0]]), np.array([1.0, 0.0])
    third = np.array([[weight], [-weight]]), np.array([1e-3])
    last = np.array([[0.0, 2000.0]]), np.array([1.0, 0.0])
    return [tuple(a.astype(np.float32) for a in layer) for layer in (first, second, third, last)]


@pytest.mark.parametrize("weight", [1e3, 1e5, 1e8, 1e12, 1e17])
@pytest.mark.parametrize("label", [0, 1])
def test_a_backdoor_behind_a_large_constant_is_not_robust(weight, label):
    layers = _backdoor(weight)
    box = jmlv.Box.between(np.array([0.5], np.float32), np.array([0.9], np.float32))
    rng = np.random.default_rng(0)
    margins = []
    for p in (0.5, 0.7, 0.9):
        scores = [_in_some_order(layers, [p], rng) for _ in range(20)]
        margins += [s[label] - s[1 - label] for s in scores]
    verdict = jmlv.verify(
        _dense(layers), box, jmlv.InTopK(label, 1), jmlv.Bounds(), deployed=FLOAT32
    )
    assert verdict.about == "float32, any order of summation"
    if min(margins) <= 0:  # label 1 at 1e3 stays in every order
        assert not verdict.robust
    assert weight < 1e5 or not verdict.robust


def test_a_margin_at_the_edge_is_not_robust():
    """Jia and Rinard, SAS 2021: two labels whose sums differ by less than their rounding."""
    rng = np.random.default_rng(1)
    w = rng.normal(size=200).astype(np.float32) * 100
    layers = [(np.stack([w, w], 1), np.array([2e-5, 0.0], np.float32))]
    x = rng.random(200).astype(np.float32)
    scores = [_in_some_order(layers, x, rng) for _ in range(5)]
    lost = min(a[0] - b[1] for a in scores for b in scores)
    assert lost <= 0  # each label's sum in an order of its own
    box, prop = jmlv.Box.between(x, x), jmlv.InTopK(0, 1)
    assert jmlv.verify(_dense(layers), box, prop, jmlv.Bounds()).about == REAL_VALUED
    verdict = jmlv.verify(_dense(layers), box, prop, jmlv.Bounds(), deployed=FLOAT32)
    assert not verdict.robust


def test_a_relu_that_is_just_off_is_not_robust():
    """A convolution's ReLU off by 1e-6 of its terms, and a large weight behind it."""
    kernel = np.array([1e3, -1e3, 1e3, -1e3], np.float32)
    layers = [
        (kernel[:, None], np.array([-1e-4], np.float32)),
        (np.array([[0.0, 1e7]], np.float32), np.array([1.0, 0.0], np.float32)),
    ]
    x = np.array([0.7, 0.7, 0.3, 0.3], np.float32)
    box, prop = jmlv.Box.between(x, x), jmlv.InTopK(0, 1)
    assert jmlv.verify(_dense(layers), box, prop, jmlv.Bounds()).robust
    verdict = jmlv.verify(_dense(layers), box, prop, jmlv.Bounds(), deployed=FLOAT32)
    assert not verdict.robust and verdict.status is Status.UNKNOWN


def test_what_is_robust_by_far_stays_so_and_says_of_which_network():
    f = zoo.net_conv(zoo.Weights(1))
    x = np.random.default_rng(0).random(zoo.SHAPE).astype(np.float32)
    prop = jmlv.InTopK(int(np.argmax(f(x[None])[0])), 1)
    box = jmlv.Box.around(x, np.float32(1e-3))
    plain = jmlv.verify(f, box, prop, jmlv.Bounds())
    deployed = jmlv.verify(f, box, prop, jmlv.Bounds(), deployed=FLOAT32, certify=True)
    assert plain.robust and deployed.robust and "float32" in deployed.about
    assert 0 < plain.lower - deployed.lower < 1e-3 and deployed.upper == plain.upper
    assert abs(plain.lower - deployed.lower - deployed.stats["rounding"]) < 1e-9
    assert deployed.certificate.check().claim == "robust"
    cut = jmlv.verify(f, box, prop, jmlv.Bounds(), deployed=jmlv.Float32("bfloat16"))
    assert not cut.robust  # eight bits are too few for any proof of this size
    witness = jmlv.verify(f, jmlv.Box.around(x, 0.5), prop, jmlv.PGD(), deployed=FLOAT32)
    assert witness.status is Status.NOT_ROBUST


def test_functions_without_a_stated_accuracy_are_refused():
    f = lambda x: jnp.tanh(x.reshape(-1, 3))  # noqa: E731
    box = jmlv.Box.between(np.zeros(3, np.float32), np.ones(3, np.float32))
    with pytest.raises(jmlv.UnsupportedOperation, match="tanh has no rule for its accuracy"):
        jmlv.verify(f, box, jmlv.InTopK(0, 1), deployed=FLOAT32)
    with pytest.raises(ValueError, match="products"):
        jmlv.Float32("half")
