"""A Ray cluster of three nodes on this machine, one of which dies and is added again."""

import os
from pathlib import Path

import pytest
from test_campaign import records

import jmlv
from jmlv.campaigns import CallQuestion, Campaign, Ray
from jmlv.campaigns.executors import Task
from jmlv.campaigns.executors.on_ray import _batches

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'jmlv[cluster]'")

ROOT = Path(jmlv.__file__).parents[1]


def test_batches_are_even_and_what_has_failed_goes_alone():
    fresh = [Task(CallQuestion("math:sqrt", {"x": x})) for x in range(5)]
    failed = [Task(CallQuestion("math:sqrt", {"x": -1}), frozenset({"a"}))]
    for workers, sizes in ((1, [6]), (2, [1, 5]), (3, [1, 3, 2]), (9, [1] * 6)):
        batches = _batches([*fresh, *failed], workers)
        assert [len(batch) for batch in batches] == sizes
        assert sorted(map(id, (t for b in batches for t in b))) == sorted(map(id, fresh + failed))


@pytest.fixture
def cluster(monkeypatch):
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(Path(__file__).parent)]))
    monkeypatch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        yield made
    finally:
        ray.shutdown()
        made.shutdown()


@pytest.mark.slow
def test_a_node_dies_and_comes_back(cluster, tmp_path):
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    asked = [
        CallQuestion("campaign_tasks:square", {"x": x, "seconds": 0.1}, tags={"x": x})
        for x in range(40)
    ]
    sleeps = {"path": str(tmp_path / "slept")}
    asked.append(CallQuestion("campaign_tasks:sleep_once", sleeps, budget=0.5))
    campaign, seen = Campaign(asked, tmp_path / "c"), []
    run = campaign.run(Ray(cluster.address, workers=3, batch_seconds=0.5, grace=0.2))
    for number, row in enumerate(run):
        seen.append(row)
        if number == 10:
            cluster.remove_node(nodes.pop(), allow_graceful=False)
        if number == 25:
            cluster.add_node(num_cpus=1)
    assert len(seen) == len({row.question.key for row in seen}) == len(asked)
    assert list(campaign.results()["square"]) == [*(x * x for x in range(40)), -1]
    assert len(records(tmp_path / "c")) == len(asked)
    reasons = {r["key"]: r["reason"] for r in records(tmp_path / "c", "failed")}
    assert "stopped: it took more than 1.5 times its 0.5 s" in reasons[asked[-1].key]
