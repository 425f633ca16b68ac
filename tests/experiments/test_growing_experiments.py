"""The experiments on growing: an interrupted run goes on, repeats nothing, and counts right."""

import argparse

import ablate_growing
import growing
import layered_neighborhoods
import numpy as np
import pytest
from asking import ask, executor_of

import jmlv
from jmlv.campaigns import CallQuestion, Held, InProcess, Network, Processes, Ray


def options(folder, **changes):
    return argparse.Namespace(out=folder, workers=None, ray=None, **changes)


def test_records_come_in_order_and_finished_ones_are_not_asked_again(tmp_path):
    (tmp_path / "tries").mkdir()
    fails = {"folder": str(tmp_path / "tries"), "times": 2}
    asked = [CallQuestion("campaign_tasks:square", {"x": x}, tags={"case": x}) for x in (2, 1)]
    asked.insert(1, CallQuestion("campaign_tasks:fail", fails, tags={"case": "fails"}))
    with pytest.raises(SystemExit, match="some questions failed"):
        ask(asked, options(tmp_path), "")
    assert [r["case"] for r in ask(asked[::2], options(tmp_path), "")] == [2, 1]
    assert [r["square"] for r in ask(asked[::2], options(tmp_path), "")] == [4, 1]
    assert len(list((tmp_path / "tries").iterdir())) == 2


def test_options_name_the_executor(tmp_path):
    chosen = options(tmp_path)
    assert executor_of(chosen, 3) == InProcess(3)
    chosen.workers = 2
    assert executor_of(chosen, 3) == Processes(2)
    chosen.workers, chosen.ray = None, "local"
    assert executor_of(chosen) == Ray(None)


def test_grown_cases_and_their_table_on_a_small_network(tmp_path):
    def f(x):
        h = x.reshape(x.shape[0], 4)
        return h @ np.array([[2, 0, 1], [0, 2, 0], [-1, 0, 0], [0, 0, 0.5]], np.float32)

    image = np.array([[[0.9], [0.8]], [[0.1], [0.3]]], np.float32)
    mask = np.array([[False, True], [False, False]])
    network = Network.of(Held(f, image.shape), "toy")
    right, wrong = ("0 side 0", image, mask, 0), ("1 side 0", 0 * image, mask, 2)
    asked = [
        growing.question(network, one, jmlv.Uniform(steps=4), 20.0, "decaying")
        for one in (right, wrong)
    ]
    records = growing.grow_and_attack(asked, options(tmp_path), together=2)
    assert records[0]["size"] > 0 and records[0]["attacked"] == "UNKNOWN"
    assert records[0]["weights"] == "decaying" and records[0]["network"] == "toy"
    assert records[1]["status"] == "MISCLASSIFIED" and records[1]["size"] == 0
    assert [r["strategy"] for r in records] == ["uniform"] * 2
    row = dict(zip(growing.MEANS, growing.means(records)))
    assert row["cases"] == 2 and row["mean size"] == pytest.approx(records[0]["size"] / 2)
    layered_neighborhoods.report(records, tmp_path)
    assert "uniform" in (tmp_path / "table.txt").read_text()
    assert (tmp_path / "sizes.png").stat().st_size > 3000


def test_cuts_add_both_strategies_once():
    options = argparse.Namespace(
        cuts=["fixed", "sensitive"], only_cuts=False, skip_complete=True, oracle_seconds=3.0
    )
    chosen = layered_neighborhoods.strategies(options)
    assert len(chosen) == len(set(chosen)) and jmlv.LayerSearch() not in chosen
    guided = [s for s in chosen if isinstance(s, jmlv.OracleGuided)]
    assert [s.cut for s in guided] == [jmlv.FixedCut(), jmlv.SensitivityCut()]
    assert all(s.oracle.time_limit == 3.0 for s in guided)
    assert jmlv.GradientGuided(cut=jmlv.FixedCut()) in chosen
    options.only_cuts = True
    assert len(layered_neighborhoods.strategies(options)) == 4


def test_every_ablation_differs_from_its_default_in_one_thing():
    variants = list(ablate_growing.variants())
    parts = {v.part for v in variants}
    assert {"bound", "batch", "starts", "polish", "complete phase", "cut", "rounds"} <= parts
    keys = [(v.strategy, v.bound) for v in variants]
    assert len(set(keys)) == len(keys)
    for v in variants:
        assert (v.value == "default") == ((v.strategy, v.bound) == (v.default, jmlv.CROWN()))


def test_ablation_table_divides_by_the_default(tmp_path):
    default, changed = list(ablate_growing.variants())[:2]
    size = dict(maximal=0, open=1, queries={}, complete_queries=0, seconds=1.0, attacked="UNKNOWN")
    record = {"network": "a", "image": "a", "status": "ROBUST", **size}
    results = [(default, record | {"size": 2.0}), (changed, record | {"size": 1.5})]
    ablate_growing.report(results, tmp_path)
    lines = (tmp_path / "table.txt").read_text().splitlines()
    assert "1.000" in lines[2] and "0.750" in lines[3]
