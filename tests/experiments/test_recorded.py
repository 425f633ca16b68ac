"""Tables of the results page are those of the files, and say when they are stale."""

import argparse
import json

import pytest

recorded = pytest.importorskip("recorded", reason="the experiments are not here")

CONTENT = {
    "command": "python experiments/one.py",
    "code": ["jmlv/bounds"],
    "recorded": {"date": "2026-11-01", "commit": "abc", "machine": "m", "versions": {"jmlv": "0.1"}, "how": "so"},
    "columns": ["", "a"],
    "rows": [["x", "1"]],
}  # fmt: skip


@pytest.fixture
def stored(tmp_path, monkeypatch):
    monkeypatch.setattr(recorded, "FOLDER", tmp_path)
    recorded.write("one", CONTENT)
    return tmp_path


def test_the_page_has_the_tables_of_the_files():
    text = recorded.PAGE.read_text(encoding="utf-8")
    found = recorded.BLOCK.findall(text)
    assert {name for name, _ in found} == {path.stem for path in recorded.FOLDER.glob("*.json")}
    for name, content in found:
        assert recorded.is_of_its_file(content, recorded.read(name)), f"make results: {name}"


def test_rows_that_were_never_measured_are_found(stored, monkeypatch):
    monkeypatch.setattr(recorded, "PAGE", stored / "page.md")
    monkeypatch.setattr("sys.argv", ["recorded.py", "--check"])
    made = recorded.page("<!-- table one -->\n<!-- end one -->")
    for text, status in (
        (made, 0),
        (made.replace("| x | 1 |\n", "| x | 1 |\n| y | 2 |\n"), 1),
        (made.replace("\n<!-- end", "\n| y | 2 |\n<!-- end"), 1),
        (made.replace("| x | 1 |\n", ""), 1),
        (made.replace("experiments/one.py", "experiments/two.py"), 1),
        (made.replace("2026-11-01", "2027-11-01"), 1),
    ):
        recorded.PAGE.write_text(text)
        assert recorded.main() == status


def test_a_table_of_changed_files_says_so(monkeypatch):
    monkeypatch.setattr(recorded, "_git", lambda *words: "")
    dirty = {**CONTENT, "recorded": {**CONTENT["recorded"], "commit": "abc+"}}
    assert recorded.staleness(dirty) == "**Not of a commit**: files had been changed since abc."


def test_tables_are_replaced_and_prose_is_not(stored, monkeypatch):
    monkeypatch.setattr(recorded, "_git", lambda *words: "one\ntwo")
    text = "before\n<!-- table one -->\nold\n<!-- end one -->\nafter"
    made = recorded.page(text)
    assert made.startswith("before\n<!-- table one -->\n| | a |\n|---|---|\n| x | 1 |\n")
    assert "**Stale**: 2 later commits change" in made and made.endswith("<!-- end one -->\nafter")
    assert recorded.page(made) == made


@pytest.mark.parametrize(
    ("said", "told"),
    [("", "has not changed since"), ("one", "**Stale**: 1 later commit changes"), (None, "not known here")],
)  # fmt: skip
def test_staleness_is_what_git_says(said, told, monkeypatch):
    monkeypatch.setattr(recorded, "_git", lambda *words: said)
    assert told in recorded.staleness(CONTENT)


def test_a_run_keeps_its_table_with_where_it_is_from(stored, monkeypatch):
    monkeypatch.setattr("sys.argv", [str(recorded.ROOT / "experiments/two.py"), "--k", "2", "--record", "two"])  # fmt: skip
    recorded.keep_table(argparse.Namespace(record=None), ["a"], [[1]], ["jmlv"])
    recorded.keep_table(argparse.Namespace(), ["a"], [[1]], ["jmlv"])
    assert not (stored / "two.json").exists()
    recorded.keep_table(argparse.Namespace(record="two"), ["a", "b"], [[0.123456, "x"]], ["jmlv"])
    content = json.loads((stored / "two.json").read_text())
    assert content["command"] == "python experiments/two.py --k 2"
    assert content["rows"] == [["0.123", "x"]]
    assert {"date", "commit", "machine", "versions", "how"} == set(content["recorded"])
