"""Double digits and double MNIST: composition, splits, masks and every damaged file."""

import gzip
import struct
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from jmlv.data import (
    INK_THRESHOLD,
    MultiLabelImages,
    Warp,
    double_digits,
    double_mnist,
    triple_mnist,
)
from jmlv.data.compose import DigitSource, compose_digits
from jmlv.data.digits import CANVAS, DIGIT_SIDE, enlarge

MNIST = Path(__file__).parents[3] / "shared" / "data" / "mnist"
needs_mnist = pytest.mark.skipif(
    not MNIST.is_dir(), reason="MNIST's test files are not in ../shared/data/mnist"
)


@contextmanager
def refused(message: str):
    """Expects a ValueError with the message; where a runtime type checker is on, it
    may come first with a TypeError of its own."""
    with pytest.raises((ValueError, TypeError)) as error:
        yield
    if isinstance(error.value, ValueError):
        assert message in str(error.value)


@pytest.fixture(scope="module")
def train() -> MultiLabelImages:
    return double_digits("train", size=600)


@pytest.fixture(scope="module")
def test() -> MultiLabelImages:
    return double_digits("test", size=600)


@pytest.fixture(params=["plain", "warped"])
def either(request, train) -> MultiLabelImages:
    if request.param == "plain":
        return train
    return double_digits("train", size=300, warp=Warp())


def test_sizes_and_types(train):
    assert train.images.shape == (600, 32, 32, 1) and train.images.dtype == np.float32
    assert train.labels.shape == (600, 10) and train.labels.dtype == bool
    assert train.masks.shape == (600, 2, 32, 32) and train.masks.dtype == bool
    assert train.label_names == tuple("0123456789") and train.split == "train"


def test_values_fill_the_unit_interval(either):
    assert either.images.min() == 0
    assert 0.9 < either.images.max() <= 1


def test_equal_seeds_give_equal_images_and_others_do_not(train):
    assert double_digits("train", size=600) == train
    assert double_digits("train", size=600, seed=1) != train


def test_labels_are_the_two_distinct_objects(train):
    left, right = train.object_labels.T
    assert (left != right).all()
    assert (train.labels.sum(axis=1) == 2).all()
    assert train.labels[np.arange(600), left].all() and train.labels[np.arange(600), right].all()


def test_every_ordered_pair_of_labels_occurs():
    many = double_digits("train", size=4000).object_labels
    assert len({tuple(pair) for pair in many.tolist()}) == 90


def test_object_labels_are_those_of_the_source_digits(train):
    assert (load_digits().target[train.source_indices] == train.object_labels).all()


def test_train_and_test_share_no_source_digit():
    used = [
        set(double_digits(split, size=6000, seed=seed).source_indices.ravel().tolist())
        for split in ("train", "test")
        for seed in (0, 1)
    ]
    train, test = used[0] | used[1], used[2] | used[3]
    assert not train & test
    assert len(train) == 1442 and len(test) == 355


def test_train_and_test_share_no_source_picture(train, test):
    """Compares the pixels themselves, not the indices that the loader reports."""
    pictures = load_digits().images.reshape(-1, 64)
    known = {row.tobytes() for row in pictures[np.unique(train.source_indices)]}
    assert not known & {row.tobytes() for row in pictures[np.unique(test.source_indices)]}


def test_images_hold_the_source_digits_themselves(test):
    digits = load_digits().images
    for row in range(20):
        for half, source in enumerate(test.source_indices[row]):
            digit = enlarge(digits[None, source] / 16, DIGIT_SIDE)[0]
            part = test.images[row, :, 16 * half : 16 * half + 16, 0]
            assert _occurs(digit, part)


def _occurs(digit: np.ndarray, part: np.ndarray) -> bool:
    windows = np.lib.stride_tricks.sliding_window_view(part, digit.shape)
    return bool((windows == digit).all(axis=(-1, -2)).any())


def test_masks_are_the_ink_of_each_half(either):
    ink = either.images[..., 0] > INK_THRESHOLD
    assert (either.masks.any(axis=1) == ink).all()
    assert not either.masks[:, 0, :, CANVAS // 2 :].any()
    assert not either.masks[:, 1, :, : CANVAS // 2].any()
    assert either.masks.any(axis=(2, 3)).all()
    assert not (either.masks[:, 0] & either.masks[:, 1]).any()


def test_digits_take_every_place_of_their_half():
    masks = double_digits("train", size=3000).masks
    assert masks.any(axis=(0, 1))[2:-2].any(axis=1).all()
    tops = masks[:, 0].any(axis=2).argmax(axis=1)
    assert tops.max() - tops.min() >= CANVAS - DIGIT_SIDE


def test_indexing_keeps_rows_together(train):
    rows = np.array([5, 2])
    part = train[rows]
    assert len(part) == 2 and part.split == "train"
    assert (part.images == train.images[rows]).all()
    assert (part.source_indices == train.source_indices[rows]).all()
    assert train[5] == train[5:6] and train[-1] == train[599:]
    assert train[train.labels[:, 3]].labels[:, 3].all()
    assert len(train[[]]) == 0 and len(list(train[:3])) == 3


def test_index_out_of_range_is_an_error(train):
    with pytest.raises(IndexError, match="600 images"):
        train[600]


def test_repr_says_what_it_is(train):
    assert repr(train) == (
        "MultiLabelImages(600 train images of 32x32x1, 10 labels, 2 objects each, "
        "from scikit-learn load_digits)"
    )


def test_an_empty_set_is_possible():
    assert double_digits("test", size=0).images.shape == (0, 32, 32, 1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": np.zeros((2, 32, 32, 1), np.float32)}, "different numbers"),
        ({"label_names": ("0",)}, "label_names"),
        ({"masks": np.zeros((3, 2, 8, 8), bool)}, "masks"),
    ],
)
def test_contradicting_sizes_are_an_error(test, changes, message):
    fields = {name: getattr(test[:3], name) for name in test.__dataclass_fields__}
    with refused(message):
        MultiLabelImages(**(fields | changes))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "validation"}, "split: got 'validation'"),
        ({"seed": -1}, "seed: got -1"),
        ({"size": -1}, "size: got -1"),
    ],
)
def test_impossible_options_are_named(options, message):
    with refused(message):
        double_digits(**options)


