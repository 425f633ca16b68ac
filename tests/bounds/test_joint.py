"""Joint bounds: what pairwise ones cannot prove, against the margin at a grid of points."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from zoo import FAST_BUILD

import jmlv
from jmlv.numerics import certificate_precision

LABELS = 4
JOINT = jmlv.JointBounds(jmlv.AlphaCROWN(steps=4, intermediate_steps=2), steps=8)
PROPERTIES = {
    "in the top 2": jmlv.InTopK(0, 2),
    "keeps one of two": jmlv.KeepsLabels((0, 3), 2, at_least=1),
    "two at once": jmlv.InTopK(0, 3) & jmlv.NotInTopK(1, 2),
}


def network(seed):
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(2, 6)), rng.normal(size=(6, LABELS))
    c, d = rng.normal(size=6), rng.normal(size=LABELS)
    return lambda x: jax.nn.relu(x.reshape(x.shape[0], 2) @ a + c) @ b + d


BOXES = jmlv.Box(
    jnp.array([[0.0, 0.0], [0.2, 0.4], [0.5, 0.1]]).reshape(3, 1, 2, 1),
    jnp.array([[1.0, 1.0], [0.6, 0.9], [0.5, 0.3]]).reshape(3, 1, 2, 1),
)


@jax.jit
def scores(graph, points):
    return jax.vmap(graph.scores)(points)


def grid(lower, upper):
    """Points of a box, its corners among them."""
    t = np.stack(np.meshgrid(*[np.linspace(0, 1, 41)] * 2), -1).reshape(-1, 1, 2, 1)
    return lower + t * (upper - lower)


@pytest.mark.parametrize("name", PROPERTIES)
def test_between_pairwise_bounds_and_the_true_margin(name):
    property, gains = PROPERTIES[name], []
    with certificate_precision():
        for seed in range(12):
            graph = jmlv.trace(network(seed), (1, 2, 1)).astype("float64")
            box = jmlv.Box(*(np.asarray(side, float) for side in (BOXES.lower, BOXES.upper)))
            joint = jmlv.bound(graph, box, property, JOINT)
            pairwise = property.combine(joint.rows_lower, LABELS)
            assert np.all(joint.lower >= pairwise)
            gains.append(joint.lower - pairwise)
            points = jnp.asarray(grid(box.lower[:, None], box.upper[:, None]))
            margins = property.margin(scores(graph, points))
            assert np.all(joint.lower <= margins.min(1) + 1e-12)
            assert np.all(joint.upper >= margins.max(1) - 1e-12)
    assert np.max(gains) > 0.01


def test_an_instance_that_only_joint_bounds_prove():
    """Label 1 beats label 0 where a neuron exceeds 0.45, label 2 where it is under 0.3: never both."""

    def f(x):
        neuron = jax.nn.relu(x.reshape(-1, 1) - 0.05)
        return jnp.concatenate([0 * neuron, neuron - 0.45, 0.3 - neuron], -1)

    box = jmlv.Box.between(jnp.zeros((1, 1, 1)), jnp.ones((1, 1, 1)))
    unknown = jmlv.verify(f, box, jmlv.InTopK(0, 2), jmlv.Bounds(JOINT.method))
    proven = jmlv.verify(f, box, jmlv.InTopK(0, 2), jmlv.Bounds(JOINT))
    assert unknown.status.name == "UNKNOWN"
    assert proven.robust and proven.stats["method"] == "joint alpha-CROWN"


FIXED = jmlv.JointBounds(jmlv.AlphaCROWN(0, intermediate="shared", planes=False), steps=0)
"""Without any step: the derivative is that of a choice which does not move."""


def test_gradient_against_differences():
    with certificate_precision():
        graph = jmlv.trace(network(1), (1, 2, 1)).astype("float64")
        centre, direction = jnp.full((1, 2, 1), 0.5), jnp.array([0.7, -1.2]).reshape(1, 2, 1)

        @jax.jit
        def lower(radius):
            box = jmlv.Box(centre - radius, centre + radius)
            return jmlv.bound(graph, box, PROPERTIES["in the top 2"], FIXED).lower

        radius, step = jnp.array([0.21, 0.34]).reshape(1, 2, 1), 1e-7
        slope = (lower(radius + step * direction) - lower(radius - step * direction)) / (2 * step)
        gradient = jax.jit(jax.grad(lower), compiler_options=FAST_BUILD)(radius)
        np.testing.assert_allclose(jnp.vdot(gradient, direction), slope, rtol=1e-5)


def test_too_many_clauses_are_an_error():
    with pytest.raises(ValueError, match="limit=2"):
        jmlv.bound(network(0), jmlv.Box.around(jnp.full((1, 2, 1), 0.5), 0.1),
                   PROPERTIES["in the top 2"], jmlv.JointBounds(limit=2))  # fmt: skip


@pytest.mark.parametrize("options", [{"steps": -1}, {"limit": 0}, {"learning_rate": 0.0}])
def test_bad_options_are_an_error(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        jmlv.JointBounds(**options)
