"""What depends on the box alone is computed once for all questions about it, and never mixed up."""

import jax
import jax.numpy as jnp
import numpy as np

import jmlv
from jmlv.oracles import Query
from jmlv.oracles.per_box import inner_intervals, once_per_box

IMAGE = (2, 1, 1)


def _query(radius=0.1, label=0):
    net = lambda x: jax.nn.relu(x.reshape(-1, 2) @ jnp.array([[1.0, -1.0], [0.5, 1.0]]))  # noqa: E731
    box = jmlv.Box.around(np.full(IMAGE, 0.5, np.float32), np.float32(radius))
    return Query.of(net, box, jmlv.InTopK(label, 1))


def test_one_computation_for_each_box_and_setting():
    asked = []

    @once_per_box
    def answer(query, *settings):
        asked.append((query.upper[0, 0, 0], settings))
        return len(asked)

    query = _query()
    assert answer(query, "a") == answer(query.about(jmlv.InTopK(1, 1)), "a") == 1
    assert answer(query, "b") == 2 and answer(query, "a") == 1
    wider = Query(query.f, query.graph, query.lower, query.upper + np.float32(0.1), query.property)
    vars(wider)["graph64"] = query.graph64
    assert answer(wider, "a") == 3 and answer(query, "a") == 4
    wider.upper[:] += np.float32(0.1)
    assert answer(wider, "a") == 5
    wider.upper[:] += np.float32(0.1)
    assert answer(wider, "a") == 6


def test_another_network_over_the_same_box_is_computed_anew():
    asked = []
    answer = once_per_box(lambda query: asked.append(query) or len(asked))
    assert answer(_query()) == 1 and answer(_query()) == 2


def test_the_intervals_are_those_of_the_box_that_is_asked_about():
    narrow, wide = _query(0.01), _query(0.3)
    weights = np.array([[1.0, -1.0], [0.5, 1.0]])
    for query, radius in ((narrow, 0.01), (wide, 0.3), (narrow, 0.01)):
        (interval,) = inner_intervals(query, jmlv.CROWN()).values()
        lower, upper = (np.asarray(side)[0] for side in interval)
        assert np.allclose((lower + upper) / 2, 0.5 * weights.sum(0), atol=1e-6)
        assert np.allclose(upper - lower, 2 * radius * np.abs(weights).sum(0), atol=1e-6)
