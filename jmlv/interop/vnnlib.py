"""VNN-LIB: the verification competition's text format for a box and what must not happen in it.

A file declares inputs ``X_i`` and outputs ``Y_j`` and asserts a *violation*: a counterexample is an
input in the box whose outputs satisfy every assertion; 'unsat' means that the property holds. The
inequalities are not strict, and a margin of zero breaks a property here, so the two agree exactly.

Source: https://www.vnnlib.org (VNN-LIB 1.0), as used at VNN-COMP.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Sequence
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple, Union

import numpy as np

from jmlv.errors import DamagedFile
from jmlv.properties import Excludes, Property, Row, Tree
from jmlv.regions import Box, Region

MAXIMUM_CASES = 10_000
"""Cases in the disjunction that a property may become."""


class Specification(NamedTuple):
    """One question: does the property hold everywhere in the region?"""

    region: Box
    property: Excludes


# ---------------------------------------------------------------------------------------------
# Writing
# ---------------------------------------------------------------------------------------------


def write_vnnlib(region: Region, property: Property, label_count: int, path: str | Path) -> None:
    """Writes a box and the violation of a property.

    Inputs are numbered as in the flat image (height, width, channel), which is the input of
    :func:`jmlv.interop.write_onnx`. Numbers are written exactly.

    Raises:
        ValueError: the property does not fit so many labels, or its violation has more than
            `MAXIMUM_CASES` cases.
    """
    cases = violations(property, label_count)
    box = region.box()
    ends = [np.asarray(end, np.float32).reshape(-1) for end in (box.lower, box.upper)]
    lines = [f"; {property!r} is violated"]
    lines += [f"(declare-const X_{i} Real)" for i in range(ends[0].size)]
    lines += [f"(declare-const Y_{i} Real)" for i in range(label_count)]
    for i, (low, high) in enumerate(zip(*ends)):
        lines += [f"(assert (>= X_{i} {_exact(low)}))", f"(assert (<= X_{i} {_exact(high)}))"]
    written = "\n".join(f"    (and {' '.join(map(_inequality, case))})" for case in cases)
    lines.append(f"(assert (or\n{written}\n))")
    Path(path).write_text("\n".join(lines) + "\n")


def violations(property: Property, label_count: int) -> list[tuple[Row, ...]]:
    """The property fails iff all rows of some case are at most zero.

    'The k-th smallest child is at most zero' holds iff some k children are.

    >>> from jmlv.properties import InTopK
    >>> [[row.minus for row in case] for case in violations(InTopK(0, 2), 4)]
    [[1, 2], [1, 3], [2, 3]]
    """
    tree = property.tree(label_count)
    if _count(tree) > MAXIMUM_CASES:
        raise ValueError(
            f"property: its violation has {_count(tree)} cases, more than {MAXIMUM_CASES}. "
            "Write its parts as files of their own."
        )
    return [tuple(dict.fromkeys(case)) for case in _cases(tree)]


def _cases(tree: Tree) -> Iterator[tuple[Row, ...]]:
    if isinstance(tree, Row):
        yield (tree,)
        return
    for chosen in itertools.combinations(tree.children, tree.k):
        for parts in itertools.product(*map(_cases, chosen)):
            yield tuple(itertools.chain.from_iterable(parts))


def _count(tree: Tree) -> int:
    """How many cases there are, without listing them: elementary symmetric sums of the counts."""
    if isinstance(tree, Row):
        return 1
    sums = [1] + [0] * tree.k
    for child in tree.children:
        count = _count(child)
        for size in range(tree.k, 0, -1):
            sums[size] += sums[size - 1] * count
    return sums[tree.k]


def _inequality(row: Row) -> str:
    """``row <= 0``."""
    limit = _exact(-row.offset)
    if row.weights:
        return f"(<= {_sum(row)} {limit})"
    if row.minus is None:
        return f"(<= Y_{row.plus} {limit})"
    if row.plus is None:
        return f"(>= Y_{row.minus} {_exact(row.offset)})"
    difference = f"(- Y_{row.plus} Y_{row.minus})"
    return f"(<= Y_{row.plus} Y_{row.minus})" if row.offset == 0 else f"(<= {difference} {limit})"


def _sum(row: Row) -> str:
    dense = row.dense(max(row.labels) + 1)
    terms = [f"(* {_exact(c)} Y_{label})" for label, c in enumerate(dense) if c]
    return f"(+ {' '.join(terms)})"


def _exact(value: Any) -> str:
    """All digits of a binary number, without an exponent."""
    text = format(Decimal(float(value) + 0.0), "f")  # no minus zero
    return text if "." in text else text + ".0"


# ---------------------------------------------------------------------------------------------
# Reading
# ---------------------------------------------------------------------------------------------


def read_vnnlib(path: str | Path, image_shape: Sequence[int]) -> list[Specification]:
    """Every question of a VNN-LIB file; the file's answer is 'unsat' iff all of them hold.

    Assertions may be nested conjunctions and disjunctions of linear inequalities, each over inputs
    or over outputs. Inputs must come down to boxes inside [0, 1]; cases with the same box become
    one question. Numbers are read exactly, and ends that float32 cannot hold are rounded outward,
    by one unit in the last place: a proof for the larger box is one for the file's, a witness is to
    be checked against it. (Coefficients of outputs are the nearest float64 numbers, which is far
    below what a proof needs as its margin.)

    Args:
        path: of the file.
        image_shape: (height, width, channel) of the network's input; ``X_i`` is entry i of the
            flat image.

    Raises:
        FileNotFoundError: there is no such file.
        DamagedFile: it is not VNN-LIB, or uses what is not read: nonlinear terms, inequalities
            over inputs and outputs together or over several inputs, unbounded inputs.
        ValueError: the inputs are not as many as the image has, or leave [0, 1].
    """
    path = Path(path)
    try:
        inputs, cases = _parse(path.read_text())
    except (_Unreadable, RecursionError, UnicodeDecodeError) as error:
        raise DamagedFile(f"path: {path}: {error}.") from None
    if inputs != math.prod(image_shape):
        raise ValueError(
            f"image_shape: {tuple(image_shape)} does not have the file's {inputs} inputs."
        )
    grouped: dict[tuple[Ends, Ends], list[tuple[Row, ...]]] = {}
    for low, high, rows in cases:
        grouped.setdefault((low, high), []).append(rows)
    return [
        Specification(_box(*ends, image_shape), Excludes(tuple(rows)))
        for ends, rows in grouped.items()
    ]


Ends = tuple[Fraction, ...]
"""One end of every input, exactly as it is written."""


def _box(low: Ends, high: Ends, shape: Sequence[int]) -> Box:
    """The least box of float32 numbers around one of rational numbers."""
    if min(low) < 0 or max(high) > 1:
        raise ValueError(
            "path: its inputs leave [0, 1]; rescale them, and the network's first layer."
        )
    lower = np.array([_outward(end, -1) for end in low])
    upper = np.array([_outward(end, 1) for end in high])
    return Box.between(lower.reshape(shape), upper.reshape(shape))


def _outward(end: Fraction, side: int) -> np.float32:
    """The float32 number nearest to an end that is not inside of it; ``side`` is -1 or 1."""
    found = np.float32(float(end))
    inside = side * (Fraction(float(found)) - end) < 0
    return np.nextafter(found, np.float32(2 * side)) if inside else found


class _Unreadable(Exception):
    """What in the text is not VNN-LIB, or is not read."""


Expression = Union[str, list]


class _Linear(NamedTuple):
    """``sum of coefficients + constant``; variables are ('X' or 'Y', number)."""

    coefficients: dict[tuple[str, int], Fraction]
    constant: Fraction

    def times(self, factor: Fraction | int) -> _Linear:
        scaled = {v: factor * c for v, c in self.coefficients.items()}
        return _Linear(scaled, factor * self.constant)

    def plus(self, other: _Linear) -> _Linear:
        both = dict(self.coefficients)
        for v, c in other.coefficients.items():
            both[v] = both.get(v, 0) + c
        return _Linear(both, self.constant + other.constant)


def _parse(text: str) -> tuple[int, list[tuple[Ends, Ends, tuple[Row, ...]]]]:
    """How many inputs there are, and each case's box and rows."""
    declared, asserted = set(), []
    for expression in _expressions(text):
        if len(expression) == 3 and expression[0] == "declare-const" and expression[2] == "Real":
            declared.add(_variable(expression[1]))
        elif len(expression) == 2 and expression[0] == "assert":
            asserted.append(expression[1])
        elif not expression or expression[0] not in _IGNORED:
            raise _Unreadable(f"expected declare-const or assert, got {_shown(expression)}")
    counts = {kind: sum(k == kind for k, _ in declared) for kind in "XY"}
    if declared != {(kind, i) for kind in "XY" for i in range(counts[kind])} or not min(
        counts.values()
    ):
        raise _Unreadable(
            "its inputs X_0, X_1, ... or outputs Y_0, Y_1, ... are not declared in full"
        )
    cases = _conjunction([_disjunction(expression) for expression in asserted])
    return counts["X"], [_case(case, declared, counts["X"]) for case in cases]


