"""The text of VNN-LIB 1.0: S-expressions that declare ``X_i`` and ``Y_j`` and assert inequalities.

Read are the dialects of the competition: numbers of any form, sums in any order, coefficients,
``<=``, ``>=``, ``<``, ``>``, ``=`` and ``distinct`` (chained too), ``and``, ``or``, ``not`` and
``=>``. A file of 100,000 lines takes about a second, so the parser is a loop over split text.

Source: https://www.vnnlib.org (VNN-LIB 1.0), as used at VNN-COMP.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Iterator
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from functools import partial
from typing import Union

from jmlv.interop.vnnlib.formula import (
    All,
    Any,
    Formula,
    Linear,
    Unreadable,
    Variable,
    at_most,
    equal,
    negated,
)

Expression = Union[str, list]

_IGNORED = ("set-logic", "set-option", "set-info", "get-model")


def read_text(text: str) -> tuple[int, int, Formula]:
    """How many inputs and outputs are declared, and what is asserted.

    Raises:
        Unreadable: with the reason.
    """
    declared: set[Variable] = set()
    asserted, asked = [], False
    for expression in expressions(text):
        match expression:
            case ["assert", _] if asked:
                raise Unreadable("it asserts more after (check-sat): ask one question a file")
            case ["assert", assertion]:
                asserted.append(_formula(assertion))
            case ["declare-const", str(name), "Real"] | ["declare-fun", str(name), [], "Real"]:
                if _variable(name) in declared:
                    raise Unreadable(f"{name} is declared twice")
                declared.add(_variable(name))
            case ["exit"]:
                break
            case ["check-sat"]:
                asked = True
            case [str(head), *_] if head in _IGNORED:
                pass
            case _:
                raise Unreadable(f"expected declare-const or assert, got {_shown(expression)}")
    counts = [sum(kind == k for k, _ in declared) for kind in "XY"]
    everything = {(kind, i) for kind, count in zip("XY", counts) for i in range(count)}
    if declared != everything or not min(counts):
        raise Unreadable(
            "its inputs X_0, X_1, ... or outputs Y_0, Y_1, ... are not declared in full"
        )
    return *counts, All(tuple(asserted))


def expressions(text: str) -> list[list]:
    """The text's S-expressions as nested lists."""
    stack: list[list] = [[]]
    for token in _tokens(text):
        if token == "(":
            stack.append([])
        elif token == ")":
            if len(stack) < 2:
                raise Unreadable("a parenthesis closes that was not opened")
            done = stack.pop()
            stack[-1].append(done)
        else:
            stack[-1].append(token)
    if len(stack) > 1 or any(isinstance(e, str) for e in stack[0]):
        raise Unreadable("a parenthesis is missing")
    return stack[0]


def lines_of(text: str) -> list[str]:
    """The text's lines, at whose ends comments end: no other character ends one."""
    return re.split(r"\r\n|\n|\r", text)


def _tokens(text: str) -> Iterator[str]:
    for line in lines_of(text):
        code = line.partition(";")[0]
        yield from code.replace("(", " ( ").replace(")", " ) ").split()


def _formula(expression: Expression) -> Formula:
    if isinstance(expression, list) and expression and expression[0] in _CONNECTIVES:
        return _CONNECTIVES[expression[0]](expression[1:])
    if expression in ("true", "false"):
        return All(()) if expression == "true" else Any(())
    raise Unreadable(f"expected and, or, not, =>, <=, >=, <, > or =, got {_shown(expression)}")


def _parts(kind: type, rest: list[Expression]) -> Formula:
    return kind(tuple(map(_formula, rest)))


def _not(rest: list[Expression]) -> Formula:
    if len(rest) != 1:
        raise Unreadable(f"'not' takes one formula, got {_shown(rest)}")
    return negated(_formula(rest[0]))


def _implication(rest: list[Expression]) -> Formula:
    """``a => b => c`` is ``a => (b => c)``."""
    if len(rest) < 2:
        raise Unreadable(f"'=>' takes two formulas, got {_shown(rest)}")
    *conditions, conclusion = map(_formula, rest)
    return Any((*map(negated, conditions), conclusion))


