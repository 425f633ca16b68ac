"""Proven numbers as people read them: rounded so that what is read is proven too.

``0.24999`` is no proof of ``0.25``. What a proof says is at least so much is rounded down, what it says is at
most so much is rounded up. Pages, tables, reasons and ``repr`` take these two.
"""

from __future__ import annotations

import decimal
import math

DIGITS = 4


class Shown(str):
    """A number as text, aligned in tables as numbers are."""


def at_least(value: float, digits: int = DIGITS) -> Shown:
    """A lower bound with so many digits, rounded down.

    >>> at_least(0.24999), at_least(-0.12341), at_least(0.3), at_least(123456.0), at_least(float("-inf"))
    ('0.2499', '-0.1235', '0.3', '1.234e+05', '-inf')
    """
    return _shown(value, digits, decimal.ROUND_FLOOR)


def at_most(value: float, digits: int = DIGITS) -> Shown:
    """An upper bound with so many digits, rounded up.

    >>> at_most(0.50001), at_most(-0.12349), at_most(float("inf"))
    ('0.5001', '-0.1234', 'inf')
    """
    return _shown(value, digits, decimal.ROUND_CEILING)


DIRECTIONS = {
    "lower": at_least, "upper": at_most, "size": at_least, "size_without_free": at_least,
    "size_upper_bound": at_most,
}  # fmt: skip
"""By a column's name, how its numbers are rounded in tables of many answers."""


def column(name: str, value: object) -> object:
    """A table's entry, rounded as its column is."""
    known = name in DIRECTIONS and isinstance(value, float)
    return DIRECTIONS[name](value) if known else value


def _shown(value: float, digits: int, rounding: str) -> Shown:
    value = float(value)
    if not math.isfinite(value):
        return Shown(f"{value}")
    exact = decimal.Decimal(value)
    if len(decimal.Decimal(repr(value)).normalize().as_tuple().digits) <= digits:
        exact = decimal.Decimal(repr(value))  # what is read is this very number
    rounded = decimal.Context(prec=digits, rounding=rounding).create_decimal(exact)
    return Shown(f"{float(rounded):.{digits}g}")
