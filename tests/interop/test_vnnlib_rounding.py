"""A box read from VNN-LIB is never smaller than it is written, to the last decimal."""

from fractions import Fraction

import numpy as np
import pytest

from jmlv.errors import DamagedFile
from jmlv.interop import read_vnnlib

HALF = "0.5" + "0" * 30
ENDS = {
    "halves with a digit beyond float64": (HALF + "1", HALF + "2"),
    "just inside of float32 numbers": ("0.49999999999999999999999999", HALF + "1"),
    "tenths": ("0.1", "0.3"),
    "exponents": ("1e-50", "9.9e-1"),
    "thirds of a grey level": ("(* 0.333333333333333333333 0.00392156862745098039216)", "0.4"),
    "exact": ("0.25", "0.75"),
}


def box_of(folder, low, high):
    path = folder / "prop.vnnlib"
    path.write_text(
        "(declare-const X_0 Real)(declare-const Y_0 Real)"
        f"(assert (>= X_0 {low}))(assert (<= X_0 {high}))(assert (<= Y_0 0.0))"
    )
    ((region, _),) = read_vnnlib(path, (1, 1, 1))
    return np.asarray(region.lower).item(), np.asarray(region.upper).item()


def exact(text):
    factors = [Fraction(part) for part in text.strip("()* ").split()]
    return factors[0] * (factors[1] if factors[1:] else 1)


@pytest.mark.parametrize("name", ENDS)
def test_the_box_holds_what_is_written(name, tmp_path):
    low, high = ENDS[name]
    lower, upper = box_of(tmp_path, low, high)
    assert Fraction(lower) <= exact(low) and Fraction(upper) >= exact(high)
    one_more = np.nextafter(np.float32(lower), np.float32(1)).item()
    one_less = np.nextafter(np.float32(upper), np.float32(0)).item()
    assert Fraction(one_more) > exact(low) and Fraction(one_less) < exact(high)


def test_a_number_that_vanishes_is_an_error(tmp_path):
    with pytest.raises(DamagedFile, match="too close to zero"):
        box_of(tmp_path, "1e-999999999", "0.5")