def _chained(relation: Callable[[Linear, Linear], Formula], rest: list[Expression]) -> Formula:
    """``a <= b <= c`` is written ``(<= a b c)``."""
    if len(rest) < 2:
        raise Unreadable(f"a comparison takes two terms, got {_shown(rest)}")
    terms = list(map(_linear, rest))
    found = tuple(itertools.starmap(relation, itertools.pairwise(terms)))
    return found[0] if len(found) == 1 else All(found)


def _distinct(rest: list[Expression]) -> Formula:
    """No two of the terms are equal, neighbours or not."""
    if len(rest) < 2:
        raise Unreadable(f"a comparison takes two terms, got {_shown(rest)}")
    pairs = itertools.combinations(map(_linear, rest), 2)
    found = tuple(negated(equal(left, right)) for left, right in pairs)
    return found[0] if len(found) == 1 else All(found)


def _swapped(relation: Callable, left: Linear, right: Linear) -> Formula:
    return relation(right, left)


_below = partial(at_most, strict=True)

_CONNECTIVES: dict[str, Callable[[list[Expression]], Formula]] = {
    "and": partial(_parts, All),
    "or": partial(_parts, Any),
    "not": _not,
    "=>": _implication,
    "<=": partial(_chained, at_most),
    "<": partial(_chained, _below),
    ">=": partial(_chained, partial(_swapped, at_most)),
    ">": partial(_chained, partial(_swapped, _below)),
    "=": partial(_chained, equal),
    "distinct": _distinct,
}


def _linear(expression: Expression) -> Linear:
    if isinstance(expression, str):
        if expression[:2] in ("X_", "Y_"):
            return Linear({_variable(expression): 1}, 0)
        return Linear({}, number(expression))
    head, *rest = expression or [""]
    terms = list(map(_linear, rest)) if head in ("+", "-", "*", "/") else []
    if head == "+" and terms:
        return Linear.sum((1, term) for term in terms)
    if head == "-" and terms:
        first, *others = terms
        return Linear.sum([(1 if others else -1, first), *((-1, term) for term in others)])
    if head == "*" and terms:
        return product(terms)
    if head == "/" and len(terms) == 2:
        return _quotient(*terms)
    raise Unreadable(f"expected a linear term, got {_shown(expression)}")


def product(terms: list[Linear]) -> Linear:
    """The product of terms of which at most one has variables.

    Raises:
        Unreadable: several have.
    """
    varying = [term for term in terms if term.coefficients]
    factor = math.prod((t.constant for t in terms if not t.coefficients), start=Fraction(1))
    if len(varying) > 1:
        raise Unreadable("expected a linear term, got a product of variables")
    return Linear.sum([(factor, varying[0])]) if varying else Linear({}, factor)


def _quotient(left: Linear, right: Linear) -> Linear:
    if right.coefficients or not right.constant:
        raise Unreadable("expected a linear term, got a division by a variable or by zero")
    return Linear.sum([(1 / Fraction(right.constant), left)])


def number(text: str) -> Fraction:
    """The number exactly as it is written.

    Raises:
        Unreadable: it is none, or float64 cannot come near it.
    """
    try:
        exact = Decimal(text)
    except InvalidOperation:
        raise Unreadable(f"expected a number, X_i or Y_j, got {_shown(text)}") from None
    if not exact.is_finite() or math.isinf(float(text)):
        raise Unreadable(f"{text} is not a finite number")
    if exact and not float(text):
        raise Unreadable(f"{text} is too close to zero")
    return Fraction(exact)


def _variable(name: str) -> Variable:
    kind, _, digits = name.partition("_")
    plain = digits.isascii() and digits.isdigit() and (digits == "0" or digits[0] != "0")
    if kind not in ("X", "Y") or not plain:
        raise Unreadable(f"expected a variable X_i or Y_j, got {_shown(name)}")
    return kind, int(digits)


def _shown(expression: Expression) -> str:
    text = str(expression)
    return text if len(text) <= 80 else text[:77] + "..."
