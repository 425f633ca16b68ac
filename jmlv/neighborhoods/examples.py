"""Images in and just outside a neighbourhood, for people to look at: found by attacks, proving nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import jax
import numpy as np
from jaxtyping import Float

from jmlv.errors import SoundnessError
from jmlv.example import Example, Ways
from jmlv.graph import Classifier, Graph
from jmlv.graph.fingerprint import fingerprint
from jmlv.numerics import GREY_LEVEL, search_precision
from jmlv.oracles import PGD, Deadline, Query
from jmlv.oracles.verify import ask
from jmlv.regions import LayeredNeighborhood
from jmlv.shown import at_most
from jmlv.verdict import Status, Verdict

if TYPE_CHECKING:
    from jmlv.neighborhoods.grown import GrownNeighborhood

_RANDOM = "Every pixel drawn at random between the ends of its epsilon."
_WEAKEST = "The input with the smallest margin that the search came by."

ATTACK = PGD(restarts=8, steps=30)
BATCH = 64
"""Inputs that are scored at a time."""

LEVELS = 256
"""Grey levels that there are to go outward by."""


def unscored(result: GrownNeighborhood) -> list[Example]:
    """What can be shown without the network: a random image inside, and the weakest that is known."""
    found = [Example("A random image inside", _RANDOM, _random(result))]
    weakest = result.verdict.witness
    if weakest is not None and result.region.contains(weakest):
        found.append(Example("The worst image known inside", _WEAKEST, weakest))
    return found


def scored(
    f: Classifier, result: GrownNeighborhood, deadline: Deadline
) -> tuple[list[Example], Ways]:
    """A random and the worst image found inside, a counterexample just outside, and their scores.

    The worst one is the weaker of the verdict's own and of what an attack finds inside. The
    counterexample is sought with every layer raised by as few grey levels as the attack manages with
    (doubled until it succeeds, then bisected); it is replayed like any witness.

    Raises:
        SoundnessError: a counterexample lies inside a neighbourhood that is ROBUST.
        ValueError: the neighbourhood was grown on another network.
    """
    query = Query.of(f, result.region, result.property)
    _require_same_network(query.network, result)
    examples = [
        Example("A random image inside", _RANDOM, _random(result)),
        _worst(query, result, deadline),
    ]
    outside = _outside(query, result, deadline)
    examples += [] if outside is None else [outside]
    ways = Ways.of(result.layers.count, result.x.size)
    return [_with_scores(query, result, ways, example) for example in examples], ways


def _random(result: GrownNeighborhood) -> np.ndarray:
    box = result.region.box()
    lower, upper = np.asarray(box.lower), np.asarray(box.upper)
    drawn = np.random.default_rng(0).uniform(size=lower.shape)
    return np.clip(lower + drawn * (upper - lower), lower, upper).astype(lower.dtype)


def _worst(query: Query, result: GrownNeighborhood, deadline: Deadline) -> Example:
    attacked = ask(query, ATTACK, deadline)
    _require_agreement(result, attacked)
    known = [
        (verdict.upper, verdict.witness)
        for verdict in (attacked, result.verdict)
        if verdict.witness is not None and result.region.contains(verdict.witness)
    ]
    if not known:
        return Example("The image itself", "No weaker input was found in time.", result.x)
    margin, point = min(known, key=lambda pair: pair[0])
    told = f"{_WEAKEST} Its margin is {at_most(margin)}."
    return Example("The worst image found inside", told, point)


def _outside(query: Query, result: GrownNeighborhood, deadline: Deadline) -> Example | None:
    """The counterexample that needs the fewest grey levels beyond the epsilons, if one is found."""
    fails, broken, levels = 0, None, 1
    while levels <= LEVELS and not deadline.passed:
        verdict = _attack(query, result, levels, deadline)
        if verdict.status is Status.NOT_ROBUST:
            broken = levels, verdict
            break
        fails, levels = levels, 2 * levels
    if broken is None:
        return None
    while broken[0] - fails > 1 and not deadline.passed:
        middle = (fails + broken[0]) // 2
        verdict = _attack(query, result, middle, deadline)
        if verdict.status is Status.NOT_ROBUST:
            broken = middle, verdict
        else:
            fails = middle
    return _counterexample(result, *broken)


def _attack(query: Query, result: GrownNeighborhood, levels: int, deadline: Deadline) -> Verdict:
    verdict = ask(query.over(_raised(result, levels)), ATTACK, deadline)
    _require_agreement(result, verdict)
    return verdict


def _raised(result: GrownNeighborhood, levels: int) -> LayeredNeighborhood:
    epsilon = np.minimum(
        1, np.asarray(result.epsilon, np.float32) + np.float32(levels * GREY_LEVEL)
    )
    return LayeredNeighborhood(result.x, result.layers, epsilon)


def _counterexample(result: GrownNeighborhood, levels: int, verdict: Verdict) -> Example:
    beyond = result.layers.reach(result.x, verdict.witness) - result.epsilon
    layers = int((beyond > 1e-6).sum())
    inside = result.region.contains(verdict.witness)
    where = "inside" if inside else "just outside"
    told = (
        f"With every layer raised by {levels} grey level{'s' if levels > 1 else ''} an attack "
        f"succeeds: this image breaks what is asked, replayed in float64 and as deployed. "
        f"It leaves the epsilon of {layers} of {result.layers.count} layers, each by at most "
        f"{max(beyond.max(), 0):.3g}."
    )
    return Example(f"A counterexample {where}", told, verdict.witness)


def _require_same_network(network: Graph, result: GrownNeighborhood) -> None:
    found = fingerprint(network)
    if result.network and result.network != found:
        raise ValueError(
            f"f: the neighbourhood was grown on the network {result.network[:12]}, this one is "
            f"{found[:12]}. Pass the one that it was grown on, or none."
        )


def _require_agreement(result: GrownNeighborhood, verdict: Verdict) -> None:
    """Raises if a replayed counterexample lies in a neighbourhood that is proven."""
    broken = verdict.status is Status.NOT_ROBUST and result.verdict.robust
    if broken and result.region.contains(verdict.witness):
        raise SoundnessError(
            f"a counterexample with margin {verdict.upper:.4g} lies in a neighbourhood that is "
            f"{result.claim}: a defect."
        )


def _with_scores(query: Query, result: GrownNeighborhood, ways: Ways, example: Example) -> Example:
    images = _on_the_way(result, ways, np.asarray(example.x, np.float32))
    total = len(ways.stops) * len(ways.shares)
    rows = [
        _scores(query.graph, np.stack([images(n % total) for n in range(start, start + BATCH)]))
        for start in range(0, total, BATCH)
    ]
    scores = np.concatenate(rows)[:total].reshape(len(ways.stops), len(ways.shares), -1)
    margins = np.asarray(query.property.margin(scores))
    return Example(example.name, example.told, example.x, scores, margins)


def _on_the_way(
    result: GrownNeighborhood, ways: Ways, end: np.ndarray
) -> Callable[[int], np.ndarray]:
    """The n-th image on the way to an input: shares within stops; the last one is that input."""
    x, places = np.asarray(result.x, np.float32), np.asarray(result.layers.places)

    def image(number: int) -> np.ndarray:
        stop, share = divmod(number, len(ways.shares))
        part = np.float32(ways.shares[share])
        moved = end if part == 1 else np.clip(x + part * (end - x), 0, 1)
        return np.where(places <= ways.stops[stop], moved, x)

    return image


def _scores(graph: Graph, x: Float[np.ndarray, "batch *image"]) -> Float[np.ndarray, "batch label"]:
    with search_precision():
        return np.asarray(_compiled(graph, x))


_compiled = jax.jit(lambda graph, x: graph.scores(x))
