"""The command line: ``jmlv demo | train | verify | labels | grow | smooth | attack``."""

from jmlv.cli.main import main
