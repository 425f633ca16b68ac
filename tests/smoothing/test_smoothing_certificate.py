"""MultiGuard's certificate against Theorem 1 spelled out, its reductions, and its probability bounds."""

import math
import time
from statistics import NormalDist

import numpy as np
import pytest
from scipy import stats
from scipy.special import ndtr, ndtri

from jmlv.smoothing import (
    certified_intersection_size,
    certified_metrics,
    certified_radius,
    jia_certified_intersection_size,
    probability_bounds,
)
from jmlv.smoothing.multiguard import Ranked
from jmlv.smoothing.probability import ProbabilityBounds

NORMAL = NormalDist()
OPTIONS = {"k": 2, "k_prime": 2, "sigma": 0.5, "alpha": 0.001}


def lower_after(p, r):
    """Phi(Phi^-1(p) - r), by the standard library."""
    return p if p in (0.0, 1.0) else NORMAL.cdf(NORMAL.inv_cdf(p) - r)


def upper_after(p, r):
    return p if p in (0.0, 1.0) else NORMAL.cdf(NORMAL.inv_cdf(p) + r)


def theorem_holds(lower, upper, e, k, k_prime, r, joint=True, cap=True):
    """Eq. 8 as it is printed, with the index sets written out, and the corner of Section 3.3."""
    a, b = sorted(lower, reverse=True), sorted(upper, reverse=True)
    d, s = len(a), k - e + 1
    if s > len(b):
        return True
    left, right = [lower_after(a[e - 1], r)], [upper_after(b[s - 1], r)]
    if joint:
        rest = max(k_prime - sum(a), 0.0) if cap else math.inf
        for u in range(1, d - e + 2):
            total = min(sum(a[e - 1 : e + u - 1]), k_prime)
            left.append(k_prime / u * lower_after(total / k_prime, r))
        for v in range(1, s + 1):
            total = min(sum(b[s - v : s]), rest, k_prime)
            right.append(k_prime / v * upper_after(total / k_prime, r))
    return max(left) > min(right)


def literal_size(lower, upper, k, *rest, **options):
    """Every e' tried, from the largest down."""
    tried = range(min(k, len(lower)), 0, -1)
    return next((e for e in tried if theorem_holds(lower, upper, e, k, *rest, **options)), 0)


def random_probabilities(rng, count, labels, k_prime, spread):
    """Probabilities in [0, 1] of each label that sum to k'."""
    p = k_prime * rng.dirichlet(np.full(labels, spread), size=count)
    for _ in range(80):
        over = np.maximum(p - 1, 0).sum(axis=1, keepdims=True)
        room = np.maximum(1 - p, 0)
        p = np.minimum(p, 1) + over * room / np.maximum(room.sum(axis=1, keepdims=True), 1e-12)
    return np.clip(p, 0, 1)


def random_problems(rng, batches, batch=40, slacks=(0.0, 0.001, 0.02, 0.1)):
    """Bounds around random probabilities: (lower, upper, true labels, k, k', shifts)."""
    for _ in range(batches):
        labels = int(rng.integers(2, 9))
        top = int(rng.integers(1, min(labels, 4) + 1))
        p = random_probabilities(rng, batch, labels, top, rng.choice([0.2, 1.0, 4.0]))
        slack = rng.choice(slacks)
        lower = np.maximum(p - slack * rng.random(p.shape), 0)
        upper = np.minimum(p + slack * rng.random(p.shape), 1)
        hot = rng.random(p.shape) < rng.choice([0.2, 0.5, 0.9])
        hot[np.arange(batch), rng.integers(labels, size=batch)] = True
        shifts = np.concatenate([[0.0], np.sort(rng.random(4) * rng.choice([0.3, 1.0, 3.0]))])
        yield lower, upper, hot, int(rng.integers(1, labels + 1)), top, shifts


def ranked(lower, upper, hot, k, k_prime, **options):
    bounds = ProbabilityBounds(np.where(hot, lower, 0), np.where(hot, 1, upper), hot)
    return Ranked.of(bounds, k, k_prime, **options)


@pytest.mark.parametrize("joint", [True, False])
def test_fast_path_is_theorem_1(joint):
    rng, cases, corners = np.random.default_rng(0), 0, 0
    for lower, upper, hot, k, k_prime, shifts in random_problems(rng, 55):
        sizes = ranked(lower, upper, hot, k, k_prime, joint_terms=joint).sizes(shifts)
        for i, row in enumerate(hot):
            for j, r in enumerate(shifts):
                problem = lower[i][row], upper[i][~row], k, k_prime, r
                assert sizes[i, j] == literal_size(*problem, joint=joint), (problem, row)
                corners += (~row).sum() < k
                cases += 1
    assert cases >= 10_000 and corners > 1_000