@pytest.mark.parametrize(
    ("images", "labels", "canvas", "message"),
    [
        (np.ones((2, 8, 8)), [0, 1], 15, "canvas"),
        (np.ones((2, 8, 8)), [4, 4], 16, "at least 2"),
        (np.zeros((2, 8, 8)), [0, 1], 16, "no pixel"),
    ],
)
def test_impossible_sources_are_named(images, labels, canvas, message):
    source = DigitSource(images.astype(np.float32), np.array(labels), np.arange(2), "here")
    with pytest.raises(ValueError, match=message):
        compose_digits(source, size=1, canvas=canvas, split="train", seed=0)


def test_enlarging_by_a_whole_factor_agrees_with_scipy():
    from scipy.ndimage import zoom

    picture = np.random.default_rng(0).random((1, 8, 8))
    expected = zoom(picture[0], 2, order=1, mode="nearest", grid_mode=True)
    assert np.allclose(enlarge(picture, 16)[0], expected, atol=1e-6)


def test_warp_without_amounts_changes_nothing():
    digits = np.random.default_rng(0).random((4, 15, 15), np.float32)
    still = Warp(rotation=0.0, shear=0.0, stretch=0.0, shift=0.0)
    assert np.allclose(still.apply(digits, np.random.default_rng(1)), digits, atol=1e-6)


def test_warp_deforms_a_little_and_stays_in_range():
    digits = np.random.default_rng(0).random((50, 15, 15), np.float32)
    warped = Warp().apply(digits, np.random.default_rng(1))
    assert 0 <= warped.min() and warped.max() <= 1
    assert (warped != digits).any(axis=(1, 2)).all()


@pytest.mark.parametrize("options", [{"shear": -0.1}, {"stretch": 1.0}])
def test_impossible_warps_are_named(options):
    with pytest.raises(ValueError, match="stretch"):
        Warp(**options)


# ---------------------------------------------------------------- MNIST's own files


@needs_mnist
@pytest.mark.parametrize(("split", "first", "last"), [("train", 0, 7999), ("test", 8000, 9999)])
def test_real_mnist(split, first, last):
    data = double_mnist(MNIST, split, size=400)
    assert data.images.shape == (400, 64, 64, 1) and data.images.max() == 1
    assert data.origin == f"split of MNIST test, index {first} to {last}"
    assert first <= data.source_indices.min() and data.source_indices.max() <= last
    assert data.masks.any(axis=(2, 3)).all()
    assert not data.masks[:, 0, :, 32:].any() and not data.masks[:, 1, :, :32].any()
    assert double_mnist(MNIST, split, size=400) == data


@needs_mnist
def test_real_mnist_holds_the_digits_of_the_file():
    content = gzip.decompress((MNIST / "t10k-images-idx3-ubyte.gz").read_bytes())
    digits = np.frombuffer(content, np.uint8, offset=16).reshape(-1, 28, 28)
    data = double_mnist(MNIST, "test", size=5)
    for row in range(5):
        for half, source in enumerate(data.source_indices[row]):
            part = data.images[row, :, 32 * half : 32 * half + 32, 0]
            assert _occurs(digits[source].astype(np.float32) / np.float32(255), part)


def idx(array: np.ndarray, magic: int | None = None) -> bytes:
    """The bytes of an IDX file of unsigned bytes."""
    magic = 0x800 + array.ndim if magic is None else magic
    header = struct.pack(f">{1 + array.ndim}I", magic, *array.shape)
    return header + array.astype(np.uint8).tobytes()


IMAGES = np.random.default_rng(0).integers(1, 256, (50, 28, 28))
LABELS = np.arange(50) % 10
IMAGE_NAME, LABEL_NAME = "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"


@pytest.fixture
def folder(tmp_path) -> Path:
    """A small whole set in MNIST's format."""
    (tmp_path / f"{IMAGE_NAME}.gz").write_bytes(gzip.compress(idx(IMAGES)))
    (tmp_path / LABEL_NAME).write_bytes(idx(LABELS))
    return tmp_path


