"""``jmlv campaign``: asks what a file says, shows how far it is, and goes on after Ctrl-C."""

import re
from pathlib import Path

import pytest
from pages import read

from jmlv.campaigns import Checkpoint, Network
from jmlv.cli import main
from jmlv.cli.campaign_grids import AttackGrid, GrowGrid, LabelsGrid, SmoothGrid, UpperBoundGrid
from jmlv.cli.campaign_images import digits
from jmlv.cli.campaign_plan import read_campaign

CONFIG = """
store = "{store}"
[networks]
none = {{ folder = "checkpoints/double_digits_none" }}
[images]
kind = "digits"
first = 2
[[questions]]
kind = "verify"
radius = [0.001, 0.002]
oracle = "ibp"
labels = "each"
[[questions]]
kind = "attack"
distances = [0.01, 0.3]
"""


@pytest.fixture(autouse=True)
def in_repository(request, monkeypatch):
    monkeypatch.chdir(request.config.rootpath)


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "campaign.toml"
    path.write_text(CONFIG.format(store=tmp_path / "store"))
    return path


def test_a_file_is_asked_shown_and_gone_on_with(config, capsys):
    store = str(config.parent / "store")
    assert main(["campaign", str(config), "--share", "1/2", "--quiet"]) == 0
    assert "6 of 12 done" in capsys.readouterr().out
    assert main(["campaign", "status", store]) == 0
    assert "6 of 12 done, 0 running, 0 failed, 6 left" in capsys.readouterr().out
    assert main(["campaign", str(config), "--together", "4", "--quiet"]) == 0
    assert "12 of 12 done" in capsys.readouterr().out
    assert main(["campaign", "table", store, "--by", "kind", "radius"]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"verify +0\.001 +4", shown) and re.search(r"attack .* 4", shown)
    assert main(["campaign", "table", store, "--by", "kind", "--report"]) == 0
    page = read(config.parent / "store" / "report.html")
    assert "12 of 12 done" in page.text and "By kind" in page.text
    capsys.readouterr()
    assert main(["campaign", "table", store]) == 0
    assert capsys.readouterr().out.count("\n") == 14


def test_ctrl_c_says_how_to_go_on(config, capsys, monkeypatch):
    from jmlv.campaigns import Campaign

    whole = Campaign.run

    def interrupted(self, *arguments, **options):
        yield next(whole(self, *arguments, **options))
        raise KeyboardInterrupt

    monkeypatch.setattr(Campaign, "run", interrupted)
    monkeypatch.setattr("sys.argv", ["jmlv", "campaign", str(config), "--quiet"])
    assert main(["campaign", str(config), "--quiet"]) == 130
    said = capsys.readouterr().err
    assert "1 of 12 done" in said and f"Go on with: jmlv campaign {config} --quiet" in said


BAD = {
    "store": ('store = "{store}"', "", "store: missing"),
    "kind": ('kind = "verify"', 'kind = "prove"', "questions[0].kind: got 'prove'"),
    "oracle": ('oracle = "ibp"', 'oracle = "magic"', "oracle: got 'magic'"),
    "type": ("radius = [0.001, 0.002]", 'radius = "wide"', "questions[0].radius: got"),
    "key": ("first = 2", "last = 2", "images.last: unknown"),
    "folder": ("double_digits_none", "nowhere", "nowhere"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_wrong_file_is_one_clear_line(name, config, capsys):
    old, new, message = BAD[name]
    config.write_text(CONFIG.replace(old, new).format(store=config.parent / "store"))
    assert main(["campaign", str(config), "--quiet"]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["status", "nowhere"], "not a campaign's folder"),
        (["table"], "config: there is no file 'table'"),
        (["a", "b", "c"], "what: got 'a b c'"),
        (["x.toml", "--share", "3/2"], "share: got '3/2'"),
        (["x.toml", "--cores", "2"], "--cores: of workers"),
        (
            ["x.toml", "--workers", "2", "--together", "4"],
            "--together: for questions in this process",
        ),
        (["x.toml", "--workers", "2", "--gpus", "1"], "--gpus: for workers on Ray"),
        (["x.toml", "--by", "radius"], "--by: for table alone"),
        (["status", "nowhere", "--workers", "2"], "--workers: status asks nothing"),
    ],
)
def test_wrong_words_are_named(arguments, message, capsys):
    assert main(["campaign", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_every_kind_of_question_can_be_written_in_a_file():
    plan = read_campaign(Path("experiments/configs/campaign.toml"))
    assert len(plan.networks) == 3 and len(plan.grids) == 2
    assert plan.grids[1].perturb == ("left",) and plan.grids[0].radius == (0.01, 0.02, 0.05)
    network = Network.of(Checkpoint("checkpoints/double_digits_none"))
    grids = LabelsGrid((0.1,)), GrowGrid(), UpperBoundGrid(), SmoothGrid((0.2,)), AttackGrid((0.1,))
    (image,) = digits(first=1)((32, 32, 1))
    asked = [question for grid in grids for question in grid.questions(network, image)]
    assert [q.kind for q in asked] == ["labels", *["grow"] * 2, *["upper-bound"] * 2, "smooth",
                                       *["attack"] * 2]  # fmt: skip
    assert len({q.key for q in asked}) == len(asked)
    assert (
        dict(asked[1].tags)["perturb"] == "left"
        and asked[1].property.label != asked[2].property.label
    )
