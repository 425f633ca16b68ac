"""How many labels change: brute force, sampled points, weights, subsets, and broken twins."""

import dataclasses
import functools
import itertools

import jax.numpy as jnp
import numpy as np
import pytest
from tiny_networks import LABELS, Tiny, predicted
from zoo import mostly_slow

import jmlv
from jmlv.bounds import CROWN
from jmlv.errors import SoundnessError
from jmlv.guarantees.counting import Counting
from jmlv.guarantees.totals import (
    ChangedInTopK,
    InsideTopK,
    OutOfTopK,
    Stay,
    Weighed,
    WeighedInTopK,
)
from jmlv.oracles import PGD, Bounds, Cascade, Deadline, InputSplitting, Query

ORACLE = Cascade((Bounds(), PGD(restarts=4, steps=12), InputSplitting(batch=16)))
RULES = jmlv.TopK(2), jmlv.Threshold(0.5)
SLACK = 1e-5
"""Margins closer to zero than this count neither way: float32 and float64 may disagree on them."""


def exact(tiny, points, rule, present, labels=range(LABELS), weights=np.ones(LABELS, int)):
    """The largest number of changed, removed and added labels over points: surely, and at most."""
    k = rule.k if isinstance(rule, jmlv.TopK) else None
    scores, counted = tiny.scores(points), np.isin(np.arange(LABELS), labels) * weights
    here = np.isin(np.arange(LABELS), present)
    for slack in (SLACK, -SLACK):
        removed = here & ~predicted(scores, k, -slack)
        added = ~here & predicted(scores, k, slack)
        counts = ((kind * counted).sum(1).max() for kind in (removed | added, removed, added))
        yield tuple(map(int, counts))


def check(tiny, points, rule, found, **options):
    surely, perhaps = exact(tiny, points, rule, found.present, **options)
    for count, least, most in zip((found.changed, found.removed, found.added), surely, perhaps):
        assert least <= count.upper and count.lower <= count.upper
        if points is not None and len(points) < 1000:  # all that there is
            assert count.lower <= most
    return surely, perhaps


def check_line(seed, rule):
    tiny = Tiny(seed)
    found = jmlv.flips(tiny.graph, tiny.line, rule, oracle=ORACLE, attacks=(), budget=20)
    surely, perhaps = check(tiny, tiny.pieces(), rule, found)
    for count, least, most in zip((found.changed, found.removed, found.added), surely, perhaps):
        if least == most:
            assert (count.lower, count.upper) == (least, most), (seed, rule, count)
    return found


@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize("seed", mostly_slow(range(10), 0, 3))
def test_brute_force_agrees(seed, rule):
    check_line(seed, rule)


@pytest.mark.slow
@pytest.mark.parametrize("rule", RULES, ids=str)
def test_brute_force_agrees_on_many_networks(rule):
    closed = 0
    for seed in range(10, 110):
        found = check_line(seed, rule)
        closed += found.changed.exact
    assert closed >= 95


@functools.cache
def on_the_square(rule=RULES[0]):
    tiny = Tiny(3)
    return tiny, jmlv.flips(tiny.graph, tiny.square, rule, oracle=ORACLE, attacks=(), budget=20)


def test_brute_force_agrees_on_a_square():
    """Two moving pixels: all points of a grid, its corners among them, are within what is proven."""
    tiny, found = on_the_square()
    check(tiny, tiny.grid(), RULES[0], found)
    assert found.changed.exact and found.removed.lower == 1


def test_a_witness_is_in_the_region_and_changes_what_it_says():
    tiny, found = on_the_square()
    count = found.changed
    assert tiny.square.contains(count.witness)
    now = predicted(tiny.scores(count.witness.reshape(1, 2)), 2)[0]
    was = np.isin(np.arange(LABELS), found.present)
    assert tuple(np.flatnonzero(now != was)) == count.labels and len(count.labels) == count.lower


@pytest.mark.parametrize(
    "rule, options",
    [(RULES[0], {"labels": (0, 2, 3)}), (RULES[1], {"labels": (0, 2), "weights": (3, 1, 2, 1)})],
    ids=["subset of the top k", "weights"],
)
def test_weights_and_subsets(rule, options):
    tiny = Tiny(1)
    found = jmlv.flips(tiny.graph, tiny.line, rule, oracle=ORACLE, attacks=(), budget=20, **options)
    arrays = {name: np.array(value) for name, value in options.items()}
    surely, perhaps = exact(tiny, tiny.pieces(), rule, found.present, **arrays)
    for count, least, most in zip((found.changed, found.removed, found.added), surely, perhaps):
        assert least <= count.upper and count.lower <= most and count.lower <= count.upper
        assert set(count.labels) <= set(options["labels"])


