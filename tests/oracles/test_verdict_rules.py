"""The verdict rules, each with a case that breaks it."""

import dataclasses
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jmlv
from jmlv.bounds import CROWN, Interval
from jmlv.bounds.rounding import FLOAT64
from jmlv.graph import Graph, Literal
from jmlv.numerics import PROOF_TOLERANCE
from jmlv.oracles import Deadline, Evidence, Oracle, Query, SoundnessError, judge
from jmlv.oracles.cascade import AT_THE_ROOT
from jmlv.oracles.rounding import margin_rounding, score_errors
from jmlv.verdict import Status, Verdict


def difference(x):
    """Two scores: the two pixels."""
    return x.reshape(x.shape[0], 2)


X = np.array([[[0.8]], [[0.3]]], np.float32)
PROPERTY = jmlv.InTopK(0, k=1)
BREAKING = np.array([[[0.2]], [[0.9]]], np.float32)


def query(epsilon, f=difference):
    return Query.of(f, jmlv.Box.around(X, epsilon), PROPERTY)


def test_proof_needs_a_finite_bound_above_the_tolerance():
    for lower in (0.0, PROOF_TOLERANCE, -np.inf, np.nan, np.inf, -1.0):
        assert judge(query(0.1), Evidence(lower=lower), "test").status is Status.UNKNOWN
    assert judge(query(0.1), Evidence(lower=2 * PROOF_TOLERANCE), "test").robust


def test_a_witness_is_clipped_into_the_region_before_it_counts():
    """The point breaks the property, but outside the box; clipped it does not."""
    verdict = judge(query(0.1), Evidence(point=BREAKING), "test")
    assert verdict.status is Status.UNKNOWN
    assert verdict.upper == pytest.approx(0.3, abs=1e-6)
    assert query(0.1).lower.min() <= verdict.witness.min()


def test_a_witness_inside_is_replayed():
    verdict = judge(query(0.7), Evidence(point=BREAKING), "test")
    assert verdict.status is Status.NOT_ROBUST and verdict.upper == pytest.approx(-0.7)
    assert verdict.stats["witness_margin_float32"] == pytest.approx(-0.7)


def test_a_witness_that_only_breaks_one_precision_is_no_witness():
    def deployed(x):
        scores = difference(x)
        return scores + jnp.array([1.0, 0.0])

    broken = dataclasses.replace(query(0.7), f=deployed)
    verdict = judge(broken, Evidence(point=BREAKING), "test")
    assert verdict.status is Status.UNKNOWN and "disagree" in verdict.reason


def _cancelling(x):
    """Two scores of order one, behind terms of 1e9 that cancel."""
    large = jnp.asarray([[1e9, 0.0], [0.0, 1e9]], x.dtype)
    values = difference(x)
    return jnp.maximum(values @ large + values, 0) - values @ large


def test_a_bound_within_the_rounding_of_float64_proves_nothing():
    asked = query(0.1, _cancelling)
    rounding = margin_rounding(asked, 0.0, 0.0)
    assert 10 * PROOF_TOLERANCE < rounding < 1
    verdict = judge(asked, Evidence(lower=rounding / 2), "test")
    assert verdict.status is Status.UNKNOWN and "what float64 rounds by" in verdict.reason
    assert verdict.lower < 0
    assert margin_rounding(query(0.1), 0.0, 0.0) < 1e-9


def _hidden(x):
    """``x + 1/2``, behind terms of 2^60 that are nothing in the middle of [-1, 1], and lose ``x``."""
    large, root = 2.0**60, 2.0**30
    return ((large * x + x) - root * (root * x)) + 0.5


@pytest.mark.parametrize("upper", [1.0, 0.75])
def test_rounding_is_that_of_the_whole_box(upper):
    """At x = -1 the true score is -1/2; at the centre of a box around 0 nothing is rounded."""
    box = jmlv.Box.between(-np.ones(1), np.full(1, upper), None)
    verdict = jmlv.verify(_hidden, box, jmlv.AboveThreshold(0, 0.0), jmlv.Bounds())
    assert verdict.status is not Status.ROBUST and verdict.lower <= -0.5
    lower = jmlv.verify(_hidden, box, jmlv.AboveThreshold(0, 0.6), jmlv.Bounds()).lower
    assert lower <= -1.1


