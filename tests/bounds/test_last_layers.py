"""Rows are folded into the last affine layers: never looser than the scores' own intervals."""

import jax.numpy as jnp
import numpy as np
import published
import pytest
from zoo import LABELS, NETS, SHAPE, Weights, boxes, rows_of

import jmlv
from jmlv.bounds.interval import interval_step
from jmlv.bounds.method import Interval
from jmlv.graph.ir import read


def rows_of_scores(graph, low, high, coefficients, offsets):
    """The same rows from the scores' own intervals."""
    values = graph.constants() | {graph.input: Interval(low[None], high[None])}
    for eqn in graph.eqns:
        values[eqn.outvar] = interval_step(eqn, [read(values, v) for v in eqn.invars])
    scores = values[graph.output]
    middle, radius = (scores.lower + scores.upper)[0] / 2, (scores.upper - scores.lower)[0] / 2
    spread = np.abs(coefficients) @ radius
    return coefficients @ middle - spread + offsets, coefficients @ middle + spread + offsets


@pytest.mark.parametrize("name", ["dense", "pool", "residual", "average_pools"])
def test_no_looser_than_intervals_of_the_scores_and_the_same_for_one(name):
    rng = np.random.default_rng(1)
    graph, (coefficients, offsets) = jmlv.trace(NETS[name](Weights(1)), SHAPE), rows_of(rng)
    low, high = (jnp.asarray(side[9], "float32") for side in boxes(rng, 18))
    ours = jmlv.IBP().rows(graph, low, high, jnp.asarray(coefficients), jnp.asarray(offsets))
    lower, upper = rows_of_scores(graph, low, high, coefficients, offsets)
    assert np.all(ours.lower >= lower - 1e-4) and np.all(ours.upper <= upper + 1e-4)
    assert np.all(ours.lower[LABELS:] > lower[LABELS:] + 1e-3), "rows of several scores gain"
    if name not in ("residual", "average_pools"):  # one affine layer ends the network
        np.testing.assert_allclose(ours.lower[:LABELS], lower[:LABELS], atol=1e-4)


def test_rows_reach_a_skip_connection_and_the_input():
    """Two branches of which one is affine down to the input."""
    f = lambda x: jnp.abs(x.reshape(x.shape[0], 2)) - x.reshape(x.shape[0], 2)  # noqa: E731
    graph = jmlv.trace(f, (1, 2, 1))
    box = jnp.array([[[0.2], [0.4]]]), jnp.array([[[0.4], [0.9]]])
    found = jmlv.IBP().rows(graph, *box, jnp.array([[1.0, 1.0]]), jnp.zeros(1))
    np.testing.assert_allclose([found.lower[0], found.upper[0]], [-0.7, 0.7], atol=1e-6)


@pytest.mark.skipif(not published.FOLDER.exists(), reason="the published networks are not here")
def test_gain_on_a_published_network():
    """Mean over the pairs of both true labels: -1.97 from intervals of the scores."""
    graph, data = jmlv.trace(published.network("linf"), (64, 64, 1)), published.images()
    lower = [
        jmlv.bound(
            graph, jmlv.Box.around(x, 0.01), jmlv.InTopK(int(digit), 2), jmlv.IBP()
        ).rows_lower
        for x, digits in zip(data.images, data.digits)
        for digit in digits
    ]
    assert np.mean(lower) > -0.9
