"""VNN-LIB 2.0, parsed by the package ``vnnlib`` of the format's authors.

Read is what asks about one network with one input and one output; linear, as in version 1.0.

Source: https://www.vnnlib.org (VNN-LIB 2.0).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any as Anything

from jmlv.interop.vnnlib.formula import (
    All,
    Any,
    Formula,
    Linear,
    Unreadable,
    at_most,
    equal,
    negated,
)
from jmlv.interop.vnnlib.text import lines_of, number, product

_VERSION = re.compile(r"\s*\(\s*vnnlib-version\b")


def is_second(text: str) -> bool:
    """Whether the text is of version 2: its first command says so.

    >>> is_second("; a comment\\n(vnnlib-version <2.0>)"), is_second("(declare-const X_0 Real)")
    (True, False)
    """
    for line in lines_of(text):
        code = line.partition(";")[0]
        if code.strip():
            return _VERSION.match(code) is not None
    return False


def read_second(text: str) -> tuple[int, int, Formula]:
    """How many inputs and outputs are declared, and what is asserted.

    Raises:
        ImportError: the package ``vnnlib`` is not installed.
        Unreadable: with the reason.
    """
    try:
        import vnnlib
    except ImportError:
        raise ImportError(
            "path: a VNN-LIB 2.0 file is read by the package vnnlib: pip install 'jmlv[vnnlib]'."
        ) from None
    try:
        query = vnnlib.parse_query_string(text)
    except vnnlib.VNNLibException as error:
        raise Unreadable(_first_problem(str(error))) from None
    if len(query.networks) != 1:
        raise Unreadable(f"it is about {len(query.networks)} networks, expected one")
    (network,) = query.networks
    declared = network.inputs, network.outputs
    if network.hidden or any(len(side) != 1 for side in declared):
        raise Unreadable("expected a network with one input and one output, and no hidden nodes")
    counts = (math.prod(side[0].shape) for side in declared)
    return *counts, All(tuple(_formula(assertion.expr) for assertion in query.assertions))


def _first_problem(message: str) -> str:
    """The parser's message, or the first of its hints."""
    hints = re.findall(r'"(?:hint|message)": "(.*?)",?$', message, re.MULTILINE)
    return (hints or message.splitlines() or ["it is not VNN-LIB 2.0"])[0].rstrip(".")


def _formula(node: Anything) -> Formula:
    kind = type(node).__name__
    if kind in _CONNECTIVES:
        return _CONNECTIVES[kind](tuple(map(_formula, node.args)))
    if kind in _COMPARISONS:
        return _COMPARISONS[kind](_linear(node.lhs), _linear(node.rhs))
    raise Unreadable(f"expected and, or or a comparison, got {node}")


def _linear(node: Anything) -> Linear:
    match type(node).__name__:
        case "Var":
            return Linear({_variable(node): 1}, 0)
        case "Float" | "Int" | "Literal":
            return Linear({}, number(node.lexeme))
        case "Negate":
            return Linear.sum([(-1, _linear(node.expr))])
        case "Plus":
            return Linear.sum((1, _linear(part)) for part in node.args)
        case "Minus":
            return Linear.sum([(1, _linear(node.head)), *((-1, _linear(p)) for p in node.rest)])
        case "Multiply":
            return product(list(map(_linear, node.args)))
    raise Unreadable(f"expected a linear term, got {node}")


_CONNECTIVES = {"And": All, "Or": Any}

_COMPARISONS: dict[str, Callable[[Linear, Linear], Formula]] = {
    "LessEqual": at_most,
    "LessThan": lambda left, right: at_most(left, right, strict=True),
    "GreaterEqual": lambda left, right: at_most(right, left),
    "GreaterThan": lambda left, right: at_most(right, left, strict=True),
    "Equal": equal,
    "NotEqual": lambda left, right: negated(equal(left, right)),
}

_KINDS = {"Input": "X", "Output": "Y"}


def _variable(node: Anything) -> tuple[str, int]:
    """The number of an entry of an array: the last index counts fastest."""
    index = 0
    for place, size in zip(node.indices, node.shape, strict=True):
        index = index * size + place
    return _KINDS[node.kind.name], index
