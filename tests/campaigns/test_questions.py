"""Each kind of question says what its verb says, alone and in a batch."""

import os
import subprocess
import sys

import jax
import numpy as np
import pytest

import jmlv
from jmlv.attacks import MIFGSM, LeaveTopK
from jmlv.campaigns import (
    AttackQuestion,
    Campaign,
    Checkpoint,
    GrowQuestion,
    Held,
    InProcess,
    LabelsQuestion,
    Network,
    OnnxFile,
    SmoothQuestion,
    UpperBoundQuestion,
    VerifyQuestion,
)
from jmlv.campaigns.answer import was_cold
from jmlv.campaigns.questions.verify import answer_of
from jmlv.campaigns.sources import Shipped
from jmlv.graph.fingerprint import fingerprint
from jmlv.labels import Plan
from jmlv.oracles.aside import run_until
from jmlv.oracles.deadline import Deadline, TimeUp
from jmlv.verdict import Status, Verdict

WEIGHTS = np.array([[2, 0, 1], [0, 2, 0], [-1, 0, 0], [0, 0, 0.5]], np.float32)
X = np.array([[[0.9], [0.8]], [[0.1], [0.3]]], np.float32)
LAYERS = jmlv.Layers.around(np.array([[False, True], [False, False]]))


def f(x):
    return x.reshape(x.shape[0], 4) @ WEIGHTS


NETWORK = Network.of(Held(f, (2, 2, 1)))
BOX = jmlv.Box.around(X, np.float32(0.01))
KEEPS = jmlv.InTopK(0, k=1)


def the_only(tmp_path, question):
    campaign = Campaign([question], tmp_path)
    (row,) = campaign.run()
    assert not row.failed, row.reason
    return row.values, campaign.arrays(question)


def test_verify(tmp_path):
    wide = jmlv.Box.around(X, np.float32(0.5))
    values, arrays = the_only(tmp_path, VerifyQuestion(NETWORK, wide, KEEPS, jmlv.PGD()))
    assert values["status"] == "NOT_ROBUST" and values["lower"] is None and values["upper"] <= 0
    assert float(KEEPS.margin(f(arrays["witness"][None]))[0]) <= 0 and wide.contains(
        arrays["witness"]
    )


def test_an_open_verdict_says_whether_programs_were_missing():
    missing = "CROWN: still compiling when the time was up"
    for status, reason, cold in [
        (Status.UNKNOWN, missing, True),
        (Status.UNKNOWN, "CROWN: too loose", False),
        (Status.ROBUST, missing, False),
    ]:
        assert answer_of(Verdict(status, 0.1, reason=reason), 1.0).cold is cold
    with pytest.raises(TimeUp) as late:
        run_until(Deadline(0.01), lambda deadline: _compile_for_long())
    assert was_cold(str(late.value)), "the words are those of the library"


def _compile_for_long():
    @jax.jit
    def long(x):
        for i in range(1000):
            x = jax.numpy.sin(x) @ (x + i + os.getpid())  # which no folder of programs has
        return x

    return long(np.eye(8, dtype=np.float32))


def test_verify_of_the_deployed_network(tmp_path):
    question = VerifyQuestion(NETWORK, BOX, KEEPS, jmlv.Bounds(), deployed=jmlv.Float32())
    values, _ = the_only(tmp_path, question)
    assert values["status"] == "ROBUST" and "float32" in values["about"] and question.group is None


def test_labels(tmp_path):
    values, arrays = the_only(tmp_path, LabelsQuestion(NETWORK, BOX, 1, Plan(oracle=None)))
    expected = jmlv.classify_labels(f, BOX, 1, plan=Plan(oracle=None))
    assert values["labels"] == [status.value for status in expected.status]
    assert values["always"] == 1 and arrays["proven"].shape == (3, 2)


def test_grow_and_upper_bound(tmp_path):
    question = GrowQuestion(NETWORK, X, LAYERS, KEEPS, jmlv.Uniform(), weights=jmlv.decaying)
    values, arrays = the_only(tmp_path / "grow", question)
    grown = jmlv.grow(f, X, LAYERS, KEEPS, jmlv.Uniform(), weights=jmlv.decaying)
    assert values["status"] == "ROBUST" and values["size"] == grown.size
    assert arrays["epsilon"].tolist() == grown.epsilon.tolist()
    asked = UpperBoundQuestion(NETWORK, X, LAYERS, KEEPS, weights=jmlv.decaying, budget=1)
    values, arrays = the_only(tmp_path / "upper", asked)
    assert values["upper_bound"] >= grown.size and len(arrays["cuts"]) == values["cut_count"]


@pytest.mark.parametrize("kind", [GrowQuestion, UpperBoundQuestion])
def test_a_misclassified_image_is_a_row_and_no_verdict(tmp_path, kind):
    values, _ = the_only(tmp_path, kind(NETWORK, X, LAYERS, jmlv.InTopK(2, k=1)))
    assert values["status"] == "MISCLASSIFIED" and values["size"] == 0


