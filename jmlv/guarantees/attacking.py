"""Points from attacks on several sets of labels at once, anywhere in a box."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np
from jaxtyping import Float32

from jmlv.attacks import Attack, AttackResult, Decision, Flip, attack
from jmlv.oracles import Deadline, Query, TimeUp
from jmlv.oracles.aside import run_until

SPARE = 1e-6
"""The budget's share beyond the farthest corner, so that rounding cuts nothing off."""

Groups = Sequence[tuple[int, ...]]
"""Sets of labels whose decisions are attacked, each by a copy of the input."""


def attacked_points(
    query: Query,
    x: np.ndarray,
    groups: Groups,
    decision: Decision,
    methods: Sequence[Attack],
    deadline: Deadline,
) -> Iterator[Float32[np.ndarray, "group *shape"]]:
    """What each method finds, in time, one point for each set of labels; nothing is claimed of it.

    The box is the attack's domain, so it may have any shape. Who takes the points settles them: a ball
    in another norm, or with weights, is left.

    Args:
        query: the network and the region.
        x: the input that is attacked.
        groups: sets of labels; empty ones are left out.
        decision: which labels are predicted.
        methods: each of its own norm.
        deadline: a method that is not done by then, or that the network defeats, finds nothing.
    """
    groups = tuple(tuple(map(int, group)) for group in groups if group)
    lower, upper = np.asarray(query.lower, np.float32), np.asarray(query.upper, np.float32)
    start = np.clip(np.asarray(x, np.float32), lower, upper)
    reach = np.maximum(upper - start, start - lower)
    if not groups or not reach.any():
        return
    images = np.repeat(start[None], len(groups), 0)
    options = {"decision": decision, "domain": (lower, upper)}
    for number, method in enumerate(methods):
        budget = _budget(query, method, reach)
        ask = partial(attack, query.graph, images, Flip(groups), method, **options)
        work = partial(_images, ask, budget * (1 + SPARE))
        try:
            yield run_until(deadline.share(1 / (len(methods) - number)), work)
        except (TimeUp, ValueError):  # such as gradients that are NaN: no point, and no harm
            continue


def _budget(query: Query, method: Attack, reach: np.ndarray) -> float:
    """The farthest corner of the box; in l2 the radius of a ball, which its weights may shorten, and
    which is that of all its layers together."""
    if method.norm == "linf":
        return float(reach.max())
    whole = float(np.linalg.norm(reach))
    if query.ball is None:
        return whole
    ball = query.ball.exact()
    return min(whole, float(np.linalg.norm(ball.radii) / ball.weights.min()))


def _images(
    ask: Callable[..., AttackResult], budget: float, deadline: Deadline
) -> Float32[np.ndarray, "group *shape"]:
    return ask(budgets=[budget]).images[0]
