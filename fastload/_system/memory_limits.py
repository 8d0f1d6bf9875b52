"""How much shared memory a pool of workers may take.

The arena counts towards the memory cgroup, and exceeding that kills the process instead of
failing a call; so the limit is known before anything is written.
"""

from __future__ import annotations

import sys

import psutil

from fastload._system.cgroups import memory_cgroups
from fastload._system.cores import local_ranks

SHARE = 4
"""The pools of all ranks on this machine take at most one part in this many of what is free."""

LARGEST_BYTES = 1 << 40


def default_limit_bytes(held_bytes: int = 0) -> int:
    """A quarter of what is free, by the machine's account and by every enclosing cgroup's.

    The ranks on one machine share that quarter. ``held_bytes`` of what is not free are the pool's
    own.
    """
    free_bytes = int(psutil.virtual_memory().available)
    for cgroup in memory_cgroups():
        if (room_bytes := cgroup.room_bytes()) is not None:
            free_bytes = min(free_bytes, room_bytes)
    return min((free_bytes + held_bytes) // (SHARE * local_ranks()), LARGEST_BYTES)


def address_space_limit_bytes() -> int:
    """A quarter of the address space that ``RLIMIT_AS`` still allows."""
    limit_bytes = psutil.Process().rlimit(psutil.RLIMIT_AS)[0] if sys.platform == "linux" else -1
    if limit_bytes < 0:
        return LARGEST_BYTES
    return max(0, limit_bytes - int(psutil.Process().memory_info().vms)) // SHARE
