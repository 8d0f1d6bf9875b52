"""File descriptors on their way into a worker, and out of processes they do not belong to.

Under fork a worker inherits descriptors by number; under spawn and forkserver they travel with
the pickled start arguments. Every descriptor that belongs to the consumer alone is registered
here and closed in each child that Python forks: a pipe reports end-of-file only when the *last*
copy of its other end is closed.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable
from multiprocessing import reduction
from typing import Any

fork_lock = threading.RLock()
"""Held while pipes are opened and a worker is forked, so that no copy slips into another child."""

CLOSED = -1
"""What an owner puts in place of a number it has closed: the number soon is somebody else's."""

_consumer_ends: set[int] = set()


class Descriptor:
    """A descriptor that can be pickled while a process is being started, and only then."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __reduce__(self) -> tuple[Callable[..., Descriptor], tuple[Any, ...]]:
        return _receive, (reduction.DupFd(self.number),)


def _receive(duplicate: Any) -> Descriptor:
    return Descriptor(duplicate.detach())


def own(descriptor: int) -> int:
    """Register a descriptor as the consumer's alone."""
    _consumer_ends.add(descriptor)
    return descriptor


def close(descriptor: int) -> None:
    """Close a descriptor, registered or not; its owner then forgets the number."""
    _consumer_ends.discard(descriptor)
    if descriptor == CLOSED:
        return
    with contextlib.suppress(OSError):
        os.close(descriptor)


def _close_in_child() -> None:
    global fork_lock  # noqa: PLW0603  (another thread may have held it at the fork)
    fork_lock = threading.RLock()
    for descriptor in tuple(_consumer_ends):
        close(descriptor)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_in_child)
