"""The role of a bound: intervals for linear rows of the scores, over a box of inputs."""

from __future__ import annotations

import abc
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from jmlv.graph import Graph


class Interval(NamedTuple):
    """``lower <= value <= upper``, entry by entry."""

    lower: Array
    upper: Array


def with_nan(interval: Interval, *known: Array) -> Interval:
    """The interval with NaN where one of the arrays is NaN, or an end of its own.

    Compiled minima and maxima may lose a NaN: on CPUs XLA makes ``minimum(nan, 1)`` 1 where it fuses them.
    So whatever is made by them from numbers that say 'no bound' goes through this.

    >>> import jax.numpy as jnp
    >>> print(with_nan(Interval(jnp.zeros(2), jnp.ones(2)), jnp.array([jnp.nan, 3.0])).upper)
    [nan  1.]
    """
    unknown = jnp.isnan(interval.lower) | jnp.isnan(interval.upper)
    for array in known:
        unknown = unknown | jnp.isnan(array)
    return Interval(*(jnp.where(unknown, jnp.nan, side) for side in interval))


class BoundMethod(abc.ABC):
    """A frozen dataclass whose fields are the method's options; hashable, so jit may close over it."""

    @property
    @abc.abstractmethod
    def name(self) -> str:
        """The method's name in the field, as tables and statistics show it."""

    @abc.abstractmethod
    def rows(
        self,
        graph: Graph,
        lower: Float[Array, "*image"],
        upper: Float[Array, "*image"],
        coefficients: Float[Array, "row label"],
        offsets: Float[Array, " row"],
    ) -> Interval:
        """Bounds on ``coefficients @ f(x) + offsets`` for every ``x`` between ``lower`` and ``upper``.

        One image, without a batch axis. Pure: goes through ``jit``, ``vmap`` and ``grad``, with
        respect to the box and to the graph's constants, in the precision of its arguments.

        Returns:
            Interval of two (row,) arrays.
        """