def test_smooth(tmp_path):
    question = SmoothQuestion(NETWORK, X, (0, 1), 0.1, 200, 2, 2, radii=(0.0, 0.05, 3.0))
    values, arrays = the_only(tmp_path, question)
    assert arrays["counts"].sum() == 400 and values["sizes"] == sorted(
        values["sizes"], reverse=True
    )
    assert values["sizes"][0] == 2 and values["predicted"] == [0, 1]


def attack_of(x, **options):
    return AttackQuestion(NETWORK, x, LeaveTopK(0, 1), MIFGSM(), (0.01, 0.6), **options)


def test_attack(tmp_path):
    values, arrays = the_only(tmp_path, attack_of(X))
    assert values["success"] == [False, True] and values["distances"] == [0.01, 0.6]
    assert np.abs(arrays["images"] - X).max((1, 2, 3)) == pytest.approx([0.01, 0.6], abs=1e-6)


def test_together_is_as_alone(tmp_path):
    """Groups of growing, attacks and bounds, and what has no group, mixed."""
    shades = [np.clip(X * s, 0, 1) for s in (1.0, 0.9, 0.8)]
    asked = [attack_of(x, tags={"i": i}) for i, x in enumerate(shades)]
    asked += [GrowQuestion(NETWORK, x, LAYERS, KEEPS, jmlv.Uniform(steps=4)) for x in shades]
    asked += [
        VerifyQuestion(NETWORK, jmlv.Box.around(x, 0.01), KEEPS, jmlv.Bounds()) for x in shades
    ]
    asked += [GrowQuestion(NETWORK, X, LAYERS, jmlv.InTopK(2, 1), jmlv.Uniform(steps=4))]
    asked += [VerifyQuestion(NETWORK, BOX, jmlv.InTopK(9, 1), jmlv.Bounds())]
    alone, together = (Campaign(asked, tmp_path / name) for name in ("alone", "together"))
    assert len(list(alone.run())) == len(list(together.run(InProcess(together=20)))) == len(asked)
    one, other = alone.results(), together.results()
    for name in ("state", "status", "size", "success", "flips", "kind"):
        assert list(map(str, one[name])) == list(map(str, other[name])), name
    np.testing.assert_allclose(list(one["lower"]), list(other["lower"]), rtol=1e-12)
    assert str(one["failure"].iloc[-1]).startswith("ValueError: label: must be in")


CODE = """
import jax
jax.config.update("jax_num_cpu_devices", 3)
import numpy as np, tempfile, jmlv
from test_questions import NETWORK, X, KEEPS, attack_of
from jmlv.campaigns import Campaign, InProcess, VerifyQuestion
from jmlv.campaigns.questions import verify
shades = [np.clip(X * s, 0, 1) for s in (1.0, 0.9, 0.8, 0.7)]
asked = [VerifyQuestion(NETWORK, jmlv.Box.around(x, 0.01), KEEPS, jmlv.Bounds()) for x in shades]
asked += [attack_of(x) for x in shades]
seen, spread = [], verify.spread
def watched(batch):
    seen.append(len(spread(batch).sharding.device_set))
    return spread(batch)
verify.spread = watched
tables = []
for together in (8, 1):
    campaign = Campaign(asked, tempfile.mkdtemp())
    assert all(not row.failed for row in campaign.run(InProcess(together=together)))
    tables.append(campaign.results())
assert list(tables[0]["status"]) == list(tables[1]["status"])
assert list(map(str, tables[0]["success"])) == list(map(str, tables[1]["success"]))
np.testing.assert_allclose(tables[0]["lower"][:4], tables[1]["lower"][:4], rtol=1e-12)
print(len(jax.devices()), seen)
"""


def test_batches_are_spread_over_all_devices():
    import os

    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, sys.path))}
    ran = subprocess.run(
        [sys.executable, "-c", CODE], capture_output=True, text=True, env=environment
    )
    assert ran.stdout.strip() == "3 [3, 3]", ran.stderr[-2000:]


@pytest.mark.parametrize("kind", ["checkpoint", "onnx"])
def test_a_shipped_network_is_the_same_network(tmp_path, kind):
    if kind == "checkpoint":
        source = Checkpoint(jmlv.checkpoints.available()[0])
    else:
        pytest.importorskip("onnx")
        jmlv.interop.write_onnx(f, (2, 2, 1), tmp_path / "net.onnx")
        source = OnnxFile(tmp_path / "net.onnx")
    shipped = Shipped.of(source)
    g, shape = shipped.load()
    assert Network.of(source).fingerprint == fingerprint(g, shape) and shipped.name == source.name
    assert shape == source.load()[1] and not jax.tree.leaves(Held(f, (2, 2, 1)))[1:]