def test_a_reason_names_no_more_than_is_proven():
    reason = "it proves a margin of at least 0.25"
    verdict = judge(query(0.1), Evidence(lower=0.25, reason=reason), "test")
    assert verdict.robust and 0.2499 < verdict.lower < 0.25
    assert verdict.reason == f"{reason}; 0.2499 without what float64 may have rounded"
    other = judge(query(0.1), Evidence(lower=0.25, reason="no input breaks it"), "test")
    assert other.reason == "no input breaks it"


def test_rounding_is_that_of_rows_pulled_back():
    """What the network cancels entry by entry, and a bound sums up apart: 4096 terms of 2^25."""
    n = 4096
    with jax.enable_x64(True):
        large, double = 2.0**25 * (1 + 2.0**-47), 2.0**26

        def f(x):
            return (x * double - large)[:, :n] @ jnp.ones((n, 1))

        low = np.full(n, 0.5)
        true = n * (2.0**25 - large)
        high = np.where(np.arange(n) == 0, 0.5 + 4 * abs(true) / double, low)
        box = jmlv.Box.between(jnp.asarray(low), jnp.asarray(high))
        asked = jmlv.AboveThreshold(0, 0.75 * true)  # broken at the lower corner
        oracle = jmlv.Cascade((jmlv.Bounds(), AT_THE_ROOT))
        verdict = jmlv.verify(f, box, asked, oracle, budget=30)
    assert verdict.status is not Status.ROBUST and verdict.lower < -0.1


FACTORS = 1.6017253398895264, 1.5667142868041992, 1.8980895280838013, 0.6723989248275757


def test_rounding_is_that_of_the_rows():
    """Two scores that are equal in exact arithmetic, of which a property takes 2^54 times the difference."""

    def f(x):
        first, second = x, x
        for factor, other in zip(FACTORS, FACTORS[::-1]):
            first, second = first @ jnp.full((1, 1), factor), second @ jnp.full((1, 1), other)
        return jnp.concatenate([first, second], -1)

    asked = jmlv.Linear((2.0**54, -(2.0**54)), -0.25)
    box = jmlv.Box.between(np.array([0.5]), np.array([1.0]))
    query = Query.of(f, box, asked)
    assert margin_rounding(query, 0.0, 0.0) > 1
    assert jmlv.verify(f, box, asked, jmlv.Bounds()).status is not Status.ROBUST


SMOOTH = {
    "attention": lambda x, w: jax.nn.softmax(x @ w @ x.mT, -1) @ x,
    "norm": lambda x, w: (
        (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + 1e-5)
    ),
    "gates": lambda x, w: jax.nn.gelu(x @ w) * jax.nn.sigmoid(x) / (1.0 + jnp.exp(-x)),
    "roots": lambda x, w: jnp.log(1.0 + x * x) + jnp.tanh(x @ w) ** 3,
}


@pytest.mark.parametrize("name", SMOOTH)
def test_float64_rounds_by_no_more_than_is_said(name):
    """Seen where it can be: the same rules with float32's unit, and the network in float32 beside float64."""
    rng = np.random.default_rng(0)
    w = rng.normal(size=(4, 4)).astype(np.float32)

    def f(x):
        return SMOOTH[name](x.reshape(-1, 3, 4), w.astype(x.dtype)).sum(1)

    points = (rng.random((12, 1, 1)) + 0.02 * rng.random((40, 12, 1, 1))).astype(np.float32)
    asked = Query.of(f, jmlv.Box(points.min(0), points.max(0)), jmlv.AboveThreshold(0))
    coarse = FLOAT64._replace(unit=2.0**-24, tiny=2.0**-126)
    errors, sizes, *_ = score_errors(asked, coarse)
    exact = np.stack([asked.scores_exact(x) for x in points])
    off = np.abs(np.asarray(f(jnp.asarray(points)), np.float64) - exact).max(0)
    assert (off <= errors).all() and (np.abs(exact) <= sizes + errors).all()
    assert off.max() > 1e-6 * errors.max(), "nor does it say nothing"


