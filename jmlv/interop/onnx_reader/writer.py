"""From a file's nodes to a program: constants are folded, and each value has its layouts.

Convolutions and pools work with channels last, whatever the file does. So a value may be at hand
with its axes in several orders; operators that don't care work in the order that is there, and a
transposition of the file is only another name for its operand.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jmlv.interop.onnx_reader.model import Content, attributes, named
from jmlv.interop.onnx_reader.network import Program, Step
from jmlv.interop.onnx_reader.node import Call, Damaged, Node, Order, Refused, Rule, Same
from jmlv.interop.onnx_reader.operators import RULES

DOMAINS = ("", "ai.onnx")

MISTAKES = (
    ArithmeticError, AttributeError, LookupError, MemoryError, TypeError, ValueError,
)  # fmt: skip
"""What rules and array functions raise where a node does not fit its operands."""

BOUNDLESS = {"Clip", "Max", "Min", "Pad", "Where"}
"""Operators for which an infinite constant says something."""


@dataclasses.dataclass(eq=False)
class Value:
    """A computed value.

    Attributes:
        shape: in the file's layout.
        views: under which number it is at hand, by the order of its axes.
    """

    shape: tuple[int, ...]
    views: dict[Order, int]

    @property
    def order(self) -> Order:
        """The order in which it was computed."""
        return next(iter(self.views))


def transpose(x: Any, *, order: Order) -> Any:
    return x.transpose(order)


class ProgramWriter:
    """What has been read so far.

    Args:
        content: the file.
        source: the input's name.
        shape: that it has in the program.
        folder: of the file.
    """

    def __init__(self, content: Content, source: str, shape: tuple[int, ...], folder: Path) -> None:
        self.opset = content.opset
        self.folder = folder
        self.constants = dict(content.constants)
        self.values = {source: Value(shape, {tuple(range(len(shape))): 0})}
        self.shapes = {source: shape}
        self.truths: set[str] = set()
        self.sequences: dict[str, tuple[str, ...]] = {}
        self.unknown: set[str] = set()
        self.steps: list[Step] = []
        self.weights: list[np.ndarray] = []
        self.arrays: list[jax.ShapeDtypeStruct] = [jax.ShapeDtypeStruct(shape, np.float32)]
        self.used: frozenset[str] = frozenset(v.name for v in content.graph.output)

    def write(self, nodes: Sequence[Any]) -> None:
        """Reads all nodes.

        Raises:
            Damaged: one of them does not fit its operands.
            Refused: names all that have no rule.
        """
        self.used |= {name for node in nodes for name in node.input}
        makers = {name: node for node in nodes for name in node.output}
        problems = []
        for proto in nodes:
            self._require_operands(proto, makers)
            problem = self._problem(proto)
            if problem is not None:
                self.unknown.update(proto.output)
                problems.extend([problem] if problem else [])
        if problems:
            raise Refused("; ".join(problems))

    def _require_operands(self, proto: Any, makers: Mapping[str, Any]) -> None:
        known = self.constants.keys() | self.values.keys() | self.sequences.keys()
        known |= self.unknown | {""}
        for name in proto.input:
            if name not in known and name in makers:
                raise Damaged(
                    f"{named(proto)} reads {name!r}, which only a later node computes: the nodes "
                    "are not sorted, or form a cycle"
                )
            if name not in known:
                raise Damaged(f"{named(proto)} reads {name!r}, which the file does not have")
        for name in proto.output:
            if name and name in known:
                raise Damaged(f"{named(proto)} computes {name!r}, which the file has already")

    def _problem(self, proto: Any) -> str | None:
        """Why a node has no rule; empty if an operand has none; None once it is read."""
        rule = RULES.get(proto.op_type) if proto.domain in DOMAINS else None
        if rule is None:
            domain = "" if proto.domain in DOMAINS else f" of {proto.domain}"
            return f"{named(proto)}{domain}"
        if self.unknown & set(proto.input):
            return ""
        try:
            with np.errstate(all="ignore"):
                self._read(proto, rule)
        except Refused as refused:
            return f"{named(proto)} ({refused})"
        except Damaged as damaged:
            raise Damaged(f"{named(proto)} {damaged}") from None
        except MISTAKES as error:
            shapes = [self.constants[n].shape if n in self.constants else self.shapes.get(n)
                      for n in proto.input]  # fmt: skip
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            shown = ", ".join(map(str, shapes))
            raise Damaged(f"{named(proto)} does not fit its operands {shown} ({reason})") from None
        return None

    def _read(self, proto: Any, rule: Rule) -> None:
        node = Node(
            proto.op_type, self.opset, tuple(proto.input), tuple(proto.output),
            attributes(proto, self.opset, self.folder), self.used, self.constants, self.shapes,
            self.truths, self.sequences,
        )  # fmt: skip
        result = rule(node)
        node.require_all_read()
        self._take(node, result)

    def _take(self, node: Node, result: Any) -> None:
        if isinstance(result, np.ndarray):
            self._keep(node.outputs[0], result)
        elif isinstance(result, Same):
            self._alias(node, result)
        else:
            self._call(node, result)

    def _alias(self, node: Node, same: Same) -> None:
        order = same.order
        if same.operand in self.constants:
            value = self.constants[same.operand]
            self._keep(node.outputs[0], value if order is None else value.transpose(order))
            return
        value = self.values[same.operand]
        order = tuple(range(len(value.shape))) if order is None else order
        shape = tuple(value.shape[axis] for axis in order)
        views = {tuple(map(order.index, seen)): number for seen, number in value.views.items()}
        self._define(node.outputs[0], Value(shape, views))

    def _call(self, node: Node, call: Call) -> None:
        operands = [self.constants.get(v, v) if isinstance(v, str) else v for v in call.operands]
        while operands and operands[-1] is None:
            operands.pop()
        if call.folds and not any(isinstance(v, str) for v in operands):
            self._fold(node, call, operands)
            return
        order = self._order(call, operands)
        settings = call.settings(order) if callable(call.settings) else call.settings
        prepared = call.channels_last or not callable(call.settings)
        numbers = [self._operand(node, v, order, prepared, n) for n, v in enumerate(operands)]
        self._step(node, call, dict(settings), numbers, order)

    def _fold(self, node: Node, call: Call, operands: list[np.ndarray]) -> None:
        settings = call.settings
        if callable(settings):
            rank = max((v.ndim for v in operands), default=0)
            settings = settings(tuple(range(rank)))
        result = call.function(*operands, **settings)
        results = result if isinstance(result, tuple) else (result,)
        for name, value in zip(self._names(node, call, len(results)), results):
            self._keep(name, np.asarray(value))

    def _names(self, node: Node, call: Call, count: int) -> Sequence[str]:
        """What the results of a call are called."""
        if not call.sequence:
            return node.outputs
        members = tuple(f"{node.outputs[0]}[{n}]" for n in range(count))
        self.sequences[node.outputs[0]] = members
        return members

    def _order(self, call: Call, operands: list[Any]) -> Order | None:
        """The order of axes that a call works in; None for the file's own."""
        computed = [self.values[v] for v in operands if isinstance(v, str)]
        if call.channels_last:
            rank = len(computed[0].shape) if computed else operands[0].ndim
            return (0, *range(2, rank), 1)[:rank]
        if not callable(call.settings):
            return None
        if not computed:
            return tuple(range(max(v.ndim for v in operands)))
        rank = len(computed[0].shape)
        fits = all(len(v.shape) == rank for v in computed) and all(
            v.ndim <= rank for v in operands if isinstance(v, np.ndarray)
        )
        ranks = [len(v.shape) for v in computed]
        ranks += [v.ndim for v in operands if isinstance(v, np.ndarray)]
        return computed[0].order if fits else tuple(range(max(ranks)))

    def _operand(
        self, node: Node, operand: Any, order: Order | None, prepared: bool, number: int
    ) -> int | None:
        """The number of an operand in an order: a value's, or a weight's."""
        if operand is None:
            return None
        if isinstance(operand, str):
            value = self.values[operand]
            rank = len(value.shape)
            keeps = order is None or rank != len(order) or (prepared and number > 0)
            return self._view(value, tuple(range(rank)) if keeps else order)
        if not prepared or (number == 0 and order is not None):
            operand = _laid(operand, order)
        return self._weight(node, operand)

    def _view(self, value: Value, order: Order) -> int:
        if order not in value.views:
            turn = tuple(value.order.index(axis) for axis in order)
            shape = tuple(value.shape[axis] for axis in order)
            number = self._new(shape, self.arrays[value.views[value.order]].dtype)
            self.steps.append(
                Step(transpose, (("order", turn),), (value.views[value.order],), (number,))
            )
            value.views[order] = number
        return value.views[order]

    def _new(self, shape: tuple[int, ...], dtype: Any) -> int:
        self.arrays.append(jax.ShapeDtypeStruct(shape, dtype))
        return len(self.arrays) - 1

    def _weight(self, node: Node, value: np.ndarray) -> int:
        if value.dtype.kind in "iub":
            raise Damaged(f"computes with {value.dtype} and floating-point numbers at once")
        if not np.isfinite(value).all() and node.kind not in BOUNDLESS:
            raise Damaged("has an operand that is infinite or NaN")
        self.weights.append(value)
        return -len(self.weights)

    def _step(
        self,
        node: Node,
        call: Call,
        settings: dict[str, Any],
        numbers: Sequence[int | None],
        order: Order | None,
    ) -> None:
        arrays = [
            None if n is None
            else self.arrays[n] if n >= 0
            else jax.ShapeDtypeStruct(self.weights[-1 - n].shape, np.float32)
            for n in numbers
        ]  # fmt: skip
        results = jax.eval_shape(partial(call.function, **settings), *arrays)
        results = results if isinstance(results, tuple) else (results,)
        places = [self._new(result.shape, result.dtype) for result in results]
        step = Step(call.function, tuple(sorted(settings.items())), tuple(numbers), tuple(places))
        hash(step)
        self.steps.append(step)
        for name, number in zip(self._names(node, call, len(places)), places):
            laid = self.arrays[number].shape
            own = tuple(range(len(laid))) if order is None else order
            shape = tuple(laid[own.index(axis)] for axis in range(len(laid)))
            self._define(name, Value(shape, {own: number}))

    def _define(self, name: str, value: Value) -> None:
        self.values[name] = value
        if self.arrays[value.views[value.order]].dtype == bool:
            self.truths.add(name)
        self.shapes[name] = value.shape

    def _keep(self, name: str, value: np.ndarray) -> None:
        if value.dtype.kind not in "iub" and np.isnan(value).any():
            raise Damaged("computes NaN from constants")
        self.constants[name] = value

    def finish(self, output: str, batched: bool) -> tuple[Program, list[np.ndarray], int]:
        """The program that computes an output, without dead steps; its weights and label count."""
        if output not in self.values:
            where = (
                "does not depend on the input" if output in self.constants else "is not computed"
            )
            raise Damaged(f"its output {output!r} {where}")
        if output in self.truths:
            raise Refused(f"scores {output!r} that are truth values")
        value = self.values[output]
        last = self._view(value, tuple(range(len(value.shape))))
        steps = _alive(self.steps, last)
        places = [n for step in steps for n in step.operands if n is not None and n < 0]
        weights = {n: -1 - i for i, n in enumerate(dict.fromkeys(places))}
        values = {0: 0}
        for step in steps:
            values.update({n: len(values) + i for i, n in enumerate(step.results)})
        numbers = {None: None, **weights, **values}
        renamed = tuple(
            dataclasses.replace(
                step,
                operands=tuple(numbers[n] for n in step.operands),
                results=tuple(numbers[n] for n in step.results),
            )
            for step in steps
        )
        kept = [self.weights[-1 - n] for n in weights]
        return Program(renamed, values[last], batched), kept, int(np.prod(value.shape, dtype=int))


def _laid(constant: np.ndarray, order: Order | None) -> np.ndarray:
    """A constant with its axes in an order, axes of length one put in front."""
    if order is None or constant.ndim == 0:
        return constant
    longer = constant.reshape((1,) * (len(order) - constant.ndim) + constant.shape)
    return np.ascontiguousarray(longer.transpose(order))


def _alive(steps: Sequence[Step], last: int) -> list[Step]:
    wanted, kept = {last}, []
    for step in reversed(steps):
        if wanted & set(step.results):
            wanted.update(n for n in step.operands if n is not None)
            kept.append(step)
    return kept[::-1]
