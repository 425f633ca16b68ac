"""Products of two computed values and softmax: planes and ranges, alone and in networks."""

from fractions import Fraction
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from zoo import FAST_BUILD

import jmlv
from jmlv.bounds import Interval, products, sizes, softmax
from jmlv.bounds.crown import _intersection
from jmlv.bounds.products import product_interval, product_lines, pull_product
from jmlv.bounds.softmax import pull_softmax, softmax_interval, softmax_lines
from jmlv.errors import UnsupportedOperation
from jmlv.graph.reads import pixels_read
from jmlv.graph.smooth import SOFTPLUS
from jmlv.numerics import certificate_precision

COUNT, SIZE, ROWS = 400, 5, 14


def intervals(seed, dtype):
    """Narrow, wide and degenerate boxes around small and large numbers, some all tied."""
    rng = np.random.default_rng(seed)
    centre = rng.normal(size=(COUNT, SIZE)) * rng.choice([0.1, 1, 10, 1e3], (COUNT, 1))
    centre[::5] = centre[::5, :1]
    width = np.abs(rng.normal(size=(COUNT, SIZE)))
    width *= rng.choice([0, 1e-9, 1e-3, 0.3, 3, 30, 300], (COUNT, 1)) * (
        rng.random((COUNT, SIZE)) < 0.9
    )
    share = rng.random((COUNT, SIZE))
    return (centre - share * width).astype(dtype), (centre + (1 - share) * width).astype(dtype)


def rows_and_shares(seed, dtype):
    """One-hot rows with both signs, constant ones and mixed ones; and numbers in [0, 1]."""
    rng = np.random.default_rng(seed)
    rows = np.concatenate(
        [np.eye(SIZE), -np.eye(SIZE), np.ones((1, SIZE)), rng.normal(size=(3, SIZE))]
    )
    shares = rng.random((ROWS, 2, SIZE))
    shares[::2] = np.round(shares[::2])
    return rows.astype(dtype), shares.astype(dtype)


def points(lower, upper, seed=3):
    """Corners and points between, in extended precision."""
    rng = np.random.default_rng(seed)
    t = rng.random((60, *lower.shape)).astype(np.longdouble)
    t[:30] = np.round(t[:30])
    low, high = lower.astype(np.longdouble), upper.astype(np.longdouble)
    return low + t * (high - low)


def true_softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


@partial(jax.jit, static_argnums=0, compiler_options=FAST_BUILD)
def softmax_planes(eqn, lower, upper, rows, shares):
    def one(low, high):
        box = Interval(low[None], high[None])
        lines = softmax_lines(eqn, box)
        found = [pull_softmax(eqn, rows[:, None], lines, own) for own in (None, shares[:, :, None])]
        return softmax_interval(eqn, box), [(parts[0][:, 0], offset) for parts, offset, _ in found]

    return jax.vmap(one)(lower, upper)


def softmax_clearance(dtype):
    """The least by which ranges and planes clear softmax: negative where they cut it."""
    lower, upper = intervals(0, dtype)
    rows, shares = rows_and_shares(1, dtype)
    eqn = jmlv.trace(jax.nn.softmax, (SIZE,)).eqns[0]
    with jax.enable_x64(dtype == "float64"):
        found = softmax_planes(eqn, lower, upper, rows, shares)
        bounds, planes = jax.tree.map(np.asarray, found)
    assert bounds.lower.dtype == dtype and np.all(bounds.lower >= 0) and np.all(bounds.upper <= 1)
    x = points(lower, upper)
    y = true_softmax(x)
    clearance = [(y - bounds.lower[:, 0]).min(), (bounds.upper[:, 0] - y).min()]
    for slopes, offsets in planes:
        assert np.isfinite(slopes).all() and np.isfinite(offsets).all()
        line = np.einsum("gri,pgi->pgr", slopes.astype(np.longdouble), x) + offsets
        value = np.einsum("ri,pgi->pgr", rows.astype(np.longdouble), y)
        reach = np.abs(slopes).astype(np.longdouble) @ np.abs(x)[..., None]
        rounded = 64 * np.finfo(dtype).eps * (1 + reach[..., 0])  # of the slopes themselves
        clearance.append((value - line + rounded).min())
    return min(clearance)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_softmax_is_enclosed(dtype):
    assert softmax_clearance(dtype) >= 0


