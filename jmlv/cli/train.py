"""Train a small multi-label network on double digits and write its checkpoint."""

from __future__ import annotations

import argparse


def add_arguments(command: argparse.ArgumentParser) -> None:
    pass


def run(arguments: argparse.Namespace) -> None:
    pass
