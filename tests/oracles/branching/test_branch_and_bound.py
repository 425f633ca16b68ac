"""Branch and bound: brute force, agreement with the MILP, clauses, and rules broken on purpose."""

import contextlib
import dataclasses
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from zoo import mostly_slow

import jmlv
from jmlv.bounds import CROWN, backward
from jmlv.clauses import open_clauses
from jmlv.numerics import PROOF_TOLERANCE, certificate_precision, search_precision
from jmlv.oracles import BranchAndBound, Deadline, Query, SoundnessError, judge
from jmlv.oracles.branching import bent, clipped, hand_over, subdomains, whole_search
from jmlv.oracles.branching.whole_search import WholeSearch, _task
from jmlv.oracles.falsify import Weakest
from jmlv.oracles.milp import milp
from jmlv.oracles.milp.solvers import Outcome
from jmlv.properties import leaves
from jmlv.verdict import Status

LABELS = 4
IMAGE = (4, 4, 1)
QUICK = BranchAndBound(CROWN(), batch=8, depth=24)


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


def _bent(rng):
    """A softmax, its product with a sigmoid, and a ReLU of both: every kind of unit but pools."""
    a, b, c = (2 * _weights(rng, 16, 4) for _ in range(3))
    d = 2 * _weights(rng, 8, LABELS)

    def f(x):
        x = x.reshape(-1, 16)
        mixed = jax.nn.softmax(2 * x @ a) * jax.nn.sigmoid(3 * x @ b)
        return jnp.concatenate([mixed, jax.nn.relu(x @ c - 2 * mixed)], -1) @ d

    return f


EXACT = {"dense": _dense, "pooled": _pooled, "plain pool": _plain_pool}
NETS = {**EXACT, "bent": _bent}


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


@pytest.mark.parametrize("name", mostly_slow(EXACT, "pooled"))
def test_it_agrees_with_the_milp(name):
    """On every case both decide, and alike; no sampled point is below the bound."""
    seen, rng = set(), np.random.default_rng(0)
    for graph, box, property in _cases(name, 7):
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


@pytest.mark.parametrize("name", mostly_slow(NETS, "pooled"))
def test_every_subdomain_bound_holds_on_its_subdomain(name):
    """Whatever lines, mixtures, multipliers and splits are: sampled points of the subdomain."""
    checked, broken = _subdomain_bounds(name)
    assert checked > 20 and broken == 0


def _subdomain_bounds(name):
    """How many bounds are checked against points, and how many of them a point contradicts."""
    rng = np.random.default_rng(7)
    checked = broken = 0
    for graph, box, property in _cases(name, 6):
        query = Query.of(graph, box, property)
        task = _task(query, CROWN())
        splits, points = _random_splits(rng, task, query)
        mask = np.zeros((8, len(task.offsets)), np.float32)
        mask[:, : property.k] = 1
        with search_precision():
            best, _ = subdomains.ascend(_single(task), mask, splits, 20, 0.5)
        random = jax.tree.map(lambda v: rng.uniform(-0.5, 1.5, v.shape).astype(np.float32), best)
        with certificate_precision():
            found = [subdomains.certify(task, mask, splits, c) for c in (best, random)]
            bounds = [np.asarray(bound) for bound, _ in found]
            rows = np.asarray(task.graph.scores(points)) @ np.asarray(task.coefficients).T
            clause = rows[:, : property.k].max(1)
            inside = _inside(task, splits, points)
        for i in np.flatnonzero(inside.any(1)):
            checked += 1
            broken += bool(max(b[i] for b in bounds) > clause[inside[i]].min() + 1e-9)
    return checked, broken


