"""The checker beside CROWN, sampled points and corners; its rules broken; damaged certificates."""

import dataclasses
import itertools

import jax.numpy as jnp
import numpy as np
import pytest
import zoo

import jmlv
import jmlv_check
from jmlv.certificate import Certificate
from jmlv.graph.fuse import fuse_relu_max_pool
from jmlv.numerics import certificate_precision
from jmlv.oracles.certify import Certifier, exported
from jmlv.oracles.deadline import Deadline
from jmlv.oracles.oracle import Query
from jmlv_check import linear
from jmlv_check.__main__ import main
from jmlv_check.arithmetic import Floats, Integers
from jmlv_check.certificate import check
from jmlv_check.network import Affine, Maximum, Network, Refused, of_arrays

NETS = ["dense", "conv", "pool", "residual", "clipped", "odds_and_ends"]


def _tiers(network, *arrays):
    numbers = [a for a in network.arrays().values() if a.dtype.kind == "f"]
    return Floats(), Integers.for_arrays(*(a[np.isfinite(a)] for a in numbers), *arrays)


def _case(name, radius=0.05, seed=1):
    f = getattr(zoo, f"net_{name}")(zoo.Weights(seed))
    graph = fuse_relu_max_pool(jmlv.trace(f, zoo.SHAPE))
    with certificate_precision():
        network = exported(graph.astype("float64"))
    x = np.random.default_rng(seed).random(zoo.SHAPE).astype(np.float32)
    lower, upper = np.clip(x - np.float32(radius), 0, 1), np.clip(x + np.float32(radius), 0, 1)
    return graph, network, lower, upper


def _checked(network, tier, lower, upper):
    ends = (tier.lift(side.astype(np.float64).ravel()) for side in (lower, upper))
    region = linear.bounded(network, tier, *ends, {})
    low = linear.lower_bounds(region, tier.lift(np.eye(len(network.scores))), network.scores)
    known = region.lower[network.scores]
    return np.array([max(tier.show(a), tier.show(b)) for a, b in zip(low, known)])


@pytest.mark.parametrize("name", zoo.mostly_slow(NETS, "pool", "odds_and_ends"))
def test_two_implementations_of_crown_agree_and_no_point_is_below(name):
    graph, network, lower, upper = _case(name)
    box = jmlv.Box(jnp.asarray(lower), jnp.asarray(upper))
    rows = jmlv.Linear(np.eye(3), np.zeros(3))
    crown = jmlv.bound(graph, box, rows, jmlv.CROWN()).rows_lower
    rng = np.random.default_rng(0)
    shares = np.concatenate([rng.random((60, *lower.shape)), rng.random((60, *lower.shape)) < 0.5])
    points = (lower + shares.astype(np.float32) * (upper - lower)).astype(np.float32)
    least = np.asarray(graph.scores(points)).min(0)
    for tier in _tiers(network, lower, upper):
        found = _checked(network, tier, lower, upper)
        scale = 1 + np.abs(found)
        assert np.all(np.abs(found - np.array(crown)) < 1e-4 * scale), tier.name
        assert np.all(found <= least + 1e-4 * scale), tier.name


