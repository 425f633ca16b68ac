"""Is a layer as large as it can be? Only a replayed witness just beyond it says so."""

from __future__ import annotations

import enum

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jmlv.neighborhoods.problem import Problem
from jmlv.numerics import GREY_LEVEL, search_precision
from jmlv.oracles import PGD, Evidence, judge
from jmlv.oracles.falsify import descend
from jmlv.regions import LayeredNeighborhood
from jmlv.verdict import Status


class LayerStatus(enum.Enum):
    """What is known about one layer of a certified neighbourhood."""

    MAXIMAL = "maximal"
    """One grey level more on this layer alone is not robust: a witness was replayed."""
    FULL = "full"
    """Its epsilon is 1."""
    FREE = "free"
    """The network never reads it."""
    EMPTY = "empty"
    """It has no pixels."""
    UNDECIDED = "undecided"
    """Neither a proof nor a witness one grey level further."""


def layer_statuses(
    problem: Problem, epsilon: Float[np.ndarray, " layer"], attack: PGD
) -> tuple[LayerStatus, ...]:
    """The status of every layer; the attack runs on all open ones in one batch.

    Args:
        problem: the growing task.
        epsilon: the certified neighbourhood.
        attack: searches each neighbourhood with one layer raised by `GREY_LEVEL`.
    """
    status = [LayerStatus.UNDECIDED] * problem.layers.count
    counts = problem.layers.counts()
    for d, value in enumerate(epsilon):
        if counts[d] == 0:
            status[d] = LayerStatus.EMPTY
        elif problem.free[d]:
            status[d] = LayerStatus.FREE
        elif value >= 1:
            status[d] = LayerStatus.FULL
    open_layers = [d for d, s in enumerate(status) if s is LayerStatus.UNDECIDED]
    for d in _broken(problem, epsilon, open_layers, attack) if open_layers else ():
        status[d] = LayerStatus.MAXIMAL
    return tuple(status)


def _broken(problem: Problem, epsilon: np.ndarray, layers: list[int], attack: PGD) -> list[int]:
    """Which layers, raised by one grey level, have a witness that replays."""
    regions = [_raised(problem, epsilon, d) for d in layers]
    boxes = [region.box() for region in regions]
    padding = [boxes[0]] * (max(problem.layers.shape) - len(boxes))
    lower, upper = (
        jnp.stack([getattr(box, side) for box in boxes + padding]) for side in ("lower", "upper")
    )
    form = problem.query.property.form(problem.graph.label_count).astype("float32")
    with search_precision():
        key = jax.random.key(attack.seed)
        points, margins = descend(attack, problem.graph, form, lower, upper, key, problem.deadline)
    problem.queries[f"{attack.name} (maximality)"] += len(layers)
    return [
        d
        for d, region, point, margin in zip(layers, regions, points, margins)
        if margin <= 0 and _replays(problem, region, point)
    ]


def _raised(problem: Problem, epsilon: np.ndarray, layer: int) -> LayeredNeighborhood:
    raised = np.asarray(epsilon, np.float32).copy()
    raised[layer] = min(1.0, raised[layer] + GREY_LEVEL)
    return LayeredNeighborhood(problem.x, problem.layers, raised)


def _replays(problem: Problem, region: LayeredNeighborhood, point: np.ndarray) -> bool:
    return (
        judge(problem.query.over(region), Evidence(point=point), "PGD").status is Status.NOT_ROBUST
    )