def _tangent_above(planes, share):
    """A plane that touches softmax where it bends down: no bound below."""
    lower, upper, top = planes.ends
    t = lower + share * (upper - lower)
    s = jax.nn.softmax(t, -1)
    return softmax._Plane(s, s, s - s * (t - (s * t).sum(-1, keepdims=True)) + 0 * top)


BROKEN = {
    "below": ("below", _tangent_above),
    "above": ("above", _tangent_above),
    "centre": ("_amid", lambda each, gap: 0.5 + 0 * each[..., :1]),
    "range": (
        "_log_of_others",
        lambda others, own: softmax.logsumexp(own, -1, keepdims=True) - own,
    ),
}


@pytest.mark.parametrize("name", ["below", "above", "range"])
def test_broken_rules_of_softmax_are_caught(name, monkeypatch):
    place, rule = BROKEN[name]
    monkeypatch.setattr(softmax._Planes if name in ("below", "above") else softmax, place, rule)
    jax.clear_caches()
    assert softmax_clearance("float64") < -1e-3
    jax.clear_caches()


def test_any_centre_of_the_coefficients_is_sound(monkeypatch):
    monkeypatch.setattr(softmax, *BROKEN["centre"])
    jax.clear_caches()
    assert softmax_clearance("float64") >= 0
    jax.clear_caches()


def test_rows_of_equal_coefficients_cost_nothing():
    """The entries of a softmax sum to one, whatever is known of them."""
    eqn = jmlv.trace(jax.nn.softmax, (4,)).eqns[0]
    lines = softmax_lines(eqn, Interval(-3 * jnp.ones((1, 4)), 5 * jnp.ones((1, 4))))
    (slopes,), offset, _ = pull_softmax(eqn, jnp.full((1, 1, 4), -2.5), lines)
    np.testing.assert_allclose(slopes, 0, atol=1e-6)
    np.testing.assert_allclose(offset, -2.5, atol=1e-4)  # float32 rounds


@pytest.mark.parametrize("end", [np.nan, np.inf])
def test_a_failed_bound_of_softmax_is_seen(end):
    eqn = jmlv.trace(jax.nn.softmax, (2,)).eqns[0]
    box = Interval(jnp.zeros((1, 2)), jnp.array([[end, 1.0]]))
    found = softmax_interval(eqn, box)
    assert np.isnan(found.upper).all() if np.isnan(end) else (found.upper[0, 0] == 1)
    _, offset, _ = pull_softmax(eqn, jnp.array([[[1.0, -1.0]]]), softmax_lines(eqn, box))
    assert not np.isfinite(offset).any()


@pytest.mark.parametrize("count", [1, 4])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_rows_of_equal_coefficients_hold_as_compiled(count, dtype):
    """What is left of them is rounding, which a program may compute twice, in two ways."""
    rng = np.random.default_rng(count)
    shape = (400, 1, count)
    centre = rng.normal(size=shape) * 10 ** rng.uniform(-1, 4, (400, 1, 1))
    radius = 10 ** rng.uniform(-3, 4, (400, 1, 1)) * np.ones(shape)
    low, high = ((centre + side * radius).astype(dtype) for side in (-1, 1))
    rows = (rng.normal(size=(400, 6, 1, 1)) * np.ones((1, 6, 1, count))).astype(dtype)
    own = rng.uniform(-0.5, 1.5, (400, 6, 2, 1, count)).astype(dtype)
    eqn = jmlv.trace(jax.nn.softmax, (count,)).eqns[0]

    @jax.jit
    def planes(low, high, rows, own):
        (slopes,), offset, _ = pull_softmax(eqn, rows, softmax_lines(eqn, Interval(low, high)), own)
        return slopes[:, 0], offset

    with jax.enable_x64(dtype == "float64"):
        each = [planes(*case) for case in zip(low, high, rows, own)]
    slopes, offset = (np.stack(v).astype(np.longdouble) for v in zip(*each))
    x = points(low[:, 0], high[:, 0])
    value = np.einsum("gri,pgi->pgr", rows[:, :, 0].astype(np.longdouble), true_softmax(x))
    line = np.einsum("gri,pgi->pgr", slopes, x) + offset
    rounded = np.abs(rows[:, :, 0, 0]) + np.einsum("gri,pgi->pgr", np.abs(slopes), np.abs(x))
    assert np.all(line - value <= 16 * np.finfo(dtype).eps * rounded)


