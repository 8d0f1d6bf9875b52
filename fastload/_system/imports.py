"""Fork workers only while no other thread is in the middle of an import.

Runs in: consumer and worker.

A forked process has a single thread. A module that another thread was importing stays locked and
unfinished in it for good, and a worker that needs the module would wait for ever for a thread that
does not exist. So a fork waits until the imports of other threads are done. An import may take as
long as the program runs: that of a program which trains at import time. What was not done in time
is therefore unlocked in the worker, which then sees the module as far as it was.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Iterator
from importlib import _bootstrap  # where the locks are
from typing import Any

LONGEST_WAIT_S = 10.0
"""How long workers wait to be forked for imports of other threads, once for each import."""

LONGEST_WAIT_IN_FORK_S = 1.0
"""The same for imports that begin later; signal handlers are deferred meanwhile."""

POLL_S = 0.001

_locks: dict[str, Any] = getattr(_bootstrap, "_module_locks", {})
_blocked: dict[int, Any] = getattr(_bootstrap, "_blocking_on", {})

_too_long: set[tuple[str, int]] = set()
"""Module and thread of imports that nobody waits for any more."""

_this_thread = threading.local()
"""Knows whether it is forking a worker."""


def wait_for_imports(longest_s: float | None = None) -> None:
    """Wait until no other thread is importing anything; by default LONGEST_WAIT_S at most."""
    deadline_s = time.monotonic() + (LONGEST_WAIT_S if longest_s is None else longest_s)
    while waiting_for := _imports_elsewhere() - _too_long:
        if time.monotonic() > deadline_s:
            _too_long.update(waiting_for)
            return
        time.sleep(POLL_S)


@contextlib.contextmanager
def forking_between_imports() -> Iterator[None]:
    """Let forks of this thread in the block wait for imports of other threads."""
    _this_thread.forks_worker = True
    try:
        yield
    finally:
        del _this_thread.forks_worker


def _imports_elsewhere() -> set[tuple[str, int]]:
    """Modules that other threads are importing, with the thread; not what waits for this one."""
    here = threading.get_ident()
    found = set()
    alive = set(sys._current_frames())  # the frames themselves would keep one another
    for name, reference in _locks.copy().items():
        owner = getattr(reference(), "owner", None)
        if owner in alive and owner != here and not _waits_for(owner, here):
            found.add((name, owner))
    return found


def _waits_for(thread: int, other: int) -> bool:
    blocked = _blocked.get(thread)
    locks = blocked if isinstance(blocked, list) else [blocked]  # a list from Python 3.12 on
    return any(getattr(lock, "owner", None) == other for lock in locks)


def _before_fork() -> None:
    if hasattr(_this_thread, "forks_worker"):
        wait_for_imports(LONGEST_WAIT_IN_FORK_S)


def _unlock_in_worker() -> None:
    """Forget the locks of threads that this process does not have."""
    if not hasattr(_this_thread, "forks_worker"):
        return
    here = threading.get_ident()
    for name, reference in _locks.copy().items():
        if getattr(reference(), "owner", None) not in {None, here}:
            del _locks[name]
    for thread in _blocked.keys() - {here}:
        del _blocked[thread]


os.register_at_fork(before=_before_fork, after_in_child=_unlock_in_worker)