def test_sizes_that_hold_are_an_interval_and_never_grow_with_the_radius():
    rng = np.random.default_rng(1)
    for lower, upper, hot, k, k_prime, shifts in random_problems(rng, 20):
        sizes = ranked(lower, upper, hot, k, k_prime).sizes(shifts)
        assert np.all(np.diff(sizes, axis=1) <= 0)
        for i, row in enumerate(hot):
            problem = lower[i][row], upper[i][~row]
            held = [
                theorem_holds(*problem, e, k, k_prime, shifts[2])
                for e in range(1, min(k, row.sum()) + 1)
            ]
            assert held == sorted(held, reverse=True) and sum(held) == sizes[i, 2]


def test_joint_terms_never_lower_the_size():
    rng, helped = np.random.default_rng(2), 0
    for lower, upper, hot, k, k_prime, shifts in random_problems(rng, 100):
        sizes = ranked(lower, upper, hot, k, k_prime).sizes(shifts)
        single = ranked(lower, upper, hot, k, k_prime, joint_terms=False).sizes(shifts)
        assert np.all(sizes >= single)
        helped += (sizes > single).sum()
    assert helped > 10


def test_the_cap_never_lowers_the_size():
    rng, helped = np.random.default_rng(4), 0
    for lower, upper, hot, k, k_prime, shifts in random_problems(rng, 200, slacks=(0.2, 0.5)):
        sizes = ranked(lower, upper, hot, k, k_prime).sizes(shifts)
        for i, row in enumerate(hot):
            problem = lower[i][row], upper[i][~row], k, k_prime, shifts[2]
            uncapped = literal_size(*problem, cap=False)
            assert sizes[i, 2] >= uncapped
            helped += sizes[i, 2] > uncapped
    assert helped > 3


def interval_classifier(rng, labels, hot, k_prime):
    """A real classifier on a line: in each of 12 intervals it outputs some set of k' labels.

    Intervals are in the order of the worst case: the more true labels, the further to one end.

    Returns:
        The probabilities (label,) after a move, as a function of the move in units of sigma.
    """
    sets = np.array([rng.permutation(labels)[:k_prime] for _ in range(12)])
    sets = sets[np.argsort(hot[sets].sum(axis=1), kind="stable")]
    edges = ndtri(np.concatenate([[0.0], np.cumsum(rng.dirichlet(np.full(12, 0.4)))[:-1], [1.0]]))
    member = (sets[:, :, None] == np.arange(labels)).any(axis=1)
    return lambda move: np.diff(ndtr(edges - move)) @ member


def size_of_intersection(p, hot, k):
    """True labels in the top k; a tie counts against them."""
    order = np.lexsort((hot, -p.round(12)))
    return hot[order[:k]].sum()


def test_no_classifier_with_known_shifted_probabilities_breaks_the_certificate():
    rng, certified, reached = np.random.default_rng(3), 0, 0
    for _ in range(3_000):
        labels = int(rng.integers(2, 6))
        k_prime, k = rng.integers(1, labels + 1, size=2)
        hot = rng.random(labels) < 0.5
        hot[rng.integers(labels)] = True
        after = interval_classifier(rng, labels, hot, k_prime)
        p, shift = after(0.0), float(1.5 * rng.random())
        size = ranked(p[None], p[None], hot[None], k, k_prime).sizes(np.array([shift]))[0, 0]
        left = min(size_of_intersection(after(m), hot, k) for m in np.linspace(-shift, shift, 9))
        assert left >= size
        certified += size > 0
        reached += left == size
    assert certified > 500 and reached > 500


@pytest.mark.parametrize("seed", range(5))
def test_one_label_and_k_1_is_cohen(seed):
    """R = sigma / 2 (Phi^-1(p_A) - Phi^-1(p_B)), Cohen et al., ICML 2019, Theorem 1."""
    rng, n = np.random.default_rng(seed), 1000
    for _ in range(100):
        counts = rng.multinomial(n, rng.dirichlet(np.full(5, 0.5)))
        label = int(rng.integers(5))
        bounds = probability_bounds(counts, n, [label], 0.001)
        p_a = bounds.lower[label]
        p_b = min(np.delete(bounds.upper, label).max(), 1 - p_a)
        expected = 0.25 / 2 * (NORMAL.inv_cdf(p_a) - NORMAL.inv_cdf(p_b)) if p_a > p_b else -np.inf
        options = {"k": 1, "k_prime": 1, "sigma": 0.25, "alpha": 0.001}
        radius = certified_radius(counts, n, [label], e=1, **options)
        np.testing.assert_allclose(radius, expected, rtol=1e-9, atol=1e-11)
        radii = np.array([0.0, *np.sort(rng.random(20))])
        sizes = certified_intersection_size(counts, n, [label], radius=radii, **options)
        np.testing.assert_array_equal(sizes, radii < expected)


