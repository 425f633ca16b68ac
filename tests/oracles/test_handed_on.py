"""What one question hands on to the next: the network's own weights, copies of images, no NaN."""

import dataclasses
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jmlv
from jmlv.campaigns import VerifyQuestion
from jmlv.campaigns.sources import Held, Network
from jmlv.labels import LabelStatus
from jmlv.labels.result import LabelSet
from jmlv.labels.store import query_key
from jmlv.oracles import Evidence, Query, judge
from jmlv.oracles.deadline import Deadline
from jmlv.oracles.milp import solvers
from jmlv.verdict import Status

WEIGHTS = np.array([[1e8 - 1, 1e8, -5e8], [0, 0, 0]])
OFFSETS = np.array([0.5, 0.0, -1e9])
"""In float64 label 0 loses by 0.5 at x = 1; rounded to float32 it wins by 0.5 everywhere."""


def _near_tie(x):
    return x.reshape(len(x), -1) @ jnp.asarray(WEIGHTS) + jnp.asarray(OFFSETS)


@pytest.fixture
def wide():
    with jax.enable_x64(True):
        yield


BOX = np.zeros((1, 2, 1)), np.ones((1, 2, 1))


def test_a_second_question_is_about_the_same_weights(wide):
    box, prop = jmlv.Box.between(*BOX), jmlv.InTopK(0, 1)
    query = Query.of(_near_tie, box, prop)
    for other in (query, query.over(box), Query.of(_near_tie, box, prop, query.network)):
        assert other.dtype == "float64" and other.margin_exact(np.ones((1, 2, 1))) == -0.5
    assert not judge(
        query.over(box), jmlv.Bounds().search(query.over(box), Deadline(60)), ""
    ).robust


def test_every_image_of_a_batch_is_about_the_same_weights(wide):
    box = jmlv.Box.between(*BOX)
    for found in jmlv.classify_labels_batch(_near_tie, [box, box], 1):
        assert LabelStatus.ALWAYS not in {answer.status for answer in found.answers}


def test_growing_is_about_the_same_weights(wide):
    x = np.zeros((1, 2, 1), np.float32)
    layers = jmlv.Layers.around(np.array([[True, False]]))
    for grown in (
        jmlv.grow(_near_tie, x, layers, jmlv.InTopK(0, 1), jmlv.Uniform(), maximality=None),
        *(g for _, g in jmlv.grow_many(
            _near_tie, [x, x], [layers] * 2, jmlv.InTopK(0, 1), jmlv.Uniform(), maximality=None
        )),
    ):  # fmt: skip
        assert grown.epsilon[0] < 0.51  # at 0.5 the two labels tie


def test_a_batch_of_a_campaign_is_about_the_same_weights(wide):
    network = Network.of(Held(_near_tie, (1, 2, 1)))
    question = VerifyQuestion(network, jmlv.Box.between(*BOX), jmlv.InTopK(0, 1), jmlv.Bounds())
    ((_, answer),) = question.answer_group(_near_tie, [question])
    assert answer.values["status"] != "ROBUST"


def test_keys_of_files_tell_weights_and_ends_apart(wide):
    def key(f, upper):
        box = jmlv.Box.between(np.zeros((1, 2, 1)), np.full((1, 2, 1), upper), domain=None)
        return query_key(Query.of(f, box, jmlv.InTopK(0, 1)))

    nudged = lambda x: _near_tie(x) + jnp.array([0.0, 1e-9, 0.0])  # noqa: E731
    assert key(_near_tie, 0.5) != key(nudged, 0.5)
    narrow = lambda x: x.reshape(len(x), -1) @ jnp.ones((2, 3), jnp.float32)  # noqa: E731
    least = float(np.nextafter(np.float32(0.1), np.float32(1)))
    assert key(narrow, least) != key(narrow, float(np.float32(0.1)) + 1e-12)


