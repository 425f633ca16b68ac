"""From a file's nodes to a program: what depends on no input is folded, the rest becomes steps.

A transposition of the file is no step: it is another name for its operand.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jmlv.interop.onnx_reader.builder import ProgramBuilder, Value, channels_last, laid, unmoved
from jmlv.interop.onnx_reader.model import Content, attributes, named
from jmlv.interop.onnx_reader.network import Program
from jmlv.interop.onnx_reader.node import Call, Damaged, Node, Order, Refused, Rule, Same
from jmlv.interop.onnx_reader.operators import RULES

DOMAINS = ("", "ai.onnx")

MISTAKES = (
    ArithmeticError, AttributeError, LookupError, MemoryError, TypeError, ValueError,
)  # fmt: skip
"""What rules and array functions raise where a node does not fit its operands."""

BOUNDLESS = {"Clip", "Max", "Min", "Pad", "Where"}
"""Operators for which an infinite constant says something."""


class ProgramWriter:
    """What is known of a file's values so far, by name.

    Args:
        content: the file.
        source: the input's name.
        shape: that it has in the program.
        folder: of the file.
        widen: whether rounding to half precision is left out.
    """

    def __init__(
        self, content: Content, source: str, shape: tuple[int, ...], folder: Path, widen: bool
    ) -> None:
        self.widen = widen
        self.opset = content.opset
        self.folder = folder
        self.builder = ProgramBuilder(shape)
        self.constants = dict(content.constants)
        self.values = {source: self.builder.input}
        self.shapes = {source: shape}
        self.truths: set[str] = set()
        self.sequences: dict[str, tuple[str, ...]] = {}
        self.unknown: set[str] = set()
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
            self._require_names(proto, makers)
            problem = self._problem(proto)
            if problem is not None:
                self.unknown.update(proto.output)
                problems.extend([problem] if problem else [])
        if problems:
            raise Refused("; ".join(problems))

    def finish(self, output: str, batched: bool) -> tuple[Program, list[np.ndarray], int]:
        """The program that computes an output, its weights, and how many scores it has."""
        if output not in self.values:
            constant = output in self.constants
            raise Damaged(
                f"its output {output!r} "
                + ("does not depend on the input" if constant else "is not computed")
            )
        if output in self.truths:
            raise Refused(f"scores {output!r} that are truth values")
        value = self.values[output]
        program, weights = self.builder.finish(value, batched)
        return program, weights, int(np.prod(value.shape, dtype=int))

    def _require_names(self, proto: Any, makers: Mapping[str, Any]) -> None:
        """Every operand is known, and no result yet."""
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
            return named(proto) + ("" if proto.domain in DOMAINS else f" of {proto.domain}")
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
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            shapes = self._shapes(proto)
            raise Damaged(f"{named(proto)} does not fit its operands {shapes} ({reason})") from None
        return None

    def _shapes(self, proto: Any) -> str:
        constants = {name: value.shape for name, value in self.constants.items()}
        known = constants | self.shapes
        return ", ".join(str(known.get(name, "-")) for name in proto.input)

    def _read(self, proto: Any, rule: Rule) -> None:
        node = Node(
            proto.op_type, self.opset, tuple(proto.input), tuple(proto.output),
            attributes(proto, self.opset, self.folder), self.used, self.constants, self.shapes,
            self.truths, self.sequences, self.widen,
        )  # fmt: skip
        result = rule(node)
        node.require_all_read()
        if isinstance(result, np.ndarray):
            self._keep(node.outputs[0], result)
        elif isinstance(result, Same):
            self._alias(node.outputs[0], result)
        else:
            self._call(node, result)

    def _alias(self, name: str, same: Same) -> None:
        if same.operand in self.constants:
            value = self.constants[same.operand]
            self._keep(name, value if same.order is None else value.transpose(same.order))
        else:
            value = self.values[same.operand]
            self._define(name, value if same.order is None else value.transposed(same.order))

    def _call(self, node: Node, call: Call) -> None:
        operands = [self.constants.get(v, v) if isinstance(v, str) else v for v in call.operands]
        while operands and operands[-1] is None:
            operands.pop()
        if call.folds and not any(isinstance(v, str) for v in operands):
            self._fold(node, call, operands)
        else:
            self._step(node, call, operands)

    def _fold(self, node: Node, call: Call, operands: Sequence[np.ndarray]) -> None:
        settings = call.settings
        if callable(settings):
            settings = settings(unmoved(max((v.ndim for v in operands), default=0)))
        result = call.function(*operands, **settings)
        results = result if isinstance(result, tuple) else (result,)
        for name, value in zip(self._names(node, call, len(results)), results):
            self._keep(name, np.asarray(value))

    def _step(self, node: Node, call: Call, operands: Sequence[Any]) -> None:
        order = self._order(call, operands)
        settings = call.settings(order) if callable(call.settings) else call.settings
        orders = [order] * len(operands)
        if call.channels_last:
            orders[1:] = [None] * (len(operands) - 1)
        numbers = [self._number(node, v, own) for v, own in zip(operands, orders)]
        results = self.builder.step(call.function, settings, numbers)
        for name, number in zip(self._names(node, call, len(results)), results):
            self._define(name, self.builder.value(number, order))

    def _order(self, call: Call, operands: Sequence[Any]) -> Order | None:
        """The order of axes that a call works in; None for each operand's own in the file."""
        if not call.channels_last and not callable(call.settings):
            return None
        ranks = [self._rank(v) for v in operands if v is not None]
        if call.channels_last:
            return channels_last(ranks[0])
        computed = [self.values[v] for v in operands if isinstance(v, str)]
        alike = computed and all(len(value.shape) == max(ranks) for value in computed)
        return computed[0].order if alike else unmoved(max(ranks))

    def _rank(self, operand: Any) -> int:
        return len(self.shapes[operand]) if isinstance(operand, str) else operand.ndim

    def _number(self, node: Node, operand: Any, order: Order | None) -> int | None:
        """The number of an operand in an order, or as it is in the file."""
        if operand is None:
            return None
        if isinstance(operand, str):
            rank = self._rank(operand)
            fits = order is not None and len(order) == rank
            return self.builder.view(self.values[operand], order if fits else unmoved(rank))
        if operand.dtype.kind in "iub":
            raise Damaged(f"computes with {operand.dtype} and floating-point numbers at once")
        if not np.isfinite(operand).all() and node.kind not in BOUNDLESS:
            raise Damaged("has an operand that is infinite or NaN")
        return self.builder.weight(operand if order is None else laid(operand, order))

    def _names(self, node: Node, call: Call, count: int) -> Sequence[str]:
        """What the results of a call are called."""
        if not call.sequence:
            return node.outputs
        members = tuple(f"{node.outputs[0]}[{n}]" for n in range(count))
        self.sequences[node.outputs[0]] = members
        return members

    def _define(self, name: str, value: Value) -> None:
        self.values[name] = value
        self.shapes[name] = value.shape
        if self.builder.is_truth(value):
            self.truths.add(name)

    def _keep(self, name: str, value: np.ndarray) -> None:
        if value.dtype.kind not in "iub" and np.isnan(value).any():
            raise Damaged("computes NaN from constants")
        self.constants[name] = value