def _random_splits(rng, task, query):
    """Splits of units at values that sampled points take, so that both sides are inhabited."""
    low, high = query.lower.astype(float), query.upper.astype(float)
    points = low + rng.random((400, *IMAGE)) * (high - low)
    count = subdomains.unit_count(task.graph)
    with certificate_precision():
        values = _unit_values(task, points[:1])[0]
    unit = rng.integers(0, count, (8, 3))
    relu = np.concatenate(
        [
            np.full(held.size, eqn is not None and subdomains.is_maximum(eqn))
            for held, eqn in subdomains._groups(task.graph)
        ]
    )
    threshold = np.where(relu[unit], 0, values[unit]).astype(np.float32)
    side = np.where(values[unit] >= threshold, 1, -1) * np.where(rng.random((8, 3)) < 0.2, 0, 1)
    scale = rng.random((8, 3))
    return subdomains.Splits(
        unit.astype(np.int32), *(v.astype(np.float32) for v in (threshold, side, scale))
    ), points


def _unit_values(task, points):
    """Inputs of ReLUs, outputs of max pools and operands of all else, numbered through, at each point."""

    def one(x):
        env = task.graph.environment(x[None])
        return jnp.concatenate([env[v].reshape(-1) for v, _ in subdomains._groups(task.graph)])

    return np.asarray(jax.vmap(one)(jnp.asarray(points)))


def _inside(task, splits, points):
    values = _unit_values(task, points)[:, splits.unit]
    return np.all(splits.side * (values - splits.threshold) >= 0, -1).T


def _single(task):
    """The task in float32."""
    arrays = jax.tree.map(lambda v: np.asarray(v, np.float32), task._replace(graph=None))
    return arrays._replace(graph=task.graph.astype("float32"))


@pytest.mark.parametrize("name", mostly_slow(NETS, "plain pool"))
def test_certificates_have_no_float32_in_them(name):
    """Choices and splits are float32 when they come in; nothing is computed in it."""
    graph, box, property = next(_cases(name, 1))
    task = _task(Query.of(graph, box, property), CROWN())
    splits, _ = _random_splits(np.random.default_rng(0), task, Query.of(graph, box, property))
    mask = np.ones((8, len(task.offsets)), np.float32)
    with search_precision():
        choice, _ = subdomains.ascend(_single(task), mask, splits, 0, 0.5)
    with certificate_precision():
        program = jax.make_jaxpr(subdomains.certify)(task, mask, splits, choice)
    assert not [eqn for eqn in _equations(program.jaxpr) if _reads_or_makes_float32(eqn)]


def _equations(program):
    for eqn in program.eqns:
        inner = [v.jaxpr for v in eqn.params.values() if hasattr(v, "jaxpr")]
        yield from (e for part in inner for e in _equations(part))
        if not inner:
            yield eqn


def _reads_or_makes_float32(eqn):
    arrays = (
        eqn.outvars if eqn.primitive.name == "convert_element_type" else (*eqn.invars, *eqn.outvars)
    )
    return any(getattr(v.aval, "dtype", None) == np.float32 for v in arrays)


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
            assert min(max(values[i] for i in c) for c in clauses) == pytest.approx(
                margin, abs=1e-6
            )
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
    property = jmlv.AboveThreshold(0, 0.1 * low + 0.9 * reached)
    oracle = dataclasses.replace(QUICK, subdomains=64)
    verdict = jmlv.verify(graph, box, property, oracle, budget=60)
    assert verdict.status is Status.UNKNOWN and "limits" in verdict.reason
    assert -np.inf < verdict.lower < 0 < verdict.upper < np.inf


CROWN_ALONE = jmlv.Bounds()


def test_a_round_that_would_end_too_late_is_not_begun(monkeypatch):
    """Whoever is told of nothing when the time is up loses all that is known."""
    search = WholeSearch(QUICK, Query.of(*next(_cases("dense", 1))))
    assert search.needed > 0  # known before the clock runs
    monkeypatch.setattr(WholeSearch, "_round", lambda self: time.sleep(0.5))
    search.heap, deadline = [None], Deadline(1.8)
    search._split_until(deadline, np.inf)
    assert not deadline.passed and search._out_of_time(deadline) and len(search.rounds) >= 2


