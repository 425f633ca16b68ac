"""Work in a thread of its own, which its caller can leave behind when the time is up.

JAX traces, and XLA compiles, without a look at any clock, and a Python thread in the midst of it
hears of no interrupt. So whatever may compile runs aside: the caller waits until the deadline, then
goes on with what is known. The thread left behind finds its own deadline passed the next time that
it looks, and ends; a program that it was compiling is there for later calls.
"""

from __future__ import annotations

import atexit
import concurrent.futures
import contextlib
import ctypes
import sys
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from functools import partial
from typing import Generic, TypeVar

import jax

from jmlv.oracles.deadline import Deadline, TimeUp

T = TypeVar("T")

Work = Callable[[Deadline], T]
"""Gets the deadline that it is to look at."""

Watch = Callable[[str], None]
"""Told what the work does whenever that changes: "compiling", or "" for anything else."""

GRACE = 0.6
"""Seconds after a deadline in which work that looks at it may still hand over what it has."""

POLL = 0.1
"""Seconds between two looks at what a thread does, and at whether its time is up."""

COMPILING = "compiling"
_MAKING = {f"jax._src.{name}" for name in ("pjit", "compiler", "interpreters.mlir")}
_RUNNING = "jax._src.interpreters.pxla", "__call__"
"""Where the stack of a thread is while JAX makes a program, and while it runs one for the first time."""


def run_until(deadline: Deadline, work: Work[T], watch: Watch | None = None) -> T:
    """What some work returns, or raises, if it ends in time; else it is left behind.

    Args:
        deadline: when to stop waiting, `GRACE` seconds later at most.
        work: a function of a deadline, which passes with this one, and at once when the caller is
            interrupted.
        watch: told when the work begins to compile, and when it no longer does.

    Raises:
        TimeUp: the deadline came first; the message says whether it was still compiling.

    >>> run_until(Deadline(10), lambda deadline: 6 * 7)
    42
    >>> run_until(Deadline(0.01), lambda deadline: time.sleep(2))
    Traceback (most recent call last):
    ...
    jmlv.oracles.deadline.TimeUp: still running when the time was up
    """
    own = deadline.within(None)
    try:
        aside = Aside(work, own)
        while not aside.wait(POLL, watch):
            if aside.deadline.overdue > GRACE:
                raise TimeUp(aside.standing)
        return aside.result()
    finally:
        own.expire()  # also where an interrupt came before the thread had a name here


class Aside(Generic[T]):
    """Some work in a thread of its own, begun at once.

    The thread has its caller's device and precision. It is a daemon: it ends with the process.

    Args:
        work: a function of a deadline.
        deadline: passes on to the work.
    """

    def __init__(self, work: Work[T], deadline: Deadline) -> None:
        self.deadline = deadline.within(None)
        self._future: concurrent.futures.Future = concurrent.futures.Future()
        self._doing = ""
        arguments = work, self.deadline, self._future, _surroundings()
        self._thread = threading.Thread(target=_run, args=arguments, name="jmlv aside", daemon=True)
        _end_quietly_with(self._thread)
        self._thread.start()

    @property
    def done(self) -> bool:
        return self._future.done()

    @property
    def compiling(self) -> bool:
        """Whether its thread traces, lowers or compiles a program just now."""
        frame = sys._current_frames().get(self._thread.ident)
        while frame is not None:
            module = frame.f_globals.get("__name__")
            if module in _MAKING or (module, frame.f_code.co_name) == _RUNNING:
                return module in _MAKING
            frame = frame.f_back
        return False

    @property
    def standing(self) -> str:
        """What it does, for a reason."""
        return f"still {COMPILING if self.compiling else 'running'} when the time was up"

    def wait(self, seconds: float, watch: Watch | None = None) -> bool:
        """Waits that long at most; whether it is done."""
        wait_for_any([self], seconds)
        if watch is not None:
            doing = COMPILING if not self.done and self.compiling else ""
            if doing != self._doing:
                self._doing = doing
                watch(doing)
        return self.done

    def result(self) -> T:
        """What the work returned, or raises what it raised, once it is done."""
        return self._future.result(timeout=0)

    def leave(self) -> None:
        """Tells the work that its time is up, and waits for it no longer."""
        self.deadline.expire()


def wait_for_any(asides: Sequence[Aside], seconds: float) -> None:
    """Waits until one of them is done, but so many seconds at most; an interrupt is raised on."""
    first = concurrent.futures.FIRST_COMPLETED
    concurrent.futures.wait([aside._future for aside in asides], seconds, first)


def _run(work: Work, deadline: Deadline, future, settings: Sequence[_Context]) -> None:
    try:
        with contextlib.ExitStack() as stack:
            for context in settings:
                stack.enter_context(context())
            result = work(deadline)
    except BaseException as error:  # the caller hears of it, if it still listens
        future.set_exception(error)
    else:
        future.set_result(result)


_Context = Callable[[], contextlib.AbstractContextManager]


def _surroundings() -> list[_Context]:
    """The caller's settings of JAX, which are kept by thread, to be entered in another one."""
    kept = jax.config
    return [
        partial(jax.default_device, kept.jax_default_device),
        partial(jax.default_matmul_precision, kept.jax_default_matmul_precision),
        partial(jax.disable_jit, kept.jax_disable_jit),
        partial(jax.debug_nans, kept.jax_debug_nans),
        partial(jax.enable_x64, kept.jax_enable_x64),
    ]


# ---------------------------------------------------------------------------------------------
# The end of the process
# ---------------------------------------------------------------------------------------------

PATIENCE = 1.0
"""Seconds that the end of the process waits for threads that were left behind."""

_threads: weakref.WeakSet[threading.Thread] = weakref.WeakSet()


def _end_quietly_with(thread: threading.Thread) -> None:
    if not _threads:
        atexit.unregister(_end_quietly)
        atexit.register(_end_quietly)  # before what JAX has registered
    _threads.add(thread)


def _end_quietly() -> None:
    """Waits a moment for threads that are left, then lets the process end under them.

    A thread that comes back from C++ while the interpreter ends is unwound through C++ frames
    before Python 3.14, which aborts the process (python/cpython#87135); since then it hangs. It
    hangs here too, where ``std::terminate`` would be called. And when the interpreter has ended,
    with all that is registered for that, the process does so at once, with the same status:
    destructors of what a thread still compiles with would crash it.
    """
    until = time.monotonic() + PATIENCE
    for thread in list(_threads):
        thread.join(max(0.0, until - time.monotonic()))
    if not any(thread.is_alive() for thread in _threads):
        return
    with contextlib.suppress(OSError, AttributeError):  # another C library: another way to end
        c = ctypes.CDLL(None)
        c.on_exit(ctypes.cast(c._exit, ctypes.c_void_p), None)  # called with the exit status
        pause = ctypes.cast(c.pause, ctypes.c_void_p)
        ctypes.CDLL("libstdc++.so.6")._ZSt13set_terminatePFvvE(pause)
