"""Metrics against their definitions, and figures that can be drawn."""

import dataclasses
import io

import numpy as np
import pytest
from attack_problems import LABELS, PROFILE, X, net

from jmlv.attacks import (
    MIFGSM,
    FlipAll,
    LeaveTopK,
    TopK,
    attack,
    attack_metrics,
    classification_metrics,
)

RNG = np.random.default_rng(0)
TRUE, SCORES = RNG.random((30, LABELS)) < 0.4, RNG.normal(size=(30, LABELS))


def test_rates_leave_out_what_needed_no_attack():
    labels = tuple(int(i) for i in np.asarray(net(X)).argmax(1))
    goal = LeaveTopK((*labels[:-1], int(np.asarray(net(X))[-1].argmin())), 2)  # the last is out
    result = attack(net, X, goal, MIFGSM(), budgets=[0.01, 0.3])
    rows = attack_metrics(result)
    assert result.already.tolist() == [False] * (len(X) - 1) + [True]
    assert rows[1]["success rate"] == pytest.approx(result.success[1, :-1].mean())
    assert rows[1]["flips"] == pytest.approx(result.flips[1, :-1].mean())
    everything = attack_metrics(result, over="all")[1]
    assert everything["linf"] == pytest.approx(result.linf[1, :-1].mean())


def test_measures_by_their_definitions():
    measures = classification_metrics(TRUE, SCORES)
    predicted = SCORES > 0
    assert measures["hamming loss"] == pytest.approx((TRUE != predicted).mean())
    hits = (TRUE & predicted).sum()
    assert measures["micro F1"] == pytest.approx(2 * hits / (TRUE.sum() + predicted.sum()))
    perfect = classification_metrics(TRUE, np.where(TRUE, 1.0, -1.0))
    assert perfect["mAP"] == perfect["micro F1"] == 1 and perfect["ranking loss"] == 0
    top = classification_metrics(TRUE, SCORES, TopK(1))
    assert top["hamming loss"] != measures["hamming loss"]
    with pytest.raises(ValueError, match="labels: shape"):
        classification_metrics(TRUE[:3], SCORES)


def test_figures_can_be_drawn():
    pytest.importorskip("matplotlib")
    from jmlv.attacks import plots

    result = attack(net, X, FlipAll(), MIFGSM(), budgets=[0.01, 0.02])
    for figure in (
        plots.flips_against_budget({"MI-FGSM": result}, profile=PROFILE),
        plots.confidences(result),
        plots.perturbation_map(result, X),
        plots.correlation_heatmap(np.eye(LABELS), title="flip up"),
    ):
        figure.savefig(io.BytesIO(), dpi=30)


def test_the_line_at_one_half_is_there_where_thresholds_decide():
    pytest.importorskip("matplotlib")
    from jmlv.attacks import plots

    result = attack(net, X, FlipAll(), MIFGSM(), budgets=[0.01])
    by_threshold = plots.confidences(result).axes[0]
    by_rank = plots.confidences(dataclasses.replace(result, decision=TopK(2))).axes[0]
    assert [len(axes.lines) for axes in (by_threshold, by_rank)] == [1, 0]
    heights = [bar.get_height() for bar in by_rank.patches[:LABELS]]
    np.testing.assert_allclose(heights, 1 / (1 + np.exp(-result.scores_before[0])), rtol=1e-5)