def _with_splits(**change):
    """The bound with its multipliers on other splits than its lines are made for."""
    real = subdomains._below

    def below(task, lines, clause, splits, choice):
        changed = {name: f(getattr(splits, name)) for name, f in change.items()}
        return real(task, lines, clause, splits._replace(**changed), choice)

    return below


BOUND_FAULTS = {
    "sign of the multiplier": lambda: {"_below": _with_splits(side=lambda side: -side)},
    "place of the multiplier": lambda: {"_below": _with_splits(unit=lambda unit: unit + 1)},
    "threshold of the multiplier": lambda: {"_below": _with_splits(threshold=lambda t: t + 0.3)},
    "weights not made admissible": lambda: {"linear_bound": _unchecked},
}


def _unchecked(graph, functional, lines, wanted=None, also=None):
    steep = {i: line._replace(lower_weights=1.5 * line.lower_weights) for i, line in lines.items()}
    return backward.linear_bound(graph, functional, steep, None, also)


@pytest.mark.parametrize("fault", BOUND_FAULTS)
def test_a_fault_in_a_bound_is_caught(fault, monkeypatch):
    """Points of the subdomain contradict the bounds, which without the fault they never do."""
    for name, value in BOUND_FAULTS[fault]().items():
        monkeypatch.setattr(subdomains, name, value)
    with _freshly_compiled():
        _, broken = _subdomain_bounds("dense")
    assert broken > 0


SMOOTH = {
    "product": lambda x: (x[:, :1] + x[:, 1:] - 0.9) * (x[:, :1] - 0.4 * x[:, 1:] - 0.3),
    "softmax of a product": lambda x: jax.nn.softmax(8 * x * x[:, ::-1] - 3 * x)[:, :1],
    "two functions": lambda x: (
        jnp.tanh(4 * (x[:, :1] - x[:, 1:])) ** 2 + jax.nn.gelu(3 * x.sum(1, keepdims=True) - 4)
    ),
}
LESS = {"product": 0.12, "softmax of a product": 0.02, "two functions": 0.06}
AXIS = np.linspace(0, 1, 401, dtype=np.float32)
GRID = np.stack(np.meshgrid(AXIS, AXIS), -1).reshape(-1, 2, 1, 1)
SQUARE = jmlv.Box.between(np.zeros((2, 1, 1)), np.ones((2, 1, 1)))


def _beyond_on_halves(name):
    """By how much bounds on halves exceed the least score of the half, of all points of a grid, at most.

    Of every operand one entry is split, at values of several points.
    """
    query = Query.of(lambda x: SMOOTH[name](x.reshape(-1, 2)), SQUARE, jmlv.AboveThreshold(0))
    task, rng = _task(query, CROWN()), np.random.default_rng(0)
    with certificate_precision():
        values, scores = (
            _unit_values(task, GRID.astype(float)),
            np.asarray(task.graph.scores(GRID.astype(float)))[:, 0],
        )
    starts = np.cumsum([0, *(v.size for v, _ in subdomains._groups(task.graph))])[:-1]
    unit = np.repeat(starts, 4)
    threshold = values[rng.integers(0, len(values), len(unit)), unit].astype(np.float32)
    side = np.resize(np.float32([1, -1]), len(unit))
    columns = (v[:, None] for v in (unit.astype(np.int32), threshold, side, np.ones_like(side)))
    splits = subdomains.Splits(*columns)
    mask = np.ones((len(unit), 1), np.float32)
    with search_precision():
        choice, _ = subdomains.ascend(_single(task), mask, splits, 8, 0.3)
    with certificate_precision():
        bounds = np.asarray(subdomains.certify(task, mask, splits, choice)[0])
    inside = side * (values[:, unit] - threshold) >= 0
    least = np.where(inside, scores[:, None], np.inf).min(0)
    return float((bounds - least).max())


@pytest.mark.parametrize("name", mostly_slow(SMOOTH, "softmax of a product"))
def test_bounds_of_halves_hold_where_operands_are_split(name):
    assert -0.5 < _beyond_on_halves(name) <= 1e-9


