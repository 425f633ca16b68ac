"""Random questions: the networks hold every operation, and a wrong proof among the answers is told."""

import collections

import asking
import every_operation
import numpy as np
import pytest
import soundness
from every_operation import ARCHITECTURES, network, primitives

import jmlv
from jmlv.campaigns import CallQuestion, Campaign
from jmlv.graph.operations import BILINEAR, LINEAR, is_piecewise_linear, is_product
from jmlv.graph.rules.parameters import PARAMETERS
from jmlv.graph.smooth import GELU_TANH_64, SMOOTH, Smooth
from jmlv.oracles import Deadline, ask
from jmlv.verdict import Status, Verdict

ELSEWHERE = {
    "add_any", "copy_p",  # of derivatives, and of JAX's own making
    "sharding_constraint",  # of several devices
    "erf", "le", "lt",  # as erfc, ge, gt
}  # fmt: skip


def _weights(name):
    rng = np.random.default_rng(0)
    shapes = ARCHITECTURES[name].weights
    return [np.asarray(rng.normal(size=s) / np.sqrt(s[0]), np.float32) for s in shapes]


@pytest.fixture(scope="module")
def graphs():
    return {name: network(name, _weights(name)) for name in ARCHITECTURES}


def test_networks_are_written_with_every_primitive_that_a_graph_may_be_read_from():
    assert set(PARAMETERS) - set().union(*map(primitives, ARCHITECTURES)) == ELSEWHERE


def test_networks_hold_every_operation_of_a_graph(graphs):
    eqns = [(graph, eqn) for graph in graphs.values() for eqn in graph.eqns]
    held = {eqn.primitive for _, eqn in eqns}
    assert set(SMOOTH) - held == {GELU_TANH_64}  # of float64 networks
    assert LINEAR | BILINEAR <= held
    assert {p.name for p in held if not isinstance(p, Smooth)} >= {
        "max", "reduce_window_max", "softmax", "div",
    }  # fmt: skip
    products = {eqn.primitive.name for graph, eqn in eqns if is_product(graph, eqn)}
    assert products == {"mul", "dot_general"}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_network_with_other_weights_is_the_function(graphs, name):
    of, graph = ARCHITECTURES[name], graphs[name]
    x = np.random.default_rng(1).random((1, *of.shape)).astype(np.float32)
    np.testing.assert_allclose(graph(x), of.function(x, *_weights(name)), rtol=1e-4, atol=1e-5)
    assert all(is_piecewise_linear(graph, eqn) for eqn in graph.eqns) == of.linear


def test_a_network_whose_weights_are_no_constants_is_refused(monkeypatch):
    of = ARCHITECTURES["dense"]
    other = of._replace(function=lambda x, *w: of.function(x, 2 * w[0], *w[1:]))
    monkeypatch.setitem(ARCHITECTURES, "doubled", other)
    with pytest.raises(AssertionError, match="doubled: 3. weights are no constants"):
        every_operation.network("doubled", [])


def _answered(monkeypatch, verdict_of):
    monkeypatch.setattr(soundness, "asked", lambda query, oracle, deadline: verdict_of(query))
    monkeypatch.setattr(soundness, "_certify", lambda *arguments: None)
    counts, wrong = collections.Counter(), []
    for i in range(10):
        soundness._answer(np.random.default_rng(i), "dense", str(i), counts, wrong)
    return counts, wrong


def test_a_wrong_proof_is_told(monkeypatch):
    counts, wrong = _answered(monkeypatch, lambda query: Verdict(Status.ROBUST, 1e-5, 1.0))
    assert len(wrong) >= counts["planted ROBUST"] > 0


def test_a_bound_above_a_point_is_told(monkeypatch):
    _, wrong = _answered(monkeypatch, lambda query: Verdict(Status.UNKNOWN, 1e30))
    assert len(wrong) == 10


def test_a_witness_that_breaks_nothing_is_told(monkeypatch):
    def verdict(query):
        return Verdict(Status.NOT_ROBUST, witness=query.upper + 1)

    assert len(_answered(monkeypatch, verdict)[1]) == 10


def test_right_answers_are_no_contradictions(monkeypatch):
    oracle = jmlv.Bounds(jmlv.IBP())
    counts, wrong = _answered(monkeypatch, lambda query: ask(query, oracle, Deadline(60)))
    assert wrong == [] and {"free ROBUST", "planted UNKNOWN"} <= set(counts)


def test_margins_are_not_rounded_to_float32():
    found = soundness._margins(jmlv.InTopK(0, k=1), np.array([1 + 1e-12, 1, 0, 0]))
    assert found == pytest.approx(1e-12, rel=1e-3)


def test_stored_answers_are_counted_by_architecture(tmp_path):
    block = {"of dense": 100, "free ROBUST": 60, "planted NOT_ROBUST": 15, "planted UNKNOWN": 25,
             "certificate checked": 59, "certificate refused": 1, "wrong": ["a proof"], "seconds": 2.0}  # fmt: skip
    questions = [CallQuestion("builtins:dict", {**block, "number": n}) for n in range(2)]
    list(Campaign(questions[1:], tmp_path / "answers").run())
    found = soundness.summary(asking.stored(questions, tmp_path))
    row = (100, 60, 15, 25, 40, 15, 59, 0, 0, 1, 1, "20")
    assert found == [("dense", *row), ("all", *row)]