MASKS = {"float32": (-1e9, -1e30, np.finfo("float32").min), "float64": (-1e9, -1e30, -1e300)}


@pytest.mark.parametrize("dtype", MASKS)
def test_masked_entries_cost_nothing(dtype):
    """They are zero, however far below, and do not make the rounding of the others larger."""
    eqn = jmlv.trace(jax.nn.softmax, (4,)).eqns[0]

    @partial(jax.jit, compiler_options=FAST_BUILD)
    def planes(low, high):
        lines = softmax_lines(eqn, Interval(low, high))
        rows = jnp.eye(4, dtype=dtype)[:, None]
        (slopes,), offset, _ = pull_softmax(eqn, jnp.concatenate([rows, -rows]), lines)
        return softmax_interval(eqn, Interval(low, high)), slopes[:, 0], offset

    with jax.enable_x64(dtype == "float64"):
        for mask in (-50.0, -119.0, -790.0, *MASKS[dtype]):
            low = np.array([[0.0, 0.1, 0.2, mask]], dtype)
            high = np.array([[0.3, 0.2, 0.2, mask]], dtype)
            bounds, slopes, offset = jax.tree.map(np.asarray, planes(low, high))
            x = points(low[:, None], high[:, None])[:, 0]
            y = true_softmax(x)[:, 0]
            line = np.einsum("ri,pi->pr", slopes.astype(np.longdouble), x[:, 0]) + offset
            clear = np.concatenate([y, -y], -1) - line
            slack = 64 * np.finfo(dtype).eps * (1 + np.abs(slopes) @ np.abs(x[0, 0]))
            assert np.all(clear >= -slack) and clear.max() < 0.2
            assert np.all((bounds.lower[0] <= y) & (y <= bounds.upper[0]))
            assert bounds.lower[0, 3] < 1e-20 and bounds.upper[0, 3] < 1e-20


# ------------------------------------------------------------------------------------------ products

FORMS = {
    "entries": (lambda x, y: x * y, (1, 2, 3), (1, 2, 3)),
    "broadcast": (lambda x, y: x * y, (1, 2, 3), (1, 2, 1)),
    "matrices": (lambda x, y: jnp.einsum("bik,bjk->bij", x, y), (1, 2, 3), (1, 4, 3)),
    "axes in any order": (
        lambda x, y: jnp.einsum("bkij,lkbj->bil", x, y),
        (1, 2, 3, 2),
        (2, 2, 1, 2),
    ),
    "outer": (lambda x, y: jnp.einsum("bi,bj->bij", x, y), (1, 3), (1, 2)),
}


def product_clearance(name, dtype="float64"):
    function, left, right = FORMS[name]
    a, b = (int(np.prod(shape)) for shape in (left, right))

    def both(x):
        return function(x[:, :a].reshape(left), x[:, a:].reshape(right)).reshape(1, -1)

    (eqn,) = (e for e in jmlv.trace(both, (a + b,)).eqns if len(set(e.invars)) == 2
              and e.primitive.name in ("mul", "dot_general"))  # fmt: skip
    rng = np.random.default_rng(0)
    ends = []
    for variable in eqn.invars:
        centre = rng.normal(size=(20, *variable.shape)) * rng.choice(
            [1, 1e3], (20, *[1] * len(variable.shape))
        )
        width = rng.random(centre.shape) * rng.choice([0, 1e-6, 1, 5], centre.shape)
        ends.append((centre - width / 2, centre + width / 2))
    ends = jax.tree.map(lambda v: v.astype(dtype), ends)
    with jax.enable_x64(dtype == "float64"):
        out = jax.eval_shape(lambda x, y: eqn.bind(x, y), ends[0][0][0], ends[1][0][0]).shape
        rows = rng.normal(size=(6, *out)).astype(dtype)

        @partial(jax.jit, compiler_options=FAST_BUILD)
        def planes(left, right):
            sides = Interval(*left), Interval(*right)
            lines = product_lines(*sides)
            middle = pull_product(eqn, rows, lines)
            t = jax.random.uniform(jax.random.key(0), middle[2].shape, middle[2].dtype)
            own = pull_product(eqn, rows, lines, jnp.round(2 * t) / 2)
            return product_interval(eqn, *sides), middle[:2], own[:2]

        bounds, *found = jax.tree.map(np.asarray, jax.vmap(planes)(*ends))
    clearance = []
    for case in range(20):
        x, y = (points(low[case], high[case], seed) for seed, (low, high) in enumerate(ends))
        z = np.stack([_extended(eqn, *pair) for pair in zip(x, y)])
        slack = 64 * np.finfo(dtype).eps * np.abs(z).max()
        clearance += [
            (z - bounds.lower[case]).min() + slack,
            (bounds.upper[case] - z).min() + slack,
        ]
        for pulled, offset in found:
            sides = zip(pulled, (x, y))
            line = sum(_flat(p[case]).astype(np.longdouble) @ _flat(v).T for p, v in sides)
            value = rows.reshape(6, -1).astype(np.longdouble) @ z.reshape(len(z), -1).T
            clearance.append((value - line - offset[case][:, None]).min() + 10 * slack)
    return min(clearance)


