"""Branch and bound: brute force, agreement with the MILP, clauses, and rules broken on purpose."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jmlv
from jmlv.bounds import CROWN, AlphaCROWN
from jmlv.numerics import certificate_precision
from jmlv.oracles import BranchAndBound, Deadline, Query, judge, subdomains
from jmlv.oracles.branch_and_bound import _task
from jmlv.oracles.clauses import open_clauses
from jmlv.properties import leaves
from jmlv.verdict import Status

LABELS = 4
IMAGE = (4, 4, 1)
QUICK = BranchAndBound(batch=8, depth=24)


def _weights(rng, *shape):
    return jnp.asarray(rng.normal(size=shape) / np.sqrt(np.prod(shape[:-1])), jnp.float32)


def _dense(rng):
    a, b, c = 2 * _weights(rng, 16, 8), 2 * _weights(rng, 8, 6), _weights(rng, 6, LABELS)
    return lambda x: jax.nn.relu(jax.nn.relu(x.reshape(-1, 16) @ a) @ b) @ c


def _pooled(rng):
    kernel, c = 2 * _weights(rng, 2, 2, 1, 3), _weights(rng, 12, LABELS)

    def f(x):
        numbers = ("NHWC", "HWIO", "NHWC")
        h = jax.lax.conv_general_dilated(x - 0.4, kernel, (1, 1), "SAME", dimension_numbers=numbers)
        window = (1, 2, 2, 1)
        h = jax.lax.reduce_window(jax.nn.relu(h), -jnp.inf, jax.lax.max, window, window, "VALID")
        return h.reshape(-1, 12) @ c

    return f


def _plain_pool(rng):
    """A max pool of values of both signs, without a ReLU."""
    a, c = 2 * _weights(rng, 16, 16), _weights(rng, 4, LABELS)

    def f(x):
        h = (x.reshape(-1, 16) @ a).reshape(-1, 4, 4, 1)
        window = (1, 2, 2, 1)
        h = jax.lax.reduce_window(h, -jnp.inf, jax.lax.max, window, window, "VALID")
        return h.reshape(-1, 4) @ c

    return f


NETS = {"dense": _dense, "pooled": _pooled, "plain pool": _plain_pool}


def _cases(name, count):
    """A network, and boxes at which its margin is neither surely kept nor surely lost."""
    rng = np.random.default_rng(len(name))
    graph = jmlv.trace(NETS[name](rng), IMAGE)
    for i in range(count):
        x = rng.uniform(size=IMAGE).astype(np.float32)
        order = np.argsort(-np.asarray(graph(x[None])[0]))
        k = 1 + i % 2
        properties = jmlv.InTopK(int(order[0]), k), jmlv.NotInTopK(int(order[-1]), k)
        yield graph, jmlv.Box.around(x, [0.05, 0.12, 0.2][i % 3]), properties[i // 3 % 2]


@pytest.mark.parametrize("name", NETS)
def test_it_agrees_with_the_milp(name):
    """On every case both decide, and alike; no sampled point is below the bound."""
    seen, rng = set(), np.random.default_rng(0)
    for graph, box, property in _cases(name, 12):
        found = jmlv.verify(graph, box, property, QUICK, budget=30)
        exact = jmlv.verify(graph, box, property, jmlv.MILP(), budget=30)
        seen.add(found.status)
        assert exact.status is not Status.UNKNOWN
        assert found.status in (exact.status, Status.UNKNOWN)
        shares = rng.random((256, *IMAGE)).round(1).astype(np.float32)
        points = box.clip(box.lower + shares * (box.upper - box.lower))
        margins = property.margin(graph.scores(points))
        assert found.lower <= float(margins.min()) + 1e-5
        assert found.status is not Status.UNKNOWN or name != "dense"
    assert {Status.ROBUST, Status.NOT_ROBUST} <= seen


@pytest.mark.parametrize("name", NETS)
def test_every_subdomain_bound_holds_on_its_subdomain(name):
    """Whatever lines, mixtures, multipliers and splits are: sampled points of the subdomain."""
    rng = np.random.default_rng(7)
    checked = 0
    for graph, box, property in _cases(name, 6):
        query = Query.of(graph, box, property)
        task = _task(query, CROWN())
        splits, points = _random_splits(rng, task, query)
        choice = _random_choice(rng, task, splits)
        mask = np.zeros((8, len(task.offsets)), np.float32)
        mask[:, : property.k] = 1
        with certificate_precision():
            bounds = np.asarray(subdomains.certify(task, mask, splits, choice))
            rows = jax.vmap(lambda x: task.coefficients @ task.graph(x[None])[0])(points)
            clause = np.asarray(rows)[:, : property.k].max(1)
            inside = _inside(task, splits, points)
        for i in range(8):
            if inside[i].any():
                checked += 1
                assert bounds[i] <= clause[inside[i]].min() + 1e-9
    assert checked > 20


def _random_splits(rng, task, query):
    """Splits of units at values that sampled points take, so that both sides are inhabited."""
    low, high = query.lower.astype(float), query.upper.astype(float)
    points = low + rng.random((400, *IMAGE)) * (high - low)
    count = subdomains.unit_count(task.graph)
    with certificate_precision():
        values = _unit_values(task, points[:1])[0]
    unit = rng.integers(0, count, (8, 3))
    relu = np.concatenate(
        [np.full(e.outvar.size, subdomains.is_relu(e)) for e in subdomains.nonlinear(task.graph)]
    )
    threshold = np.where(relu[unit], 0, values[unit]).astype(np.float32)
    side = np.where(values[unit] >= threshold, 1, -1) * np.where(rng.random((8, 3)) < 0.2, 0, 1)
    scale = rng.random((8, 3))
    return subdomains.Splits(unit.astype(np.int32), *(v.astype(np.float32) for v in (threshold, side, scale))), points


def _unit_values(task, points):
    """Inputs of ReLUs and outputs of max pools, numbered through, at each point."""

    def one(x):
        env = task.graph.environment(x[None])
        held = [e.invars[0] if subdomains.is_relu(e) else e.outvar for e in subdomains.nonlinear(task.graph)]
        return jnp.concatenate([env[v].reshape(-1) for v in held])

    return np.asarray(jax.vmap(one)(jnp.asarray(points)))


def _inside(task, splits, points):
    values = _unit_values(task, points)[:, splits.unit]
    return np.all(splits.side * (values - splits.threshold) >= 0, -1).T


def _random_choice(rng, task, splits):
    _, start, _ = subdomains._prepare(
        jax.tree.map(lambda v: jnp.asarray(v, jnp.float32), task._replace(graph=task.graph.astype("float32"))),
        jnp.ones((8, len(task.offsets)), jnp.float32),
        splits,
    )
    return jax.tree.map(lambda v: rng.uniform(-0.5, 1.5, v.shape).astype(np.float32), start)


def test_clauses_are_the_margin():
    """The margin is the least, over clauses, of the clause's largest row."""
    rng = np.random.default_rng(0)
    for property in (
        jmlv.InTopK(0, 1), jmlv.InTopK(1, 3), jmlv.NotInTopK(2, 2), jmlv.KeepsLabels((0, 1), 3),
        jmlv.KeepsLabels((0, 1, 2), 3, at_least=2), jmlv.InTopK(0, 2) & jmlv.AboveThreshold(1),
    ):  # fmt: skip
        tree = property.tree(5)
        clauses = open_clauses(tree, frozenset())
        for _ in range(50):
            values = rng.normal(size=len(leaves(tree)))
            margin = float(property.combine(jnp.asarray(values), 5))
            assert min(max(values[i] for i in c) for c in clauses) == pytest.approx(margin, abs=1e-6)
            proven = frozenset(np.flatnonzero(values > 0).tolist())
            assert (not open_clauses(tree, proven)) == (margin > 0)


