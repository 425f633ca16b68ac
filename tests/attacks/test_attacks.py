"""Attacks: budgets, box and mask are never left; goals, batches, errors, certificates."""

import dataclasses
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from attack_problems import HIDE, LABELS, PROFILE, X, images, net

import jmlv
from jmlv import checkpoints
from jmlv.attacks import (
    CLASS,
    MIFGSM,
    MLALP,
    MLCW,
    PGD,
    SLAM,
    AutoMultiLabel,
    Correlations,
    EnterTopK,
    Flip,
    FlipAll,
    Hide,
    HideAll,
    LeaveTopK,
    MLDeepFool,
    MLRank1,
    MLRank2,
    Profile,
    Show,
    ShowAll,
    Target,
    Threshold,
    TopK,
    attack,
)
from jmlv.attacks.projection import bounds, project
from jmlv.data import double_digits
from jmlv.graph import trace

ROOT = Path(__file__).parents[2]
PROFILE_L2 = Profile((0.0, 0.5, 1.0), (0.0, 2.0, 2.5), (0.0, 5.5, -3.0), LABELS, "l2")
TOGETHER = Correlations.of(np.eye(LABELS) + 0.1, np.eye(LABELS))
METHODS = {
    "mifgsm linf": MIFGSM(),
    "mifgsm l2": MIFGSM(norm="l2"),
    "slam": SLAM(profile=PROFILE),
    "class l2": CLASS(0.5, 2, 2, profile=PROFILE_L2, correlations=TOGETHER, norm="l2"),
    "mlalp": MLALP(4),
    "mlcw": MLCW(60, 3, 10.0),
    "mlrank1": MLRank1(60, 3, 10.0),
    "mlrank2": MLRank2(60, 3, 10.0),
    "mldeepfool": MLDeepFool(),
    "auto": AutoMultiLabel(methods=(MIFGSM(), PGD(steps=5, restarts=2))),
    "pgd linf": PGD(steps=5, restarts=2),
    "pgd l2": PGD("l2", steps=5, restarts=2),
}
BUDGETS = (1e-9, 1e-5, 0.013, 0.1, 0.7)


def assert_inside(result, x, mask=None):
    """Budget, box and mask, in float64 and in float32."""
    x = np.asarray(x, np.float32)
    for batch, budget in zip(result.images, result.budgets):
        assert batch.dtype == np.float32 and batch.min() >= 0 and batch.max() <= 1
        norm = None if result.method.norm == "linf" else 2
        for kind in (np.float64, np.float32):
            change = (batch.astype(kind) - x.astype(kind)).reshape(len(x), -1)
            length = np.abs(change).max(1) if norm is None else np.linalg.norm(change, axis=1)
            assert (length <= kind(budget)).all()
        if mask is not None:
            np.testing.assert_array_equal(batch[:, ~mask], x[:, ~mask])


@pytest.mark.parametrize("goal", [FlipAll(), HIDE], ids=["flip", "hide"])
@pytest.mark.parametrize("name", METHODS)
def test_no_image_leaves_budget_box_or_mask(name, goal):
    method = METHODS[name]
    mask = np.zeros((4, 4), bool)
    mask[1:3] = True
    chosen = mask if goal is HIDE else None
    result = attack(net, X, goal, method, budgets=BUDGETS, mask=chosen)
    assert_inside(result, X, chosen)
    account(result)


def account(result):
    """The result agrees with what its images say."""
    before = np.asarray(result.decision.margins(net(X))) > 0
    after = np.asarray(result.decision.margins(net(result.images.reshape(-1, *X.shape[1:]))))
    after = after.reshape(len(result.budgets), len(X), LABELS) > 0
    np.testing.assert_array_equal(result.flips, (before != after).sum(-1))
    change = result.images.astype(float) - X
    np.testing.assert_allclose(result.linf, np.abs(change).max((2, 3, 4)))
    rmsd = np.sqrt(((255 * change) ** 2).mean((2, 3, 4)))
    np.testing.assert_allclose(result.rmsd, rmsd)
    assert (result.iterations[:, ~result.already] >= 0).all() and result.seconds > 0


