"""Two arithmetics in which every rounding error is accounted for.

Both have one operation that rounds: sums of products, grouped by where each product belongs. It
returns a value and a *slack*, and promises ``|exact - value| <= slack``. Whoever uses a value pays
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


@dataclasses.dataclass(frozen=True)
class Floats:
    """Outward-rounded float64."""

    name: str = "outward-rounded float64"

    def lift(self, values) -> np.ndarray:
        """Numbers of a file; exact."""
        return np.asarray(values, np.float64)

    def sums(self, a, b, groups: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        """``sum a b`` over the entries (last axis) of each group, and its slack: (rows, count)."""
        terms, counts = a * b, np.bincount(groups, minlength=count)
        value, size = _grouped(terms, groups, count), _grouped(np.abs(terms), groups, count)
        most = int(counts.max(initial=0))
        lost = (most + 5) * UNIT * 1.01 * size + (most + 1) * TINY  # products may underflow to 0
        return value, np.where(counts > 0, lost, 0.0)

    def add(self, a, b) -> tuple[np.ndarray, np.ndarray]:
        """``a + b`` and its slack."""
        total = a + b
        return total, np.abs(total) * UNIT

    def divide(self, a, b) -> tuple[np.ndarray, np.ndarray]:
        """``a / b`` and its slack."""
        value = a / b
        return value, np.where(a != 0, np.abs(value) * 2 * UNIT + TINY, 0.0)

    def below(self, value, slack):
        """A number that is at most ``value - slack``."""
        return np.where(slack > 0, np.nextafter(value - slack, -np.inf), value)

    def times_below(self, a, b):
        """A number that is at most ``a b``, entry by entry."""
        value = a * b
        return np.where((a == 0) | (b == 0), 0.0, np.nextafter(value, -np.inf))

    def root_above(self, value):
        """A number that is at least the root of ``value``, which is not negative."""
        return np.where(value == 0, 0.0, np.nextafter(np.sqrt(value), np.inf))

    def near(self, value) -> np.ndarray:
        """Numbers of float64 near these."""
        return value

    def share(self, part, whole):
        """A number in [0, 1], near ``part / whole`` where that is one; any number will do."""
        safe = np.where(whole > 0, whole, 1.0)
        with np.errstate(over="ignore"):  # what overflows is clipped
            return np.clip(np.where(whole > 0, part / safe, 0.0), 0.0, 1.0)

    def finite(self, value) -> np.ndarray:
        return np.isfinite(value)

    def show(self, value) -> float:
        return float(value)


@dataclasses.dataclass(frozen=True)
class Integers:
    """Exact dyadic numbers: integers that count units of ``2^-places``."""

    places: int
    name: str = "exact integers"

    @staticmethod
    def for_arrays(*arrays) -> Integers:
        """With as many binary places as the numbers of all arrays need, and some more."""
        return Integers(max([96, *map(_places_of, arrays)]))

    def lift(self, values) -> np.ndarray:
        """Numbers of a file.

        Raises:
            ValueError: a number is not finite, or has more places than there are.
        """
        values = np.asarray(values, np.float64)
        if not np.isfinite(values).all():
            raise ValueError("a number is not finite.")
        mantissas, exponents = np.frexp(values)
        whole = (mantissas * 2.0**53).astype(np.int64).astype(object)
        shift = (exponents.astype(np.int64) - 53 + self.places).astype(object)
        return np.asarray(_SHIFTED(whole, shift), object).reshape(values.shape)

    def sums(self, a, b, groups, count):
        exact = _grouped(np.asarray(a * b, object), groups, count)
        return exact >> self.places, (exact & ((1 << self.places) - 1) != 0).astype(object)

    def add(self, a, b):
        return a + b, np.zeros_like(a)

    def divide(self, a, b):
        numerator = a << self.places
        return numerator // b, (numerator % b != 0).astype(object)

    def below(self, value, slack):
        return value - slack

    def times_below(self, a, b):
        return (a * b) >> self.places

    def root_above(self, value):
        return _ROOT_ABOVE(value << self.places)

    def near(self, value):
        return np.asarray(value / 2**self.places, np.float64)

    def share(self, part, whole):
        one = 1 << self.places
        safe = np.where(whole > 0, whole, 1)
        return np.minimum(np.maximum(np.where(whole > 0, (part << self.places) // safe, 0), 0), one)

    def finite(self, value):
        return np.ones(np.shape(value), bool)

    def show(self, value) -> float:
        return int(value) / 2**self.places


def _shift(whole: int, by: int) -> int:
    if by >= 0:
        return whole << by
    if whole & ((1 << -by) - 1):
        raise ValueError("a number has more binary places than this arithmetic.")
    return whole >> -by


_SHIFTED = np.frompyfunc(_shift, 2, 1)
_ROOT_ABOVE = np.frompyfunc(lambda whole: math.isqrt(whole - 1) + 1 if whole else 0, 1, 1)


def _places_of(values) -> int:
    """Binary places that numbers have at most: those of the lowest bit that is set."""
    mantissas, exponents = np.frexp(np.asarray(values, np.float64))
    whole = (mantissas * 2.0**53).astype(np.int64)
    low = np.log2(np.where(whole == 0, 1, whole & -whole).astype(np.float64)).astype(np.int64)
    places = np.where(whole == 0, 0, 53 - low - exponents)
    return int(places.max(initial=0))


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