def test_too_many_clauses_are_left_alone():
    assert open_clauses(jmlv.InTopK(0, 8).tree(40), frozenset()) is None


def test_a_mixture_proves_what_pairs_cannot():
    """Label 0 is always above one of the two others, though above neither everywhere."""
    f = lambda x: jnp.stack([x[:, 0, 0, 0] * 0 + 0.6, x[:, 0, 0, 0], 1 - x[:, 0, 0, 0]], -1)  # noqa: E731
    box = jmlv.Box.between(np.zeros((1, 1, 1)), np.ones((1, 1, 1)))
    property = jmlv.InTopK(0, 2)
    assert not jmlv.verify(f, box, property, jmlv.Bounds()).robust
    assert jmlv.verify(f, box, property, QUICK).robust


def test_the_budget_is_kept_and_both_bounds_are_reported():
    rng = np.random.default_rng(3)
    a, b, c = 3 * _weights(rng, 16, 60), 3 * _weights(rng, 60, 60), _weights(rng, 60, LABELS)
    f = lambda x: jax.nn.relu(jax.nn.relu(x.reshape(-1, 16) @ a) @ b) @ c  # noqa: E731
    graph, box = jmlv.trace(f, IMAGE), jmlv.Box.around(np.full(IMAGE, 0.5, np.float32), 0.5)
    low = jmlv.verify(graph, box, jmlv.AboveThreshold(0), CROWN_ALONE).lower
    reached = jmlv.verify(graph, box, jmlv.AboveThreshold(0), jmlv.PGD()).upper
    property = jmlv.AboveThreshold(0, 0.5 * low + 0.5 * reached)
    oracle = dataclasses.replace(QUICK, subdomains=64)
    verdict = jmlv.verify(graph, box, property, oracle, budget=60)
    assert verdict.status is Status.UNKNOWN and "limits" in verdict.reason
    assert -np.inf < verdict.lower < 0 < verdict.upper < np.inf


