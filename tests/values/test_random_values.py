"""Random regions, properties and files (hypothesis): laws that hold for every one of them."""

import itertools
import json
import tempfile
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, strategies as st
from hypothesis.extra import numpy as hnp

import jmlv
from jmlv.data.arff import read_arff
from jmlv.data.idx import IMAGES_MAGIC, LABELS_MAGIC, read_idx
from jmlv.errors import DamagedFile
from jmlv.interop.safetensors import read_safetensors
from jmlv.interop.torch_archive import read_torch
from jmlv.interop.vnnlib.formula import holds
from jmlv.interop.vnnlib.reading import parse_vnnlib
from jmlv.interop.vnnlib.writing import write_vnnlib
from jmlv.neighborhoods import GrownNeighborhood
from jmlv.records import plain, property_of, property_record

LABELS = 4
EIGHTHS = st.integers(-40, 40).map(lambda n: n / 8)
"""Numbers whose sums float32 has exactly, with many ties."""

SHAPES = hnp.array_shapes(min_dims=3, max_dims=3, max_side=4)
UNIT = st.floats(0, 1, width=32)


# ---------------------------------------------------------------------------------- regions


@given(SHAPES.flatmap(lambda s: st.tuples(hnp.arrays(np.float32, s, elements=UNIT), hnp.arrays(np.float32, s, elements=UNIT))))  # fmt: skip
def test_a_box_around_an_image_holds_it_and_stays_in_the_domain(pair):
    x, epsilon = pair
    box = jmlv.Box.around(x, epsilon)
    lower, upper = np.asarray(box.lower), np.asarray(box.upper)
    assert np.all((lower <= x) & (x <= upper) & (lower >= 0) & (upper <= 1))
    assert box.contains(x) and box.contains(lower) and box.contains(upper)
    away = np.abs(np.stack([lower, upper]).astype(float) - x)
    assert np.all(away <= epsilon.astype(float) + 2.0**-24)


@given(hnp.arrays(np.uint8, (2, 3, 1)), st.integers(0, 255))
def test_integers_never_wrap(x, epsilon):
    box = jmlv.Box.around(x, epsilon, domain=(0, 255))
    exact = np.clip([x.astype(int) - epsilon, x.astype(int) + epsilon], 0, 255)
    np.testing.assert_array_equal(np.stack([box.lower, box.upper]), exact)


@given(hnp.arrays(bool, st.tuples(st.integers(1, 6), st.integers(1, 6))))
def test_layers_are_chebyshev_distances(mask):
    if not mask.any():
        with pytest.raises(ValueError, match="no pixel is set"):
            jmlv.Layers.around(mask)
        return
    layers = jmlv.Layers.around(mask)
    pixels = np.argwhere(mask)
    for place in np.ndindex(*mask.shape):
        assert layers.index[place] == np.abs(pixels - place).max(1).min()
    assert layers.counts().sum() == mask.size and layers.counts().all()


@given(st.lists(UNIT, min_size=3, max_size=3), st.lists(UNIT, min_size=3, max_size=3), hnp.arrays(np.float32, (1, 3, 2), elements=UNIT))  # fmt: skip
def test_larger_epsilons_give_larger_neighbourhoods(one, other, x):
    layers = jmlv.Layers.around(np.eye(1, 3, dtype=bool))
    small, large = np.minimum(one, other), np.maximum(one, other)
    inner, outer = (jmlv.LayeredNeighborhood(x, layers, e.astype("float32")) for e in (small, large))  # fmt: skip
    assert np.all(outer.lower <= inner.lower) and np.all(inner.upper <= outer.upper)
    for corner in (inner.lower, inner.upper):
        assert outer.contains(corner) and np.all(layers.reach(x, corner) <= small + 2.0**-24)


# ------------------------------------------------------------------------------- properties

LEAVES = st.one_of(
    st.builds(jmlv.InTopK, st.integers(0, 3), st.integers(1, 3)),
    st.builds(jmlv.NotInTopK, st.integers(0, 3), st.integers(1, 3)),
    st.builds(jmlv.AboveThreshold, st.integers(0, 3), EIGHTHS),
    st.builds(jmlv.BelowThreshold, st.integers(0, 3), EIGHTHS),
    st.builds(
        lambda row, offset: jmlv.Linear([[*row, 1.0]], offset),
        st.lists(st.sampled_from([-2.0, -1.0, 0.0, 0.5, 1.0]), min_size=3, max_size=3),
        EIGHTHS,
    ),
)
PROPERTIES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.builds(lambda a, b: a & b, inner, inner),
        st.builds(lambda a, b: a | b, inner, inner),
        st.builds(lambda a: ~a, inner),
        st.lists(inner, min_size=1, max_size=3).flatmap(
            lambda parts: st.builds(jmlv.AtLeast, st.integers(1, len(parts)), st.just(parts))
        ),
    ),
    max_leaves=4,
)
SCORES = st.lists(EIGHTHS, min_size=LABELS, max_size=LABELS)


