"""A question's key: the same in every process, and another whenever an answer may be another."""

import dataclasses
import functools
import pickle

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

import jmlv
from jmlv.campaigns import CallQuestion, GrowQuestion, Held, Network, VerifyQuestion
from jmlv.campaigns.questions import question as question_module
from jmlv.canonical import digest

X = np.array([[[0.8], [0.3]]], np.float32)


def f(x):
    return x.reshape(-1, 2)


NETWORK = Network.of(Held(f, (1, 2, 1)))


def verify(network=NETWORK, radius=0.1, property=jmlv.InTopK(0, k=1), **options):
    return VerifyQuestion(network, jmlv.Box.around(X, radius), property, **options)


@pytest.mark.parametrize(
    "other",
    [
        verify(radius=0.2),
        verify(property=jmlv.InTopK(1, k=1)),
        verify(oracle=jmlv.Bounds()),
        verify(oracle=jmlv.Bounds(jmlv.AlphaCROWN(steps=3))),
        verify(budget=10.0),
        verify(budget=None),
        verify(Network.of(Held(lambda x: 2 * f(x), (1, 2, 1)))),
    ],
)
def test_whatever_may_change_the_answer_changes_the_key(other):
    assert other.key != verify().key and other != verify()


def test_tags_arrays_and_kinds_of_numbers_do_not():
    same = verify(tags={"image": 3}, budget=60)
    assert same.key == verify().key and same == verify() and len({same, verify()}) == 1
    box = jmlv.Box.around(jnp.asarray(X), 0.1)
    assert VerifyQuestion(NETWORK, box, jmlv.InTopK(0, k=1)) == verify()


def test_another_release_asks_anew(monkeypatch):
    before = verify().key
    monkeypatch.setattr(question_module, "release", lambda: "99")
    assert verify().key != before


def test_a_key_survives_pickling():
    question = CallQuestion("math:sqrt", {"x": 2.0, "of": (1, "a", None)}, budget=3)
    assert pickle.loads(pickle.dumps(question)).key == question.key
    assert CallQuestion("math:sqrt", {"of": (1, "a", None), "x": 2}, budget=3.0) == question


@dataclasses.dataclass(frozen=True)
class Options:
    a: object = 1
    b: object = ()


@pytest.mark.parametrize(
    "one, two",
    [
        (("a", "bc"), ("ab", "c")),
        (("a", "bstr c"), ("astr b", "c")),
        (("a",), "a"),
        (True, 1),
        (0.1, np.float32(0.1)),
        (np.zeros(2, np.float32), np.zeros(2)),
        (np.zeros((1, 2)), np.zeros((2, 1))),
        (Options((1,), ()), Options((), (1,))),
        ({"a": 1, "b": 2}, {"a": 2, "b": 1}),
        (jmlv.equal, jmlv.decaying),
        (b"a", "a"),
        (None, "None"),
        (0.0, -0.0),
        (np.zeros(1, ml_dtypes.float8_e5m2), np.zeros(1, ml_dtypes.float8_e4m3fn)),
        (np.array([1], ">i2"), np.array([1], "<i2")),
        (np.arange(2000), np.r_[:1000, 1001, 1000, 1002:2000]),
        (jax.random.key(0), jax.random.key_data(jax.random.key(0))),
    ],
)
def test_values_that_differ_have_digests_that_differ(one, two):
    assert digest(one) != digest(two)


@pytest.mark.parametrize(
    "value",
    [
        Options(1).__eq__,
        functools.wraps(jmlv.equal)(lambda layers: 1),
        np.array([Options()]),
        np.ma.masked_array([1.0], [True]),
        {1, 2},
        object(),
    ],
)
def test_what_a_digest_does_not_see_whole_is_refused(value):
    with pytest.raises(TypeError, match="settings: got"):
        digest(value, "settings")


def test_values_without_a_name_are_refused():
    with pytest.raises(TypeError, match=r"\['weights'\].*by name"):
        layers = jmlv.Layers.around(np.array([[True, False]]))
        GrowQuestion(NETWORK, X, layers, jmlv.InTopK(0, 1), weights=lambda layers: 1).key  # noqa: B018


def test_a_held_network_stays_where_it_is():
    with pytest.raises(TypeError, match="lives in this process alone"):
        pickle.dumps(verify())


@pytest.mark.parametrize(
    "wrong, message",
    [
        (lambda: verify(network="checkpoints/x"), r"network: got str"),
        (lambda: verify(budget=0), "budget: must be"),
        (lambda: verify(tags={"image": X}), "tags: .*image"),
        (lambda: CallQuestion("math.sqrt"), "module:function"),
    ],
)
def test_wrong_arguments_are_named(wrong, message):
    with pytest.raises((TypeError, ValueError), match=message):
        wrong()
