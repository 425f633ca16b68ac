"""Certified margins of many candidates, of one image or of several, in batches of few shapes."""

from __future__ import annotations

import abc
import contextlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float, Int

from jmlv.bounds.method import BoundMethod, Interval
from jmlv.graph import Graph, Variable
from jmlv.margin_form import MarginForm
from jmlv.numerics import search_precision


class Task(NamedTuple):
    """One image: the property's margin, the pixels, and the layer of each (``Layers.places``).

    ``known`` are intervals of inner neurons that hold on every neighbourhood that is asked about.
    """

    form: MarginForm
    x: Float[Array, "height width channel"]
    places: Int[Array, "..."]
    known: Mapping[Variable, Interval]


Question = Callable[[BoundMethod, Graph, Task, Float[Array, " layer"]], Array]
"""What is asked of one candidate: :func:`margin` or :func:`slope`."""


def margin(
    bound: BoundMethod, graph: Graph, task: Task, epsilon: Float[Array, " layer"]
) -> Float[Array, ""]:
    """The bound's lower margin over a layered neighbourhood."""
    radius = epsilon[task.places]
    lower, upper = jnp.clip(task.x - radius, 0, 1), jnp.clip(task.x + radius, 0, 1)
    arguments = graph, lower, upper, task.form.coefficients, task.form.offsets
    rows = bound.rows_within(*arguments, task.known) if task.known else bound.rows(*arguments)
    return task.form.combine(rows.lower)


slope: Question = jax.grad(margin, argnums=3)
"""The gradient of :func:`margin` with respect to the epsilons."""


class Request(NamedTuple):
    """Candidates of one image: a row of epsilons each, over as many layers as there can be."""

    question: Question
    bound: BoundMethod
    graph: Graph
    task: Task
    epsilons: Float[np.ndarray, "candidate layer"]


class Evaluator(abc.ABC):
    """Answers the questions of growing strategies."""

    stopped: bool = False
    """Whether all that ask are to give up."""

    @abc.abstractmethod
    def __call__(self, request: Request) -> np.ndarray:
        """One answer for each candidate."""

    @abc.abstractmethod
    def member(self, over: Callable[[], bool]) -> contextlib.AbstractContextManager[None]:
        """Around all that the search for one image asks, in the thread that asks it.

        Args:
            over: whether its time is up, so that another image may have taken its place.
        """

    @abc.abstractmethod
    def away(self) -> contextlib.AbstractContextManager[None]:
        """Around work that asks nothing, such as a complete oracle's."""


class Direct(Evaluator):
    """Answers at once."""

    def __call__(self, request: Request) -> np.ndarray:
        return evaluate([request], 1)[0]

    def member(self, over: Callable[[], bool]) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def away(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()


PIECES = (1, 4, 16, 64, 256)
"""Candidates in a compiled batch on each device: few sizes, so that little is compiled."""

LARGEST = {"cpu": 16}
"""The largest piece that pays on a platform: beyond it a CPU's cache is too small."""


def evaluate(requests: Sequence[Request], slots: int) -> list[np.ndarray]:
    """Answers requests of one question, bound and network together, spread over all devices.

    Args:
        requests: whose tasks have one structure.
        slots: images that a compiled batch has room for, at least as many as requests.

    Returns:
        One array of answers a request.
    """
    first = requests[0]
    tasks = [*(r.task for r in requests), *[first.task] * (slots - len(requests))]
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *tasks)
    counts = [len(r.epsilons) for r in requests]
    owner = np.repeat(np.arange(len(requests)), counts)
    rows = np.concatenate([r.epsilons for r in requests])
    devices, answers, start = jax.device_count(), [], 0
    for size in _pieces(len(rows), devices):
        padded = (
            _padded(owner[start : start + size], size),
            _padded(rows[start : start + size], size),
        )
        with search_precision():
            found = _answers(first.question, first.bound, devices, first.graph, stacked, *padded)
        answers.append(np.asarray(found)[: len(rows) - start])
        start += size
    return np.split(np.concatenate(answers), np.cumsum(counts)[:-1])


def _pieces(count: int, devices: int) -> list[int]:
    """Sizes that hold so many rows: the largest that fits, or the next one if half of it is used.

    >>> _pieces(45, 1), _pieces(5, 1)
    ([16, 16, 16], [4, 1])
    """
    largest = LARGEST.get(jax.default_backend(), PIECES[-1])
    sizes = [devices * size for size in PIECES if size <= largest]
    found = []
    while count > 0:
        fitting = [size for size in sizes if size < 2 * count] or sizes[:1]
        found.append(fitting[-1])
        count -= fitting[-1]
    return found


def _padded(rows: np.ndarray, size: int) -> np.ndarray:
    return np.concatenate([rows, np.repeat(rows[:1], size - len(rows), 0)])


@partial(jax.jit, static_argnums=(0, 1, 2))
def _answers(
    question: Question,
    bound: BoundMethod,
    devices: int,
    graph: Graph,
    tasks: Task,
    owner: Int[Array, " candidate"],
    epsilons: Float[Array, "candidate layer"],
) -> Float[Array, "candidate ..."]:
    def many(graph: Graph, tasks: Task, owner: Array, epsilons: Array) -> Array:
        def one(which: Array, epsilon: Array) -> Array:
            return question(bound, graph, jax.tree.map(lambda v: v[which], tasks), epsilon)

        return jax.vmap(one)(owner, epsilons)

    if devices == 1:
        return many(graph, tasks, owner, epsilons)
    rows, whole = PartitionSpec("candidate"), PartitionSpec()
    mesh = Mesh(np.array(jax.devices()), ("candidate",))
    spread = jax.shard_map(
        many, mesh=mesh, in_specs=(whole, whole, rows, rows), out_specs=rows, check_vma=False
    )
    return spread(graph, tasks, owner, epsilons)
