"""The verb ``grow``: the largest certified layered neighbourhood that a strategy can find."""

from __future__ import annotations

import dataclasses
import functools

from jaxtyping import Array, Float

from jmlv.bounds import CROWN, BoundMethod
from jmlv.graph import Classifier
from jmlv.neighborhoods.arguments import Weights, image_of, layer_query, weights_of
from jmlv.neighborhoods.certified_part import with_certificate
from jmlv.neighborhoods.evaluation import Direct
from jmlv.neighborhoods.grown import GrownNeighborhood
from jmlv.neighborhoods.optimum.upper_bound import ATTACK, bound_sizes
from jmlv.neighborhoods.run import Case, Run
from jmlv.neighborhoods.strategies.layer_search import LayerSearch
from jmlv.neighborhoods.strategies.strategy import Strategy
from jmlv.oracles import PGD, Deadline, Oracle
from jmlv.progress import NoProgress, Progress
from jmlv.properties import Property
from jmlv.regions import Layers


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
    certify: float | None = None,
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
        budget: seconds for everything, tracing and compiling included. What is certified when they
            end is returned. The first of them certify the image alone and what a few queries about
            one epsilon for all layers can; that is returned where the search is cut off before it
            finds more.
        bound: the certificate of the search.
        oracle: gives the final confirmation; by default PGD (which must fail), CROWN, alpha-CROWN,
            then SCIP.
        maximality: attacks the result with each layer one grey level larger, to say which layers
            are maximal; None leaves them undecided.
        optimality: seconds, beside the budget, for an upper bound on the size of any robust
            neighbourhood (:func:`jmlv.size_upper_bound`); None leaves that out.
        certify: seconds, beside the budget, for a certificate that :mod:`jmlv_check` can replay:
            ``grown.certificate``, of the whole neighbourhood, else of a part with epsilons up to 30 %
            smaller: ``grown.certificate_epsilon`` says which (where the whole has none,
            ``grown.verdict.stats["certificate"]`` says why). None looks for none.
        progress: shows queries and the best size.

    Returns:
        The largest neighbourhood found and its verdict. Epsilons never exceed 1. A keyboard
        interrupt ends the search, not the call, at any moment, also while something compiles: what
        is certified is returned; the verdict is ``UNKNOWN`` only where nothing was certified yet.

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
    for name, seconds in (("optimality", optimality), ("certify", certify)):
        if seconds is not None and not seconds > 0:
            raise ValueError(f"{name}: must be a positive number of seconds, got {seconds}.")
    deadline = Deadline(budget)
    x, values = image_of(x, layers), weights_of(weights, layers)
    query = functools.cache(lambda: layer_query(f, x, layers, property))
    run = Run(LayerSearch() if strategy is None else strategy, bound, oracle, maximality)
    with progress.bar(run.strategy.name) as bar:
        grown = run(Case(x, layers, property, values, query), Direct(), bar, deadline)
    if certify is not None:
        grown = with_certificate(query, grown, Deadline(certify))
    if optimality is None:
        return grown
    with progress.bar("upper bound") as bar:
        upper = bound_sizes(query, layers, values, ATTACK, Deadline(optimality), bar)
    return dataclasses.replace(grown, upper_bound=upper)