def _flat(array):
    return array.reshape(len(array), -1)


def _extended(eqn, x, y):
    """The equation in extended precision, by NumPy."""
    if eqn.primitive.name == "mul":
        return x * y
    (left, right), (left_batch, right_batch) = eqn.params["dimension_numbers"]
    first = list(range(x.ndim))
    second = [x.ndim + i for i in range(y.ndim)]
    for i, j in zip((*left, *left_batch), (*right, *right_batch)):
        second[j] = first[i]
    out = [first[i] for i in left_batch]
    out += [n for i, n in enumerate(first) if i not in (*left, *left_batch)]
    out += [n for i, n in enumerate(second) if i not in (*right, *right_batch)]
    return np.einsum(x, first, y, second, out)


def hidden(net):
    """Of a function that has no value on a part of the box, by what could lose sight of that."""
    return lambda x: net(jnp.log(x.reshape(x.shape[0], 4) - 0.2))


HIDING = {
    "relu": hidden(jax.nn.relu),
    "pool of a relu": hidden(
        lambda s: jax.lax.reduce_window(
            jax.nn.relu(s), -jnp.inf, jax.lax.max, (1, 2), (1, 1), "SAME"
        )
    ),
    "product": hidden(lambda s: s * s[:, ::-1]),
    "product with others": lambda x: hidden(jax.nn.sigmoid)(x) * x.reshape(-1, 4),
    "softmax": hidden(jax.nn.softmax),
}


def test_a_failed_bound_stays_one_as_compiled():
    """XLA's minima and maxima may make a number of NaN, where they are fused."""
    graphs = {name: jmlv.trace(net, (4, 1, 1)) for name, net in HIDING.items()}
    eye = jnp.concatenate([jnp.eye(4), -jnp.eye(4)])

    @partial(jax.jit, compiler_options=FAST_BUILD)
    def lows(graph, low, high):
        return [m.rows(graph, low, high, eye, eye[:, 0] * 0).lower for m in METHODS[:2]]

    for name, graph in graphs.items():
        for found in lows(graph, jnp.full((4, 1, 1), 0.1), jnp.full((4, 1, 1), 0.4)):
            assert not np.isfinite(found).any(), name


OPTIMISED = {"xla_backend_optimization_level": 3}


def test_a_range_and_planes_in_one_program_keep_a_nan():
    eqn = jmlv.trace(jax.nn.softmax, (3,)).eqns[0]
    pair = jmlv.trace(lambda x: x[:, :3] * x[:, 3:], (6,)).eqns[-1]
    box = Interval(jnp.array([[np.nan, 0.0, 0.0]]), jnp.ones((1, 3)))

    @partial(jax.jit, compiler_options=OPTIMISED)
    def both(box, rows):
        lines = softmax_lines(eqn, box)
        ranges = softmax_interval(eqn, box), product_interval(pair, box, Interval(box[1], box[1]))
        return *ranges, pull_softmax(eqn, rows, lines)[1], _intersection(box, Interval(*box[::-1]))

    softened, multiplied, offset, met = both(box, jnp.ones((6, 1, 3)))
    assert np.isnan(softened).all() and np.isnan(offset).all()
    assert np.isnan(np.stack([*multiplied, *met])[:, 0, 0]).all()
    assert np.isfinite(np.stack([*multiplied, *met])[:, 0, 1:]).all()


