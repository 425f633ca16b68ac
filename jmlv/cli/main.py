"""Parses the command line and hands over to one module per command.

Exit codes: 0 answered; 1 an answer that ``--fail-on`` names (``not-robust``, ``unknown``), where the
command has that option, an operation without a rule (``check``), or a question that failed
(``campaign``); 2 bad input, with one line on standard error; 130 interrupted.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from jmlv.cli import (
    attack,
    campaign,
    check,
    demo,
    flips,
    grow,
    labels,
    smooth,
    solve,
    train,
    verify,
)
from jmlv.cli.options import BAD_INPUT, EXIT_CODES, INTERRUPTED, given
from jmlv.compilation import keep_compiled

COMMANDS = {
    "demo": demo,
    "train": train,
    "check": check,
    "verify": verify,
    "solve": solve,
    "labels": labels,
    "flips": flips,
    "grow": grow,
    "smooth": smooth,
    "attack": attack,
    "campaign": campaign,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit code."""
    argv = sys.argv[1:] if argv is None else argv
    arguments = parser().parse_args(argv)
    arguments.given = given(arguments.parser, argv)
    keep_compiled()
    try:
        return arguments.run(arguments) or 0
    except (ValueError, TypeError, OSError, NotImplementedError, ImportError) as error:
        print(f"jmlv {arguments.command}: {error}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print(f"jmlv {arguments.command}: interrupted", file=sys.stderr)
        return INTERRUPTED


def parser() -> argparse.ArgumentParser:
    """The whole command line as a parser."""
    top = argparse.ArgumentParser(
        prog="jmlv",
        description="Differentiable verification of multi-label neural networks.",
        epilog=EXIT_CODES,
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, module in COMMANDS.items():
        summary = (module.__doc__ or "").strip().splitlines()[0]
        command = commands.add_parser(
            name,
            help=summary,
            description=summary,
            epilog=EXIT_CODES,
            allow_abbrev=False,
            formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        )
        module.add_arguments(command)
        command.set_defaults(run=module.run, parser=command)
    return top
