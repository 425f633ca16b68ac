"""Constants that a network computes from others: another machine computes others, and is paid for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jmlv
from jmlv.graph import folded

FLOAT32, BFLOAT16 = jmlv.Float32(), jmlv.Float32("bfloat16")
RNG = np.random.default_rng(0)
A, B = (jnp.asarray(RNG.uniform(1, 2, size=s).astype(np.float32)) for s in ((2, 64), (64, 2)))
MANY = jnp.asarray(np.float32([1e8, 1, -1e8]))
V = jnp.asarray(np.float32([0.3, 2.0]))
BOX = jmlv.Box.between(np.float32([0.6, 0.1]), np.float32([0.7, 0.2]))
PROPERTY = jmlv.InTopK(0, 1)


def scaled(make, act=lambda x: x):
    """A network that multiplies its inputs by a constant that it computes."""
    return lambda x: act(x.reshape(-1, 2) * make())


def share(f):
    return jmlv.trace(f, (2,)).structure.folded.share


KNOWN = {
    "batch norm": (lambda: V * jax.lax.rsqrt(V + 1e-5), 2.0**-19),
    "roots": (lambda: V / jnp.sqrt(V * V + 0.3), 2.0**-18),
    "product": (lambda: (A @ B)[0], 2.0**-16),
    "mean": (lambda: A.mean(1), 2.0**-16),
    "broadcast": (lambda: jnp.broadcast_to(1 + V[:1] / 3, (2,)), 2.0**-20),
}
EXACT = {
    "moves": lambda: -jnp.flip(jnp.concatenate([V, V])[1:3]),
    "halves": lambda: V * 0.5,
    "integers": lambda: jnp.arange(6.0).reshape(2, 3).sum(1) + jnp.ones((2, 2)) @ jnp.ones(2),
    "choices": lambda: jnp.where(V > 1, V, jnp.floor(V)) + 1.0 * 0,
}
UNKNOWN = {
    "a sum that cancels": lambda: jnp.stack([MANY.sum(), V[1]]),
    "a difference that cancels": lambda: (1 + V / 3) - (V / 3 + 1.0),
    "exponentials": lambda: jnp.exp(V),
    "a choice by what is rounded": lambda: jnp.where(V / 3 > 0.1, V, 1.0),
    "steps of what is rounded": lambda: jnp.floor(V / 3),
    "a loop": lambda: jax.lax.while_loop(lambda c: c.sum() < 9, lambda c: c / 3 + 2 * c, V),
    "tiny numbers": lambda: V * 1e-38,
    "half precision": lambda: (V.astype(jnp.bfloat16) / 3).astype(jnp.float32),
}


@pytest.mark.parametrize("make, most", KNOWN.values(), ids=KNOWN)
def test_constants_are_off_by_a_little(make, most):
    f = scaled(make)
    assert 0 < share(f) <= most
    assert jmlv.verify(f, BOX, PROPERTY, jmlv.Bounds(), deployed=FLOAT32).stats["rounding"] > 0


@pytest.mark.parametrize("make", EXACT.values(), ids=EXACT)
def test_what_cannot_round_is_exact(make):
    assert share(scaled(make)) == 0


@pytest.mark.parametrize("make", UNKNOWN.values(), ids=UNKNOWN)
def test_what_another_machine_may_compute_otherwise_is_refused(make):
    assert share(scaled(make)) == np.inf
    with pytest.raises(jmlv.UnsupportedOperation, match="computes a constant from others"):
        jmlv.verify(scaled(make), BOX, PROPERTY, jmlv.Bounds(), deployed=FLOAT32)
    assert jmlv.verify(scaled(make), BOX, PROPERTY, jmlv.Bounds()).about != str(FLOAT32)


MEETINGS = {
    "maximum": lambda x, c: jnp.maximum(x, c),
    "clip": lambda x, c: jnp.clip(x, 0.0, c),
    "beside": lambda x, c: jnp.concatenate([x, c[None]], 1)[:, :2],
    "leaky": lambda x, c: jnp.where(x > 0, x, c[:1] * x),
    "loop": lambda x, c: jax.lax.scan(lambda s, _: (s + x, c), x, None, length=2)[0] * c,
    "stacked": lambda x, c: x + jax.lax.scan(lambda s, v: (s, v / 3), x, jnp.stack([V, V]))[1][0],
}


@pytest.mark.parametrize("meet", MEETINGS.values(), ids=MEETINGS)
def test_rounded_constants_meet_what_is_computed_in_few_ways(meet):
    f = lambda x: meet(x.reshape(-1, 2), V / 3)  # noqa: E731
    assert share(f) == np.inf


def test_products_of_cut_operands_are_refused():
    f = scaled(lambda: (A @ B)[0])
    with pytest.raises(jmlv.UnsupportedOperation, match="bfloat16"):
        jmlv.verify(f, BOX, PROPERTY, jmlv.Bounds(), deployed=BFLOAT16)
    jmlv.verify(scaled(lambda: V / 3), BOX, PROPERTY, jmlv.Bounds(), deployed=BFLOAT16)


OPERATIONS = {
    "add": lambda m, a, b: a + b,
    "sub": lambda m, a, b: a - b,
    "mul": lambda m, a, b: a * b,
    "div": lambda m, a, b: a / b,
    "root": lambda m, a, b: m.sqrt(m.abs(a)),
    "inverse root": lambda m, a, b: jax.lax.rsqrt(jnp.abs(a)) if m is jnp else abs(a) ** -0.5,
    "sum": lambda m, a, b: m.broadcast_to(a.sum(), a.shape),
    "product": lambda m, a, b: m.broadcast_to(m.dot(a, b), a.shape),
    "cube": lambda m, a, b: a**3,
    "larger": lambda m, a, b: m.maximum(a, -b),
    "mixed": lambda m, a, b: m.concatenate([a[2:], b[:2]]),
}


def _random_constant(rng):
    """A constant of four numbers by a few operations, as a function of NumPy or JAX."""
    given = [(rng.normal(size=4) * 10.0 ** rng.integers(-2, 3)).astype(np.float32) for _ in "ab"]
    steps = [(rng.choice([*OPERATIONS]), *rng.integers(0, 9, 2)) for _ in range(rng.integers(1, 6))]

    def constant(m):
        values = [jnp.asarray(v) if m is jnp else v.astype(np.float64) for v in given]
        for name, i, j in steps:
            a, b = values[i % len(values)], values[j % len(values)]
            values.append(OPERATIONS[name](m, a, b))
        return values[-1]

    return constant


def _excess(count):
    """How much of its share the worst of some random constants is off by, from exact arithmetic."""
    rng, worst = np.random.default_rng(0), 0.0
    for constant in (_random_constant(rng) for _ in range(count)):
        found = jmlv.trace(lambda x, c=constant: x.reshape(-1, 4) * c(jnp), (4,)).structure.folded
        got, exact = np.asarray(constant(jnp), np.float64), constant(np)
        off = np.max(np.abs(got - exact) / np.abs(exact))
        worst = max(worst, 0.0 if off == 0 else off / max(found.share / 2, 1e-300))
    return worst


def test_random_constants_are_within_their_share(monkeypatch):
    with np.errstate(all="ignore"):
        assert 0.01 < _excess(16) <= 1
        monkeypatch.setattr(folded, "UNIT", 0.0)
        monkeypatch.setattr(folded, "ROOT", 0.0)
        assert _excess(6) > 1


def _orders(make_sum, terms, count=200):
    rng = np.random.default_rng(1)
    return [make_sum(rng.permutation(len(terms))) for _ in range(count)]


def test_no_order_exceeds_the_share():
    """Sums and products in orders drawn by chance, in float32, against the bound on two machines."""
    a, b = np.asarray(A), np.array(B)
    b[:, 0] -= np.float32(1.4)  # some of it cancels
    f = scaled(lambda: (A @ jnp.asarray(b))[0])
    bound, found = share(f), []

    def summed(order):
        total = np.float32(0)
        for i in order:
            total = np.float32(total + np.float32(a[0, i] * b[i, 0]))
        return total

    found = np.array(_orders(summed, b), np.float64)
    given = float(jnp.matmul(A, jnp.asarray(b), precision="highest")[0, 0])
    assert 0 < np.max(np.abs(found - given)) / abs(given) <= bound < 1e-3


def test_batch_norm_stays_provable_and_pays():
    norm = nnx.BatchNorm(2, rngs=nnx.Rngs(0), use_running_average=True)
    norm.var[...], norm.mean[...] = V, V / 8
    norm.scale[...] = jnp.float32([1.0, 1.7])
    f = lambda x: norm(x.reshape(-1, 2))  # noqa: E731
    given = np.asarray(f(jnp.float32([[0.65, 0.15]])))[0]
    box, top = BOX, jmlv.InTopK(int(given.argmax()), 1)
    verdict = jmlv.verify(f, box, top, jmlv.Bounds(), deployed=FLOAT32)
    mul = np.asarray(norm.scale[...] * jax.lax.rsqrt(V + norm.epsilon))
    paid = jmlv.verify(
        lambda x: (x.reshape(-1, 2) - V / 8) * mul + norm.bias[...], box, top, jmlv.Bounds(),
        deployed=FLOAT32,
    )  # fmt: skip
    assert verdict.robust and paid.robust
    assert verdict.stats["rounding"] > paid.stats["rounding"]


def test_the_share_is_paid_for(monkeypatch):
    """Without it a network whose constant another machine computes otherwise would be ROBUST."""
    third = np.float32(1) / np.float32(3)
    f = lambda x: jnp.stack([x[:, 0] * (V[0] / V[0] / 3), x[:, 0] * third], 1) * 2.0**20  # noqa: E731
    assert share(f) > 0
    errors = jmlv.verify(f, BOX, PROPERTY, jmlv.Bounds(), deployed=FLOAT32).stats["rounding"]
    monkeypatch.setattr(folded.Ledger, "found", folded.EXACT)
    assert jmlv.verify(f, BOX, PROPERTY, jmlv.Bounds(), deployed=FLOAT32).stats["rounding"] < errors


def test_a_graph_of_unknown_origin_is_refused():
    graph = jmlv.trace(scaled(lambda: V), (2,))
    structure = type(graph.structure)(graph.invars, graph.constvars, graph.eqns, graph.outvars)
    bare = type(graph)(structure, graph.consts)
    with pytest.raises(jmlv.UnsupportedOperation, match="unknown source"):
        jmlv.verify(bare, BOX, PROPERTY, jmlv.Bounds(), deployed=FLOAT32)


def test_integers_longer_than_a_cut_are_products():
    """1031 has eleven bits: bfloat16 has eight of them."""
    f = scaled(lambda: (jnp.full((1, 1), 1031.0) @ jnp.full((1, 2), 1031.0))[0])
    assert share(f) > 0 and jmlv.trace(f, (2,)).structure.folded.products
