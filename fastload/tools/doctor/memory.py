"""Examine memory: what a pool of workers may take, /dev/shm, limits on address space."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import psutil

from fastload._system.cgroups import memory_cgroups
from fastload._system.cores import local_ranks
from fastload._system.memory_limits import (
    LARGEST_BYTES,
    address_space_limit_bytes,
    default_limit_bytes,
)
from fastload.tools.doctor.finding import Finding, Verdict, gibibytes
from fastload.tools.doctor.limits import soft_limit

LITTLE_BYTES = 1 << 28
"""A pool with less hardly holds the batches in flight of an image training."""

USUAL_SHM_BYTES = 1 << 30
"""Below this, torch's own loader is known to fail on image batches; Docker gives 64 MiB."""

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - it is looked at, nothing is put there


@dataclass(frozen=True, slots=True)
class Memory:
    """The memory that batches can be loaded into, in bytes.

    Attributes:
        total: Memory of the machine.
        available: What it can still give.
        cgroup_room: What the tightest cgroup still allows; None: no limit.
        pool_limit: What one pool of workers takes at most (``memory_limit=None``).
        shm_total: Size of /dev/shm; None: there is none.
        shm_free: What is free of it.
        address_space: ``RLIMIT_AS``; None: no limit.
        address_space_for_pool: What of it a pool may map.
        ranks: Training processes on this machine that share it, by ``LOCAL_WORLD_SIZE``.
    """

    total: int
    available: int
    pool_limit: int
    cgroup_room: int | None = None
    shm_total: int | None = None
    shm_free: int = 0
    address_space: int | None = None
    address_space_for_pool: int = LARGEST_BYTES
    ranks: int = 1


def observe() -> Memory:
    """Look at the memory of this process and its machine."""
    machine = psutil.virtual_memory()
    shm = shutil.disk_usage(SHARED_MEMORY) if SHARED_MEMORY.is_dir() else None
    rooms = [room for group in memory_cgroups() if (room := group.room_bytes()) is not None]
    return Memory(
        total=machine.total,
        available=machine.available,
        pool_limit=default_limit_bytes(),
        cgroup_room=min(rooms, default=None),
        shm_total=None if shm is None else shm.total,
        shm_free=0 if shm is None else shm.free,
        address_space=soft_limit("RLIMIT_AS"),
        address_space_for_pool=address_space_limit_bytes(),
        ranks=local_ranks(),
    )


def judge(memory: Memory) -> list[Finding]:
    """Judge the limit of a pool, /dev/shm and the address space."""
    return [_judge_limit(memory), _judge_shm(memory), _judge_address_space(memory)]


def _judge_limit(memory: Memory) -> Finding:
    room = memory.cgroup_room
    found = (
        f"{gibibytes(memory.available)} of {gibibytes(memory.total)} free, "
        + ("no cgroup limit" if room is None else f"cgroup allows {gibibytes(room)} more")
        + f"; a pool of workers takes {gibibytes(memory.pool_limit)} at most"
    )
    if memory.ranks > 1:
        found += f" in each of the {memory.ranks} ranks on this machine (LOCAL_WORLD_SIZE)"
    if memory.pool_limit < LITTLE_BYTES:
        return Finding(
            "memory",
            "warn",
            found,
            "large batches will be sent through a pipe, which is slower: raise the limit "
            "(docker --memory, Kubernetes resources.limits.memory), end what else runs, or set "
            "memory_limit= if you know better",
        )
    return Finding("memory", "ok", found)


def _judge_shm(memory: Memory) -> Finding:
    if memory.shm_total is None:
        return Finding(
            str(SHARED_MEMORY),
            "warn",
            "there is none",
            "fastload needs none, but torch's own loader and multiprocessing's locks and queues "
            "do: mount -t tmpfs tmpfs /dev/shm",
        )
    found = f"{gibibytes(memory.shm_free)} of {gibibytes(memory.shm_total)} free"
    if memory.shm_free < USUAL_SHM_BYTES:
        return Finding(
            str(SHARED_MEMORY),
            "warn",
            found,
            "fastload does not use it, but torch's own loader fails when it is full: "
            "docker --shm-size=8g, in Kubernetes an emptyDir of medium Memory at /dev/shm",
        )
    return Finding(str(SHARED_MEMORY), "ok", found)


def _judge_address_space(memory: Memory) -> Finding:
    if memory.address_space is None:
        return Finding("address space", "ok", "unlimited")
    found = (
        f"{gibibytes(memory.address_space)}, of which a pool may map "
        f"{gibibytes(memory.address_space_for_pool)}"
    )
    verdict: Verdict = "bad" if memory.address_space_for_pool < LITTLE_BYTES else "warn"
    return Finding(
        "address space",
        verdict,
        found,
        "workers map shared memory sparsely and need address space, not memory: ulimit -v "
        "unlimited; limit memory with a cgroup instead",
    )
