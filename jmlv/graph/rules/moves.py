"""Where the entries of a value come from that was only moved or copied."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jax import lax
from jaxtyping import Int

from jmlv.graph.builder import Builder, evaluate
from jmlv.graph.ir import Variable

MOVES = frozenset({lax.reshape_p, lax.broadcast_in_dim_p, lax.transpose_p})


class Origin(NamedTuple):
    """A value before it was moved, and for each entry the flat number of what it is a copy of."""

    source: Any
    numbers: Int[np.ndarray, "..."]


def origin(b: Builder, value: Variable) -> Origin:
    """The value behind reshapes, transpositions and broadcasts."""
    steps = []
    while True:
        eqn = b.definitions.get(value)
        if eqn is None or eqn.primitive not in MOVES or not isinstance(eqn.invars[0], Variable):
            break
        steps.append(eqn)
        value = eqn.invars[0]
    numbers = np.arange(value.size).reshape(value.shape)
    for eqn in reversed(steps):
        numbers = np.asarray(evaluate(eqn.primitive, [numbers], eqn.params))
    return Origin(value, numbers)


def is_spread(value: Origin, axes: Sequence[int], shape: tuple[int, ...]) -> bool:
    """Whether a value is what remained of an array of this shape without these axes, along them."""
    rest = tuple(1 if i in axes else n for i, n in enumerate(shape))
    expected = np.arange(int(np.prod(rest))).reshape(rest)
    same_rank = value.numbers.ndim == len(shape)
    return (
        same_rank
        and all(a in (1, n) for a, n in zip(value.numbers.shape, shape))
        and np.array_equal(np.broadcast_to(value.numbers, shape), np.broadcast_to(expected, shape))
    )


def unmoved(b: Builder, value: Variable) -> Variable:
    """A value before reshapes that left its entries in order."""
    source, numbers = origin(b, value)
    in_order = numbers.size == source.size
    in_order = in_order and np.array_equal(numbers.ravel(), np.arange(source.size))
    return source if in_order else value


def same_along(numbers: Int[np.ndarray, "..."], axes: Sequence[int]) -> Int[np.ndarray, "..."]:
    """The first entries along some axes in place of all others."""
    first = tuple(slice(0, 1) if a in axes else slice(None) for a in range(numbers.ndim))
    return np.broadcast_to(numbers[first], numbers.shape)


def entries_along(numbers: Int[np.ndarray, "..."], axes: Sequence[int]) -> Int[np.ndarray, "g n"]:
    """A row of the entries along some axes for each place on the others, in order."""
    last = np.moveaxis(numbers, axes, range(-len(axes), 0)) if axes else numbers[..., None]
    return last.reshape(-1, int(np.prod([numbers.shape[a] for a in axes], dtype=int)))