_IGNORED = ("set-logic", "set-option", "set-info", "check-sat", "get-model", "exit")

_TOKEN = re.compile(r"[()]|[^\s()]+")


def _expressions(text: str) -> list[list]:
    """The text's S-expressions as nested lists."""
    stack: list[list] = [[]]
    for token in _TOKEN.findall(re.sub(r";[^\n]*", "", text)):
        if token == "(":
            stack.append([])
        elif token == ")":
            if len(stack) < 2:
                raise _Unreadable("a parenthesis closes that was not opened")
            done = stack.pop()
            stack[-1].append(done)
        else:
            stack[-1].append(token)
    if len(stack) > 1 or any(isinstance(e, str) for e in stack[0]):
        raise _Unreadable("a parenthesis is missing")
    return stack[0]


Case = tuple[_Linear, ...]


def _disjunction(expression: Expression) -> list[Case]:
    """The cases of a formula; in each, every linear expression is at most zero."""
    if isinstance(expression, list) and expression:
        head, *rest = expression
        if head == "or":
            return list(itertools.chain.from_iterable(map(_disjunction, rest)))
        if head == "and":
            return _conjunction([_disjunction(part) for part in rest])
        if head in ("<=", ">=") and len(rest) == 2:
            left, right = map(_linear, rest)
            low, high = (left, right) if head == "<=" else (right, left)
            return [(low.plus(high.times(-1)),)]
    raise _Unreadable(f"expected and, or, <= or >=, got {_shown(expression)}")


