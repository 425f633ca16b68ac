"""The table of guarantees, its picture, and 'jmlv flips'."""

import json

import pytest
from pages import read

import jmlv
from jmlv.cli import main
from jmlv.guarantees import Count, GuaranteeTable, Kept


def kept(lower, upper):
    return Kept((0, 1), 2, Count(2 - upper, 2 - lower), 1, 0.1)


def test_rows_are_means_and_say_which_end_is_proven():
    table = GuaranteeTable.of(
        [0.1, 0.2],
        [[kept(2, 2), kept(1, 1)], [kept(0, 2), kept(1, 1)]],
        {"noise": [[2, 1], [0, 1]]},
    )
    first, second = table.rows()
    assert (first["proven"], first["attacked"], first["exact"], first["noise"]) == (
        1.5,
        1.5,
        1,
        1.5,
    )
    assert (second["proven"], second["attacked"], second["exact"]) == (0.5, 1.5, 0.5)
    changed = GuaranteeTable.of([0.1], [[Count(1, 3)]]).rows()[0]
    assert (changed["proven"], changed["attacked"]) == (3, 1)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_a_proof_holds_in_smaller_regions_and_an_attack_in_larger_ones(order):
    radii, ends = (0.1, 0.2, 0.3), ((0, 2), (1, 2), (0, 1))
    table = GuaranteeTable.of(
        [radii[i] for i in order],
        [[kept(*ends[i])] for i in order],
        {"noise": [[i] for i in order]},
    ).nested()
    found = {
        radius: (low, up) for radius, [low], [up] in zip(table.radii, table.lower, table.upper)
    }
    assert found == {0.1: (1, 2), 0.2: (1, 2), 0.3: (0, 1)}
    assert table.smoothed["noise"].ravel().tolist() == list(order)
    changed = GuaranteeTable.of(radii, [[Count(1, 2)], [Count(0, 1)], [Count(0, 3)]]).nested()
    assert changed.lower.ravel().tolist() == [1, 1, 1]
    assert changed.upper.ravel().tolist() == [1, 1, 3]


def test_the_picture_has_a_curve_for_each():
    table = GuaranteeTable.of([0.1, 0.2], [[kept(2, 2)], [kept(0, 1)]], {"MultiGuard": [[1], [0]]})
    axes = jmlv.plotting.guarantees(table, radius="l2 radius").axes[0]
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == ["open", "attacked", "proven", "exact", "MultiGuard"]
    assert axes.get_ylabel() == "labels kept (mean)"


@pytest.mark.parametrize(
    "arguments, message",
    [
        (([0.1], []), "results: expected one row"),
        (([0.1], [[kept(1, 1), Count(0, 0)]]), "results: expected one row"),
        (([0.1], [[kept(1, 1)]], {"x": [1.0]}), "smoothed: expected arrays"),
    ],
)
def test_what_does_not_fit_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        GuaranteeTable.of(*arguments)


@pytest.mark.slow
def test_flips_on_the_command_line(tmp_path, capsys):
    radii = ["0.001", "0.00100000004"]
    options = ["--epsilon", *radii, "--budget", "20", "--out", str(tmp_path), "--report"]
    assert main(["flips", *options]) == 0
    (page,) = tmp_path.glob("*_0.001.html")
    assert len(list(tmp_path.glob("*_0.00100000004.html"))) == 1
    assert "exactly 0 labels can change at once" in read(page).text
    assert "changed" in capsys.readouterr().out
    written = json.loads((tmp_path / "flips.json").read_text())
    assert (written["k"], written["threshold"], written["norm"]) == (2, None, "linf")
    row, _ = written["results"]
    assert row["radius"] == 0.001 and row["changed"] == {"lower": 0, "upper": 0, "labels": []}
    assert (tmp_path / "flips.png").exists() and len(row["present"]) == 2


def test_options_that_do_not_fit_are_refused(capsys):
    assert main(["flips", "--threshold", "0.5", "--k", "2"]) == 2
    assert "--k: not beside --threshold" in capsys.readouterr().err


@pytest.mark.slow
def test_balls_on_the_command_line(capsys):
    assert main(["flips", "--epsilon", "0.001", "--norm", "l2", "--budget", "20"]) == 0
    assert "radii in l2" in capsys.readouterr().out
