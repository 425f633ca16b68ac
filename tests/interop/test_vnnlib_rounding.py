"""A box read from VNN-LIB is never smaller than it is written, to the last decimal."""

from fractions import Fraction

import numpy as np
import pytest

from jmlv.errors import DamagedFile
from jmlv.interop import read_vnnlib
from jmlv.oracles import Query

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
    ((region, property),) = read_vnnlib(path)
    return region, Query.of(lambda x: x, region, property)


def exact(text):
    factors = [Fraction(part) for part in text.strip("()* ").split()]
    return factors[0] * (factors[1] if factors[1:] else 1)


@pytest.mark.parametrize("kind", [np.float64, np.float32])
@pytest.mark.parametrize("name", ENDS)
def test_the_box_holds_what_is_written(name, kind, tmp_path):
    """In float64 as it is read, and in float32 as it is proven; and is not larger than needed."""
    low, high = ENDS[name]
    region, query = box_of(tmp_path, low, high)
    box = region if kind is np.float64 else query
    assert box.lower.dtype == kind
    lower, upper = box.lower.item(), box.upper.item()
    assert Fraction(lower) <= exact(low) and Fraction(upper) >= exact(high)
    one_more = np.nextafter(kind(lower), kind(1)).item()
    one_less = np.nextafter(kind(upper), kind(0)).item()
    assert Fraction(one_more) > exact(low) and Fraction(one_less) < exact(high)


@pytest.mark.parametrize("name", ENDS)
def test_a_witness_lies_in_what_is_written(name, tmp_path):
    low, high = ENDS[name]
    _, query = box_of(tmp_path, low, high)
    for point in query.settle(np.stack([query.lower, query.upper])).ravel():
        slack = Fraction(1, 10**16)  # of the file's decimals, in float64
        assert exact(low) - slack <= Fraction(float(point)) <= exact(high) + slack


FIXED = {"tenth": "0.1", "a float32 number": "0.5", "its shortest digits": "0.30000001192092896"}


@pytest.mark.parametrize("name", FIXED)
def test_a_fixed_input_is_fixed_to_what_is_written(name, tmp_path):
    """A checker that reads the file's decimals as float64 finds the witness at exactly these."""
    text = FIXED[name]
    _, query = box_of(tmp_path, text, text)
    assert query.settle(query.upper).item() == float(text)
    assert Fraction(query.lower.item()) <= exact(text) <= Fraction(query.upper.item())


def test_a_number_that_vanishes_is_an_error(tmp_path):
    with pytest.raises(DamagedFile, match="too close to zero"):
        box_of(tmp_path, "1e-999999999", "0.5")