@pytest.mark.parametrize("seed", mostly_slow(range(4), 0, 3))
def test_kept_is_what_brute_force_keeps(seed):
    """True labels that the network misses are lost from the first."""
    tiny, labels = Tiny(seed), (0, 3)
    found = jmlv.kept(tiny.graph, tiny.line, labels, 2, oracle=ORACLE, attacks=(), budget=20)
    scores = tiny.scores(tiny.pieces())
    surely, perhaps = (predicted(scores, 2, s)[:, labels].sum(1).min() for s in (SLACK, -SLACK))
    assert found.lower <= perhaps and surely <= found.upper
    if surely == perhaps:
        assert found.lower == found.upper == surely


def test_attacks_find_witnesses_without_an_oracle():
    """CROWN alone proves; attacks add two labels of which each pixel decides one."""
    f = jmlv.trace(lambda x: x.reshape(1, 2) - 0.5, (1, 2, 1))
    box = jmlv.Box.between(np.full((1, 2, 1), 0.1), np.full((1, 2, 1), 0.7))
    rule, methods = jmlv.Threshold(0.5), (jmlv.MIFGSM(), jmlv.MLDeepFool())
    found = jmlv.flips(f, box, rule, oracle=Bounds(), attacks=methods, budget=20)
    assert found.present == () and found.added.exact and found.added.lower == 2
    assert found.removed.exact and found.removed.upper == 0 and found.changed.exact


@dataclasses.dataclass(frozen=True)
class Half(CROWN):
    """CROWN with a broken rule: it looks at a hundredth of the box alone."""

    def relax(self, graph, box):
        return super().relax(graph, middle(box))

    def least(self, graph, box, relaxed, coefficients, offsets):
        return super().least(graph, middle(box), relaxed, coefficients, offsets)


def middle(box):
    centre, radius = (box.lower + box.upper) / 2, (box.upper - box.lower) / 200
    return box._replace(lower=centre - radius, upper=centre + radius)


def counting():
    tiny, found = on_the_square()
    query = Query.of(tiny.graph, tiny.square, jmlv.InTopK(0, 2))
    return Counting(query, OutOfTopK(found.present, 2, LABELS)), found.removed


def test_a_broken_bound_is_caught_by_a_witness():
    broken, removed = counting()
    broken.close(Bounds(Half()), Deadline(60))
    assert broken.upper < removed.lower
    with pytest.raises(SoundnessError, match="a witness has 1"):
        broken.offer(removed.witness)


def test_what_is_proven_elsewhere_may_not_be_less_than_a_witness_has():
    count, removed = counting()
    count.offer(removed.witness)
    with pytest.raises(SoundnessError, match="but 1 at a witness"):
        count.cap(0, "a broken proof")


def test_the_property_counts_as_it_says():
    """One too few positive margins, and it fails; a label of weight 2 counts twice."""
    total = Weighed(tuple(Stay(j, jmlv.AboveThreshold(j), 1 + (j == 2)) for j in range(3)))
    scores = np.array([[1.0, 1, -1], [-1, 1, 1], [-1, -1, 1], [-1, -1, -1]])
    for m, holds in ((1, [0, 1, 0, 0]), (2, [1, 1, 1, 0]), (3, [1, 1, 1, 0])):
        assert (np.asarray(total.at_most(m).margin(jnp.asarray(scores))) > 0).tolist() == holds
    assert [total.value(row) for row in scores] == [2, 1, 2, 4]


@pytest.mark.parametrize("labels", [(0,), (0, 1), (1, 2, 3), (0, 2, 3, 4)])
@pytest.mark.parametrize("k", [1, 2, 4])
def test_sets_of_the_top_k_are_counted_as_by_listing_them_all(labels, k):
    """Ties too: of all sets of the k highest scores the one in which most labels count."""
    scores = np.random.default_rng(k).integers(0, 3, size=(40, 5)).astype(float)
    others = tuple(j for j in range(5) if j not in labels)
    totals = OutOfTopK(labels, k, 5), InsideTopK(labels, k, 5), ChangedInTopK(labels, others, k, 5)
    for row in scores:
        tops = [set(s) for s in itertools.combinations(range(5), k) if is_top(row, s)]
        out, inside, both = (
            [len(set(labels) - top) for top in tops],
            [len(set(labels) & top) for top in tops],
            [len(set(labels) - top) + len(set(others) & top) for top in tops],
        )
        for total, counts in zip(totals, (out, inside, both)):
            assert total.value(row) == len(total.counted(row)) == max(counts)
            assert total.least <= max(counts) <= total.most
        for total, counts in zip(totals[:2], (out, inside)):
            for m in range(total.least, total.most):
                assert (float(total.at_most(m).margin(row)) > 0) == (max(counts) <= m)