BROKEN = {
    "the line above is too low": ("intercept", lambda t: t - 0.05),
    "the line below is too steep": ("weight", lambda w: w + 3),
    "the floor is too high": ("floor", lambda c: c + 0.05),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_rule_is_contradicted_by_a_point(what, monkeypatch):
    field, change = BROKEN[what]
    rule = linear._lines

    def broken(*arguments):
        lines = rule(*arguments)
        return lines._replace(**{field: change(getattr(lines, field))})

    monkeypatch.setattr(linear, "_lines", broken)
    assert any(_passes_a_reached_value(seed) for seed in range(8))


def _passes_a_reached_value(seed):
    """Whether bounds on some box exceed the value at its centre."""
    for radius in (1e-4, 0.05):
        _, network, lower, upper = _case("dense", radius, seed)
        found = _checked(network, Floats(), lower, upper)
        middle = ((lower.astype(np.float64) + upper) / 2).ravel()
        if np.any(found > _value(network, middle) + 1e-6):
            return True
    return False


def _value(network, point):
    """The scores at a point, but for what the windows of pools have beyond a first element."""
    values = linear.Region(network, Floats(), point, point)
    for number, node in enumerate(network.nodes, 1):
        if isinstance(node, Affine):
            linear._affine_interval(values, number, node)
        else:
            found = np.maximum(values.lower[node.source[:, 0]], node.floor)
            values.lower[values.span(number)] = values.upper[values.span(number)] = found
    return values.upper[network.scores]


# ---------------------------------------------------------------------------------------------
# Certificates
# ---------------------------------------------------------------------------------------------


def _tiny(seed, labels=3):
    """Three inputs, two layers of nine ReLUs: brute force sees all of its box."""
    rng = np.random.default_rng(seed)
    sizes = (3, 9), (9, 9), (9, labels), (9,)
    a, b, d, c = (jnp.asarray(rng.normal(size=s) / np.sqrt(s[0]), jnp.float32) for s in sizes)
    return lambda x: jnp.maximum(jnp.maximum(2 * x.reshape(-1, 3) @ a + c, 0) @ b, 0) @ d


def _questions():
    """Boxes in which the best label stays by a little, so that proofs need cuts."""
    for seed in range(12):
        f = _tiny(seed)
        x = np.random.default_rng(seed).random((3, 1, 1)).astype(np.float32)
        target = int(np.argmax(f(x[None])[0]))
        grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, 9)] * 3), -1).reshape(-1, 3, 1, 1)
        prop = jmlv.InTopK(target, 1)
        for radius in np.linspace(0.5, 0.02, 25):
            points = np.clip(x + radius * grid, 0, 1).astype(np.float32)
            if np.asarray(prop.margin(f(points))).min() > 0.005:
                yield f, x, np.float32(radius), prop
                break


@pytest.fixture(scope="module")
def proofs():
    found = []
    for f, x, radius, prop in _questions():
        query = Query.of(f, jmlv.Box.around(x, radius), prop)
        certificate = Certifier().prove(query, Deadline(60))
        if certificate is not None:
            found.append((f, certificate))
    return found


def test_proofs_of_what_brute_force_confirms(proofs):
    assert len(proofs) >= 8
    assert any(len(c.arrays["leaf.mixture"]) > 3 for _, c in proofs)  # some needed cuts
    for _, certificate in proofs:
        floats, exact = certificate.check(), certificate.check(exact=True)
        assert floats.claim == exact.claim == "robust"
        assert floats.bound > 0 and abs(floats.bound - exact.bound) < 1e-9


def test_a_witness_is_replayed_and_a_point_that_is_none_is_refused():
    f, x = _tiny(0), np.full((3, 1, 1), 0.5, np.float32)
    worst = int(np.argmin(f(x[None])[0]))
    box, prop = jmlv.Box.around(x, 0.01), jmlv.InTopK(worst, 1)
    verdict = jmlv.verify(f, box, prop, jmlv.PGD(), certify=True)
    certificate = verdict.certificate
    assert certificate.check().claim == certificate.check(exact=True).claim == "not robust"
    for moved in (0.0, np.nan, 7.0):
        arrays = certificate.contents() | {"witness": np.full(3, moved)}
        with pytest.raises(Refused, match="witness|not finite"):
            check(arrays, certificate.network)
    best = int(np.argmax(f(x[None])[0]))
    robust = jmlv.verify(f, box, jmlv.InTopK(best, 1), certify=True).certificate
    head = {**robust.head, "claim": "not robust"}
    lie = dataclasses.replace(robust, head=head, arrays={**robust.arrays, "witness": x.ravel()})
    with pytest.raises(Refused, match="margin"):
        lie.check()


def test_files_and_the_command(proofs, tmp_path, capsys):
    _, certificate = proofs[0]
    certificate.save(tmp_path / "c.npz", tmp_path / "n.npz")
    network = jmlv_check.load(tmp_path / "n.npz")
    assert network.sha256() == certificate.network.sha256()
    again = jmlv.Certificate.load(tmp_path / "c.npz", network)
    assert again.check() == certificate.check()
    paths = [str(tmp_path / name) for name in ("c.npz", "n.npz")]
    assert main(paths) == 0 and "is among the 1 highest" in capsys.readouterr().out
    assert main([*paths, "--exact"]) == 0 and "exact integers" in capsys.readouterr().out
    other = network.nodes[0]._replace(bias=network.nodes[0].bias + 1e-9)
    network._replace(nodes=(other, *network.nodes[1:])).save(tmp_path / "n.npz")
    assert main(paths) == 1 and "another one" in capsys.readouterr().err