@pytest.mark.parametrize("name", FORMS)
def test_products_are_enclosed(name):
    assert product_clearance(name) >= 0


def test_broken_planes_are_caught(monkeypatch):
    monkeypatch.setattr(products, "_radius", lambda side: 0 * side.lower)
    assert product_clearance("matrices") < -1e-3


def test_too_many_summands_keep_the_middle(monkeypatch):
    monkeypatch.setattr(products, "LARGEST", 5)
    assert product_clearance("matrices") >= 0


# ------------------------------------------------------------------------------------------ networks

TOKENS, CHANNELS, LABELS = 3, 4, 3
SHAPE = (TOKENS, CHANNELS, 1)


def weights(*shape):
    return jnp.asarray(np.random.default_rng(sum(shape)).normal(size=shape), "float32")


def head(h):
    return h.reshape(h.shape[0], -1) @ weights(TOKENS * CHANNELS, LABELS)


def tokens(x):
    return x.reshape(x.shape[0], TOKENS, CHANNELS)


def attention(x):
    h = tokens(x)
    attend = nnx.MultiHeadAttention(2, CHANNELS, decode=False, deterministic=True, rngs=nnx.Rngs(1))
    h = h + 2 * attend(2 * h)
    return head(jax.nn.relu(h @ weights(CHANNELS, CHANNELS)))


def normalised(x):
    norm = nnx.LayerNorm(CHANNELS, epsilon=1e-2, rngs=nnx.Rngs(0))
    return head(norm(jax.nn.relu(tokens(x) @ weights(CHANNELS, CHANNELS))))


def mixed(x):
    """Quotient, gate, powers, roots, logarithm and a Gram matrix."""
    h = tokens(x) @ weights(CHANNELS, CHANNELS)
    gated = h * jax.nn.sigmoid(h.mean(1, keepdims=True))
    ratio = h / (1 + h[:, ::-1] ** 2) + (h / 3) ** 3
    gram = jnp.einsum("nic,njc->nij", h, h) @ weights(TOKENS, CHANNELS) / 5
    return head(gated + ratio + gram + jnp.log(3 + jnp.sqrt(jnp.exp(h / 2) + 0.1)))


NETWORKS = {"attention": attention, "normalised": normalised, "mixed": mixed}
METHODS = (
    jmlv.IBP(),
    jmlv.CROWNIBP(),
    jmlv.CROWN(chunk=12),
    jmlv.AlphaCROWN(steps=4, intermediate_steps=2, chunk=12),
)


@partial(jax.jit, static_argnums=0, compiler_options=FAST_BUILD)
def bounds_and_values(methods, graph, low, high, t):
    """Every bound on each box, and the scores at points: sampled, and on a way down and up each."""
    eye = jnp.eye(LABELS, dtype=graph.dtype)

    def one(low, high):
        def score(x, c):
            return c @ graph(x[None])[0]

        def down(x, _):
            slope = jax.vmap(jax.grad(score))(x, jnp.concatenate([eye, -eye]))
            return jnp.clip(x - 0.3 * (high - low) * jnp.sign(slope), low, high), x

        start = jnp.broadcast_to((low + high) / 2, (2 * LABELS, *low.shape))
        _, path = jax.lax.scan(down, start, None, 8)
        at = jnp.concatenate([low + t * (high - low), path.reshape(-1, *low.shape)])
        bounds = [m.rows(graph, low, high, eye, eye[0] * 0) for m in methods]
        return bounds, graph.scores(at)

    return jax.vmap(one)(low, high)


def found_for(name, methods=METHODS):
    rng = np.random.default_rng(0)
    centre = rng.normal(size=(6, *SHAPE))
    radius = np.array([0, 1e-6, 1e-3, 0.02, 0.1, 0.3]).reshape(-1, 1, 1, 1)
    t = rng.random((200, *SHAPE))
    t[:100] = np.round(t[:100])
    graph = jmlv.trace(NETWORKS[name], SHAPE)
    with certificate_precision():
        arguments = (jnp.asarray(v) for v in (centre - radius, centre + radius, t))
        return jax.tree.map(
            np.asarray, bounds_and_values(methods, graph.astype("float64"), *arguments)
        )