def jia_radius(p_label, others, k, sigma):
    """Theorem 1 of Jia et al., ICLR 2020, by bisection on each t."""
    top = sorted(others, reverse=True)[:k]
    best = -math.inf
    for t in range(1, k + 1):
        p_s = min(sum(top[k - t :]), 1 - p_label)
        low, high = 0.0, 20.0 * sigma
        if not lower_after(p_label, 0) > upper_after(p_s, 0) / t:
            continue
        for _ in range(60):
            middle = (low + high) / 2
            good = lower_after(p_label, middle / sigma) > upper_after(p_s, middle / sigma) / t
            low, high = (middle, high) if good else (low, middle)
        best = max(best, low)
    return best


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_one_label_and_k_prime_1_is_jia(k):
    rng, n = np.random.default_rng(k), 1000
    options = {"k": k, "k_prime": 1, "sigma": 0.25, "alpha": 0.01}
    for _ in range(60):
        counts = rng.multinomial(n, rng.dirichlet(np.full(6, 1.0)))
        label = int(np.argsort(-counts)[rng.integers(3)])
        bounds = probability_bounds(counts, n, [label], 0.01)
        expected = jia_radius(bounds.lower[label], np.delete(bounds.upper, label), k, 0.25)
        radius = certified_radius(counts, n, [label], e=1, **options)
        np.testing.assert_allclose(radius, expected, rtol=1e-9, atol=1e-11)
        radii = rng.random(15)
        np.testing.assert_array_equal(
            certified_intersection_size(counts, n, [label], radius=radii, **options),
            jia_certified_intersection_size(counts, n, [label], radius=radii, **options),
        )


def test_multiguard_is_never_below_jia():
    """On the same bounds, so that no confidence correction is in play."""
    rng, better = np.random.default_rng(5), 0
    for lower, upper, hot, k, k_prime, shifts in random_problems(rng, 100):
        image, label = np.nonzero(hot)
        alone = label[:, None] == np.arange(hot.shape[1])
        kept = ranked(lower[image], upper[image], alone, k, k_prime, single_terms=False).sizes(
            shifts
        )
        baseline = np.zeros((len(hot), len(shifts)), int)
        np.add.at(baseline, image, kept)
        sizes = ranked(lower, upper, hot, k, k_prime).sizes(shifts)
        assert np.all(sizes >= baseline)
        better += (sizes > baseline).sum()
    assert better > 1_000


def test_bounds_are_clopper_pearson_with_bonferroni():
    counts, n, alpha = np.array([0, 17, 400, 583, 1000]), 1000, 0.02
    bounds = probability_bounds(counts, n, [1, 4], alpha)
    expected_lower = stats.beta.ppf(alpha / 5, counts[[1, 4]], n - counts[[1, 4]] + 1)
    expected_upper = stats.beta.ppf(1 - alpha / 5, counts[[0, 2, 3]] + 1, n - counts[[0, 2, 3]])
    np.testing.assert_allclose(bounds.lower[[1, 4]], expected_lower, rtol=1e-9)
    np.testing.assert_allclose(bounds.upper[[0, 2, 3]], expected_upper, rtol=1e-9)
    assert np.all(bounds.lower[[0, 2, 3]] == 0) and np.all(bounds.upper[[1, 4]] == 1)


@pytest.mark.parametrize("counts", [[[90, 60, 49]], [[90, 60, 50], [50, 40, 10]], [[0, 0, 0]]])
def test_bounds_of_counts_that_lack_samples_are_refused(counts):
    with pytest.raises(ValueError, match="counts: every image must sum to n"):
        probability_bounds(counts, 100, [[0]] * len(counts), 0.01)


