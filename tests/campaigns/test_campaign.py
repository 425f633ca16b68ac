"""A campaign: what is asked, how often, by whom, and what its table says."""

import builtins
import os
import pickle
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import campaign_tasks
import numpy as np
import pytest

import jmlv
from jmlv.campaigns import (
    Answer,
    CallQuestion,
    Campaign,
    Futures,
    GrowQuestion,
    Held,
    InProcess,
    Network,
    Store,
    Table,
    VerifyQuestion,
    summary,
)
from jmlv.campaigns.campaign import LOOK


def squares(count, **arguments):
    return [
        CallQuestion(
            "campaign_tasks:square", {"x": x, **arguments}, tags={"x": x, "odd": x % 2 == 1}
        )
        for x in range(count)
    ]


def records(folder, event="done"):
    import json

    lines = [line for p in sorted(Path(folder, "rows").glob("*")) for line in p.open()]
    return [r for r in map(json.loads, lines) if r["event"] == event]


def test_a_run_that_was_cut_off_repeats_nothing(tmp_path):
    first = Campaign(squares(6), tmp_path).run()
    assert [next(first).values["square"] for _ in range(3)] == [0, 1, 4]
    first.close()
    assert [row.values["square"] for row in Campaign(squares(6), tmp_path).run()] == [9, 16, 25]
    assert len(records(tmp_path)) == 6
    assert (
        str(Campaign(squares(6), tmp_path).status()) == "6 of 6 done, 0 running, 0 failed, 0 left"
    )


def test_nothing_waits_between_two_questions(tmp_path):
    start = time.monotonic()
    assert len(list(Campaign(squares(40), tmp_path).run())) == 40
    assert time.monotonic() - start < 40 * LOOK / 2


def test_every_row_is_written_before_it_is_handed_out(tmp_path):
    for number, row in enumerate(Campaign(squares(4), tmp_path).run(), 1):
        assert records(tmp_path)[-1]["key"] == row.question.key
        assert len(records(tmp_path)) == number


def test_status_while_it_runs(tmp_path):
    campaign = Campaign(squares(5), tmp_path)
    run = campaign.run()
    next(run), next(run)
    seen = Campaign(squares(5), tmp_path).status()
    assert (seen.done, seen.left, seen.running) == (2, 3, 0)
    assert seen.per_second > 0 and seen.seconds_left < 60 and "to go" in str(seen)
    run.close()
    assert campaign.status().per_second is None


def test_a_question_that_fails_takes_no_other_with_it(tmp_path):
    asked = [*squares(2), CallQuestion("campaign_tasks:nothing"), *squares(4)]
    rows = list(Campaign(asked, tmp_path / "c").run())
    assert sorted(row.values["square"] for row in rows if not row.failed) == [0, 1, 4, 9]
    (failed,) = (row for row in rows if row.failed)
    assert "campaign_tasks:nothing" in failed.reason
    assert len(records(tmp_path / "c", "failed")) == 2
    again = Campaign(asked, tmp_path / "c")
    assert list(again.run()) == [] and again.status().failed == 1
    assert len(list(again.run(attempts=3))) == 1 and len(records(tmp_path / "c", "failed")) == 3


@pytest.mark.parametrize("colds, asked", [(1, 2), (9, 3)])
def test_a_question_whose_time_went_into_compiling_is_asked_again(tmp_path, colds, asked):
    times = []

    class Cold(CallQuestion):
        def answer(self, f):
            times.append(1)
            return Answer({"time": len(times)}, cold=len(times) <= colds)

    (row,) = Campaign([Cold("math:sqrt")], tmp_path).run()
    assert row.values == {"time": asked} and len(times) == asked
    assert len(records(tmp_path)) == 1


def test_a_question_is_asked_as_often_as_said(tmp_path):
    (tmp_path / "tries").mkdir()
    question = CallQuestion("campaign_tasks:fail", {"folder": str(tmp_path / "tries"), "times": 2})
    campaign = Campaign([question], tmp_path / "c")
    (row,) = campaign.run(attempts=3)
    assert row.values == {"tried": 2}
    assert campaign.results()["state"].tolist() == ["done"]


def test_shares_are_apart_and_together_everything(tmp_path):
    keys = []
    for share in ((1, 3), (2, 3), (3, 3)):
        keys += [row.question.key for row in Campaign(squares(7), tmp_path).run(share=share)]
    assert len(keys) == len(set(keys)) == 7
    with pytest.raises(ValueError, match="share"):
        Campaign(squares(7), tmp_path).run(share=(0, 3))


def test_what_another_writer_answers_is_not_asked_again(tmp_path, monkeypatch):
    from jmlv.campaigns import campaign

    monkeypatch.setattr(campaign, "LOOK", 0.0)
    mine = Campaign(squares(4), tmp_path).run()
    next(mine)
    assert len(list(Campaign(squares(4), tmp_path).run())) == 3
    assert list(mine) == [] and len(records(tmp_path)) == 4


