"""The errors that users meet. Each message names the argument, what it got and the way out."""

from __future__ import annotations


class UnsupportedOperation(NotImplementedError):
    """The network uses operations that `jmlv` has no sound rule for; the message lists them all."""


class SoundnessError(AssertionError):
    """Two things that cannot both be true: a proof and a witness, a graph and its function, bounds
    that cross. A defect, never a verdict."""


class NeedsFloat64(ValueError):
    """A network of float64 is read while JAX rounds to float32: do it in ``jax.enable_x64(True)``."""


class DamagedFile(ValueError):
    """A file exists but its content is not what its format says."""
