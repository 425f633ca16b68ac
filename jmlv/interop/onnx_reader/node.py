"""One node of a file as the operators' rules see it, and what a rule makes of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence, Set
from typing import Any, Union

import numpy as np

Order = tuple[int, ...]
"""A layout: which axis of the file's own layout each axis of an array is."""

Operand = Union[str, np.ndarray, None]
"""A value by its name, a constant, or an operand that is left out."""


class Refused(Exception):
    """What a node asks for and no rule has; all of a file's are named together."""


class Damaged(Exception):
    """What a file breaks of the format."""


@dataclasses.dataclass(frozen=True)
class Call:
    """A function of the reader's own applied to operands.

    Attributes:
        function: of arrays, NumPy's where it folds constants and JAX's otherwise.
        operands: names or constants.
        settings: keyword arguments, hashable; or, where the function may work in any layout, a
            function that gives them for one. Constant operands are then brought into that layout.
        channels_last: the first operand comes with its channels last, and so does the result;
            constant operands are taken as they are.
        folds: whether the function takes NumPy arrays and returns them.
        sequence: whether the results are the members of one sequence, which has the output's name.
    """

    function: Callable[..., Any]
    operands: tuple[Operand, ...]
    settings: Mapping[str, Any] | Callable[[Order], Mapping[str, Any]] = dataclasses.field(
        default_factory=dict
    )
    channels_last: bool = False
    folds: bool = True
    sequence: bool = False


@dataclasses.dataclass(frozen=True)
class Same:
    """The operand itself, its axes perhaps in another order."""

    operand: str
    order: Order | None = None


Result = Union[Call, Same, np.ndarray]
Rule = Callable[["Node"], Result]


@dataclasses.dataclass(eq=False)
class Node:
    """A node, its attributes and what is known of its operands.

    Attributes:
        kind: the operator.
        opset: the version of the operators that the file asks for.
        inputs: names of the operands, empty for one that is left out.
        outputs: names of the results.
        attributes: by name.
        used: the outputs that something reads.
        constants: the constants of the file so far, by name.
        shapes: of the computed values so far, by name, in the file's layout.
        truths: which of the computed values are truth values.
        sequences: the names of the members of each sequence so far.
        widen: whether rounding to half precision is left out.
    """

    kind: str
    opset: int
    inputs: Sequence[str]
    outputs: Sequence[str]
    attributes: Mapping[str, Any]
    used: frozenset[str]
    constants: Mapping[str, np.ndarray]
    shapes: Mapping[str, tuple[int, ...]]
    truths: Set[str] = frozenset()
    sequences: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)
    widen: bool = False
    _read: set[str] = dataclasses.field(default_factory=set)

    def attribute(self, name: str, default: Any = None) -> Any:
        """An attribute's value; whatever no rule asks for is refused."""
        self._read.add(name)
        return self.attributes.get(name, default)

    def needed(self, name: str) -> Any:
        """An attribute that must be there."""
        value = self.attribute(name)
        if value is None:
            raise Damaged(f"has no attribute {name!r}")
        return value

    def choice(self, name: str, default: Any, *allowed: Any) -> Any:
        """An attribute of which some values have a rule."""
        value = self.attribute(name, default)
        if value not in (default, *allowed):
            raise Refused(f"{name}={value}")
        return value

    def irrelevant(self, *names: str) -> None:
        """Attributes that say nothing about inference."""
        self._read.update(names)

    def require_all_read(self) -> None:
        """Refuses attributes that the rule did not read."""
        left = sorted(self.attributes.keys() - self._read)
        if left:
            raise Refused(f"attributes {', '.join(left)} in version {self.opset}")

    def require_one_output(self) -> None:
        """Refuses a node of which more than the first output is read."""
        others = [name for name in self.outputs[1:] if name in self.used]
        if others:
            raise Refused(f"its output {others[0]!r} is read")

    def has(self, number: int) -> bool:
        """Whether an operand is given."""
        return number < len(self.inputs) and self.inputs[number] != ""

    def operand(self, number: int) -> str | None:
        return self.inputs[number] if self.has(number) else None

    @property
    def operands(self) -> tuple[str | None, ...]:
        return tuple(self.operand(n) for n in range(len(self.inputs)))

    def is_constant(self, number: int) -> bool:
        return self.has(number) and self.inputs[number] in self.constants

    def constant(self, number: int, what: str) -> np.ndarray:
        """The value of an operand that must be a constant.

        Args:
            number: of the operand.
            what: the operator calls it.
        """
        if not self.has(number):
            raise Damaged(f"has no operand {what!r}")
        if not self.is_constant(number):
            raise Refused(f"its {what} is computed from the network's input")
        return self.constants[self.inputs[number]]

    def optional(self, number: int, what: str) -> np.ndarray | None:
        """As :meth:`constant`; None if the operand is left out."""
        return self.constant(number, what) if self.has(number) else None

    def integers(self, number: int, name: str, default: Any = None, *, since: int = 1) -> Any:
        """A list of integers: an attribute, and an operand from a version on."""
        if self.opset < since:
            return self.attribute(name, default)
        value = self.optional(number, name)
        return default if value is None else tuple(map(int, np.ravel(value)))

    def number(self, number: int, name: str, default: float, *, since: int = 1) -> float:
        """A number: an attribute, and an operand from a version on."""
        if self.opset < since:
            return float(self.attribute(name, default))
        value = self.optional(number, name)
        if value is not None and value.size != 1:
            raise Damaged(f"has {value.size} numbers for {name}, expected one")
        return default if value is None else float(value.reshape(()))

    def shape(self, number: int) -> tuple[int, ...]:
        """An operand's shape, in the file's layout."""
        if not self.has(number):
            raise Damaged(f"has no operand {number + 1}")
        name = self.inputs[number]
        return self.constants[name].shape if name in self.constants else self.shapes[name]

    def axis(self, axis: int, rank: int) -> int:
        """An axis counted from the front."""
        if not -rank <= axis < rank:
            raise Damaged(f"has axis {axis}, its operand has {rank} axes")
        return axis % rank

    def axes(self, axes: Sequence[int], rank: int) -> tuple[int, ...]:
        """Axes counted from the front, each once."""
        found = tuple(self.axis(axis, rank) for axis in axes)
        if len(set(found)) != len(found):
            raise Damaged(f"names an axis twice: {tuple(axes)}")
        return found

    def elementwise(self, function: Callable[..., Any], *, folds: bool = True, **settings: Any):
        """A call on all operands that acts on every entry alone, in any layout."""
        return Call(function, self.operands, lambda order: settings, folds=folds)


@dataclasses.dataclass(frozen=True, eq=False)
class Fixed:
    """Integers or truth values that are part of a program: an array with a hash."""

    values: np.ndarray

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Fixed)
            and self.values.dtype == other.values.dtype
            and np.array_equal(self.values, other.values)
        )

    def __hash__(self) -> int:
        return hash((self.values.shape, self.values.tobytes()))


def is_float(dtype: np.dtype) -> bool:
    """Whether a type is one of floating-point numbers, those beyond NumPy's own included."""
    return dtype.kind == "f" or dtype.name == "bfloat16"


def is_half(dtype: np.dtype) -> bool:
    return dtype.name in ("float16", "bfloat16")


def in_order(axes: Sequence[int], order: Order) -> tuple[int, ...]:
    """Where axes of the file's layout are in another.

    >>> in_order((1, 2), (0, 2, 3, 1))
    (3, 1)
    """
    return tuple(order.index(axis) for axis in axes)
