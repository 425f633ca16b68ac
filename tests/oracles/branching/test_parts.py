"""Parts of a network: brute force on samples, agreement with the MILP, rules broken on purpose."""

import contextlib
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from zoo import mostly_slow

import jmlv
from jmlv.bounds import CROWN
from jmlv.graph.fuse import fuse_relu_max_pool
from jmlv.numerics import certificate_precision
from jmlv.oracles import BranchAndBound, Deadline, Query
from jmlv.oracles.branching.parts import layout, part_search, parts, separable
from jmlv.oracles.branching.parts.compact import compact
from jmlv.oracles.branching.parts.part_search import Problem, Settings, Tree, roots
from jmlv.oracles.per_box import inner_intervals
from jmlv.verdict import Status

LABELS = 3
IMAGE = (4, 4, 1)
QUICK = Settings(leaves=6, steps=3, chosen=2)


def _weights(rng, *shape):
    return jnp.asarray(rng.normal(size=shape) / np.sqrt(np.prod(shape[:-1])), jnp.float32)


def _halves(x):
    return x[:, :2].reshape(-1, 2, 2, 2), x[:, 2:].reshape(-1, 2, 2, 2)


def _deep(rng):
    """Two halves of the image, each of two patches that meet in a second layer, and a third."""
    a, b = 2 * _weights(rng, 2, 4, 3), 2 * _weights(rng, 2, 6, 4)
    c, d = 2 * _weights(rng, 2, 4, 2), _weights(rng, 2, 6, LABELS)
    shift = jnp.asarray(rng.normal(size=(2, 3)) * 0.3 - 0.2, jnp.float32)

    def f(x):
        total = 0.0
        for i in range(2):
            rows = x[:, 2 * i : 2 * i + 2, :, 0]
            patches = jnp.stack([rows[:, :, :2].reshape(-1, 4), rows[:, :, 2:].reshape(-1, 4)], 1)
            first = jax.nn.relu(patches @ a[i] + shift[i])
            second = jax.nn.relu(first.reshape(-1, 6) @ b[i])
            third = jax.nn.relu(second @ c[i] - 0.1)
            total = total + jnp.concatenate([second, third], -1) @ d[i]
        return total

    return f


def _pooled(rng):
    """Max pools of values of both signs over windows that share no pixel."""
    kernel, c = 2 * _weights(rng, 2, 2, 1, 2), _weights(rng, 8, LABELS)

    def f(x):
        numbers = ("NHWC", "HWIO", "NHWC")
        h = jax.lax.conv_general_dilated(
            x - 0.4, kernel, (2, 2), "VALID", dimension_numbers=numbers
        )
        h = jnp.concatenate([h, -h, 0.5 * h + 0.1, x[:, ::2, ::2, :].repeat(2, -1) - 0.5], 2)
        h = h.reshape(-1, 2, 4, 2, 2).transpose(0, 1, 3, 2, 4)
        h = jax.lax.reduce_window(
            h, -jnp.inf, jax.lax.max, (1, 1, 1, 4, 1), (1, 1, 1, 4, 1), "VALID"
        )
        return h.reshape(-1, 8) @ c

    return f


NETS = {"deep": _deep, "pooled": _pooled}