@pytest.mark.parametrize("name", METHODS)
def test_a_batch_is_its_images_one_by_one(name):
    method, budgets = METHODS[name], (0.02, 0.2)
    together = attack(net, X, FlipAll(), method, budgets=budgets)
    for i in range(len(X)):
        alone = attack(net, X[i : i + 1], FlipAll(), method, budgets=budgets)
        np.testing.assert_allclose(alone.images[:, 0], together.images[:, i], atol=1e-5)
        np.testing.assert_array_equal(alone.success[:, 0], together.success[:, i])
        np.testing.assert_array_equal(alone.flips[:, 0], together.flips[:, i])


@pytest.mark.parametrize("name", METHODS)
def test_large_budgets_reach_easy_goals(name):
    """Flipping the label nearest to its threshold, with half of the scale to spare."""
    nearest = tuple((int(i),) for i in np.abs(np.asarray(net(X))).argmin(1))
    budget = 0.5 if METHODS[name].norm == "linf" else 3.0
    result = attack(net, X, Flip(nearest), METHODS[name], budgets=[budget])
    assert result.success_rate[0] == 1.0


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_projection_is_exact(norm):
    rng = np.random.default_rng(3)
    x = images(50, 4)
    free = np.ones(x.shape, bool)
    for epsilon in (1e-12, 1e-8, 1e-7, 1 / 255, 0.3, 3.0, np.inf):
        moved = x + rng.normal(size=x.shape) * min(epsilon, 2)
        inside = project(moved, x, free, (0, 1), epsilon, norm)
        axes = (1, 2, 3)
        change = np.abs(inside.astype(float) - x)
        length = change.max(axes) if norm == "linf" else np.sqrt((change**2).sum(axes))
        assert (length <= epsilon).all() and inside.min() >= 0 and inside.max() <= 1
        again = project(inside, x, free, (0, 1), epsilon, norm)
        np.testing.assert_array_equal(again, inside)


def test_bounds_are_the_widest_in_float32():
    x, free = images(20, 5), np.ones((20, 4, 4, 3), bool)
    low, high = bounds(x, free, (0, 1), 0.01)
    beyond = np.nextafter(high, np.float32(2))[high < 1]
    assert (beyond.astype(float) - x[high < 1] > 0.01).all()
    assert (x[low > 0] - np.nextafter(low, np.float32(-1))[low > 0].astype(float) > 0.01).all()


@pytest.mark.parametrize("k", [1, 2, 4])
def test_top_k_margins_are_those_of_the_property(k):
    scores = np.round(np.random.default_rng(2).normal(size=(200, LABELS)), 1)  # with ties
    margins = np.asarray(TopK(k).margins(scores))
    for label in range(LABELS):
        np.testing.assert_allclose(margins[:, label], jmlv.InTopK(label, k).margin(scores))


def test_a_top_k_has_no_room_for_more():
    with pytest.raises(ValueError, match=r"decision: ShowAll\(\) only adds .* got TopK\(k=1\)"):
        attack(net, X, ShowAll(), PGD(steps=1, restarts=1), decision=TopK(1), budgets=[0.3])


def test_labels_are_added_and_none_is_lost():
    """On some image the most labels that are shown are more than at first, by every count."""
    result = attack(net, X, ShowAll(), PGD(steps=8, restarts=1), budgets=[0.3])
    before, after = result.scores_before > 0, result.scores[0] > 0
    assert result.added[0].tolist() == (after & ~before).sum(1).tolist() and result.added.sum() > 0
    assert (result.added - result.removed)[0].tolist() == (after.sum(1) - before.sum(1)).tolist()


