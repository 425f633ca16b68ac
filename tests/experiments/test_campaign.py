"""The experiments on growing: an interrupted run goes on, repeats nothing, and counts right."""

import argparse

import ablate_growing
import campaign
import layered_neighborhoods
import numpy as np
import pytest

import jmlv


def cases(count):
    return [
        dict.fromkeys(campaign.KEY, "a") | {"image": str(i), "work": object()} for i in range(count)
    ]


def test_finished_cases_are_not_run_again(tmp_path):
    path, ran = tmp_path / "deep" / "results.jsonl", []

    def run(case):
        ran.append(case["image"])
        if case["image"] == "2" and len(ran) == 3:
            raise KeyboardInterrupt
        return {name: case[name] for name in campaign.KEY} | {"size": float(case["image"])}

    with pytest.raises(KeyboardInterrupt):
        campaign.run_all(cases(4), run, path, "")
    records = campaign.run_all(cases(4), run, path, "")
    assert ran == ["0", "1", "2", "2", "3"]
    assert [record["size"] for record in records] == [0, 1, 2, 3]
    assert len(path.read_text().splitlines()) == 4
    campaign.run_all(cases(2), run, path, "")
    assert len(ran) == 5


def test_a_line_cut_short_is_run_again(tmp_path):
    path = tmp_path / "results.jsonl"
    for case in cases(2):
        campaign.append(path, {name: case[name] for name in campaign.KEY})
    text = path.read_text()
    path.write_text(text[:-9])
    assert len(campaign.load(path)) == 1
    campaign.append(path, {name: cases(2)[1][name] for name in campaign.KEY})
    assert len(campaign.load(path)) == 2


def test_grown_case_and_table_on_a_small_network(tmp_path):
    def f(x):
        h = x.reshape(x.shape[0], 4)
        return (
            np.float32(1)
            * h
            @ np.array([[2, 0, 1], [0, 2, 0], [-1, 0, 0], [0, 0, 0.5]], np.float32)
        )

    image = np.array([[[0.9], [0.8]], [[0.1], [0.3]]], np.float32)
    mask = np.array([[False, True], [False, False]])
    graph = jmlv.trace(f, image.shape)
    right, wrong = ("0 side 0", image, mask, 0), ("1 side 0", 0 * image, mask, 2)
    strategy = jmlv.Uniform(steps=4)
    made = [
        campaign.case("toy", graph, one, strategy, weights="decaying") for one in (right, wrong)
    ]
    records = campaign.run_all(
        made, lambda c: campaign.grow_case(c, 20.0), tmp_path / "r.jsonl", ""
    )
    assert records[0]["size"] > 0 and records[0]["attacked"] == "UNKNOWN"
    assert records[0]["weights"] == "decaying" and records[0]["network"] == "toy"
    assert records[1] == {name: made[1][name] for name in campaign.KEY} | {
        "name": "uniform",
        "size": 0.0,
        "status": "MISCLASSIFIED",
    }
    row = dict(zip(campaign.MEANS, campaign.means(records)))
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
    record = dict.fromkeys(campaign.KEY, "a") | {"status": "ROBUST", **size}
    results = [(default, record | {"size": 2.0}), (changed, record | {"size": 1.5})]
    ablate_growing.report(results, tmp_path)
    lines = (tmp_path / "table.txt").read_text().splitlines()
    assert "1.000" in lines[2] and "0.750" in lines[3]