def test_what_another_writer_is_at_is_waited_for(tmp_path):
    """While it is alive; what it began and left is asked."""
    left, taken = squares(2), []
    other = Store(tmp_path)
    with other.writing():
        other.started(left[0].key, "other")
        run = Campaign(left, tmp_path).run()
        taken.append(next(run).question.key)
        assert taken == [left[1].key]
        other.answered(left[0].key, Answer({"square": -1}), {"kind": "call"})
        other.started(left[1].key, "other")
    assert list(run) == []
    third = squares(3)[2]
    with other.writing():
        other.started(third.key, "other")
    assert [row.values["square"] for row in Campaign([third], tmp_path).run()] == [4]


def test_ctrl_c_keeps_what_is_written_and_nothing_half_done(tmp_path):
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it

    def f(x):
        return np.float32(1) * x.reshape(x.shape[0], 2)

    class Interrupted(GrowQuestion):
        kind = "grow"

        def answer(self, f):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5)

    network = Network.of(Held(f, (1, 2, 1)))
    x, layers = np.array([[[0.8], [0.3]]]), jmlv.Layers.around(np.array([[True, False]]))
    last = Interrupted(network, x, layers, jmlv.InTopK(0, k=1))
    run, rows = Campaign([*squares(2), last], tmp_path).run(), []
    with pytest.raises(KeyboardInterrupt):
        rows.extend(iter(lambda: next(run), None))
    assert len(records(tmp_path)) == 2 and not records(tmp_path, "failed")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_answer_that_an_interrupt_cut_short_is_not_written(tmp_path):
    class Swallows(CallQuestion):
        def answer(self, f):
            try:
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(5)
            except KeyboardInterrupt:
                return jmlv.campaigns.Answer({"partial": True})

    with pytest.raises(KeyboardInterrupt):
        list(Campaign([Swallows("math:sqrt")], tmp_path).run())
    assert records(tmp_path) == []


class Elsewhere(ThreadPoolExecutor):
    """Sends everything as a pool of processes would, without starting any."""

    def submit(self, function, *arguments):
        sent = pickle.dumps((function, arguments))

        def work():
            function, arguments = pickle.loads(sent)
            return pickle.loads(pickle.dumps(function(*arguments)))

        return super().submit(work)


def test_any_pool_of_futures_works(tmp_path):
    (tmp_path / "tries").mkdir()
    failing = CallQuestion("campaign_tasks:fail", {"folder": str(tmp_path / "tries"), "times": 1})
    with Elsewhere(2) as pool:
        rows = list(Campaign([*squares(5), failing], tmp_path / "c").run(Futures(pool, 3)))
    assert sorted(row.values.get("square", -1) for row in rows) == [-1, 0, 1, 4, 9, 16]
    assert len(records(tmp_path / "c", "failed")) == 1


def test_results_are_a_data_frame_or_a_plain_table(tmp_path, monkeypatch):
    pytest.importorskip("pandas")
    campaign = Campaign([*squares(3), CallQuestion("campaign_tasks:nothing")], tmp_path)
    list(campaign.run())
    asked = Campaign([*squares(4), CallQuestion("campaign_tasks:nothing")], tmp_path)
    frame = asked.results()
    assert frame["square"].tolist()[:3] == [0, 1, 4]
    assert frame["state"].tolist() == ["done"] * 3 + ["left", "failed"]
    real = builtins.__import__

    def without(name, *arguments):
        if name == "pandas":
            raise ImportError(name)
        return real(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", without)
    table = asked.results()
    assert isinstance(table, Table) and list(frame.columns) == list(table.names)
    assert table.column("square") == [0, 1, 4, None, None]
    rows = [dict(zip(table.names, row)) for row in table.rows[:3]]
    assert dict(zip(*_first(summary(rows, ["odd"]))))["questions"] == 2


def _first(table):
    return table.names, table.rows[0]


def test_arrays_are_kept_beside_the_rows(tmp_path):
    question = CallQuestion("campaign_tasks:with_array", {"x": 3})
    campaign = Campaign([question], tmp_path)
    list(campaign.run())
    assert campaign.arrays(question)["numbers"].tolist() == [0, 1, 2]
    assert Campaign([question], tmp_path).arrays(question.key)["numbers"].tolist() == [0, 1, 2]
    with pytest.raises(KeyError):
        campaign.arrays("another")


def test_bounds_together_are_the_bounds_alone(tmp_path):
    """In one batch, and spread over several devices (in a process that has them)."""

    def f(x):
        return np.float32(1) * x.reshape(x.shape[0], 2) @ np.array([[2, -1], [0.5, 1]], np.float32)

    network = Network.of(Held(f, (1, 2, 1)))
    x = np.array([[[0.8], [0.3]]], np.float32)
    asked = [
        VerifyQuestion(
            network, jmlv.Box.around(x, np.float32(r)), jmlv.InTopK(0, k=1),
            jmlv.Bounds(), tags={"r": r},
        )
        for r in (0.01, 0.1, 0.3)
    ]  # fmt: skip
    alone = Campaign(asked, tmp_path / "alone")
    together = Campaign(asked, tmp_path / "together")
    assert len(list(alone.run())) == len(list(together.run(InProcess(together=3)))) == 3
    for name in ("status", "lower", "method"):
        assert list(alone.results()[name]) == list(together.results()[name])


def test_the_file_of_tasks_is_the_one_beside_this(tmp_path):
    assert Path(campaign_tasks.__file__).parent == Path(__file__).parent
