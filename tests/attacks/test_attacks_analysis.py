"""Profiles, probes, correlations, subsets and curves: the tools that SLAM and CLASS plan with."""

import dataclasses

import numpy as np
import pytest
from attack_problems import LABELS, PROFILE, X, net

from jmlv.attacks import (
    CLASS,
    MIFGSM,
    SLAM,
    Correlations,
    FlipAll,
    Profile,
    attack,
    classifier_profile,
    label_attackability,
    probe_labels,
    targets_against_flips,
)
from jmlv.attacks.momentum import loss
from jmlv.attacks.profile import _is_flat
from jmlv.errors import DamagedFile


def test_a_profile_is_the_better_probe_and_is_restored(tmp_path):
    profile = classifier_profile(net, X, spacing=0.05, largest=0.3, step=0.01)
    assert profile.flips[0] == 0 and max(profile.flips) <= LABELS
    assert (
        profile.flips[1]
        >= attack(net, X, FlipAll(), MIFGSM(step=0.01), budgets=[0.05]).flips.mean() - 1e-6
    )
    assert Profile.load(profile.save(tmp_path / "sub" / "profile.json")) == profile
    assert profile.share(99) == 1 and 0 <= profile.share(0.01) <= 1
    assert profile.converged or profile.max_epsilon == pytest.approx(0.3)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"epsilons": [0]}'])
def test_a_damaged_profile_is_named(tmp_path, content):
    path = tmp_path / "profile.json"
    path.write_text(content)
    with pytest.raises(DamagedFile, match="does not hold a profile"):
        Profile.load(path)


def test_the_loss_is_a_mixture():
    aim = FlipAll().aim(np.array([[True, False]]))
    aim = dataclasses.replace(aim, wanted=np.array([[False, True]]))
    margins, ones = np.array([[1.0, -2.0]]), np.ones((1, 2))
    probability = 1 / (1 + np.exp(-margins[0]))
    linear = (probability[0] + 1 - probability[1]) / 2
    entropy = -(np.log(1 - probability[0]) + np.log(probability[1])) / 2
    for mix in (0.0, 0.3, 1.0):
        value = float(loss(margins, aim, ones, mix)[0])
        assert value == pytest.approx(mix * entropy + (1 - mix) * linear, rel=1e-5)


def test_slam_with_all_cross_entropy_is_mifgsm():
    """Beyond the profile p is 1; with q = 1 the loss is cross-entropy."""
    plain = attack(net, X, FlipAll(), MIFGSM(), budgets=[0.25])
    smart = attack(net, X, FlipAll(), SLAM(q=1.0, profile=PROFILE), budgets=[0.25])
    np.testing.assert_array_equal(plain.images, smart.images)


def test_probes_see_labels_that_move_together():
    """Labels 0 and 1 read the same pixels with the same sign, label 2 with the other."""

    def f(x):
        mean = x.reshape(len(x), -1).mean(1, keepdims=True)
        return np.float32([[4, 4, -4]]) * (mean - np.float32([[0.45, 0.55, 0.5]]))

    x = np.linspace(0.3, 0.7, 8, dtype=np.float32)[:, None, None, None] * np.ones(
        (1, 2, 2, 1), "f4"
    )
    probes = probe_labels(f, x, epsilon=0.06)
    assert probes.up[0, 1] > 0 and probes.down[0, 1] > 0
    rates = label_attackability(probes)
    assert rates.shape == (3, 2) and (rates >= 0).all() and (rates <= 1).all()
    measured = probes.correlations()
    assert np.min(measured.up) == 0 and np.max(measured.up) == 1
    inverse = probes.correlations(inverse=True)
    np.testing.assert_allclose(np.array(inverse.down), 1 - np.array(inverse.up))


def brute_force(method, correlation, confidence, size):
    """The best set of a size that holds the most confident label."""
    from itertools import combinations

    confidence = confidence / confidence.max()
    correlation = correlation / correlation.max()
    root = int(confidence.argmax())
    rest = [i for i in range(len(confidence)) if i != root]

    def worth(chosen):
        chosen = [root, *chosen]
        pairs = correlation[np.ix_(chosen, chosen)].sum()
        return method.gamma * pairs + (1 - method.gamma) * confidence[chosen].sum()

    return worth(max(combinations(rest, size - 1), key=worth)), worth


@pytest.mark.parametrize("gamma", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("size", [2, 3, 4])
def test_a_full_search_finds_the_best_subset(gamma, size):
    rng = np.random.default_rng(size)
    correlation, confidence = rng.random((6, 6)), rng.random(6)
    method = CLASS(gamma, branches=6, depth=6)
    chosen = method.subset(correlation, confidence, np.ones(6, bool), size)
    best, worth = brute_force(method, correlation, confidence, size)
    root = int(confidence.argmax())
    found = worth([i for i in np.flatnonzero(chosen) if i != root])
    assert chosen.sum() == size and found == pytest.approx(best)


def test_a_subset_never_takes_forbidden_labels():
    allowed = np.array([False, True, True, False, True])
    for size in (1, 2, 3, 9):
        chosen = CLASS(0.5).subset(np.eye(5), np.linspace(0.9, 0.1, 5), allowed, size)
        assert not (chosen & ~allowed).any() and chosen.sum() == min(size, 3)


def test_curves_count_flips():
    curve = targets_against_flips(net, X, [1, LABELS], [0.02, 0.1])
    plain = attack(net, X, FlipAll(), MIFGSM(), budgets=[0.02, 0.1])
    np.testing.assert_allclose(curve[:, 1], plain.flips.mean(1))
    with pytest.raises(ValueError, match="targets: must be in"):
        targets_against_flips(net, X, [LABELS + 1], [0.1])


BAD = {
    "q": (lambda: SLAM(q=2), "q: must be"),
    "gamma": (lambda: CLASS(-1), "gamma: must be"),
    "branches": (lambda: CLASS(0.5, branches=0), "branches: must be"),
    "norm of profile": (
        lambda: attack(net, X, FlipAll(), SLAM(profile=PROFILE, norm="l2"), budgets=[1]),
        "profile: is of 5 labels in linf",
    ),
    "correlations": (
        lambda: attack(
            net,
            X,
            FlipAll(),
            CLASS(0.5, profile=PROFILE, correlations=Correlations.of(np.eye(3), np.eye(3))),
            budgets=[0.1],
        ),
        "correlations: are of 3 labels",
    ),
    "matrices": (lambda: Correlations.of(np.eye(3), np.eye(4)), "two square matrices"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_named(name):
    call, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    ("flips", "flat"),
    [
        ([0.0, 0.0], False),  # has not risen yet
        ([0.0, 0.0, 1.0], False),
        ([0.0, 0.0, 1.0, 1.005], True),
        ([0.0, 2.0, 3.0], False),
        ([0.0, 2.0, 2.01], True),
    ],
)
def test_a_profile_ends_where_it_is_flat_after_its_rise(flips, flat):
    assert _is_flat(flips, 0.01) == flat
