"""The verb ``attack``: one goal, one method, a whole curve of budgets."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32, Key

from jmlv.attacks.decisions import Decision, Threshold, TopK
from jmlv.attacks.goals import Aim, Goal
from jmlv.attacks.network import Network, scores_of, split
from jmlv.attacks.problem import Attack, Found, Problem, column
from jmlv.attacks.projection import distance
from jmlv.attacks.result import AttackResult
from jmlv.graph import Classifier
from jmlv.numerics import search_precision
from jmlv.progress import NoProgress, Progress
from jmlv.regions import IMAGES, Domain, require_input
from jmlv.require import require_kind


def attack(
    f: Classifier,
    x: Float[Array | np.ndarray, "image *shape"],
    goal: Goal,
    method: Attack,
    *,
    budgets: Sequence[float] | None = None,
    key: Key[Array, ""] | None = None,
    mask: Any = None,
    decision: Decision | None = None,
    domain: Domain = IMAGES,
    progress: Progress = NoProgress(),
) -> AttackResult:
    """Looks for images near ``x`` that are classified as the goal says.

    No image returned leaves its budget, its domain or the mask, whatever the method does: the last
    projection is made here (:mod:`jmlv.attacks.projection` states the rule), and success, flips and
    distances are computed from the projected float32 images.

    Args:
        f: any JAX function ``f(x) -> scores``, a Flax NNX module or a graph.
        x: images in the domain, (image, height, width, channel) or any other inputs; taken as
            float32.
        goal: what the images should be classified as.
        method: how to search.
        budgets: largest distances, in the method's norm; one batch of images is returned for each.
            Methods that look for the smallest change may do without, and take a budget as a ball that
            their images are pulled back into.
        key: random numbers of methods that use them; by default those of seed 0.
        mask: what may change: pixels, (height, width) or (image, height, width), of images whose
            channel comes last; or entries, of the shape of one input or of all. By default all.
        decision: which labels count as predicted: by default those with a probability above 0.5, or
            the goal's own rule (top k).
        domain: which values inputs may have, as for :func:`jmlv.Box.around`: images by default.
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
    require_kind("goal", goal, Goal, "Hide(label)")
    require_kind("method", method, Attack, "SLAM()")
    decision = _decision(goal, decision)
    with search_precision():
        problem, before = _problem(f, x, goal, decision, mask, key, domain, progress)
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
    domain: Domain = IMAGES,
    progress: Progress = NoProgress(),
) -> Problem:
    """The checked problem that methods and analysis tools work on; arguments as of `attack`."""
    with search_precision():
        return _problem(f, x, goal, _decision(goal, decision), mask, key, domain, progress)[0]


def _problem(f, x, goal, decision, mask, key, domain, progress) -> tuple[Problem, np.ndarray]:
    x = _images(x, domain)
    network, weights = split(f, decision)
    scores = _first_scores(network, weights, x)
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
        domain=domain,
    )
    return problem, scores


def _sealed(
    found: Found, problem: Problem, budgets: tuple[float, ...], method: Attack, already: np.ndarray
) -> Float32[np.ndarray, "budget image *shape"]:
    """The found images inside budget, domain and mask; the original where nothing was to do."""
    held = column(already, problem.x)
    return np.stack(
        [
            np.where(held, problem.x, problem.project(images, budget, method.norm))
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
    if goal.adds_only and isinstance(decision, TopK):
        raise ValueError(
            f"decision: {goal} only adds labels, and got {decision}, which has no room for more; "
            "expected a Threshold."
        )
    return implied or decision or Threshold()


def _first_scores(network: Network, weights: Any, x: np.ndarray) -> np.ndarray:
    """The scores of the images, of which ``f`` may say here that they do not fit it."""
    try:
        return np.asarray(scores_of(network, weights, jnp.asarray(x)))
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"x: expected (image, *shape) as f takes them; f fails on {x.shape} ({error})."
        ) from error


def _images(x: Any, domain: Domain) -> Float32[np.ndarray, "image *shape"]:
    shape = np.shape(x)
    if len(shape) < 2 or not np.size(x):
        raise ValueError(
            f"x: expected (image, height, width, channel) or another shape with at least one input, "
            f"got {shape}."
        )
    require_input(x, "x", domain)
    return np.asarray(x, np.float32)


def _budgets(budgets: Sequence[float] | None, method: Attack) -> tuple[float, ...]:
    if budgets is None:
        if method.needs_budgets:
            raise ValueError(f"budgets: {type(method).__name__} needs at least one, got None.")
        return (np.inf,)
    values = tuple(float(budget) for budget in np.atleast_1d(np.asarray(budgets, np.float64)))
    if not values or not all(0 < budget < np.inf for budget in values):
        raise ValueError(f"budgets: expected positive finite numbers, got {list(values)}.")
    return values


def _free(mask: Any, x: np.ndarray) -> Bool[np.ndarray, "image *shape"]:
    if mask is None:
        return np.ones(x.shape, bool)
    mask = np.asarray(mask).astype(bool)
    if x.ndim == 4 and mask.shape in (x.shape[:3], x.shape[1:3]):
        mask = mask[..., None]
    elif mask.shape not in (x.shape, x.shape[1:]):
        raise ValueError(f"mask: shape {mask.shape} does not fit images of {x.shape}.")
    free = np.broadcast_to(mask, x.shape)
    if not free.reshape(len(x), -1).any(1).all():
        raise ValueError("mask: no pixel is set on some image, so nothing may change there.")
    return free


def _require_scores(scores: np.ndarray, images: int) -> None:
    if scores.ndim != 2 or len(scores) != images:
        raise ValueError(f"f: expected scores (image, label), got shape {scores.shape}.")
    if scores.shape[1] < 2:
        raise ValueError("f: has one label only; multi-label attacks need at least two.")
    if not np.isfinite(scores).all():
        raise ValueError("f: its scores on x hold NaN or infinite values.")
