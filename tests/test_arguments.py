"""Arguments of the wrong kind end with one clear sentence, before any work."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jmlv
from jmlv.oracles.oracle import Query, require_encodable

WEIGHTS = jnp.ones((4, 3))
X = np.full((2, 2, 1), 0.5, np.float32)
BOX, KEEP, LAYERS = jmlv.Box.around(X, 0.1), jmlv.InTopK(0, 2), jmlv.Layers.around(np.eye(2))


def net(x):
    return x.reshape(x.shape[0], -1) @ WEIGHTS


def verify(f=net, region=BOX, property=KEEP, oracle=None, **options):
    return jmlv.verify(f, region, property, oracle, **options)


def grow(layers=LAYERS, property=KEEP, strategy=None, **options):
    return jmlv.grow(net, X, layers, property, strategy, **options)


def attack(goal, method):
    return jmlv.attack(net, X[None], goal, method, budgets=[0.1])


FAULTS = {
    "a bound by name": (lambda: jmlv.bound(net, BOX, KEEP, "crown"), "method: expected a BoundMethod such as CROWN"),
    "a bound's class": (lambda: jmlv.bound(net, BOX, KEEP, jmlv.CROWN), "got the class CROWN; write CROWN()"),
    "an oracle by name": (lambda: verify(oracle="crown"), "oracle: expected an Oracle"),
    "an oracle's class": (lambda: verify(oracle=jmlv.PGD), "got the class PGD; write PGD()"),
    "a bound as oracle": (lambda: verify(oracle=jmlv.CROWN()), "oracle: expected an Oracle such as Cascade() or Bounds"),
    "a bound's class in an oracle": (lambda: jmlv.Bounds(jmlv.CROWN), "method: expected BoundMethod, got the class CROWN; write CROWN()"),
    "a stage's class": (lambda: jmlv.Cascade((jmlv.PGD,)), "stages: expected a tuple of Oracle"),
    "a stage, no tuple": (lambda: jmlv.Cascade(jmlv.PGD()), "stages: expected a tuple of Oracle"),
    "an array as region": (lambda: verify(region=X), "region: expected a Box"),
    "a label as property": (lambda: verify(property=0), "property: expected a Property such as InTopK"),
    "a property's class": (lambda: verify(property=jmlv.InTopK), "got the class InTopK; write InTopK(...)"),
    "another shape": (lambda: verify(region=jmlv.Box.around(np.full((3, 3, 1), 0.5), 0.1)), "f: fails on an input of shape (1, 3, 3, 1)"),
    "another shape than the graph's": (lambda: verify(jmlv.trace(net, (2, 2, 1)), jmlv.Box.around(np.full((1, 4, 1), 0.5), 0.1)), "takes"),
    "a dict of scores": (lambda: verify(lambda x: {"scores": net(x)}), "f: expected one array of scores (1, labels) for an input (1, 2, 2, 1), got a dict"),
    "a tuple of scores": (lambda: verify(lambda x: (net(x),)), "got a tuple"),
    "scores in a column": (lambda: verify(lambda x: net(x).T), "got (3, 1)"),
    "one label": (lambda: verify(lambda x: net(x)[:, :1], property=jmlv.InTopK(0, 1)), "k: the network has one label"),
    "half a k": (lambda: jmlv.InTopK(0, 1.5), "k: expected an integer, got 1.5"),
    "a k of 2.0": (lambda: jmlv.classify_labels(net, BOX, 2.0), "k: expected an integer, got 2.0"),
    "half a label": (lambda: jmlv.InTopK(1.5, 1), "label: expected an integer, got 1.5"),
    "a share as label": (lambda: jmlv.KeepsLabels((0.7,), 1), "keep: expected an integer, got 0.7"),
    "a threshold's label": (lambda: jmlv.AboveThreshold("cat"), "label: expected an integer, got 'cat'"),
    "a truth value": (lambda: jmlv.NotInTopK(True, 1), "label: expected an integer, got True"),
    "a strategy by name": (lambda: grow(strategy="uniform"), "strategy: expected Strategy, got 'uniform'"),
    "a strategy's class": (lambda: grow(strategy=jmlv.Uniform), "got the class Uniform; write Uniform()"),
    "a bound by name, growing": (lambda: grow(bound="crown"), "bound: expected BoundMethod, got 'crown'"),
    "a mask as layers": (lambda: grow(layers=np.eye(2)), "layers: expected Layers.around(mask)"),
    "words as property": (lambda: grow(property="keep"), "property: expected a Property"),
    "steps as cut": (lambda: jmlv.GradientGuided(jmlv.LinearSteps()), "cut: expected CuttingWeights or None"),
    "an oracle in a strategy": (lambda: jmlv.OracleGuided(oracle=jmlv.CROWN()), "oracle: expected Oracle"),
    "half a step": (lambda: jmlv.Uniform(steps=2.5), "steps: expected an integer, got 2.5"),
    "a number as solver": (lambda: jmlv.MILP(3), "solver: expected a string, got 3"),
    "a goal by name": (lambda: attack("hide", jmlv.SLAM()), "goal: expected a Goal such as Hide(label)"),
    "an attack's class": (lambda: attack(jmlv.Hide(0), jmlv.SLAM), "got the class SLAM; write SLAM()"),
    "words as budget": (lambda: verify(budget="5"), "budget: expected a number of seconds"),
    "a plan's oracle": (lambda: jmlv.classify_labels(net, BOX, 2, "crown"), "oracle: expected Oracle or None"),
    "softmax": (lambda: verify(lambda x: jax.nn.softmax(net(x)), oracle=jmlv.MILP()), "at the end, which you may leave out"),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_one_sentence_says_what_is_wrong(name):
    call, message = FAULTS[name]
    with pytest.raises((TypeError, ValueError, NotImplementedError)) as raised:
        call()
    assert message in str(raised.value) and "\n" not in str(raised.value)
    assert type(raised.value) in (TypeError, ValueError, jmlv.UnsupportedOperation)


def test_attention_is_not_called_a_softmax_at_the_end():
    query = Query.of(lambda x: jax.nn.softmax(net(x)) @ jnp.eye(3), BOX, KEEP)
    with pytest.raises(jmlv.UnsupportedOperation, match="the network has softmax") as raised:
        require_encodable(jmlv.MILP(), query)
    assert "leave out" not in str(raised.value)


def test_a_sigmoid_at_the_end_can_be_left_out():
    query = Query.of(lambda x: jax.nn.sigmoid(net(x)), BOX, KEEP)
    with pytest.raises(jmlv.UnsupportedOperation, match="at the end, which you may leave out"):
        require_encodable(jmlv.MILP(), query)
    inner = Query.of(lambda x: jax.nn.sigmoid(net(x)) @ jnp.eye(3), BOX, KEEP)
    with pytest.raises(jmlv.UnsupportedOperation) as raised:
        require_encodable(jmlv.MILP(), inner)
    assert "leave out" not in str(raised.value)


def test_numbers_of_numpy_are_numbers():
    assert jmlv.InTopK(np.int64(1), np.uint8(2)) == jmlv.InTopK(1, 2)
    assert hash(jmlv.KeepsLabels(np.array([1, 2]), 2)) == hash(jmlv.KeepsLabels((1, 2), 2))
    assert jmlv.Uniform(steps=np.int32(3)).steps == 3
    assert jmlv.Cascade([jmlv.PGD(), jmlv.Bounds()]).stages == (jmlv.PGD(), jmlv.Bounds())
