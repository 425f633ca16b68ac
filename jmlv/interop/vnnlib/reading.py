"""From what a VNN-LIB file asserts to questions: a box of inputs, and a property of the outputs."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import gzip
import math
import zlib
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any as Anything, NamedTuple

import numpy as np

from jmlv.errors import DamagedFile
from jmlv.interop.vnnlib.formula import (
    All,
    Any,
    Atom,
    Case,
    Formula,
    Unreadable,
    cases,
    holds,
    shown,
    simplified,
)
from jmlv.interop.vnnlib.second import is_second, read_second
from jmlv.interop.vnnlib.text import read_text
from jmlv.properties import And, Linear, Or, Property
from jmlv.regions import Box


class Specification(NamedTuple):
    """One question: does the property hold everywhere in the region?"""

    region: Box
    property: Property


@dataclasses.dataclass(frozen=True)
class Asked:
    """A file's content.

    Attributes:
        inputs, outputs: how many are declared.
        formula: what a counterexample satisfies, exactly.
        specifications: the same as questions about flat inputs, one for each box; the file's answer
            is 'unsat' iff all of them hold.
        written: the box of each as a reader of decimals has it: ends at the nearest numbers, where
            the question's are rounded outward.
    """

    inputs: int
    outputs: int
    formula: Formula
    specifications: tuple[Specification, ...]
    written: tuple[Box, ...]

    def satisfied(self, inputs: Anything, outputs: Anything) -> bool:
        """Whether a point is a counterexample, in rational arithmetic: without any rounding.

        Its numbers are taken as they are printed, the shortest decimals that float64 reads back: a
        file's 0.1 is 0.1, though float64 has no such number.
        """
        values = (
            [Fraction(repr(v)) for v in np.asarray(side, float).reshape(-1).tolist()]
            for side in (inputs, outputs)
        )
        return holds(self.formula, *values)


def read_vnnlib(
    path: str | Path, input_shape: Sequence[int] | None = None
) -> tuple[Specification, ...]:
    """Every question of a VNN-LIB file; the file's answer is 'unsat' iff all of them hold.

    Assertions may be any Boolean combination of linear inequalities, each over one input or over
    outputs. Inputs must come down to boxes; cases with the same box become one question. Numbers
    are read exactly. A box is never smaller than it is written: ends that float64 cannot hold are
    rounded outward, except that an input which is fixed is fixed to the nearest number; verdicts
    round further, as :class:`jmlv.Box` says. (Coefficients of outputs are the nearest float64
    numbers, which is far below what a proof needs as its margin.) Where a strict inequality is
    written, a tie is no counterexample.

    Args:
        path: of the file, which may be gzipped; of version 1.0 or 2.0.
        input_shape: the shape of one input of the network; ``X_i`` is entry i of the flat input. By
            default inputs are flat.

    Raises:
        FileNotFoundError: there is no such file.
        DamagedFile: it is not VNN-LIB, or uses what is not read: nonlinear terms, inequalities
            over inputs and outputs together or over several inputs, unbounded inputs, empty boxes.
        ValueError: the inputs are not as many as the shape has.
        ImportError: it is of version 2.0, and the package ``vnnlib`` is not installed.
    """
    asked = parse_vnnlib(path)
    shape = (asked.inputs,) if input_shape is None else tuple(input_shape)
    if asked.inputs != math.prod(shape):
        raise ValueError(f"input_shape: {shape} does not have the file's {asked.inputs} inputs.")
    return tuple(
        Specification(Box(region.lower.reshape(shape), region.upper.reshape(shape)), property)
        for region, property in asked.specifications
    )


def parse_vnnlib(path: str | Path) -> Asked:
    """A VNN-LIB file's content, as :func:`read_vnnlib` reads it.

    Raises:
        FileNotFoundError, DamagedFile, ImportError: as there.
    """
    path = Path(path)
    try:
        text = _text(path)
        with _collector_paused():
            inputs, outputs, formula = (read_second if is_second(text) else read_text)(text)
            return Asked(inputs, outputs, formula, *_questions(inputs, outputs, formula))
    except RecursionError:
        raise DamagedFile(f"path: {path}: its formulas are nested too deeply.") from None
    except _DAMAGE as error:
        raise DamagedFile(f"path: {path}: {error}.") from None


_DAMAGE = (Unreadable, UnicodeDecodeError, EOFError, zlib.error, gzip.BadGzipFile)


@contextlib.contextmanager
def _collector_paused() -> Iterator[None]:
    """Half of the time on a long file goes into looking for cycles, of which there are none."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _text(path: Path) -> str:
    content = path.read_bytes()
    if content[:2] == b"\x1f\x8b":
        content = gzip.decompress(content)
    return content.decode("utf-8-sig")