DEAR = {"mixed", "normalised"}
"""Networks of what others have one by one."""

CASES = [(name, False) for name in NETWORKS if name not in DEAR]
CASES += [pytest.param(name, False, marks=pytest.mark.slow) for name in sorted(DEAR)]
CASES += [pytest.param(name, True, marks=pytest.mark.slow) for name in NETWORKS]


@pytest.mark.parametrize("name, with_alpha", CASES)
def test_bounds_hold(name, with_alpha):
    """Every method holds, is at least as tight as the cheaper ones, and exact on points."""
    bounds, values = found_for(name, METHODS if with_alpha else METHODS[:3])
    slack = 1e-10 * (1 + np.abs(values).max())
    for bound in bounds:
        known = np.isfinite(bound.lower)
        assert np.all((bound.lower[:, None] <= values + slack)[:, :, :] | ~known[:, None])
        assert np.all((bound.upper[:, None] >= values - slack) | ~np.isfinite(bound.upper[:, None]))
        np.testing.assert_allclose(bound.lower[0], values[0].min(0), atol=1e-7)
        assert known[:4].all()
    ibp, _, crown = bounds[:3]
    assert np.all(crown.lower[:4] >= ibp.lower[:4] - slack)
    if with_alpha:
        assert np.all(bounds[3].lower[:4] >= crown.lower[:4] - slack)
        assert np.sum((bounds[3].lower - crown.lower)[3]) > 0


@pytest.mark.slow
def test_derivatives_of_bounds():
    graph = jmlv.trace(attention, SHAPE)
    rng = np.random.default_rng(4)
    x, direction = rng.normal(size=SHAPE), rng.random(SHAPE)
    with certificate_precision():
        wide = graph.astype("float64")

        def lower(epsilon):
            row = jnp.eye(1, LABELS)
            return (
                jmlv.CROWN(chunk=12)
                .rows(wide, x - epsilon, x + epsilon, row, jnp.zeros(1))
                .lower[0]
            )

        value = jax.jit(jax.value_and_grad(lower), compiler_options=FAST_BUILD)
        epsilon, h = jnp.full(SHAPE, 0.02), 1e-6
        slope = (value(epsilon + h * direction)[0] - value(epsilon - h * direction)[0]) / (2 * h)
        np.testing.assert_allclose(jnp.vdot(value(epsilon)[1], direction), slope, rtol=1e-4)


# ------------------------------------------------------------------------------------------- oracles


def box(radius):
    return jmlv.Box.between(jnp.full((2, 1, 1), 0.5 - radius), jnp.full((2, 1, 1), 0.5 + radius))


def ratio(x):
    """Its first score is 1 / (x_0 - 0.2) over the box, its second 1."""
    x = x.reshape(x.shape[0], 2)
    return jnp.stack([x[:, 1] / (x[:, 0] - 0.2), 1 + 0 * x[:, 0] * x[:, 1]], -1)


def test_a_denominator_that_may_be_zero_has_no_bound():
    property = jmlv.InTopK(0, 1)
    assert jmlv.verify(ratio, box(0.01), property, jmlv.Bounds()).robust
    for method in (jmlv.IBP(), jmlv.CROWN()):
        found = jmlv.verify(ratio, box(0.4), property, jmlv.Bounds(method))
        assert found.status.name == "UNKNOWN" and not np.isfinite(found.lower)
        assert "reciprocal of what may be anything from -0.1 to 0.7" in found.reason


def edge_of_a_domain(seed, size=48):
    """Weights and a box over which ``w x + b`` is above zero but for a corner, where it is just below."""
    rng = np.random.default_rng(seed)
    w = rng.normal(size=size) * 10.0 ** rng.uniform(-1, 1, size)
    low = rng.uniform(0.2, 0.4, size)
    high = low + rng.uniform(0.1, 0.3, size)
    corner = np.where(w > 0, low, high)
    exact = sum(Fraction(a) * Fraction(b) for a, b in zip(w.tolist(), corner.tolist()))
    b = float(-exact)
    while exact + Fraction(b) >= 0:
        b = float(np.nextafter(b, -np.inf))
    return w, b, low, high