@pytest.mark.parametrize("seed", range(3))
def test_weighed_labels_of_the_top_k_are_counted_as_by_listing_them_all(seed):
    rng = np.random.default_rng(seed)
    losing, weights = (0, 2), rng.integers(0, 4, 5)
    stays = tuple(Stay(j, jmlv.InTopK(j, 2), int(weights[j])) for j in range(5))
    total = WeighedInTopK(stays, losing, 2)
    for row in rng.integers(0, 3, size=(40, 5)).astype(float):
        tops = [set(s) for s in itertools.combinations(range(5), 2) if is_top(row, s)]
        worth = [weights[list(set(losing) ^ top)].sum() for top in tops]
        assert total.value(row) == max(worth)


@pytest.mark.parametrize("weights, found", [((2, 2, 2, 2), (2, 2, 4)), ((3, 2, 2, 2), (3, 2, 5))])
def test_two_labels_that_tie_do_not_both_leave(weights, found):
    """They are first together, and where the third one has caught up two of the three are among the first
    two: of two labels that tie for one place only one is out."""

    def f(x):
        one = jnp.ones_like(x[:, 0])
        return jnp.stack([one, one, 1 - jnp.maximum(0.5 - x[:, 0], 0), 0 * one], -1)

    box = jmlv.Box.between(np.array([0.3]), np.array([0.7]))
    options = {"x": np.array([0.4]), "weights": weights, "attacks": ()}
    flips = jmlv.flips(f, box, jmlv.TopK(2), budget=20, **options)
    counts = flips.removed, flips.added, flips.changed
    for count, exact in zip(counts, found):
        assert count.lower <= exact <= count.upper
    if len(set(weights)) == 1:
        assert all(count.lower == count.upper for count in counts)


def test_a_score_at_its_threshold_is_absent_and_stays_so():
    def f(x):
        return jnp.stack([jnp.maximum(x[:, 0] - 2, 0), 1 + x[:, 0]], -1)

    point = jmlv.Box.around(np.array([0.5], np.float32), 0.0)
    found = jmlv.flips(f, point, jmlv.Threshold(0.5), attacks=(), budget=20)
    assert found.present == (1,) and found.changed.lower == found.added.lower == 0


def is_top(row, chosen):
    rest = [score for j, score in enumerate(row) if j not in chosen]
    return not rest or min(row[list(chosen)]) >= max(rest)


def test_a_budget_that_ends_at_once_leaves_both_bounds():
    found = jmlv.flips(Tiny(3).graph, Tiny(3).square, RULES[0], budget=1e-3)
    assert 0 <= found.changed.lower <= found.changed.upper <= LABELS and found.seconds < 5


@pytest.mark.parametrize(
    "options, message",
    [
        ({"labels": (0, 0)}, "labels: expected distinct"),
        ({"labels": (4,)}, r"labels: .* 0..3"),
        ({"weights": (1, 1)}, "weights: expected 4 whole"),
        ({"weights": (0.5, 1, 1, 1)}, "weights: expected 4 whole"),
        ({"weights": (1, -1, 1, 1)}, "weights: expected 4 whole"),
        ({"x": np.zeros((1, 2, 1), np.float32)}, "x: expected one input of the region"),
        ({"attacks": (jmlv.TopK(2),)}, "attacks: expected"),
        ({"oracle": jmlv.CROWN()}, "oracle: expected"),
    ],
)
def test_bad_arguments_are_refused(options, message):
    tiny = Tiny(0)
    with pytest.raises((TypeError, ValueError), match=message):
        jmlv.flips(tiny.graph, tiny.line, jmlv.TopK(2), **options)


def test_a_decision_that_does_not_fit_is_refused():
    with pytest.raises(TypeError, match="decision: expected"):
        jmlv.flips(Tiny(0).graph, Tiny(0).line, 2)
    with pytest.raises(ValueError, match="k: must be in 1..3"):
        jmlv.flips(Tiny(0).graph, Tiny(0).line, jmlv.TopK(4))
    with pytest.raises(ValueError, match="thresholds for 4 labels"):
        jmlv.flips(Tiny(0).graph, Tiny(0).line, jmlv.Threshold((0.5, 0.5)))