def _queries(name, count, radii=(0.06, 0.12)):
    rng = np.random.default_rng(len(name))
    graph = jmlv.trace(NETS[name](rng), IMAGE)
    for i in range(count):
        x = rng.uniform(size=IMAGE).astype(np.float32)
        order = np.argsort(-np.asarray(graph(x[None])[0]))
        k = 1 + i % 2
        properties = jmlv.InTopK(int(order[0]), k), jmlv.NotInTopK(int(order[-1]), k)
        box = jmlv.Box.around(x, radii[i % len(radii)])
        yield Query.of(graph, box, properties[i // 2 % 2], graph)


def _problem(query, settings=QUICK):
    intervals = inner_intervals(query, CROWN())
    with certificate_precision():
        graph = fuse_relu_max_pool(query.graph64)
        network = compact(graph, query.lower, query.upper, intervals)
    return Problem(network, layout.lay_out(network), settings)


PREPARED = {}


def _prepared(query):
    """The problem of a query, made once: faults are planted in what comes after."""
    key = query.lower.tobytes(), query.upper.tobytes()
    if key not in PREPARED:
        PREPARED[key] = _problem(query)
    return PREPARED[key]


def _points(query, count=400):
    rng = np.random.default_rng(0)
    shares = rng.random((count, *IMAGE))
    shares[::2] = shares[::2].round()
    low, high = query.lower.astype(float), query.upper.astype(float)
    return low + shares * (high - low)


@pytest.mark.parametrize("name", [pytest.param("deep", marks=pytest.mark.slow), "pooled"])
def test_a_compact_network_computes_what_the_network_does(name):
    """So do its parts, added up; and its units' bounds hold."""
    for query in _queries(name, 1):
        problem, points = _prepared(query), _points(query, 50)
        network = problem.network
        with certificate_precision():
            expected = np.asarray(query.graph64.scores(points))
        columns = np.zeros((len(points), network.pixels + network.units))
        columns[:, : network.pixels] = points.reshape(len(points), -1)[:, network.moving]
        for unit in range(network.units):
            z = columns @ network.inputs[[unit]].toarray()[0] + network.constant[unit]
            assert (z >= network.low[unit] - 1e-9).all() and (z <= network.high[unit] + 1e-9).all()
            columns[:, network.pixels + unit] = np.maximum(z, 0)
        found = columns @ network.outputs.toarray().T + network.offset
        np.testing.assert_allclose(found, expected, atol=1e-9)
        np.testing.assert_allclose(_by_parts(problem, points), expected, atol=1e-9)


def _by_parts(problem, points):
    place = problem.layout.pixels
    flat = np.concatenate([points.reshape(len(points), -1)[:, problem.network.moving],
                           np.zeros((len(points), 1))], 1)  # fmt: skip
    with certificate_precision():
        *_, added = parts._values(problem.exact, problem.shape, flat.T[place].transpose(0, 3, 1, 2))
    return np.asarray(added).sum(0) + problem.network.offset


@pytest.mark.parametrize("name", mostly_slow(NETS, "pooled"))
def test_no_two_parts_share_a_pixel_or_a_unit(name):
    for query in _queries(name, 1):
        problem = _prepared(query)
        found, network = problem.layout, problem.network
        assert found.separate >= 2
        placed = np.concatenate([v.ravel() for v in (found.pixels, found.first, found.later)])
        placed = np.sort(placed[placed >= 0])
        np.testing.assert_array_equal(placed, np.arange(network.pixels + network.units))
        exact = problem.exact
        read = sum(np.count_nonzero(v) for v in (*exact.inputs, exact.first_inputs))
        assert read == np.count_nonzero(network.inputs.toarray()), "a link between parts is lost"


def _checked(name, steps=15):
    """How many bounds of subdomains points are compared with, and how many they contradict."""
    rng, checked, broken = np.random.default_rng(1), 0, 0
    for query in _queries(name, 2):
        problem, points = _prepared(query), _points(query)
        exact, leaves = problem.exact, problem.settings.leaves
        rows = rng.normal(size=(LABELS, LABELS))
        aim = problem.aim(rows, np.zeros(LABELS), np.ones((leaves, LABELS)))
        mixture = part_search.shares(rng.random(aim.mask.shape), aim.mask)
        place = problem.layout.pixels
        flat = np.concatenate([points.reshape(len(points), -1)[:, problem.network.moving],
                               np.zeros((len(points), 1))], 1)  # fmt: skip
        with certificate_precision():
            first, unit, added = map(
                np.asarray,
                parts._values(exact, problem.shape, flat.T[place].transpose(0, 3, 1, 2)),
            )
        sides = problem.sides()
        for side, values in ((sides.first, first), (sides.unit, unit)):
            sample = values[:, rng.integers(0, len(points), leaves)]
            side[:] = np.sign(sample) * (rng.random(side.shape) < 0.15)
        start = problem.plain_choice()
        random = jax.tree.map(lambda v: rng.uniform(-0.5, 1.5, v.shape).astype(np.float32), start)
        sizes = problem.even_sizes()
        bounds = (
            [problem.bound(aim, mixture, sides, start, sizes, steps, 0.3).bound] if steps else []
        )
        with certificate_precision():
            bounds += [
                np.asarray(parts.certify(exact, problem.shape, aim, mixture, sides, choice))
                for choice in (start, random)
            ]
        values = added @ (mixture @ aim.rows).T
        for bound in bounds:
            for k, j in itertools.product(range(len(exact.low)), range(leaves)):
                inside = (sides.first[k, j] * first[k] >= 0).all((1, 2))
                inside &= (sides.unit[k, j] * unit[k] >= 0).all(1)
                if inside.any():
                    checked += 1
                    broken += bool(bound[k, j] > values[k, inside, j].min() + 1e-9)
    return checked, broken


@pytest.mark.parametrize("name", mostly_slow(NETS, "deep"))
def test_every_subdomain_bound_holds_on_its_subdomain(name):
    """Whatever slopes, pieces, multipliers, mixtures and sides are."""
    checked, broken = _checked(name)
    assert checked > 30 and broken == 0


def test_certificates_have_no_float32_in_them():
    query = next(_queries("deep", 1))
    problem = _prepared(query)
    aim = problem.aim(np.eye(LABELS), np.zeros(LABELS), np.ones((6, LABELS)))
    choice = problem.plain_choice()
    with certificate_precision():
        program = jax.make_jaxpr(parts.certify, static_argnums=1)(
            problem.exact, problem.shape, aim, aim.mask, problem.sides(), choice
        )
    assert not [
        eqn for eqn in _equations(program.jaxpr)
        if eqn.primitive.name != "convert_element_type"
        and any(getattr(v.aval, "dtype", None) == np.float32 for v in (*eqn.invars, *eqn.outvars))
    ]  # fmt: skip


def _equations(program):
    for eqn in program.eqns:
        inner = [v.jaxpr for v in eqn.params.values() if hasattr(v, "jaxpr")]
        yield from (e for part in inner for e in _equations(part))
        if not inner:
            yield eqn


@pytest.mark.parametrize("name", [pytest.param("deep", marks=pytest.mark.slow), "pooled"])
def test_it_agrees_with_the_milp_and_with_the_search_as_a_whole(name):
    seen, by_parts = set(), BranchAndBound(CROWN(), batch=8, parts=QUICK)
    for query in _queries(name, 3, (0.1, 0.4)):
        found = jmlv.oracles.judge(query, by_parts.search(query, Deadline(60)), "parts")
        exact = jmlv.oracles.judge(query, jmlv.MILP().search(query, Deadline(60)), "MILP")
        seen.add(exact.status)
        assert exact.status is not Status.UNKNOWN
        assert found.status is exact.status
        with certificate_precision():
            margins = np.asarray(query.property.margin(query.graph64.scores(_points(query))))
        assert found.lower <= min(margins.min(), found.upper) + 1e-9
    assert {Status.ROBUST, Status.NOT_ROBUST} <= seen


def _tree(query):
    problem = _prepared(query)
    rows, offsets = query.property.rows(LABELS)
    offsets = rows @ problem.network.offset + offsets
    mask = np.ones((1, len(rows)))
    (root,) = roots(problem, rows, offsets, mask)
    return Tree(problem, rows, offsets, mask[0], root)


def _run_trees(stuck=False):
    """How often a tree's bound exceeds a value that its mixture of rows takes at a known input.

    Where one is to get stuck, the part with the most to prove has nothing left to split.
    """
    broken = 0
    for query in _queries("deep", 2, (0.45,)):
        tree, points = _tree(query), _points(query)
        with certificate_precision():
            scores = np.asarray(query.graph64.scores(points))
        part = int(np.argmax(tree.highs(tree.mixture) - tree.lows))
        if stuck:
            tree.heaps[part] = [v._replace(gain=-1.0, rate=0.0) for v in tree.heaps[part]]
        reached = float((scores @ query.property.rows(LABELS)[0].T @ tree.mixture).min())
        for _ in range(30):
            reached = min(reached, tree.upper)
            tree.round()
        broken += tree.best > reached + 1e-5
    return broken


@pytest.mark.slow
def test_trees_are_below_every_point():
    assert _run_trees() == 0 and _run_trees(stuck=True) == 0


REAL = part_search.Tree
SEARCH_FAULTS = {
    "one half forgotten": ("_halves", lambda self, k, real=REAL._halves: real(self, k)[::2]),
    "stuck subdomains forgotten": (
        "lows", property(lambda self: np.array([h[0].lower if h else np.inf for h in self.heaps]))
    ),
    "highest instead of lowest": (
        "lows", property(lambda self: np.array([max(v.lower for v in h) if h else 0 for h in self.heaps]))
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", SEARCH_FAULTS)
def test_a_fault_in_the_search_is_caught(fault, monkeypatch):
    monkeypatch.setattr(REAL, *SEARCH_FAULTS[fault])
    assert _run_trees("stuck" in fault) > 0


def _in_one_piece():
    rng = np.random.default_rng(0)
    a, c = 2 * _weights(rng, 16, 6), _weights(rng, 6, LABELS)
    return Query.of(
        lambda x: jax.nn.relu(x.reshape(-1, 16) @ a - 0.2) @ c,
        jmlv.Box.around(np.full(IMAGE, 0.5, np.float32), 0.2),
        jmlv.InTopK(0, 1),
    )


def test_a_network_in_one_piece_is_searched_as_a_whole():
    assert separable.problem_of(_in_one_piece(), CROWN(), QUICK) is None


def test_a_network_in_one_piece_is_left_to_others_by_parts_alone():
    evidence = BranchAndBound(relaxation=CROWN(), whole=False).search(_in_one_piece(), Deadline(60))
    assert "fall apart" in evidence.reason and evidence.lower == -np.inf and evidence.point is None
    with pytest.raises(ValueError, match="whole"):
        BranchAndBound(parts=None, whole=False)


def test_a_part_with_many_later_units_is_left_to_others(monkeypatch):
    query = next(_queries("deep", 1))
    assert separable.problem_of.__wrapped__(query, CROWN(), QUICK) is not None
    monkeypatch.setattr(part_search, "MOST_LATER", -1)
    assert separable.problem_of.__wrapped__(query, CROWN(), QUICK) is None


def _wrong_through(a, low, high, side, alpha, beta):
    return parts_through(a, low, high, -side, alpha, beta)


def _free_slopes(a, low, high, side, alpha, beta):
    inward, added = parts_through(a, low, high, side, alpha, beta)
    return inward, 0 * added


def _one_term(a, low, high, side, count):
    """Every piece takes 0."""
    signs = parts_signs(a, low, high, side, count)
    return jnp.where(signs > 0, -1, signs)


parts_through, parts_signs = parts._through, parts._signs

BOUND_FAULTS = {
    "sides confused": ("_through", _wrong_through),
    "a chord's constant forgotten": ("_through", _free_slopes),
    "one of two terms forgotten": ("_signs", _one_term),
}


@pytest.mark.parametrize("fault", BOUND_FAULTS)
def test_a_fault_in_a_bound_is_caught(fault, monkeypatch):
    name, wrong = BOUND_FAULTS[fault]
    monkeypatch.setattr(parts, name, wrong)
    with _freshly_compiled():
        _, broken = _checked("deep", steps=0)
    assert broken > 0


@contextlib.contextmanager
def _freshly_compiled():
    compiled = [f for f in vars(parts).values() if hasattr(f, "clear_cache")]
    try:
        for function in compiled:
            function.clear_cache()
        yield
    finally:
        for function in compiled:
            function.clear_cache()