def fails_or_holds(p, scores):
    """(whether it fails strictly, whether it holds), by the words of its docstring alone."""
    match p:
        case jmlv.InTopK(label, k) | jmlv.NotInTopK(label, k):
            others = [s for c, s in enumerate(scores) if c != label]
            above = sum(s > scores[label] for s in others)
            level = sum(s >= scores[label] for s in others)
            inside, outside = level < k, above >= k
            return (outside, inside) if isinstance(p, jmlv.InTopK) else (inside, outside)
        case jmlv.AboveThreshold(label, threshold):
            return scores[label] < threshold, scores[label] > threshold
        case jmlv.BelowThreshold(label, threshold):
            return scores[label] > threshold, scores[label] < threshold
        case jmlv.Linear(coefficients, offsets):
            values = [sum(c * s for c, s in zip(row, scores)) + b for row, b in zip(coefficients, offsets)]  # fmt: skip
            return min(values) < 0, min(values) > 0
    if isinstance(p, jmlv.Not):
        return fails_or_holds(p.part, scores)[::-1]
    parts = [fails_or_holds(part, scores) for part in p.parts]
    needed = {jmlv.And: len(parts), jmlv.Or: 1}.get(type(p)) or p.count
    held, failed = sum(h for _, h in parts), sum(f for f, _ in parts)
    return failed > len(parts) - needed, held >= needed


@given(PROPERTIES, SCORES)
def test_a_margin_has_the_sign_that_the_words_have(p, scores):
    margin = float(p.margin(np.array(scores, np.float32)))
    assert (margin < 0, margin > 0) == fails_or_holds(p, scores)


@given(PROPERTIES, SCORES, hnp.arrays(float, 80, elements=st.floats(0, 2)))
def test_bounds_on_rows_are_bounds_on_margins(p, scores, slack):
    coefficients, offsets = p.rows(LABELS)
    rows = coefficients @ np.array(scores) + offsets
    slack = np.resize(slack, rows.shape)
    exact = float(p.margin(np.array(scores, np.float32)))
    low, high = (float(p.combine(rows + sign * slack, LABELS)) for sign in (-1, 1))
    assert low - 1e-5 <= exact <= high + 1e-5


@given(PROPERTIES)
def test_files_keep_properties(p):
    assert property_of(json.loads(json.dumps(plain(property_record(p))))) == p


# ------------------------------------------------------------------------------------ files


@given(PROPERTIES, SCORES, st.lists(EIGHTHS, min_size=2, max_size=2))
def test_what_is_written_as_vnn_lib_is_violated_where_the_property_is(p, scores, x):
    box = jmlv.Box(np.array([-1.0, 0.0]), np.array([1.0, 2.5]))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "p.vnnlib")
        try:
            write_vnnlib(box, p, LABELS, path)
        except ValueError as error:
            assert "cases" in str(error)
            return
        asked = parse_vnnlib(path)
    violated = holds(asked.formula, list(map(Fraction, x)), list(map(Fraction, scores)))
    inside = -1 <= x[0] <= 1 and 0 <= x[1] <= 2.5
    assert violated == (inside and not fails_or_holds(p, scores)[1])
    margins = [float(q.margin(np.array(scores, np.float32))) for _, q in asked.specifications]
    assert (min(margins) > 0) == fails_or_holds(p, scores)[1]


WORDS = st.sampled_from(
    '( ) assert and or not <= >= = + * - X_0 Y_0 Y_1 Real declare-const 1.5 1e400 -3 0x1 ; " | , { } @data @attribute numeric ? \n'.split(
        " "
    )  # fmt: skip
)
TEXTS = st.one_of(
    st.binary(max_size=200),
    st.lists(WORDS, max_size=60).map(lambda words: " ".join(words).encode()),  # fmt: skip
)
HEADS = st.sampled_from(
    [
        b"", b"\x00\x00\x08\x03\x00\x00\x00\x01", b"\x00\x00\x08\x01\x00\x00\x00\x02", b"PK\x03\x04",
        b"\x1f\x8b\x08", b"\x08\x00\x00\x00\x00\x00\x00\x00{", b"@relation r\n@attribute a numeric\n@data\n",
        b"(declare-const X_0 Real)\n(declare-const Y_0 Real)\n(assert (<= X_0 1))(assert (>= X_0 0))",
    ]
)  # fmt: skip
READERS = {
    "vnnlib": parse_vnnlib,
    "arff": read_arff,
    "idx": lambda path: read_idx(path, IMAGES_MAGIC),
    "idx labels": lambda path: read_idx(path, LABELS_MAGIC),
    "safetensors": read_safetensors,
    "torch": read_torch,
    "neighbourhood": GrownNeighborhood.load,
}


@given(HEADS, TEXTS)
def test_files_of_nonsense_are_damaged_and_nothing_else(head, tail):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "nonsense")
        path.write_bytes(head + tail)
        for read in READERS.values():
            try:
                read(path)
            except DamagedFile as error:
                assert str(error)


def test_the_words_of_a_property_are_tested_on_every_order():
    """The oracle of these tests itself: label 0 of three, all orders and ties."""
    for scores in itertools.product([0.0, 1.0, 2.0], repeat=3):
        top = sorted(scores, reverse=True)[0]
        alone = scores[0] == top and scores.count(top) == 1
        assert fails_or_holds(jmlv.InTopK(0, 1), scores)[1] == alone
