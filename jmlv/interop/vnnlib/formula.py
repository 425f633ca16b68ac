"""What a VNN-LIB file asserts, exactly: Boolean combinations of linear inequalities.

Numbers are rationals, so that nothing is rounded before somebody has to.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from typing import NamedTuple, Union

MAXIMUM_CASES = 10_000
"""Cases in the disjunction that a formula may become."""

Variable = tuple[str, int]
"""``("X", i)`` is input i, ``("Y", j)`` output j."""


class Unreadable(Exception):
    """What in the text is not VNN-LIB, or is not read."""


class Linear(NamedTuple):
    """``sum of coefficients + constant``."""

    coefficients: dict[Variable, Fraction | int]
    constant: Fraction | int

    def minus(self, other: Linear) -> Linear:
        """The difference; most often of a variable and a number, without arithmetic then."""
        if self.coefficients and other.coefficients:
            return Linear.sum([(1, self), (-1, other)])
        negative = {v: -c for v, c in other.coefficients.items()}
        constant = self.constant - other.constant if self.constant else -other.constant
        return Linear(self.coefficients or negative, constant if other.constant else self.constant)

    @staticmethod
    def sum(terms: Iterable[tuple[Fraction | int, Linear]]) -> Linear:
        """The sum of terms, each times its factor; variables that cancel are gone."""
        total: dict[Variable, Fraction | int] = {}
        constant = 0
        for factor, term in terms:
            constant += factor * term.constant
            for variable, c in term.coefficients.items():
                total[variable] = total.get(variable, 0) + factor * c
        return Linear({v: c for v, c in total.items() if c}, constant)

    def at(self, inputs: Sequence[Fraction], outputs: Sequence[Fraction]) -> Fraction:
        values = {"X": inputs, "Y": outputs}
        parts = (c * values[kind][i] for (kind, i), c in self.coefficients.items())
        return sum(parts, self.constant)


@dataclasses.dataclass(frozen=True, slots=True)
class Atom:
    """``linear <= 0``, or ``< 0`` if strict."""

    linear: Linear
    strict: bool

    @property
    def kinds(self) -> set[str]:
        return {kind for kind, _ in self.linear.coefficients}


@dataclasses.dataclass(frozen=True, slots=True)
class All:
    """Every part is true; without parts, true."""

    parts: tuple[Formula, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Any:
    """Some part is true; without parts, false."""

    parts: tuple[Formula, ...]


Formula = Union[Atom, All, Any]


def at_most(left: Linear, right: Linear, strict: bool = False) -> Formula:
    """``left <= right``; true or false where no variable is left."""
    linear = left.minus(right)
    if linear.coefficients:
        return Atom(linear, strict)
    true = linear.constant < 0 or (linear.constant == 0 and not strict)
    return All(()) if true else Any(())


def equal(left: Linear, right: Linear) -> Formula:
    return All((at_most(left, right), at_most(right, left)))


def negated(formula: Formula) -> Formula:
    """The formula that is true where this one is false."""
    if isinstance(formula, Atom):
        return Atom(Linear.sum([(-1, formula.linear)]), not formula.strict)
    parts = tuple(map(negated, formula.parts))
    return Any(parts) if isinstance(formula, All) else All(parts)


def holds(formula: Formula, inputs: Sequence[Fraction], outputs: Sequence[Fraction]) -> bool:
    """Whether a point satisfies the formula, in rational arithmetic."""
    if isinstance(formula, Atom):
        value = formula.linear.at(inputs, outputs)
        return value < 0 if formula.strict else value <= 0
    decide: Callable = all if isinstance(formula, All) else any
    return decide(holds(part, inputs, outputs) for part in formula.parts)


class Case(NamedTuple):
    """Inequalities over inputs and formulas over outputs, which all hold in this case."""

    inputs: tuple[Atom, ...] = ()
    outputs: tuple[Formula, ...] = ()


def cases(formula: Formula) -> list[Case]:
    """The formula as a disjunction of cases; what is about outputs alone stays in one piece.

    Raises:
        Unreadable: there are more than `MAXIMUM_CASES`, or an inequality is over inputs and outputs.
    """
    if isinstance(formula, Atom):
        return [_case(formula)]
    if isinstance(formula, Any) and _kinds(formula) <= {"Y"}:
        return [Case(outputs=(formula,))]
    parts = [cases(part) for part in formula.parts]
    if isinstance(formula, Any):
        return list(itertools.chain.from_iterable(parts))
    if math.prod(map(len, parts)) > MAXIMUM_CASES:
        raise Unreadable(f"its assertions have more than {MAXIMUM_CASES} cases")
    joined = (zip(*chosen) for chosen in itertools.product(*parts))
    return [Case(*(tuple(itertools.chain.from_iterable(side)) for side in case)) for case in joined]


def _case(atom: Atom) -> Case:
    kinds = atom.kinds
    if len(kinds) != 1:
        raise Unreadable(
            f"an inequality is over {shown(atom.linear)}: expected one input, or outputs"
        )
    return Case(inputs=(atom,)) if kinds == {"X"} else Case(outputs=(atom,))


def simplified(formula: Formula) -> Formula:
    """The formula without parts that are always true or always false.

    >>> simplified(Any((All(()), Any(()))))
    All(parts=())
    """
    if isinstance(formula, Atom):
        return formula
    kind = type(formula)
    dominating, neutral = (Any(()), All(())) if kind is All else (All(()), Any(()))
    parts = [part for part in map(simplified, formula.parts) if part != neutral]
    if dominating in parts:
        return dominating
    return parts[0] if len(parts) == 1 else kind(tuple(parts))


def shown(linear: Linear) -> str:
    """The variables of a term, for errors."""
    names = [f"{kind}_{i}" for kind, i in sorted(linear.coefficients)]
    return ", ".join(names if len(names) <= 4 else [*names[:4], "..."])


def _kinds(formula: Formula) -> set[str]:
    """Which kinds of variables a formula has."""
    if isinstance(formula, Atom):
        return formula.kinds
    return set().union(*map(_kinds, formula.parts))