CROWN_ALONE = jmlv.Bounds()


@pytest.mark.parametrize("broken", ["multiplier", "threshold", "closing"])
def test_a_broken_rule_is_caught(broken, monkeypatch):
    """Each fault makes a bound that a point of the box contradicts."""
    graph, box, property = _breakable()
    if broken == "multiplier":
        monkeypatch.setattr(subdomains, "_places", _shifted(subdomains._places))
    elif broken == "threshold":
        monkeypatch.setattr(subdomains, "certify", lambda *_: np.full(16, 1.0))
        monkeypatch.setattr("jmlv.oracles.branch_and_bound.certify", lambda *_: np.full(16, 1.0))
    else:
        monkeypatch.setattr("jmlv.oracles.branch_and_bound.PROOF_TOLERANCE", -1e9)
    query = Query.of(graph, box, property)
    jax.clear_caches()
    try:
        with np.errstate(all="ignore"):
            evidence = dataclasses.replace(QUICK, steps=30).search(query, Deadline(30))
        wrong = evidence.lower > _brute_force(query) + 1e-6
        assert wrong or judge(query, evidence, "broken").status is not Status.ROBUST
    finally:
        jax.clear_caches()


def _breakable():
    graph, box, property = next(_cases("dense", 1))
    return graph, jmlv.Box.around(np.asarray(box.center), 0.4), property


def _shifted(places):
    return lambda graph, splits: ((eqn, place + 1) for eqn, place in places(graph, splits))


def _brute_force(query):
    corners = itertools.islice(itertools.product((0, 1), repeat=16), 0, None, 7)
    shares = np.array(list(corners), np.float32).reshape(-1, *IMAGE)
    points = query.lower + shares * (query.upper - query.lower)
    return float(query.property.margin(query.graph.scores(points)).min())


@pytest.mark.parametrize("field", ["batch", "depth", "subdomains"])
def test_options_are_checked(field):
    with pytest.raises(ValueError, match=field):
        BranchAndBound(**{field: 0})


def test_nan_is_unknown():
    graph, box, property = next(_cases("dense", 1))
    spoiled = dataclasses.replace(graph, consts=tuple(c * jnp.nan for c in graph.consts))
    assert jmlv.verify(spoiled, box, property, BranchAndBound(AlphaCROWN())).status is Status.UNKNOWN