def test_small_set_is_split_by_index(folder):
    train, test = (double_mnist(folder, split, size=300) for split in ("train", "test"))
    assert set(train.source_indices.ravel()) == set(range(40))
    assert set(test.source_indices.ravel()) == set(range(40, 50))
    assert (LABELS[test.source_indices] == test.object_labels).all()


def test_train_files_are_used_if_there(folder):
    (folder / "train-images-idx3-ubyte").write_bytes(idx(IMAGES[:30]))
    (folder / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(LABELS[:30])))
    train, test = (double_mnist(folder, split, size=300) for split in ("train", "test"))
    assert train.origin == "MNIST train" and train.source_indices.max() == 29
    assert test.origin == "MNIST test" and set(test.source_indices.ravel()) == set(range(50))


def test_missing_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="folder: got .*nowhere.*expected"):
        double_mnist(tmp_path / "nowhere")


@pytest.mark.parametrize("name", [f"{IMAGE_NAME}.gz", LABEL_NAME])
def test_missing_file(folder, name):
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"without {name.removesuffix('.gz')}"):
        double_mnist(folder)


def test_half_a_pair_of_train_files(folder):
    (folder / "train-images-idx3-ubyte").write_bytes(idx(IMAGES))
    with pytest.raises(FileNotFoundError, match="without train-labels"):
        double_mnist(folder)


DAMAGE = {
    "truncated gzip": (f"{IMAGE_NAME}.gz", lambda b: b[: len(b) // 2], "truncated or not gzip"),
    "not gzip": (f"{IMAGE_NAME}.gz", lambda b: b"plain text", "truncated or not gzip"),
    "flipped byte in gzip": (
        f"{IMAGE_NAME}.gz",
        lambda b: b[:999] + bytes([b[999] ^ 255]) + b[1000:],
        "truncated or not gzip",
    ),
    "empty gzip": (f"{IMAGE_NAME}.gz", lambda b: b"", "truncated"),
    "truncated header": (LABEL_NAME, lambda b: b[:6], "truncated: got 6 bytes"),
    "truncated values": (LABEL_NAME, lambda b: b[:-1], "truncated: got 57 bytes"),
    "trailing values": (LABEL_NAME, lambda b: b + b"\0", "too long: got 59 bytes"),
    "wrong magic": (LABEL_NAME, lambda b: b"\0\0\x0d\1" + b[4:], "wrong magic.*0x00000d01"),
    "swapped files": (LABEL_NAME, lambda b: idx(IMAGES), "wrong magic.*0x00000803"),
    "fewer labels": (LABEL_NAME, lambda b: idx(LABELS[:49]), "50 images .* 49 labels"),
    "label of ten": (LABEL_NAME, lambda b: idx(np.where(LABELS == 7, 10, LABELS)), "label 10 at"),
    "other sides": (
        f"{IMAGE_NAME}.gz",
        lambda b: gzip.compress(idx(IMAGES[:, :20, :20])),
        r"images of \(20, 20\)",
    ),
    "blank digit": (
        f"{IMAGE_NAME}.gz",
        lambda b: gzip.compress(idx(IMAGES * (np.arange(50) != 3)[:, None, None])),
        "no pixel above 0.2, the first at index 3",
    ),
    "one label only": (LABEL_NAME, lambda b: idx(0 * LABELS), "at least 2"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_files_are_named(folder, damage):
    name, change, message = DAMAGE[damage]
    (folder / name).write_bytes(change((folder / name).read_bytes()))
    with pytest.raises(ValueError, match=message) as error:
        double_mnist(folder)
    assert str(error.value).startswith(("folder: ", "source: "))


def test_triples_have_three_distinct_digits_one_in_each_third(folder):
    data = triple_mnist(folder, size=300)
    assert data.images.shape == (300, 84, 84, 1) and (data.labels.sum(axis=1) == 3).all()
    assert all(len(set(row)) == 3 for row in data.object_labels.tolist())
    for third in range(3):
        elsewhere = data.masks[:, third].copy()
        elsewhere[:, :, 28 * third : 28 * (third + 1)] = False
        assert not elsewhere.any() and data.masks[:, third].any(axis=(1, 2)).all()
    assert data.masks.any(axis=(0, 1)).any(axis=1).mean() > 0.9  # every height
    assert data == triple_mnist(folder, size=300) != triple_mnist(folder, size=300, seed=1)


@pytest.mark.parametrize("objects", [2, 3, 4])
def test_ordered_label_sets_are_equally_likely(objects):
    source = DigitSource(np.ones((4, 2, 2), np.float32), np.arange(4), np.arange(4), "four squares")
    many = compose_digits(source, size=24_000, canvas=8, split="train", seed=0, objects=objects)
    found, counts = np.unique(many.object_labels, axis=0, return_counts=True)
    assert len(found) == {2: 12, 3: 24, 4: 24}[objects]
    expected = 24_000 / len(found)
    assert np.abs(counts - expected).max() < 5 * np.sqrt(expected)
