"""Two arithmetics in which every rounding error is accounted for.

Both have few operations that round, sums of products above all, grouped by where each product belongs.
These return a value and a *slack*, and promise ``|exact - value| <= slack``. Whoever uses a value pays
for its slack, so what is proven holds for real numbers.

* :class:`Floats`: float64. With ``m`` products in a group, the usual bound for any order of
  summation is ``gamma_{m+1} sum |a b|``, ``gamma_m = m u / (1 - m u)``, ``u = 2^-53`` (Higham 2002,
  section 3.1); the sum of magnitudes is itself computed, for which the bound is widened.
* :class:`Integers`: fixed point with so many binary places that every number of the files is exact;
  Python's integers never round, and a product is cut back to those places with a slack of one unit.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

UNIT = 2.0**-53
TINY = 5e-324


class Arithmetic:
    """What both have in common."""

    def plus(self, a, b):
        """A number that is at most ``a + b``, entry by entry."""
        return self.below(*self.add(a, b))

    def times_below(self, a, b):
        """A number that is at most ``a b``, entry by entry."""
        found = self.below(*self.sums(a, b, np.arange(len(b)), len(b)))
        return np.where((a == 0) | (b == 0), 0, found)

    def dot(self, rows, values):
        """A number for each row that is at most its product with the values."""
        return self.below(*self.sums(rows, values, np.zeros(rows.shape[1], np.int64), 1))[:, 0]

    def share(self, part, whole):
        """A number in [0, 1], near ``part / whole`` where that is one; any number will do."""
        zero, one = self.lift([0, 1])
        found = self.divide(part, np.where(whole > 0, whole, one))[0]
        return np.where(whole > 0, np.minimum(np.maximum(found, zero), one), zero)


@dataclasses.dataclass(frozen=True)
class Floats(Arithmetic):
    """Outward-rounded float64."""

    name: str = "outward-rounded float64"

    def lift(self, values) -> np.ndarray:
        """Numbers of a file; exact."""
        return np.asarray(values, np.float64)

    def show(self, value) -> float:
        """About the same number."""
        return float(value)

    def near(self, value) -> np.ndarray:
        """Numbers of float64 near these."""
        return value

    def root_above(self, value):
        """A number that is at least the root of ``value``, which is not negative."""
        return np.where(value == 0, 0.0, np.nextafter(np.sqrt(value), np.inf))

    def sums(self, a, b, groups: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        """``sum a b`` over the entries (last axis) of each group, and its slack: (.., count)."""
        terms, counts = a * b, np.bincount(groups, minlength=count)
        value, size = _grouped(terms, groups, count), _grouped(np.abs(terms), groups, count)
        most = int(counts.max(initial=0))
        lost = (most + 5) * UNIT * 1.01 * size + (most + 1) * TINY  # products may underflow to 0
        return value, np.where(counts > 0, lost, 0.0)

    def add(self, a, b) -> tuple[np.ndarray, np.ndarray]:
        """``a + b`` and its slack."""
        total = a + b
        return total, np.where((a == 0) | (b == 0), 0.0, np.abs(total) * UNIT)

    def divide(self, a, b) -> tuple[np.ndarray, np.ndarray]:
        """``a / b`` and its slack."""
        value = a / b
        return value, np.where((a == 0) | (b == 1), 0.0, np.abs(value) * 2 * UNIT + TINY)

    def below(self, value, slack):
        """A number that is at most ``value - slack``."""
        return np.where(slack > 0, np.nextafter(value - slack, -np.inf), value)


@dataclasses.dataclass(frozen=True)
class Integers(Arithmetic):
    """Exact dyadic numbers: integers that count units of ``2^-places``."""

    places: int
    name: str = "exact integers"

    @staticmethod
    def for_arrays(*arrays) -> Integers:
        """With as many binary places as the finite numbers of all arrays need, and some more."""
        return Integers(max([96, *(int(_PLACES(a).max(initial=0)) for a in arrays)]))

    def lift(self, values):
        """Numbers of a file; infinities stay floats, which Python compares with integers.

        Raises:
            ValueError: a number is none, or has more places than there are.
        """
        return np.asarray(_UNITS(np.asarray(values, np.float64), self.places), object)

    def show(self, value):
        return int(value) / 2**self.places

    def near(self, value):
        return np.asarray(value / 2**self.places, np.float64)

    def root_above(self, value):
        return _ROOT_ABOVE(value << self.places)

    def sums(self, a, b, groups, count):
        exact = _grouped(np.asarray(a * b, object), groups, count)
        return exact >> self.places, (exact & ((1 << self.places) - 1) != 0).astype(object)

    def add(self, a, b):
        return a + b, 0 * a

    def divide(self, a, b):
        numerator = a << self.places
        return numerator // b, (numerator % b != 0).astype(object)

    def below(self, value, slack):
        return value - slack


def _places(value: float) -> int:
    """Binary places of a finite number."""
    return value.as_integer_ratio()[1].bit_length() - 1


def _units(value: float, places: int) -> int | float:
    if value in (np.inf, -np.inf):
        return value
    numerator, denominator = value.as_integer_ratio()
    return numerator << places + 1 - denominator.bit_length()


_PLACES, _UNITS = np.frompyfunc(_places, 1, 1), np.frompyfunc(_units, 2, 1)
_ROOT_ABOVE = np.frompyfunc(lambda whole: math.isqrt(whole - 1) + 1 if whole else 0, 1, 1)


def _grouped(terms: np.ndarray, groups: np.ndarray, count: int) -> np.ndarray:
    """Sums over the last axis by group; a group without entries is zero."""
    result = np.zeros((*terms.shape[:-1], count), terms.dtype)
    if groups.size == 0:
        return result
    if np.any(groups[1:] < groups[:-1]):
        order = np.argsort(groups, kind="stable")
        terms, groups = terms[..., order], groups[order]
    starts = np.flatnonzero(np.r_[True, groups[1:] != groups[:-1]])
    result[..., groups[starts]] = np.add.reduceat(terms, starts, axis=-1)
    return result