def test_stored_witnesses_keep_their_precision():
    witness = np.full((1, 2, 1), 0.1 + 1e-12)
    lost = jmlv.Verdict(Status.NOT_ROBUST, -1.0, -0.5, witness)
    found = jmlv.classify_labels(
        lambda x: x.reshape(len(x), -1), jmlv.Box.between(*BOX), 1, jmlv.PGD(), budget=30
    )
    answer = dataclasses.replace(found.answers[0], always=lost, never=lost)
    again = LabelSet.from_dict(LabelSet(1, (answer,), 0.0).as_dict())
    assert np.array_equal(again.answers[0].always.witness, witness)


def test_results_keep_their_own_images():
    f = lambda x: x.reshape(len(x), -1) @ jnp.array([[1.0, 0.0], [1.0, 0.0]])  # noqa: E731
    images = np.full((1, 1, 2, 1), 0.9, np.float32)
    layers = [jmlv.Layers.around(np.array([[True, False]]))]
    ((_, grown),) = jmlv.grow_many(f, images, layers, jmlv.InTopK(0, 1), jmlv.Uniform())
    images[:] = 0.0
    assert grown.verdict.robust and np.all(grown.x == np.float32(0.9))
    for name in ("x", "epsilon"):
        with pytest.raises(ValueError, match="read-only"):
            getattr(grown, name)[:] = 1


def _constant_margin(monkeypatch, exact, deployed):
    box = jmlv.Box.between(*BOX)
    query = Query.of(lambda x: x.reshape(len(x), -1), box, jmlv.AboveThreshold(0, -1.0))
    monkeypatch.setattr(Query, "margin_exact", lambda *_: exact)
    monkeypatch.setattr(Query, "margin_deployed", lambda *_: deployed)
    return query


@pytest.mark.parametrize("point", [None, np.full((1, 2, 1), 0.5)])
def test_a_nan_at_a_point_proves_nothing(monkeypatch, point):
    query = _constant_margin(monkeypatch, np.nan, np.nan)
    assert judge(query, Evidence(0.5, point), "").status is Status.UNKNOWN


def test_a_nan_in_one_precision_breaks_nothing(monkeypatch):
    for margins in ((-1.0, np.nan), (np.nan, -1.0)):
        query = _constant_margin(monkeypatch, *margins)
        assert judge(query, Evidence(point=np.full((1, 2, 1), 0.5)), "").status is Status.UNKNOWN


def test_a_deployed_network_that_runs_differently_is_a_defect(monkeypatch):
    monkeypatch.setattr(Query, "margin_deployed", lambda *_: -1.0)
    f = lambda x: x.reshape(len(x), -1)  # noqa: E731
    with pytest.raises(jmlv.SoundnessError, match="as it runs"):
        jmlv.verify(
            f, jmlv.Box.between(*BOX), jmlv.AboveThreshold(0, -1.0), jmlv.Bounds(),
            deployed=jmlv.Float32(),
        )  # fmt: skip


def test_a_solver_ends_when_nobody_waits(monkeypatch, tmp_path):
    worker = tmp_path / "worker.py"
    worker.write_text("import time; time.sleep(60)")
    monkeypatch.setattr(solvers, "_WORKER", worker)
    monkeypatch.setattr(solvers, "GRACE", 0.2)
    failures, deadline = [], Deadline(None)

    def work():
        try:
            solvers._run_worker({}, "scip", deadline, False)
        except solvers.WorkerFailure as failure:
            failures.append(failure)

    thread = threading.Thread(target=work)
    thread.start()
    deadline.expire()
    thread.join(timeout=10)
    assert failures and not thread.is_alive()


def test_an_overflowed_row_proves_nothing():
    form = jmlv.InTopK(0, 1).form(4)
    rows = np.array([np.inf, 1.0, 1.0] + [0.0] * (len(form.offsets) - 3))
    assert form.combine(rows) == 1.0 and form.least(rows) == -np.inf
