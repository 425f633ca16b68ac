"""The errors that users meet. Each message names the argument, what it got and the way out."""

from __future__ import annotations


class UnsupportedOperation(NotImplementedError):
    """The network uses operations that `jmlv` has no sound rule for; the message lists them all."""


class DamagedFile(ValueError):
    """A file exists but its content is not what its format says."""
