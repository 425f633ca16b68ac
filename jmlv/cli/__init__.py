"""The command line: ``jmlv demo | train | verify | grow | smooth | attack``."""

from jmlv.cli.main import main
