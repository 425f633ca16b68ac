"""Results as data: what a run measured, with where and when, in ``docs/results``; the page is made from it.

    python experiments/recorded.py          # docs/results.md from docs/results/*.json (make results)
    python experiments/recorded.py --check  # ends with 1 if a table of the page is not the file's

A table on the page stands between ``<!-- table NAME -->`` and ``<!-- end NAME -->``. Under it is the command,
and how many commits since have changed the code that it measured.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PAGE, FOLDER = ROOT / "docs" / "results.md", ROOT / "docs" / "results"
BLOCK = re.compile(r"<!-- table ([\w-]+) -->\n(.*?)<!-- end \1 -->", re.S)
PACKAGES = "jmlv", "jax", "numpy", "ortools"


def add_record_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--record", metavar="NAME", help="keep the table as docs/results/NAME.json, for the page"
    )


def keep_table(
    options: argparse.Namespace,
    columns: Sequence[str],
    rows: Iterable[Sequence[Any]],
    code: Sequence[str],
) -> None:
    """Keeps a table if the user asked for it; ``code`` are the files and folders that it measures."""
    if getattr(options, "record", None) is None:
        return
    content = {
        "command": "python " + " ".join(_words(sys.argv)),
        "code": list(code),
        "recorded": provenance(),
        "columns": list(columns),
        "rows": [[_cell(value) for value in row] for row in rows],
    }
    FOLDER.mkdir(exist_ok=True)
    write(options.record, content)


def provenance() -> dict[str, Any]:
    """When, on what, with which versions, of which commit."""
    import jax

    changed = _git("status", "--porcelain", "--untracked-files=no")
    devices = sorted({device.device_kind for device in jax.devices()})
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "commit": (_git("rev-parse", "--short=12", "HEAD") or "") + ("+" if changed else ""),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, {', '.join(devices)}",
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        "how": "written by the command itself",
    }


def write(name: str, content: dict[str, Any]) -> None:
    text = json.dumps(content, indent=1, ensure_ascii=False)
    (FOLDER / f"{name}.json").write_text(text + "\n", encoding="utf-8")


def read(name: str) -> dict[str, Any]:
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))


def page(text: str) -> str:
    """The page with every table as its file has it.

    Raises:
        FileNotFoundError: a table has no file.
    """
    return BLOCK.sub(lambda found: block(found.group(1), read(found.group(1))), text)


def block(name: str, content: dict[str, Any]) -> str:
    return f"<!-- table {name} -->\n{table(content)}\n\n{note(content)}\n<!-- end {name} -->"


def table(content: dict[str, Any]) -> str:
    """The table in Markdown."""
    rows = [content["columns"], ["---"] * len(content["columns"]), *content["rows"]]
    lines = ("| " + " | ".join(row) + " |" for row in rows)
    return "\n".join(line.replace("| --- ", "|---").replace("|--- |", "|---|").replace("|  |", "| |") for line in lines)  # fmt: skip


def note(content: dict[str, Any]) -> str:
    """Where the table is from, and whether the code has changed since."""
    return f"*{origin(content)} {staleness(content)}*"


def origin(content: dict[str, Any]) -> str:
    """The command, when and where it ran, and with which versions."""
    told = content["recorded"]
    versions = ", ".join(f"{name} {version}" for name, version in told["versions"].items())
    where = ", ".join(filter(None, (told["date"], f"commit {told['commit']}", told["machine"], versions)))  # fmt: skip
    return f"`{content['command']}`: {where}; {told['how']}."


def is_of_its_file(text: str, content: dict[str, Any]) -> bool:
    """Whether a block's text is the file's table and origin and no more, with any word on staleness."""
    return bool(
        re.fullmatch(re.escape(f"{table(content)}\n\n*{origin(content)} ") + r"[^\n|]*\*\n", text)
    )


def staleness(content: dict[str, Any]) -> str:
    told = content["recorded"]["commit"]
    since = told.rstrip("+")
    if since != told:
        return f"**Not of a commit**: files had been changed since {since}."
    found = _git("log", "--oneline", f"{since}..HEAD", "--", *content["code"])
    if found is None:
        return f"Whether the code has changed since {told} is not known here."
    count = len(found.splitlines())
    if not count:
        return "The code that it measures has not changed since."
    commits = "1 later commit changes" if count == 1 else f"{count} later commits change"
    return f"**Stale**: {commits} the code that it measures."


def _git(*words: str) -> str | None:
    """What git says; None where there is no git, or no such commit."""
    try:
        done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def _words(argv: Sequence[str]) -> list[str]:
    """The command without what only says to keep it."""
    words = [os.path.relpath(argv[0], ROOT), *argv[1:]]
    if "--record" in words:
        place = words.index("--record")
        words[place : place + 2] = []
    return [f'"{word}"' if " " in word else word for word in words]


def _cell(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="change nothing, compare tables")
    check = parser.parse_args().check
    text = PAGE.read_text(encoding="utf-8")
    if check:
        wrong = [name for name, content in BLOCK.findall(text) if not is_of_its_file(content, read(name))]  # fmt: skip
        print("\n".join(f"{PAGE}: the table {name} is not that of its file" for name in wrong))
        return 1 if wrong else 0
    PAGE.write_text(page(text), encoding="utf-8")
    unused = {path.stem for path in FOLDER.glob("*.json")} - {name for name, _ in BLOCK.findall(text)}  # fmt: skip
    if unused:
        print(f"not on the page: {', '.join(sorted(unused))}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
