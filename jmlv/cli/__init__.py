"""The command line: ``jmlv demo | train | verify | grow``."""

from jmlv.cli.main import main