def test_a_tie_counts_against_the_property():
    tie = np.full((2, 1, 1), 0.5, np.float32)
    assert judge(query(0.7), Evidence(point=tie), "test").status is Status.NOT_ROBUST


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_point_that_is_not_finite_is_no_witness(value):
    point = np.full((2, 1, 1), value, np.float32)
    assert judge(query(0.7), Evidence(point=point), "test").status is Status.UNKNOWN


def test_a_deployed_nan_is_no_witness_and_no_proof():
    broken = dataclasses.replace(query(0.7), f=lambda x: difference(x) * jnp.nan)
    assert judge(broken, Evidence(point=BREAKING), "test").status is Status.UNKNOWN


def test_proof_and_witness_together_are_a_defect():
    with pytest.raises(SoundnessError, match="but a witness reaches"):
        judge(query(0.7), Evidence(lower=1.0, point=BREAKING), "test")


@dataclasses.dataclass(frozen=True)
class Failing(Oracle):
    name = "failing"

    def search(self, query, deadline):
        raise RuntimeError("solver crashed")


@dataclasses.dataclass(frozen=True)
class TooHigh(CROWN):
    """CROWN with a broken rule: every lower bound is 1 too high."""

    def rows(self, graph, lower, upper, coefficients, offsets):
        low, high = super().rows(graph, lower, upper, coefficients, offsets)
        return Interval(low + 2, high)  # upper bounds are lower ones of minus the rows

    def least(self, graph, box, relaxed, coefficients, offsets):
        return super().least(graph, box, relaxed, coefficients, offsets) + 1


@dataclasses.dataclass(frozen=True)
class HalfTheBox(CROWN):
    """CROWN with a broken rule: it looks at the middle of the box alone."""

    def rows(self, graph, lower, upper, coefficients, offsets):
        box = _middle(Interval(lower, upper))
        return super().rows(graph, *box, coefficients, offsets)

    def relax(self, graph, box):
        return super().relax(graph, _middle(box))

    def least(self, graph, box, relaxed, coefficients, offsets):
        return super().least(graph, _middle(box), relaxed, coefficients, offsets)


def _middle(box):
    centre, radius = (box.lower + box.upper) / 2, (box.upper - box.lower) / 4
    return Interval(centre - radius, centre + radius)


@pytest.mark.parametrize(
    "broken, message",
    [(TooHigh(), "but a witness reaches|cross by"), (HalfTheBox(), "proved what PGD broke")],
    ids=["by the centre", "by the confirmation"],
)
def test_a_deliberately_broken_bound_is_caught(broken, message):
    layers = jmlv.Layers.around(np.array([[True], [False]]))
    with pytest.raises(SoundnessError, match=message):
        jmlv.grow(difference, X, layers, PROPERTY, jmlv.Uniform(), bound=broken)


@pytest.mark.parametrize("oracle", [Failing(), jmlv.Cascade((Failing(),))], ids=["alone", "stage"])
def test_a_failing_oracle_proves_nothing_and_says_why(oracle):
    verdict = jmlv.verify(difference, jmlv.Box.around(X, 0.1), PROPERTY, oracle)
    assert verdict.status is Status.UNKNOWN and verdict.lower == -np.inf
    assert verdict.reason == "failing failed (RuntimeError: solver crashed)"


def test_the_stages_after_one_that_fails_are_asked():
    box = jmlv.Box.around(X, 0.1)
    verdict = jmlv.verify(difference, box, PROPERTY, jmlv.Cascade((Failing(), jmlv.Bounds())))
    assert verdict.robust and verdict.stats["asked"] == ("failing", "CROWN")


@dataclasses.dataclass(frozen=True)
class Contradicting(Oracle):
    """Proves a margin that its own point does not have."""

    name = "contradicting"

    def search(self, query, deadline):
        return Evidence(lower=0.4, point=np.array([[[0.7]], [[0.4]]], np.float32))


