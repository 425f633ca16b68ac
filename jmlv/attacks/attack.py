"""The verb ``attack``: one goal, one method, a whole curve of budgets."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32, Key

from jmlv.attacks.decisions import Decision, Threshold
from jmlv.attacks.goals import Aim, Goal
from jmlv.attacks.network import scores_of, split
from jmlv.attacks.problem import Attack, Found, Problem
from jmlv.attacks.projection import distance, project
from jmlv.attacks.result import AttackResult
from jmlv.graph import Classifier
from jmlv.numerics import search_precision
from jmlv.progress import NoProgress, Progress
from jmlv.regions import require_image


def attack(
    f: Classifier,
    x: Float[Array | np.ndarray, "image height width channel"],
    goal: Goal,
    method: Attack,
    *,
    budgets: Sequence[float] | None = None,
    key: Key[Array, ""] | None = None,
    mask: Any = None,
    decision: Decision | None = None,
    progress: Progress = NoProgress(),
) -> AttackResult:
    """Looks for images near ``x`` that are classified as the goal says.

    No image returned leaves its budget, [0, 1] or the mask, whatever the method does: the last
    projection is made here (:mod:`jmlv.attacks.projection` states the rule), and success, flips and
    distances are computed from the projected float32 images.

    Args:
        f: any JAX function ``f(x) -> scores``, a Flax NNX module or a graph.
        x: images in [0, 1]; taken as float32.
        goal: what the images should be classified as.
        method: how to search.
        budgets: largest distances, in the method's norm; one batch of images is returned for each.
            Methods that look for the smallest change may do without, and take a budget as a ball that
            their images are pulled back into.
        key: random numbers of methods that use them; by default those of seed 0.
        mask: pixels that may change, (height, width) or (image, height, width); by default all.
        decision: which labels count as predicted: by default those with a probability above 0.5, or
            the goal's own rule (top k).
        progress: how to show that a long call is getting on.

    Returns:
        Images and account. Images on which the goal already holds come back unchanged, marked in
        ``already``.

    Raises:
        ValueError: images leave [0, 1], a budget is not positive, the mask is empty, the classifier
            has one label only, scores or gradients are NaN, or the arguments do not fit together.

    >>> from jmlv.attacks import MIFGSM, Hide
    >>> f = lambda x: x.reshape(-1, 2) - jnp.array([0.5, 0.5])
    >>> x = np.full((1, 1, 2, 1), 0.6, np.float32)
    >>> result = attack(f, x, Hide(0), MIFGSM(), budgets=[0.05, 0.15])
    >>> result.success[:, 0].tolist()
    [False, True]
    """
    start = time.perf_counter()
    decision = _decision(goal, decision)
    with search_precision():
        problem, before = _problem(f, x, goal, decision, mask, key, progress)
        allowed = _budgets(budgets, method)
        already = np.asarray(problem.aim.reached(problem.margins))
        found = method.run(problem, allowed) if not already.all() else _untouched(problem, allowed)
        images = _sealed(found, problem, allowed, method, already)
        scores = np.stack([np.asarray(_scores(problem, batch)) for batch in images])
    margins = np.asarray(decision.margins(scores))
    return AttackResult(
        images=images,
        success=np.stack([np.asarray(problem.aim.reached(batch)) for batch in margins]),
        flipped=(margins > 0) != (problem.margins > 0),
        linf=distance(images, problem.x, "linf"),
        l2=distance(images, problem.x, "l2"),
        rmsd=255 * distance(images, problem.x, "l2") / np.sqrt(problem.entries),
        iterations=np.where(already, 0, found.iterations),
        seconds=time.perf_counter() - start,
        budgets=allowed,
        already=already,
        scores_before=before,
        scores=scores,
        goal=goal,
        method=method,
        decision=decision,
    )


def pose(
    f: Classifier,
    x: Any,
    goal: Goal,
    *,
    decision: Decision | None = None,
    mask: Any = None,
    key: Key[Array, ""] | None = None,
    progress: Progress = NoProgress(),
) -> Problem:
    """The checked problem that methods and analysis tools work on; arguments as of `attack`."""
    with search_precision():
        return _problem(f, x, goal, _decision(goal, decision), mask, key, progress)[0]


def _problem(f, x, goal, decision, mask, key, progress) -> tuple[Problem, np.ndarray]:
    x = _images(x)
    network, weights = split(f, decision)
    scores = np.asarray(scores_of(network, weights, jnp.asarray(x)))
    _require_scores(scores, len(x))
    decision.require(scores.shape[1])
    margins = np.asarray(decision.margins(scores))
    problem = Problem(
        network=network,
        weights=weights,
        x=x,
        aim=_on_device(goal.aim(margins > 0)),
        free=_free(mask, x),
        margins=margins,
        key=jax.random.key(0) if key is None else key,
        progress=progress,
    )
    return problem, scores


def _sealed(
    found: Found, problem: Problem, budgets: tuple[float, ...], method: Attack, already: np.ndarray
) -> Float32[np.ndarray, "budget image height width channel"]:
    """The found images inside budget, box and mask; the original where nothing was to do."""
    held = already[:, None, None, None]
    return np.stack(
        [
            np.where(held, problem.x, project(images, problem.x, problem.free, budget, method.norm))
            for images, budget in zip(found.images, budgets)
        ]
    )


def _untouched(problem: Problem, budgets: tuple[float, ...]) -> Found:
    images = np.broadcast_to(problem.x, (len(budgets), *problem.x.shape))
    return Found(images, np.zeros((len(budgets), len(problem.x)), int))


def _scores(problem: Problem, images: np.ndarray) -> np.ndarray:
    return np.asarray(scores_of(problem.network, problem.weights, jnp.asarray(images)))


def _on_device(aim: Aim) -> Aim:
    return jax.tree.map(jnp.asarray, aim)


def _decision(goal: Goal, decision: Decision | None) -> Decision:
    implied = goal.decision
    if implied is not None and decision is not None and decision != implied:
        raise ValueError(f"decision: {goal} decides by {implied}, got {decision}. Leave it out.")
    return implied or decision or Threshold()


def _images(x: Any) -> Float32[np.ndarray, "image height width channel"]:
    require_image(x, "x")
    x = np.asarray(x, np.float32)
    if x.ndim != 4 or not x.size:
        raise ValueError(
            f"x: expected (image, height, width, channel) with at least one image, got {x.shape}."
        )
    return x


def _budgets(budgets: Sequence[float] | None, method: Attack) -> tuple[float, ...]:
    if budgets is None:
        if method.needs_budgets:
            raise ValueError(f"budgets: {type(method).__name__} needs at least one, got None.")
        return (np.inf,)
    values = tuple(float(budget) for budget in np.atleast_1d(np.asarray(budgets, np.float64)))
    if not values or not all(0 < budget < np.inf for budget in values):
        raise ValueError(f"budgets: expected positive finite numbers, got {list(values)}.")
    return values


def _free(mask: Any, x: np.ndarray) -> Bool[np.ndarray, "image height width channel"]:
    if mask is None:
        return np.ones(x.shape, bool)
    mask = np.asarray(mask).astype(bool)
    if mask.shape not in (x.shape[:3], x.shape[1:3]):
        raise ValueError(f"mask: shape {mask.shape} does not fit images of {x.shape}.")
    if not mask.reshape(-1, mask.shape[-2] * mask.shape[-1]).any(1).all():
        raise ValueError("mask: no pixel is set on some image, so nothing may change there.")
    return np.broadcast_to(mask[..., None], x.shape)


def _require_scores(scores: np.ndarray, images: int) -> None:
    if scores.ndim != 2 or len(scores) != images:
        raise ValueError(f"f: expected scores (image, label), got shape {scores.shape}.")
    if scores.shape[1] < 2:
        raise ValueError("f: has one label only; multi-label attacks need at least two.")
    if not np.isfinite(scores).all():
        raise ValueError("f: its scores on x hold NaN or infinite values.")