OPERAND_FAULTS = {
    "held on the other side": lambda low, high: (_known(high, -np.inf), _known(low, np.inf)),
    "held beyond the threshold": lambda low, high: (low + 0.1, high - 0.1),
}


def _known(end, other):
    return jnp.where(jnp.isinf(end), other, end)


@pytest.mark.parametrize("fault", OPERAND_FAULTS)
def test_a_fault_where_operands_are_split_is_caught(fault, monkeypatch):
    wrong = OPERAND_FAULTS[fault]
    monkeypatch.setattr(
        subdomains, "held_intervals", lambda *a: bent.held_intervals(*a[:2], wrong(*a[2]))
    )
    with _freshly_compiled():
        assert _beyond_on_halves("product") > 1e-3


@pytest.mark.parametrize("name", mostly_slow(SMOOTH, "product"))
def test_operands_are_split_until_all_but_a_little_is_proven(name, monkeypatch):
    """Two inputs, so that a grid knows the least score: what is a little below it is proven by splitting
    alone, and what is above it never is, even where no point is looked at."""
    monkeypatch.setattr(Weakest, "descend", lambda *_: None)
    f = lambda x: SMOOTH[name](x.reshape(-1, 2))  # noqa: E731
    least = float(np.min(f(GRID)))
    oracle = BranchAndBound(CROWN(), batch=8, depth=40)
    proven = Query.of(f, SQUARE, jmlv.AboveThreshold(0, least - LESS[name]))
    for wanted, few in ((proven, 600), (proven.about(jmlv.AboveThreshold(0, least + 0.01)), 30)):
        evidence = dataclasses.replace(oracle, subdomains=few).search(wanted, Deadline(60))
        assert (evidence.lower > 0) == (wanted is proven)
        assert evidence.stats["subdomains"] > 1


def test_it_goes_on_until_rounding_takes_no_proof_away(monkeypatch):
    """A bound that what float64 may have rounded would be taken off closes nothing."""
    a = jnp.array([[1.0, 1.0], [-1.0, 2.0]])
    graph = jmlv.trace(lambda x: jnp.abs(x.reshape(-1, 2) @ a) @ jnp.ones((2, 1)), (2, 1, 1))
    box = jmlv.Box.between(np.full((2, 1, 1), -0.5), np.full((2, 1, 1), 0.5))
    query = Query.of(graph, box, jmlv.AboveThreshold(0, -0.1))
    counts = []
    for needed in (PROOF_TOLERANCE, 0.09, 0.11):
        monkeypatch.setattr(whole_search, "margin_needed", lambda _, needed=needed: needed)
        evidence = QUICK.search(query, Deadline(30))
        assert (evidence.lower > needed) == (needed < 0.1)
        counts.append(evidence.stats.get("subdomains", 0))
    assert counts[0] <= counts[1] < counts[2]


@contextlib.contextmanager
def _freshly_compiled():
    compiled = [f for f in vars(subdomains).values() if hasattr(f, "clear_cache")]
    try:
        for function in compiled:
            function.clear_cache()
        yield
    finally:
        for function in compiled:
            function.clear_cache()


def _moved(halves):
    """One half begins above where the other one ends: what lies between is missing."""

    def with_gap(self, domain):
        found = halves(self, domain)
        for half in found:
            place = int(np.sum(half.splits.side != 0)) - 1
            half.splits.threshold[place] += half.splits.side[place]
        return found

    return with_gap


def _early(place):
    """Every bound counts as a little more than it is, so that subdomains close too early."""
    return lambda self, domain, found, *rest: place(
        self, domain, found._replace(lower=found.lower + 0.3), *rest
    )


SEARCH_FAULTS = {
    "halves do not cover": ("_halves", _moved),
    "closed too early": ("_place", _early),
    "stuck subdomains forgotten": (
        "stuck",
        lambda _: property(lambda self: np.inf, lambda *_: None),
    ),
}