DAMAGED = {
    "1.source": ([99], [-1]), "1.row": ([99], [-1]), "1.weight": ([np.nan], [np.inf]),
    "1.bias": ([np.nan], [[0.0]]), "1.divisor": ([0.0], [-1.0], [np.nan]),
    "2.source": ([[2]], [[-1]], [1]), "2.floor": ([np.nan], [np.inf], [0.0, 0.0]),
    "scores": ([3], [-1], [[1]], []), "inputs": ([0], [-1]),
}  # fmt: skip


def test_networks_that_refer_to_what_is_not_there_are_refused():
    node = Affine(np.zeros(1, int), np.zeros(1, int), np.ones(1), np.zeros(1), np.ones(1))
    arrays = Network(1, (node, Maximum(np.ones((1, 1), int), np.zeros(1))), np.array([2])).arrays()
    assert len(of_arrays(arrays).nodes) == 2
    for name, others in DAMAGED.items():
        for other in others:
            with pytest.raises(Refused):
                of_arrays({**arrays, name: np.asarray(other)})
    for name in arrays:
        with pytest.raises(Refused):
            of_arrays({n: a for n, a in arrays.items() if n != name})
    with pytest.raises(Refused, match="too many"):
        of_arrays({**arrays, "odd": np.zeros(1)})


def _holds(f, arrays):
    """Whether no sampled point or corner of a certificate's own box breaks its own property."""
    lower, upper = arrays["lower"], arrays["upper"]
    corners = np.array(list(itertools.product((0, 1), repeat=lower.size)), float)
    shares = np.concatenate([corners, np.random.default_rng(0).random((200, lower.size))])
    points = (lower + shares * (upper - lower)).reshape(-1, lower.size, 1, 1)
    with certificate_precision():
        scores = np.asarray(f(jnp.asarray(points)), np.float64)
    values = scores @ np.asarray(arrays["rows"]).T + arrays["offsets"]
    return values.min() > -1e-6  # with k = 1 all rows are positive


def test_every_field_damaged(proofs):
    cut = [proof for proof in proofs if len(proof[1].arrays["leaf.mixture"]) > 3]
    f, certificate = min(cut, key=lambda proof: len(proof[1].arrays["leaf.mixture"]))
    for name, array in certificate.arrays.items():
        others = {
            "gone": None,
            "shorter": array[:-1],
            "of text": array.astype(str),
            "NaN": np.full(array.shape, np.nan),
            "negated": -array.astype(float),
            "another shape": array[None],
        }
        for what, other in others.items():
            arrays = {n: v for n, v in certificate.contents().items() if n != name}
            arrays |= {} if other is None else {name: other}
            _refused_or_true(f, arrays, certificate.network, f"{name} {what}")
    for name in certificate.head:
        for other in (None, "robust", 3, [], {}, [1, 0], [{"rows": [0], "proof": {"leaf": 0}}]):
            head = {**certificate.head, name: other}
            lie = dataclasses.replace(certificate, head=head)
            _refused_or_true(f, lie.contents(), certificate.network, f"{name} = {other}")


def test_random_bits_flipped(proofs):
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(120):
        f, certificate = proofs[rng.integers(len(proofs))]
        arrays = {n: v.copy() for n, v in certificate.contents().items()}
        name = rng.choice(sorted(arrays))
        raw = bytearray(arrays[name].tobytes())
        place = rng.integers(len(raw))
        raw[place] ^= 1 << rng.integers(8)
        arrays[name] = np.frombuffer(bytes(raw), arrays[name].dtype).reshape(arrays[name].shape)
        refused += _refused_or_true(f, arrays, certificate.network, name)
    assert refused > 12


def _refused_or_true(f, arrays, network, what):
    try:
        report = check(arrays, network)
    except Refused as problem:
        assert len(str(problem)) > 10
        return True
    assert report.claim == "robust" and _holds(f, arrays), what
    return False


def test_a_clause_too_few_is_refused(proofs):
    _, certificate = proofs[0]
    head = {**certificate.head, "clauses": certificate.head["clauses"][1:]}
    with pytest.raises(Refused, match="none proves"):
        dataclasses.replace(certificate, head=head).check()


