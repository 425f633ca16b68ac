"""Figures of merit of attacks, and of a classifier's predictions under them."""

from __future__ import annotations

from typing import Literal

import numpy as np
from jaxtyping import Bool, Float

from jmlv.attacks.decisions import Decision, Threshold
from jmlv.attacks.result import AttackResult

DISTANCES = ("rmsd", "l2", "linf")


def attack_metrics(
    result: AttackResult, *, over: Literal["success", "all"] = "success"
) -> list[dict[str, float]]:
    """One row a budget: success rate, mean flips, mean RMSD, l2 and l-infinity distance.

    Args:
        result: of an attack.
        over: distances are means over the images on which the attack succeeded, as published, or over
            all of them. Images that needed no attack are left out of every figure.

    >>> from jmlv.attacks import MIFGSM, Hide, attack
    >>> f = lambda x: x.reshape(-1, 2) - 0.5
    >>> x = np.full((1, 1, 2, 1), 0.6, np.float32)
    >>> result = attack(f, x, Hide(0), MIFGSM(), budgets=[0.15])
    >>> attack_metrics(result)[0]["success rate"]
    1.0
    """
    needed = ~result.already
    rows = []
    for i, budget in enumerate(result.budgets):
        chosen = needed & result.success[i] if over == "success" else needed
        rows.append(
            {
                "budget": budget,
                "success rate": float(result.success_rate[i]),
                "flips": _mean(result.flips[i], needed),
                **{name: _mean(getattr(result, name)[i], chosen) for name in DISTANCES},
            }
        )
    return rows


def classification_metrics(
    labels: Bool[np.ndarray, "image label"],
    scores: Float[np.ndarray, "image label"],
    decision: Decision = Threshold(),
) -> dict[str, float]:
    """Hamming loss, ranking loss, micro and macro F1, average precision and mAP.

    Average precision is that of each image's ranking of labels; mAP is the mean, over the labels that
    some image has and some has not, of the precision of their ranking of images.

    Args:
        labels: what is true.
        scores: raw scores.
        decision: from scores to predicted labels.

    Source: the measures of Zhou, Luo, Lin, Xu, *Generating Multi-label Adversarial Examples by Linear
    Programming*, 2020, as scikit-learn computes them.

    >>> labels = np.array([[True, False], [False, True]])
    >>> scores = np.array([[1.0, -1.0], [2.0, 3.0]])
    >>> classification_metrics(labels, scores)["hamming loss"]
    0.25
    """
    from sklearn import metrics

    labels, scores = np.asarray(labels, bool), np.asarray(scores, np.float64)
    if labels.shape != scores.shape or labels.ndim != 2:
        raise ValueError(
            f"labels: shape {labels.shape} differs from that of scores {scores.shape}."
        )
    predicted = np.asarray(decision.margins(scores)) > 0
    mixed = labels.any(0) & ~labels.all(0)
    if mixed.any():
        precision = float(metrics.average_precision_score(labels[:, mixed], scores[:, mixed]))
    else:
        precision = float("nan")
    f1 = {
        average: float(metrics.f1_score(labels, predicted, average=average, zero_division=0))
        for average in ("micro", "macro")
    }
    return {
        "hamming loss": float(metrics.hamming_loss(labels, predicted)),
        "ranking loss": float(metrics.label_ranking_loss(labels, scores)),
        "micro F1": f1["micro"],
        "macro F1": f1["macro"],
        "average precision": float(metrics.label_ranking_average_precision_score(labels, scores)),
        "mAP": precision,
    }


def _mean(values: np.ndarray, chosen: np.ndarray) -> float:
    return float(values[chosen].mean()) if chosen.any() else float("nan")