@pytest.mark.parametrize("fault", ["none", *SEARCH_FAULTS])
def test_a_fault_in_the_search_is_caught(fault, monkeypatch):
    """It 'proves' more than a known input reaches. (It is kept from finding that input itself.)"""
    monkeypatch.setattr(Weakest, "descend", lambda *_: None)
    if fault != "none":
        name, wrong = SEARCH_FAULTS[fault]
        monkeypatch.setattr(
            WholeSearch, name, wrong(getattr(WholeSearch, name, None)), raising=False
        )
    caught = 0
    for query, point in _nearly_robust():
        evidence = dataclasses.replace(QUICK, depth=6, subdomains=500).search(query, Deadline(30))
        if evidence.lower > query.margin_exact(point) + 1e-6:
            caught += 1
        if evidence.lower > PROOF_TOLERANCE:
            with pytest.raises(SoundnessError):
                judge(query, dataclasses.replace(evidence, point=point), "broken")
    assert (caught > 0) == (fault != "none")


def _nearly_robust():
    """Questions that are answered 'no' by a small margin, at an input that is known."""
    rng = np.random.default_rng(1)
    graph = jmlv.trace(_dense(rng), IMAGE)
    for _ in range(4):
        x = rng.uniform(0.3, 0.7, size=IMAGE).astype(np.float32)
        box = jmlv.Box.around(x, 0.3)
        raw = jmlv.verify(graph, box, jmlv.AboveThreshold(0), jmlv.PGD(restarts=16, steps=40))
        scores = float(graph.scores(raw.witness[None])[0, 0])
        yield Query.of(graph, box, jmlv.AboveThreshold(0, scores + 0.02)), raw.witness


def test_the_root_alone_is_descended_from():
    """It breaks questions whose least margin is far below what one start at the centre reaches."""
    centre, root = jmlv.PGD(restarts=1, steps=1), dataclasses.replace(QUICK, subdomains=1)
    broken, known = 0, []
    for query, _ in _nearly_robust():
        known.append(judge(query, centre.search(query, Deadline(300)), "PGD").status)
        evidence = root.search(query, Deadline(300))
        assert evidence.stats["subdomains"] <= evidence.stats["clauses"] == 1
        assert evidence.lower <= query.margin_exact(evidence.point)
        broken += judge(query, evidence, root.name).status is Status.NOT_ROBUST
    assert broken > 0 and set(known) == {Status.UNKNOWN}


@pytest.mark.parametrize("skipped", [False, True])
def test_a_skipped_float64_certificate_is_caught(skipped, monkeypatch):
    """Scores that nearly cancel: in float32 their bounds are off by more than the tolerance."""
    if skipped:
        monkeypatch.setattr(whole_search, "certify_clipped", _in_float32)
    rng, caught = np.random.default_rng(0), 0
    a, c = np.abs(_weights(rng, 16, 8)), np.abs(_weights(rng, 8, LABELS))
    shift = jnp.asarray(1e5 * c.sum(0))
    graph = jmlv.trace(lambda x: jax.nn.relu(x.reshape(-1, 16) @ a + 1e5) @ c - shift, IMAGE)
    for label in range(LABELS):
        box = jmlv.Box.around(rng.uniform(0.2, 0.8, size=IMAGE).astype(np.float32), 0.1)
        query = Query.of(graph, box, jmlv.AboveThreshold(label))
        caught += QUICK.search(query, Deadline(30)).lower > query.margin_exact(query.lower) + 1e-6
    assert (caught > 0) == skipped


def _in_float32(task, *arguments):
    with search_precision():
        single = jax.tree.map(
            lambda v: np.asarray(v, np.float32 if v.dtype == np.float64 else v.dtype), arguments
        )
        return clipped.certify_clipped(_single(task), *single)


@pytest.mark.parametrize("field", ["batch", "depth", "subdomains", "time_limit"])
def test_options_are_checked(field):
    with pytest.raises(ValueError, match=field):
        BranchAndBound(**{field: 0})


