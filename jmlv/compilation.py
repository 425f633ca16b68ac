"""How programs are compiled: with less effort where they run once, and kept on disk for later."""

from __future__ import annotations

import functools
import gc
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

LEAST_SECONDS = 0.0
"""Programs that compile faster than this get no file. One question needs dozens of tiny programs,
each of which takes longer to compile than to read."""


def keep_compiled(folder: str | Path | None = None) -> Path | None:
    """Turns JAX's persistent compilation cache on, for this process.

    A first question compiles dozens of programs, which takes longer than its answer; with this a
    second process starts with them. ``jmlv``'s command line and experiments call it; in a script of
    your own call it before anything is computed. Several processes may share the folder: a file that
    another is still writing is compiled anew, with a warning. Programs are kept by all that they
    depend on, JAX's version and the machine's among it. What is in memory now Python's collector
    passes over from now on (``gc.freeze``): while programs are traced it would walk through all of it,
    for a tenth of the time.

    Environment variables: ``JAX_ENABLE_COMPILATION_CACHE=false`` turns it off. Where JAX already has
    such a folder (``JAX_COMPILATION_CACHE_DIR``), that one stays.

    Args:
        folder: where the programs are kept; by default ``jmlv`` in the user's folder of caches
            (``XDG_CACHE_HOME``, else ``~/.cache``). It may be deleted at any time.

    Returns:
        The folder in use; None where there is none, because it is turned off or cannot be made.

    >>> import jmlv
    >>> folder = jmlv.keep_compiled()  # doctest: +SKIP
    """
    if not jax.config.jax_enable_compilation_cache:
        return None
    if jax.config.jax_compilation_cache_dir is not None:
        return Path(jax.config.jax_compilation_cache_dir)
    chosen = Path(_caches() / "jmlv" if folder is None else folder).absolute()
    try:
        chosen.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None  # no home, or no room in it: everything works without
    jax.config.update("jax_compilation_cache_dir", str(chosen))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", LEAST_SECONDS)
    gc.freeze()
    return chosen


def _caches() -> Path:
    named = os.environ.get("XDG_CACHE_HOME")
    return Path(named) if named else Path.home() / ".cache"


_MAPPINGS = Path("/proc/self/maps")

MOST_MAPPINGS = 25_000
"""Linux lets a process have 65,530 mappings of memory, every program takes several, and XLA crashes
beyond."""


def release_programs(most: int = MOST_MAPPINGS) -> bool:
    """Lets go of all compiled programs if this process has more mappings of memory than that.

    For long runs over networks or properties of many shapes: :mod:`jmlv.campaigns` calls it before
    every question. What is needed again is compiled again, or read from the persistent cache.

    Returns:
        Whether it did. Where the system does not say how many mappings there are, it does nothing.
    """
    if not _MAPPINGS.exists() or _MAPPINGS.read_bytes().count(b"\n") <= most:
        return False
    jax.clear_caches()
    return True


QUICK = {"xla_cpu_use_fusion_emitters": False, "xla_backend_optimization_level": 1}
"""XLA's options for programs that run once or twice for each question. On CPUs CROWN's compile in half
of the time with them and run a sixth longer; at level 0 alpha-CROWN's would run ten times longer.
The first alone saves a fifth of alpha-CROWN's compilation and costs a tenth of its speed."""


def one_off(*static: int, loops: bool = False) -> Callable[[Callable], Callable]:
    """As ``jax.jit``, for a function whose compilation takes longer than all that it computes.

    On a CPU the program is compiled with :data:`QUICK`, as far as this version of XLA knows these
    options, unless an outer program is being traced, of which it is then a part.

    Args:
        static: the numbers of the arguments that are static.
        loops: whether it computes the same many times over; then only the first option is taken.

    >>> import jax.numpy as jnp
    >>> double = one_off()(lambda x: 2 * x)
    >>> print(double(3.0), jax.grad(double)(3.0))
    6.0 2.0
    """

    def compiled(function: Callable) -> Callable:
        inner = jax.jit(function, static_argnums=static)

        @functools.cache
        def outer() -> Callable:
            return jax.jit(function, static_argnums=static, compiler_options=_known_options(loops))

        @functools.wraps(function)
        def call(*arguments: Any) -> Any:
            return (inner if _is_traced(arguments) else outer())(*arguments)

        def clear_cache() -> None:
            """Forgets what is compiled, as for ``jax.jit``."""
            inner.clear_cache()
            outer().clear_cache()

        call.clear_cache = clear_cache
        return call

    return compiled


def _is_traced(arguments: Any) -> bool:
    """Whether this is inside of an outer program, or of a derivative or a ``vmap``."""
    leaves = (*jax.tree.leaves(arguments), jax.device_put(0))  # the last one by ``jit`` alone
    return any(isinstance(leaf, jax.core.Tracer) for leaf in leaves)


def _known_options(loops: bool) -> dict[str, Any]:
    """Those of :data:`QUICK` that XLA accepts here; they are for CPUs."""
    if jax.default_backend() != "cpu":
        return {}
    wanted = list(QUICK.items())[: 1 if loops else None]
    return {name: value for name, value in wanted if _is_known(name, value)}


@functools.cache
def _is_known(name: str, value: Any) -> bool:
    try:
        jax.jit(lambda: None, compiler_options={name: value})()
    except jax.errors.JaxRuntimeError:
        return False
    return True