def _conjunction(parts: Sequence[list[Case]]) -> list[Case]:
    """All ways to take one case of each part."""
    if math.prod(len(part) for part in parts) > MAXIMUM_CASES:
        raise _Unreadable(f"its assertions have more than {MAXIMUM_CASES} cases")
    return [tuple(itertools.chain.from_iterable(chosen)) for chosen in itertools.product(*parts)]


def _linear(expression: Expression) -> _Linear:
    if isinstance(expression, str):
        number = _number(expression)
        if number is not None:
            return _Linear({}, number)
        return _Linear({_variable(expression): Fraction(1)}, Fraction(0))
    head, *parts = expression or [""]
    terms = [_linear(part) for part in parts] if head in ("+", "-", "*") else []
    if head == "+" and terms:
        return _sum_of(terms)
    if head == "-" and terms:
        first, *rest = terms
        return first.plus(_sum_of(rest).times(-1)) if rest else first.times(-1)
    if head == "*" and terms:
        varying = [term for term in terms if term.coefficients]
        constants = (term.constant for term in terms if not term.coefficients)
        factor = math.prod(constants, start=Fraction(1))
        if len(varying) <= 1:
            return varying[0].times(factor) if varying else _Linear({}, factor)
    raise _Unreadable(f"expected a linear term, got {_shown(expression)}")


def _sum_of(terms: Sequence[_Linear]) -> _Linear:
    total = _Linear({}, Fraction(0))
    for term in terms:
        total = total.plus(term)
    return total


def _number(text: str) -> Fraction | None:
    """The number exactly as it is written; None if it is none."""
    try:
        value = float(text)
    except ValueError:
        return None
    if not math.isfinite(value):
        raise _Unreadable(f"{text} is not a finite number")
    exact = Decimal(text)
    if exact and not value:
        raise _Unreadable(f"{text} is too close to zero")
    return Fraction(exact)


def _variable(name: Any) -> tuple[str, int]:
    found = re.fullmatch(r"([XY])_(\d+)", name) if isinstance(name, str) else None
    if found is None:
        raise _Unreadable(f"expected a variable X_i or Y_j, got {_shown(name)}")
    return found[1], int(found[2])


def _case(case: Case, declared: set, inputs: int) -> tuple[Ends, Ends, tuple[Row, ...]]:
    """One case's box, and its rows over the outputs."""
    low: dict[int, Fraction] = {}
    high: dict[int, Fraction] = {}
    rows = []
    for linear in case:
        used = {v: c for v, c in linear.coefficients.items() if c}
        if not used.keys() <= declared:
            raise _Unreadable(f"{sorted(used.keys() - declared)} are not declared")
        kinds = {kind for kind, _ in used}
        if kinds == {"Y"}:
            rows.append(_row(used, linear.constant))
        elif kinds == {"X"} and len(used) == 1:
            (((_, index), coefficient),) = used.items()
            end = -linear.constant / coefficient
            if coefficient > 0:
                high[index] = min(high.get(index, end), end)
            else:
                low[index] = max(low.get(index, end), end)
        else:
            raise _Unreadable(
                f"an inequality is over {sorted(used)}: expected one input, or outputs"
            )
    bounded = len(low) == len(high) == inputs
    if not bounded or any(low[i] > high[i] for i in range(inputs)):
        raise _Unreadable("an input is unbounded, or its bounds cross")
    if not rows:
        raise _Unreadable("a case says nothing about the outputs")
    ends = (tuple(side[i] for i in range(inputs)) for side in (low, high))
    return *ends, tuple(rows)


def _row(used: dict[tuple[str, int], Fraction], constant: Fraction) -> Row:
    """The row in its simplest form."""
    weights = {label: float(c) for (_, label), c in sorted(used.items())}
    constant = float(constant)
    plus = [label for label, c in weights.items() if c == 1]
    minus = [label for label, c in weights.items() if c == -1]
    if len(plus) + len(minus) == len(weights) and len(plus) <= 1 and len(minus) <= 1:
        return Row(next(iter(plus), None), next(iter(minus), None), constant)
    return Row(None, None, constant, tuple(weights.items()))


def _shown(expression: Any) -> str:
    text = str(expression)
    return text if len(text) <= 80 else text[:77] + "..."
