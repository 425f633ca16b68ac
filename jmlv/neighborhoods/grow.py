"""The verb ``grow``: the largest certified layered neighbourhood that a strategy can find."""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Array, Float

from jmlv.bounds import CROWN, AlphaCROWN, BoundMethod
from jmlv.graph import Classifier
from jmlv.neighborhoods.arguments import Weights, free_layers, layer_query, weights_of
from jmlv.neighborhoods.grown import GrownNeighborhood
from jmlv.neighborhoods.layer_search import LayerSearch
from jmlv.neighborhoods.maximality import LayerStatus, layer_statuses
from jmlv.neighborhoods.problem import OutOfTime, Problem
from jmlv.neighborhoods.strategy import Strategy
from jmlv.neighborhoods.upper_bound import ATTACK, bound_sizes
from jmlv.oracles import MILP, PGD, Bounds, Cascade, Deadline, Oracle, SoundnessError
from jmlv.progress import NoProgress, Progress
from jmlv.properties import Property
from jmlv.regions import Layers
from jmlv.verdict import Status, Verdict


def grow(
    f: Classifier,
    x: Float[Array, "height width channel"],
    layers: Layers,
    property: Property,
    strategy: Strategy | None = None,
    *,
    weights: Weights | None = None,
    budget: float | None = 60.0,
    bound: BoundMethod = CROWN(),
    oracle: Oracle | None = None,
    maximality: PGD | None = PGD(restarts=4, steps=30),
    optimality: float | None = None,
    progress: Progress = NoProgress(),
) -> GrownNeighborhood:
    """Grows a layered neighbourhood of ``x`` in which a property provably holds.

    Args:
        f: the network.
        x: one image, values in [0, 1].
        layers: the layers around the perturbed object, ``Layers.around(mask)``.
        property: what must hold, such as ``InTopK(target, 2)``.
        strategy: how to search; by default ``LayerSearch()``.
        weights: one weight per layer, or a function of the layers (``jmlv.decaying``); equal by
            default.
        budget: seconds. What is certified when they end is returned.
        bound: the certificate of the search.
        oracle: gives the final confirmation; by default PGD (which must fail), CROWN, alpha-CROWN,
            then SCIP.
        maximality: attacks the result with each layer one grey level larger, to say which layers
            are maximal; None leaves them undecided.
        optimality: seconds, beside the budget, for an upper bound on the size of any robust
            neighbourhood (:func:`jmlv.size_upper_bound`); None leaves that out.
        progress: shows queries and the best size.

    Returns:
        The largest neighbourhood found and its verdict. Epsilons never exceed 1. A keyboard
        interrupt ends the search, not the call: what is certified is returned.

    Raises:
        UnsupportedOperation: ``f`` has operations without a sound rule.
        ValueError: arguments do not fit, or the property does not hold at ``x`` itself.

    >>> import jax.numpy as jnp, numpy as np, jmlv
    >>> f = lambda x: jnp.stack([x[:, 1, 1, 0], x[:, 0, 0, 0], 0 * x[:, 0, 1, 0]], -1)
    >>> x = np.zeros((2, 2, 1), np.float32); x[1, 1] = 0.75
    >>> layers = jmlv.Layers.around(np.array([[True, False], [False, False]]))
    >>> grown = jmlv.grow(f, x, layers, jmlv.InTopK(0, k=1), jmlv.Uniform())
    >>> print(np.round(grown.epsilon, 2), grown.verdict.status.name)
    [0.37 0.37] ROBUST
    """
    deadline = Deadline(budget)
    if optimality is not None and not optimality > 0:
        raise ValueError(f"optimality: must be a positive number of seconds, got {optimality}.")
    strategy = LayerSearch() if strategy is None else strategy
    query = layer_query(f, x, layers, property)
    with progress.bar(strategy.name) as bar:
        problem = Problem(
            query=query,
            layers=layers,
            weights=weights_of(weights, layers),
            bound=bound,
            deadline=Deadline(None),
            clock=deadline,
            bar=bar,
            free=free_layers(query.graph, layers),
        )
        reason = _search(
            problem, strategy, deadline.within(None if budget is None else 0.9 * budget)
        )
    if oracle is None:
        oracle = Cascade((PGD(), Bounds(bound), Bounds(AlphaCROWN()), MILP(largest=400)))
    grown = _confirmed(problem, strategy, oracle, maximality, deadline, reason)
    if optimality is None:
        return grown
    with progress.bar("upper bound") as bar:
        allowed = Deadline(optimality)
        upper = bound_sizes(query, layers, problem.weights, ATTACK, allowed, bar)
    return dataclasses.replace(grown, upper_bound=upper)


def _search(problem: Problem, strategy: Strategy, deadline: Deadline) -> str:
    """Runs the strategy until the deadline; returns why it ended.

    The image alone is certified first, deadline or not, so that there is something to return.
    """
    if not problem.offer(np.zeros(len(problem.movable))).robust:
        return "the image alone could not be certified"
    problem.deadline = deadline
    try:
        strategy.search(problem)
    except OutOfTime:
        return "the budget ended"
    except KeyboardInterrupt:
        return "interrupted"
    return "the strategy ended"


def _confirmed(
    problem: Problem,
    strategy: Strategy,
    oracle: Oracle,
    maximality: PGD | None,
    deadline: Deadline,
    reason: str,
) -> GrownNeighborhood:
    """The best neighbourhood with the oracle's verdict, or the search's own where that is unknown."""
    epsilon = problem.full(np.zeros(len(problem.movable))) if problem.best is None else problem.best
    problem.deadline = deadline
    verdict = problem.best_verdict or Verdict(Status.UNKNOWN, reason=reason)
    try:
        confirmed = problem.verify(epsilon[problem.movable], oracle)
        _require_agreement(verdict, confirmed)
        verdict = confirmed if confirmed.robust or not verdict.robust else verdict
    except OutOfTime:
        pass  # the search's own certificate stands
    return GrownNeighborhood(
        x=problem.x,
        layers=problem.layers,
        epsilon=epsilon,
        weights=problem.weights,
        property=problem.query.property,
        verdict=verdict,
        free=problem.free,
        statuses=_statuses(problem, epsilon, maximality),
        queries=dict(problem.queries),
        seconds=deadline.elapsed,
        trace=tuple(problem.trace),
        strategy=strategy.name,
        reason=reason,
    )


def _statuses(problem: Problem, epsilon: np.ndarray, attack: PGD | None) -> tuple[LayerStatus, ...]:
    if attack is None or problem.deadline.passed:
        return (LayerStatus.UNDECIDED,) * problem.layers.count
    return layer_statuses(problem, epsilon, attack)


def _require_agreement(searched: Verdict, confirmed: Verdict) -> None:
    if searched.robust and confirmed.status is Status.NOT_ROBUST:
        raise SoundnessError(f"{searched.method} proved what {confirmed.method} broke: {confirmed}")
