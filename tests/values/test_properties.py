"""Properties against their definitions in words, on random scores and on ties."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from jmlv.properties import (
    AboveThreshold,
    And,
    AtLeast,
    BelowThreshold,
    InTopK,
    KeepsLabels,
    KthSmallest,
    Linear,
    Not,
    NotInTopK,
    Or,
    Row,
)

LABELS = 5


def in_top(scores, t, k):
    """Fewer than k other labels score at least as high."""
    return sum(scores[c] >= scores[t] for c in range(LABELS) if c != t) < k


def not_in_top(scores, t, k):
    """At least k other labels score strictly higher."""
    return sum(scores[c] > scores[t] for c in range(LABELS) if c != t) >= k


CASES = {
    "in top 1": (InTopK(0, 1), lambda s: in_top(s, 0, 1)),
    "in top 3": (InTopK(2, 3), lambda s: in_top(s, 2, 3)),
    "not in top 2": (NotInTopK(1, 2), lambda s: not_in_top(s, 1, 2)),
    "keeps both": (KeepsLabels((0, 3), 2), lambda s: in_top(s, 0, 2) and in_top(s, 3, 2)),
    "keeps two of three": (
        KeepsLabels((0, 1, 2), 3, at_least=2),
        lambda s: sum(in_top(s, t, 3) for t in (0, 1, 2)) >= 2,
    ),
    "above": (AboveThreshold(4, 0.5), lambda s: s[4] > 0.5),
    "below": (BelowThreshold(4, 0.5), lambda s: s[4] < 0.5),
    "linear": (
        Linear([[1, 0, -1, 0, 0], [0, 2, 0, -0.5, 0]], [0.0, 0.25]),
        lambda s: s[0] > s[2] and 2 * s[1] - 0.5 * s[3] + 0.25 > 0,
    ),
    "or": (
        InTopK(0, 1) | BelowThreshold(1, 0.2) | InTopK(3, 1),
        lambda s: in_top(s, 0, 1) or s[1] < np.float32(0.2) or in_top(s, 3, 1),
    ),
    "two of three": (
        AtLeast(2, [InTopK(0, 2), AboveThreshold(1, 0.5), Linear([0, 0, 1, 1, 0])]),
        lambda s: sum([in_top(s, 0, 2), s[1] > 0.5, s[2] + s[3] > 0]) >= 2,
    ),
    "not": (~InTopK(2, 3), lambda s: not_in_top(s, 2, 3)),
    "neither, by more than a tie": (
        ~(KeepsLabels((0, 1), 2) | Linear([1, -2, 0, 0, 0.5], 0.5)),
        lambda s: (
            (not_in_top(s, 0, 2) or not_in_top(s, 1, 2)) and s[0] - 2 * s[1] + s[4] / 2 + 0.5 < 0
        ),
    ),
    "if then": (
        ~AboveThreshold(0) | (InTopK(1, 2) & ~BelowThreshold(2, 0.5)),
        lambda s: s[0] < 0 or (in_top(s, 1, 2) and s[2] > 0.5),
    ),
    "and": (
        InTopK(0, 2) & BelowThreshold(1, 1.0) & NotInTopK(2, 1),
        lambda s: in_top(s, 0, 2) and s[1] < 1 and not_in_top(s, 2, 1),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_margin_is_positive_iff_the_property_holds(name):
    prop, holds = CASES[name]
    rng = np.random.default_rng(0)
    random = rng.normal(size=(300, LABELS)).round(1).astype("float32")
    ties = np.array(list(itertools.product([0.0, 0.5, 1.0], repeat=LABELS)), "float32")
    scores = np.concatenate([random, ties])
    margins = np.asarray(prop.margin(scores))
    assert [m > 0 for m in margins] == [holds(s) for s in scores]
    form = prop.form(LABELS).astype("float32")
    np.testing.assert_allclose(form.margin(scores), margins, atol=1e-6)


@pytest.mark.parametrize("name", CASES)
def test_combining_row_bounds_bounds_the_margin(name):
    """The tree is monotone: bounds on rows give bounds on the margin."""
    prop, _ = CASES[name]
    rng = np.random.default_rng(1)
    coefficients, offsets = prop.rows(LABELS)
    scores = rng.normal(size=(500, LABELS))
    rows = scores @ coefficients.T + offsets
    slack = rng.random(rows.shape)
    exact = np.asarray(prop.margin(scores))
    assert np.all(np.asarray(prop.combine(rows - slack, LABELS)) <= exact + 1e-5)
    assert np.all(np.asarray(prop.combine(rows + slack, LABELS)) >= exact - 1e-5)


def test_margin_of_in_top_k_is_the_formula():
    scores = np.array([0.3, 2.0, -1.0, 0.9, 0.1])
    differences = np.sort(np.delete(scores - scores[3], 3))[::-1]
    for k in (1, 2, 3):
        assert float(InTopK(3, k).margin(scores)) == pytest.approx(-differences[k - 1])
        assert float(NotInTopK(3, k).margin(scores)) == pytest.approx(differences[k - 1])


def test_nan_scores_never_hold():
    scores = jnp.array([1.0, jnp.nan, 0.0, 0.0, 0.0])
    for prop, _ in CASES.values():
        margin = prop.margin(scores)
        assert not margin > 0 or 1 not in {r.plus for r in _leaves(prop)} | {
            r.minus for r in _leaves(prop)
        }


def _leaves(prop):
    def walk(tree):
        return [tree] if isinstance(tree, Row) else sum(map(walk, tree.children), [])

    return walk(prop.tree(LABELS))


def test_and_is_flat_and_hashable():
    joined = InTopK(0, 2) & InTopK(1, 2) & InTopK(2, 3)
    assert len(joined.parts) == 3 and joined.labels == (0, 1, 2)
    assert isinstance(joined.tree(LABELS), KthSmallest) and hash(joined) == hash(joined)


def test_every_combination_is_flat_hashable_and_printed():
    a, b, c = InTopK(0, 2), AboveThreshold(1, 0.5), Linear([0, 0, -1, 0.1, 0], 0.3)
    assert len((a | b | c).parts) == 3 and len((a | (b & c)).parts) == 2
    assert hash(~(a | b)) == hash(~(a | b)) and ~~a == a and ~a != a
    assert Linear(np.eye(5)[:2], 1) == Linear(np.eye(5)[:2].tolist(), [1.0, 1.0])
    assert repr(c) == "Linear(-F2 + 0.1 F3 > -0.3)" and repr(~(a & c)) == f"~({a!r} & {c!r})"
    assert (a | b & c).labels == (0, 1, 2, 3)


BAD = {
    "k zero": (lambda: InTopK(0, 0).tree(LABELS), "k: must be in"),
    "k all": (lambda: InTopK(0, LABELS).tree(LABELS), "k: must be in"),
    "k beyond": (lambda: NotInTopK(0, 9).tree(LABELS), "k: must be in"),
    "label": (lambda: InTopK(5, 1).tree(LABELS), "label: must be in"),
    "negative label": (lambda: AboveThreshold(-1).tree(LABELS), "label: must be in"),
    "repeated": (lambda: KeepsLabels((1, 1), 2), "keep: expected distinct"),
    "none": (lambda: KeepsLabels((), 2), "keep: expected distinct"),
    "too many": (lambda: KeepsLabels((0, 1, 2), 2), "never fit"),
    "at least": (lambda: KeepsLabels((0, 1), 2, at_least=3), "at_least: must be"),
    "score count": (lambda: Linear([1, 0]).tree(LABELS), "coefficients: 2 a row"),
    "no scores": (lambda: Linear([]), "coefficients: expected"),
    "three axes": (lambda: Linear(np.ones((2, 2, 2))), "coefficients: expected"),
    "constant row": (lambda: Linear([[1, 0], [0, 0]]), "coefficients: every row"),
    "nan coefficient": (lambda: Linear([np.nan, 1]), "NaN"),
    "infinite offset": (lambda: Linear([0, 1], np.inf), "NaN"),
    "offsets": (lambda: Linear([[0, 1]] * 3, [1, 2]), "offsets: expected one"),
    "count zero": (lambda: AtLeast(0, [InTopK(0, 1)]), "count: must be in"),
    "count beyond": (lambda: AtLeast(2, [InTopK(0, 1)]), "count: must be in"),
    "inner label": (lambda: (InTopK(0, 1) | ~AboveThreshold(9)).tree(LABELS), "label: must be"),
    "threshold": (lambda: AboveThreshold(0, np.nan), "threshold: must be"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_named(name):
    call, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("kind", [And, Or, lambda parts: AtLeast(1, parts), lambda p: Not(p[0])])
@pytest.mark.parametrize("parts", [[3], [InTopK]])
def test_parts_are_properties(kind, parts):
    with pytest.raises(TypeError, match="expected (a property|properties)"):
        kind(parts)
    with pytest.raises((TypeError, IndexError)):
        kind([])
