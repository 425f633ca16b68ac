"""The command line: ``jmlv demo | train | verify | solve | labels | grow | smooth | attack | campaign``."""

from jmlv.cli.main import main
