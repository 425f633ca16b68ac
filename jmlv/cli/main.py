"""Parses the command line and hands over to one module per command."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from jmlv.cli import attack, campaign, check, demo, grow, labels, smooth, solve, train, verify
from jmlv.compilation import keep_compiled

COMMANDS = {
    "demo": demo,
    "train": train,
    "check": check,
    "verify": verify,
    "solve": solve,
    "labels": labels,
    "grow": grow,
    "smooth": smooth,
    "attack": attack,
    "campaign": campaign,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; errors of use end with one line on standard error and exit status 2."""
    arguments = parser().parse_args(argv)
    keep_compiled()
    try:
        return arguments.run(arguments) or 0
    except (ValueError, TypeError, OSError, NotImplementedError, ImportError) as error:
        print(f"jmlv {arguments.command}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"jmlv {arguments.command}: interrupted", file=sys.stderr)
        return 130


def parser() -> argparse.ArgumentParser:
    """The whole command line as a parser."""
    top = argparse.ArgumentParser(
        prog="jmlv", description="Differentiable verification of multi-label neural networks."
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, module in COMMANDS.items():
        summary = (module.__doc__ or "").strip().splitlines()[0]
        command = commands.add_parser(
            name,
            help=summary,
            description=summary,
            formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        )
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    return top