def test_a_contradiction_raises_out_of_any_thread():
    box = jmlv.Box.around(X, 0.1)
    for oracle in (Contradicting(), jmlv.Cascade((Contradicting(),))):
        with pytest.raises(
            SoundnessError, match="proved margin >= 0.4, but a witness reaches 0.29"
        ):
            jmlv.verify(difference, box, PROPERTY, oracle)


def test_a_proof_encloses_the_worst_margin():
    """Without a point the centre's margin is its upper end; never below the lower one."""
    proven = jmlv.verify(difference, jmlv.Box.around(X, 0.1), PROPERTY, jmlv.Bounds())
    assert proven.robust and proven.witness is None
    assert proven.lower == pytest.approx(0.3, abs=1e-6) and proven.upper == pytest.approx(0.5)
    point = jmlv.verify(difference, jmlv.Box.around(X, 0.0), PROPERTY, jmlv.Bounds())
    assert point.robust and point.lower <= point.upper


def test_a_proof_about_a_network_that_gives_no_number_is_none():
    with pytest.raises(ValueError, match="the constant nan"):
        query(0.1, lambda x: difference(x) * jnp.nan)
    twice, nothing = query(0.1, lambda x: 2 * difference(x)), Literal(np.nan)
    structure = twice.graph.structure
    eqns = tuple(
        dataclasses.replace(
            e, invars=tuple(nothing if isinstance(v, Literal) else v for v in e.invars)
        )
        for e in structure.eqns
    )
    graph = Graph(dataclasses.replace(structure, eqns=eqns), twice.graph.consts)
    broken = dataclasses.replace(query(0.1), graph=graph)
    assert judge(broken, Evidence(lower=1.0), "test").status is Status.UNKNOWN


def test_statuses_need_their_evidence():
    with pytest.raises(ValueError, match="needs a witness"):
        Verdict(Status.NOT_ROBUST)
    with pytest.raises(ValueError, match="finite lower bound"):
        Verdict(Status.ROBUST)


def test_cascade_asks_cheap_first_and_stops():
    box = jmlv.Box.around(X, 0.1)
    proven = jmlv.verify(difference, box, PROPERTY, jmlv.Cascade((jmlv.Bounds(), Failing())))
    assert proven.robust and proven.method == "CROWN" and proven.stats["asked"] == ("CROWN",)
    broken = jmlv.verify(
        difference, jmlv.Box.around(X, 0.7), PROPERTY, jmlv.Cascade((jmlv.PGD(), Failing()))
    )
    assert broken.status is Status.NOT_ROBUST and broken.method == "PGD"


def test_verify_checks_before_any_work():
    box = jmlv.Box.around(X, 0.1)
    with pytest.raises(ValueError, match="budget: must be"):
        jmlv.verify(difference, box, PROPERTY, budget=0)
    with pytest.raises(ValueError, match="label: must be"):
        jmlv.verify(difference, box, jmlv.InTopK(7, 1))
    with pytest.raises(jmlv.UnsupportedOperation, match="floor.*round"):
        jmlv.verify(lambda x: jnp.round(jnp.floor(difference(x))), box, PROPERTY)
    with pytest.raises(ValueError, match="one array of scores"):
        jmlv.verify(lambda x: x, box, PROPERTY)


def test_deadlines_pass_and_nest():
    deadline = Deadline(0.05)
    inner = deadline.within(10)
    assert not deadline.passed and inner.remaining <= 0.05
    time.sleep(0.06)
    assert deadline.passed and inner.passed and Deadline(None).remaining == np.inf


def test_witness_and_verdict_are_values():
    first = judge(query(0.7), Evidence(point=BREAKING), "test")
    assert first == judge(query(0.7), Evidence(point=BREAKING), "test")
    assert "NOT_ROBUST" in repr(first)


LOW, HIGH = np.full((2, 1, 1), 0.1), np.full((2, 1, 1), 0.7)