def test_bounds_are_not_rounded_to_float32():
    """A network that is linear on the box: its bound is its least margin, to float64's accuracy."""
    rng = np.random.default_rng(0)
    a, c = jnp.abs(_weights(rng, 16, 8)), 100 * _weights(rng, 8, LABELS)
    graph = jmlv.trace(lambda x: jax.nn.relu(x.reshape(-1, 16) @ a) @ c, IMAGE)
    box = jmlv.Box.around(rng.uniform(0.2, 0.8, size=IMAGE).astype(np.float32), 0.05)
    found = 0
    for label in range(LABELS):
        query = Query.of(graph, box, jmlv.AboveThreshold(label, -300))
        search = WholeSearch(BranchAndBound(CROWN(), batch=8), query)
        (lower,), (point,) = search.row_bounds(Deadline(30))
        exact = query.margin_exact(point)
        assert lower <= exact + 1e-10
        found += exact - lower < 1e-10
    assert found > 0, "no bound was reached, so that nothing was compared"


def test_where_a_proof_needs_no_point_nothing_is_descended_from(monkeypatch):
    """Descents, and what they compile, are for boxes that bounds leave open."""
    monkeypatch.setattr(Weakest, "descend", lambda *_: pytest.fail("it descended"))
    f = lambda x: jnp.stack([x[:, 0, 0, 0], x[:, 0, 0, 0] * 0 - 1], -1)  # noqa: E731
    box = jmlv.Box.between(np.zeros((1, 1, 1)), np.ones((1, 1, 1)))
    assert jmlv.verify(f, box, jmlv.InTopK(0, 1), QUICK).robust


def test_nan_is_unknown():
    graph, box, property = next(_cases("dense", 1))
    spoiled = dataclasses.replace(graph, consts=tuple(c * jnp.nan for c in graph.consts))
    assert jmlv.verify(spoiled, box, property, QUICK).status is Status.UNKNOWN


# ---------------------------------------------------------------------------------------------
# Small subdomains left to a solver
# ---------------------------------------------------------------------------------------------


def _handed_over(name):
    """How many subdomains a solver closes, breaks, and closes although a point of them is low.

    Each is asked about twice, with a threshold above and one below the least score of the points
    in it that were sampled.
    """
    rng = np.random.default_rng(3)
    closed = broken = wrong = 0
    for graph, box, _ in _cases(name, 2):
        query = Query.of(graph, box, jmlv.AboveThreshold(0))
        task = _task(query, CROWN())
        splits, points = _random_splits(rng, task, query)
        with certificate_precision():
            scores = np.asarray(task.graph.scores(points))[:, 0]
            inhabited = _inside(task, splits, points)[:2]
        for i, inside in enumerate(inhabited):
            if not inside.any():
                continue
            mine = subdomains.Splits(*(array[i] for array in splits))
            for shift in (0.01, -0.2):
                asked = query.about(jmlv.AboveThreshold(0, float(scores[inside].min() + shift)))
                found = hand_over.solve_subdomain(
                    asked, task, frozenset({0}), mine, jmlv.MILP(), Deadline(20)
                )
                proven = found.lower > PROOF_TOLERANCE
                closed, broken = closed + proven, broken + (found.point is not None)
                wrong += proven and shift > 0
    return closed, broken, wrong


@pytest.mark.parametrize("name", ["dense", "plain pool"])
def test_a_solver_closes_what_holds_and_nothing_else(name):
    closed, broken, wrong = _handed_over(name)
    assert closed > 0 and broken > 0 and wrong == 0


def test_sides_confused_on_the_way_to_the_solver_are_caught(monkeypatch):
    real = hand_over._held
    confused = lambda task, splits: real(task, splits._replace(side=-splits.side))  # noqa: E731
    monkeypatch.setattr(hand_over, "_held", confused)
    assert _handed_over("dense")[2] > 0


