"""Ask many questions from a TOML file, on this machine or on many, and look at the answers."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from jmlv.campaigns import (
    Campaign,
    Executor,
    InProcess,
    Processes,
    Ray,
    Row,
    Store,
    rows_of,
    status_of,
    summary,
)
from jmlv.campaigns.page import page_of
from jmlv.cli.campaign_plan import read_campaign
from jmlv.cli.options import ANSWERED, FAILED, INTERRUPTED, add_report, refuse
from jmlv.cli.report import table
from jmlv.progress import NoProgress, TqdmProgress
from jmlv.shown import column

LOCAL = "local"
ASKING = "workers", "ray", "cores", "memory", "gpus", "together", "share", "attempts", "quiet"
"""Options of those who ask."""

HIDDEN = ("key", "kind", "failure")
"""Columns that a printed table leaves out, beside those with lists."""


def add_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "what", nargs="+", metavar="CONFIG.toml | status FOLDER | table FOLDER",
        help="a file with questions (example: experiments/configs/campaign.toml), or what to show of a "
        "folder of answers",
    )  # fmt: skip
    command.add_argument("--by", nargs="+", default=[], help="table: group by these columns")
    add_report(command, "table: as report.html in FOLDER")
    where = command.add_mutually_exclusive_group()
    where.add_argument("--workers", type=int, help="worker processes; in this process by default")
    where.add_argument("--ray", metavar="ADDRESS", help=f"a Ray cluster; {LOCAL!r} starts one here")
    command.add_argument("--cores", type=int, default=1, help="of a worker")
    command.add_argument("--memory", type=float, help="MiB of a worker and all that it starts")
    command.add_argument("--gpus", type=float, default=0, help="of a Ray worker")
    command.add_argument(
        "--together", type=int, default=1,
        help="in this process: questions that are batched over all devices",
    )  # fmt: skip
    command.add_argument("--share", metavar="I/N", help="only the I-th of N parts of the questions")
    command.add_argument("--attempts", type=int, default=2, help="how often a question is asked")
    command.add_argument("--quiet", action="store_true", help="no progress bar")


def run(arguments: argparse.Namespace) -> int:
    match arguments.what:
        case ["status" | "table" as shown, folder]:
            refuse(arguments, f"{shown} asks nothing; leave it out.", *ASKING)
            if shown == "status":
                refuse(arguments, "for table alone.", "by", "report")
                print(_folder_status(_existing(folder)))
            else:
                print(_folder_table(_existing(folder), arguments.by))
                if arguments.report:
                    _report(Path(folder), arguments.by)
            return ANSWERED
        case [config]:
            refuse(
                arguments, "for table alone: jmlv campaign table FOLDER --by ...", "by", "report"
            )
            return _ask(arguments, Path(config))
    raise ValueError(
        f"what: got {' '.join(arguments.what)!r}; expected CONFIG.toml, status FOLDER or table FOLDER."
    )


def _ask(arguments: argparse.Namespace, config: Path) -> int:
    executor, share = _executor(arguments), _share(arguments.share)
    plan = read_campaign(config)
    campaign = Campaign(plan.questions(), plan.store)
    before = campaign.status()
    print(f"{config}: {before}", file=sys.stderr)
    failed: list[Row] = []
    rows = campaign.run(executor, attempts=arguments.attempts, share=share)
    progress = NoProgress() if arguments.quiet else TqdmProgress()
    try:
        with progress.bar("questions", -(-(before.total - before.done) // share[1])) as bar:
            for row in rows:
                failed += [row] if row.failed else []
                bar.update(1, failed=len(failed))
    except KeyboardInterrupt:
        print(f"interrupted; what is answered is written. {campaign.status()}", file=sys.stderr)
        print(f"Go on with: jmlv campaign {' '.join(sys.argv[2:])}", file=sys.stderr)
        return INTERRUPTED
    for row in failed:
        print(f"{row.question}: {row.reason}", file=sys.stderr)
    print(f"{campaign.status()}\njmlv campaign table {plan.store} --by network")
    return FAILED if failed else ANSWERED


def _executor(arguments: argparse.Namespace) -> Executor:
    if arguments.ray is None:
        refuse(arguments, "for workers on Ray: --ray ADDRESS.", "gpus")
    if arguments.ray is None and arguments.workers is None:
        refuse(arguments, "of workers: --workers N or --ray ADDRESS.", "cores", "memory")
    else:
        refuse(arguments, "for questions in this process: leave the workers out.", "together")
    if arguments.ray is not None:
        address = None if arguments.ray == LOCAL else arguments.ray
        memory = arguments.memory
        return Ray(address, cores=arguments.cores, gpus=arguments.gpus, memory=memory)
    if arguments.workers is not None:
        return Processes(arguments.workers, arguments.cores, arguments.memory)
    return InProcess(arguments.together)


def _share(text: str | None) -> tuple[int, int]:
    """``I/N`` as two numbers.

    >>> _share("2/3")
    (2, 3)
    """
    if text is None:
        return 1, 1
    number, _, parts = text.partition("/")
    if not (number.isdigit() and parts.isdigit() and 1 <= int(number) <= int(parts)):
        raise ValueError(f"share: got {text!r}; expected I/N with I in 1..N, such as 2/10.")
    return int(number), int(parts)


def _existing(folder: str) -> Store:
    if not (Path(folder) / "rows").is_dir() and not (Path(folder) / "plans").is_dir():
        raise FileNotFoundError(f"folder: {folder!r} is not a campaign's folder of answers.")
    return Store(folder)


def _folder_status(store: Store) -> str:
    """The counts, and the reasons of what failed."""
    status = status_of(store, store.planned())
    reasons = {key: found[-1]["reason"] for key, found in store.failures.items()}
    lines = [f"{key[:12]}  {why}" for key, why in reasons.items() if key not in store.done]
    return "\n".join([str(status), *lines])


def _report(folder: Path, by: list[str]) -> None:
    store, path = Store(folder), folder / "report.html"
    page_of(rows_of(store), status_of(store, store.planned()), by).write(path)
    print(f"a page for people is in {path}")


def _folder_table(store: Store, by: list[str]) -> str:
    rows = rows_of(store)
    if not rows:
        return "no question is answered yet"
    if by:
        grouped = summary(rows, by)
        return table(grouped.names, grouped.rows)
    names = [n for n in dict.fromkeys(n for row in rows for n in row) if n not in HIDDEN]
    names = [n for n in names if not any(isinstance(row.get(n), (list, dict)) for row in rows)]
    return table(
        names, [tuple(_cell(column(name, row.get(name))) for name in names) for row in rows]
    )


def _cell(value: Any) -> Any:
    return "" if value is None else value
