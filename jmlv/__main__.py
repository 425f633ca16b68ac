"""``python -m jmlv``: the command line."""

from jmlv.cli import main

if __name__ == "__main__":
    main()
