"""A program under construction: steps, weights, and the layouts in which each value is at hand.

Convolutions and pools work with channels last, whatever the file does. So a value may be there with
its axes in several orders; operators that don't care work in the one that it was computed in.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np

from jmlv.interop.onnx_reader.network import Program, Step
from jmlv.interop.onnx_reader.node import Order


@dataclasses.dataclass(eq=False)
class Value:
    """A computed value.

    Attributes:
        shape: in the file's layout.
        views: its number in the program, by the order of its axes; the first is how it was computed.
    """

    shape: tuple[int, ...]
    views: dict[Order, int]

    @property
    def order(self) -> Order:
        """The order in which it was computed."""
        return next(iter(self.views))

    def transposed(self, order: Order) -> Value:
        """The same value with its axes in another order in the file."""
        shape = tuple(self.shape[axis] for axis in order)
        views = {tuple(map(order.index, seen)): number for seen, number in self.views.items()}
        return Value(shape, views)


def unmoved(rank: int) -> Order:
    """The file's own layout."""
    return tuple(range(rank))


def channels_last(rank: int) -> Order:
    """
    >>> channels_last(4)
    (0, 2, 3, 1)
    """
    return (0, *range(2, rank), 1)[:rank]


def laid(constant: np.ndarray, order: Order) -> np.ndarray:
    """A constant with its axes in an order, axes of length one put in front; a scalar as it is."""
    if constant.ndim == 0:
        return constant
    longer = constant.reshape((1,) * (len(order) - constant.ndim) + constant.shape)
    return np.ascontiguousarray(longer.transpose(order))


def transpose(x: Any, *, order: Order) -> Any:
    return x.transpose(order)


class ProgramBuilder:
    """The steps and weights so far.

    Args:
        shape: of the input, which is value 0.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.steps: list[Step] = []
        self.weights: list[np.ndarray] = []
        self.arrays = [jax.ShapeDtypeStruct(shape, np.float32)]
        self.input = Value(shape, {unmoved(len(shape)): 0})

    def weight(self, value: np.ndarray) -> int:
        """The number of a new weight."""
        self.weights.append(value)
        return -len(self.weights)

    def view(self, value: Value, order: Order) -> int:
        """The number of a value with its axes in an order; it is transposed if it has to be."""
        if order not in value.views:
            turn = tuple(map(value.order.index, order))
            (number,) = self.step(transpose, {"order": turn}, [value.views[value.order]])
            value.views[order] = number
        return value.views[order]

    def step(
        self, function: Callable[..., Any], settings: Mapping[str, Any], operands: Sequence[Any]
    ) -> list[int]:
        """The numbers of the results of a new step."""
        shapes = [None if n is None else self._described(n) for n in operands]
        results = jax.eval_shape(partial(function, **settings), *shapes)
        results = results if isinstance(results, tuple) else (results,)
        first = len(self.arrays)
        self.arrays.extend(results)
        numbers = list(range(first, len(self.arrays)))
        self.steps.append(
            Step(function, tuple(sorted(settings.items())), tuple(operands), tuple(numbers))
        )
        return numbers

    def value(self, number: int, order: Order | None) -> Value:
        """A result as a value, computed in an order of axes or, for None, in the file's own."""
        found = self.arrays[number].shape
        order = unmoved(len(found)) if order is None else order
        return Value(
            tuple(found[order.index(axis)] for axis in unmoved(len(found))), {order: number}
        )

    def is_truth(self, value: Value) -> bool:
        """Whether a value's entries are truth values."""
        return self.arrays[value.views[value.order]].dtype == bool

    def finish(self, output: Value, batched: bool) -> tuple[Program, list[np.ndarray]]:
        """The program that computes a value, without dead steps, and the weights that it reads."""
        last = self.view(output, unmoved(len(output.shape)))
        steps = _alive(self.steps, last)
        read = dict.fromkeys(n for step in steps for n in step.operands if n is not None and n < 0)
        computed = dict.fromkeys([0, *(n for step in steps for n in step.results)])
        numbers: dict[int | None, int | None] = {None: None}
        numbers.update({n: -1 - place for place, n in enumerate(read)})
        numbers.update({n: place for place, n in enumerate(computed)})
        program = Program(
            tuple(_renumbered(step, numbers) for step in steps), numbers[last], batched
        )
        return program, [self.weights[-1 - n] for n in read]

    def _described(self, number: int) -> jax.ShapeDtypeStruct:
        if number >= 0:
            return self.arrays[number]
        return jax.ShapeDtypeStruct(self.weights[-1 - number].shape, np.float32)


def _alive(steps: Sequence[Step], last: int) -> list[Step]:
    """The steps that a value is computed from."""
    wanted, kept = {last}, []
    for step in reversed(steps):
        if wanted & set(step.results):
            wanted.update(n for n in step.operands if n is not None)
            kept.append(step)
    return kept[::-1]


def _renumbered(step: Step, numbers: Mapping[int | None, int | None]) -> Step:
    operands, results = (tuple(numbers[n] for n in side) for side in (step.operands, step.results))
    return dataclasses.replace(step, operands=operands, results=results)
