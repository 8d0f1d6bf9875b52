"""Try out each call of the kernel that fastload uses, and say what it does without.

A call may be missing because the kernel is old or because a sandbox (seccomp) refuses it.
"""

from __future__ import annotations

import mmap
import os
import platform
import signal
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass

from fastload._memory.arena import MADV_POPULATE_WRITE, anonymous_file
from fastload.tools.doctor.finding import Finding


@dataclass(frozen=True, slots=True)
class Call:
    """One ability of the kernel.

    Attributes:
        name: Of the call.
        since: The first version of Linux that has it.
        without: What fastload does where it is missing.
        attempt: Uses it; raises where it is missing.
    """

    name: str
    since: str
    without: str
    attempt: Callable[[], None]


def _memfd() -> None:
    os.close(os.memfd_create("fastload-doctor", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING))


def _setsig() -> None:
    import fcntl  # not every system has it

    read, write = os.pipe()
    try:
        fcntl.fcntl(read, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(read, fcntl.F_SETSIG, signal.SIGKILL)  # not armed: O_ASYNC is not set
    finally:
        os.close(read)
        os.close(write)


def _pidfd() -> None:
    os.close(os.pidfd_open(os.getpid()))


def _populate() -> None:
    descriptor = anonymous_file()
    try:
        os.ftruncate(descriptor, mmap.PAGESIZE)
        with closing(mmap.mmap(descriptor, mmap.PAGESIZE)) as mapping:
            mapping.madvise(MADV_POPULATE_WRITE)
    finally:
        os.close(descriptor)


CALLS = (
    Call("memfd", "3.17", "shared memory is an unlinked file in TMPDIR, on disk perhaps", _memfd),
    Call("F_SETSIG", "2.4", "a thread in each worker ends it when training has ended", _setsig),
    Call("pidfd", "5.3", "a worker's death is noticed only when its own children end too", _pidfd),
    Call(
        "MADV_POPULATE",
        "5.14",
        "first batches fault in page by page: 77 ms, not 24, for 38 MB",
        _populate,
    ),
)


def judge(calls: tuple[Call, ...] = CALLS) -> list[Finding]:
    """Try each call."""
    return [_try(call) for call in calls]


def _try(call: Call) -> Finding:
    try:
        call.attempt()
    except (OSError, ImportError, AttributeError, ValueError) as error:
        return Finding(
            call.name,
            "warn",
            f"refused ({error}) by {platform.system()} {platform.release()}; {call.without}",
            f"Linux {call.since} or newer; in a container, a seccomp profile that allows it",
        )
    return Finding(call.name, "ok", "works")