@pytest.mark.parametrize("p", [0.001, 0.01, 0.3, 0.9])
def test_eq_10_as_printed_is_no_upper_bound(p):
    """Coverage, summed exactly over all counts: ours holds at every p, the printed one does not."""
    n, alpha, labels = 200, 0.05, 5
    counts = np.arange(n + 1)
    weight = stats.binom.pmf(counts, n, p)
    with np.errstate(all="ignore"):
        printed = np.nan_to_num(stats.beta.ppf(1 - alpha / labels, counts, n - counts + 1))
    rest = np.zeros((n + 1, labels - 2), int)
    rows = np.column_stack([counts, n - counts, rest])
    true = np.arange(labels)[None].repeat(n + 1, 0) > 0
    ours = probability_bounds(rows, n, true, alpha).upper[:, 0]
    lower = probability_bounds(rows, n, [[0]] * (n + 1), alpha).lower[:, 0]
    assert weight[ours >= p].sum() >= 1 - alpha / labels - 1e-12
    assert weight[lower <= p].sum() >= 1 - alpha / labels - 1e-12
    covered = weight[printed >= p].sum()
    assert np.all(printed <= ours)
    if p <= 0.01:
        assert covered < 1 - alpha / labels


def test_radius_is_where_the_size_drops():
    rng, n = np.random.default_rng(7), 500
    for _ in range(40):
        p = random_probabilities(rng, 1, 6, 2, 0.5)[0]
        counts = noisy_counts(rng, p, n, 2)
        labels = np.argsort(-counts)[:3]
        for e in (1, 2, 3):
            options = {"k": 3, "k_prime": 2, "sigma": 0.7, "alpha": 0.01}
            radius = certified_radius(counts, n, labels, e=e, **options)
            if np.isfinite(radius):
                around = [max(radius - 1e-9, 0), radius + 1e-6]
                sizes = certified_intersection_size(counts, n, labels, radius=around, **options)
                assert sizes[0] >= e > sizes[1]
            else:
                sizes = certified_intersection_size(counts, n, labels, radius=0.0, **options)
                assert (sizes >= e) == (radius > 0)


def noisy_counts(rng, p, n, k_prime):
    """Counts that sum to n k': rounded expectations with the rest on the largest."""
    counts = np.minimum(np.floor(p * n), n).astype(int)
    while counts.sum() < n * k_prime:
        counts[rng.choice(np.flatnonzero(counts < n))] += 1
    return counts


def test_nothing_outside_can_push_a_label_out():
    """Three of four labels are true and k is 2: any two labels hold at least one true one."""
    counts, n = [50, 30, 10, 10], 100
    options = {"k": 2, "k_prime": 1, "sigma": 0.5, "alpha": 0.001}
    sizes = certified_intersection_size(counts, n, [1, 2, 3], radius=[0, 1e6], **options)
    assert sizes.tolist() == [1, 1]
    assert certified_radius(counts, n, [1, 2, 3], e=1, **options) == np.inf
    assert certified_radius(counts, n, [1, 2, 3], e=2, **options) == -np.inf
    everything = certified_intersection_size(counts, n, [0, 1, 2, 3], radius=1e3, **options)
    assert everything == 2


def test_shapes_and_types():
    counts = np.array([[900, 800, 200, 100], [500, 500, 500, 500]])
    hot = np.array([[True, True, False, False], [False, False, True, False]])
    one = certified_intersection_size(counts[0], 1000, [0, 1], radius=0.1, **OPTIONS)
    assert type(one) is int and one == 2
    curve = certified_intersection_size(counts, 1000, hot, radius=[[0.0, 0.1]], **OPTIONS)
    assert curve.shape == (2, 1, 2) and curve[0, 0, 1] == one
    lists = certified_intersection_size(counts, 1000, [[1, 0], [2]], radius=[[0.0, 0.1]], **OPTIONS)
    np.testing.assert_array_equal(curve, lists)
    radii = certified_radius(counts, 1000, hot, e=1, **OPTIONS)
    assert radii.shape == (2,) and radii[1] == -np.inf
    assert type(certified_radius(counts[0], 1000, [0, 1], e=1, **OPTIONS)) is float


def test_500_images_50_radii_80_labels_under_a_second():
    rng, n, k_prime = np.random.default_rng(0), 1000, 4
    probabilities = rng.dirichlet(np.full(20, 0.1), size=(500, k_prime))
    counts = rng.multinomial(n, probabilities).reshape(500, 80)
    hot = rng.random((500, 80)) < 0.04
    hot[:, 0] = True
    options = {"k": 10, "k_prime": k_prime, "sigma": 0.5, "alpha": 0.001}
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        certified_intersection_size(counts, n, hot, radius=np.linspace(0, 2, 50), **options)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 1


