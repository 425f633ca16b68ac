"""Which options were given, which of them fit one another, and how a command ends."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence

from jmlv.verdict import Status

ANSWERED, FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130
"""Exit codes."""

EXIT_CODES = (
    "exit codes: 0 answered; 1 an answer that --fail-on names, where the command has it, an "
    "operation without a rule (check), or a question that failed (campaign); "
    "2 bad input, with one line on standard error; 130 interrupted"
)

_FAILURES = {"not-robust": Status.NOT_ROBUST, "unknown": Status.UNKNOWN}


def given(command: argparse.ArgumentParser, argv: Sequence[str]) -> frozenset[str]:
    """The options that the user wrote, by destination, whatever their values are.

    >>> command = argparse.ArgumentParser(allow_abbrev=False)
    >>> _ = command.add_argument("--k", type=int, default=2)
    >>> sorted(given(command, ["--k=2"]))
    ['k']
    """
    words = {word.split("=", 1)[0] for word in argv}
    return frozenset(a.dest for a in command._actions if words.intersection(a.option_strings))


def refuse(arguments: argparse.Namespace, reason: str, *names: str) -> None:
    """Raises if one of the options was given.

    Args:
        reason: why they do not fit, and the way out.

    Raises:
        ValueError: names those that were given.
    """
    written = [f"--{name.replace('_', '-')}" for name in names if name in arguments.given]
    if written:
        raise ValueError(f"{', '.join(written)}: {reason}")


def add_fail_on(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--fail-on", choices=_FAILURES, nargs="+", default=[], metavar="ANSWER",
        help="end with exit code 1 if an answer is among these: not-robust, unknown",
    )  # fmt: skip


def add_report(command: argparse.ArgumentParser, where: str = "in --out") -> None:
    command.add_argument(
        "--report", action="store_true",
        help=f"write a page for people, one HTML file that fetches nothing, {where}",
    )  # fmt: skip


def exit_code(arguments: argparse.Namespace, statuses: Iterable[Status]) -> int:
    """1 if a status is among those of ``--fail-on``, else 0."""
    failures = {_FAILURES[name] for name in arguments.fail_on}
    return FAILED if failures.intersection(statuses) else ANSWERED
