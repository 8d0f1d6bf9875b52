"""What happens in a worker, as small functions that workers can also unpickle."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Callable
from typing import Any

AT = 21
"""The sample at which things go wrong: in the sixth batch of four."""


class At:
    """Does something when one sample is asked for."""

    def __init__(self, what: Callable[[], Any], index: int = AT) -> None:
        self.what, self.index = what, index

    def __call__(self, index: int) -> None:
        if index == self.index:
            self.what()


class Send:
    """This process sends itself a signal."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __call__(self) -> None:
        os.kill(os.getpid(), self.number)


class Raise:
    """Raises an exception, made by a function."""

    def __init__(self, make: Callable[[], BaseException]) -> None:
        self.make = make

    def __call__(self) -> None:
        raise self.make()


def killed() -> None:
    """The kernel ends this process at once."""
    os.kill(os.getpid(), signal.SIGKILL)


def sleep() -> None:
    """Waits in a system call."""
    time.sleep(100)


def spin() -> None:
    """Runs Python for ever."""
    while True:
        pass


def hold_the_gil() -> None:
    """Waits in C; no other thread of this process runs Python."""
    ctypes.PyDLL(None).sleep(100)


def ignore_sigterm_and_sleep() -> None:
    """Can't be terminated, only killed."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sleep()


def stop() -> None:
    """Is stopped, as by a debugger."""
    os.kill(os.getpid(), signal.SIGSTOP)


def crash() -> None:
    """Reads address 0."""
    ctypes.string_at(0)


class Holds:
    """A dataset with an attribute, which a worker may not be able to unpickle."""

    def __init__(self, what: Any) -> None:
        self.what = what

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> int:
        return index
