"""Keeps compiled programs on disk, so that a later process need not compile them again."""

from __future__ import annotations

import os
from pathlib import Path

import jax

LEAST_SECONDS = 0.1
"""A program that compiles faster than this is not worth a file."""


def keep_compiled(folder: str | Path | None = None) -> Path:
    """Turns JAX's persistent compilation cache on, for this process.

    Growing one neighbourhood compiles some thirty programs, which takes longer than all its
    questions; with this a second process starts with them. ``jmlv``'s command line and experiments
    call it; in a script of your own call it before anything is computed. Where JAX already has such
    a folder (``JAX_COMPILATION_CACHE_DIR``), that one stays.

    Args:
        folder: where the programs are kept; by default ``jmlv`` in the user's folder of caches
            (``XDG_CACHE_HOME``, else ``~/.cache``). It may be deleted at any time.

    Returns:
        The folder in use.

    >>> import jmlv
    >>> folder = jmlv.keep_compiled()  # doctest: +SKIP
    """
    chosen = jax.config.jax_compilation_cache_dir
    if chosen is None:
        chosen = Path(_caches() / "jmlv" if folder is None else folder).absolute()
        jax.config.update("jax_compilation_cache_dir", str(chosen))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", LEAST_SECONDS)
    return Path(chosen)


def _caches() -> Path:
    named = os.environ.get("XDG_CACHE_HOME")
    return Path(named) if named else Path.home() / ".cache"