def test_goals_say_what_counts():
    present = np.array([[True, False, True]])
    table = {
        FlipAll(): ([0, 1, 0], [1, 1, 1], [0, 0, 0]),
        Flip(1): ([0, 1, 0], [0, 1, 0], [0, 0, 0]),
        Hide((2,)): ([1, 0, 0], [0, 0, 1], [1, 1, 0]),
        HideAll(): ([0, 0, 0], [1, 0, 1], [0, 1, 0]),
        Show(1): ([1, 1, 1], [0, 1, 0], [1, 0, 1]),
        ShowAll(): ([1, 1, 1], [0, 1, 0], [1, 0, 1]),
        Target((1, 1, 0)): ([1, 1, 0], [0, 1, 1], [1, 0, 0]),
        LeaveTopK(0, 2): ([0, 0, 0], [1, 0, 0], [0, 0, 0]),
        EnterTopK((1,), 2): ([0, 1, 0], [0, 1, 0], [0, 0, 0]),
    }
    for goal, (wanted, attacked, kept) in table.items():
        aim = goal.aim(present)
        relevant = np.array(attacked) | np.array(kept)
        np.testing.assert_array_equal(
            np.asarray(aim.wanted[0])[relevant > 0], np.array(wanted)[relevant > 0]
        )
        np.testing.assert_array_equal(aim.attacked[0], np.array(attacked, bool))
        np.testing.assert_array_equal(aim.kept[0], np.array(kept, bool))
    assert Hide(np.array([2])) == Hide((2,)) and hash(Hide(2)) == hash(Hide(2))


def test_what_is_there_already_is_left_alone():
    top = int(np.argmax(np.asarray(net(X[:1]))[0]))
    result = attack(net, X[:1], EnterTopK(top, 1), PGD(steps=2), budgets=[0.1])
    assert result.already.all() and result.success.all() and np.isnan(result.success_rate).all()
    np.testing.assert_array_equal(result.images[0], X[:1])
    assert "1 already there" in repr(result)


def nan_gradient(x):
    return jnp.sqrt(jnp.abs(x.reshape(len(x), -1)[:, :3])) - 0.5


