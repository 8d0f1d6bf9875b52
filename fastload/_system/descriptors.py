"""File descriptors on their way into a worker, and out of processes they do not belong to.

Under fork a worker inherits descriptors by number; under spawn and forkserver they travel with
the pickled start arguments. Every descriptor that belongs to the consumer alone is registered
here and closed in each child that Python forks: a pipe reports end-of-file only when the *last*
copy of its other end is closed.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import threading
from collections.abc import Callable, Iterator
from multiprocessing import reduction
from typing import Any

from fastload._system.interruptions import own_suppressed

fork_lock = threading.RLock()
"""Held while pipes are opened and a worker is forked, so that no copy slips into another child."""

CLOSED = -1
"""What an owner puts in place of a number it has closed: the number soon is somebody else's."""

FIRST_FREE = 3
"""Lower numbers are standard input, output and error, also where the program has closed them."""

_consumer_ends: set[int] = set()


class Descriptor:
    """A descriptor that can be pickled while a process is being started, and only then."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __reduce__(self) -> tuple[Callable[..., Descriptor], tuple[Any, ...]]:
        return _receive, (reduction.DupFd(self.number),)


def _receive(duplicate: Any) -> Descriptor:
    number: int = duplicate.detach()
    if number < FIRST_FREE:  # the server that forked this process has closed its own
        import fcntl

        low, number = number, fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, FIRST_FREE)
        os.close(low)
    _occupy_standard_numbers()  # for the whole life of this worker
    return Descriptor(number)


@contextlib.contextmanager
def standard_numbers_occupied() -> Iterator[None]:
    """Give no descriptor that is opened in the block a number below 3.

    A program that has closed its standard output, a daemon for one, still has code that writes to
    number 1. If that were a pipe of ours, such a write would break the messages in it.
    """
    occupied = _occupy_standard_numbers()
    try:
        yield
    finally:
        for number in occupied:
            os.close(number)


def _occupy_standard_numbers() -> list[int]:
    occupied = []
    while (number := os.open(os.devnull, os.O_RDWR)) < FIRST_FREE:
        occupied.append(number)
        os.set_inheritable(number, True)  # a spawned process would have pipes there otherwise
    os.close(number)
    return occupied


def reopened(descriptor: int, flags: int) -> int | None:
    """Open what is behind a descriptor once more; None where the system can't.

    A duplicate would share its offset, its flags and the owner of its signals with the first.

    Raises:
        OSError: No more files may be open.
    """
    if sys.platform != "linux":  # elsewhere this gives a duplicate
        return None
    try:
        return os.open(f"/proc/self/fd/{descriptor}", flags | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in {errno.EMFILE, errno.ENFILE}:
            raise
        return None


def own(descriptor: int) -> int:
    """Register a descriptor as the consumer's alone."""
    _consumer_ends.add(descriptor)
    return descriptor


def close(descriptor: int) -> None:
    """Close a descriptor, registered or not; its owner then forgets the number."""
    _consumer_ends.discard(descriptor)
    if descriptor == CLOSED:
        return
    with own_suppressed(OSError):
        os.close(descriptor)


def _close_in_child() -> None:
    global fork_lock  # noqa: PLW0603  (another thread may have held it at the fork)
    fork_lock = threading.RLock()
    for descriptor in tuple(_consumer_ends):
        close(descriptor)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_in_child)
