"""What the verbs are given, checked before any work."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from jmlv.attacks import Attack, AutoMultiLabel, Decision, Threshold, TopK
from jmlv.oracles import Query
from jmlv.properties import AboveThreshold, BelowThreshold, InTopK, NotInTopK, Property
from jmlv.regions import Ball, LayeredNeighborhood, Region
from jmlv.require import integer, require_kind

HEAVIEST = 1000
"""All weights together: a property repeats a label as often as it weighs."""


def stays_in(decision: Decision, label: int) -> Property:
    """What holds where a label is predicted, with something to spare."""
    if isinstance(decision, TopK):
        return InTopK(label, decision.k)
    return AboveThreshold(label, _logit(decision, label))


def stays_out(decision: Decision, label: int) -> Property:
    """What holds where a label is not predicted, with something to spare: a tie is a change."""
    if isinstance(decision, TopK):
        return NotInTopK(label, decision.k)
    return BelowThreshold(label, _logit(decision, label))


def _logit(decision: Threshold, label: int) -> float:
    several = np.ndim(decision.probability) > 0
    share = decision.probability[label] if several else decision.probability
    return float(np.log(share / (1 - share)))


def require_decision(decision: Any, label_count: int) -> None:
    """Raises unless it is a top k or thresholds, and fits the network."""
    require_kind("decision", decision, Decision, "TopK(2) or Threshold(0.5)")
    decision.require(label_count)


def chosen_labels(labels: Any, label_count: int) -> tuple[int, ...]:
    """The labels meant, distinct and in order; all where none are given.

    Raises:
        ValueError: a label does not exist, or is given twice.
    """
    if labels is None:
        return tuple(range(label_count))
    chosen = tuple(integer("labels", label) for label in np.atleast_1d(labels))
    wrong = [label for label in chosen if not 0 <= label < label_count]
    if wrong or not chosen or len(set(chosen)) != len(chosen):
        raise ValueError(
            f"labels: expected distinct labels in 0..{label_count - 1}, at least one, got {labels}."
        )
    return tuple(sorted(chosen))


def chosen_weights(weights: Any, label_count: int) -> tuple[int, ...]:
    """What each label counts for; 1 where nothing is given.

    Raises:
        ValueError: they are not whole numbers, one for each label.
    """
    values = np.ones(label_count, int) if weights is None else np.asarray(weights)
    whole = values.shape == (label_count,) and np.all(values == np.floor(values))
    if not (whole and np.all(values >= 0) and 0 < values.sum() <= HEAVIEST):
        raise ValueError(
            f"weights: expected {label_count} whole numbers that are not negative, one for each "
            f"label, from 1 to {HEAVIEST} together, got {weights}. Scale and round others."
        )
    return tuple(values.astype(int).tolist())


def reference_of(region: Region, x: Any, query: Query) -> np.ndarray:
    """The input whose decisions count as unchanged.

    Raises:
        ValueError: it is no input of the region.
    """
    if x is None:
        own = isinstance(region, (LayeredNeighborhood, Ball))
        return query.settle(region.x) if own else query.centre
    if np.shape(x) != query.lower.shape or not region.contains(x):
        raise ValueError(
            f"x: expected one input of the region, of shape {query.lower.shape}; "
            f"got one of shape {np.shape(x)} that does not lie in it."
        )
    return query.settle(x)


def chosen_attacks(attacks: Sequence[Attack] | None, region: Region) -> tuple[Attack, ...]:
    """The attacks to ask for witnesses.

    Raises:
        TypeError: one of them is none.
    """
    if attacks is None:
        return (AutoMultiLabel("l2" if isinstance(region, Ball) else "linf"),)
    methods = tuple(attacks) if isinstance(attacks, Iterable) else (attacks,)
    for method in methods:
        require_kind("attacks", method, Attack, "SLAM()")
    return methods