def _questions(
    inputs: int, outputs: int, formula: Formula
) -> tuple[tuple[Specification, ...], tuple[Box, ...]]:
    """The questions, boxes in the order of the file, and these as they are written."""
    formula = simplified(formula)
    if formula == Any(()):
        raise Unreadable("its assertions contradict one another")
    grouped: dict[Ends, list[Formula]] = {}
    empty = ""
    for case in cases(formula):
        try:
            ends = _ends(case, inputs)
        except _Empty as error:
            empty = str(error)
            continue
        grouped.setdefault(ends, []).append(_violation(case))
    if not grouped:
        raise Unreadable(empty)
    questions = tuple(
        Specification(Box(*_float64(ends)), _excluded(Any(tuple(formulas)), outputs))
        for ends, formulas in grouped.items()
    )
    return questions, tuple(Box(*(np.array(side, float) for side in ends)) for ends in grouped)


Ends = tuple[tuple[Fraction, ...], tuple[Fraction, ...]]
"""Both ends of every input, exactly as they are written."""


class _Empty(Exception):
    """No input lies in the case's box."""


def _ends(case: Case, inputs: int) -> Ends:
    """The case's box.

    An end that is excluded, by a strict inequality, is read as an end: that is the larger box.
    """
    low: list[Fraction | None] = [None] * inputs
    high = low.copy()
    for atom in case.inputs:
        if len(atom.linear.coefficients) != 1:
            raise Unreadable(
                f"an inequality is over {shown(atom.linear)}: expected one input, or outputs"
            )
        (((_, i), coefficient),) = atom.linear.coefficients.items()
        _require_declared("X", i, inputs)
        end = Fraction(-atom.linear.constant)
        end = end if coefficient == 1 else end / coefficient
        if coefficient > 0:
            high[i] = end if high[i] is None else min(high[i], end)
        else:
            low[i] = end if low[i] is None else max(low[i], end)
    for i, (least, most) in enumerate(zip(low, high)):
        if least is None or most is None:
            raise Unreadable(f"input X_{i} is unbounded {'below' if least is None else 'above'}")
        if least > most:
            raise _Empty(f"the bounds of input X_{i} cross: {float(least):.9g} > {float(most):.9g}")
    return tuple(low), tuple(high)


def _violation(case: Case) -> Formula:
    """What the case says about the outputs."""
    formula = simplified(All(case.outputs))
    if formula == All(()):
        raise Unreadable("a case says nothing about the outputs")
    return formula


def _excluded(violation: Formula, outputs: int) -> Property:
    """The property that holds where the violation does not."""
    if isinstance(violation, Atom):
        return _row(violation, outputs)
    parts = [_excluded(part, outputs) for part in violation.parts]
    if len(parts) == 1:
        return parts[0]
    return (Or if isinstance(violation, All) else And)(tuple(parts))


STRICT = float(np.finfo(np.float32).tiny)
"""Where a violation is strict, what is added to the row, so that a tie is none."""


def _row(atom: Atom, outputs: int) -> Linear:
    coefficients = np.zeros(outputs)
    for (_, label), c in atom.linear.coefficients.items():
        _require_declared("Y", label, outputs)
        coefficients[label] = _float(c)
    constant = _float(atom.linear.constant)
    if atom.strict:
        constant = max(np.nextafter(constant, np.inf), constant + STRICT)
    return Linear(coefficients, constant)


def _float(number: Fraction | int) -> float:
    try:
        return float(number)
    except OverflowError:
        raise Unreadable("a coefficient is beyond the range of float64") from None


def _require_declared(kind: str, index: int, count: int) -> None:
    if index >= count:
        raise Unreadable(f"{kind}_{index} is asserted and not declared")


def _float64(ends: Ends) -> tuple[np.ndarray, np.ndarray]:
    """The least box of float64 numbers around one of rational numbers.

    An input that is fixed stays so, at the nearest number, unless float32 can hold that: then
    rounding to float32 would not bring back what is missing.
    """
    low, high = (
        np.array([_outward(end, side) for end in ends[i]]) for i, side in enumerate((-1, 1))
    )
    for i in np.flatnonzero(low < high):
        nearest = float(ends[0][i])
        if ends[0][i] == ends[1][i] and float(np.float32(nearest)) != nearest:
            low[i] = high[i] = nearest
    return low, high


def _outward(end: Fraction, side: int) -> float:
    """The float64 number nearest to an end that is not inside of it; ``side`` is -1 or 1."""
    found = float(end)
    numerator, denominator = found.as_integer_ratio()
    inside = side * (numerator * end.denominator - end.numerator * denominator) < 0
    return math.nextafter(found, side * math.inf) if inside else found