def test_metrics_are_the_papers():
    sizes = np.array([[2, 1], [1, 0]])
    metrics = certified_metrics(sizes, [[0, 4, 2], [1]], k=2, radius=[0.0, 0.5], label_count=5)
    np.testing.assert_allclose(metrics.precision, [(2 / 2 + 1 / 2) / 2, (1 / 2) / 2])
    np.testing.assert_allclose(metrics.recall, [(2 / 3 + 1) / 2, (1 / 3) / 2])
    np.testing.assert_allclose(metrics.f1, [(4 / 5 + 2 / 3) / 2, (2 / 5) / 2])
    assert metrics.rows()[1][0] == 0.5 and set(metrics.as_dict()) == {
        "radius", "precision", "recall", "f1",
    }  # fmt: skip


COUNTS = [900, 800, 200, 100]
CALL = {"counts": COUNTS, "n": 1000, "labels": [0, 1], "radius": 0.1, **OPTIONS}
BAD = {
    "count above n": ({"counts": [1001, 800, 199, 0]}, "counts: expected values in 0..n"),
    "negative count": ({"counts": [1000, 1000, 1, -1]}, "counts: expected values in 0..n"),
    "fraction": ({"counts": [0.5, 1, 1, 1]}, "counts: expected whole"),
    "nan count": ({"counts": [np.nan, 1, 1, 1]}, "counts: expected whole"),
    "sum of counts": ({"counts": [900, 800, 200, 99]}, "counts: every image must sum"),
    "counts shape": ({"counts": np.zeros((1, 1, 2), int)}, "counts: expected .label,."),
    "n": ({"n": 0}, "n: expected"),
    "no label": ({"labels": []}, "labels: an image has no true label"),
    "no label, multi-hot": ({"labels": np.zeros(4, bool)}, "labels: an image has no true label"),
    "label twice": ({"labels": [1, 1]}, "labels: .* repeats a label"),
    "multi-hot of integers": ({"labels": [1, 1, 0, 0]}, "labels: .* repeats a label"),
    "label out of range": ({"labels": [4]}, "labels: expected numbers in 0..3"),
    "label fraction": ({"labels": [0.5]}, "labels: expected label numbers"),
    "label shape": ({"labels": np.ones(3, bool)}, "labels: multi-hot of shape"),
    "k zero": ({"k": 0}, "k: expected an integer from 1 to 4"),
    "k large": ({"k": 5}, "k: expected an integer from 1 to 4"),
    "k' zero": ({"k_prime": 0}, "k_prime: expected an integer"),
    "k' large": ({"k_prime": 5}, "k_prime: expected an integer"),
    "sigma": ({"sigma": 0.0}, "sigma: expected"),
    "negative sigma": ({"sigma": -1.0}, "sigma: expected"),
    "nan sigma": ({"sigma": np.nan}, "sigma: expected"),
    "alpha 0": ({"alpha": 0.0}, "alpha: expected"),
    "alpha 1": ({"alpha": 1.0}, "alpha: expected"),
    "negative radius": ({"radius": -0.1}, "radius: expected"),
    "nan radius": ({"radius": [0.0, np.nan]}, "radius: expected"),
}


@pytest.mark.parametrize("size", [certified_intersection_size, jia_certified_intersection_size])
@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_named(name, size):
    changed, message = BAD[name]
    arguments = CALL | changed
    first = [arguments.pop(a) for a in ("counts", "n", "labels")]
    with pytest.raises(ValueError, match=f"^{message}"):
        size(*first, **arguments)


@pytest.mark.parametrize("e", [0, 3, 1.5])
def test_bad_e_is_named(e):
    with pytest.raises(ValueError, match="^e: expected an integer from 1 to 2"):
        certified_radius(COUNTS, 1000, [0, 1], e=e, **OPTIONS)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"sizes": np.ones((2, 3))}, "sizes: expected"),
        ({"sizes": np.ones((0, 2))}, "sizes: expected"),
        ({"sizes": np.full((2, 2), 2)}, "sizes: an entry"),
        ({"labels": [[0, 1], []]}, "labels: an image has no"),
    ],
)
def test_bad_metrics_are_named(change, message):
    arguments = {"sizes": np.ones((2, 2)), "labels": [[0, 1], [3]], "k": 2, "radius": [0, 1]}
    arguments |= change
    with pytest.raises(ValueError, match=message):
        certified_metrics(arguments.pop("sizes"), arguments.pop("labels"), **arguments)
