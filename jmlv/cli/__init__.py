"""The command line: ``jmlv demo | train | verify | grow | smooth``."""

from jmlv.cli.main import main