BAD = {
    "no budgets": (lambda: attack(net, X, FlipAll(), MIFGSM()), "budgets: MIFGSM needs"),
    "zero budget": (
        lambda: attack(net, X, FlipAll(), MIFGSM(), budgets=[0.1, 0]),
        "budgets: expected",
    ),
    "negative budget": (
        lambda: attack(net, X, FlipAll(), PGD(), budgets=[-1]),
        "budgets: expected",
    ),
    "nan budget": (lambda: attack(net, X, FlipAll(), PGD(), budgets=[np.nan]), "budgets: expected"),
    "empty budgets": (lambda: attack(net, X, FlipAll(), PGD(), budgets=[]), "budgets: expected"),
    "empty mask": (
        lambda: attack(net, X, FlipAll(), PGD(), budgets=[0.1], mask=np.zeros((4, 4))),
        "mask: no pixel",
    ),
    "mask shape": (
        lambda: attack(net, X, FlipAll(), PGD(), budgets=[0.1], mask=np.ones((3, 4))),
        "mask: shape",
    ),
    "threshold one": (lambda: Threshold(1.0), "inside \\(0, 1\\)"),
    "threshold zero": (lambda: Threshold((0.5, 0.0)), "inside \\(0, 1\\)"),
    "threshold count": (
        lambda: attack(net, X, FlipAll(), PGD(), budgets=[0.1], decision=Threshold((0.5, 0.5))),
        "2 thresholds for 5 labels",
    ),
    "one label": (
        lambda: attack(lambda x: net(x)[:, :1], X, FlipAll(), PGD(), budgets=[0.1]),
        "one label only",
    ),
    "nan gradients": (
        lambda: attack(nan_gradient, X * 0, FlipAll(), PGD(steps=2), budgets=[0.1]),
        "its gradient holds NaN",
    ),
    "nan gradients, momentum": (
        lambda: attack(nan_gradient, X * 0, FlipAll(), MIFGSM(), budgets=[0.01]),
        "its gradient holds NaN",
    ),
    "nan scores": (
        lambda: attack(lambda x: net(x) * np.nan, X, FlipAll(), PGD(), budgets=[0.1]),
        "its scores on x",
    ),
    "one image without batch": (
        lambda: attack(net, X[0], FlipAll(), PGD(), budgets=[0.1]),
        "x: expected",
    ),
    "eight bit": (lambda: attack(net, X * 255, FlipAll(), PGD(), budgets=[0.1]), "x: values"),
    "label": (lambda: attack(net, X, Hide(5), PGD(), budgets=[0.1]), "labels: must be in 0..4"),
    "no label": (lambda: attack(net, X, Hide(()), PGD(), budgets=[0.1]), "labels: no label"),
    "images": (lambda: attack(net, X, Hide(((1,),)), PGD(), budgets=[0.1]), "labels: got entries"),
    "vector": (lambda: attack(net, X, Target((1, 0)), PGD(), budgets=[0.1]), "label_vector: shape"),
    "k": (lambda: attack(net, X, LeaveTopK(0, 5), PGD(), budgets=[0.1]), "k: must be in 1..4"),
    "two decisions": (
        lambda: attack(net, X, LeaveTopK(0, 2), PGD(), budgets=[0.1], decision=TopK(3)),
        "decision: LeaveTopK",
    ),
    "norm": (lambda: MIFGSM(norm="l1"), "norm: expected one of"),
    "step": (lambda: MIFGSM(step=0), "step: must be positive"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_named(name):
    call, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        call()


def test_budgets_share_a_trajectory():
    """A curve is the attack at each of its budgets, alone."""
    budgets = (0.0001, 0.003, 0.05)
    for method in (MIFGSM(), MIFGSM(norm="l2")):
        curve = attack(net, X, FlipAll(), method, budgets=budgets)
        for i, budget in enumerate(budgets):
            alone = attack(net, X, FlipAll(), method, budgets=[budget])
            np.testing.assert_array_equal(alone.images[0], curve.images[i])
    assert curve.iterations[0, 0] == 1


def test_methods_are_values():
    assert MIFGSM() == MIFGSM() and hash(PGD()) == hash(PGD()) and "steps=40" in repr(PGD())
    assert dataclasses.replace(PGD(), steps=3) != PGD()


@pytest.mark.slow
@pytest.mark.parametrize("checkpoint", ["double_digits_none", "double_digits_linf"])
def test_nothing_beats_a_certificate(checkpoint):
    """Where `verify` says ROBUST, every method fails within; some radius is certified, some not."""
    folder = ROOT / "checkpoints" / checkpoint
    if not folder.exists():
        pytest.skip("the committed checkpoints are not here")
    model, _ = checkpoints.restore(folder)
    data = double_digits("test", size=3)
    graph = trace(model, model.config.input_shape)
    labels = [int(i) for i in data.object_labels[:, 0]]
    radii = (0.003, 0.01, 0.15)
    robust = np.array(
        [
            [
                jmlv.verify(
                    graph,
                    jmlv.Box.around(x, r),
                    jmlv.InTopK(label, 2),
                    jmlv.Bounds(jmlv.CROWNIBP()),
                ).robust
                for x, label in zip(data.images, labels)
            ]
            for r in radii
        ]
    )
    assert robust.any() and not robust.all()
    methods = METHODS | {
        "slam": SLAM(profile=dataclasses.replace(PROFILE, label_count=10)),
        "class l2": CLASS(
            profile=dataclasses.replace(PROFILE_L2, label_count=10),
            correlations=Correlations.of(np.eye(10), np.eye(10)),
            norm="l2",
        ),
    }
    broken = False
    for method in methods.values():
        budgets = radii if method.norm == "linf" else (1.5,)
        goal = LeaveTopK(tuple(labels), 2)
        result = attack(graph, data.images, goal, method, budgets=budgets)
        for radius, proven in zip(radii, robust):
            inside = result.success & (result.linf <= radius)
            assert not (inside & proven).any()
        broken |= result.success.any()
    assert broken
