"""Writes a box and what must not happen in it as VNN-LIB, in version 1.0 or 2.0.

A file declares inputs ``X_i`` and outputs ``Y_j`` and asserts a *violation*: a counterexample is an
input in the box whose outputs satisfy every assertion; 'unsat' means that the property holds. The
inequalities are not strict, and a margin of zero breaks a property here, so the two agree exactly.

Source: https://www.vnnlib.org (VNN-LIB 1.0), as used at VNN-COMP; VNN-LIB 2.0.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np

from jmlv.interop.vnnlib.formula import MAXIMUM_CASES
from jmlv.numerics import as_float64
from jmlv.properties import Property, Row, Tree
from jmlv.regions import Region, require_box

Name = Callable[[int], str]
"""The name of an input or an output, from its number."""


def write_vnnlib(
    region: Region,
    property: Property,
    label_count: int,
    path: str | Path,
    version: float = 1.0,
    names: Sequence[str] = (),
) -> None:
    """Writes a box and the violation of a property.

    Inputs are numbered as in the flat input: for images (height, width, channel), which is the
    input of :func:`jmlv.interop.write_onnx`. Numbers are written exactly.

    Args:
        version: 1.0, which every tool of the competition reads, or 2.0, where inputs keep their
            shape.
        names: the labels' names, for a comment.

    Raises:
        ValueError: the property does not fit so many labels, its violation has more than
            `MAXIMUM_CASES` cases, or there is no such version.
    """
    if version not in (1.0, 2.0):
        raise ValueError(f"version: expected 1.0 or 2.0, got {version}.")
    cases = violations(property, label_count)
    box = require_box(region, "VNN-LIB")
    ends = [as_float64(end).reshape(-1) for end in (box.lower, box.upper)]
    lines = [f"; {property!r} is violated"]
    named = [(i, " ".join(names[i].split())) for i in property.labels if names]
    lines += [f"; Y_{i} is {name}" for i, name in named if name != str(i)]
    if version == 1.0:
        x, y = "X_{}".format, "Y_{}".format
        lines += [f"(declare-const {x(i)} Real)" for i in range(ends[0].size)]
        lines += [f"(declare-const {y(i)} Real)" for i in range(label_count)]
    else:
        x, y = _entry("X", box.shape), _entry("Y", (label_count,))
        lines += _network(box.shape, label_count)
    for i, (low, high) in enumerate(zip(*ends)):
        lines += [f"(assert (>= {x(i)} {_exact(low)}))", f"(assert (<= {x(i)} {_exact(high)}))"]
    rows = (" ".join(_inequality(row, y) for row in case) for case in cases)
    written = [f"(and {row})" if len(case) > 1 else row for row, case in zip(rows, cases)]
    inside = "\n    ".join(written)
    lines.append(f"(assert (or\n    {inside}\n))" if len(cases) > 1 else f"(assert {inside})")
    Path(path).write_text("\n".join(lines) + "\n")


def _network(shape: tuple[int, ...], label_count: int) -> list[str]:
    """The declarations of version 2.0."""
    return [
        "(vnnlib-version <2.0>)",
        "(declare-network N",
        f"    (declare-input X float32 [{','.join(map(str, shape))}])",
        f"    (declare-output Y float32 [{label_count}])",
        ")",
    ]


def _entry(name: str, shape: tuple[int, ...]) -> Name:
    """The name of an entry of an array in version 2.0."""

    def entry(number: int) -> str:
        return f"{name}[{','.join(map(str, np.unravel_index(number, shape)))}]"

    return entry


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


def _inequality(row: Row, y: Name) -> str:
    """``row <= 0``."""
    limit = _exact(-row.offset)
    if row.weights:
        return f"(<= {_sum(row, y)} {limit})"
    if row.minus is None:
        return f"(<= {y(row.plus)} {limit})"
    if row.plus is None:
        return f"(>= {y(row.minus)} {_exact(row.offset)})"
    plus, minus = y(row.plus), y(row.minus)
    return f"(<= {plus} {minus})" if row.offset == 0 else f"(<= (- {plus} {minus}) {limit})"


def _sum(row: Row, y: Name) -> str:
    dense = row.dense(max(row.labels) + 1)
    terms = [f"(* {_exact(c)} {y(label)})" for label, c in enumerate(dense) if c]
    return f"(+ {' '.join(terms)})" if len(terms) > 1 else terms[0]


def _exact(value: Any) -> str:
    """All digits of a binary number, without an exponent."""
    text = format(Decimal(float(value) + 0.0), "f")  # no minus zero
    return text if "." in text else text + ".0"