def test_ends_that_float32_cannot_hold_are_rounded_outward_for_proofs_inward_for_witnesses():
    asked = Query.of(difference, jmlv.Box(LOW, HIGH), PROPERTY)
    assert asked.lower.dtype == np.float32
    assert (asked.lower < LOW).all() and (asked.upper >= HIGH).all()
    settled = asked.settle(np.stack([asked.lower, asked.upper]))
    assert settled.dtype == np.float32 and (settled >= LOW).all() and (settled <= HIGH).all()


def test_a_witness_lies_in_the_region_and_not_only_in_the_box_that_is_proven():
    verdict = jmlv.verify(difference, jmlv.Box(LOW, HIGH), PROPERTY, jmlv.PGD())
    assert verdict.status is Status.NOT_ROBUST
    assert jmlv.Box(LOW, HIGH).contains(verdict.witness)


def test_a_fixed_input_that_float32_cannot_hold_is_replayed_as_it_is():
    """The witness is float64 there; the deployed network is fed the nearest number to it."""
    fixed = np.array([[[0.1]], [[0.3]]])
    verdict = jmlv.verify(difference, jmlv.Box(fixed, fixed), PROPERTY, jmlv.PGD())
    assert verdict.status is Status.NOT_ROBUST and np.array_equal(verdict.witness, fixed)
    assert verdict.upper == pytest.approx(-0.2, abs=1e-15)


def test_a_point_outside_of_the_region_by_rounding_alone_is_no_witness():
    """The score breaks only between the file's end and the float32 number beyond it."""
    low, high = np.zeros((1, 1, 1)), np.full((1, 1, 1), 0.1)
    beyond = float(np.float32(0.1)) - 0.1

    def f(x):
        return (0.1 + beyond / 2 - x.reshape(-1, 1)) * 1e6

    asked = Query.of(f, jmlv.Box(low, high), jmlv.AboveThreshold(0))
    verdict = judge(asked, Evidence(point=asked.upper), "test")
    assert verdict.status is not Status.NOT_ROBUST


@pytest.mark.parametrize("shape", [(3,), (2, 2), (3, 4, 5), (2, 3, 2, 2)])
def test_inputs_of_any_shape_and_range(shape):
    x = np.linspace(-3, 3, int(np.prod(shape)), dtype=np.float32).reshape(shape)

    def f(x):
        flat = x.reshape(x.shape[0], -1)
        return jnp.stack([flat[:, -1], flat[:, 0]], -1)

    box = jmlv.Box.around(x, 1.0, domain=None)
    assert jmlv.verify(f, box, PROPERTY, jmlv.Bounds()).robust
    assert jmlv.verify(f, box, jmlv.InTopK(1, 1), jmlv.PGD()).status is Status.NOT_ROBUST
    graph = jmlv.trace(f, shape)
    assert jmlv.bound(graph, box, PROPERTY, jmlv.IBP()).lower == pytest.approx(4.0)


def test_what_is_not_a_region_or_not_finite_is_named():
    with pytest.raises(TypeError, match="region: expected a Box"):
        jmlv.verify(difference, X, PROPERTY)
    with pytest.raises(TypeError, match="region: expected a Box"):
        jmlv.bound(difference, X, PROPERTY, jmlv.IBP())
    with pytest.raises(ValueError, match="must not exceed"):
        jmlv.verify(difference, jmlv.Box(HIGH, LOW), PROPERTY)
    with pytest.raises(ValueError, match="both must be finite"):
        jmlv.verify(difference, jmlv.Box(LOW, LOW + np.inf), PROPERTY)
    with pytest.raises(ValueError, match="beyond the range of float32"):
        jmlv.verify(difference, jmlv.Box(LOW, LOW + 1e300), PROPERTY)


def test_a_graph_that_is_not_the_function_is_a_defect(monkeypatch):
    """Were a normalisation rule wrong, no verdict would come of it."""
    from jmlv.graph import normalise

    monkeypatch.setitem(normalise.RULES, "neg", lambda b, x, **_: x)
    with pytest.raises(SoundnessError, match="graph read from it"):
        jmlv.verify(lambda x: -difference(x), jmlv.Box.around(X, 0.1), PROPERTY)