EDGED = (jmlv.IBP(), jmlv.CROWNIBP(), jmlv.CROWN(chunk=4))


def lower_at_the_edge(function, moved):
    """Bounds in float64 of a function of a sum that may be below zero by what rounding hides."""

    @partial(jax.jit, compiler_options=FAST_BUILD)
    def lows(w, b, low, high):
        graph = jmlv.trace(
            lambda x: function(x.reshape(x.shape[0], -1) @ w + b)[:, None], (len(w), 1, 1)
        )
        row = jnp.ones((1, 1))
        box = low[:, None, None], high[:, None, None]
        return jnp.array([m.rows(graph, *box, row, row[0] * 0).lower[0] for m in EDGED])

    cases = (np.stack(v) for v in zip(*(edge_of_a_domain(seed) for seed in range(30))))
    with certificate_precision():
        w, b, low, high = map(jnp.asarray, cases)
        return np.asarray(jax.vmap(lows)(w, b + moved, low, high))


FALLING = {"log": jnp.log, "root": jnp.sqrt, "reciprocal": lambda s: -1 / s}


@pytest.mark.parametrize("name", FALLING)
def test_the_edge_of_a_domain_is_not_rounded_away(name, monkeypatch):
    assert not np.isfinite(lower_at_the_edge(FALLING[name], 0.0)).any()
    assert np.isfinite(lower_at_the_edge(FALLING[name], 1e-9)).all()
    if name == "log":
        monkeypatch.setattr(sizes, "EXTRA", 0)
        monkeypatch.setattr(sizes, "most_terms", lambda *_: 0)
        assert np.isfinite(lower_at_the_edge(FALLING[name], 0.0)).any()


def test_a_sum_of_squares_stays_above_its_floor():
    """However large the squares are: the root of a variance and a small number is defined in float32."""
    f = lambda x: 1 / jnp.sqrt((tokens(x) ** 2).mean(2) + 1e-5)  # noqa: E731
    graph, low, high = jmlv.trace(f, SHAPE), jnp.full(SHAPE, -30.0), jnp.full(SHAPE, 30.0)
    row = jnp.ones((1, TOKENS))
    for method in (jmlv.IBP(), jmlv.CROWNIBP()):
        found = method.rows(graph, low, high, row, row[:, 0] * 0)
        assert np.isfinite(found.upper).all() and np.all(found.upper >= TOKENS * 1e5**0.5)


def near_a_corner(sign):
    """A sum that falls from 4.8 to 0 over the box of radius 0.1, and to below 0 at one corner only."""
    return lambda x: (x.reshape(x.shape[0], 24) - 0.5) @ sign + 2.3


def shifted(x, c):
    """Softmax as it is written out, of three values that a term common to all was added to."""
    p = jnp.exp(x + c[:, None])
    return p / p.sum(-1, keepdims=True)


def guarded(x):
    return jnp.stack([jnp.where(jnp.isfinite(x), x, -1.0) + 0.5, 0 * x], -1)


LOGITS = jnp.array([1.0, 0.0, 0.0])
NO_VALUES = {
    "a shift that is no number": (lambda s: shifted(LOGITS, jnp.log(s)), "log of"),
    "a shift that overflows": (lambda s: shifted(LOGITS, 37.5 * (2.4 - s)), "softmax of"),
    "exponentials that all vanish": (lambda s: shifted(LOGITS, 46 * (s - 2.3)), "softmax of"),
    "an exponential that overflows": (lambda s: guarded(jnp.exp(37.5 * (2.4 - s))), "isfinite of"),
}


@pytest.mark.parametrize("name", NO_VALUES)
def test_what_rewriting_takes_away_must_have_a_value(name):
    """Points at random never meet the corner where there is none, or the guarded branch."""
    f, reason = NO_VALUES[name]
    sign = np.random.default_rng(0).choice([-1.0, 1.0], 24).astype("float32")
    net = lambda x: f(near_a_corner(sign)(x))  # noqa: E731
    x = jnp.full((24, 1, 1), 0.5)
    corner = net(x[None] - 0.1 * sign.reshape(1, 24, 1, 1))
    assert not corner[0, 0] > corner[0, 1]
    found = jmlv.verify(net, jmlv.Box.around(x, 0.1), jmlv.InTopK(0, 1), jmlv.Bounds())
    assert not found.robust and reason in found.reason
    near = jmlv.verify(net, jmlv.Box.around(x, 1e-4), jmlv.InTopK(0, 1), jmlv.Bounds())
    assert near.robust


