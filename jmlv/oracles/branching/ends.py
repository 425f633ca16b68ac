"""What inner units, and the inputs, of one subdomain are known to lie between."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jmlv.bounds import Interval
from jmlv.bounds.crown import sources

if TYPE_CHECKING:
    from jmlv.oracles.branching.subdomains import Task


class Ends(NamedTuple):
    """Ends of the units' intervals, and of the box (of no input, where it is not clipped)."""

    low: Float[Array, "*batch unit"]
    high: Float[Array, "*batch unit"]
    lower: Float[Array, "*batch input"]
    upper: Float[Array, "*batch input"]


def clipped_task(task: Task, unit: Int[Array, " unit"], ends: Ends) -> Task:
    """The task on one subdomain whose units, and box, are known to lie between ends."""
    intervals, start = dict(task.intervals), 0
    for variable in sources(task.graph):
        size, shape = variable.size, variable.shape
        place = jnp.where((unit >= start) & (unit < start + size), unit - start, size)
        low, high = (side.reshape(-1) for side in intervals[variable.index])
        low = low.at[place].max(ends.low.astype(low.dtype), mode="drop")
        high = high.at[place].min(ends.high.astype(high.dtype), mode="drop")
        intervals[variable.index] = Interval(low.reshape(shape), high.reshape(shape))
        start += size
    box = task.box
    if ends.lower.size:
        sides = (end.reshape(box.lower.shape).astype(box.lower.dtype) for end in ends[2:])
        box = Interval(*sides)
    return task._replace(intervals=intervals, box=box)
