"""A net under the normaliser: the graph computes what the function does, for each input by itself.

The function is run on a batch of points, the graph on each of them. They must agree, and what the
function says of a point must depend neither on the other points of the batch nor on their number.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jmlv.errors import SoundnessError
from jmlv.graph.ir import Graph

POINTS, FEW_POINTS, LARGE = 16, 8, 50_000
"""How many points are compared, and how many where an input has more than so many entries."""

RELATIVE = 4096
"""Units in the last place, of the largest value that a score takes at the points, by which graph and
function may differ there: what sums of thousands of terms, layer after layer, round by."""

NOISE = 64
"""The same of the largest value of all scores: for scores that are zero but for rounding."""


def require_same_function(
    function: Callable[[Any], Any], graph: Graph, ends: tuple[np.ndarray, np.ndarray] | None = None
) -> None:
    """Compares a function with the graph that was read from it.

    Args:
        function: what is deployed.
        graph: read from it.
        ends: of a box of inputs; by default the points are from the unit box and around it.

    Raises:
        ValueError: a row of scores depends on the other rows of the batch, on their number, or on
            chance.
        SoundnessError: the graph computes something else.
    """
    points = _points(graph, ends)
    half = len(points) // 2
    with jax.default_matmul_precision("highest"), jax.debug_nans(False):
        scores = _batched(function, graph, points)
        if scores is None:
            scores = np.concatenate([np.asarray(function(jnp.asarray(x[None]))) for x in points])
        else:
            others = _batched(function, graph, _with_other_rows(points, half))
            slack = _slack(scores, graph.dtype, NOISE)
            if others is None or not _agree(scores[:half], others[:half], slack):
                raise ValueError(
                    "f: the scores of an input depend on the other inputs of the batch, or on "
                    "chance (a batch norm or dropout in training mode, a mean over axis 0?); "
                    "what is proven of one input would not hold for a batch."
                )
        read = np.asarray(_scores(graph, jnp.asarray(points)))
        slack = _slack(scores, graph.dtype, RELATIVE)
        if _agree(scores, read, slack):
            return
        worst = np.argmax(_excess(scores, read, slack).max(1))
        alone = np.asarray(function(jnp.asarray(points[worst : worst + 1])))
        if _agree(alone, read[worst : worst + 1], slack):
            raise ValueError("f: the scores of an input depend on how many inputs the batch has.")
    raise SoundnessError(_difference(scores, read, slack))


_scores = jax.jit(Graph.scores)


def _points(graph: Graph, ends: tuple[np.ndarray, np.ndarray] | None) -> np.ndarray:
    """The centre, both ends, corners, and points between them; around the unit box without a box."""
    shape, rng = graph.input_shape, np.random.default_rng(0)
    count = POINTS if graph.input.size <= LARGE else FEW_POINTS
    lower, upper = (np.zeros(shape), np.ones(shape)) if ends is None else ends
    shares = rng.random((count, *shape))
    shares[:3] = np.reshape([0.5, 0.0, 1.0], (3, *(1,) * len(shape)))
    shares[3 : count // 2] = shares[3 : count // 2] > 0.5
    points = np.clip(lower + shares * (np.asarray(upper, float) - lower), lower, upper)
    if ends is None:
        points[-count // 4 :] = rng.normal(size=points[-count // 4 :].shape) * 3
    with np.errstate(over="ignore"):  # ends that the precision cannot hold are named afterwards
        return points.astype(graph.dtype)


def _with_other_rows(points: np.ndarray, kept: int) -> np.ndarray:
    """The first points beside others: far away, and one that is not a number at all."""
    others = points.copy()
    others[kept:] = np.random.default_rng(1).uniform(-100, 100, others[kept:].shape)
    others[-1] = np.nan
    return others


def _batched(function: Callable, graph: Graph, points: np.ndarray) -> np.ndarray | None:
    """Scores of all points at once; None where the function takes one input at a time."""
    try:
        scores = np.asarray(function(jnp.asarray(points)))
    except Exception:
        return None
    rows, labels = len(points), graph.label_count
    if scores.ndim == 2 and scores.shape[1] == labels and len(scores) != rows:
        raise ValueError(
            f"f: of {rows} inputs it gives {len(scores)} rows of scores: what is proven of one "
            "input would not hold for a batch."
        )
    return scores if scores.shape == (rows, labels) else None


def _slack(scores: np.ndarray, dtype: str, units: int) -> np.ndarray:
    """How far each score may be off."""
    sizes = np.abs(np.where(np.isfinite(scores), scores, 0))
    eps = np.finfo(dtype).eps
    return eps * (units * sizes.max(0) + NOISE * sizes.max(initial=0))


def _agree(a: np.ndarray, b: np.ndarray, slack: np.ndarray) -> bool:
    with np.errstate(invalid="ignore"):
        close = np.abs(a.astype(float) - b) <= slack
    return bool(np.all(close | (a == b) | (np.isnan(a) & np.isnan(b))))


def _excess(scores: np.ndarray, read: np.ndarray, slack: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        return np.nan_to_num(np.abs(scores.astype(float) - read) - slack, nan=np.inf)


def _difference(scores: np.ndarray, read: np.ndarray, slack: np.ndarray) -> str:
    excess = _excess(scores, read, slack)
    point, label = np.unravel_index(np.argmax(excess), excess.shape)
    return (
        f"f: at one of {len(scores)} points its score {label} is {scores[point, label]:.9g}, and "
        f"that of the graph read from it {read[point, label]:.9g}. Either f loses its digits to "
        "rounding there (try it in float64), or the graph is wrong: please report f."
    )