@pytest.mark.parametrize(
    "name, few", [("dense", 5), pytest.param("pooled", 20, marks=pytest.mark.slow)]
)
def test_the_solver_takes_over_where_splitting_lasts(name, few, monkeypatch):
    """Without patience every subdomain of few open units is handed over, after some splits."""
    monkeypatch.setattr(whole_search, "PATIENCE", 0)
    oracle = dataclasses.replace(QUICK, few=few)
    rng, handed_over = np.random.default_rng(0), 0
    for graph, box, _ in _cases(name, 3):
        shares = rng.random((512, *IMAGE)).round().astype(np.float32)
        corners = box.clip(box.lower + shares * (box.upper - box.lower))
        reached = float(graph.scores(corners)[:, 0].min())
        proven = jmlv.verify(graph, box, jmlv.AboveThreshold(0), jmlv.Bounds()).lower
        property = jmlv.AboveThreshold(0, 0.6 * reached + 0.4 * proven)
        found = jmlv.verify(graph, box, property, oracle, budget=60)
        exact = jmlv.verify(graph, box, property, jmlv.MILP(), budget=30)
        assert found.status is exact.status is not Status.UNKNOWN
        handed_over += found.stats["handed_over"]
    assert handed_over > 0


def test_a_split_unit_needs_no_binary():
    """Nor does an empty subdomain keep the model from being built."""
    *_, (graph, box, _) = _cases("dense", 3)
    query = Query.of(graph, box, jmlv.AboveThreshold(0, 100.0))
    task = _task(query, CROWN())
    first = task.intervals[subdomains.nonlinear(task.graph)[0].invars[0].index]
    lower, upper = (np.asarray(end).reshape(-1) for end in first)
    open_units = np.flatnonzero((lower < 0) & (upper > 0))
    binaries = []
    for count in range(len(open_units) + 1):
        splits = subdomains.Splits(
            open_units[:count].astype(np.int32),
            np.zeros(count),
            (-1.0) ** np.arange(count),
            np.ones(count),
        )
        found = hand_over.solve_subdomain(
            query, task, frozenset({0}), splits, jmlv.MILP(largest=0), Deadline(20)
        )
        binaries.append(found.stats["binaries"])
    assert np.all(np.diff(binaries) == -1) and len(binaries) > 2


def test_the_solver_has_its_own_time_limit_too(monkeypatch):
    seconds = []

    def timed(encoding, options, deadline, first):
        seconds.append(deadline.remaining)
        return Outcome()

    monkeypatch.setattr(milp, "_solve", timed)
    graph, box, _ = next(_cases("dense", 1))
    query = Query.of(graph, box, jmlv.AboveThreshold(0))
    task = _task(query, CROWN())
    none = subdomains.Splits(*(np.zeros(0, t) for t in (np.int32, *[np.float32] * 3)))
    query = query.about(jmlv.AboveThreshold(0, 100.0))
    limited = jmlv.MILP(time_limit=1.0)
    hand_over.solve_subdomain(query, task, frozenset({0}), none, limited, Deadline(20))
    assert len(seconds) == 1 and seconds[0] <= 1.0


def test_beginning_again_keeps_what_was_proven(monkeypatch):
    """The budget ends just after it: the bound is no lower than just before."""
    before, real = [], WholeSearch._begin_again

    def at_the_end(self, roots):
        before.append(self._lower())
        real(self, [root._replace(number=-1) for root in roots])
        self.deadline.end = 0.0

    monkeypatch.setattr(WholeSearch, "_begin_again", at_the_end)
    monkeypatch.setattr(Weakest, "descend", lambda *_: None)
    monkeypatch.setattr(whole_search, "PATIENCE", 40)
    for graph, box, property in _cases("dense", 7):
        found = dataclasses.replace(QUICK, few=1).search(
            Query.of(graph, box, property), Deadline(30)
        )
        assert not before or found.lower >= before[-1]
        if before and np.isfinite(before[-1]):
            return
    raise AssertionError("no search lasted long enough.")