def test_the_milp_refuses():
    with pytest.raises(UnsupportedOperation, match="mul of two computed values, reciprocal"):
        jmlv.verify(ratio, box(0.01), jmlv.InTopK(0, 1), jmlv.MILP())


def test_branch_and_bound_splits_the_relus_beside_products():
    """``relu(s) - relu(-s) - s`` is 0, by no single bound."""

    def f(x, weight=0.1):
        x = x.reshape(x.shape[0], 2)
        s = x[:, 0] + x[:, 1] - 1
        folded = jax.nn.relu(s) - jax.nn.relu(-s) - s
        return jnp.stack([0.2 + folded, weight * x[:, 0] * x[:, 1]], -1)

    property, oracle = jmlv.InTopK(0, 1), jmlv.BranchAndBound(relaxation=jmlv.CROWN())
    assert not jmlv.verify(f, box(0.4), property, jmlv.Bounds()).robust
    found = jmlv.verify(f, box(0.4), property, oracle)
    assert found.robust and found.stats["subdomains"] > 1
    broken = jmlv.verify(partial(f, weight=0.5), box(0.4), property, oracle)
    assert broken.status.name == "NOT_ROBUST"


def test_what_cannot_be_had_is_refused():
    found = jmlv.verify(ratio, box(0.01), jmlv.InTopK(0, 1), certify=True)
    assert found.robust and "reciprocal is neither affine" in found.stats["certificate"]
    with pytest.raises(UnsupportedOperation, match="no rule for its accuracy"):
        jmlv.verify(ratio, box(0.01), jmlv.InTopK(0, 1), deployed=jmlv.Float32())


def test_input_splitting_proves_what_one_bound_does_not():
    def f(x):  # x (1 - x), at most 1/4
        x = x.reshape(x.shape[0], 2)
        return jnp.stack(
            [0.26 + 0 * x[:, 0], x[:, 0] * (1 - x[:, 1]) - x[:, 0] * (x[:, 0] - x[:, 1])], -1
        )

    assert not jmlv.verify(f, box(0.4), jmlv.InTopK(0, 1), jmlv.Bounds()).robust
    assert jmlv.verify(f, box(0.4), jmlv.InTopK(0, 1), jmlv.InputSplitting()).robust


def test_which_inputs_are_read():
    graph = jmlv.trace(lambda x: jax.nn.softmax(x[:, :2, 0]) * x[:, 2:, 0], (4, 2))
    assert pixels_read(graph).tolist() == [[True, False]] * 4
    graph = jmlv.trace(lambda x: jnp.einsum("nc,nd->ncd", x[:, 0], x[:, 1]).reshape(-1, 4), (3, 2))
    assert pixels_read(graph).tolist() == [[True, True], [True, True], [False, False]]


def test_written_as_onnx(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    path = tmp_path / "net.onnx"
    x = np.random.default_rng(0).random((1, *SHAPE)).astype("float32")
    for net in (
        attention,
        normalised,
        mixed,
        lambda x: jax.nn.softmax(tokens(x), (1, 2)).reshape(-1, 12),
    ):
        jmlv.interop.write_onnx(net, SHAPE, path)
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        (scores,) = session.run(None, {session.get_inputs()[0].name: x})
        np.testing.assert_allclose(scores, net(jnp.asarray(x)), rtol=1e-4, atol=1e-5)


def test_one_operation_for_one_thing():
    """The same operation on the same operands is one; softplus is still known beside a max."""
    graph = jmlv.trace(lambda x: jax.nn.softplus(x) + jnp.exp(x) * jnp.exp(x) + jnp.exp(x), (2,))
    names = [eqn.primitive.name for eqn in graph.eqns]
    assert names.count("exp") == 1 and SOFTPLUS in {eqn.primitive for eqn in graph.eqns}
