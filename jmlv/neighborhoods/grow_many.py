"""The verb ``grow_many``: neighbourhoods of many images, which advance together."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from functools import partial

from jaxtyping import Array, Float

from jmlv.bounds import CROWN, BoundMethod
from jmlv.graph import Classifier
from jmlv.neighborhoods.arguments import Weights, layer_query, weights_of
from jmlv.neighborhoods.grown import GrownNeighborhood
from jmlv.neighborhoods.run import Case, Run
from jmlv.neighborhoods.strategies.layer_search import LayerSearch
from jmlv.neighborhoods.strategies.strategy import Strategy
from jmlv.neighborhoods.together import Together
from jmlv.oracles import PGD, Deadline, Oracle, Query
from jmlv.oracles.aside import POLL
from jmlv.progress import Bar, NoProgress, Progress
from jmlv.properties import Property
from jmlv.regions import Layers

Finished = Iterator[tuple[int, GrownNeighborhood]]


def grow_many(
    f: Classifier,
    images: Float[Array, "image height width channel"],
    layers: Sequence[Layers],
    properties: Property | Sequence[Property],
    strategy: Strategy | None = None,
    *,
    weights: Weights | None = None,
    budget: float | None = 60.0,
    bound: BoundMethod = CROWN(),
    oracle: Oracle | None = None,
    maximality: PGD | None = PGD(restarts=4, steps=30),
    together: int = 8,
    workers: int | None = None,
    progress: Progress = NoProgress(),
) -> Finished:
    """Grows a layered neighbourhood of every image, as :func:`jmlv.grow` does of one.

    Several images advance together: what their strategies ask is answered in common batches, which
    are spread over all devices that JAX has, while complete oracles are asked in processes of their
    own. Results come as they finish.

    Args:
        f: the network.
        images: values in [0, 1].
        layers: the layers of each image.
        properties: what must hold, of each image or of all.
        strategy, bound, oracle, maximality: as for :func:`jmlv.grow`.
        weights: a function of the layers, such as ``jmlv.decaying``, or one vector for all images.
        budget: seconds for each image from when it begins, compiling included; images that advance
            together share the machine in that time.
        together: images at a time, at most.
        workers: complete queries at a time, at most; by default as many as there are processors.
        progress: shows finished images.

    Returns:
        An iterator over pairs: the image's number and its neighbourhood. All arguments are checked
        when this is called; the work begins with the iteration and ends with it. After a keyboard
        interrupt the images under way come as they stand before it is raised on.

    Raises:
        UnsupportedOperation: ``f`` has operations without a sound rule.
        ValueError, TypeError: arguments do not fit, or a property does not hold at its image; the
            message says for which image.

    >>> import jax.numpy as jnp, numpy as np, jmlv
    >>> f = lambda x: jnp.stack([x[:, 1, 1, 0], x[:, 0, 0, 0], 0 * x[:, 0, 1, 0]], -1)
    >>> images = np.zeros((2, 2, 2, 1), np.float32); images[:, 1, 1, 0] = 0.75, 0.5
    >>> layers = [jmlv.Layers.around(np.array([[True, False], [False, False]]))] * 2
    >>> found = dict(jmlv.grow_many(f, images, layers, jmlv.InTopK(0, k=1), jmlv.Uniform()))
    >>> print(np.round(found[0].epsilon, 2), np.round(found[1].epsilon, 2))
    [0.37 0.37] [0.25 0.25]
    """
    Deadline(budget)
    workers = (os.cpu_count() or 1) if workers is None else workers
    for name, count in (("together", together), ("workers", workers)):
        if count < 1:
            raise ValueError(f"{name}: must be at least 1, got {count}.")
    cases = _cases(f, images, layers, properties, weights)
    run = Run(LayerSearch() if strategy is None else strategy, bound, oracle, maximality)
    evaluator = Together(len(cases), together, workers)
    grown = partial(_grown, run, evaluator, budget)
    return _results(grown, cases, evaluator, partial(progress.bar, run.strategy.name))


def _cases(f, images, layers, properties, weights) -> list[Case]:
    """What to grow, checked."""
    if isinstance(properties, Property):
        properties = [properties] * len(images)
    if not len(images) == len(layers) == len(properties):
        counts = f"{len(images)} images, {len(layers)} layers, {len(properties)} properties"
        raise ValueError(f"layers, properties: expected one for each image, got {counts}.")
    cases: list[Case] = []
    for i, (x, around, property) in enumerate(zip(images, layers, properties)):
        graph = cases[0].query().network if cases else None
        try:
            query = layer_query(f, x, around, property, graph)
            values = weights_of(weights, around)
            cases.append(Case(query.lower, around, property, values, partial(_same, query)))
        except (TypeError, ValueError) as error:
            raise type(error)(f"image {i}: {error}") from error
    if not cases:
        raise ValueError("images: expected at least one.")
    return cases


def _same(query: Query) -> Query:
    return query


def _results(
    grown: Callable[[Deadline, Case], GrownNeighborhood],
    cases: Sequence[Case],
    evaluator: Together,
    bar_of: Callable[[int], Bar],
) -> Finished:
    together = Deadline(None)
    with (
        bar_of(len(cases)) as bar,
        ThreadPoolExecutor(evaluator.slots) as pool,
    ):
        futures = {pool.submit(grown, together, case): i for i, case in enumerate(cases)}
        left = set(futures)
        try:
            yield from _finished(futures, left, bar)
        except KeyboardInterrupt:
            _end(evaluator, together, left)
            yield from _finished(futures, {f for f in left if not f.cancelled()}, bar)
            raise
        finally:
            _end(evaluator, together, left)


def _grown(
    run: Run, evaluator: Together, budget: float | None, together: Deadline, case: Case
) -> GrownNeighborhood:
    return run(case, evaluator, NoProgress().bar(""), together.within(budget))


def _finished(futures: dict[Future, int], left: set[Future], bar: Bar) -> Finished:
    """Results as they come; waits in short turns, in which an interrupt is heard."""
    while left:
        for future in wait(left, POLL, FIRST_COMPLETED).done:
            left.discard(future)
            result = future.result()
            bar.update(1, size=result.size)
            yield futures[future], result


def _end(evaluator: Together, together: Deadline, left: set[Future]) -> None:
    for future in left:
        future.cancel()
    evaluator.stop()
    together.expire()
