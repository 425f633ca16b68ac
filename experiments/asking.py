"""Who answers an experiment's questions, and the answers as records.

Every answer is a row in ``answers`` in the experiment's output folder (:mod:`jmlv.campaigns`), so that an
interrupted run goes on where it stopped, and ``jmlv campaign status FOLDER/answers`` says how far it is.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import jmlv
from jmlv.campaigns import Campaign, Executor, InProcess, Processes, Question, Ray


def add_executor_arguments(parser: argparse.ArgumentParser) -> None:
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--workers", type=int, help="worker processes; in this process by default")
    where.add_argument("--ray", metavar="ADDRESS", help="a Ray cluster; 'local' starts one here")


def executor_of(options: argparse.Namespace, together: int = 1) -> Executor:
    """The executor that the options name; by default this process, so many questions at a time."""
    if getattr(options, "ray", None) is not None:
        return Ray(None if options.ray == "local" else options.ray)
    if getattr(options, "workers", None) is not None:
        return Processes(options.workers)
    return InProcess(together)


def ask(
    questions: Sequence[Question], options: argparse.Namespace, description: str, together: int = 1
) -> list[dict]:
    """The record of every question, in order: its answer's values, its tags, and its ``key``."""
    campaign = Campaign(questions, options.out / "answers")
    status = campaign.status()
    rows = campaign.run(executor_of(options, together))
    for row in jmlv.TqdmProgress().wrap(rows, description, status.total - status.done):
        if row.failed:
            print(f"{row.question}: {row.reason}")
    if campaign.status().failed:
        raise SystemExit("some questions failed; run the same again once their reasons are mended")
    return _records(questions, campaign)


def stored(questions: Sequence[Question], out: Path) -> list[dict]:
    """The records of those questions that have been answered already."""
    campaign = Campaign(questions, out / "answers")
    return _records([q for q in questions if q.key in campaign.store.done], campaign)


def _records(questions: Sequence[Question], campaign: Campaign) -> list[dict]:
    done = campaign.store.done
    return [{**done[q.key]["values"], **dict(q.tags), "key": q.key} for q in questions]