def test_an_element_that_is_there_twice_does_not_compete_with_itself():
    """Windows at a border name an entry twice."""
    low, high = np.array([[0.0, 0.0, -1.0]]), np.array([[3.0, 3.0, 1.0]])
    twice, once = (
        linear._lines(Floats(), low, high, low.max(1), np.array([[4, 4, 5]])),
        linear._lines(Floats(), low[:, 1:], high[:, 1:], low.max(1), np.array([[4, 5]])),
    )
    for name in ("leader", "slope", "intercept", "settled"):
        assert np.array_equal(getattr(twice, name), getattr(once, name)), name


@pytest.mark.parametrize("kind", [np.int64, np.longdouble, object])
def test_numbers_that_float64_would_round_are_refused(proofs, kind):
    _, certificate = proofs[0]
    for name in ("leaf.mixture", "leaf.beta", "lower"):
        arrays = {**certificate.arrays, name: certificate.arrays[name].astype(kind)}
        with pytest.raises(Refused):
            dataclasses.replace(certificate, arrays=arrays).check()


def test_a_witness_whose_scores_overflow_is_none():
    """Of two rows, one is minus infinity there and the other not a number's."""
    entries = np.arange(2), np.zeros(2, int), np.array([1.7e308, -1.7e308])
    network = Network(1, (Affine(*entries, np.zeros(2), np.ones(2)),), np.array([1, 2]))
    arrays = {"lower": np.zeros(1), "upper": np.full(1, 10.0), "witness": np.full(1, 10.0)}
    arrays |= {"rows": np.eye(2), "offsets": np.zeros(2)}
    head = {"claim": "not robust", "network": network.sha256(), "property": [2, 0, 1]}
    with pytest.raises(Refused, match="overflows"):
        Certificate(network, arrays, head).check()


def test_the_statement_says_of_which_box(proofs):
    _, certificate = proofs[0]
    said = certificate.check().statement
    assert "the box of 3 inputs, up to" in said
    narrower = {
        **certificate.arrays,
        "lower": np.asarray(certificate.arrays["lower"], float) + 1e-7,
    }
    assert dataclasses.replace(certificate, arrays=narrower).check().statement != said


def test_networks_without_a_certificate_say_so():
    f = lambda x: jnp.tanh(x.reshape(-1, 3))  # noqa: E731
    x = np.array([0.2, 0.5, 0.9], np.float32).reshape(3, 1, 1)
    verdict = jmlv.verify(f, jmlv.Box.around(x, 0.01), jmlv.InTopK(2, 1), certify=True)
    assert verdict.robust and verdict.certificate is None
    assert "tanh" in verdict.stats["certificate"]


@pytest.mark.parametrize("places", [[], [0.1], [1e-40, 3.0], [2.0**-149, 1e10, -7.25]])
def test_exact_integers_hold_every_number(places):
    values = np.array(places)
    tier = Integers.for_arrays(values)
    assert [tier.show(v) for v in tier.lift(values)] == places


def test_products_that_underflow_are_paid_for():
    value, slack = Floats().sums(np.array([1e-200]), np.array([1e-200]), np.zeros(1, int), 1)
    assert value[0] == 0 and slack[0] > 0
    value, slack = Floats().divide(np.array([5e-324]), np.array([4.0]))
    assert value[0] == 0 and slack[0] > 0


def test_a_search_that_fails_leaves_the_verdict(monkeypatch):
    def failing(*_):
        raise MemoryError("no room")

    monkeypatch.setattr(Certifier, "prove", failing)
    f, x = _tiny(0), np.full((3, 1, 1), 0.5, np.float32)
    best = int(np.argmax(f(x[None])[0]))
    verdict = jmlv.verify(f, jmlv.Box.around(x, 1e-4), jmlv.InTopK(best, 1), certify=True)
    assert verdict.robust and "no room" in verdict.stats["certificate"]


def test_sums_are_within_their_slack():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(3, 500)) * 1e5, rng.normal(size=500)
    groups = rng.integers(0, 7, 500)
    tier = Integers.for_arrays(a, b)
    exact, tiny = tier.sums(tier.lift(a), tier.lift(b), groups, 7)
    value, slack = Floats().sums(a, b, groups, 7)
    assert not tiny.any() or tiny.max() == 1
    gap = np.array([[abs(tier.show(e) - v) for e, v in zip(*rows)] for rows in zip(exact, value)])
    assert np.all(gap <= slack) and np.all(slack <= 1e-9 * np.abs(a * b).sum())
